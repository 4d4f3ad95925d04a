"""Convolutions of small feature maps as matrix products: the same values, gradients and names."""

from copy import deepcopy
from unittest.mock import Mock

import pytest
import torch
from torch.nn import Conv2d
from torch.nn import functional as F

from upfusion_core.config import DiffusionConfig
from upfusion_core.models.controlnet import ControlNet, WideConv2d, widen

SMALL = DiffusionConfig(model_channels=32, channel_mult=(1, 2), num_heads=4, context_dim=48, hint_channels=54)


@pytest.fixture
def unfold(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Called by every convolution that runs as a product."""
    counted = Mock(wraps=F.unfold)
    monkeypatch.setattr(F, "unfold", counted)
    return counted


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_products_are_the_convolution(stride: int, bias: bool, unfold: Mock) -> None:
    torch.manual_seed(0)
    plain = Conv2d(8, 96, 3, stride=stride, padding=1, bias=bias)
    wide = widen(deepcopy(plain))
    assert type(wide) is WideConv2d
    x = torch.randn(2, 8, 3, 4, requires_grad=True)
    ours, wanted = wide(x), plain(x)
    assert (unfold.call_count, ours.is_contiguous()) == (1, True)
    torch.testing.assert_close(ours, wanted, atol=1e-6, rtol=1e-5)
    upstream = torch.randn_like(wanted)
    slopes = torch.autograd.grad(ours, (x, wide.weight), upstream)
    expected = torch.autograd.grad(wanted, (x, plain.weight), upstream)
    torch.testing.assert_close(slopes, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("size", "dtype"), [(6, torch.float32), (3, torch.bfloat16)])
def test_large_maps_and_other_precisions_stay_with_torch(size: int, dtype: torch.dtype, unfold: Mock) -> None:
    wide = WideConv2d(4, 96, 3, padding=1).to(dtype)
    assert wide(torch.randn(1, 4, size, size, dtype=dtype)).shape == (1, 96, size, size)
    assert not unfold.called


def test_a_network_keeps_its_names_and_values() -> None:
    network = ControlNet(SMALL)
    before = [(name, id(value)) for name, value in network.named_parameters()]
    assert widen(network) is network
    assert [(name, id(value)) for name, value in network.named_parameters()] == before
    kinds = {type(layer) for layer in network.modules() if getattr(layer, "kernel_size", None) == (3, 3)}
    assert kinds == {WideConv2d}
