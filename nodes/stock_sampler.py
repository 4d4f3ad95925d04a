"""Sampling views with ComfyUI's own sampler, a batch of cameras after the other."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import latent_preview
import torch
from comfy import model_management, sample, utils
from torch import Tensor

from .control import Conditioning, with_views
from .convert import empty_latent
from .fitting import check_unet
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
    check_unet(model.config, unet.model)
    views = model.stages().condition(scene, cameras)
    latent = empty_latent(len(cameras), model.config.latent_size)
    pictures: list[Tensor] = []
    done = 0
    while done < len(cameras):
        part = slice(done, min(done + batch_size, len(cameras)))
        positive, negative = with_views(model, views[part], *prompts)
        empty = latent["samples"][part]
        noise = sample.prepare_noise(empty, settings.seed, latent["batch_index"][part])
        show = _progress(unet, done, len(empty), len(cameras))
        try:
            painted = _sample(unet, noise, empty, positive, negative, settings, show)
        except Exception as error:
            model_management.raise_non_oom(error)
            if len(empty) == 1:
                raise
            batch_size = len(empty) // 2
            logging.warning("UpFusion ran out of memory with %d views at a time; trying %d", len(empty), batch_size)
        else:
            pictures.append(vae.decode(painted))
            done = part.stop
        model_management.soft_empty_cache()
        check_interrupted()
    return torch.cat(pictures).to(model_management.intermediate_device(), torch.float32)


def _sample(
    unet: ModelPatcher,
    noise: Tensor,
    empty: Tensor,
    positive: Conditioning,
    negative: Conditioning,
    settings: SamplerSettings,
    show: Callable[[int, Tensor, Tensor, int], None],
) -> Tensor:
    """LATENT samples, as KSampler makes them."""
    return sample.sample(
        unet,
        noise,
        settings.steps,
        settings.guidance,
        settings.sampler_name,
        settings.scheduler,
        positive,
        negative,
        empty,
        callback=show,
        disable_pbar=not utils.PROGRESS_BAR_ENABLED,
        seed=settings.seed,
    )


def _progress(unet: ModelPatcher, done: int, views: int, total: int) -> Callable[[int, Tensor, Tensor, int], None]:
    """The sampler's callback: one bar over all views, the sampler's latent preview, and a line of text."""
    previewer = latent_preview.get_previewer(unet.load_device, unet.get_model_object("latent_format"))
    bar: Any = utils.ProgressBar(total)

    def show(step: int, x0: Tensor, x: Tensor, steps: int) -> None:
        picture = previewer.decode_latent_to_preview_image("JPEG", x0) if previewer else None
        bar.update_absolute(done * steps + views * (step + 1), total * steps, picture)
        which = f", views {done + 1} to {done + views} of {total}" if total > views else ""
        send_line(f"sampling: step {step + 1}/{steps}{which}")

    return show
