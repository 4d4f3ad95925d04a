"""HaarPSI, the Haar wavelet-based perceptual similarity index, as `piq` defines it for RGB.

R. Reisenhofer, S. Bosse, G. Kutyniok, T. Wiegand, "A Haar wavelet-based perceptual similarity index for image quality
assessment", Signal Processing: Image Communication 61 (2018), arXiv 1607.06140. The package `piq` itself is not used:
it imports torchvision at its top, whose binary must match torch's build, for networks that HaarPSI does not have. The
test holds values that piq 0.8.0 computed.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..checks import check_shape
from ..errors import InputError

CONSTANT = 30.0
"""The paper's C, which keeps small differences of small coefficients from counting; for colours in [0, 255]."""

STEEPNESS = 4.2
"""The paper's alpha, the slope of the logistic function."""

LEAST_SIDE = 16
"""Smaller pictures do not hold the largest wavelet after halving."""

# NTSC's YIQ, to piq's digits
_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def haarpsi(first: Tensor, second: Tensor) -> Tensor:
    """(N, 3, H, W) in [0, 1], twice -> (N,) similarity in [0, 1], 1 for equal pictures. Symmetric.

    Raises:
        InputError: a side is below 16 pixels.
    """
    check_shape("first", first, ("N", 3, "H", "W"))
    check_shape("second", second, tuple(first.shape), "both pictures must have one shape")
    if min(first.shape[-2:]) < LEAST_SIDE:
        height, width = first.shape[-2:]
        raise InputError(
            f"HaarPSI needs pictures of at least {LEAST_SIDE} x {LEAST_SIDE}, got {height} x {width}; render larger"
        )
    ours, theirs = (_halved_yiq(picture) for picture in (first, second))
    similarities, weights = [], []
    for axis in (-2, -1):
        fine_ours, fine_theirs = (
            torch.cat([_haar(picture[:, :1], scale, axis) for scale in (1, 2)], dim=1) for picture in (ours, theirs)
        )
        similarities.append(_alike(fine_ours, fine_theirs).mean(1))
        coarse = (_haar(picture[:, :1], 3, axis)[:, 0] for picture in (ours, theirs))
        weights.append(torch.maximum(*coarse))  # where something is to be seen
    smooth = (_corner_mean(picture[:, 1:]).abs() for picture in (ours, theirs))
    similarities.append(_alike(*smooth).mean(1))  # colour
    weights.append((weights[0] + weights[1]) / 2)
    similarity, weight = torch.stack(similarities, dim=1), torch.stack(weights, dim=1)
    # a weighted mean under the logistic function, taken back through its inverse and squared
    least = torch.finfo(weight.dtype).eps
    mean = ((STEEPNESS * similarity).sigmoid() * weight).sum((1, 2, 3)) + least
    mean = mean / (weight.sum((1, 2, 3)) + least)
    return ((mean.clamp(max=1 - least).logit() / STEEPNESS) ** 2).clamp(max=1.0)


def _halved_yiq(picture: Tensor) -> Tensor:
    """(N, 3, H, W) RGB in [0, 1] -> (N, 3, ceil(H/2), ceil(W/2)) YIQ in 0..255: a viewer's distance, by averaging."""
    matrix = torch.tensor(_YIQ, dtype=torch.float32, device=picture.device)
    yiq = torch.einsum("ij,njhw->nihw", matrix, 255 * picture.float())
    odd = max(size % 2 for size in picture.shape[-2:])
    return F.avg_pool2d(F.pad(yiq, (0, odd, 0, odd)), 2)


def _haar(picture: Tensor, scale: int, axis: int) -> Tensor:
    """(N, 1, H, W) -> magnitudes of the Haar wavelet of width 2^scale that steps along `axis`."""
    width = 2**scale
    kernel = torch.full((width, width), 1 / width, device=picture.device, dtype=torch.float32)
    kernel.narrow(axis, width // 2, width // 2).neg_()
    before, after = width // 2 - 1, width // 2
    padded = F.pad(picture, (before, after, before, after))
    return F.conv2d(padded, kernel[None, None]).abs()


def _corner_mean(picture: Tensor) -> Tensor:
    """Mean of each pixel with its right, lower and lower right neighbours, beyond the border 0."""
    return F.avg_pool2d(F.pad(picture, (0, 1, 0, 1)), 2, stride=1)


def _alike(first: Tensor, second: Tensor) -> Tensor:
    """1 where equal, near 0 where one is far above the other."""
    return (2 * first * second + CONSTANT) / (first.square() + second.square() + CONSTANT)
