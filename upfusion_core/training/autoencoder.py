"""The small model's own image autoencoder, from scratch, and the scale of its latents."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError
from ..models.networks import Networks
from ..models.vae import encode_posterior
from .batches import TrainingBatch
from .config import TrainConfig
from .draws import Draws

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

LATENT_CHANNELS = 4
SQUARED_WEIGHT = 4.0
"""Of the squared error, beside the absolute one: about equal parts at errors of 0.25, mostly the latter below."""
SPREAD_TOLERANCE = 3.0
"""Ratio of the latents' spread to 1 beyond which a warning is due; an untrained autoencoder gives about 0.2."""


class AutoencoderStage(nn.Module):
    """Target views -> their reconstruction error, and a little of the divergence from a standard normal."""

    def __init__(self, config: TrainConfig, networks: Networks) -> None:
        super().__init__()
        self.config = config
        self.vae: AutoencoderKL = networks.vae.requires_grad_(True)
        if config.gradient_checkpointing:
            self.vae.enable_gradient_checkpointing()

    @torch.no_grad()
    def inputs(self, batch: TrainingBatch, draws: Draws) -> dict[str, Any]:
        """The targets, (B·T, 3, S, S) in [0, 1], and the posterior's noise."""
        size = self.config.model.latent_size
        noise = draws.normal(len(batch), batch.views, LATENT_CHANNELS, size, size)
        return {"pictures": batch.targets.flatten(0, 1), "noise": noise.flatten(0, 1)}

    def forward(self, pictures: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """The terms `l1`, in units of [0, 1], `mse`, and `kl`, in nats a latent number times `kl_weight`.

        The squared error stands beside the absolute one because the latter alone settles on greys for long: the median
        of a pixel's possible colours is grey when its brightness is all that is known.
        """
        posterior = encode_posterior(self.vae, pictures)
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        latents = mean + (logvar / 2).exp() * noise
        painted = (self.vae.decode(latents).sample.float() + 1) / 2
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        return {
            "l1": F.l1_loss(painted, pictures),
            "mse": SQUARED_WEIGHT * F.mse_loss(painted, pictures),
            "kl": self.config.kl_weight * divergence,
        }


@torch.no_grad()
def calibrate_latents(vae: AutoencoderKL, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Rescales the latents so that, times the scale factor 0.18215, each channel has mean 0 and deviation 1.

    SD 1.5's factor suits latents of its own spread; a small KL weight leaves those of a new autoencoder at any. The
    last layer of the encoder and the first of the decoder are 1x1 convolutions, so that mean' = (mean - m)·s,
    logvar' = logvar + 2 ln s, and the decoder undoing both, are changes of their weights: the autoencoder as a whole
    computes what it did.

    Args:
        pictures: (N, 3, S, S) in [0, 1], typical ones.

    Returns:
        (4,) mean and (4,) deviation of the latents before.

    Raises:
        InputError: a channel does not vary over the pictures.
    """
    posterior = encode_posterior(vae, pictures)
    mean, variance = posterior.mean.float(), posterior.var.float()
    center = mean.mean(dim=(0, 2, 3))
    deviation = (mean.var(dim=(0, 2, 3), correction=0) + variance.mean(dim=(0, 2, 3))).sqrt()
    if not (deviation > 1e-6).all():
        raise InputError(
            f"latents must vary over the pictures, got deviations {deviation.tolist()}; train the autoencoder longer"
        )
    scale = 1 / (deviation * vae.config.scaling_factor)
    # scale of (mean, logvar): the second half of quant_conv's channels moves by a constant only
    before, after = vae.quant_conv, vae.post_quant_conv
    before.weight[:LATENT_CHANNELS] *= scale[:, None, None, None]
    before.bias[:LATENT_CHANNELS] = (before.bias[:LATENT_CHANNELS] - center) * scale
    before.bias[LATENT_CHANNELS:] += 2 * scale.log()
    after.bias += after.weight[:, :, 0, 0] @ center
    after.weight /= scale[None, :, None, None]
    return center, deviation


@torch.no_grad()
def check_latents(vae: AutoencoderKL, pictures: Tensor) -> None:
    """Warns where the scaled latents of (N, 3, S, S) pictures spread far from 1, as those of an untrained one do."""
    posterior = encode_posterior(vae, pictures)
    spread = float((posterior.mean.float().var() + posterior.var.float().mean()).sqrt()) * vae.config.scaling_factor
    if not 1 / SPREAD_TOLERANCE < spread < SPREAD_TOLERANCE:
        warnings.warn(
            f"the autoencoder's scaled latents should spread by about 1, got {spread:.2g}; was it trained? Begin with "
            "the stage autoencoder, and give its model to start from",
            stacklevel=3,
        )
