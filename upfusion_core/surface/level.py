"""The density at which a field's surface stands: where light stops, and where silhouettes agree with the renders."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import max_pool3d, pad

from ..field.radiance import RadianceField
from ..field.rendering import intersect_box, stratified_distances
from ..geometry import camera_rays, look_at, sphere_directions
from ..support.devices import Chunk
from ..support.errors import FieldError
from ..types import OnProgress, Rays

# samples along the longest side of a box
COARSE = 128  # at which all of it is looked through; finer lattices only near the surface
CLEARED = 256  # at which floaters and hollows are looked for

# heights, see `height_of`
SPREAD = 2.0  # beyond ±2, e² times the level and more, they say nothing about where the surface is
LEAST = 1e-3  # they keep this distance from 0, so that no vertex falls on a sample

# the choice of a level
LEVEL_RESOLUTION = 64  # samples along the object's box in which light is followed
SOLID_SHARE = 0.1  # matter is solid if this share of the longest side of it stops half of the light
CRISP_SHARE = 0.01  # that share where silhouettes have a say

# looks at the silhouettes, see `agreeing_level`
CAMERAS = 8  # from all round, above and below
PICTURE_SIZE = 56  # pixels a side
RAY_SAMPLES = 96  # along each ray, within the object's box
TOLERANCE = 0.0015  # levels whose agreement is this close to the best one's count as equally good


def sample_density(
    field: RadianceField, low: Tensor, spacing: float, shape: Sequence[int], chunk: Chunk, report: OnProgress
) -> Tensor:
    """(X, Y, Z) density on the CPU at low + spacing·(i, j, k), asked for in layers of x."""
    layers, everywhere = [], torch.ones(*shape[1:], dtype=torch.bool)
    for index in range(shape[0]):
        layers.append(_layer(field, low, spacing, index, everywhere, chunk).view(*shape[1:]))
        report((index + 1) / shape[0])
    return torch.stack(layers)


def sample_heights(
    field: RadianceField, low: Tensor, high: Tensor, spacing: float, level: float, chunk: Chunk, report: OnProgress
) -> Tensor:
    """How far above a level the density is, from `low` to `high` (3,): (X, Y, Z) float16 on the CPU, see `height_of`.

    Sample (i, j, k) stands at low + spacing·(i, j, k). Every n-th is taken first, so that about COARSE fit along the
    longest side. Where those of a cell and its neighbours are all below a quarter of the level, or all above four times
    it, no surface passes and no further samples are taken.
    """
    shape = tuple((((high - low) / spacing).ceil().long() + 1).tolist())
    step = max(1, max(shape) // COARSE)
    begun = 0.2 if step > 1 else 0.0
    active, inside = torch.ones(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    if step > 1:
        coarse = [-(-size // step) + 1 for size in shape]
        corners = sample_density(field, low, spacing * step, coarse, chunk, lambda share: None)
        around = pad(corners[None], (1,) * 6, mode="replicate")
        most, least = max_pool3d(around, 4, stride=1)[0], -max_pool3d(-around, 4, stride=1)[0]
        active, inside = (most > level / 4) & (least < level * 4), least >= level * 4
    report(begun)
    heights = torch.empty(shape, dtype=torch.float16)
    for index in range(shape[0]):
        wanted = _finer(active[index // step], step, shape)
        layer = torch.where(_finer(inside[index // step], step, shape), SPREAD, -SPREAD).float()
        layer[wanted] = height_of(_layer(field, low, spacing, index, wanted, chunk), level)
        heights[index] = layer
        report(begun + (1 - begun) * (index + 1) / shape[0])
    return heights


def height_of(density: Tensor, level: float) -> Tensor:
    """log(density / level) within ±SPREAD and never 0, e.g. e times the level -> 1; above 0 is inside.

    The logarithm is what a field's MLP gives, and nearly straight across a surface.
    """
    height = (density.clamp(min=1e-12) / level).log().clamp(-SPREAD, SPREAD)
    return torch.where(density > level, height.clamp(min=LEAST), height.clamp(max=-LEAST))


def large_parts(dense: np.ndarray, keep: float) -> np.ndarray:
    """(X, Y, Z) bool without the pieces that have less than `keep` of the largest one's volume."""
    labels, count = ndimage.label(dense)
    if not count:
        return dense
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray((sizes >= max(keep * sizes.max(), 1))[labels])


def clear(heights: Tensor, keep: float, pinhole: float) -> None:
    """Removes floaters from (X, Y, Z) heights and fills hollows and narrow pits, in place.

    A fit never sees the inside of an opaque object and leaves it as it happens to be; pinholes of a sample or two then
    lead into it, through which the surface would turn inside out. What a cube with a side of `pinhole` times the
    longest side cannot reach from outside is filled, but for pits of half that depth. Pieces with less than `keep` of
    the largest one's volume are floaters; in volumes above CLEARED, those that share a cell with it stay.
    """
    side = max(heights.shape)
    step = -(-side // CLEARED)
    layers = []
    for part in heights.split(step):  # a cell is solid if any of its step³ samples is inside
        inside = (part > 0).any(0)
        inside = pad(inside, (0, -inside.shape[1] % step, 0, -inside.shape[0] % step))
        layers.append(inside.unflatten(1, (-1, step)).any(2).unflatten(0, (-1, step)).any(1))
    kept = large_parts(torch.stack(layers).numpy(), keep)
    reach = max(1, round(pinhole / 2 * side / step))
    margin = reach + 1  # so that all that lies outside is one piece, which holds the first cell
    free, _ = ndimage.label(~_grown(np.pad(kept, margin), reach))
    outside = _grown(free == free[0, 0, 0], reach)[(slice(margin, -margin),) * 3]
    # a cube cannot enter the steps of a lattice in any concave place either: what is this near to outside stays
    outside = _grown(outside, reach)
    for index in range(heights.shape[0]):
        layer = heights[index].float()
        piece = _finer(torch.from_numpy(kept[index // step]), step, heights.shape)
        hidden = _finer(torch.from_numpy(~outside[index // step]), step, heights.shape)
        layer = torch.where((layer > 0) & ~piece, -SPREAD, layer)
        heights[index] = torch.where(hidden & (layer < 0), SPREAD, layer)


def _layer(field: RadianceField, low: Tensor, spacing: float, index: int, wanted: Tensor, chunk: Chunk) -> Tensor:
    """Density (N,) on the CPU at the `wanted` (Y, Z) samples of one x; FieldError where it is not finite."""
    points = low + spacing * pad(wanted.nonzero(), (1, 0), value=index).to(low.device)
    if not len(points):
        return torch.empty(0, dtype=torch.float32)
    density = torch.cat(list(chunk.map(lambda part: field.density(points[part]), len(points))))
    if not torch.isfinite(density).all():
        raise FieldError(
            "the field's density is not finite (NaN or infinite), so it has no surface; "
            "its fit has diverged: lower the learning rates, or go back to an earlier checkpoint"
        )
    return density.float().cpu()


def _finer(cells: Tensor, step: int, shape: tuple[int, ...]) -> Tensor:
    """(Y', Z') cells of step² samples -> (Y, Z) samples."""
    return cells.repeat_interleave(step, 0).repeat_interleave(step, 1)[: shape[1], : shape[2]]


def _grown(mask: np.ndarray, reach: int) -> np.ndarray:
    """(X, Y, Z) bool grown by a cube of 2·reach + 1 samples."""
    return np.asarray(ndimage.maximum_filter(mask.view(np.uint8), 2 * reach + 1, mode="constant")).view(bool)


def chosen_level(field: RadianceField, low: Tensor, high: Tensor, chunk: Chunk, report: OnProgress) -> float:
    """The density of an object's surface in its box from `low` to `high` (3,): light and silhouettes have a say."""
    spacing = float((high - low).max()) / (LEVEL_RESOLUTION - 1)
    shape = (((high - low) / spacing).ceil().long() + 1).tolist()
    volume = sample_density(field, low, spacing, shape, chunk, report)
    return agreeing_level(field, low, high, surface_level(volume, spacing, CRISP_SHARE), chunk)


def surface_level(volume: Tensor, spacing: float, share: float = SOLID_SHARE) -> float:
    """(X, Y, Z) density of an object's box -> the density at which its surface stands: the lower one of two bounds.

    - Matter is solid if a `share` of the box's longest side of it stops half of the light. Fitted fields grow
      exponentially inwards: ten times denser ones have nearly the same contour here, outside the pits of higher levels.
    - A fog may be thinner everywhere. Where rays along the axes have lost half of their light, a render shows the
      surface; half of the median density there is the bound. If no ray loses half, half of the most opaque ray's
      optical depth takes its place. FieldError if no ray loses 1 % of its light.
    """
    depths = volume * spacing
    total = max(float(depths.sum(axis).max()) for axis in range(3))
    if total < 0.01:
        raise FieldError(
            "the field is empty: no ray loses more than 1 % of its light in it, so there is no surface; "
            "fit it longer, or check that its photos show an object that stands out from the background"
        )
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


def agreeing_level(field: RadianceField, low: Tensor, high: Tensor, first: float, chunk: Chunk) -> float:
    """The level whose silhouettes agree with the field's opacity; of equally good ones the nearest to `first`.

    CAMERAS, spread evenly over a sphere, look at the object's box from `low` to `high` (3,). A ray meets the surface of
    a level if the density somewhere along it is above the level: one look along the rays tells all silhouettes.
    """
    middle, radius = ((low + high) / 2).cpu(), float((high - low).norm()) / 2
    cameras = look_at(middle + 4 * radius * sphere_directions(CAMERAS), middle, focal=3.8)
    rays = camera_rays(cameras.to(low.device), PICTURE_SIZE, PICTURE_SIZE)
    rays = Rays(rays.origins.reshape(-1, 3), rays.directions.reshape(-1, 3))
    near, far, hit = intersect_box(rays, torch.stack([low, high]), near=0.0)
    rays, near, far = Rays(rays.origins[hit], rays.directions[hit]), near[hit], far[hit]

    def look(part: slice) -> Tensor:
        distances = stratified_distances(near[part], far[part], RAY_SAMPLES)
        points = rays.origins[part, None] + rays.directions[part, None] * distances[..., None]
        density = field.density(points)
        depth = density.sum(-1) * (far[part] - near[part]) / RAY_SAMPLES
        return torch.stack([-torch.expm1(-depth), density.amax(-1)])

    looks = chunk.map(look, len(near), each=RAY_SAMPLES)
    opacity, peak = torch.cat(list(looks), dim=1)
    return best_level(opacity, peak, first)


def best_level(opacity: Tensor, peak: Tensor, first: float) -> float:
    """(R,) opacity of rays and highest density along them -> the level of the best silhouettes.

    The agreement of a silhouette is its intersection over union with the soft mask of opacities.

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
    distance = (nearest.clamp(min=1e-9).log() - math.log(first)).abs()
    distance = distance.where(good & (peak > 0), peak.new_tensor(torch.inf))
    return float(nearest[distance.argmin()].clamp(min=1e-6))
