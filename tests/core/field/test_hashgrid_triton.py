"""The Triton kernels, run by Triton's interpreter on the CPU, against the definition in torch."""

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor

from upfusion_core.config import GridConfig
from upfusion_core.field.backends import choose_backend
from upfusion_core.field.hashgrid import encode_grid

NAME = "upfusion_core.field._triton"
SMALL = {"levels": 2, "coarsest": 3, "finest": 9, "table_size": 64}  # a dense level and a shared one


@pytest.fixture(scope="module")
def kernels() -> Iterator[ModuleType]:
    pytest.importorskip("triton", reason="needs the package triton, which is for Linux and Windows")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")  # read when a kernel is defined
        patch.delitem(sys.modules, NAME, raising=False)
        module = importlib.import_module(NAME)
        patch.setattr(module, "BLOCK", 32)
        yield module
    sys.modules.pop(NAME, None)


def _inputs(config: GridConfig, count: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Points in and around the box, a table and a gradient of the result."""
    generator = torch.Generator().manual_seed(4)
    points = torch.rand(count, 3, generator=generator, dtype=dtype) * 1.2 - 0.1
    points[0], points[1] = torch.zeros(3), torch.ones(3)
    table = torch.randn(sum(config.rows), config.features, generator=generator, dtype=dtype)
    return points, table, torch.randn(count, config.width, generator=generator, dtype=dtype)


def _gradients(encode, points: Tensor, table: Tensor, upstream: Tensor, config: GridConfig) -> list[Tensor]:  # noqa: ANN001
    points, table = points.detach().requires_grad_(), table.detach().requires_grad_()
    encoded = encode(points, table, config)
    return [encoded.detach(), *torch.autograd.grad(encoded, (points, table), upstream)]


@pytest.mark.parametrize(("indexing", "features"), [("tiled", 2), ("hashed", 1), ("hashed", 3)])
def test_values_and_gradients(kernels: ModuleType, indexing: str, features: int) -> None:
    config = GridConfig(**SMALL, features=features, indexing=indexing)
    assert config.dense_levels == 1
    inputs = _inputs(config, 37)  # more than a block and no multiple of it
    ours, theirs = (_gradients(encode, *inputs, config) for encode in (kernels.encode_grid, encode_grid))
    # float32: values are sums of 8 products about 1; slopes are up to 9 times, row gradients some dozens of them
    for found, wanted, tolerance in zip(ours, theirs, (2e-6, 4e-5, 1e-5), strict=True):
        torch.testing.assert_close(found, wanted, atol=tolerance, rtol=0)


def test_large_numbers_no_points_and_nan(kernels: ModuleType) -> None:
    big = {"coarsest": 2**16, "finest": 2**16, "table_size": 1024}  # numbers of lattice points up to 2**48
    for indexing in ("tiled", "hashed"):
        config = GridConfig(levels=1, features=1, indexing=indexing, **big)
        points, table, _ = _inputs(config, 8, torch.float64)
        torch.testing.assert_close(kernels.encode_grid(points, table, config), encode_grid(points, table, config))
    config = GridConfig(**SMALL)
    table = _inputs(config, 2)[1]
    values, slopes, rows = _gradients(kernels.encode_grid, torch.zeros(0, 3), table, torch.zeros(0, 4), config)
    assert (values.shape, slopes.shape) == ((0, 4), (0, 3))
    assert torch.equal(rows, torch.zeros_like(table))
    assert kernels.encode_grid(torch.full((1, 3), float("nan")), table, config).isnan().all()


def test_strides_half_precision_and_second_derivatives(kernels: ModuleType) -> None:
    config = GridConfig(**SMALL)
    points, table, upstream = _inputs(config, 5)
    wanted = _gradients(kernels.encode_grid, points, table, upstream, config)
    strided = points.t().contiguous().t(), table.t().contiguous().t(), upstream.t().contiguous().t()
    assert not any(value.is_contiguous() for value in strided)
    torch.testing.assert_close(_gradients(kernels.encode_grid, *strided, config), wanted, atol=0, rtol=0)
    half = table.half()
    values, slopes, rows = _gradients(kernels.encode_grid, points, half, upstream, config)
    wanted = _gradients(encode_grid, points, half.float(), upstream, config)
    torch.testing.assert_close(values, wanted[0], atol=2e-6, rtol=0)
    torch.testing.assert_close(slopes, wanted[1], atol=4e-5, rtol=0)
    torch.testing.assert_close(rows, wanted[2].half(), atol=1e-3, rtol=1e-3)  # rounded once, at the end
    found = []
    for encode in (kernels.encode_grid, encode_grid):
        leaves = [points.clone().requires_grad_(), table.clone().requires_grad_()]
        (slope,) = torch.autograd.grad(encode(*leaves, config), leaves[0], upstream, create_graph=True)
        found.append([slope.detach(), *torch.autograd.grad(slope.square().sum(), leaves)])
    assert found[0][2].abs().max() > 1
    torch.testing.assert_close(*found)
    assert choose_backend("triton", torch.device("cpu")).name == "triton"  # when asked for, by its interpreter
