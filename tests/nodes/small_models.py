"""Small merged files of weights made by rule: what the node tests load."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from rule_weights import rule_tensor
from safetensors.torch import save_file

from upfusion_core import DistillConfig, RadianceField
from upfusion_core.config import DiffusionConfig, DinoConfig, ModelConfig, UpSRTConfig, VaeConfig
from upfusion_core.models.checkpoint import CONFIG_KEY, DEFAULT_EMBEDDING, EMPTY_EMBEDDING
from upfusion_core.models.networks import build_networks
from upfusion_core.models.networks import network_weights as weights_of

WIDTH = 48


def quarter_model() -> ModelConfig:
    """32 pixel images, an autoencoder of three levels (4 pixels a latent cell), as the bundled model has."""
    return ModelConfig(
        image_size=32,
        dino=DinoConfig(img_size=32, patch_size=8, embed_dim=WIDTH, depth=2, num_heads=4, layer=1),
        upsrt=UpSRTConfig(
            transformer_dim=WIDTH,
            num_heads=4,
            ff_dim=96,
            encoder_layers=1,
            decoder_layers=1,
            image_feature_dim=WIDTH,
            patches=(4, 4),
            num_freqs=8,
            start_freq=-2,
        ),
        diffusion=DiffusionConfig(
            model_channels=32, channel_mult=(1, 1, 2, 2), context_dim=WIDTH, hint_channels=WIDTH + 6
        ),
        vae=VaeConfig(ch=32, ch_mult=(1, 2, 2), num_res_blocks=1),
    )


def write_merged(path: Path, config: ModelConfig) -> Path:
    """A merged file without text encoder, but with stored embeddings; every tensor follows from its name and shape."""
    shapes = {name: value.shape for name, value in weights_of(config, build_networks(config, "meta")).items()}
    shapes |= dict.fromkeys((DEFAULT_EMBEDDING, EMPTY_EMBEDDING), (77, config.diffusion.context_dim))
    tensors = {name: rule_tensor(name, tuple(shape)) for name, shape in shapes.items()}
    save_file(tensors, path, metadata={CONFIG_KEY: json.dumps(config.to_dict())})
    return path


def write_round_field(path: Path) -> None:
    """A field of a grey ball, see `ball` in conftest.py."""
    field = RadianceField(DistillConfig.draft().field)
    with torch.no_grad():
        field.mlp[-1].weight.zero_()
        field.mlp[-1].bias.zero_()
    field.save(path)
