"""Stable Diffusion 1.5 by diffusers and transformers: UNet, autoencoder, text encoder; their names in `ldm` files."""

import gzip
import importlib.util
from collections.abc import Iterable
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from ..config import DiffusionConfig, TextConfig, VaeConfig
from ..support.errors import InputError, MissingPackageError
from ..support.images import saturate
from .controlnet import KeysValues, grouped_attention, keys_values

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention

UNET_PREFIX = "model.diffusion_model."
CONTROL_PREFIX = "control_model."
VAE_PREFIX = "first_stage_model."
TEXT_PREFIX = "cond_stage_model.transformer.text_model."

# parts of diffusers' names -> those of `ldm` files: of the UNet, of its residual blocks, of the autoencoder
_UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE = {
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


def unet_names(config: DiffusionConfig, names: Iterable[str]) -> dict[str, str]:
    """diffusers' parameter names of the UNet -> the checkpoint's full names."""
    table, blocks, levels = dict(_UNET), config.num_res_blocks + 1, len(config.widths)
    for level in range(levels):
        up = levels - 1 - level
        for index in range(blocks):
            down_block, up_block = f"input_blocks.{1 + level * blocks + index}", f"output_blocks.{up * blocks + index}"
            for place, kind in enumerate(("resnets", "attentions")):
                table[f"down_blocks.{level}.{kind}.{index}"] = f"{down_block}.{place}"
                table[f"up_blocks.{up}.{kind}.{index}"] = f"{up_block}.{place}"
        # the last block changes the resolution; upwards that follows the attention where there is one
        table[f"down_blocks.{level}.downsamplers.0.conv"] = f"{down_block}.0.op"
        table[f"up_blocks.{up}.upsamplers.0"] = f"{up_block}.{2 if config.has_attention(level) else 1}"
    tables = {name: _RESNET | table if ".resnets." in name else table for name in names}
    return {name: UNET_PREFIX + _renamed(name, parts) for name, parts in tables.items()}


def vae_names(config: VaeConfig, names: Iterable[str]) -> dict[str, str]:
    """diffusers' parameter names of the autoencoder -> the checkpoint's full names."""
    table, last = dict(_VAE), len(config.ch_mult) - 1
    for level in range(last + 1):
        table[f"down_blocks.{level}.resnets"] = f"down.{level}.block"
        table[f"down_blocks.{level}.downsamplers.0"] = f"down.{level}.downsample"
        table[f"up_blocks.{last - level}.resnets"] = f"up.{level}.block"
        table[f"up_blocks.{last - level}.upsamplers.0"] = f"up.{level}.upsample"
    return {name: VAE_PREFIX + _renamed(name, table) for name in names}


def text_names(names: Iterable[str]) -> dict[str, str]:
    """transformers' parameter names of the text encoder -> the checkpoint's full names."""
    return {name: TEXT_PREFIX + name.removeprefix("text_model.") for name in names}  # nested so in transformers 4


def _renamed(name: str, parts: dict[str, str]) -> str:
    name = f".{name}"
    for ours, theirs in parts.items():
        name = name.replace(f".{ours}.", f".{theirs}.")
    return name[1:]


def build_unet(config: DiffusionConfig) -> UNet2DConditionModel:
    prefixes = ["CrossAttn" if config.has_attention(level) else "" for level in range(len(config.widths))]
    unet = UNet2DConditionModel(
        down_block_types=tuple(f"{prefix}DownBlock2D" for prefix in prefixes),
        up_block_types=tuple(f"{prefix}UpBlock2D" for prefix in reversed(prefixes)),
        block_out_channels=config.widths,
        layers_per_block=config.num_res_blocks,
        cross_attention_dim=config.context_dim,
        attention_head_dim=config.num_heads,  # diffusers' name for the number of heads in SD 1.5
    )
    unet.set_attn_processor(GroupedAttention(None))
    for index, layer in enumerate(_prompt_attentions(unet)):
        layer.set_processor(GroupedAttention(index))
    return unet


def prompt_keys_values(unet: UNet2DConditionModel, text: Tensor) -> tuple[KeysValues, ...]:
    """(G, L, W) text embeddings -> keys and values, (G, heads, L, D) each, of every attention over the prompt."""
    return tuple(keys_values(layer, text) for layer in _prompt_attentions(unet))


def _prompt_attentions(unet: UNet2DConditionModel) -> "list[Attention]":
    return [module for name, module in sorted(unet.named_modules(), key=itemgetter(0)) if name.endswith("attn2")]


def predict(
    unet: UNet2DConditionModel,
    latents: Tensor,
    timesteps: Tensor,
    text: Tensor,
    pairs: tuple[KeysValues, ...],
    residuals: list[Tensor] | None,
) -> Tensor:
    """(B, 4, s, s) predicted noise; text: (G, L, W), G divides B; pairs: of text; residuals: the ControlNet's 13."""
    control: dict[str, Any] = {}
    if residuals is not None:
        control["down_block_additional_residuals"] = tuple(residuals[:-1])
        control["mid_block_additional_residual"] = residuals[-1]
    return unet(latents, timesteps, text, cross_attention_kwargs={"pairs": pairs}, **control).sample


class GroupedAttention:
    """diffusers attention processor: attends to the `index`-th of the given pairs, or to itself where that is None."""

    def __init__(self, index: int | None) -> None:
        self.index = index

    def __call__(  # diffusers hands every processor the same options
        self, attn: "Attention", hidden_states: Tensor, pairs: tuple[KeysValues, ...] = (), **_: object
    ) -> Tensor:
        pair = keys_values(attn, hidden_states) if self.index is None else pairs[self.index]
        return attn.to_out[0](grouped_attention(attn.to_q(hidden_states), *pair))


def build_vae(config: VaeConfig) -> AutoencoderKL:
    levels = len(config.ch_mult)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(config.ch * multiple for multiple in config.ch_mult),
        layers_per_block=config.num_res_blocks, latent_channels=config.embed_dim, scaling_factor=config.scale_factor,
    )  # fmt: skip


def encode_posterior(vae: AutoencoderKL, rgb: Tensor) -> Any:  # noqa: ANN401 - diffusers' diagonal Gaussian
    """(B, 3, H, W) images in [0, 1] -> the distribution of their latents, (B, 4, h, w), not yet scaled."""
    return vae.encode((2 * rgb - 1).to(vae.dtype)).latent_dist


def encode_images(vae: AutoencoderKL, rgb: Tensor, noise: Tensor | None = None) -> Tensor:
    """(B, 3, H, W) images in [0, 1] -> (B, 4, h, w) latents, float32: sampled by `noise`, or the posterior's mean."""
    posterior = encode_posterior(vae, rgb)
    latents = posterior.mean.float()
    if noise is not None:
        latents = latents + posterior.std.float() * noise.to(latents)
    return latents * vae.config.scaling_factor


def decode_latents(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """(B, 4, h, w) latents -> (B, 3, H, W) images clipped to [0, 1], float32."""
    images = vae.decode((latents / vae.config.scaling_factor).to(vae.dtype)).sample
    return saturate((images.float() + 1) / 2)


DEFAULT_PROMPT = "a high quality image with a white background"
START_TOKEN, END_TOKEN, CONTEXT_LENGTH = 49406, 49407, 77
_CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
DEFAULT_TOKENS = (320, 1400, 3027, 2867, 593, 320, 1579, 5994)


def build_text_encoder(config: TextConfig) -> CLIPTextModel:
    rest = {"vocab_size": END_TOKEN + 1, "max_position_embeddings": CONTEXT_LENGTH, "hidden_act": "quick_gelu"}
    return CLIPTextModel(CLIPTextConfig(**vars(config), **rest))


@torch.no_grad()
def encode_tokens(encoder: CLIPTextModel, tokens: Tensor) -> Tensor:
    """(B, 77) token ids -> (B, 77, W): the last hidden state after the final norm, float32."""
    return encoder(tokens.to(encoder.device)).last_hidden_state.float()


def tokenize(prompt: str) -> Tensor:
    """(1, 77) CLIP token ids of at most 75; but for the default and the empty prompt, CLIP's vocabulary is needed."""
    known = {DEFAULT_PROMPT: DEFAULT_TOKENS, "": ()}
    ids = [START_TOKEN, *(known[prompt] if prompt in known else _tokenizer_ids(prompt))]
    if len(ids) > CONTEXT_LENGTH - 1:
        raise InputError(f"the prompt must have at most 75 tokens, got {len(ids) - 1}; shorten it")
    return torch.tensor([ids + [END_TOKEN] * (CONTEXT_LENGTH - len(ids))])


def _tokenizer_ids(prompt: str) -> list[int]:
    """Ids by CLIP's vocabulary, whose merges are open_clip's package data; the package itself is not imported."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    found = importlib.util.find_spec("open_clip")
    if found is None or not found.submodule_search_locations:
        wanted = "a prompt other than the default needs CLIP's vocabulary, which is not installed"
        raise MissingPackageError(f"{wanted}; run pip install open_clip_torch or leave the prompt away")
    path = Path(found.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())  # stand-ins for the 256 bytes, as the vocabulary has them
    # line 0 names the version; the vocabulary is 2 x 256 letters, the merges, and the two special tokens
    merges = [(left, right) for left, right in (line.split() for line in lines[1 : END_TOKEN - 512])]
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    vocabulary = {word: index for index, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    words_of = pre_tokenizers.Split(Regex(_CLIP_WORDS), "removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words_of, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return list(tokenizer.encode(prompt).ids)
