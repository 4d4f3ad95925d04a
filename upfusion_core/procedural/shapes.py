"""What a procedural object is: at most seven parts, each a primitive or two of them joined, its coats and its light.

Everything is batched over B objects and P parts (padded, see `Objects.role`). Lengths are scene units, the frame is the
world's: +Y up, object about the origin. A primitive's own frame has its centre at 0::

    ELLIPSOID  size = semi-axes along x, y, z
    BOX        size = half extents along x, y, z
    FRUSTUM    about the y axis; size = radius at y = -h, radius at y = +h, h; equal radii make a cylinder, 0 a cone
    TORUS      ring in the xy plane; size = ring radius, tube radius, unused, half-angle of its section (radians) about
               the +x axis, pi for a whole torus; a section ends in balls
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..geometry import sphere_directions
from ..types import as_slice

ELLIPSOID, BOX, FRUSTUM, TORUS = range(4)

ALONE, CUT, INTERSECT, BLEND = range(4)

ABSENT = -1
BODY, HANDLE, SPOUT, LEG, LID, DETAIL = range(6)

MAX_PARTS = 7
COATS = 3  # of a part: 0 its outside, 1 its label, 2 the surface of its second primitive (the inside of a cup)
LARGEST_RADIUS = 0.195  # of what is drawn; surfaces stay within 0.2, which cameras of focal 4.5 at distance 1 see whole

_FROZEN = json.loads((Path(__file__).parent / "splits.json").read_text(encoding="utf-8"))

GENERATOR_VERSION: int = _FROZEN["generator_version"]  # raised whenever the same seed would give another object
VERSIONS = (GENERATOR_VERSION, 2)  # 1 is the yardstick; 2 draws what people photograph, see staging.py
# two roles that no object of train, validation or test has together, and a pattern that none of them wears
HELD_OUT_ROLES: tuple[str, str] = tuple(_FROZEN["held_out_combination"])
HELD_OUT_PATTERN: str = _FROZEN["held_out_pattern"]


class Split(NamedTuple):
    """Seeds first_seed … first_seed + objects - 1, below 2^32, where torch's generator wraps."""

    first_seed: int
    objects: int


# held_out: even indices have the held-out roles, odd ones the held-out pattern
SPLITS = {name: Split(**numbers) for name, numbers in _FROZEN["splits"].items()}


@dataclass(frozen=True, eq=False)
class Primitives:
    """kind (B, P) int64; rotation (B, P, 3, 3), columns = own axes in the world; center (B, P, 3); size (B, P, 4)."""

    kind: Tensor
    rotation: Tensor
    center: Tensor
    size: Tensor

    def turned(self, turn: Tensor) -> Primitives:
        """By (B, 3, 3) rotations about the origin."""
        center = (turn[:, None] @ self.center[..., None])[..., 0]
        return replace(self, rotation=turn[:, None] @ self.rotation, center=center)


@dataclass(frozen=True, eq=False)
class Coats:
    """Colours of B objects, P parts and 3 coats each; pattern coordinates are lengths in the first primitive's frame.

    pattern: (B, P, 3) int64, a pattern of render.py. colors: (B, P, 3, 2, 3) sRGB in [0, 1].
    axes: (B, P, 3, 2, 3) two orthonormal directions u and v. frequency: (B, P, 3) periods a scene unit. phase:
    (B, P, 3) periods. turns: (B, P, 3) periods once round the y axis where u is that angle, 0 where u is a length.
    """

    pattern: Tensor
    colors: Tensor
    axes: Tensor
    frequency: Tensor
    phase: Tensor
    turns: Tensor


@dataclass(frozen=True, eq=False)
class Light:
    """Soft light that stands still in the world, so that all views of an object agree.

    direction: (B, 3) unit, towards the light. ambient: (B,) share in [0, 1] that reaches every surface.
    tint: (B, 3) colour of the light.
    """

    direction: Tensor
    ambient: Tensor
    tint: Tensor


@dataclass(frozen=True, eq=False)
class Staging:
    """How B objects of version 2 stand in the world: stretched, moved, under further lights.

    inward: (B, 3, 3) and origin: (B, 3), x = inward (x' - origin) takes the world to the frame in which the parts are
    given. middle: (B, 3) the object's, in the world. radius: (B,) of the ball about it that holds the object.
    fills: (B, L, 6) directions towards further lights, of unit length, and their colours.
    """

    inward: Tensor
    origin: Tensor
    middle: Tensor
    radius: Tensor
    fills: Tensor

    def turned(self, turn: Tensor) -> Staging:
        """By (B, 3, 3) rotations about the world's origin."""
        directions, colors = self.fills.split(3, dim=-1)
        fills = torch.cat([directions @ turn.transpose(1, 2), colors], dim=-1)
        origin, middle = ((turn @ place[..., None])[..., 0] for place in (self.origin, self.middle))
        return replace(self, inward=self.inward @ turn.transpose(1, 2), origin=origin, middle=middle, fills=fills)


@dataclass(frozen=True, eq=False)
class Objects:
    """B objects as tensors.

    first, second: the primitives of each part. joint: (B, P) int64, how they are joined: ALONE (second is unused), CUT
    (first without second), INTERSECT, BLEND (smooth union). Neither side of a cut or intersection is a torus.
    blend: (B, P) length over which a BLEND is smooth.
    role: (B, P) int64, what the part is: BODY …, ABSENT for padding.
    label: (B, P, 4): azimuth about y (radians, 0 on +z towards +x), half width (radians; 0 = no label), middle and half
    height along y, in the first primitive's frame.
    staging: of objects of version 2, whose parts are given in frames of their own; None: the world is that frame.
    """

    first: Primitives
    second: Primitives
    joint: Tensor
    blend: Tensor
    role: Tensor
    coats: Coats
    label: Tensor
    light: Light
    staging: Staging | None = None

    def __len__(self) -> int:
        return self.role.shape[0]

    @property
    def device(self) -> torch.device:
        return self.role.device

    @property
    def version(self) -> int:
        """Of the generator that drew them."""
        return VERSIONS[self.staging is not None]

    @property
    def present(self) -> Tensor:
        """(B, P) bool: the parts that are there."""
        return self.role != ABSENT

    def __getitem__(self, index: int | slice | Tensor) -> Objects:
        """The chosen objects; an integer gives one, still with its leading axis."""
        index = as_slice(index, len(self))
        chosen: Objects = _mapped(self, lambda value: value[index])
        return chosen

    def to(self, device: torch.device | str) -> Objects:
        moved: Objects = _mapped(self, lambda value: value.to(device, non_blocking=True))
        return moved

    def turned(self, azimuth_degrees: Tensor) -> Objects:
        """The objects and their light turned about +Y, each by its angle (B,); +90 takes +Z to +X."""
        angle = torch.deg2rad(azimuth_degrees)
        zero, one = torch.zeros_like(angle), torch.ones_like(angle)
        rows = [angle.cos(), zero, angle.sin(), zero, one, zero, -angle.sin(), zero, angle.cos()]
        turn: Tensor = torch.stack(rows, dim=-1).unflatten(-1, (3, 3))  # (B, 3, 3)
        light = replace(self.light, direction=(turn @ self.light.direction[..., None])[..., 0])
        if self.staging is not None:
            return replace(self, light=light, staging=self.staging.turned(turn))
        return replace(self, first=self.first.turned(turn), second=self.second.turned(turn), light=light)

    def first_parts(self, count: int) -> Objects:
        """The same objects with only their first `count` parts: those that matter most come first."""
        kept = self.present & (self.present.cumsum(1) <= count)
        return replace(self, role=self.role.masked_fill(~kept, ABSENT))


def framed(objects: Objects, radius: Tensor) -> Objects:
    """The objects moved so that their boxes' middles are at the origin, scaled into balls of radii (B,) about it.

    What a cut takes away counts as if it were there. Patterns keep their periods; labels grow with their parts.
    """
    points, pads, seen = outlines(objects)
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

    blend, lengths = objects.blend * scale[:, None], torch.stack([one, one, scale, scale], dim=-1)[:, None]
    first, second, label = placed(objects.first), placed(objects.second), objects.label * lengths
    return replace(objects, first=first, second=second, blend=blend, label=label)


def outlines(objects: Objects) -> tuple[Tensor, Tensor, Tensor]:
    """(B, P, K, 3) points on the parts' outlines, (B, P, K) how far the surface may be beyond, which of them count."""
    points, pads = _outline(objects.first)
    others, more = _outline(objects.second)
    points, pads = torch.cat([points, others], dim=2), torch.cat([pads, more + objects.blend[..., None] / 4], dim=2)
    there = objects.present[..., None].expand_as(more)
    return points, pads, torch.cat([there, there & (objects.joint == BLEND)[..., None]], dim=2)


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


def bounding_balls(objects: Objects) -> tuple[Tensor, Tensor]:
    """(B, P, 3) centres and (B, P) radii of balls around the parts; radius -1 for absent parts."""
    near, far = _radius(objects.first), _radius(objects.second)
    blended = objects.joint == BLEND
    between = objects.second.center - objects.first.center
    gap = between.norm(dim=-1)
    inside = gap + far <= near  # the first ball holds the second
    swallowed = (gap + near <= far) & ~inside
    around = ((gap + near + far) / 2).where(~inside, near).where(~swallowed, far)
    shift = ((around - near) / gap.clamp_min(1e-9)).masked_fill(inside | ~blended, 0)
    shift = shift.masked_fill(swallowed & blended, 1)
    radius = torch.where(blended, around + objects.blend / 4, near)
    return objects.first.center + shift[..., None] * between, radius.masked_fill(~objects.present, -1)


def _radius(primitives: Primitives) -> Tensor:
    a, b, c, _ = primitives.size.unbind(-1)
    ball = torch.maximum(torch.maximum(a, b), c)
    corner = (a * a + b * b + c * c).sqrt()
    rim = (torch.maximum(a, b) ** 2 + c * c).sqrt()
    radii = torch.stack([ball, corner, rim, a + b], dim=-1)
    return radii.gather(-1, primitives.kind[..., None])[..., 0]


def _mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:  # noqa: ANN401 - a tensor, or a dataclass of them
    """A copy of nested dataclasses with `function` applied to every tensor; what is None stays."""
    if value is None or isinstance(value, Tensor):
        return None if value is None else function(value)
    return type(value)(**{field.name: _mapped(getattr(value, field.name), function) for field in fields(value)})
