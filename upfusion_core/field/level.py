"""The density at which a field's surface stands: where light stops, and where silhouettes agree with the renders."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import FieldError
from ..geometry import camera_rays, look_at
from ..memory import Chunk
from ..types import Rays
from .rendering import intersect_box, stratified_distances

if TYPE_CHECKING:
    from .radiance import RadianceField

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
