"""The nodes around ComfyUI's samplers: per-camera conditions for KSampler, and all of it in one box."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from .checked import checked
from .inputs import diffusion_inputs, guidance_input, model_input, prompt_inputs, scene_input, seed_input
from .sockets import CamerasSocket

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import VAE

    from ..upfusion_core import Cameras, SceneEncoding
    from .hosted import HostedModel

CATEGORY = "UpFusion/sampling"


def _view_inputs() -> list[io.Input]:
    return [
        scene_input(),
        CamerasSocket.Input("cameras", tooltip="The views to paint. One latent picture a camera."),
        *prompt_inputs(
            "What the views should look like; left open it is the model's own default prompt, which the file holds."
        ),
    ]


class UpFusionConditioning(io.ComfyNode):
    """Scene and cameras as CONDITIONING and LATENT for any sampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="UpFusionConditioning",
            display_name="UpFusion Conditioning",
            category=CATEGORY,
            description=(
                "Adds the scene, seen from each camera, to the prompts, and gives the latents to sample. Connect all "
                "three outputs to KSampler (sampler ddim, scheduler ddim_uniform, 50 steps, cfg 9 are the paper's; cfg "
                "3 suits the bundled mini)."
            ),
            search_aliases=["apply controlnet", "ksampler", "novel view conditioning", "multi view control"],
            inputs=[
                model_input(),
                *_view_inputs(),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="Factor on the ControlNet's influence: 0 ignores the photos, 1 is as trained.",
                ),
                io.Float.Input(
                    "start",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Part of the sampling run, 0 to 1, from which on the photos count.",
                ),
                io.Float.Input(
                    "end",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Part of the sampling run, 0 to 1, after which the photos no longer count.",
                ),
            ],
            outputs=[
                io.Conditioning.Output("positive", tooltip="The prompt with the scene from each camera."),
                io.Conditioning.Output("negative", tooltip="The negative prompt with the model's null condition."),
                io.Latent.Output(
                    "latent", tooltip="Empty latents, one a camera, with noise numbers 0, 1, 2 and so on."
                ),
            ],
        )

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
        positive: list[Any] | None = None,
        negative: list[Any] | None = None,
    ) -> io.NodeOutput:
        """Decodes the scene for each camera."""
        from .control import with_views
        from .convert import empty_latent

        prompts = upfusion_model.prompts(positive, negative)
        views = upfusion_model.stages().condition(scene, cameras)
        halves = with_views(upfusion_model, views, *prompts, strength=strength, start=start, end=end)
        return io.NodeOutput(*halves, empty_latent(len(cameras), upfusion_model.config.latent_size))


class UpFusionSampleViews(io.ComfyNode):
    """Scene and cameras -> pictures, in one box."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="UpFusionSampleViews",
            display_name="UpFusion Sample Views",
            category=CATEGORY,
            description=(
                "Paints the object from every camera: UpFusion Conditioning, KSampler and VAE Decode in one box. A "
                "view depends on its number and the seed, not on how many are painted at a time."
            ),
            search_aliases=["novel views", "multi view", "turntable", "generate views", "zero123"],
            inputs=[
                *diffusion_inputs(),
                *_view_inputs(),
                seed_input("Number that the noise is drawn from; the same number gives the same views."),
                io.Int.Input(
                    "steps",
                    default=50,
                    min=1,
                    max=1000,
                    tooltip="Denoising steps. The paper uses 50; 20 are often enough, time grows in proportion.",
                ),
                guidance_input(),
                io.Combo.Input(
                    "sampler_name",
                    options=_host_names("SAMPLERS", "ddim"),
                    default="ddim",
                    tooltip="As in KSampler; ddim is the paper's.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=_host_names("SCHEDULERS", "ddim_uniform"),
                    default="ddim_uniform",
                    tooltip="How the noise falls over the steps, as in KSampler; ddim_uniform is the paper's.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=4,
                    min=1,
                    max=64,
                    advanced=True,
                    tooltip="Views at a time. More need more memory; the result is the same.",
                ),
            ],
            outputs=[io.Image.Output("images", tooltip="One picture a camera, in the cameras' order.")],
        )

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
        positive: list[Any] | None = None,
        negative: list[Any] | None = None,
    ) -> io.NodeOutput:
        """Samples a batch of cameras after the other."""
        from .stock_sampler import SamplerSettings, sample_views

        prompts = upfusion_model.prompts(positive, negative)
        settings = SamplerSettings(seed, steps, guidance, sampler_name, scheduler)
        return io.NodeOutput(sample_views(upfusion_model, model, vae, scene, cameras, prompts, settings, batch_size))


def _host_names(attribute: str, default: str) -> list[str]:
    """KSampler's names of samplers or schedulers.

    A running ComfyUI has comfy.samplers loaded; it is not imported here, because that raises on a machine without GPU
    whose ComfyUI was not told so.
    """
    samplers = sys.modules.get("comfy.samplers")
    return list(getattr(samplers.KSampler, attribute)) if samplers else [default]
