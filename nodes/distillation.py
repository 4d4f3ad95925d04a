"""Distillation through ComfyUI's MODEL and VAE."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from ..upfusion_core import DistillConfig, InputError, NovelViews, RadianceField
from .convert import rgb_from_image
from .host import check_interrupted, progress_hook
from .native import NativePrior

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import VAE
    from torch import Tensor

    from ..upfusion_core import Cameras, SceneEncoding
    from .control import Conditioning
    from .hosted import HostedModel


@dataclass(frozen=True)
class DistillSettings:
    """What the node's user chose. steps: 0 stands for the preset's own number."""

    preset: str
    steps: int
    guidance: float
    seed: int

    def config(self) -> DistillConfig:
        """The library's configuration."""
        config = DistillConfig.named(self.preset)
        name = "iterations" if self.preset == "reference" else "steps"
        changes: dict[str, Any] = {name: self.steps} if self.steps else {}
        schedule: Any = replace(config.schedule, **changes)  # one of several classes, each with that field
        return replace(config, schedule=schedule, guidance=self.guidance)


def given_views(images: Tensor | None, cameras: Cameras | None) -> NovelViews | None:
    """IMAGE and its cameras, if there are any."""
    if images is None and cameras is None:
        return None
    if images is None or cameras is None:
        there, lacking = ("cameras", "images") if images is None else ("images", "cameras")
        raise InputError(f"images and cameras belong together, got {there} only; connect {lacking} too, or neither")
    rgb = rgb_from_image(images)
    if len(rgb) != len(cameras) or rgb.shape[-1] != rgb.shape[-2]:
        height, width = rgb.shape[-2:]
        raise InputError(
            f"images must be one square picture for each of the {len(cameras)} cameras, got {len(rgb)} of "
            f"{width} x {height}; take both from the same nodes"
        )
    return NovelViews(rgb, cameras)


def distill(
    upfusion_model: HostedModel,
    model: ModelPatcher,
    vae: VAE,
    scene: SceneEncoding,
    prompts: tuple[Conditioning, Conditioning],
    settings: DistillSettings,
    views: NovelViews | None,
) -> RadianceField:
    """The field of the scene, on ComfyUI's device for intermediate results."""
    from comfy.model_management import intermediate_device

    # ComfyUI runs nodes in inference mode
    with torch.inference_mode(False), torch.enable_grad(), _cancel_between_field_calls():
        stages = upfusion_model.stages(NativePrior(upfusion_model, model, vae, *prompts))
        field = stages.distill(
            scene,
            settings.config(),
            generator=torch.Generator().manual_seed(settings.seed % 2**63),
            on_step=progress_hook("distilling"),
            views=views,
        )
        return field.to(intermediate_device())


@contextmanager
def _cancel_between_field_calls() -> Iterator[None]:
    """A step, or the picture shown of it, may be many seconds of rendering on a CPU."""

    def check(module: torch.nn.Module, _: object) -> None:
        if isinstance(module, RadianceField):
            check_interrupted()

    hook = register_module_forward_pre_hook(check)
    try:
        yield
    finally:
        hook.remove()
