"""The transfer between sRGB, in which pictures are kept, and linear light, in which glTF keeps colours."""

from __future__ import annotations

import torch
from torch import Tensor


def srgb_to_linear(values: Tensor) -> Tensor:
    """sRGB in [0, 1] -> linear light in [0, 1] (IEC 61966-2-1), e.g. 0.5 -> 0.2140."""
    return ((values + 0.055) / 1.055).pow(2.4).where(values > 0.04045, values / 12.92)


def linear_to_srgb(values: Tensor) -> Tensor:
    """Linear light in [0, 1] -> sRGB (IEC 61966-2-1), e.g. 0.2140 -> 0.5."""
    return torch.where(values > 0.0031308, 1.055 * values.clamp_min(1e-9).pow(1 / 2.4) - 0.055, 12.92 * values)
