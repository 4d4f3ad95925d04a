"""Where a world point is seen, and where a mark is found in pictures: for tests of cameras beside their pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from upfusion_core.types import Cameras


def pixels(cameras: Cameras, point: Tensor, size: int) -> Tensor:
    """(N, 2): x and y in pixels from the top left corner of where a world point is seen."""
    local = torch.einsum("nij,ni->nj", cameras.camera_to_world[:, :3, :3], point - cameras.centers)
    ndc = local[:, :2] * torch.tensor([-1.0, 1.0]) / -local[:, 2:] * cameras.focal + cameras.principal
    return (1 - ndc) * size / 2


def centroid(weights: Tensor) -> Tensor:
    """(N, H, W) -> (N, 2): x and y of the weights' mean, in pixels from the top left corner."""
    size = weights.shape[-1]
    axis = torch.arange(size) + 0.5
    total = weights.sum(dim=(1, 2))
    return (
        torch.stack([(weights.sum(dim=1) * axis).sum(-1), (weights.sum(dim=2) * axis).sum(-1)], dim=-1) / total[:, None]
    )
