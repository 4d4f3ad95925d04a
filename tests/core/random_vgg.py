"""A VGG-16 and LPIPS heads of random numbers, in the published names, and LPIPS written out."""

import torch
from torch import Tensor
from torch.nn import functional as F

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
    widths = enumerate((64, 128, 256, 512, 512))
    return {f"lin{index}.model.1.weight": torch.full((1, width, 1, 1), 0.5 + index) for index, width in widths}


def lpips_by_hand(weights: dict[str, Tensor], picture: Tensor, target: Tensor) -> float:
    """LPIPS written out as the paper's equation 1, with the heads above."""
    shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    total, level = 0.0, 0
    x, y = ((2 * image - 1 - shift) / scale for image in (picture, target))
    for index in INDICES:
        if index in (5, 10, 17, 24):
            x, y = (F.max_pool2d(image, 2) for image in (x, y))
        convolution = (weights[f"features.{index}.weight"], weights[f"features.{index}.bias"])
        x, y = (F.relu(F.conv2d(image, *convolution, padding=1)) for image in (x, y))
        if index in (2, 7, 14, 21, 28):
            difference = F.normalize(x, dim=1) - F.normalize(y, dim=1)
            total += float((0.5 + level) * difference.square().sum(1).mean())
            level += 1
    return total
