"""Density on a lattice, asked for only where it matters: from coarse to fine, and cleared of floaters and hollows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import max_pool3d, pad

from ..errors import FieldError
from ..memory import Chunk
from ..types import OnProgress

if TYPE_CHECKING:
    from .radiance import RadianceField

COARSE = 128
"""Samples along the longest side at which a whole box is looked through; finer lattices only near the surface."""

CLEARED = 256
"""Samples along the longest side at which floaters and hollows are looked for."""

SPREAD = 2.0
"""Heights beyond ±2, e² times the level and more, say nothing about where the surface is."""

LEAST = 1e-3
"""Heights keep this distance from 0, so that no vertex falls on a sample."""


@dataclass(frozen=True, eq=False)
class HeightVolume:
    """How far above a level the density is: heights (X, Y, Z) float16, log(density / level) within ±2, never 0.

    The logarithm is what a field's MLP gives, and nearly straight across a surface. Above 0 is inside.
    Sample (i, j, k) stands at low + spacing·(i, j, k); low (3,), in the world.
    """

    heights: Tensor
    low: Tensor
    spacing: float


def lattice_shape(low: Tensor, high: Tensor, spacing: float) -> tuple[int, int, int]:
    """Samples along the axes that cover a box, both of its ends included."""
    x, y, z = (int(size) for size in ((high - low) / spacing).ceil().long() + 1)
    return x, y, z


def sample_density(
    field: RadianceField,
    low: Tensor,
    spacing: float,
    shape: tuple[int, int, int],
    chunk: Chunk,
    report: OnProgress = lambda share: None,
) -> Tensor:
    """(X, Y, Z) density on the CPU at low + spacing·(i, j, k), asked for in slabs of x.

    Raises:
        FieldError: it is not finite somewhere.
    """
    volume = torch.empty(shape, dtype=torch.float32)
    everywhere = torch.ones(shape[1:], dtype=torch.bool)
    for index in range(shape[0]):
        volume[index] = _layer(field, low, spacing, index, everywhere, chunk).reshape(shape[1:])
        report((index + 1) / shape[0])
    return volume


def sample_heights(
    field: RadianceField,
    low: Tensor,
    high: Tensor,
    spacing: float,
    level: float,
    *,
    chunk: Chunk,
    report: OnProgress = lambda share: None,
) -> HeightVolume:
    """The box from `low` to `high` (3,) sampled `spacing` apart, from coarse to fine.

    Every n-th sample is taken first, so that about COARSE fit along the longest side. Where those of a cell and its
    neighbours are all below a quarter of the level, or all above four times it, no surface passes and no further
    samples are taken.
    """
    shape = lattice_shape(low, high, spacing)
    step = max(1, max(shape) // COARSE)
    if step == 1:
        active, inside = torch.ones(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    else:
        x, y, z = (-(-size // step) + 1 for size in shape)
        corners = sample_density(field, low, spacing * step, (x, y, z), chunk)
        active, inside = _near_surface(corners, level)
    report(0.2 if step > 1 else 0.0)
    begun = 0.2 if step > 1 else 0.0
    heights = torch.empty(shape, dtype=torch.float16)
    for index in range(shape[0]):
        wanted = _finer(active[index // step], step, shape)
        layer = torch.where(_finer(inside[index // step], step, shape), SPREAD, -SPREAD).float()
        density = _layer(field, low, spacing, index, wanted, chunk)
        layer[wanted] = height_of(density, level)
        heights[index] = layer
        report(begun + (1 - begun) * (index + 1) / shape[0])
    return HeightVolume(heights, low.cpu(), spacing)


def height_of(density: Tensor, level: float) -> Tensor:
    """log(density / level) within ±SPREAD and away from 0, e.g. e times the level -> 1."""
    height = (density.clamp(min=1e-12) / level).log().clamp(-SPREAD, SPREAD)
    return torch.where(density > level, height.clamp(min=LEAST), height.clamp(max=-LEAST))


def large_parts(dense: np.ndarray, keep: float) -> np.ndarray:
    """(X, Y, Z) bool without the pieces that have less than `keep` of the largest one's volume."""
    labels, count = ndimage.label(dense)
    if not count:
        return dense
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    kept: np.ndarray = (sizes >= max(keep * sizes.max(), 1))[labels]
    return kept


def clear(volume: HeightVolume, keep: float, pinhole: float) -> None:
    """Removes floaters and fills hollows and narrow pits, in place.

    A fit never sees the inside of an opaque object and leaves it as it happens to be; pinholes of a sample or two then
    lead into it, through which the surface would turn inside out. What a cube with a side of `pinhole` times the
    longest side cannot reach from outside is filled.

    Pits stay as they were to half a pinhole's depth, so that surfaces are filled nowhere. Volumes above CLEARED are
    looked through in cells of some samples; a floater that shares a cell with something larger stays.

    Args:
        keep: pieces with less than this share of the largest one's volume are floaters.
    """
    heights = volume.heights
    side = max(heights.shape)
    step = -(-side // CLEARED)
    solid = _coarser(heights, step)
    kept = large_parts(solid, keep)
    reach = max(1, round(pinhole / 2 * side / step))
    # a cube cannot enter the steps of a lattice in any concave place either: what is this near to outside stays
    outside = _grown(_outside(kept, reach), reach)
    for index in range(heights.shape[0]):
        layer = heights[index].float()
        piece = _finer(torch.from_numpy(kept[index // step]), step, heights.shape)
        hidden = _finer(torch.from_numpy(~outside[index // step]), step, heights.shape)
        layer = torch.where((layer > 0) & ~piece, -SPREAD, layer)
        heights[index] = torch.where(hidden & (layer < 0), SPREAD, layer)


def _layer(field: RadianceField, low: Tensor, spacing: float, index: int, wanted: Tensor, chunk: Chunk) -> Tensor:
    """Density (N,) on the CPU at the `wanted` (Y, Z) samples of one x."""
    places = wanted.nonzero().to(low.device)
    x = torch.full_like(places[:, :1], index)
    points = low + spacing * torch.cat([x, places], dim=1)
    if not len(points):
        return torch.empty(0, dtype=torch.float32)
    density = torch.cat(list(chunk.map(lambda part: field.density(points[part]), len(points))))
    if not torch.isfinite(density).all():
        raise FieldError(
            "the field's density is not finite (NaN or infinite), so it has no surface; "
            "its fit has diverged: lower the learning rates, or go back to an earlier checkpoint"
        )
    return density.float().cpu()


def _near_surface(corners: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """(X + 1, Y + 1, Z + 1) density -> whether the surface may pass each cell or its neighbours, and which lie inside.

    Both (X, Y, Z) bool.
    """
    around = pad(corners[None], (1,) * 6, mode="replicate")
    most = max_pool3d(around, 4, stride=1)[0]
    least = -max_pool3d(-around, 4, stride=1)[0]
    return (most > level / 4) & (least < level * 4), least >= level * 4


def _finer(cells: Tensor, step: int, shape: tuple[int, ...]) -> Tensor:
    """(Y', Z') cells of step² samples -> (Y, Z) samples."""
    return cells.repeat_interleave(step, 0).repeat_interleave(step, 1)[: shape[1], : shape[2]]


def _coarser(heights: Tensor, step: int) -> np.ndarray:
    """(X, Y, Z) heights -> (X', Y', Z') bool, whether any of a cell's step³ samples is inside."""
    layers = []
    for part in heights.split(step):
        inside = (part > 0).any(0)
        down, across = -inside.shape[0] % step, -inside.shape[1] % step
        inside = pad(inside, (0, across, 0, down))
        layers.append(inside.unflatten(1, (-1, step)).any(2).unflatten(0, (-1, step)).any(1))
    return torch.stack(layers).numpy()


def _outside(solid: np.ndarray, reach: int) -> np.ndarray:
    """(X, Y, Z) bool: what cubes of 2·reach + 1 samples that come from outside and avoid `solid` pass over."""
    margin = reach + 1  # so that all that lies outside is one piece, which holds the first sample
    padded = np.pad(solid, margin)
    free, _ = ndimage.label(~_grown(padded, reach))
    outside = _grown(free == free[0, 0, 0], reach)
    return outside[(slice(margin, -margin),) * 3]


def _grown(mask: np.ndarray, reach: int) -> np.ndarray:
    """(X, Y, Z) bool grown by a cube of 2·reach + 1 samples."""
    grown = mask.view(np.uint8)
    for axis in range(3):  # a cube is three bars
        grown = ndimage.maximum_filter1d(grown, 2 * reach + 1, axis, mode="constant")
    return grown.view(bool)
