"""A similarity of the world: turn, scale and shift."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..types import Cameras


@dataclass(frozen=True, eq=False)
class Similarity:
    """x -> scale · rotation · x + translation, on world points.

    scale: above 0. rotation: (3, 3), determinant 1. translation: (3,) in scene units.
    """

    scale: float
    rotation: Tensor
    translation: Tensor

    @classmethod
    def identity(cls) -> Similarity:
        """Moves nothing."""
        return cls(1.0, torch.eye(3), torch.zeros(3))

    @classmethod
    def from_angles(
        cls,
        yaw_degrees: float = 0.0,
        pitch_degrees: float = 0.0,
        roll_degrees: float = 0.0,
        *,
        scale: float = 1.0,
        translation: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> Similarity:
        """Turned about +Z by roll, then about +X by pitch, then about +Y by yaw."""
        angles = [math.radians(angle) for angle in (yaw_degrees, pitch_degrees, roll_degrees)]
        return cls.from_parameters(torch.tensor([*angles, math.log(scale), *translation], dtype=torch.float32))

    @classmethod
    def from_parameters(cls, parameters: Tensor) -> Similarity:
        """(7,) yaw, pitch, roll in radians, logarithm of the scale, shift; in the order of `from_angles`."""
        yaw, pitch, roll = (_turn(float(angle), axis) for angle, axis in zip(parameters[:3], (1, 0, 2), strict=True))
        return cls(float(parameters[3].double().exp()), (yaw @ pitch @ roll).float(), parameters[4:].float())

    def apply(self, points: Tensor) -> Tensor:
        """(..., 3) points of the object -> where they come to lie."""
        return self.scale * points @ self.rotation.to(points).T + self.translation.to(points)

    def move(self, cameras: Cameras) -> Cameras:
        """Cameras that see the object as `cameras` see it once this similarity has been applied to it."""
        rotation, translation = self.rotation.to(cameras.device).float(), self.translation.to(cameras.device).float()
        matrices = cameras.camera_to_world.clone()
        matrices[:, :3, :3] = rotation.T @ matrices[:, :3, :3]
        matrices[:, :3, 3] = (matrices[:, :3, 3] - translation) @ rotation / self.scale
        return Cameras(matrices, cameras.focal, cameras.principal)


def _turn(angle: float, axis: int) -> Tensor:
    """(3, 3) float64 right-handed rotation about a coordinate axis, by radians."""
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix = torch.eye(3, dtype=torch.float64)
    matrix[first, first] = matrix[second, second] = math.cos(angle)
    matrix[second, first] = math.sin(angle)
    matrix[first, second] = -math.sin(angle)
    return matrix
