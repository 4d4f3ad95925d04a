"""The three stages of training: modules whose call computes losses from tensors."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import TrainConfig
from ..geometry import camera_rays, patch_rays, plucker
from ..models.dino import DinoKeys
from ..models.networks import Networks
from ..models.stable_diffusion import encode_images, encode_posterior, predict, prompt_keys_values
from ..models.upsrt import UpSRT
from ..pipeline.sampling import TRAIN_STEPS, alphas_cumprod
from ..support.checks import check_shape
from ..support.errors import InputError
from .batches import BatchRandom, TrainingBatch, query_rays, reference_frame_plucker

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel

OUTPUT_HALF = ("up_blocks.", "conv_norm_out.", "conv_out.")
"""Parameters of the UNet's output half, which the paper trains."""
LATENT_CHANNELS = 4
SQUARED_WEIGHT = 4.0
"""Of the squared error, beside the absolute one: about equal parts at errors of 0.25, mostly the latter below."""
SPREAD_TOLERANCE = 3.0
"""Ratio of the latents' spread to 1 beyond which a warning is due; an untrained autoencoder gives about 0.2."""


class TrainingStage(Protocol):
    """A module whose call computes losses from tensors alone, so that DDP and torch.compile see nothing else.

    Example: `terms = stage(**stage.inputs(batch, random)); sum(terms.values()).backward()`.
    """

    def inputs(self, batch: TrainingBatch, random: BatchRandom) -> dict[str, Any]:
        """The tensors of one call: the batch, its geometry, and everything random. Outside of autograd."""
        ...

    def __call__(self, **inputs: Any) -> dict[str, Tensor]:  # noqa: ANN401 - what `inputs` made
        """Named scalar terms, weights included: the loss is their sum."""
        ...


class PhotoEncoder(nn.Module):
    """(B, V, 3, S, S) photos -> (B, V·P, D) set latents, through DINO (or what stands in its place) and UpSRT."""

    patch_plucker: Tensor

    def __init__(self, dino: DinoKeys, upsrt: UpSRT) -> None:
        super().__init__()
        self.dino, self.upsrt = dino, upsrt
        self.register_buffer("patch_plucker", plucker(patch_rays(*upsrt.config.patches)), persistent=False)

    def forward(self, photos: Tensor) -> Tensor:
        """Gradients reach those of the two networks that are trained."""
        with gradients_for(self.dino):
            keys = self.dino(photos.flatten(0, 1), self.upsrt.config.patches)
        with gradients_for(self.upsrt):
            return self.upsrt.encode(keys.unflatten(0, photos.shape[:2]), self.patch_plucker)


def gradients_for(network: nn.Module) -> torch.set_grad_enabled:
    """Autograd inside, if it is on anyway and any parameter of the network is trained."""
    trained = any(parameter.requires_grad for parameter in network.parameters())
    return torch.set_grad_enabled(torch.is_grad_enabled() and trained)


def color_loss(upsrt: UpSRT, tokens: Tensor, rays: Tensor, colors: Tensor) -> Tensor:
    """Mean squared error of UpSRT's own colours on query rays (paper section 3).

    Args:
        tokens: (B, N, D) set latents. rays: (B, R, 6) Plücker forms. colors: (B, R, 3) in [0, 1].
    """
    predicted = upsrt.read_rgb(upsrt.decode(tokens, rays, chunk=rays.shape[1])).float()
    return F.mse_loss(predicted, colors)


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Those that get gradients, in the module's order; InputError where there are none."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not parameters:
        raise InputError("training needs at least one network that is not frozen, got none; change the configuration")
    return parameters


class EncoderStage(nn.Module):
    """Photos without poses and rays of target views -> the mean squared error of their colours.

    The networks themselves are trained, not copies; DINO only with `train_dino`.
    """

    def __init__(self, config: TrainConfig, networks: Networks) -> None:
        super().__init__()
        self.config = config
        networks.dino.requires_grad_(config.train_dino)
        networks.upsrt.requires_grad_(True)
        networks.upsrt.gradient_checkpointing = config.gradient_checkpointing
        self.encoder = PhotoEncoder(networks.dino, networks.upsrt)

    @torch.no_grad()
    def inputs(self, batch: TrainingBatch, random: BatchRandom) -> dict[str, Any]:
        """Photos, Plücker forms (B, T·R, 6) of random rays and their true colours."""
        uniform = random.uniform(len(batch), batch.views, self.config.rays, 3).flatten(0, 1)
        rays, colors = query_rays(batch, uniform, self.config.inside_share)
        return {"photos": batch.photos, "rays": rays, "colors": colors}

    def forward(self, photos: Tensor, rays: Tensor, colors: Tensor) -> dict[str, Tensor]:
        """The term `rgb`."""
        return {"rgb": color_loss(self.encoder.upsrt, self.encoder(photos), rays, colors)}


class AutoencoderStage(nn.Module):
    """Target views -> their reconstruction error, and a little of the divergence from a standard normal."""

    def __init__(self, config: TrainConfig, networks: Networks) -> None:
        super().__init__()
        self.config = config
        self.vae: AutoencoderKL = networks.vae.requires_grad_(True)
        if config.gradient_checkpointing:
            self.vae.enable_gradient_checkpointing()

    @torch.no_grad()
    def inputs(self, batch: TrainingBatch, random: BatchRandom) -> dict[str, Any]:
        """The targets, (B·T, 3, S, S) in [0, 1], and the posterior's noise."""
        size = self.config.model.latent_size
        noise = random.normal(len(batch), batch.views, LATENT_CHANNELS, size, size)
        return {"pictures": batch.targets.flatten(0, 1), "noise": noise.flatten(0, 1)}

    def forward(self, pictures: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """The terms `l1`, in units of [0, 1], `mse`, and `kl`, in nats a latent number times `kl_weight`.

        The squared error stands beside the absolute one because the latter alone settles on greys for long: the median
        of a pixel's possible colours is grey when its brightness is all that is known.
        """
        posterior = encode_posterior(self.vae, pictures)
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        latents = mean + (logvar / 2).exp() * noise
        decoded = (self.vae.decode(latents).sample.float() + 1) / 2
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        return {
            "l1": F.l1_loss(decoded, pictures),
            "mse": SQUARED_WEIGHT * F.mse_loss(decoded, pictures),
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


class DiffusionStage(nn.Module):
    """Photos and target views with their rays -> the mean squared error of the predicted noise.

    An example is an object with all its targets: what is dropped is dropped for all of them.

    Args:
        text: (default, empty) prompt's embeddings, (77, W) each.
    """

    text: Tensor
    alphas: Tensor

    def __init__(self, config: TrainConfig, networks: Networks, text: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.config = config
        for value in text:
            check_shape("text", value, ("L", config.model.diffusion.context_dim), "embeddings of two prompts")
        networks.dino.requires_grad_(config.train_dino)
        networks.upsrt.requires_grad_(config.train_upsrt)
        if not config.rgb_weight:
            networks.upsrt.ray_decoder.rgb_mlp.requires_grad_(False)  # nothing here reads its colours
        self.vae: AutoencoderKL = networks.vae.requires_grad_(False)
        self.controlnet = networks.controlnet.requires_grad_(True)
        self.unet: UNet2DConditionModel = networks.unet
        for name, parameter in self.unet.named_parameters():
            parameter.requires_grad_(config.train_unet == "all" or name.startswith(OUTPUT_HALF))
        if config.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        self.controlnet.gradient_checkpointing = config.gradient_checkpointing
        networks.upsrt.gradient_checkpointing = config.gradient_checkpointing
        self.encoder = PhotoEncoder(networks.dino, networks.upsrt)
        self.register_buffer("text", torch.stack(text).float(), persistent=False)
        self.register_buffer("alphas", alphas_cumprod(), persistent=False)

    @torch.no_grad()
    def inputs(self, batch: TrainingBatch, random: BatchRandom) -> dict[str, Any]:
        """Photos, targets, ray maps of every level, times, noise, and which conditions are kept."""
        config, count, views = self.config, len(batch), batch.views
        size, levels = config.model.latent_size, len(config.model.diffusion.channel_mult)
        draw = random.uniform(count)
        shape = (count, views, LATENT_CHANNELS, size, size)
        timesteps = (random.uniform(count, views).flatten().double() * TRAIN_STEPS).long()
        noise, posterior = random.normal(*shape).flatten(0, 1), random.normal(*shape).flatten(0, 1)
        # as geometry.reference_plucker up to rounding, but computed where the batch is
        sides = [size // 2**level for level in range(levels)]
        grids = [camera_rays(batch.cameras, side, side, align_corners=True) for side in sides]
        forms = [reference_frame_plucker(rays, batch.references) for rays in grids]  # (B·T, s, s, 6)
        rays = [form.permute(0, 3, 1, 2).contiguous() for form in forms]
        inputs = {"photos": batch.photos, "targets": batch.targets.flatten(0, 1), "ray_maps": rays}
        inputs |= {"timesteps": timesteps, "noise": noise, "posterior_noise": posterior}
        inputs["text_kept"], inputs["images_kept"] = kept_conditions(draw, config.dropout)
        if config.rgb_weight:
            uniform = random.uniform(count, views, config.rays, 3).flatten(0, 1)
            inputs["query_rays"], inputs["query_colors"] = query_rays(batch, uniform, config.inside_share)
        return inputs

    def forward(
        self,
        photos: Tensor,
        targets: Tensor,
        ray_maps: list[Tensor],
        timesteps: Tensor,
        noise: Tensor,
        posterior_noise: Tensor,
        text_kept: Tensor,
        images_kept: Tensor,
        query_rays: Tensor | None = None,
        query_colors: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The term `eps`, and `rgb` (times its weight) where UpSRT is trained as well.

        Args:
            photos: (B, V, 3, S, S). targets: (B·T, 3, S, S). ray_maps: (B·T, 6, s, s) a level, finest first.
            timesteps: (B·T,) in 0 … 999. noise, posterior_noise: (B·T, 4, s, s), standard normal.
            text_kept, images_kept: (B,) bool, whether an object keeps its prompt and its image conditions.
            query_rays, query_colors: (B, R, 6) and (B, R, 3), see color_loss.
        """
        tokens = self.encoder(photos)
        terms = {}
        if query_rays is not None and query_colors is not None:
            loss = color_loss(self.encoder.upsrt, tokens, query_rays, query_colors)
            terms["rgb"] = self.config.rgb_weight * loss
        with torch.no_grad():
            latents = encode_images(self.vae, targets, posterior_noise)
        alpha = self.alphas[timesteps][:, None, None, None]
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        hint, ray_maps, tokens = masked(images_kept, self._hint(tokens, ray_maps[0]), ray_maps, tokens)
        residuals = self.controlnet(noisy, timesteps, self.controlnet.constants(hint, tuple(ray_maps), tokens))
        # keys and values of the two prompts are computed once, then chosen for each object
        index, both = (~text_kept).long(), prompt_keys_values(self.unet, self.text)
        keys_values = tuple((key[index], value[index]) for key, value in both)
        eps = predict(self.unet, noisy, timesteps, self.text[index], keys_values, residuals).float()
        return {"eps": F.mse_loss(eps, noise), **terms}

    def _hint(self, tokens: Tensor, rays: Tensor) -> Tensor:
        """(B·T, C+6, s, s): features of each target's grid, then its rays, as pipeline.novel_views makes them."""
        forms = rays.permute(0, 2, 3, 1).reshape(len(tokens), -1, 6)
        with gradients_for(self.encoder.upsrt):
            features = self.encoder.upsrt.decode(tokens, forms, chunk=forms.shape[1]).float()
        grid = features.reshape(*rays.shape[:1], *rays.shape[2:], -1).permute(0, 3, 1, 2)
        return torch.cat([grid, rays], dim=1)


def kept_conditions(draw: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Which examples keep their text and their image conditions, from one uniform number r each.

    The text is dropped if r < 2p, all image conditions (hint, set latents, rays) if p <= r < 3p: both with chance p,
    either alone with chance p.
    """
    return draw >= 2 * p, (draw < p) | (draw >= 3 * p)


def masked(kept: Tensor, hint: Tensor, ray_maps: list[Tensor], tokens: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
    """Hint and ray maps (B·T, ...) and tokens (B, N, C), zero for the objects that are not `kept`, (B,) bool."""
    views = len(hint) // len(tokens)
    one_a_view = kept.repeat_interleave(views, output_size=len(hint))[:, None, None, None]
    return (
        torch.where(one_a_view, hint, 0.0),
        [torch.where(one_a_view, ray_map, 0.0) for ray_map in ray_maps],
        torch.where(kept[:, None, None], tokens, torch.zeros_like(tokens)),
    )
