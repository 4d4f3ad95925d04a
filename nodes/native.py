"""The diffusion prior of sampling and distillation on ComfyUI's MODEL and VAE.

What hangs on the MODEL and the CONDITIONING works here as in KSampler: LoRAs, patches, hooks, other ControlNets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from comfy import model_management, samplers
from torch import Tensor

from ..upfusion_core import InputError
from .control import Conditioning, with_views
from .convert import pictures_from_image
from .fitting import check_unet
from .host import check_interrupted

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import VAE

    from ..upfusion_core import ViewConditioning
    from .hosted import HostedModel


@dataclass(frozen=True, eq=False)
class PreparedViews:
    """Conditions of Q views for many calls. guided: whether the negative counts."""

    views: int
    guided: bool
    positive: Conditioning
    negative: Conditioning


class NativePrior:
    """MODEL and VAE as the library's DiffusionPrior.

    Args:
        positive, negative: the prompts, with all that CONDITIONING may hold; a ViewConditioning's own text is not read.
    """

    def __init__(
        self, model: HostedModel, unet: ModelPatcher, vae: VAE, positive: Conditioning, negative: Conditioning
    ) -> None:
        check_unet(model.config, unet.model)
        self.model, self.unet, self.vae = model, unet, vae
        self.positive, self.negative = positive, negative
        self.latent_shape = (4, model.config.latent_size, model.config.latent_size)

    def prepare(self, cond: ViewConditioning, *, guided: bool) -> PreparedViews:
        """The prompts with the cameras' conditions; what is constant over the steps is kept after the first call."""
        positive, negative = with_views(self.model, cond, self.positive, self.negative)
        for _, options in [*positive, *negative]:
            options["control"].keeps_constants = True
        return PreparedViews(len(cond), guided, positive, negative)

    def predict_noise(
        self, latents: Tensor, timestep: Tensor | int | float, prepared: PreparedViews, guidance: float
    ) -> Tensor:
        """(Q, 4, s, s) latents at `timestep` -> guided noise, float32, through ComfyUI's own guidance."""
        wanted = (prepared.views, *self.latent_shape)
        if tuple(latents.shape) != wanted:
            raise InputError(f"latents must be {wanted}, one a conditioned camera, got {tuple(latents.shape)}")
        if prepared.guided == (guidance == 1):
            asked = "without guidance" if prepared.guided else "with guidance"
            raise InputError(
                f"guidance is {guidance}, but these conditions were not prepared {asked}; prepare them again"
            )
        check_interrupted()
        probe = _NoiseProbe(latents, timestep)
        guider = samplers.CFGGuider(self.unet)
        guider.set_conds(prepared.positive, prepared.negative)
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
