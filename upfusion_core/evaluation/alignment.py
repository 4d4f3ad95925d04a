"""The three ways in which pictures are compared with their truth: as they are, per view, and per object.

raw: as predicted. This is what a user sees, but the object's frame is not determined by unposed photos.
affine: every view brought to its truth by its own 2D affine transform. It cannot show whether cameras were respected.
similarity: one transform for all views of an object, the fairest. A predictor that renders from any camera gets one 3D
similarity of the object's frame (`spatial.align_object`). Fixed pictures cannot be turned in 3D: they get one
shared 2D similarity (scale, rotation in the picture, shift), which allows less, and never flatters.

All transforms are bounded, minimise the mean squared difference over whole pictures, and fall back to the identity
where they do not lower it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import check_shape
from ..errors import InputError
from ..models.perceptual import PerceptualDistance
from ..types import Cameras
from .metrics import check_pictures, measure_views
from .planar import register, warp
from .spatial import Render, Similarity, SimilaritySearch, aligned_renders


@dataclass(frozen=True, eq=False)
class AlignedViews:
    """Pictures after one way of alignment. rgb: (N, 3, H, W) in [0, 1]; mask: (N, 1, H, W) in [0, 1], or unknown."""

    rgb: Tensor
    mask: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Alignments:
    """The same prediction three times, ready to be measured.

    object_similarity: what `similarity` did to the object in 3D; None where pictures were aligned in 2D.
    """

    raw: AlignedViews
    affine: AlignedViews
    similarity: AlignedViews
    object_similarity: Similarity | None = None

    def __iter__(self) -> Iterator[tuple[str, AlignedViews]]:
        """Pairs of name and pictures: raw, affine, similarity."""
        return iter((("raw", self.raw), ("affine", self.affine), ("similarity", self.similarity)))


def align_views(
    prediction: Tensor,
    truth: Tensor,
    *,
    mask: Tensor | None = None,
    render: Render | None = None,
    cameras: Cameras | None = None,
    search: SimilaritySearch | None = None,
    background: float = 1.0,
) -> Alignments:
    """All views of one object, aligned in the three ways.

    Args:
        prediction, truth: (N, 3, H, W) in [0, 1], sides at least 16.
        mask: (N, 1, H, W) silhouettes of the prediction where it knows them; they are moved with it. `render` should
            then give the opacity too, so that all three are measured alike.
        render, cameras: the predictor as a function, which gave `prediction`, and the N true cameras; both or neither.
            Pictures must be square.
        search: how the 3D similarity is searched for.
        background: what lies beyond the border of a picture that is moved.
    """
    check_pictures(prediction, truth)
    if mask is not None:
        check_shape("mask", mask, (len(truth), 1, *truth.shape[-2:]), "one silhouette a view, of the pictures' size")
    if (render is None) != (cameras is None):
        raise InputError("render and cameras go together, got one of them; give both, or neither for fixed pictures")
    raw = AlignedViews(prediction, mask)
    affine = _moved(raw, register(prediction, truth, "affine", background=background), background)
    if render is None or cameras is None:
        transforms = register(prediction, truth, "similarity", shared=True, background=background)
        return Alignments(raw, affine, _moved(raw, transforms, background))
    seen = prediction if mask is None else torch.cat([prediction, mask.to(prediction)], dim=1)
    similarity, seen = aligned_renders(render, cameras, truth, seen=seen, search=search)
    seen = seen.to(truth).clamp(0, 1)
    turned = AlignedViews(seen[:, :3], seen[:, 3:] if seen.shape[1] == 4 else None)
    return Alignments(raw, affine, turned, similarity)


def measure_alignments(
    alignments: Alignments, truth: Tensor, mask: Tensor, *, lpips: PerceptualDistance | None = None
) -> dict[str, Tensor]:
    """All measures of all three alignments, each (N,): "psnr", …, "psnr_affine", …, "psnr_similarity", ….

    Args:
        truth: (N, 3, H, W) in [0, 1].
        mask: (N, 1, H, W), the true silhouettes.
    """
    measures: dict[str, Tensor] = {}
    for way, views in alignments:
        suffix = "" if way == "raw" else f"_{way}"
        found = measure_views(views.rgb, truth, mask, prediction_mask=views.mask, lpips=lpips)
        measures |= {f"{name}{suffix}": values for name, values in found.items()}
    return measures


def _moved(views: AlignedViews, transforms: Tensor, background: float) -> AlignedViews:
    mask = None if views.mask is None else warp(views.mask, transforms, background=0.0)
    return AlignedViews(warp(views.rgb, transforms, background=background), mask)
