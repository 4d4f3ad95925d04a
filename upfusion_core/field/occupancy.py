"""A coarse memory of where the field is dense, so that rays ask it only where something can be seen."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checks import check_range


class OccupancyGrid(nn.Module):
    """Remembered densities on N³ cells of a box; called with (P, 3) points it tells which may hold something.

    A cell counts as occupied if it or one of its 26 neighbours was last seen denser than `threshold` per scene unit.
    Everything is occupied until the first update. Its buffers make it resumable.

    density: (N, N, N) buffer, axes x, y, z, as remembered. occupied: (N, N, N) bool buffer.
    """

    aabb: Tensor
    density: Tensor
    occupied: Tensor

    def __init__(self, aabb: Tensor, cells: int = 40, *, threshold: float = 0.5) -> None:
        super().__init__()
        check_range("cells", cells, 1, 512)
        check_range("threshold", threshold, 0.0)
        self.threshold = threshold
        shape = (cells, cells, cells)
        self.register_buffer("aabb", aabb.detach().clone(), persistent=False)
        self.register_buffer("density", torch.zeros(shape, device=aabb.device))
        self.register_buffer("occupied", torch.ones(shape, dtype=torch.bool, device=aabb.device))

    @torch.no_grad()
    def update(
        self,
        density: Callable[[Tensor], Tensor],
        *,
        decay: float = 0.8,
        generator: torch.Generator | None = None,
    ) -> None:
        """Asks the field once in every cell, at a drawn place or in the middle; keeps the greater of news and memory.

        Args:
            density: (P, 3) world points -> (P,).
            decay: what is left of a cell's memory; 0 forgets.
        """
        cells = len(self.density)
        axis = torch.arange(cells, device=self.aabb.device)
        corner = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)
        place: Tensor | float = 0.5
        if generator is not None:
            place = torch.rand(corner.shape, generator=generator, device=generator.device).to(self.aabb)
        points = self.aabb[0] + (self.aabb[1] - self.aabb[0]) * (corner + place) / cells
        news = torch.cat([density(part) for part in points.split(2**17)]).reshape(self.density.shape)
        self.density.copy_(torch.maximum(self.density * decay, news))
        spread = F.max_pool3d(self.density[None, None], 3, stride=1, padding=1)[0, 0]
        self.occupied.copy_(~(spread <= self.threshold))  # NaN counts as occupied, so that a render shows it

    @torch.no_grad()
    def forward(self, points: Tensor) -> Tensor:
        """(P, 3) world points -> (P,) bool; outside the box the answer of its nearest cell."""
        cells = len(self.density)
        low, high = self.aabb
        index = ((points - low) * (cells / (high - low))).long().clamp(0, cells - 1)
        return self.occupied.reshape(-1)[(index[:, 0] * cells + index[:, 1]) * cells + index[:, 2]]
