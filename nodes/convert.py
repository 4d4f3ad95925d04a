"""Pictures, masks and latents between ComfyUI and the library: layouts and axes change in `convert*.py` only.

ComfyUI: IMAGE (B, H, W, C) float32 in [0, 1], C 3 or 4; MASK (B, H, W) in [0, 1].
The library: (N, 3, H, W) and (N, 1, H, W). World and camera axes are the same on both sides (glTF's).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..upfusion_core import InputError, check_finite, check_type

if TYPE_CHECKING:
    from ..upfusion_core import InputViews

_OVERSHOOT = 0.5
"""How far nodes that resize may leave [0, 1]; pictures beyond it are in another range."""


def pictures_from_image(image: Tensor, name: str = "an IMAGE") -> Tensor:
    """IMAGE (B, H, W, 3 or 4) -> (B, 3 or 4, H, W) in [0, 1]; `name` is what an error calls it."""
    check_type(name, image, Tensor, "connect a picture")
    if image.ndim != 4 or image.shape[-1] not in (3, 4) or not image.numel():
        raise InputError(f"{name} must be (B, H, W, 3 or 4), got {tuple(image.shape)}; connect a picture")
    check_finite(name, image)
    low, high = (float(limit) for limit in torch.aminmax(image))
    if not image.is_floating_point() or low < -_OVERSHOOT or high > 1 + _OVERSHOOT:
        raise InputError(
            f"{name} must hold floating-point numbers in [0, 1], got {image.dtype} from {low:.4g} to {high:.4g}; "
            "divide 8-bit values by 255"
        )
    return image.movedim(-1, 1).float().clamp(0, 1)


def rgb_from_image(image: Tensor) -> Tensor:
    """IMAGE (B, H, W, 3 or 4) -> (B, 3, H, W) in [0, 1]; a fourth channel is dropped."""
    return pictures_from_image(image)[:, :3].contiguous()


def image_from_rgb(rgb: Tensor) -> Tensor:
    """(N, C, H, W) in [0, 1] -> IMAGE (N, H, W, C), float32, on ComfyUI's device for intermediate results."""
    return _result(rgb.movedim(1, -1).clamp(0, 1))


def plane_from_mask(mask: Tensor) -> Tensor:
    """MASK (B, H, W) or (H, W) -> (B, 1, H, W) in [0, 1]."""
    check_type("a MASK", mask, Tensor, "connect a mask")
    if mask.ndim not in (2, 3) or not mask.numel():
        raise InputError(f"a MASK must be (B, H, W), got {tuple(mask.shape)}; connect a mask")
    check_finite("a MASK", mask)
    return mask.reshape(-1, 1, *mask.shape[-2:]).float().clamp(0, 1)


def mask_from_plane(plane: Tensor) -> Tensor:
    """(N, 1, H, W) in [0, 1] -> MASK (N, H, W), float32, on ComfyUI's device for intermediate results."""
    return _result(plane[:, 0].clamp(0, 1))


def input_views(images: Tensor, masks: Tensor | None = None) -> InputViews:
    """IMAGE (V, S, S, C) of photos on white, MASK (V, S, S) with 1 on the object -> InputViews.

    Without masks they are estimated as what is not white.
    """
    from ..upfusion_core import REFERENCE_FOCAL, InputViews, estimate_mask

    rgb = rgb_from_image(images).cpu()
    if rgb.shape[-1] != rgb.shape[-2]:
        height, width = rgb.shape[-2:]
        raise InputError(f"the photos must be square, got {width} x {height}; put UpFusion Prepare Views before this")
    planes = torch.stack([estimate_mask(photo) for photo in rgb]) if masks is None else plane_from_mask(masks).cpu()
    if planes.shape != (len(rgb), 1, *rgb.shape[-2:]):
        raise InputError(
            f"the masks must be {len(rgb)} of {rgb.shape[-1]} x {rgb.shape[-2]} pixels like the photos, got "
            f"{len(planes)} of {planes.shape[-1]} x {planes.shape[-2]}; take both from UpFusion Prepare Views"
        )
    return InputViews(rgb, planes, torch.full((len(rgb), 2), REFERENCE_FOCAL))


def empty_latent(count: int, size: int) -> dict[str, Any]:
    """LATENT of `count` empty latents of size x size cells; each draws the noise of its own number."""
    return {"samples": _result(torch.zeros(count, 4, size, size)), "batch_index": list(range(count))}


def _result(value: Tensor) -> Tensor:
    from comfy.model_management import intermediate_device

    return value.to(intermediate_device(), torch.float32).contiguous()
