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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..support.errors import InputError

ELLIPSOID, BOX, FRUSTUM, TORUS = range(4)

ALONE, CUT, INTERSECT, BLEND = range(4)

ABSENT = -1
BODY, HANDLE, SPOUT, LEG, LID, DETAIL = range(6)
ROLES = ("body", "handle", "spout", "leg", "lid", "detail")

PLAIN, STRIPES, CHECKS, GRADIENT, NOISE, TWO_TONE, DOTS = range(7)
PATTERNS = ("plain", "stripes", "checks", "gradient", "noise", "two_tone", "dots")

MAX_PARTS = 7
COATS = 3  # of a part: 0 its outside, 1 its label, 2 the surface of its second primitive (the inside of a cup)

_FROZEN = json.loads((Path(__file__).parent / "splits.json").read_text(encoding="utf-8"))

GENERATOR_VERSION: int = _FROZEN["generator_version"]
"""Raised whenever the same seed would give another object."""
_FIRST, _SECOND = _FROZEN["held_out_combination"]
HELD_OUT_ROLES: tuple[int, int] = ROLES.index(_FIRST), ROLES.index(_SECOND)
"""Two roles that no object of train, validation or test has together."""
HELD_OUT_PATTERN: int = PATTERNS.index(_FROZEN["held_out_pattern"])
"""A pattern that no object of train, validation or test wears."""


@dataclass(frozen=True)
class Split:
    """Seeds first_seed … first_seed + objects - 1 of one split, below 2^32, where torch's generator wraps."""

    name: str
    first_seed: int
    objects: int

    def seeds(self, indices: Tensor | Sequence[int]) -> list[int]:
        chosen = [int(index) for index in indices]
        if chosen and not 0 <= min(chosen) <= max(chosen) < self.objects:
            raise InputError(
                f"objects of split {self.name!r} are numbered 0 to {self.objects - 1}, "
                f"got {min(chosen)} to {max(chosen)}; take indices in that range"
            )
        return [self.first_seed + index for index in chosen]


SPLITS: dict[str, Split] = {name: Split(name, **numbers) for name, numbers in _FROZEN["splits"].items()}
"""train, validation, test, and held_out: even indices have the held-out roles, odd ones the held-out pattern."""


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

    pattern: (B, P, 3) int64, index into PATTERNS. colors: (B, P, 3, 2, 3) sRGB in [0, 1].
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
class Objects:
    """B objects as tensors.

    first, second: the primitives of each part. joint: (B, P) int64, how they are joined: ALONE (second is unused), CUT
    (first without second), INTERSECT, BLEND (smooth union). Neither side of a cut or intersection is a torus.
    blend: (B, P) length over which a BLEND is smooth.
    role: (B, P) int64, index into ROLES, ABSENT for padding.
    label: (B, P, 4): azimuth about y (radians, 0 on +z towards +x), half width (radians; 0 = no label), middle and half
    height along y, in the first primitive's frame.
    """

    first: Primitives
    second: Primitives
    joint: Tensor
    blend: Tensor
    role: Tensor
    coats: Coats
    label: Tensor
    light: Light

    def __len__(self) -> int:
        return self.role.shape[0]

    @property
    def device(self) -> torch.device:
        return self.role.device

    @property
    def present(self) -> Tensor:
        """(B, P) bool: the parts that are there."""
        return self.role != ABSENT

    def __getitem__(self, index: int | slice | Tensor) -> Objects:
        """The chosen objects; an integer gives one, still with its leading axis."""
        if isinstance(index, int):
            index = range(len(self))[index]  # raises IndexError, so that iteration ends
            index = slice(index, index + 1)
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
        return replace(self, first=self.first.turned(turn), second=self.second.turned(turn), light=light)

    def first_parts(self, count: int) -> Objects:
        """The same objects with only their first `count` parts: those that matter most come first."""
        if count < 1:
            raise InputError(f"an object keeps at least 1 part, got {count}")
        kept = self.present & (self.present.cumsum(1) <= count)
        return replace(self, role=torch.where(kept, self.role, torch.full_like(self.role, ABSENT)))


def bounding_balls(objects: Objects) -> tuple[Tensor, Tensor]:
    """(B, P, 3) centres and (B, P) radii of balls around the parts; radius -1 for absent parts."""
    near, far = _radius(objects.first), _radius(objects.second)
    blended = objects.joint == BLEND
    between = objects.second.center - objects.first.center
    gap = between.norm(dim=-1)
    inside = gap + far <= near  # the first ball holds the second
    swallowed = gap + near <= far
    around = ((gap + near + far) / 2).where(~inside, near).where(~swallowed, far)
    shift = ((around - near) / gap.clamp_min(1e-9)).where(~inside, torch.zeros_like(gap))
    shift = torch.where(swallowed & ~inside, torch.ones_like(shift), shift)
    radius = torch.where(blended, around + objects.blend / 4, near)
    center = objects.first.center + torch.where(blended, shift, torch.zeros_like(shift))[..., None] * between
    return center, torch.where(objects.present, radius, torch.full_like(radius, -1.0))


def _radius(primitives: Primitives) -> Tensor:
    a, b, c, _ = primitives.size.unbind(-1)
    ball = torch.maximum(torch.maximum(a, b), c)
    corner = (a * a + b * b + c * c).sqrt()
    rim = (torch.maximum(a, b) ** 2 + c * c).sqrt()
    radii = torch.stack([ball, corner, rim, a + b], dim=-1)
    return radii.gather(-1, primitives.kind[..., None])[..., 0]


def _mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:  # noqa: ANN401 - a tensor, or a dataclass of them
    """A copy of nested dataclasses with `function` applied to every tensor."""
    if isinstance(value, Tensor):
        return function(value)
    return type(value)(**{field.name: _mapped(getattr(value, field.name), function) for field in fields(value)})
