"""MODEL, CLIP and VAE of a checkpoint, of any size, by ComfyUI's own classes for Stable Diffusion 1.5."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..upfusion_core import DEFAULT_PROMPT, UNET_PREFIX, VAE_PREFIX
from .host import report
from .hosted import Dtypes, HostedModel, choose_dtypes, host_networks

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP, VAE

    from ..upfusion_core import Checkpoint, ModelConfig


def load_all(path: str | Path, precision: str) -> tuple[HostedModel, ModelPatcher, CLIP | None, VAE]:
    """UPFUSION_MODEL, MODEL, CLIP (None without a text encoder) and VAE of a file or folder (see open_checkpoint)."""
    from ..upfusion_core import open_checkpoint

    # ComfyUI runs nodes in inference mode, whose tensors gradients cannot cross; those of a distillation do
    with torch.inference_mode(False), torch.no_grad():
        return _load_opened(open_checkpoint(path), precision)


def _load_opened(checkpoint: Checkpoint, precision: str) -> tuple[HostedModel, ModelPatcher, CLIP | None, VAE]:
    from comfy import utils

    from ..upfusion_core import latent_diffusion_weights

    weights = latent_diffusion_weights(checkpoint)  # a new dict: ComfyUI takes the names it uses out of it
    dtypes = choose_dtypes(
        precision, utils.calculate_parameters(weights, UNET_PREFIX), utils.weight_dtype(weights, UNET_PREFIX)
    )
    report("loading the autoencoder and the text encoder")
    vae = load_vae(checkpoint.config, weights)
    clip = load_clip(checkpoint.config, weights, dtypes) if checkpoint.has_text_encoder else None
    report("loading the diffusion model")
    model = load_unet(checkpoint.config, weights, dtypes, vae)
    report("loading the ControlNet and the scene transformer")
    return host_networks(checkpoint, default_text(checkpoint, clip), dtypes), model, clip, vae


def load_unet(config: ModelConfig, weights: dict[str, Tensor], dtypes: Dtypes, vae: VAE) -> ModelPatcher:
    """The UNet as a MODEL whose latents are those of `vae`; its tensors are taken out of `weights`."""
    from comfy import model_detection, model_management, model_patcher, supported_models

    sizes = model_detection.detect_unet_config(weights, UNET_PREFIX)
    kind = supported_models.SD15(sizes)
    kind.unet_config["num_heads"] = config.diffusion.num_heads
    _describe_latents(kind.latent_format, config, vae)
    kind.set_inference_dtype(dtypes.stored, dtypes.cast)
    offload = model_management.unet_offload_device()
    network = kind.get_model(weights, UNET_PREFIX, device=offload)
    wrap = getattr(model_patcher, "CoreModelPatcher", model_patcher.ModelPatcher)  # the older name
    patcher = wrap(network, load_device=model_management.get_torch_device(), offload_device=offload)
    network.load_model_weights(weights, UNET_PREFIX)
    return patcher


def load_vae(config: ModelConfig, weights: dict[str, Tensor]) -> VAE:
    """The autoencoder as a VAE that knows its own ratio of pixels to latent cells."""
    from comfy.sd import VAE

    sizes = {
        "double_z": True,
        "z_channels": config.vae.embed_dim,
        "resolution": config.image_size,
        "in_channels": 3,
        "out_ch": 3,
        "ch": config.vae.ch,
        "ch_mult": list(config.vae.ch_mult),
        "num_res_blocks": config.vae.num_res_blocks,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    own = {name.removeprefix(VAE_PREFIX): value for name, value in weights.items() if name.startswith(VAE_PREFIX)}
    vae = VAE(sd=own, config={"params": {"ddconfig": sizes, "embed_dim": config.vae.embed_dim}})
    # VAE() assumes 8 and its memory estimates stand for 8 x 8 pixels a latent cell
    ratio = config.vae.downsampling
    estimate = vae.memory_used_decode
    vae.memory_used_decode = lambda shape, dtype: estimate(shape, dtype) * ratio**2 / 64
    vae.downscale_ratio = vae.upscale_ratio = ratio
    return vae


def _describe_latents(latent_format: Any, config: ModelConfig, vae: VAE) -> None:
    """Scale, pixels a cell, and how latents look: an autoencoder of its own sizes is not Stable Diffusion's."""
    latent_format.scale_factor = config.vae.scale_factor
    latent_format.spacial_downscale_ratio = config.vae.downsampling
    if config.vae.ch_mult != (1, 2, 4, 4):
        factors = preview_factors(vae, config.vae.scale_factor)
        latent_format.latent_rgb_factors = factors[:-1].tolist()
        latent_format.latent_rgb_factors_bias = factors[-1].tolist()


def preview_factors(vae: VAE, scale_factor: float) -> Tensor:
    """(5, 3): the linear map from scaled latents and 1 to colours in [-1, 1] that fits coloured squares best."""
    size = 8 * vae.spacial_compression_encode()
    squares = torch.rand(16, 4, 4, 3, generator=torch.Generator().manual_seed(0))
    pictures = squares.repeat_interleave(size // 4, dim=1).repeat_interleave(size // 4, dim=2)
    latents = vae.encode(pictures).float().cpu() * scale_factor
    cells = squares.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    known = torch.cat([latents.movedim(1, -1).reshape(-1, 4), torch.ones(cells[..., 0].numel(), 1)], dim=1)
    return torch.linalg.lstsq(known, 2 * cells.reshape(-1, 3) - 1).solution


def load_clip(config: ModelConfig, weights: dict[str, Tensor], dtypes: Dtypes) -> CLIP:
    """The text encoder as a CLIP, float32 where the model is, otherwise as ComfyUI keeps its text encoders."""
    import folder_paths
    from comfy import model_detection, supported_models, utils
    from comfy.sd import CLIP

    kind = supported_models.SD15(model_detection.detect_unet_config(weights, UNET_PREFIX))
    own = kind.process_clip_state_dict(dict(weights))
    sizes = {
        "hidden_size": config.text.hidden_size,
        "num_attention_heads": config.text.num_attention_heads,
        "num_hidden_layers": config.text.num_hidden_layers,
        "intermediate_size": config.text.intermediate_size,
        "projection_dim": config.text.hidden_size,
    }
    options: dict[str, Any] = {"clip_l_model_config": sizes}
    if dtypes.stored == torch.float32:
        options["dtype"] = torch.float32
    return CLIP(
        kind.clip_target(state_dict=weights),
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        tokenizer_data=own,
        parameters=utils.calculate_parameters(own),
        state_dict=own,
        model_options=options,
    )


def default_text(checkpoint: Checkpoint, clip: CLIP | None) -> tuple[Tensor, Tensor]:
    """(default prompt, empty prompt) embeddings, (77, W) each: stored ones, else from the text encoder, else zeros."""
    if checkpoint.text_embeddings is not None:
        return checkpoint.text_embeddings
    if clip is None:
        logging.warning(
            "%s holds neither a text encoder nor stored text embeddings; zeros stand in the prompt's place",
            checkpoint.path.name,
        )
        nothing = torch.zeros(77, checkpoint.config.diffusion.context_dim)
        return nothing, nothing.clone()
    return _encoded(clip, DEFAULT_PROMPT), _encoded(clip, "")


def _encoded(clip: Any, prompt: str) -> Tensor:
    return clip.encode_from_tokens(clip.tokenize(prompt))[0].float().cpu()
