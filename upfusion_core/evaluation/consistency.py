"""Do neighbouring novel views show the same object? Colours carried from view to view through a field's depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from ..checks import check_range, check_shape
from ..errors import InputError
from ..geometry import camera_rays, project
from ..types import Cameras, RenderedViews


@dataclass(frozen=True, eq=False)
class Consistency:
    """How well pairs of views agree.

    pairs: the views' numbers.
    difference: (P,) mean absolute difference of colours in [0, 1] over pixels that both views see; 0 agrees. NaN for
    pairs that see nothing in common.
    pixels: (P,) how many pixels that were, both ways together.
    """

    pairs: tuple[tuple[int, int], ...]
    difference: Tensor
    pixels: Tensor

    @property
    def mean(self) -> float:
        """Mean difference over all mutually visible pixels of all pairs; NaN if there are none."""
        return float((self.difference.nan_to_num(0.0) * self.pixels).sum() / self.pixels.sum())


def reprojection_consistency(
    rgb: Tensor,
    field: RenderedViews,
    cameras: Cameras,
    *,
    pairs: Sequence[tuple[int, int]] | None = None,
    tolerance: float = 0.02,
    solid: float = 0.9,
) -> Consistency:
    """Compares views pixel by pixel where the field says that they see the same point of the surface.

    A pixel of one view is lifted to its point by the field's depth and projected into the other. It counts if the field
    is opaque in both places and the other view's depth there is the point's distance, so that nothing hides it.

    Args:
        rgb: (N, 3, H, W) views in [0, 1]: the field's own, or those of a 2D model at the same cameras.
        field: renders of the field at the same cameras and size.
        cameras: the N cameras.
        pairs: which views to compare; each with the next one unless given.
        tolerance: how much the two distances may differ, as a share of the distance.
        solid: opacity from which a pixel shows the surface.
    """
    _check_views(rgb, field, cameras)
    count, _, height, width = rgb.shape
    check_range("tolerance", tolerance, 0.0, 1.0)
    check_range("solid", solid, 0.0, 1.0)
    pairs = tuple(pairwise(range(count))) if pairs is None else tuple((int(a), int(b)) for a, b in pairs)
    if not pairs:
        raise InputError(
            f"expected at least one pair of views, got {count} view(s) and no pair; give two views or more"
        )
    for pair in pairs:
        if pair[0] == pair[1] or not all(0 <= view < count for view in pair):
            raise InputError(f"a pair must name two different views of 0 to {count - 1}, got {pair}")
    rays = camera_rays(cameras, height, width)
    points = rays.origins + rays.directions * field.depth.permute(0, 2, 3, 1)  # (N, H, W, 3)
    differences, pixels = [], []
    for first, second in pairs:
        total, seen = rgb.new_zeros(()), 0
        for source, target in ((first, second), (second, first)):
            visible, colors = _look(points[source], field, rgb, cameras, target, tolerance, solid)
            visible = visible & (field.opacity[source, 0] >= solid)
            own = rgb[source].permute(1, 2, 0)
            total = total + (own - colors).abs().mean(-1)[visible].sum()
            seen += int(visible.sum())
        differences.append(total / seen if seen else total + torch.nan)
        pixels.append(seen)
    return Consistency(pairs, torch.stack(differences).cpu(), torch.tensor(pixels))


def _look(
    points: Tensor, field: RenderedViews, rgb: Tensor, cameras: Cameras, target: int, tolerance: float, solid: float
) -> tuple[Tensor, Tensor]:
    """(H, W, 3) points -> (H, W) bool whether view `target` sees them, and (H, W, 3) its colours there."""
    place, distance = project(points, cameras[target])
    grid = -place[None]  # grid_sample counts from the left and from the top
    known = torch.cat([rgb[target], field.opacity[target], field.depth[target]])[None]
    looked = F.grid_sample(known, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]
    # the nearest pixel must show this surface, and so must its neighbours: a mean of two surfaces' colours is neither's
    depth = F.grid_sample(field.depth[target][None], grid, mode="nearest", padding_mode="zeros", align_corners=False)
    near = ((depth[0, 0] - distance).abs() <= tolerance * distance) & (
        (looked[4] - distance).abs() <= tolerance * distance
    )
    visible = near & (looked[3] >= solid) & (place.abs() <= 1).all(-1) & (distance > 0)
    return visible, looked[:3].permute(1, 2, 0)


def _check_views(rgb: Tensor, field: RenderedViews, cameras: Cameras) -> None:
    check_shape("rgb", rgb, (len(cameras), 3, "H", "W"), "one view a camera")
    count, _, height, width = rgb.shape
    for name in ("opacity", "depth"):
        check_shape(f"field.{name}", getattr(field, name), (count, 1, height, width), "render it at the views' size")
