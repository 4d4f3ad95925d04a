"""A coarse memory of where the field is dense, so that rays ask it only where something can be seen."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checks import check_count, check_range
from .rendering import sum_before

HIDDEN_DEPTH = 7.0
"""Optical depth beyond which nothing is seen: exp(-7) of the light is left."""


class OccupancyGrid(nn.Module):
    """Remembered densities on N³ cells of a box; tells which samples of a ray can be seen.

    A cell counts as empty if it and its 26 neighbours were last seen no denser than `threshold` per scene unit, and as
    solid with the least density of all 27. Samples in empty cells, and those behind enough solid, cannot be seen.
    Before the first update every sample can. Its buffers make it resumable.

    density: (N, N, N) buffer, axes x, y, z, as remembered. occupied, solid: (N, N, N), from it.
    """

    aabb: Tensor
    density: Tensor
    occupied: Tensor
    solid: Tensor

    def __init__(self, aabb: Tensor, cells: int = 40, *, threshold: float = 0.5) -> None:
        super().__init__()
        check_count("cells", cells, 1, 512)
        check_range("threshold", threshold, 0.0)
        self.threshold = threshold
        shape = (cells, cells, cells)
        self.register_buffer("aabb", aabb.detach().clone(), persistent=False)
        self.register_buffer("density", torch.zeros(shape, device=aabb.device))
        self.register_buffer("occupied", torch.ones(shape, dtype=torch.bool, device=aabb.device))
        self.register_buffer("solid", torch.zeros(shape, device=aabb.device))

    @torch.no_grad()
    def update(
        self,
        density: Callable[[Tensor], Tensor],
        *,
        decay: float = 0.5,
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
        most = F.max_pool3d(self.density[None, None], 3, stride=1, padding=1)[0, 0]
        self.occupied.copy_(~(most <= self.threshold))  # NaN counts as occupied, so that a render shows it
        least = -F.max_pool3d(-news[None, None], 3, stride=1, padding=1)[0, 0]
        self.solid.copy_(least.nan_to_num(0.0))

    @torch.no_grad()
    def forward(self, points: Tensor, lengths: Tensor) -> Tensor:
        """Ascending points (R, S, 3) along rays, with the lengths (R, S) they stand for -> (R, S) bool."""
        cells = len(self.density)
        low, high = self.aabb
        place = ((points - low) * (cells / (high - low))).nan_to_num(0.0).clamp(0, cells - 1).int()
        number = ((place[..., 0] * cells + place[..., 1]) * cells + place[..., 2]).reshape(-1)
        occupied = self.occupied.reshape(-1).index_select(0, number).reshape(lengths.shape)
        depth = self.solid.reshape(-1).index_select(0, number).reshape(lengths.shape) * lengths
        return occupied & (sum_before(depth) < HIDDEN_DEPTH)
