"""Fields given by formulas, with the interface that meshes are made from."""

from collections.abc import Callable

import torch
import trimesh
from torch import Tensor

Density = Callable[[Tensor], Tensor]


class AnalyticField:
    """Density and colour of points by formulas; colour = place unless given. Counts the points of each question."""

    def __init__(self, density: Density, extent: float = 0.5, color: Density | None = None) -> None:
        self._density, self._color = density, color or (lambda points: (points + 0.5).clamp(0, 1))
        self.aabb = torch.tensor([[-extent] * 3, [extent] * 3])
        self.asked: list[int] = []

    def density(self, points: Tensor) -> Tensor:
        self.asked.append(points[..., 0].numel())
        return self._density(points)

    def color(self, points: Tensor) -> Tensor:
        return self._color(points)

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        return self.density(points), self.color(points)


def ball(radius: float = 0.2, peak: float = 200.0, center: tuple = (0.0, 0, 0), softness: float = 0.004) -> Density:
    middle = torch.tensor(center)
    return lambda points: peak * torch.sigmoid((radius - (points - middle).norm(dim=-1)) / softness)


def torus(ring: float = 0.18, tube: float = 0.07, peak: float = 300.0, softness: float = 0.003) -> Density:
    """About the y axis."""

    def density(points: Tensor) -> Tensor:
        x, y, z = points.unbind(-1)
        return peak * torch.sigmoid((tube - torch.hypot(torch.hypot(x, z) - ring, y)) / softness)

    return density


def solid(vertices: Tensor, faces: Tensor) -> trimesh.Trimesh:
    """A mesh to be measured; closed and consistently wound, as all that is extracted must be."""
    mesh = trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    return mesh
