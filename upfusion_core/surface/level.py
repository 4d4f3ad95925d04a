"""The density at which a field's surface stands: where light stops, and where silhouettes agree with the renders."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import max_pool3d, pad

from ..field.rendering import intersect_box, stratified_distances
from ..geometry import camera_rays, look_at
from ..support.errors import FieldError
from ..support.memory import Chunk
from ..types import OnProgress, Rays

if TYPE_CHECKING:
    from ..field.radiance import RadianceField

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


if TYPE_CHECKING:
    from ..field.radiance import RadianceField

CAMERAS = 8
"""Cameras that look at the object from all round, above and below."""

PICTURE_SIZE = 56
"""Side of their pictures in pixels."""

RAY_SAMPLES = 96
"""Samples along each of their rays, within the object's box."""

TOLERANCE = 0.0015
"""Levels whose agreement is this close to the best one's count as equally good."""

SOLID_SHARE = 0.1
"""Matter is solid if this share of the object's longest side of it stops half of the light."""

EMPTY = (
    "the field is empty: no ray loses more than 1 % of its light in it, so there is no surface; "
    "fit it longer, or check that its photos show an object that stands out from the background"
)

_GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))


def surface_level(volume: Tensor, spacing: float, share: float = SOLID_SHARE) -> float:
    """The density at which a surface stands, from where light stops: (X, Y, Z) density of an object's box -> a level.

    Two bounds, and the lower one counts:

    - Matter is solid if a `share` of the box's longest side of it stops half of the light. Fitted fields grow
      exponentially inwards: ten times denser ones have nearly the same contour here, and it lies outside the pits
      that higher levels cut into a surface.
    - A fog may be thinner than that everywhere. Rays along both directions of the three axes cross the volume; where a
      ray has lost half of its light, a render shows the surface; half of the median density there is the bound.
      If no ray loses half, half of the optical depth of the most opaque ray takes its place.

    Raises:
        FieldError: no ray loses 1 % of its light.
    """
    depths = volume * spacing
    total = max(float(depths.sum(axis).max()) for axis in range(3))
    if total < 0.01:
        raise FieldError(EMPTY)
    half = min(math.log(2.0), total / 2)
    found = []
    for axis in range(3):
        for direction in (depths, depths.flip(axis)):
            passed = direction.cumsum(axis)
            first = (passed < half).sum(axis, keepdim=True)  # samples before the one in which half is lost
            stops = first < volume.shape[axis]
            value = direction.gather(axis, first.clamp(max=volume.shape[axis] - 1))
            found.append(value[stops])
    fog = float(torch.cat(found).median()) / spacing / 2
    return min(fog, math.log(2.0) / (share * spacing * max(volume.shape)))


def agreeing_level(field: RadianceField, low: Tensor, high: Tensor, first: float, chunk: Chunk | None = None) -> float:
    """The level whose silhouettes agree with the field's opacity; of equally good ones the nearest to `first`.

    Cameras all round look at the object's box. A ray meets the surface of a level if the density somewhere along it is
    above the level, so that one look along the rays tells the silhouettes of all levels.

    Args:
        low, high: (3,) corners of the object's box.
        first: a level from where light stops, which depths agree with.
        chunk: points the field is asked for at a time; 2**17 unless given.
    """
    opacities, peaks = [], []
    for opacity, peak in _looks(field, low, high, chunk or Chunk(2**17, "point")):
        opacities.append(opacity)
        peaks.append(peak)
    return best_level(torch.cat(opacities), torch.cat(peaks), first)


def best_level(opacity: Tensor, peak: Tensor, first: float) -> float:
    """(R,) opacity of rays and highest density along them -> the level of the best silhouettes.

    The agreement of a silhouette, 1 on the rays that meet the surface, is the sum of min(1, opacity) over
    that of max(1, opacity), of all rays: intersection over union of a mask and a soft mask.

    Example: opacities 1, 0.9, 0.1 with peaks 100, 50, 5: the silhouette of the first two agrees best, 1.9 / 2.1, and
    all levels from 5 to 50 have it.
    """
    peak, order = peak.sort(descending=True)
    inside = opacity[order].cumsum(0)  # of the rays that meet the level of the k-th highest peak
    met = torch.arange(1, len(peak) + 1, device=peak.device)
    agreement = 2 * inside / (met + inside[-1])
    # levels just below the k-th peak are met by k rays; where the next peak is as high, by more
    agreement[:-1] = torch.where(peak[1:] == peak[:-1], torch.zeros_like(agreement[:-1]), agreement[:-1])
    good = agreement >= agreement.max() - TOLERANCE
    below = torch.cat([peak[1:], peak.new_zeros(1)])  # the k-th silhouette belongs to levels from here up to its peak
    nearest = torch.full_like(peak, first).clamp(min=below, max=peak * (1 - 1e-3))
    distance = (
        (nearest.clamp(min=1e-9).log() - math.log(first)).abs().where(good & (peak > 0), peak.new_tensor(torch.inf))
    )
    return float(nearest[distance.argmin()].clamp(min=1e-6))


def _looks(field: RadianceField, low: Tensor, high: Tensor, chunk: Chunk) -> Iterator[tuple[Tensor, Tensor]]:
    """Opacity and highest density of the rays that meet the box, some rays at a time."""
    box = torch.stack([low, high])
    rays = _rays_round(low, high)
    near, far, hit = intersect_box(rays, box, near=0.0)
    rays, near, far = Rays(rays.origins[hit], rays.directions[hit]), near[hit], far[hit]

    def look(part: slice) -> tuple[Tensor, Tensor]:
        distances = stratified_distances(near[part], far[part], RAY_SAMPLES)
        points = rays.origins[part, None] + rays.directions[part, None] * distances[..., None]
        density = field.density(points)
        depth = density.sum(-1) * (far[part] - near[part]) / RAY_SAMPLES
        return -torch.expm1(-depth), density.amax(-1)

    return chunk.map(look, len(near), each=RAY_SAMPLES)


def _rays_round(low: Tensor, high: Tensor) -> Rays:
    """Rays (R, 3) of CAMERAS pictures, from directions spread evenly over the sphere, that hold the whole box."""
    middle, reach = (low + high) / 2, float((high - low).norm()) / 2
    number = torch.arange(CAMERAS, dtype=torch.float32)
    up = 1 - (2 * number + 1) / CAMERAS
    turn = _GOLDEN_ANGLE * number
    across = (1 - up.square()).sqrt()
    directions = torch.stack([across * turn.sin(), up, across * turn.cos()], dim=-1)
    cameras = look_at(middle.cpu() + 4 * reach * directions, middle.cpu(), focal=3.8)
    rays = camera_rays(cameras.to(low.device), PICTURE_SIZE, PICTURE_SIZE)
    return Rays(rays.origins.reshape(-1, 3), rays.directions.reshape(-1, 3))
