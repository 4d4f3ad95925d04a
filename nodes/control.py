"""Our diffusion in ComfyUI: the ControlNet for any of its samplers, and the library's prior on its MODEL and VAE.

Hint, ray maps and set latents travel in the CONDITIONING, in `model_conds`. Positive and negative hold the same control
object and the same names, zeros on the negative: ComfyUI then runs both in one batch. The prior asks ComfyUI's own
guidance, so that LoRAs, patches, hooks and other ControlNets work in it as in KSampler.

This module is imported when a node runs, never before (see host.py).
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from comfy import model_management, samplers
from comfy.conds import CONDRegular
from comfy.controlnet import ControlBase
from torch import Tensor

from ..upfusion_core import InputError
from .convert import pictures_from_image
from .host import check_interrupted
from .sockets import HostedModel, Prompts, check_unet

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import VAE

    from ..upfusion_core import ViewConditioning

HINT, TOKENS, RAYS = "upfusion_hint", "upfusion_tokens", "upfusion_rays"


class PerCamera(CONDRegular):
    """(Q, ...) values, one a camera; a batch of latents must be the Q cameras, once or several times in a row."""

    def process_cond(self, batch_size: int, **kwargs: Any) -> PerCamera:
        cameras = len(self.cond)
        if batch_size % cameras:
            raise InputError(
                f"these conditions are for {cameras} cameras, got a batch of {batch_size} latents; use the LATENT that "
                "UpFusion Conditioning gives with them"
            )
        return super().process_cond(batch_size, **kwargs)


class PerScene(CONDRegular):
    """(1, N, C) set latents that all cameras of a batch share; positive and negative keep one copy each."""

    def process_cond(self, batch_size: int, **_: Any) -> PerScene:
        """The value itself: it is not repeated for each latent."""
        return self


class UpFusionControl(ControlBase):
    """The dual-conditioned ControlNet; it reads its conditions from the CONDITIONING that it is part of.

    keeps_constants: whether hint convolution, keys and values outlive a sampling run, for callers of many short runs.
    """

    def __init__(self, model: HostedModel) -> None:
        super().__init__()
        self.model = model
        self.keeps_constants = False
        self.model_sampling: Any = None
        self._inputs: list[Tensor] = []
        self._constants: Any = None

    def get_control(
        self, x_noisy: Tensor, t: Tensor, cond: dict[str, Any], batched_number: int, transformer_options: dict[str, Any]
    ) -> dict[str, list[Tensor]] | None:
        """(B, 4, s, s) latents as the sampler holds them, not scaled, at (B,) sigmas `t` -> residuals for the UNet.

        Those of the ControlNets before this one are added.
        """
        before = None
        if self.previous_controlnet is not None:
            before = self.previous_controlnet.get_control(x_noisy, t, cond, batched_number, transformer_options)
        first, last = self.timestep_range or (float("inf"), 0.0)
        if self.strength == 0 or not last <= t[0] <= first:
            return before
        network, dtype = self.model.controlnet.model, self.model.dtype
        latents = self.model_sampling.calculate_input(t, x_noisy).to(dtype)
        residuals = network(latents, self.model_sampling.timestep(t), self._prepared(cond, x_noisy))
        control = {"input": [], "middle": [residuals[-1]], "output": residuals[:-1]}
        return self.control_merge(control, before, output_dtype=None)

    def _prepared(self, cond: dict[str, Any], x_noisy: Tensor) -> Any:
        """The network's constants, made again when the conditions are others than at the last step."""
        if HINT not in cond:
            raise InputError(
                "this CONDITIONING holds UpFusion's control but not its conditions; connect both outputs of UpFusion "
                "Conditioning to the sampler, and combine prompts before that node"
            )
        levels = len(self.model.config.diffusion.channel_mult)
        inputs = [cond[HINT], cond[TOKENS], *(cond[f"{RAYS}_{level}"] for level in range(levels))]
        inputs = [model_management.cast_to_device(value, x_noisy.device, torch.float32) for value in inputs]
        if inputs[0].shape[-2:] != x_noisy.shape[-2:]:
            size = inputs[0].shape[-1]
            raise InputError(
                f"this model paints latents of {size} x {size} cells, got {tuple(x_noisy.shape[-2:])}; use the LATENT "
                "that UpFusion Conditioning gives"
            )
        pairs = list(zip(inputs, self._inputs, strict=bool(self._inputs)))
        if not pairs or not all(a.shape == b.shape and a.device == b.device and torch.equal(a, b) for a, b in pairs):
            self._inputs = inputs
            hint, tokens, *ray_maps = inputs
            self._constants = self.model.controlnet.model.constants(hint, tuple(ray_maps), tokens.to(self.model.dtype))
        return self._constants

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        """Takes the sampling parameters of the MODEL that is about to run."""
        check_unet(self.model.config, model)
        super().pre_run(model, percent_to_timestep_function)
        self.model_sampling = model.model_sampling

    def cleanup(self) -> None:
        super().cleanup()
        self.model_sampling = None
        if not self.keeps_constants:
            self._inputs, self._constants = [], None

    def get_models(self) -> list[ModelPatcher]:
        """What ComfyUI loads before sampling."""
        return [*super().get_models(), self.model.controlnet]

    def inference_memory_requirements(self, dtype: torch.dtype) -> int:
        """Bytes beside the weights: keys and values of the set latents for both halves of guidance."""
        widths = self.model.config.diffusion.widths
        layers = self.model.config.diffusion.num_res_blocks * sum(widths[:-1]) + widths[-1]
        tokens = 6 * self.model.config.upsrt.patches[0] * self.model.config.upsrt.patches[1]
        return super().inference_memory_requirements(dtype) + 2 * 2 * tokens * layers * self.model.dtype.itemsize

    def copy(self) -> UpFusionControl:
        other = UpFusionControl(self.model)
        self.copy_to(other)
        return other

    def deepclone_multigpu(self, load_device: torch.device, autoregister: bool = False) -> UpFusionControl:
        """A control with a copy of the network for another GPU."""
        network, offload = copy.deepcopy(self.model.controlnet.model), model_management.unet_offload_device()
        patcher = type(self.model.controlnet)(network, load_device=load_device, offload_device=offload)
        other = UpFusionControl(replace(self.model, controlnet=patcher))
        self.copy_to(other)
        if autoregister:
            self.multigpu_clones[load_device] = other
        return other


def with_views(
    model: HostedModel, views: ViewConditioning, prompts: Prompts, strength: float = 1, start: float = 0, end: float = 1
) -> Prompts:
    """The prompts with our control after the ControlNets they hold, and the cameras' conditions; new lists.

    start, end: parts of the sampling run, 0 its beginning and 1 its end.
    """
    controls: dict[Any, UpFusionControl] = {}  # one for each ControlNet before ours, shared by positive and negative
    results = []
    for conditioning, seen in zip(prompts, (views, views.unconditional()), strict=True):
        tokens = seen.tokens if seen.tokens.ndim == 3 else seen.tokens[None]
        values = {HINT: PerCamera(seen.hint), TOKENS: PerScene(tokens)}
        values |= {f"{RAYS}_{level}": PerCamera(ray_map) for level, ray_map in enumerate(seen.ray_maps)}
        entries = []
        for embedding, options in conditioning:
            own = options.get("model_conds", {})
            if HINT in own:
                raise InputError("this CONDITIONING holds UpFusion's conditions already; connect the one before them")
            before = options.get("control")
            if before not in controls:
                control = UpFusionControl(model)
                control.set_cond_hint(None, strength, (start, end))
                controls[before] = control.set_previous_controlnet(before)
            added = {"control": controls[before], "control_apply_to_uncond": False, "model_conds": {**own, **values}}
            entries.append([embedding, {**options, **added}])
        results.append(entries)
    return results[0], results[1]


class NativePrior:
    """MODEL and VAE as the library's DiffusionPrior.

    prompts: with all that CONDITIONING may hold; a ViewConditioning's own text is not read.
    """

    def __init__(self, model: HostedModel, unet: ModelPatcher, vae: VAE, prompts: Prompts) -> None:
        check_unet(model.config, unet.model)
        self.model, self.unet, self.vae, self.prompts = model, unet, vae, prompts
        self.latent_shape = (4, model.config.latent_size, model.config.latent_size)

    def prepare(self, cond: ViewConditioning, *, guided: bool) -> Prompts:
        """The prompts with the cameras' conditions; what is constant over the steps is kept after the first call."""
        prepared = with_views(self.model, cond, self.prompts)
        for _, options in [*prepared[0], *prepared[1]]:
            options["control"].keeps_constants = True
        return prepared

    def predict_noise(
        self, latents: Tensor, timestep: Tensor | int | float, prepared: Prompts, guidance: float
    ) -> Tensor:
        """(Q, 4, s, s) latents at `timestep` -> guided noise, float32, through ComfyUI's own guidance."""
        check_interrupted()
        probe = _NoiseProbe(latents, timestep)
        guider = samplers.CFGGuider(self.unet)
        guider.set_conds(*prepared)
        guider.set_cfg(guidance)
        nothing = torch.zeros_like(latents, device="cpu")
        guider.sample(nothing, nothing, probe, torch.ones(2), disable_pbar=True)
        return probe.eps.to(latents.device)

    def encode(self, rgb: Tensor, noise: Tensor | None = None) -> Tensor:
        """(Q, 3, S, S) images in [0, 1] -> (Q, 4, s, s) scaled latents; `noise` samples the posterior."""
        vae = self.vae
        vae.throw_exception_if_invalid()
        memory = vae.memory_used_encode(rgb.shape, vae.vae_dtype)
        model_management.load_models_gpu([vae.patcher], memory_required=memory)
        network = vae.first_stage_model
        if not hasattr(network, "encoder") or not hasattr(network, "quant_conv"):
            raise InputError("this VAE is not one of Stable Diffusion 1.5; connect the VAE of UpFusion Load Model")
        pixels = (2 * rgb - 1).to(vae.device, vae.vae_dtype)
        mean, log_variance = network.quant_conv(network.encoder(pixels)).float().chunk(2, dim=1)
        if noise is not None:
            mean = mean + (log_variance.clamp(-30, 20) / 2).exp() * noise.to(mean)
        return self._latent_format.process_in(mean)

    def decode(self, latents: Tensor) -> Tensor:
        """(Q, 4, s, s) scaled latents -> (Q, 3, S, S) images in [0, 1]."""
        pixels = self.vae.decode(self._latent_format.process_out(latents.float()))
        return pictures_from_image(pixels).to(latents.device)

    @property
    def _latent_format(self) -> Any:
        return self.unet.get_model_object("latent_format")


class _NoiseProbe(samplers.Sampler):
    """A sampler that asks the model once, at one time, and keeps the noise that the answer implies.

    ComfyUI's models take x = latents / sqrt(a) at sigma = sqrt((1 - a) / a), a the cumulative product of alphas, and
    answer with the latents that they see behind the noise.
    """

    def __init__(self, latents: Tensor, timestep: Tensor | int | float) -> None:
        self.latents, self.timestep = latents, timestep
        self.eps = torch.zeros(0)

    def sample(
        self, model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any], callback: Any, noise: Tensor, *_: Any
    ) -> Tensor:
        """Called by ComfyUI with everything loaded."""
        sampling = model_wrap.inner_model.model_sampling
        times = torch.as_tensor(self.timestep, dtype=torch.float32).to(noise.device).expand(len(noise))
        sigma = sampling.sigma(times).to(noise)
        wide = sigma[:, None, None, None]
        x = self.latents.to(noise) * (1 + wide.square()).sqrt()
        self.eps = (x - model_wrap(x, sigma, **extra_args)) / wide
        return torch.zeros_like(noise)
