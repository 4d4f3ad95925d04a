"""Primitives in their own frames: where a ray is inside, signed distances, normals. See shapes.py for the sizes.

Components come first: points, origins and directions are (3, N), sizes (4, N), so that each component is contiguous.
An interval (near, far) is where the line origin + t·direction is inside; a miss is (inf, -inf). Keep origins near the
primitive: float32 loses the digits of a far one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .shapes import BOX, ELLIPSOID, FRUSTUM

TORUS_STEPS = 20
"""Steps towards a torus; a ray then is at most about 1e-4 away from it unless it grazes."""

_SLACK = 1e-6
"""Of a section's angle: float32's pi is a little beyond pi, where a whole torus would have a gap."""

Interval = tuple[Tensor, Tensor]


def dot(a: Tensor, b: Tensor) -> Tensor:
    """(3, N), (3, N) -> (N,)."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def ellipsoid_interval(origins: Tensor, directions: Tensor, size: Tensor) -> Interval:
    """Where the lines are inside: the unit ball's interval after dividing by the semi-axes."""
    scale = size[:3].reciprocal()
    start, step = origins * scale, directions * scale
    a, b, c = dot(step, step), dot(start, step), dot(start, start) - 1
    return _between_roots(a, b, b * b - a * c)


def box_interval(origins: Tensor, directions: Tensor, size: Tensor) -> Interval:
    """Where the lines are inside all three slabs."""
    inverse = _away_from_zero(directions).reciprocal()
    middle, half = -origins * inverse, size[:3] * inverse.abs()
    near, far = (middle - half).amax(0), (middle + half).amin(0)
    return _unless(near > far, near, far)


def frustum_interval(origins: Tensor, directions: Tensor, size: Tensor) -> Interval:
    """Where the lines are inside the slab `|y| <= h` and inside the cone x² + z² <= (m + k·y)²."""
    bottom, top, height = size[0], size[1], size[2]
    slope = (top - bottom) / (2 * height)  # k
    radius = (top + bottom) / 2 + slope * origins[1]  # of the cone at the origins' height
    rate = slope * directions[1]
    a = directions[0] ** 2 + directions[2] ** 2 - rate * rate
    b = origins[0] * directions[0] + origins[2] * directions[2] - rate * radius
    c = origins[0] ** 2 + origins[2] ** 2 - radius * radius
    a = _away_from_zero(a)
    square = b * b - a * c
    root = square.clamp_min(0).sqrt()
    low, high = (-b - root) / a, (-b + root) / a
    low, high = torch.minimum(low, high), torch.maximum(low, high)
    # A line steeper than the cone is inside beyond its roots, and only the nappe with a positive radius is ours.
    steep, rising = a < 0, rate > 0
    near = torch.where(steep, torch.where(rising, high, torch.full_like(low, -math.inf)), low)
    far = torch.where(steep, torch.where(rising, torch.full_like(low, math.inf), low), high)
    inverse = _away_from_zero(directions[1]).reciprocal()
    middle, half = -origins[1] * inverse, height * inverse.abs()
    near, far = torch.maximum(near, middle - half), torch.minimum(far, middle + half)
    return _unless((near > far) | ((square < 0) & ~steep), near, far)


def convex_interval(kind: Tensor, origins: Tensor, directions: Tensor, size: Tensor) -> Interval:
    """Where the lines are inside primitives of mixed kinds, (N,) int64; none a torus."""
    near, far = frustum_interval(origins, directions, size)
    for which, interval in ((ELLIPSOID, ellipsoid_interval), (BOX, box_interval)):
        other_near, other_far = interval(origins, directions, size)
        near, far = torch.where(kind == which, other_near, near), torch.where(kind == which, other_far, far)
    return near, far


def torus_hit(origins: Tensor, directions: Tensor, size: Tensor) -> Tensor:
    """(N,) t of the first hit of a torus or its section, inf for a miss.

    A fixed number of steps as long as the exact distance, from where the line enters the slab `|z| <= tube radius` and
    the ball around the ring; it costs less than a quartic that is stable in float32.
    """
    ring, tube = size[0], size[1]
    along = dot(origins, directions)
    reach = ((ring + tube) ** 2 - dot(origins, origins) + along * along).clamp_min(0).sqrt()
    inverse = _away_from_zero(directions[2]).reciprocal()
    middle, half = -origins[2] * inverse, tube * inverse.abs()
    t, end = torch.maximum(middle - half, -along - reach), torch.minimum(middle + half, reach - along)
    cosine, sine = size[3].cos(), size[3].sin()
    for _ in range(TORUS_STEPS):
        t = t + _torus_distance(origins + t * directions, ring, tube, cosine, sine)
    distance = _torus_distance(origins + t * directions, ring, tube, cosine, sine)
    missed = (distance > 3e-4) | (t > end + 1e-3)
    return torch.where(missed, torch.full_like(t, math.inf), t)


def torus_distance(points: Tensor, size: Tensor) -> Tensor:
    """(N,) exact signed distance to a torus or its section."""
    return _torus_distance(points, size[0], size[1], size[3].cos(), size[3].sin())


def _torus_distance(points: Tensor, ring: Tensor, tube: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    x, y, z = points
    away = _along_ring(x, y.abs(), cosine, sine)
    distance: Tensor = (x * x + y * y + z * z + ring * ring - 2 * ring * away).clamp_min(0).sqrt() - tube
    return distance


def _along_ring(x: Tensor, y: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """The point's component towards the nearest point of the ring's section: its own radius, or along the end's."""
    within = sine * x - cosine * y >= -_SLACK
    return torch.where(within, (x * x + y * y).sqrt(), cosine * x + sine * y)


def ellipsoid_distance(points: Tensor, size: Tensor) -> Tensor:
    """(N,) signed distance to first order: right in sign and at the surface, smaller than the truth far away."""
    scaled = points / size[:3]
    level, slope = dot(scaled, scaled).sqrt(), (scaled / size[:3]).square().sum(0).sqrt()
    return torch.where(slope > 1e-6, level * (level - 1) / slope.clamp_min(1e-6), -size[:3].amin(0))


def box_distance(points: Tensor, size: Tensor) -> Tensor:
    """(N,) exact signed distance."""
    excess = points.abs() - size[:3]
    return excess.clamp_min(0).square().sum(0).sqrt() + excess.amax(0).clamp_max(0)


def frustum_distance(points: Tensor, size: Tensor) -> Tensor:
    """(N,) exact signed distance: in the plane of (radius, y), to the slanted side and to the two discs."""
    bottom, top, height = size[0], size[1], size[2]
    x, y, z = points
    radius = (x * x + z * z).sqrt()
    widening, length = top - bottom, 2 * height
    share = ((radius - bottom) * widening + (y + height) * length) / (widening * widening + length * length)
    share = share.clamp(0, 1)
    side_out, side_up = radius - bottom - share * widening, y + height - share * length
    disc_out = (radius - torch.where(y < 0, bottom, top)).clamp_min(0)
    disc_up = y.abs() - height
    square = torch.minimum(side_out**2 + side_up**2, disc_out**2 + disc_up**2)
    inside = (disc_up < 0) & (radius < (bottom + top) / 2 + widening / length * y)
    return torch.where(inside, -square.sqrt(), square.sqrt())


def primitive_distance(kind: Tensor, points: Tensor, size: Tensor) -> Tensor:
    """(N,) signed distances to primitives of mixed kinds, (N,) int64."""
    distance = torus_distance(points, size)
    for which, of in ((ELLIPSOID, ellipsoid_distance), (BOX, box_distance), (FRUSTUM, frustum_distance)):
        distance = torch.where(kind == which, of(points, size), distance)
    return distance


def convex_distance(kind: Tensor, points: Tensor, size: Tensor) -> Tensor:
    """(N,) signed distances to ellipsoids, boxes and frustums."""
    distance = frustum_distance(points, size)
    for which, of in ((ELLIPSOID, ellipsoid_distance), (BOX, box_distance)):
        distance = torch.where(kind == which, of(points, size), distance)
    return distance


def primitive_normal(kind: Tensor, points: Tensor, size: Tensor) -> Tensor:
    """(3, N) unit outward normals at points on the surface."""
    normal = _torus_normal(points, size)
    normal = torch.where(kind == FRUSTUM, _frustum_normal(points, size), normal)
    normal = torch.where(kind == BOX, _box_normal(points, size), normal)
    normal = torch.where(kind == ELLIPSOID, points / size[:3].square(), normal)
    return normal / dot(normal, normal).sqrt().clamp_min(1e-12)


def _torus_normal(points: Tensor, size: Tensor) -> Tensor:
    x, y, z = points
    cosine, sine = size[3].cos(), size[3].sin()
    radius = (x * x + y * y).sqrt().clamp_min(1e-9)
    within = sine * x - cosine * y.abs() >= -_SLACK
    ring_x = torch.where(within, x / radius, cosine) * size[0]
    ring_y = torch.where(within, y / radius, sine.copysign(y)) * size[0]
    return torch.stack([x - ring_x, y - ring_y, z])


def _frustum_normal(points: Tensor, size: Tensor) -> Tensor:
    """Of the disc or the side, whichever is nearer."""
    bottom, top, height = size[0], size[1], size[2]
    x, y, z = points
    slope = (top - bottom) / (2 * height)
    radius = (x * x + z * z).sqrt()
    beyond_side = (radius - (top + bottom) / 2 - slope * y) / (1 + slope * slope).sqrt()
    on_disc = (y.abs() - height).abs() < beyond_side.abs()
    zero = torch.zeros_like(y)
    disc = torch.stack([zero, torch.ones_like(y).copysign(y), zero])
    return torch.where(on_disc, disc, torch.stack([x, -slope * radius, z]))


def _box_normal(points: Tensor, size: Tensor) -> Tensor:
    excess = points.abs() - size[:3]
    return torch.where(excess == excess.amax(0), torch.ones_like(points).copysign(points), torch.zeros_like(points))


def _between_roots(a: Tensor, b: Tensor, square: Tensor) -> Interval:
    root = square.clamp_min(0).sqrt()
    return _unless(square < 0, (-b - root) / a, (-b + root) / a)


def _unless(missed: Tensor, near: Tensor, far: Tensor) -> Interval:
    return near.masked_fill(missed, math.inf), far.masked_fill(missed, -math.inf)


def _away_from_zero(value: Tensor) -> Tensor:
    return torch.where(value.abs() < 1e-9, torch.full_like(value, 1e-9).copysign(value), value)
