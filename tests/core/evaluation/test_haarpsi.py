from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import Tensor

from upfusion_core.evaluation.metrics import haarpsi


def picture(height: int, width: int, phase: float) -> Tensor:
    """(1, 3, H, W) waves; the values below were computed on these."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    waves = (
        torch.sin(7 * x + 3 * y + phase),
        torch.cos(11 * x * y - phase),
        torch.sin(40 * x) * torch.cos(33 * y + phase),
    )
    return 0.5 + 0.5 * torch.stack(waves)[None]


# (height, width) -> piq 0.8.0's haarpsi of phases 0 and 0.4, and of phase 0 and white
PIQ = {
    (64, 64): (0.6524331, 0.03455745),
    (48, 80): (0.6494904, 0.03462305),
    (33, 47): (0.6703519, 0.03894394),
    (16, 16): (0.6623913, 0.04378559),
}


@pytest.mark.parametrize("size", PIQ)
def test_values_of_piq(size: tuple[int, int]) -> None:
    first, second = picture(*size, 0.0), picture(*size, 0.4)
    # single precision: the inverse of the logistic function magnifies rounding some twenty times
    assert float(haarpsi(first, second)) == pytest.approx(PIQ[size][0], abs=5e-6)
    assert float(haarpsi(first, torch.ones_like(first))) == pytest.approx(PIQ[size][1], abs=5e-6)


@pytest.mark.skipif(not importlib.util.find_spec("torchvision"), reason="piq imports torchvision")
@pytest.mark.skipif(not importlib.util.find_spec("piq"), reason="piq is not installed")
def test_piq_itself() -> None:
    import piq

    generator = torch.Generator().manual_seed(0)
    first, second = torch.rand(2, 4, 3, 41, 56, generator=generator)
    torch.testing.assert_close(haarpsi(first, second), piq.haarpsi(first, second, reduction="none"), atol=2e-5, rtol=0)


def test_equal_pictures_are_alike_and_order_does_not_matter() -> None:
    first, second = picture(32, 32, 0.0), picture(32, 32, 1.0)
    both = torch.cat([first, second])
    torch.testing.assert_close(haarpsi(both, both), torch.ones(2), atol=2e-5, rtol=0)
    torch.testing.assert_close(haarpsi(first, second), haarpsi(second, first))
    black = torch.zeros(1, 3, 16, 16)
    assert float(haarpsi(black, black)) == pytest.approx(1, abs=1e-5)
    assert float(haarpsi(black, 1 - black)) < 0.4


def test_each_view_by_itself() -> None:
    first = torch.cat([picture(32, 40, phase) for phase in (0.0, 0.5, 1.0)])
    second = torch.cat([picture(32, 40, phase) for phase in (0.1, 0.9, 2.0)])
    alone = torch.cat([haarpsi(*pair) for pair in zip(first.split(1), second.split(1), strict=True)])
    torch.testing.assert_close(haarpsi(first, second), alone, atol=1e-5, rtol=0)
