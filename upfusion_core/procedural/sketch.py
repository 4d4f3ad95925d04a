"""Drawing many objects of one kind at once: random columns, and a sketch that collects their parts."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ..geometry import sphere_directions
from .shapes import (
    ABSENT,
    ALONE,
    BLEND,
    BODY,
    BOX,
    CUT,
    DETAIL,
    ELLIPSOID,
    FRUSTUM,
    MAX_PARTS,
    TORUS,
    Objects,
    Primitives,
)

LARGEST_RADIUS = 0.195
"""Of what is drawn; surfaces stay within 0.2 of the origin, where cameras of focal 4.5 at distance 1 see them whole."""


def framed(objects: Objects, radius: Tensor) -> Objects:
    """The objects moved so that their boxes' middles are at the origin, scaled into balls of radii (B,) about it.

    What a cut takes away counts as if it were there. Patterns keep their periods; labels grow with their parts.
    """
    points, pads = _outline(objects.first)
    others, more = _outline(objects.second)
    points, pads = torch.cat([points, others], dim=2), torch.cat([pads, more + objects.blend[..., None] / 4], dim=2)
    there = objects.present[..., None].expand_as(more)
    seen = torch.cat([there, there & (objects.joint == BLEND)[..., None]], dim=2)
    low = (points - pads[..., None]).masked_fill(~seen[..., None], math.inf).amin((1, 2))
    high = (points + pads[..., None]).masked_fill(~seen[..., None], -math.inf).amax((1, 2))
    center = (low + high) / 2
    reach = (points - center[:, None, None]).norm(dim=-1) + pads
    scale = radius / reach.masked_fill(~seen, 0).amax((1, 2))
    one = torch.ones_like(scale)
    factors = torch.stack([scale, scale, scale, one], dim=-1)[:, None]  # a torus's angle is no length

    def placed(primitives: Primitives) -> Primitives:
        moved = (primitives.center - center[:, None]) * scale[:, None, None]
        return replace(primitives, center=moved, size=primitives.size * factors)

    return replace(
        objects,
        first=placed(objects.first),
        second=placed(objects.second),
        blend=objects.blend * scale[:, None],
        label=objects.label * torch.stack([one, one, scale, scale], dim=-1)[:, None],
    )


def _outline(primitives: Primitives) -> tuple[Tensor, Tensor]:
    """(B, P, K, 3) world points on the primitives' outlines and (B, P, K) how far the surface may be beyond them."""
    count = 48
    sphere = sphere_directions(count).flip(-1)
    corners = torch.stack([torch.where((torch.arange(count) >> bit) % 2 == 0, 1.0, -1.0) for bit in range(3)], dim=-1)
    round_turn = 2 * math.pi * torch.arange(count // 2) / (count // 2)
    circle = torch.stack([round_turn.cos(), torch.zeros_like(round_turn), round_turn.sin()], dim=-1)
    a, b, c, angle = (value[..., None] for value in primitives.size.unbind(-1))
    size = primitives.size[..., None, :3]
    up = torch.tensor([0.0, 1.0, 0.0])
    rims = torch.cat([a[..., None] * circle - c[..., None] * up, b[..., None] * circle + c[..., None] * up], dim=-2)
    section = angle * torch.linspace(-1, 1, count)
    ring = torch.stack([a * section.cos(), a * section.sin(), torch.zeros_like(section)], dim=-1)
    kind = primitives.kind[..., None]
    local = torch.where(kind[..., None] == BOX, corners * size, sphere * size)
    local = torch.where(kind[..., None] == FRUSTUM, rims, local)
    local = torch.where(kind[..., None] == TORUS, ring, local)
    pads = torch.where(kind == ELLIPSOID, 0.03 * size.amax(-1), torch.zeros_like(section))
    pads = torch.where(kind == TORUS, b.expand_as(pads), pads)
    return local @ primitives.rotation.transpose(-1, -2) + primitives.center[..., None, :], pads


Number = float | Tensor


class Draws:
    """(N, K) uniform numbers of N objects, taken column by column, so that each object depends on its own row only.

    Every method draws (N,) values, `rotation` (N, 3, 3).
    """

    def __init__(self, uniforms: Tensor) -> None:
        self.uniforms = uniforms
        self._next = 0

    def __len__(self) -> int:
        return len(self.uniforms)

    def unit(self) -> Tensor:
        assert self._next < self.uniforms.shape[1], "a recipe takes more columns than there are"
        self._next += 1
        return self.uniforms[:, self._next - 1]

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


class Sketch:
    """Up to seven parts of N objects, in free units: what is drawn is scaled and centred later.

    `parts` holds one dict of tensors (N, ...) a part, with the names of `Objects`' fields and `color`, a palette index.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.parts: list[dict[str, Tensor]] = []

    def add(
        self,
        kind: int | Tensor,
        center: Tensor,
        size: Tensor,
        *,
        role: int = DETAIL,
        color: int | Tensor = 0,
        rotation: Tensor | None = None,
        present: Tensor | None = None,
    ) -> None:
        """One part: center (N, 3), size (N, 4) as `vector` and `sizes` make them, rotation (N, 3, 3) or upright."""
        assert len(self.parts) < MAX_PARTS, "a recipe draws too many parts"
        count = self.count
        there = torch.ones(count, dtype=torch.bool) if present is None else present
        part = self._primitive(kind, center, size, torch.eye(3) if rotation is None else rotation)
        part |= {f"second_{name}": value for name, value in part.items()}
        part |= {"joint": _whole(ALONE, count), "blend": torch.zeros(count), "label": torch.zeros(count, 4)}
        self.parts.append(part | {"role": torch.where(there, role, ABSENT), "color": _whole(color, count)})

    def _primitive(
        self, kind: int | Tensor, center: Tensor, size: Tensor, rotation: Tensor, prefix: str = ""
    ) -> dict[str, Tensor]:
        count = self.count
        values = {"kind": _whole(kind, count), "center": center.expand(count, 3), "size": size.expand(count, 4)}
        values["rotation"] = rotation.expand(count, 3, 3)
        return {f"{prefix}{name}": value for name, value in values.items()}

    def join(
        self,
        joint: int | Tensor,
        kind: int | Tensor,
        center: Tensor,
        size: Tensor,
        *,
        rotation: Tensor | None = None,
        blend: Number = 0.0,
    ) -> None:
        """Joins a second primitive to the part added last."""
        part = self.parts[-1]
        part |= self._primitive(kind, center, size, part["rotation"] if rotation is None else rotation, "second_")
        part |= {"joint": _whole(joint, self.count), "blend": torch.as_tensor(blend).expand(self.count)}

    def label(self, azimuth: Number, width: Number, middle: Number, height: Number, there: Tensor) -> None:
        """A patch of another coat on the part added last: radians about its y axis, lengths along it."""
        patch = sizes(azimuth, torch.where(there, width, 0.0), middle, height)
        self.parts[-1]["label"] = patch.expand(self.count, 4)

    def hollow(self, bottom: Number, top: Number, height: Number, center: Tensor, wall: Number) -> None:
        """Adds a body like a cup: a frustum, its inside cut out down to a floor as thick as the wall."""
        self.add(FRUSTUM, center, sizes(bottom, top, height), role=BODY)
        self.join(CUT, FRUSTUM, center + vector(0, wall * 1.5, 0), sizes(bottom - wall, top - wall, height))

    def rod(
        self,
        start: Tensor,
        end: Tensor,
        first: Number,
        last: Number,
        *,
        role: int = DETAIL,
        color: int | Tensor = 0,
        present: Tensor | None = None,
    ) -> None:
        """Adds a frustum from (N, 3) to (N, 3) with the radii at its ends."""
        axis = end - start
        length = axis.norm(dim=-1)
        size = sizes(first, last, length / 2).expand(self.count, 4)
        self.add(FRUSTUM, (start + end) / 2, size, role=role, color=color, rotation=towards(axis), present=present)


def vector(x: Number, y: Number, z: Number) -> Tensor:
    """(N, 3), or (1, 3) of plain numbers."""
    return _stacked(x, y, z)


def sizes(a: Number, b: Number, c: Number, d: Number = 0.0) -> Tensor:
    """(N, 4), or (1, 4) of plain numbers; see shapes.py for their meaning."""
    return _stacked(a, b, c, d)


def _stacked(*columns: Number) -> Tensor:
    numbers = torch.broadcast_tensors(*(torch.as_tensor(column, dtype=torch.float32).reshape(-1) for column in columns))
    return torch.stack(numbers, dim=-1)


def about(axis: str, angle: Number) -> Tensor:
    """(N, 3, 3) rotations about x, y or z by angles in radians."""
    half = torch.as_tensor(angle, dtype=torch.float32).reshape(-1) / 2
    x, y, z = (half.sin() if name == axis else torch.zeros_like(half) for name in "xyz")
    return quaternion_rotation(x, y, z, half.cos())


def towards(axis: Tensor) -> Tensor:
    """(N, 3) directions -> (N, 3, 3) rotations that take +Y there by the shortest way; not for straight down."""
    axis = axis / axis.norm(dim=-1, keepdim=True)
    x, y, z = axis.unbind(-1)
    quarter = torch.stack([z, torch.zeros_like(x), -x, 1 + y], dim=-1)  # (0, 1, 0) × axis, 1 + cos
    return quaternion_rotation(*(quarter / quarter.norm(dim=-1, keepdim=True)).unbind(-1))


def quaternion_rotation(x: Tensor, y: Tensor, z: Tensor, w: Tensor) -> Tensor:
    """(N,) components of unit quaternions -> (N, 3, 3)."""
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w),
        2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w),
        2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    turns: Tensor = torch.stack(rows, dim=-1).unflatten(-1, (3, 3))
    return turns


def _whole(value: int | Tensor, count: int) -> Tensor:
    return torch.as_tensor(value, dtype=torch.int64).expand(count)
