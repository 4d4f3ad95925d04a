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
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.perceptual import PerceptualDistance
from ..support.checks import check_choice, check_shape
from ..support.errors import InputError
from ..support.images import saturate
from ..types import Cameras
from .metrics import check_pictures, measure_views
from .spatial import Render, Similarity, SimilaritySearch, align_object

LARGEST_STRETCH = 1.5
"""Transforms stretch by 1/1.5 to 1.5 in every direction: without a bound, a bad prediction is best shrunk to nothing,
because white is not far from most pictures."""

LARGEST_SHIFT = 0.5
"""Transforms move the picture's centre by at most a quarter of the picture, along x and y."""

COARSEST_SIDE = 16
COARSE_STEPS = 20
FINEST_STEPS = 8

# a transform is the identity plus a sum of these (2, 3) matrices
_BASES = {
    "affine": torch.eye(6).reshape(6, 2, 3),
    "similarity": torch.tensor(
        [
            [[1.0, 0, 0], [0, 1, 0]],
            [[0.0, -1, 0], [1, 0, 0]],
            [[0.0, 0, 1], [0, 0, 0]],
            [[0.0, 0, 0], [0, 0, 1]],
        ]
    ),
}


@torch.no_grad()
def register(
    prediction: Tensor,
    truth: Tensor,
    kind: Literal["affine", "similarity"],
    *,
    shared: bool = False,
    background: float = 1.0,
) -> Tensor:
    """(N, 2, 3) transforms that bring the predictions closest to their truths in the mean squared difference.

    Starts from the identity and from the silhouettes' centres and sizes; the better end counts, and the identity itself
    where neither beats it. Rotations up to some 20 degrees are found. Deterministic.

    Args:
        prediction, truth: (N, 3, H, W) in [0, 1], sides at least 16.
        kind: "affine" (six numbers) or "similarity" (scale, rotation, shift).
        shared: one transform for all views, repeated N times, instead of one a view.
        background: what lies beyond the border.
    """
    check_choice("kind", kind, tuple(_BASES))
    check_pictures(prediction, truth)
    prediction, truth = (background - picture.float() for picture in (prediction, truth))  # beyond the border 0
    basis = _BASES[kind].to(truth.device)
    identity = truth.new_zeros(1 if shared else len(truth), len(basis))
    best, error = identity, _error(prediction, truth, identity, basis)
    levels = [(prediction, truth)]
    while min(levels[0][0].shape[-2:]) >= 2 * COARSEST_SIDE:
        size = [side // 2 for side in levels[0][0].shape[-2:]]
        ours, theirs = (F.interpolate(picture, size=size, mode="area") for picture in levels[0])
        levels.insert(0, (ours, theirs))
    for start in (identity, _from_silhouettes(prediction, truth, basis, shared)):
        found = start
        for index, (ours, theirs) in enumerate(levels):
            steps = FINEST_STEPS if index == len(levels) - 1 and index else COARSE_STEPS
            found = _descend(ours, theirs, found, basis, steps)
        found_error = _error(prediction, truth, found, basis)
        better = found_error < error * (1 - 1e-6)
        best = torch.where(better[:, None], found, best)
        error = torch.where(better, found_error, error)
    return _matrices(best, basis).expand(len(truth), 2, 3).contiguous()


def warp(pictures: Tensor, transforms: Tensor, *, background: float = 1.0) -> Tensor:
    """(N, C, H, W) pictures in [0, 1] as (N, 2, 3) `transforms` bring them: bicubic, `background` beyond the border.

    Where a transform is the identity the picture comes back unchanged to 1e-6.
    """
    check_shape("pictures", pictures, ("N", "C", "H", "W"))
    check_shape("transforms", transforms, (len(pictures), 2, 3), "one matrix a picture")
    return saturate(background - _sample(background - pictures, transforms))


def _descend(prediction: Tensor, truth: Tensor, start: Tensor, basis: Tensor, steps: int) -> Tensor:
    """(G, P) parameters after some Levenberg-Marquardt steps on one level; G is N, or 1 where one is shared."""
    found, error = start, _error(prediction, truth, start, basis)
    damping = torch.full_like(error, 1e-2)
    # central differences along x and y, per unit of the coordinates; beyond the border 0
    unit, padded = max(prediction.shape[-2:]) / 2, F.pad(prediction, (1, 1, 1, 1))
    slopes = (
        (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2 * unit,
        (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2 * unit,
    )
    identity = torch.eye(len(basis), device=basis.device)
    for _ in range(steps):
        hessian, gradient = _normal_equations(prediction, slopes, truth, found, basis)
        diagonal = hessian.diagonal(dim1=1, dim2=2)
        ridge = damping[:, None] * diagonal + 1e-6 * diagonal.amax(1, keepdim=True) + 1e-12
        step = torch.linalg.solve(hessian + ridge[..., None] * identity, gradient)
        tried = found - step
        tried_error = _error(prediction, truth, tried, basis)
        transforms = _matrices(tried, basis)
        linear, shift = transforms[:, :, :2], transforms[:, :, 2]
        stretch = torch.linalg.svdvals(linear)
        fits = (stretch <= LARGEST_STRETCH).all(1) & (stretch >= 1 / LARGEST_STRETCH).all(1)
        fits &= (torch.linalg.det(linear) > 0) & (shift.abs() <= LARGEST_SHIFT).all(1)  # no mirroring
        better = (tried_error < error) & fits
        found = torch.where(better[:, None], tried, found)
        error = torch.where(better, tried_error, error)
        damping = torch.where(better, damping / 4, damping * 8).clamp(1e-6, 1e6)
    return found


def _normal_equations(
    prediction: Tensor, slopes: tuple[Tensor, Tensor], truth: Tensor, parameters: Tensor, basis: Tensor
) -> tuple[Tensor, Tensor]:
    """J^T J (G, P, P) and J^T r (G, P) of the residual r = warped prediction - truth."""
    count, _, height, width = truth.shape
    transforms = _matrices(parameters, basis).expand(count, 2, 3)
    residual = _sample(prediction, transforms) - truth
    slope = torch.stack([_sample(part, transforms, "bilinear") for part in slopes], dim=1)  # (N, 2, C, H, W)
    place = _places(height, width, truth.device).reshape(-1, 3)  # (HW, 3): x, y, 1
    products = torch.einsum("nichw,njchw->nijhw", slope, slope).flatten(3)
    squares = place[:, :, None] * place[:, None, :]
    hessian = torch.einsum("nijp,pkl->nikjl", products, squares).reshape(count, 6, 6)
    pulls = torch.einsum("nichw,nchw->nihw", slope, residual).flatten(2)
    gradient = torch.einsum("nip,pk->nik", pulls, place).reshape(count, 6)
    turn = basis.reshape(-1, 6)
    hessian, gradient = turn @ hessian @ turn.T, gradient @ turn.T
    if len(parameters) == 1:  # shared: all views pull at the same numbers
        hessian, gradient = hessian.sum(0, keepdim=True), gradient.sum(0, keepdim=True)
    return hessian, gradient


def _error(prediction: Tensor, truth: Tensor, parameters: Tensor, basis: Tensor) -> Tensor:
    """(G,) mean squared difference after the transform; over all views where one is shared."""
    transforms = _matrices(parameters, basis).expand(len(truth), 2, 3)
    error = (_sample(prediction, transforms) - truth).square().mean((1, 2, 3))
    return error.mean(0, keepdim=True) if len(parameters) == 1 else error


def _from_silhouettes(prediction: Tensor, truth: Tensor, basis: Tensor, shared: bool) -> Tensor:
    """(G, P) parameters that bring centre and size of what is not background together, within the bounds."""
    ours, theirs = _moments(prediction), _moments(truth)
    scale = (ours[1] / theirs[1]).log().clamp(-0.35, 0.35)  # e^0.35 = 1.42
    offset = ours[0], theirs[0]
    if shared:
        scale = scale.mean(0, keepdim=True)
        offset = offset[0].mean(0, keepdim=True), offset[1].mean(0, keepdim=True)
    scale = scale.exp()
    shift = (offset[0] - scale[:, None] * offset[1]).clamp(-0.9 * LARGEST_SHIFT, 0.9 * LARGEST_SHIFT)
    wanted = torch.zeros(len(scale), 2, 3, device=truth.device)
    wanted[:, 0, 0] = wanted[:, 1, 1] = scale - 1
    wanted[:, :, 2] = shift
    flat = basis.reshape(-1, 6)
    parameters: Tensor = wanted.reshape(-1, 6) @ torch.linalg.pinv(flat)
    return parameters


def _moments(picture: Tensor) -> tuple[Tensor, Tensor]:
    """Centre (N, 2) and root mean square radius (N,) of the distance from the background; 0 and 1 for nothing."""
    weight = picture.abs().sum(1).flatten(1)
    mass = weight.sum(1, keepdim=True)
    share = torch.where(mass > 1e-3, weight / mass.clamp(min=1e-3), 0.0)
    height, width = picture.shape[-2:]
    place = _places(height, width, picture.device).reshape(-1, 3)[:, :2]
    center = share @ place
    radius = torch.einsum("np,npi->n", share, (place - center[:, None]).square()).sqrt()
    return center, torch.where(radius > 1e-3, radius, 1.0)


def _matrices(parameters: Tensor, basis: Tensor) -> Tensor:
    """(G, P) -> (G, 2, 3)."""
    return torch.eye(2, 3, device=basis.device) + torch.einsum("gp,pij->gij", parameters, basis)


def _sample(pictures: Tensor, transforms: Tensor, mode: str = "bicubic") -> Tensor:
    """(N, C, H, W) looked up where (N, 2, 3) transforms send each pixel centre; 0 beyond the border."""
    height, width = pictures.shape[-2:]
    place = _places(height, width, pictures.device)
    longest = max(height, width)
    ends = torch.tensor([longest / width, longest / height], device=pictures.device)  # grid_sample's own units
    grid = torch.einsum("nij,hwj->nhwi", transforms, place) * ends
    return F.grid_sample(pictures, grid, mode=mode, padding_mode="zeros", align_corners=False)


def _places(height: int, width: int, device: torch.device) -> Tensor:
    """(H, W, 3) x, y, 1 of pixel centres."""
    longest = max(height, width)
    x = (2 * torch.arange(width, device=device) + 1 - width) / longest
    y = (2 * torch.arange(height, device=device) + 1 - height) / longest
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([grid_x, grid_y, torch.ones_like(grid_x)], dim=-1)


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

    def measures(self, truth: Tensor, mask: Tensor, *, lpips: PerceptualDistance | None = None) -> dict[str, Tensor]:
        """All measures of all three, each (N,): "psnr", …, "psnr_affine", …, "psnr_similarity", ….

        Args:
            truth: (N, 3, H, W) in [0, 1]. mask: (N, 1, H, W), the true silhouettes.
        """
        measures: dict[str, Tensor] = {}
        for way, views in self:
            suffix = "" if way == "raw" else f"_{way}"
            found = measure_views(views.rgb, truth, mask, prediction_mask=views.mask, lpips=lpips)
            measures |= {f"{name}{suffix}": values for name, values in found.items()}
        return measures


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
    similarity, seen = align_object(render, cameras, truth, seen=seen, search=search)
    seen = seen.to(truth).clamp(0, 1)
    turned = AlignedViews(seen[:, :3], seen[:, 3:] if seen.shape[1] == 4 else None)
    return Alignments(raw, affine, turned, similarity)


def _moved(views: AlignedViews, transforms: Tensor, background: float) -> AlignedViews:
    mask = None if views.mask is None else warp(views.mask, transforms, background=0.0)
    return AlignedViews(warp(views.rgb, transforms, background=background), mask)
