"""How the checkpoint's `ldm` names of UNet, VAE and text encoder correspond to those of diffusers and transformers.

The released names are the ones that ComfyUI, our files and our messages use; diffusers' exist only inside the built
modules. A table maps module prefixes, so it works in both directions and can name what a file lacks.
"""

from __future__ import annotations

from collections.abc import Iterable

from .controlnet import DiffusionConfig
from .vae import VaeConfig

UNET_PREFIX = "model.diffusion_model."
CONTROL_PREFIX = "control_model."
VAE_PREFIX = "first_stage_model."
TEXT_PREFIX = "cond_stage_model.transformer.text_model."

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_names(config: DiffusionConfig, names: Iterable[str]) -> dict[str, str]:
    """diffusers' parameter names of the UNet -> the checkpoint's full names."""
    return {name: UNET_PREFIX + _renamed(name, _unet_prefixes(config)) for name in names}


def vae_names(config: VaeConfig, names: Iterable[str]) -> dict[str, str]:
    """diffusers' parameter names of the autoencoder -> the checkpoint's full names."""
    return {name: VAE_PREFIX + _renamed(name, _vae_prefixes(config)) for name in names}


def text_names(names: Iterable[str]) -> dict[str, str]:
    """transformers' parameter names of the text encoder -> the checkpoint's full names.

    transformers 4 nests the encoder in `text_model.`, transformers 5 does not.
    """
    return {name: TEXT_PREFIX + name.removeprefix("text_model.") for name in names}


def _renamed(name: str, prefixes: dict[str, str]) -> str:
    parts = name.split(".")
    for end in range(len(parts), 0, -1):  # the longest prefix that the table knows
        head = ".".join(parts[:end])
        if head in prefixes:
            return ".".join([prefixes[head], *parts[end:]])
    return name


def _unet_prefixes(config: DiffusionConfig) -> dict[str, str]:
    table = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "mid_block.attentions.0": "middle_block.1",
    }
    table |= _resnet("mid_block.resnets.0", "middle_block.0") | _resnet("mid_block.resnets.1", "middle_block.2")
    levels = len(config.widths)
    block = 1
    for level in range(levels):
        for index in range(config.num_res_blocks):
            table |= _resnet(f"down_blocks.{level}.resnets.{index}", f"input_blocks.{block}.0")
            table[f"down_blocks.{level}.attentions.{index}"] = f"input_blocks.{block}.1"
            block += 1
        table[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{block}.0.op"
        block += 1
    block = 0
    for up, level in enumerate(reversed(range(levels))):
        for index in range(config.num_res_blocks + 1):
            table |= _resnet(f"up_blocks.{up}.resnets.{index}", f"output_blocks.{block}.0")
            table[f"up_blocks.{up}.attentions.{index}"] = f"output_blocks.{block}.1"
            block += 1
        place = 2 if config.has_attention(level) else 1  # the upsampler follows the attention where there is one
        table[f"up_blocks.{up}.upsamplers.0.conv"] = f"output_blocks.{block - 1}.{place}.conv"
    return table


def _resnet(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}.{name}": f"{theirs}.{ldm}" for name, ldm in _RESNET.items()}


def _vae_prefixes(config: VaeConfig) -> dict[str, str]:
    levels = len(config.ch_mult)
    table = {}
    for half in ("encoder", "decoder"):
        table[f"{half}.conv_norm_out"] = f"{half}.norm_out"
        for index in (0, 1):
            table[f"{half}.mid_block.resnets.{index}"] = f"{half}.mid.block_{index + 1}"
        for name, ldm in _VAE_ATTENTION.items():
            table[f"{half}.mid_block.attentions.0.{name}"] = f"{half}.mid.attn_1.{ldm}"
    for level in range(levels):
        for index in range(config.num_res_blocks):
            table |= _shortcut(f"encoder.down_blocks.{level}.resnets.{index}", f"encoder.down.{level}.block.{index}")
        table[f"encoder.down_blocks.{level}.downsamplers.0.conv"] = f"encoder.down.{level}.downsample.conv"
        up = levels - 1 - level
        for index in range(config.num_res_blocks + 1):
            table |= _shortcut(f"decoder.up_blocks.{up}.resnets.{index}", f"decoder.up.{level}.block.{index}")
        table[f"decoder.up_blocks.{up}.upsamplers.0.conv"] = f"decoder.up.{level}.upsample.conv"
    return table


def _shortcut(ours: str, theirs: str) -> dict[str, str]:
    return {ours: theirs, f"{ours}.conv_shortcut": f"{theirs}.nin_shortcut"}
