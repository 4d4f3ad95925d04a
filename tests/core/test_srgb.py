"""The transfer by hand, there and back, and as kornia has it, which the nodes use."""

from __future__ import annotations

import torch
from kornia.color import linear_rgb_to_rgb, rgb_to_linear_rgb

from upfusion_core.support.images import linear_to_srgb, srgb_to_linear

SRGB, LINEAR = torch.tensor([0.0, 0.04, 0.5, 1.0]), torch.tensor([0.0, 0.0030960, 0.2140411, 1.0])
RAMP = torch.linspace(0, 1, 300).reshape(3, 10, 10)


def test_by_hand() -> None:
    torch.testing.assert_close(srgb_to_linear(SRGB), LINEAR)
    torch.testing.assert_close(linear_to_srgb(LINEAR), SRGB)


def test_there_and_back() -> None:
    torch.testing.assert_close(linear_to_srgb(srgb_to_linear(RAMP)), RAMP, atol=1e-6, rtol=0)


def test_as_kornia() -> None:
    torch.testing.assert_close(srgb_to_linear(RAMP), rgb_to_linear_rgb(RAMP), atol=1e-6, rtol=0)
    torch.testing.assert_close(linear_to_srgb(RAMP), linear_rgb_to_rgb(RAMP), atol=1e-6, rtol=0)
