"""The three stages of training.

A stage is a module: `inputs` makes, outside of autograd, all tensors of one call, everything random included. The call
computes from them alone, so that DDP and torch.compile see nothing else, named scalar terms whose sum is the loss.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import TrainConfig
from ..geometry import camera_rays, patch_rays, plucker
from ..models.checkpoint import Networks
from ..models.dino import DinoKeys
from ..models.stable_diffusion import encode_images, encode_posterior, predict, prompt_keys_values
from ..models.upsrt import UpSRT
from ..pipeline.sampling import TRAIN_STEPS, alphas_cumprod
from ..support.checks import check_shape
from ..support.errors import InputError
from .batches import BatchRandom, TrainingBatch, query_rays, reference_frame_plucker

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel

OUTPUT_HALF = ("up_blocks.", "conv_norm_out.", "conv_out.")  # parameters of the UNet's, which the paper trains
LATENT_CHANNELS = 4
SQUARED_WEIGHT = 4.0  # of the squared error, beside the absolute one: equal parts at errors of 0.25, less below
SPREAD_TOLERANCE = 3.0  # of the latents' spread to 1, before a warning; an untrained autoencoder's is about 0.2


class PhotoEncoder(nn.Module):
    """(B, V, 3, S, S) photos -> (B, V·P, D) set latents, through DINO (or what stands in its place) and UpSRT."""

    patch_plucker: Tensor

    def __init__(self, dino: DinoKeys, upsrt: UpSRT) -> None:
        super().__init__()
        self.dino, self.upsrt = dino, upsrt
        self.register_buffer("patch_plucker", plucker(patch_rays(*upsrt.config.patches)), persistent=False)

    def forward(self, photos: Tensor) -> Tensor:
        with gradients_for(self.dino):
            keys = self.dino(photos.flatten(0, 1), self.upsrt.config.patches)
        with gradients_for(self.upsrt):
            return self.upsrt.encode(keys.unflatten(0, photos.shape[:2]), self.patch_plucker)


def gradients_for(network: nn.Module) -> torch.set_grad_enabled:
    """Autograd inside, if it is on anyway and any parameter of the network is trained."""
    trained = any(parameter.requires_grad for parameter in network.parameters())
    return torch.set_grad_enabled(torch.is_grad_enabled() and trained)


def color_loss(upsrt: UpSRT, tokens: Tensor, rays: Tensor, colors: Tensor) -> Tensor:
    """Mean squared error of UpSRT's colours (B, R, 3) on rays (B, R, 6) from set latents (B, N, D): paper section 3."""
    predicted = upsrt.read_rgb(upsrt.decode(tokens, rays, chunk=rays.shape[1])).float()
    return F.mse_loss(predicted, colors)


class EncoderStage(nn.Module):
    """Photos without poses and rays of target views -> the mean squared error of their colours, `rgb`."""

    def __init__(self, config: TrainConfig, networks: Networks) -> None:
        super().__init__()
        self.config = config
        networks.dino.requires_grad_(config.train_dino)
        networks.upsrt.requires_grad_(True)
        networks.upsrt.gradient_checkpointing = config.gradient_checkpointing
        self.encoder = PhotoEncoder(networks.dino, networks.upsrt)

    @torch.no_grad()
    def inputs(self, batch: TrainingBatch, random: BatchRandom) -> dict[str, Any]:
        uniform = random.uniform(len(batch), batch.views, self.config.rays, 3).flatten(0, 1)
        rays, colors = query_rays(batch, uniform, self.config.inside_share)
        return {"photos": batch.photos, "rays": rays, "colors": colors}

    def forward(self, photos: Tensor, rays: Tensor, colors: Tensor) -> dict[str, Tensor]:
        return {"rgb": color_loss(self.encoder.upsrt, self.encoder(photos), rays, colors)}


class AutoencoderStage(nn.Module):
    """Target views -> `l1` and `mse` of colours in [0, 1], and `kl`, in nats a latent number times `kl_weight`.

    The absolute error alone settles on greys for long, the median of a pixel's colours when its brightness is known.
    """

    def __init__(self, config: TrainConfig, networks: Networks) -> None:
        super().__init__()
        self.config = config
        self.vae: AutoencoderKL = networks.vae.requires_grad_(True)
        if config.gradient_checkpointing:
            self.vae.enable_gradient_checkpointing()

    @torch.no_grad()
    def inputs(self, batch: TrainingBatch, random: BatchRandom) -> dict[str, Any]:
        size = self.config.model.latent_size
        noise = random.normal(len(batch), batch.views, LATENT_CHANNELS, size, size)
        return {"pictures": batch.targets.flatten(0, 1), "noise": noise.flatten(0, 1)}

    def forward(self, pictures: Tensor, noise: Tensor) -> dict[str, Tensor]:
        posterior = encode_posterior(self.vae, pictures)
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        latents = mean + (logvar / 2).exp() * noise
        decoded = (self.vae.decode(latents).sample.float() + 1) / 2
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        absolute, squared = F.l1_loss(decoded, pictures), F.mse_loss(decoded, pictures)
        return {"l1": absolute, "mse": SQUARED_WEIGHT * squared, "kl": self.config.kl_weight * divergence}


@torch.no_grad()
def calibrate_latents(vae: AutoencoderKL, pictures: Tensor) -> None:
    """Rescales the latents so that, times the scale factor 0.18215, each channel has mean 0 and deviation 1.

    The last layer of the encoder and the first of the decoder are 1x1 convolutions, so that mean' = (mean - m)·s,
    logvar' = logvar + 2 ln s, and the decoder undoing both, are changes of their weights: the autoencoder as a whole
    computes what it did. `pictures`: (N, 3, S, S) in [0, 1], typical ones; InputError if a channel does not vary.
    """
    posterior = encode_posterior(vae, pictures)
    mean, variance = posterior.mean.float(), posterior.var.float()
    center = mean.mean(dim=(0, 2, 3))
    deviation = (mean.var(dim=(0, 2, 3), correction=0) + variance.mean(dim=(0, 2, 3))).sqrt()
    if not (deviation > 1e-6).all():
        got = deviation.tolist()
        raise InputError(f"latents must vary over the pictures, got deviations {got}; train the autoencoder longer")
    scale = 1 / (deviation * vae.config.scaling_factor)
    # scale of (mean, logvar): the second half of quant_conv's channels moves by a constant only
    before, after = vae.quant_conv, vae.post_quant_conv
    before.weight[:LATENT_CHANNELS] *= scale[:, None, None, None]
    before.bias[:LATENT_CHANNELS] = (before.bias[:LATENT_CHANNELS] - center) * scale
    before.bias[LATENT_CHANNELS:] += 2 * scale.log()
    after.bias += after.weight[:, :, 0, 0] @ center
    after.weight /= scale[None, :, None, None]


@torch.no_grad()
def check_latents(vae: AutoencoderKL, pictures: Tensor) -> None:
    """Warns where the scaled latents of (N, 3, S, S) pictures spread far from 1, as those of an untrained one do."""
    posterior = encode_posterior(vae, pictures)
    spread = float((posterior.mean.float().var() + posterior.var.float().mean()).sqrt()) * vae.config.scaling_factor
    if not 1 / SPREAD_TOLERANCE < spread < SPREAD_TOLERANCE:
        wanted = f"the autoencoder's scaled latents should spread by about 1, got {spread:.2g}"
        advice = "was it trained? Begin with the stage autoencoder, and give its model to start from"
        warnings.warn(f"{wanted}; {advice}", stacklevel=3)


class DiffusionStage(nn.Module):
    """Photos and target views with their rays -> the mean squared error of the predicted noise, `eps`.

    What is dropped is dropped for all targets of an object. Where UpSRT is trained with it, `rgb` is its colours' error
    times `rgb_weight`. `text`: (default, empty) prompt's embeddings, (77, W) each.
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
        config, count, views = self.config, len(batch), batch.views
        size, levels = config.model.latent_size, len(config.model.diffusion.channel_mult)
        draw = random.uniform(count)
        # whole numbers, as Apple's GPUs have no float64: a uniform number is a multiple of 2^-24, its floor exact
        timesteps = (random.uniform(count, views).flatten() * 2**24).long() * TRAIN_STEPS >> 24
        shape = (count, views, LATENT_CHANNELS, size, size)
        noise, posterior = random.normal(*shape).flatten(0, 1), random.normal(*shape).flatten(0, 1)
        # as geometry.reference_plucker up to rounding, but computed where the batch is
        sides = [size // 2**level for level in range(levels)]
        grids = [camera_rays(batch.cameras, side, side, align_corners=True) for side in sides]
        forms = [reference_frame_plucker(rays, batch.references) for rays in grids]  # (B·T, s, s, 6)
        rays = [form.permute(0, 3, 1, 2).contiguous() for form in forms]
        text_kept, images_kept = kept_conditions(draw, config.dropout)
        inputs = {"photos": batch.photos, "targets": batch.targets.flatten(0, 1), "ray_maps": rays}
        inputs |= {"timesteps": timesteps, "noise": noise, "posterior_noise": posterior}
        inputs |= {"text_kept": text_kept, "images_kept": images_kept}
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
        """(B, V, 3, S, S) photos; (B·T, 3, S, S) targets; (B·T, 6, s, s) rays a level, finest first; (B·T,) timesteps;
        (B·T, 4, s, s) standard normal noises; (B,) bool, which objects keep their conditions; see color_loss."""
        tokens = self.encoder(photos)
        terms = {}
        if query_rays is not None and query_colors is not None:
            loss = color_loss(self.encoder.upsrt, tokens, query_rays, query_colors)
            terms["rgb"] = self.config.rgb_weight * loss
        with torch.no_grad():
            latents = encode_images(self.vae, targets, posterior_noise)
        alpha = self.alphas[timesteps][:, None, None, None]
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        objects, side = len(tokens), ray_maps[0].shape[-1]
        forms = rearrange(ray_maps[0], "(b t) c h w -> b (t h w) c", b=objects)
        with gradients_for(self.encoder.upsrt):
            features = self.encoder.upsrt.decode(tokens, forms, chunk=forms.shape[1]).float()
        # (B·T, C+6, s, s): features of each target's grid, then its rays, as pipeline.novel_views makes them
        grids = torch.cat([rearrange(features, "b (t h w) c -> (b t) c h w", h=side, w=side), ray_maps[0]], dim=1)
        hint, *kept_maps = (zeroed(images_kept, value) for value in (grids, *ray_maps))
        constants = self.controlnet.constants(hint, tuple(kept_maps), zeroed(images_kept, tokens))
        residuals = self.controlnet(noisy, timesteps, constants)
        # keys and values of the two prompts are computed once, then chosen for each object
        index, both = (~text_kept).long(), prompt_keys_values(self.unet, self.text)
        keys_values = tuple((key[index], value[index]) for key, value in both)
        eps = predict(self.unet, noisy, timesteps, self.text[index], keys_values, residuals).float()
        return {"eps": F.mse_loss(eps, noise), **terms}


def kept_conditions(draw: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """(B,) bools, whose text and whose image conditions (hint, set latents, rays) are kept, from a uniform r each:
    with chance p each, the text alone is dropped (r < p), both (r < 2p), or the images' alone (r < 3p)."""
    return draw >= 2 * p, (draw < p) | (draw >= 3 * p)


def zeroed(kept: Tensor, values: Tensor) -> Tensor:
    """(B·T, ...) or (B, ...) values, zero for the objects that are not `kept`, (B,) bool."""
    each = kept.repeat_interleave(len(values) // len(kept), output_size=len(values))
    return torch.where(each.view(-1, *[1] * (values.ndim - 1)), values, 0.0)


StageModule: TypeAlias = EncoderStage | AutoencoderStage | DiffusionStage


def make_stage(config: TrainConfig, networks: Networks, text: tuple[Tensor, Tensor]) -> StageModule:
    """The stage's module on `networks` themselves, in training mode; it decides which parameters are trained."""
    if config.stage == "diffusion":
        return DiffusionStage(config, networks, text).train()
    return (EncoderStage if config.stage == "encoder" else AutoencoderStage)(config, networks).train()
