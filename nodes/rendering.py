"""A field at work: on ComfyUI's device, apart from the cached one; Cancel is noticed between its calls."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .host import check_interrupted, compute_device

if TYPE_CHECKING:
    from ..upfusion_core import Cameras, OnStep, RadianceField, RenderedViews

WORKING_BYTES = 2**30
"""What rendering needs beside the field."""


def working_copy(field: RadianceField) -> RadianceField:
    """The field on ComfyUI's device. It notices Cancel whenever it is asked; the field in the socket stays as it is."""
    from comfy.model_management import free_memory

    device = compute_device()
    needed = sum(value.numel() * value.element_size() for value in field.state_dict().values())
    free_memory(needed + WORKING_BYTES, device)
    own = copy.deepcopy(field).to(device)
    for module in own.modules():  # density and color ask the parts, not the field itself
        module.register_forward_pre_hook(lambda *_: check_interrupted())
    return own


@torch.no_grad()
def rendered(field: RadianceField, camera: Cameras, size: int, background: float) -> RenderedViews:
    """One camera's view on the CPU; the library takes fewer rays at a time where memory does not suffice."""
    from ..upfusion_core import RenderedViews

    views = field.render(camera, size, background=background)
    return RenderedViews(views.rgb.cpu(), views.opacity.cpu(), views.depth.cpu())


def depth_picture(views: RenderedViews, camera: Cameras, radius: float) -> Tensor:
    """(1, 3, H, W): 1 at the nearest point of the ball of `radius` round the origin, 0 at its furthest and behind.

    The range depends on the camera's distance only, so that neighbouring views of an orbit can be compared.
    """
    distance = float(camera.centers[0].norm())
    near, far = max(distance - radius, 0.0), distance + radius
    closeness = ((far - views.depth) / (far - near)).clamp(0, 1)
    return (closeness * views.opacity).expand(-1, 3, -1, -1)


def render_all(
    field: RadianceField, cameras: Cameras, size: int, background: float, on_step: OnStep
) -> tuple[Tensor, Tensor, Tensor]:
    """rgb (Q, 3, S, S), opacity (Q, 1, S, S) and depth pictures (Q, 3, S, S), each view on its own."""
    own, parts = working_copy(field), []
    radius = float(own.aabb.abs().amax(0).norm())
    for camera in cameras:
        views = rendered(own, camera, size, background)
        parts.append((views.rgb, views.opacity, depth_picture(views, camera, radius)))
        on_step(len(parts), len(cameras), lambda: parts[-1][0][0])
    rgb, opacity, depth = (torch.cat(pictures) for pictures in zip(*parts, strict=True))
    return rgb, opacity, depth
