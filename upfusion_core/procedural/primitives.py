"""Primitives in their own frames: where a ray is inside, signed distances, normals. See shapes.py for the sizes.

Components come first: points, origins and directions are (3, N), sizes (4, N), so that each component is contiguous.
An interval (near, far) is where the line origin + t·direction is inside; a miss is (inf, -inf). Keep origins near the
primitive: float32 loses the digits of a far one.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .shapes import ABSENT, ALONE, BLEND, BOX, ELLIPSOID, FRUSTUM, TORUS, Objects, Primitives, bounding_balls

TORUS_STEPS = 20  # towards a torus; a ray then is at most about 1e-4 away from it unless it grazes
_SLACK = 1e-6  # of a section's angle: float32's pi is a little beyond pi, where a whole torus would have a gap

Interval = tuple[Tensor, Tensor]


def dot(a: Tensor, b: Tensor) -> Tensor:
    """(3, N), (3, N) -> (N,)."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _unless(missed: Tensor, near: Tensor, far: Tensor) -> Interval:
    return near.masked_fill(missed, math.inf), far.masked_fill(missed, -math.inf)


def _away_from_zero(value: Tensor) -> Tensor:
    return torch.where(value.abs() < 1e-9, torch.full_like(value, 1e-9).copysign(value), value)


def _slab(origin: Tensor, direction: Tensor, half: Tensor) -> Interval:
    """Where lines are within `half` of 0 along one axis."""
    inverse = _away_from_zero(direction).reciprocal()
    middle, reach = -origin * inverse, half * inverse.abs()
    return middle - reach, middle + reach


def ellipsoid_interval(origins: Tensor, directions: Tensor, size: Tensor) -> Interval:
    """Where the lines are inside: the unit ball's interval after dividing by the semi-axes."""
    scale = size[:3].reciprocal()
    start, step = origins * scale, directions * scale
    a, b, c = dot(step, step), dot(start, step), dot(start, start) - 1
    square = b * b - a * c
    root = square.clamp_min(0).sqrt()
    return _unless(square < 0, (-b - root) / a, (-b + root) / a)


def box_interval(origins: Tensor, directions: Tensor, size: Tensor) -> Interval:
    """Where the lines are inside all three slabs."""
    near, far = _slab(origins, directions, size[:3])
    near, far = near.amax(0), far.amin(0)
    return _unless(near > far, near, far)


def frustum_interval(origins: Tensor, directions: Tensor, size: Tensor) -> Interval:
    """Where the lines are inside the slab `|y| <= h` and inside the cone x² + z² <= (m + k·y)²."""
    bottom, top, height = size[0], size[1], size[2]
    slope = (top - bottom) / (2 * height)  # k
    radius = (top + bottom) / 2 + slope * origins[1]  # of the cone at the origins' height
    rate = slope * directions[1]
    a = _away_from_zero(directions[0] ** 2 + directions[2] ** 2 - rate * rate)
    b = origins[0] * directions[0] + origins[2] * directions[2] - rate * radius
    c = origins[0] ** 2 + origins[2] ** 2 - radius * radius
    square = b * b - a * c
    root = square.clamp_min(0).sqrt()
    low, high = (-b - root) / a, (-b + root) / a
    low, high = torch.minimum(low, high), torch.maximum(low, high)
    # A line steeper than the cone is inside beyond its roots, and only the nappe with a positive radius is ours.
    steep, rising = a < 0, rate > 0
    near = torch.where(steep, torch.where(rising, high, -math.inf), low)
    far = torch.where(steep, torch.where(rising, math.inf, low), high)
    below, above = _slab(origins[1], directions[1], height)
    near, far = torch.maximum(near, below), torch.minimum(far, above)
    return _unless((near > far) | ((square < 0) & ~steep), near, far)


_INTERVALS = {ELLIPSOID: ellipsoid_interval, BOX: box_interval, FRUSTUM: frustum_interval}


def convex_interval(kind: Tensor, origins: Tensor, directions: Tensor, size: Tensor) -> Interval:
    """Where the lines are inside primitives of mixed kinds, (N,) int64; none a torus."""
    near, far = frustum_interval(origins, directions, size)
    for which in (ELLIPSOID, BOX):
        other_near, other_far = _INTERVALS[which](origins, directions, size)
        near, far = torch.where(kind == which, other_near, near), torch.where(kind == which, other_far, far)
    return near, far


def first_hit(kind: int, origins: Tensor, directions: Tensor, size: Tensor) -> Tensor:
    """(N,) t at which lines first meet primitives of one kind, inf for a miss.

    A torus or its section: a fixed number of steps as long as the exact distance, from where the line enters the slab
    `|z| <= tube radius` and the ball around the ring; it costs less than a quartic that is stable in float32.
    """
    if kind != TORUS:
        return _INTERVALS[kind](origins, directions, size)[0]
    ring, tube = size[0], size[1]
    along = dot(origins, directions)
    reach = ((ring + tube) ** 2 - dot(origins, origins) + along * along).clamp_min(0).sqrt()
    near, far = _slab(origins[2], directions[2], tube)
    t, end = torch.maximum(near, -along - reach), torch.minimum(far, reach - along)
    cosine, sine = size[3].cos(), size[3].sin()
    for _ in range(TORUS_STEPS):
        t = t + _torus_distance(origins + t * directions, ring, tube, cosine, sine)
    distance = _torus_distance(origins + t * directions, ring, tube, cosine, sine)
    return torch.where((distance > 3e-4) | (t > end + 1e-3), math.inf, t)


def _torus_distance(points: Tensor, ring: Tensor, tube: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """(N,) exact signed distance to a torus or its section."""
    x, y, z = points
    within = sine * x - cosine * y.abs() >= -_SLACK
    # the point's component towards the nearest point of the ring's section: its own radius, or along the end's
    away = torch.where(within, (x * x + y * y).sqrt(), cosine * x + sine * y.abs())
    distance: Tensor = (x * x + y * y + z * z + ring * ring - 2 * ring * away).clamp_min(0).sqrt() - tube
    return distance


def convex_distance(kind: Tensor, points: Tensor, size: Tensor) -> Tensor:
    """(N,) signed distances to ellipsoids, boxes and frustums.

    Exact but for ellipsoids': of first order, right in sign and at the surface, smaller than the truth far away.
    """
    # frustum: in the plane of (radius, y), to the slanted side and to the two discs
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
    frustum = torch.where(inside, -square.sqrt(), square.sqrt())

    scaled = points / size[:3]
    level, slope = dot(scaled, scaled).sqrt(), (scaled / size[:3]).square().sum(0).sqrt()
    ellipsoid = torch.where(slope > 1e-6, level * (level - 1) / slope.clamp_min(1e-6), -size[:3].amin(0))

    excess = points.abs() - size[:3]
    box = excess.clamp_min(0).square().sum(0).sqrt() + excess.amax(0).clamp_max(0)
    return torch.where(kind == BOX, box, torch.where(kind == ELLIPSOID, ellipsoid, frustum))


def primitive_distance(kind: Tensor, points: Tensor, size: Tensor) -> Tensor:
    """(N,) signed distances to primitives of mixed kinds, (N,) int64."""
    torus = _torus_distance(points, size[0], size[1], size[3].cos(), size[3].sin())
    return torch.where(kind == TORUS, torus, convex_distance(kind, points, size))


def primitive_normal(kind: Tensor, points: Tensor, size: Tensor) -> Tensor:
    """(3, N) unit outward normals at points on the surface; of a frustum's disc or side, whichever is nearer."""
    x, y, z = points
    cosine, sine = size[3].cos(), size[3].sin()
    radius = (x * x + y * y).sqrt().clamp_min(1e-9)
    within = sine * x - cosine * y.abs() >= -_SLACK
    ring_x = torch.where(within, x / radius, cosine) * size[0]
    ring_y = torch.where(within, y / radius, sine.copysign(y)) * size[0]
    torus = torch.stack([x - ring_x, y - ring_y, z])

    bottom, top, height = size[0], size[1], size[2]
    slope, radius = (top - bottom) / (2 * height), (x * x + z * z).sqrt()
    beyond_side = (radius - (top + bottom) / 2 - slope * y) / (1 + slope * slope).sqrt()
    zero, one = torch.zeros_like(y), torch.ones_like(points)
    disc = torch.stack([zero, one[1].copysign(y), zero])
    on_disc = (y.abs() - height).abs() < beyond_side.abs()
    frustum = torch.where(on_disc, disc, torch.stack([x, -slope * radius, z]))

    excess = points.abs() - size[:3]
    face = torch.where(excess == excess.amax(0), one.copysign(points), 0.0)
    normal = torch.where(kind == FRUSTUM, frustum, torus)
    normal = torch.where(kind == BOX, face, normal)
    normal = torch.where(kind == ELLIPSOID, points / size[:3].square(), normal)
    return normal / dot(normal, normal).sqrt().clamp_min(1e-12)


# how a part is hit: by its only primitive's kind, by intervals of two primitives, or by steps through a smooth union
CARVED, BLENDED = 4, 5


@dataclass(frozen=True, eq=False)
class Placed:
    """Primitives by column: (16, N) rotation (row-major, local to world), centre and size; kind (N,)."""

    numbers: Tensor
    kind: Tensor

    @staticmethod
    def of(primitives: Primitives) -> "Placed":
        """(B, P) primitives as B·P columns."""
        numbers = torch.cat([primitives.rotation.flatten(2), primitives.center, primitives.size], dim=-1)
        return Placed(numbers.flatten(0, 1).T.contiguous(), primitives.kind.flatten())

    def taken(self, column: Tensor) -> "Placed":
        """The given columns, (M,) int64, repeated as they come."""
        return Placed(self.numbers.index_select(1, column), self.kind.index_select(0, column))

    @property
    def size(self) -> Tensor:
        return self.numbers[12:]

    def points_to_local(self, points: Tensor) -> Tensor:
        """(3, N) world points -> the primitives' own frames."""
        return self.directions_to_local(points - self.numbers[9:12])

    def directions_to_local(self, directions: Tensor) -> Tensor:
        """(3, N) world directions -> the primitives' own frames."""
        local: Tensor = (self.numbers[:9].unflatten(0, (3, 3)) * directions[:, None]).sum(0)
        return local

    def distance(self, points: Tensor) -> Tensor:
        """(N,) signed distances of (3, N) world points."""
        return primitive_distance(self.kind, self.points_to_local(points), self.size)

    def normals(self, local: Tensor) -> Tensor:
        """(3, N) outward normals in the world at surface points (3, N) in the primitives' own frames."""
        normals = primitive_normal(self.kind, local, self.size)
        world: Tensor = (self.numbers[:9].unflatten(0, (3, 3)) * normals).sum(1)
        return world


class Tables:
    """B objects of P parts: column b·P + p holds part p of object b, coat column (b·P + p)·3 + c its coat c."""

    def __init__(self, objects: Objects) -> None:
        coats, light, self.parts, self.staging = objects.coats, objects.light, objects.role.shape[1], objects.staging
        self.first, self.second = Placed.of(objects.first), Placed.of(objects.second)
        self.joint, self.blend = objects.joint.flatten(), objects.blend.flatten()
        solver = torch.where(objects.joint == ALONE, objects.first.kind, CARVED)
        solver = solver.masked_fill(objects.joint == BLEND, BLENDED)
        self.solver = solver.masked_fill(objects.role == ABSENT, -1).flatten()  # how a part is hit, -1 for absent ones
        self.ball_center, self.ball_radius = bounding_balls(objects)  # (B, P, 3) and (B, P), -1 for absent ones
        # (15, B·P·3) two colours, u, v, frequency, phase, turns
        scalars = torch.stack([coats.frequency, coats.phase, coats.turns], dim=-1)
        numbers = torch.cat([coats.colors.flatten(-2), coats.axes.flatten(-2), scalars], dim=-1)
        self.coats, self.pattern = numbers.flatten(0, 2).T.contiguous(), coats.pattern.flatten()
        self.label = objects.label.flatten(0, 1).T.contiguous()  # (4, B·P)
        # (7, B) direction, ambient, tint
        self.light = torch.cat([light.direction, light.ambient[:, None], light.tint], dim=-1).T.contiguous()
