"""Objects as tables with one column a part, from which the renderer takes the columns that its rays need."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .primitives import primitive_distance
from .shapes import (
    ABSENT,
    ALONE,
    BLEND,
    BOX,
    ELLIPSOID,
    FRUSTUM,
    TORUS,
    Objects,
    Primitives,
    bounding_balls,
)

SOLVERS = (ELLIPSOID, BOX, FRUSTUM, TORUS, "carved", "blended")
"""How a part is hit: its only primitive's kind, intervals of two primitives, or steps through a smooth union."""
CARVED, BLENDED = 4, 5


@dataclass(frozen=True, eq=False)
class Placed:
    """Primitives by column: (16, N) rotation (row-major, local to world), centre and size; kind (N,)."""

    numbers: Tensor
    kind: Tensor

    @staticmethod
    def of(primitives: Primitives) -> Placed:
        """(B, P) primitives as B·P columns."""
        numbers = torch.cat([primitives.rotation.flatten(2), primitives.center, primitives.size], dim=-1)
        return Placed(numbers.flatten(0, 1).T.contiguous(), primitives.kind.flatten())

    def taken(self, column: Tensor) -> Placed:
        """The given columns, (M,) int64, repeated as they come."""
        return Placed(self.numbers.index_select(1, column), self.kind.index_select(0, column))

    @property
    def size(self) -> Tensor:
        """(4, N)."""
        return self.numbers[12:]

    def points_to_local(self, points: Tensor) -> Tensor:
        """(3, N) world points -> the primitives' own frames."""
        return self.directions_to_local(points - self.numbers[9:12])

    def directions_to_local(self, directions: Tensor) -> Tensor:
        """(3, N) world directions -> the primitives' own frames."""
        local: Tensor = (self.numbers[:9].unflatten(0, (3, 3)) * directions[:, None]).sum(0)
        return local

    def directions_to_world(self, directions: Tensor) -> Tensor:
        """(3, N) directions in the primitives' own frames -> world."""
        world: Tensor = (self.numbers[:9].unflatten(0, (3, 3)) * directions[None]).sum(1)
        return world

    def distance(self, points: Tensor) -> Tensor:
        """(N,) signed distances of (3, N) world points."""
        return primitive_distance(self.kind, self.points_to_local(points), self.size)


@dataclass(frozen=True, eq=False)
class Tables:
    """B objects of P parts: column b·P + p holds part p of object b, coat column (b·P + p)·3 + c its coat c.

    parts: P. first, second: B·P columns. joint, blend, solver (index into SOLVERS, -1 for absent parts): (B·P,).
    ball_center (B, P, 3), ball_radius (B, P): balls around the parts, radius -1 for absent ones.
    coats: (15, B·P·3) two colours, u, v, frequency, phase, turns. pattern: (B·P·3,). label: (4, B·P).
    light: (7, B) direction, ambient, tint.
    """

    parts: int
    first: Placed
    second: Placed
    joint: Tensor
    blend: Tensor
    solver: Tensor
    ball_center: Tensor
    ball_radius: Tensor
    coats: Tensor
    pattern: Tensor
    label: Tensor
    light: Tensor

    @staticmethod
    def of(objects: Objects) -> Tables:
        """The tables of `objects`, on their device."""
        coats, light = objects.coats, objects.light
        centers, radii = bounding_balls(objects)
        scalars = torch.stack([coats.frequency, coats.phase, coats.turns], dim=-1)
        numbers = torch.cat([coats.colors.flatten(-2), coats.axes.flatten(-2), scalars], dim=-1)
        solver = torch.where(objects.joint == ALONE, objects.first.kind, torch.full_like(objects.joint, CARVED))
        solver = solver.masked_fill(objects.joint == BLEND, BLENDED).masked_fill(objects.role == ABSENT, -1)
        return Tables(
            parts=objects.role.shape[1],
            first=Placed.of(objects.first),
            second=Placed.of(objects.second),
            joint=objects.joint.flatten(),
            blend=objects.blend.flatten(),
            solver=solver.flatten(),
            ball_center=centers,
            ball_radius=radii,
            coats=numbers.flatten(0, 2).T.contiguous(),
            pattern=coats.pattern.flatten(),
            label=objects.label.flatten(0, 1).T.contiguous(),
            light=torch.cat([light.direction, light.ambient[:, None], light.tint], dim=-1).T.contiguous(),
        )
