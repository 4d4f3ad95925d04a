"""Drawing many objects at once: random columns, and a sketch that collects the parts of one kind."""

import math

import torch
from torch import Tensor

from ..geometry.cameras import quaternion_rotation
from .shapes import ABSENT, ALONE, BODY, BOX, CUT, DETAIL, ELLIPSOID, FRUSTUM, MAX_PARTS, TORUS

Number = float | Tensor  # the same for N objects, or (N,)
Point = tuple[Number, Number, Number] | Tensor  # x, y, z, or (N, 3)
Shape = tuple[int | Tensor, Tensor]  # a primitive's kind and its size (N, 4), see shapes.py


class Draws:
    """(N, K) uniform numbers of N objects, taken column by column, so that each object depends on its own row only.

    Every method draws (N,) values, `rotation` (N, 3, 3).
    """

    def __init__(self, uniforms: Tensor) -> None:
        self._uniforms = uniforms
        self._columns = iter(uniforms.unbind(1))

    def __len__(self) -> int:
        return len(self._uniforms)

    def unit(self) -> Tensor:
        return next(self._columns)

    def uniform(self, low: Number, high: Number) -> Tensor:
        return low + (high - low) * self.unit()

    def chance(self, probability: Number) -> Tensor:
        return self.unit() < probability

    def choice(self, weights: list[float]) -> Tensor:
        """Int64 indices."""
        steps = torch.tensor(weights).cumsum(0)
        return torch.bucketize(self.unit() * steps[-1], steps[:-1], right=True)

    def side(self) -> Tensor:
        return torch.where(self.chance(0.5), 1.0, -1.0)

    def rotation(self) -> Tensor:
        share, first, second = self.unit(), 2 * math.pi * self.unit(), 2 * math.pi * self.unit()
        inner, outer = (1 - share).sqrt(), share.sqrt()
        return quaternion_rotation(inner * first.sin(), inner * first.cos(), outer * second.sin(), outer * second.cos())


def blank_parts(count: int) -> dict[str, Tensor]:
    """Tensors (2, B, 7, ...) of both primitives, (B, 7, ...) of the rest, named as `Objects`' fields; `color`: palette.

    Absent parts keep these harmless values: small upright ellipsoids.
    """
    one, two = (count, MAX_PARTS), (2, count, MAX_PARTS)
    return {
        "kind": torch.zeros(two, dtype=torch.int64),
        "rotation": torch.eye(3).repeat(*two, 1, 1),
        "center": torch.zeros(*two, 3),
        "size": torch.full((*two, 4), 0.01),
        "joint": torch.zeros(one, dtype=torch.int64),
        "blend": torch.zeros(one),
        "role": torch.full(one, ABSENT),
        "label": torch.zeros(*one, 4),
        "color": torch.zeros(one, dtype=torch.int64),
    }


class Sketch:
    """Up to seven parts of N objects, the `rows` of `parts`, in free units: they are scaled and centred later."""

    def __init__(self, parts: dict[str, Tensor], rows: Tensor) -> None:
        self.parts, self.rows, self.slot = parts, rows, -1

    def add(
        self,
        shape: Shape,
        center: Point = (0, 0, 0),
        turn: Tensor | None = None,
        *,
        role: int = DETAIL,
        color: Number = 0,
        present: Tensor | None = None,
    ) -> None:
        """One part, `turn` (N, 3, 3) or upright, of those objects where it is `present` (N,)."""
        self.slot += 1
        there = role if present is None else torch.where(present, role, ABSENT)
        self._place(slice(None), shape, center, torch.eye(3) if turn is None else turn)
        self._set(joint=ALONE, role=there, color=color)

    def join(self, joint: Number, shape: Shape, center: Point, turn: Tensor | None = None, blend: Number = 0) -> None:
        """Joins a second primitive to the part added last, turned like the first unless `turn` is given."""
        self._place(1, shape, center, turn)
        self._set(joint=joint, blend=blend)

    def _place(self, which: int | slice, shape: Shape, center: Point, turn: Tensor | None) -> None:
        kind, size = shape
        values = {"kind": kind, "size": size, "center": point(center)}
        for name, value in (values if turn is None else values | {"rotation": turn}).items():
            self.parts[name][which, self.rows, self.slot] = value

    def _set(self, **values: Number) -> None:
        for name, value in values.items():
            self.parts[name][self.rows, self.slot] = value

    def label(self, azimuth: Number, width: Number, middle: Number, height: Number, there: Tensor) -> None:
        """A patch of another coat on the part added last: radians about its y axis, lengths along it."""
        self._set(label=vector(azimuth, torch.where(there, width, 0.0), middle, height))

    def hollow(self, bottom: Number, top: Number, height: Number, wall: Number) -> None:
        """Adds a body like a cup: a frustum, its inside cut out down to a floor as thick as the wall."""
        self.add(frustum(bottom, top, height), role=BODY)
        self.join(CUT, frustum(bottom - wall, top - wall, height), (0, wall * 1.5, 0))


def ellipsoid(x: Number, y: Number, z: Number) -> Shape:
    return ELLIPSOID, vector(x, y, z, 0)


def ball(radius: Number) -> Shape:
    return ellipsoid(radius, radius, radius)


def box(x: Number, y: Number, z: Number) -> Shape:
    return BOX, vector(x, y, z, 0)


def frustum(bottom: Number, top: Number, height: Number) -> Shape:
    return FRUSTUM, vector(bottom, top, height, 0)


def ring(radius: Number, tube: Number, section: Number) -> Shape:
    return TORUS, vector(radius, tube, 0, section)


def rod(start: Point, end: Point, first: Number, last: Number) -> tuple[Shape, Tensor, Tensor]:
    """A frustum from one point to another, not straight below, with the radii at its ends: shape, centre and turn."""
    start, end = point(start), point(end)
    axis = end - start
    length = axis.norm(dim=-1)
    # +Y goes there by the shortest way
    x, y, z = (axis / length[..., None]).unbind(-1)
    quarter = torch.stack([z, torch.zeros_like(x), -x, 1 + y], dim=-1)  # (0, 1, 0) × axis, 1 + cos
    turn = quaternion_rotation(*(quarter / quarter.norm(dim=-1, keepdim=True)).unbind(-1))
    return frustum(first, last, length / 2), (start + end) / 2, turn


def either(first: Tensor, one: Shape, other: Shape) -> Shape:
    """`one` where `first` (N,) is true, else `other`."""
    return torch.where(first, one[0], other[0]), torch.where(first[:, None], one[1], other[1])


def vector(*numbers: Number) -> Tensor:
    """(N, K) of K numbers, or (1, K) of plain ones."""
    columns = (torch.as_tensor(number, dtype=torch.float32).reshape(-1) for number in numbers)
    return torch.stack(torch.broadcast_tensors(*columns), dim=-1)


def point(place: Point) -> Tensor:
    return place if isinstance(place, Tensor) else vector(*place)


def moved(turn: Tensor, x: Number, y: Number, z: Number = 0.0) -> Tensor:
    """(N, 3) where rotations (N, 3, 3) take a point."""
    return (turn @ vector(x, y, z)[..., None])[..., 0]


def about(axis: str, angle: Number) -> Tensor:
    """(N, 3, 3) rotations about x, y or z by angles in radians."""
    half = torch.as_tensor(angle, dtype=torch.float32).reshape(-1) / 2
    x, y, z = (half.sin() if name == axis else torch.zeros_like(half) for name in "xyz")
    return quaternion_rotation(x, y, z, half.cos())
