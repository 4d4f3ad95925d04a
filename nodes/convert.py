"""The only place where layouts and axes change between ComfyUI and the library.

ComfyUI: IMAGE (B, H, W, C) float32 in [0, 1], C 3 or 4; MASK (B, H, W) in [0, 1].
The library: (N, 3, H, W) and (N, 1, H, W). World and camera axes are the same on both sides (glTF's).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..upfusion_core import InputError


def rgb_from_image(image: Tensor) -> Tensor:
    """IMAGE (B, H, W, 3 or 4) -> (B, 3, H, W) in [0, 1]; a fourth channel is dropped."""
    if image.ndim != 4 or image.shape[-1] not in (3, 4):
        raise InputError(f"an IMAGE must be (B, H, W, 3 or 4), got {tuple(image.shape)}; connect a picture")
    return image[..., :3].movedim(-1, 1).float().clamp(0, 1).contiguous()


def image_from_rgb(rgb: Tensor) -> Tensor:
    """(N, C, H, W) in [0, 1] -> IMAGE (N, H, W, C), float32, on ComfyUI's device for intermediate results."""
    return _result(rgb.movedim(1, -1).clamp(0, 1))


def plane_from_mask(mask: Tensor) -> Tensor:
    """MASK (B, H, W) or (H, W) -> (B, 1, H, W) in [0, 1]."""
    if mask.ndim not in (2, 3):
        raise InputError(f"a MASK must be (B, H, W), got {tuple(mask.shape)}; connect a mask")
    return mask.reshape(-1, 1, *mask.shape[-2:]).float().clamp(0, 1)


def mask_from_plane(plane: Tensor) -> Tensor:
    """(N, 1, H, W) in [0, 1] -> MASK (N, H, W), float32, on ComfyUI's device for intermediate results."""
    return _result(plane[:, 0].clamp(0, 1))


def _result(value: Tensor) -> Tensor:
    from comfy.model_management import intermediate_device

    return value.to(intermediate_device(), torch.float32).contiguous()
