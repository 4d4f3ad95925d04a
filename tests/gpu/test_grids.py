"""The grid's backends on a GPU against the definition there."""

import pytest
import torch
from torch import Tensor

from upfusion_core.config import FieldConfig, GridConfig
from upfusion_core.field.backends import choose_backend, grid_encoder
from upfusion_core.field.radiance import RadianceField
from upfusion_core.support.errors import InputError, MissingPackageError

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]

GPU = torch.device("cuda", 0)


def _results(name: str, config: GridConfig, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Values and gradients of points and table at 10,007 points, some of them outside the box."""
    generator = torch.Generator().manual_seed(0)
    points = (torch.rand(10_007, 3, generator=generator) * 1.1 - 0.05).to(GPU).requires_grad_()
    table = torch.randn(sum(config.rows), config.features, generator=generator).to(GPU, dtype).requires_grad_()
    upstream = torch.randn(len(points), config.width, generator=generator).to(GPU)
    encoded = grid_encoder(name)(points, table, config)
    return [encoded.detach(), *torch.autograd.grad(encoded, (points, table), upstream.to(encoded.dtype))]


def _require(name: str) -> None:
    try:
        choose_backend(name, GPU)
    except (InputError, MissingPackageError) as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("features", [1, 2, 3, 4])
@pytest.mark.parametrize("indexing", ["tiled", "hashed"])
def test_triton_agrees_with_the_definition(indexing: str, features: int) -> None:
    _require("triton")
    config = GridConfig(features=features, indexing=indexing)
    found, wanted = (_results(name, config) for name in ("triton", "torch"))
    # a position of 2048 cells is rounded by 1e-4 of a cell before its weight is taken, fused or not
    torch.testing.assert_close(found[0], wanted[0], atol=1e-3, rtol=0)
    torch.testing.assert_close(found[2], wanted[2], atol=2e-3, rtol=1e-4)
    off = (found[1] - wanted[1]).abs() > 1e-3 * wanted[1].abs().max()
    assert off.any(-1).float().mean() < 1e-3  # points on a face between cells, where the slope jumps


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_triton_with_tables_in_half_precision(dtype: torch.dtype) -> None:
    _require("triton")
    found, wanted = (_results(name, GridConfig(), dtype) for name in ("triton", "torch"))
    none = torch.zeros(0, 3, device=GPU)
    assert grid_encoder("triton")(none, torch.zeros(sum(GridConfig().rows), 2, device=GPU), GridConfig()).shape == (
        0,
        32,
    )
    assert [value.dtype for value in found] == [value.dtype for value in wanted]
    torch.testing.assert_close(found[0], wanted[0], atol=1e-3, rtol=0)


def test_tinycudann_agrees_with_the_definition_on_hashed_grids() -> None:
    _require("tinycudann")
    config = GridConfig(indexing="hashed")
    found, wanted = (_results(name, config) for name in ("tinycudann", "torch"))
    torch.testing.assert_close(found[0], wanted[0], atol=2e-3, rtol=0)
    torch.testing.assert_close(found[2], wanted[2], atol=5e-3, rtol=1e-3)


def test_a_field_takes_triton_by_itself_and_agrees_with_torch() -> None:
    _require("triton")
    automatic, plain = (RadianceField(FieldConfig(backend=name)).to(GPU) for name in ("auto", "torch"))
    assert automatic.backend.name == "triton"
    assert plain.backend.name == "torch"
    points = torch.rand(5000, 3, generator=torch.Generator().manual_seed(1)).to(GPU) * 2 - 1
    for ours, theirs in zip(automatic(points), plain(points), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
