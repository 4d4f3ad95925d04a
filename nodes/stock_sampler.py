"""Sampling views with ComfyUI's own sampler, a batch of cameras after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import latent_preview
import torch
from comfy import model_management, sample, utils
from torch import Tensor

from .control import Conditioning, with_views
from .convert import empty_latent
from .host import check_interrupted, send_line

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import VAE

    from ..upfusion_core import Cameras, SceneEncoding
    from .hosted import HostedModel


@dataclass(frozen=True)
class SamplerSettings:
    """What KSampler is set to. steps: those it is asked for; some schedulers add one."""

    seed: int
    steps: int
    guidance: float
    sampler_name: str
    scheduler: str


def sample_views(
    model: HostedModel,
    unet: ModelPatcher,
    vae: VAE,
    scene: SceneEncoding,
    cameras: Cameras,
    prompts: tuple[Conditioning, Conditioning],
    settings: SamplerSettings,
    batch_size: int,
) -> Tensor:
    """IMAGE (Q, S, S, 3), one view a camera; view i draws the noise that KSampler gives to batch_index i."""
    views = model.stages().condition(scene, cameras)
    latent = empty_latent(len(cameras), model.config.latent_size)
    batches = -(-len(cameras) // batch_size)
    show = _progress(unet, batches)
    pictures = []
    for index in range(batches):
        part = slice(index * batch_size, (index + 1) * batch_size)
        positive, negative = with_views(model, views[part], *prompts)
        empty = latent["samples"][part]
        painted = sample.sample(
            unet,
            sample.prepare_noise(empty, settings.seed, latent["batch_index"][part]),
            settings.steps,
            settings.guidance,
            settings.sampler_name,
            settings.scheduler,
            positive,
            negative,
            empty,
            callback=lambda step, x0, x, total, index=index: show(index, step, x0, total),
            disable_pbar=not utils.PROGRESS_BAR_ENABLED,
            seed=settings.seed,
        )
        check_interrupted()
        pictures.append(vae.decode(painted))
    return torch.cat(pictures).to(model_management.intermediate_device(), torch.float32)


def _progress(unet: ModelPatcher, batches: int) -> Callable[[int, int, Tensor, int], None]:
    """The sampler's callback: one bar over all batches, its latent preview, and a line of text."""
    previewer = latent_preview.get_previewer(unet.load_device, unet.get_model_object("latent_format"))
    bar: Any = utils.ProgressBar(batches)

    def show(index: int, step: int, x0: Tensor, total: int) -> None:
        picture = previewer.decode_latent_to_preview_image("JPEG", x0) if previewer else None
        bar.update_absolute(index * total + step + 1, batches * total, picture)
        send_line(f"sampling: step {step + 1}/{total}" + (f", batch {index + 1}/{batches}" if batches > 1 else ""))

    return show
