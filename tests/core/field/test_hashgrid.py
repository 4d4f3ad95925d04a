import itertools
import math

import pytest
import torch
from torch import Tensor

from upfusion_core.config import GridConfig
from upfusion_core.field.backends import HashGrid
from upfusion_core.field.hashgrid import HASH_PRIMES, encode_grid

SMALL = {"levels": 3, "features": 2, "coarsest": 2, "finest": 9, "table_size": 64}


def _table(config: GridConfig, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(sum(config.rows), config.features, generator=generator, dtype=dtype)


def _naive(point: list[float], table: Tensor, config: GridConfig) -> list[float]:
    """The encoding of one point by plain loops over levels, corners and features."""
    result, start = [], 0
    for cells, rows in zip(config.resolutions, config.rows, strict=True):
        position = [min(max(value, 0.0), 1.0) * cells for value in point]
        lower = [min(int(value), cells - 1) for value in position]
        values = [0.0] * config.features
        for corner in itertools.product((0, 1), repeat=3):
            lattice = [low + side for low, side in zip(lower, corner, strict=True)]
            weight = math.prod(1 - abs(place - value) for place, value in zip(position, lattice, strict=True))
            number = lattice[0] + lattice[1] * (cells + 1) + lattice[2] * (cells + 1) ** 2
            if (cells + 1) ** 3 > rows and config.indexing == "hashed":
                products = [value * prime for value, prime in zip(lattice, HASH_PRIMES, strict=True)]
                number = products[0] ^ products[1] ^ products[2]
            row = table[start + number % rows]
            values = [value + weight * float(row[index]) for index, value in enumerate(values)]
        result += values
        start += rows
    return result


def test_one_cell_by_hand() -> None:
    config = GridConfig(levels=1, features=1, coarsest=1, finest=1, table_size=8)
    table = torch.arange(8.0)[:, None]  # row = x + 2y + 4z
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0.5, 0.5, 0.5], [0.25, 0, 0.5]])
    assert encode_grid(points, table, config)[:, 0].tolist() == [0, 1, 2, 4, 7, 3.5, 2.25]
    faces = torch.tensor([[0.0, 1.0, 0.5], [1.0, 0.0, 1.0]], requires_grad=True)  # points on them have a slope
    encode_grid(faces, table, config).sum().backward()
    assert faces.grad.tolist() == [[1, 2, 4], [1, 2, 4]]


@pytest.mark.parametrize("indexing", ["tiled", "hashed"])
def test_agrees_with_plain_loops(indexing: str) -> None:
    config = GridConfig(**SMALL, indexing=indexing)
    assert config.dense_levels == 1  # so that both kinds of level are covered
    table = _table(config)
    points = torch.rand(20, 3, generator=torch.Generator().manual_seed(2)) * 1.2 - 0.1
    points[0], points[1] = torch.zeros(3), torch.ones(3)
    expected = torch.tensor([_naive(point, table, config) for point in points.tolist()])
    torch.testing.assert_close(encode_grid(points, table, config), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("indexing", ["tiled", "hashed"])
def test_gradients_of_table_and_positions(indexing: str) -> None:
    config = GridConfig(**SMALL, indexing=indexing)
    table = _table(config, torch.float64).requires_grad_()
    points = torch.rand(3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda p, t: encode_grid(p, t, config), (points, table))
    assert torch.autograd.gradgradcheck(lambda p, t: encode_grid(p, t, config), (points, table), fast_mode=True)


def test_the_start_is_small_and_follows_the_generator() -> None:
    config = GridConfig(**SMALL)
    first, again, other = (HashGrid(config, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first.table, again.table)
    assert not torch.equal(first.table, other.table)
    assert 5e-5 < first.table.abs().max() <= 1e-4
    assert first(torch.zeros(0, 3)).shape == (0, 6)
    assert first(torch.full((1, 3), float("nan"))).isnan().all()
    released = GridConfig()
    assert (released.width, released.rows[::15], released.resolutions[::15]) == (32, (17**3, 65536), (16, 2048))
