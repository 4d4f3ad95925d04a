"""Stage 2: the ControlNet and the UNet learn to remove noise, conditioned on the photos (paper section 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checks import check_shape
from ..models.controlnet import KeysValues
from ..models.networks import Networks
from ..models.unet import predict, prompt_keys_values
from ..models.vae import encode_images
from ..pipeline.schedule import TRAIN_STEPS, alphas_cumprod
from .batches import TrainingBatch
from .config import TrainConfig
from .draws import Draws
from .queries import grid_plucker, query_rays
from .stages import PhotoEncoder, color_loss, is_trained

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel

OUTPUT_HALF = ("up_blocks.", "conv_norm_out.", "conv_out.")
"""Parameters of the UNet's output half, which the paper trains."""


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
        choose_unet_half(self.unet, config.train_unet)
        if config.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        self.controlnet.gradient_checkpointing = config.gradient_checkpointing
        networks.upsrt.gradient_checkpointing = config.gradient_checkpointing
        self.encoder = PhotoEncoder(networks.dino, networks.upsrt)
        self.register_buffer("text", torch.stack(text).float(), persistent=False)
        self.register_buffer("alphas", alphas_cumprod(), persistent=False)

    @torch.no_grad()
    def inputs(self, batch: TrainingBatch, draws: Draws) -> dict[str, Any]:
        """Photos, targets, ray maps of every level, times, noise, and which conditions are kept."""
        config, count, views = self.config, len(batch), batch.views
        size, levels = config.model.latent_size, len(config.model.diffusion.channel_mult)
        draw = draws.uniform(count)
        shape = (count, views, 4, size, size)
        timesteps = (draws.uniform(count, views).flatten().double() * TRAIN_STEPS).long()
        noise, posterior = draws.normal(*shape).flatten(0, 1), draws.normal(*shape).flatten(0, 1)
        rays = [grid_plucker(batch, size // 2**level).permute(0, 3, 1, 2).contiguous() for level in range(levels)]
        text_kept, images_kept = kept_conditions(draw, config.dropout)
        inputs = {
            "photos": batch.photos,
            "targets": batch.targets.flatten(0, 1),
            "ray_maps": rays,
            "timesteps": timesteps,
            "noise": noise,
            "posterior_noise": posterior,
            "text_kept": text_kept,
            "images_kept": images_kept,
        }
        if config.rgb_weight:
            uniform = draws.uniform(count, views, config.rays, 3).flatten(0, 1)
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
        hint = self._hint(tokens, ray_maps[0])
        hint, ray_maps, tokens = masked(images_kept, hint, ray_maps, tokens)
        constants = self.controlnet.constants(hint, tuple(ray_maps), tokens)
        residuals = self.controlnet(noisy, timesteps, constants)
        text, keys_values = self._prompts(text_kept)
        eps = predict(self.unet, noisy, timesteps, text, keys_values, residuals).float()
        return {"eps": F.mse_loss(eps, noise), **terms}

    def _hint(self, tokens: Tensor, rays: Tensor) -> Tensor:
        """(B·T, C+6, s, s): features of each target's grid, then its rays, as pipeline.novel_views makes them."""
        forms = rays.permute(0, 2, 3, 1).reshape(len(tokens), -1, 6)
        with torch.set_grad_enabled(torch.is_grad_enabled() and is_trained(self.encoder.upsrt)):
            features = self.encoder.upsrt.decode(tokens, forms, chunk=forms.shape[1]).float()
        grid = features.reshape(*rays.shape[:1], *rays.shape[2:], -1).permute(0, 3, 1, 2)
        return torch.cat([grid, rays], dim=1)

    def _prompts(self, text_kept: Tensor) -> tuple[Tensor, tuple[KeysValues, ...]]:
        """(B, 77, W) embeddings and their keys and values in the UNet, computed for the two prompts, then chosen."""
        index = (~text_kept).long()
        both = prompt_keys_values(self.unet, self.text)
        return self.text[index], tuple((key[index], value[index]) for key, value in both)


def choose_unet_half(unet: nn.Module, part: str) -> None:
    """Trains "all" of the UNet or its "output" half; the rest is frozen."""
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(part == "all" or name.startswith(OUTPUT_HALF))


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
