"""A soft 3D object in closed form: coloured Gaussian balls, smooth from every side."""

import torch
from torch import Tensor

from upfusion_core import Cameras
from upfusion_core.geometry import camera_rays
from upfusion_core.geometry.cameras import Similarity


class SoftObject:
    """Balls at `points`, drawn by each ray's distance from their centres."""

    def __init__(self, similarity: Similarity | None = None) -> None:
        generator = torch.Generator().manual_seed(1)
        self.points = (torch.rand(7, 3, generator=generator) - 0.5) * 0.22
        self.sizes = 0.015 + 0.03 * torch.rand(7, generator=generator)
        self.colors = 0.8 * torch.rand(7, 3, generator=generator)
        if similarity is not None:
            self.points = similarity.apply(self.points)
            self.sizes = self.sizes * similarity.scale
        self.calls = 0

    def __call__(self, cameras: Cameras, size: int) -> Tensor:
        """(Q, 3, size, size) on white."""
        self.calls += 1
        rays = camera_rays(cameras, size, size)
        offset = self.points - rays.origins[..., None, :]
        across = torch.linalg.cross(offset, rays.directions[..., None, :].expand_as(offset))
        weights = torch.exp(-across.square().sum(-1) / (2 * self.sizes**2))
        return 1 - (weights[..., None] * self.colors).sum(-2).clamp(0, 1).permute(0, 3, 1, 2)
