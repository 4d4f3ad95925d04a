"""The tinycudann backend against the definition, with a stand-in that follows tinycudann's documented conventions."""

import sys
from collections.abc import Iterator
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from refusals import refused
from torch import Tensor, nn

from upfusion_core.config import GridConfig
from upfusion_core.field.backends import _tinycudann_level, encode_by_tinycudann
from upfusion_core.field.hashgrid import encode_grid


class Encoding(nn.Module):
    """A hashed grid of one level: position·scale + 0.5, scale = base_resolution - 1, rows a multiple of 8."""

    def __init__(self, inputs: int, settings: dict[str, Any], dtype: torch.dtype) -> None:
        super().__init__()
        assert (inputs, settings["type"], settings["n_levels"], dtype) == (3, "Hash", 1, torch.float32)
        self.features = settings["n_features_per_level"]
        self.across = settings["base_resolution"]
        self.rows = min((self.across**3 + 7) // 8 * 8, 2 ** settings["log2_hashmap_size"])
        self.params = nn.Parameter(torch.zeros(self.rows * self.features))

    def forward(self, points: Tensor) -> Tensor:
        table = self.params.reshape(self.rows, self.features)
        position = points * (self.across - 1.0) + 0.5
        lower = position.detach().floor()
        upper = position - lower
        result = torch.zeros(len(points), self.features)
        for corner in product((0, 1), repeat=3):
            sides = torch.tensor(corner)
            x, y, z = (lower.long() + sides).unbind(-1)
            number = x + y * self.across + z * self.across**2
            if self.rows < self.across**3:
                number = x ^ (y * 2654435761) ^ (z * 805459861)
            weight = torch.where(sides.bool(), upper, 1 - upper).prod(-1)
            result = result + weight[:, None] * table[(number % 2**32) % self.rows]
        return result


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "tinycudann", SimpleNamespace(Encoding=Encoding))
    _tinycudann_level.cache_clear()
    yield
    _tinycudann_level.cache_clear()


@pytest.mark.parametrize("features", [1, 2])
def test_values_and_gradients_of_hashed_grids(features: int) -> None:
    config = GridConfig(levels=3, features=features, coarsest=2, finest=37, table_size=64, indexing="hashed")
    assert 0 < config.dense_levels < 3
    generator = torch.Generator().manual_seed(5)
    points = (torch.rand(50, 3, generator=generator) * 1.1 - 0.05).requires_grad_()
    table = torch.randn(sum(config.rows), features, generator=generator).requires_grad_()
    upstream = torch.randn(50, config.width, generator=generator)
    encoded = [encode(points, table, config) for encode in (encode_by_tinycudann, encode_grid)]
    slopes, rows = zip(*(torch.autograd.grad(one, (points, table), upstream) for one in encoded), strict=True)
    # moving the points rounds them: 37 cells · 6e-8 · slopes of a cell, and again as much for other cells' sums
    inside = ((points > 1e-3) & (points < 1 - 1e-3)).all(-1)
    torch.testing.assert_close(*encoded, atol=2e-5, rtol=0)
    torch.testing.assert_close(slopes[0][inside], slopes[1][inside], atol=2e-3, rtol=0)
    torch.testing.assert_close(*rows, atol=5e-5, rtol=0)


def test_tiled_grids_and_no_points() -> None:
    config = GridConfig(levels=2, coarsest=2, finest=3, table_size=64)  # every level is dense
    points = torch.rand(9, 3, generator=torch.Generator().manual_seed(5))
    table = torch.arange(2.0 * sum(config.rows)).reshape(-1, 2).requires_grad_()
    encoded = [encode(points, table, config) for encode in (encode_by_tinycudann, encode_grid)]
    torch.testing.assert_close(*encoded, atol=1e-3, rtol=1e-5)
    nothing = encode_by_tinycudann(points[:0], table, config)
    assert nothing.shape == (0, 4)
    nothing.sum().backward()
    assert not table.grad.any()
    wide = GridConfig(levels=1, features=3, coarsest=2, finest=2, table_size=64)
    refused("needs 1, 2, 4 or 8 features, got 3", encode_by_tinycudann, points, torch.zeros(27, 3), wide)
    wrapped = GridConfig(levels=2, coarsest=2, finest=9, table_size=64)
    refused("cannot wrap tiled levels", encode_by_tinycudann, points, torch.zeros(sum(wrapped.rows), 2), wrapped)
