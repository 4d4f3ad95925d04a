"""Convolutions of small feature maps as matrix products: the same values, gradients and names."""

from copy import deepcopy

import pytest
import torch
from torch.nn import Conv2d
from torch.nn import functional as F

from upfusion_core.config import DiffusionConfig
from upfusion_core.models.controlnet import ControlNet, WideConv2d, widen

SMALL = DiffusionConfig(model_channels=32, channel_mult=(1, 2), num_heads=4, context_dim=48, hint_channels=54)


@pytest.fixture
def columns(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every convolution that runs as a product."""
    calls: list[int] = []
    unfold = F.unfold

    def counted(*arguments: object, **options: object) -> torch.Tensor:
        calls.append(1)
        return unfold(*arguments, **options)

    monkeypatch.setattr("upfusion_core.models.controlnet.F.unfold", counted)
    return calls


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_products_are_the_convolution(stride: int, bias: bool, columns: list[int]) -> None:
    torch.manual_seed(0)
    plain = Conv2d(8, 96, 3, stride=stride, padding=1, bias=bias)
    wide = widen(deepcopy(plain))
    assert type(wide) is WideConv2d
    x = torch.randn(2, 8, 3, 4, requires_grad=True)
    ours, wanted = wide(x), plain(x)
    assert (len(columns), ours.is_contiguous()) == (1, True)
    torch.testing.assert_close(ours, wanted, atol=1e-6, rtol=1e-5)
    upstream = torch.randn_like(wanted)
    slopes = torch.autograd.grad(ours, (x, wide.weight), upstream)
    expected = torch.autograd.grad(wanted, (x, plain.weight), upstream)
    torch.testing.assert_close(slopes, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("size", "dtype"), [(6, torch.float32), (3, torch.bfloat16), (3, torch.float64)])
def test_large_maps_and_other_precisions_stay_with_torch(size: int, dtype: torch.dtype, columns: list[int]) -> None:
    wide = WideConv2d(4, 96, 3, padding=1).to(dtype)
    assert wide(torch.randn(1, 4, size, size, dtype=dtype)).shape == (1, 96, size, size)
    assert not columns


def test_a_network_keeps_its_names_and_values() -> None:
    torch.manual_seed(0)
    network = ControlNet(SMALL)
    before = dict(network.named_parameters())
    assert widen(network) is network
    after = dict(network.named_parameters())
    assert [*map(id, before.values())] == [*map(id, after.values())]
    kinds = {type(layer) for layer in network.modules() if getattr(layer, "kernel_size", None) == (3, 3)}
    assert kinds == {WideConv2d}
