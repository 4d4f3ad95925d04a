"""Stable Diffusion 1.5's image autoencoder from diffusers, between [0, 1] images and scaled latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffusers import AutoencoderKL
from torch import Tensor

from ..errors import InputError
from ..saturate import saturate


@dataclass(frozen=True)
class VaeConfig:
    """Sizes of the KL autoencoder; the defaults are SD 1.5's. scale_factor multiplies latents after encoding."""

    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    embed_dim: int = 4
    scale_factor: float = 0.18215

    def __post_init__(self) -> None:
        object.__setattr__(self, "ch_mult", tuple(self.ch_mult))
        if not self.scale_factor > 0:
            raise InputError(f"vae needs a scale_factor above 0, got {self.scale_factor}; correct its configuration")
        if self.ch % 32 or self.embed_dim != 4:
            raise InputError(
                f"vae needs ch divisible by 32 and embed_dim 4, got {self.ch} and {self.embed_dim}; "
                "correct its configuration"
            )

    @property
    def downsampling(self) -> int:
        """Image pixels a latent cell, along each side."""
        return 2 ** (len(self.ch_mult) - 1)


def build_vae(config: VaeConfig) -> AutoencoderKL:
    """The autoencoder of these sizes, its weights not yet loaded."""
    levels = len(config.ch_mult)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(config.ch * multiple for multiple in config.ch_mult),
        layers_per_block=config.num_res_blocks,
        latent_channels=config.embed_dim,
        norm_num_groups=32,
        scaling_factor=config.scale_factor,
    )


def encode_posterior(vae: AutoencoderKL, rgb: Tensor) -> Any:  # noqa: ANN401 - diffusers' diagonal Gaussian
    """(B, 3, H, W) images in [0, 1] -> the distribution of their latents, (B, 4, h, w), not yet scaled."""
    return vae.encode((2 * rgb - 1).to(vae.dtype)).latent_dist


def encode_images(vae: AutoencoderKL, rgb: Tensor, noise: Tensor | None = None) -> Tensor:
    """(B, 3, H, W) images in [0, 1] -> (B, 4, h, w) latents, float32.

    Args:
        noise: standard normal, of the latents' shape: the posterior is sampled with it; None takes its mean.
    """
    posterior = encode_posterior(vae, rgb)
    latents = posterior.mean.float()
    if noise is not None:
        latents = latents + posterior.std.float() * noise.to(latents)
    return latents * vae.config.scaling_factor


def decode_latents(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """(B, 4, h, w) latents -> (B, 3, H, W) images clipped to [0, 1], float32."""
    images = vae.decode((latents / vae.config.scaling_factor).to(vae.dtype)).sample
    return saturate((images.float() + 1) / 2)
