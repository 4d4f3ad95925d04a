"""A VGG-16 and LPIPS heads of random numbers, in the published names."""

from __future__ import annotations

import torch
from torch import Tensor

INDICES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)


def vgg_weights() -> dict[str, Tensor]:
    """Random VGG-16 convolutions in torchvision's names."""
    generator = torch.Generator().manual_seed(0)
    weights, channels = {}, 3
    for index, width in zip(INDICES, WIDTHS, strict=True):
        scale = (2 / (9 * channels)) ** 0.5
        weights[f"features.{index}.weight"] = scale * torch.randn(width, channels, 3, 3, generator=generator)
        weights[f"features.{index}.bias"] = torch.zeros(width)
        channels = width
    return weights


def heads() -> dict[str, Tensor]:
    return {
        f"lin{index}.model.1.weight": torch.full((1, width, 1, 1), 0.5 + index)
        for index, width in enumerate((64, 128, 256, 512, 512))
    }
