"""The nodes around ComfyUI's samplers: per-camera conditions for KSampler, and all of it in one box."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..upfusion_core import Cameras, SceneEncoding
from ..upfusion_core.config import EvaluationConfig, Sampler
from . import inputs
from .convert import empty_latent
from .host import check_interrupted, send_line
from .sockets import CamerasSocket, Conditioning, HostedModel, SceneSocket, check_unet, checked

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import VAE


def _view_inputs() -> list[io.Input]:
    prompt = "What the views should look like; left open it is the model's own default prompt, which the file holds."
    cameras = CamerasSocket.Input("cameras", tooltip="The views to paint. One latent picture a camera.")
    return [inputs.scene(), cameras, *inputs.prompts(prompt)]


class UpFusionConditioning(io.ComfyNode):
    """Adds the scene, seen from each camera, to the prompts, and gives the latents to sample. Connect all three outputs
    to KSampler (sampler ddim, scheduler ddim_uniform, 50 steps, cfg 9 are the paper's; cfg 3 suits the bundled
    mini)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        strength = "Factor on the ControlNet's influence: 0 ignores the photos, 1 is as trained."
        start = "Part of the sampling run, 0 to 1, from which on the photos count."
        end = "Part of the sampling run, 0 to 1, after which the photos no longer count."
        takes = [
            inputs.model(),
            *_view_inputs(),
            inputs.number("strength", 1.0, 0.0, 2.0, strength, step=0.05),
            inputs.number("start", 0.0, 0.0, 1.0, start, step=0.01, advanced=True),
            inputs.number("end", 1.0, 0.0, 1.0, end, step=0.01, advanced=True),
        ]
        gives = [
            io.Conditioning.Output("positive", tooltip="The prompt with the scene from each camera."),
            io.Conditioning.Output("negative", tooltip="The negative prompt with the model's null condition."),
            io.Latent.Output("latent", tooltip="Empty latents, one a camera, with noise numbers 0, 1, 2 and so on."),
        ]
        aliases = ["apply controlnet", "ksampler", "novel view conditioning", "multi view control"]
        return inputs.schema(cls, "UpFusion Conditioning", "sampling", takes, gives, aliases)

    @classmethod
    @checked
    def execute(
        cls,
        upfusion_model: HostedModel,
        scene: SceneEncoding,
        cameras: Cameras,
        strength: float,
        start: float,
        end: float,
        positive: Conditioning | None = None,
        negative: Conditioning | None = None,
    ) -> io.NodeOutput:
        """Decodes the scene for each camera."""
        from .control import with_views

        prompts = upfusion_model.prompts(positive, negative)
        views = upfusion_model.stages().condition(scene, cameras)
        conditions = with_views(upfusion_model, views, prompts, strength, start, end)
        return io.NodeOutput(*conditions, empty_latent(len(cameras), upfusion_model.config.latent_size))


class UpFusionSampleViews(io.ComfyNode):
    """Paints the object from every camera: UpFusion Conditioning, KSampler and VAE Decode in one box. A view depends on
    its number and the seed, not on how many are painted at a time."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        steps = "Denoising steps. The paper uses 50; 20 are often enough, time grows in proportion."
        scheduler = "How the noise falls over the steps, as in KSampler; ddim_uniform is the paper's."
        memory = "More need more memory; the result is the same."
        takes = [
            *inputs.diffusion(),
            *_view_inputs(),
            inputs.seed("Number that the noise is drawn from; the same number gives the same views."),
            inputs.setting("steps", EvaluationConfig, tooltip=steps),
            inputs.guidance(),
            _ksampler_choice("sampler_name", "SAMPLERS", "ddim", "As in KSampler; ddim is the paper's."),
            _ksampler_choice("scheduler", "SCHEDULERS", "ddim_uniform", scheduler),
            inputs.setting("batch_size", Sampler, more=memory, high=64, advanced=True),
        ]
        gives = [
            io.Image.Output("images", tooltip="One picture a camera, in the cameras' order."),
            SceneSocket.Output("scene", tooltip="The same scene, for a node that is to run after this one."),
        ]
        aliases = ["novel views", "multi view", "turntable", "generate views", "zero123"]
        return inputs.schema(cls, "UpFusion Sample Views", "sampling", takes, gives, aliases)

    @classmethod
    @checked
    def execute(
        cls,
        upfusion_model: HostedModel,
        model: ModelPatcher,
        vae: VAE,
        scene: SceneEncoding,
        cameras: Cameras,
        seed: int,
        steps: int,
        guidance: float,
        sampler_name: str,
        scheduler: str,
        batch_size: int = 4,
        positive: Conditioning | None = None,
        negative: Conditioning | None = None,
    ) -> io.NodeOutput:
        """Samples a batch of cameras after the other; view i draws the noise that KSampler gives to batch_index i."""
        from comfy import sample, utils

        from .control import with_views

        prompts = upfusion_model.prompts(positive, negative)
        check_unet(upfusion_model.config, model.model)
        views = upfusion_model.stages().condition(scene, cameras)
        latent = empty_latent(len(cameras), upfusion_model.config.latent_size)

        def sampled(part: slice) -> Tensor:
            empty = latent["samples"][part]
            noise = sample.prepare_noise(empty, seed, latent["batch_index"][part])
            asked = (steps, guidance, sampler_name, scheduler, *with_views(upfusion_model, views[part], prompts))
            shown = {"callback": _progress(model, part, len(cameras)), "disable_pbar": not utils.PROGRESS_BAR_ENABLED}
            return vae.decode(sample.sample(model, noise, *asked, empty, seed=seed, **shown))

        return io.NodeOutput(_in_batches(sampled, len(cameras), batch_size), scene)


def _ksampler_choice(name: str, attribute: str, default: str, tooltip: str) -> io.Input:
    """One of KSampler's own names.

    A running ComfyUI has comfy.samplers loaded; it is not imported here, because that raises on a machine without GPU
    whose ComfyUI was not told so.
    """
    samplers = sys.modules.get("comfy.samplers")
    return inputs.choice(name, getattr(samplers.KSampler, attribute) if samplers else [default], tooltip, default)


def _in_batches(sampled: Callable[[slice], Tensor], count: int, batch_size: int) -> Tensor:
    """IMAGE of `count` views; where memory does not suffice, half as many at a time from there on."""
    from comfy import model_management

    pictures: list[Tensor] = []
    done = 0
    while done < count:
        part = slice(done, min(done + batch_size, count))
        try:
            pictures.append(sampled(part))
            done = part.stop
        except Exception as error:
            model_management.raise_non_oom(error)
            if part.stop == done + 1:
                raise
            batch_size = (part.stop - done) // 2
            logging.warning(
                "UpFusion ran out of memory with %d views at a time; trying %d", part.stop - done, batch_size
            )
        model_management.soft_empty_cache()
        check_interrupted()
    return torch.cat(pictures).to(model_management.intermediate_device(), torch.float32)


def _progress(model: ModelPatcher, part: slice, total: int) -> Callable[[int, Tensor, Tensor, int], None]:
    """The sampler's callback: one bar over all views, the sampler's latent preview, and a line of text."""
    import latent_preview
    from comfy.utils import ProgressBar

    previewer = latent_preview.get_previewer(model.load_device, model.get_model_object("latent_format"))
    bar: Any = ProgressBar(total)
    views = part.stop - part.start

    def show(step: int, x0: Tensor, x: Tensor, steps: int) -> None:
        picture = previewer.decode_latent_to_preview_image("JPEG", x0) if previewer else None
        bar.update_absolute(part.start * steps + views * (step + 1), total * steps, picture)
        which = f", views {part.start + 1} to {part.stop} of {total}" if total > views else ""
        send_line(f"sampling: step {step + 1}/{steps}{which}")

    return show
