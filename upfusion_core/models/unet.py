"""Stable Diffusion 1.5's UNet from diffusers, with the prompt's keys and values computed once, not at every step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diffusers import UNet2DConditionModel
from torch import Tensor

from .attention import grouped_attention, split_heads
from .controlnet import DiffusionConfig, KeysValues

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention


def build_unet(config: DiffusionConfig) -> UNet2DConditionModel:
    """The UNet of these sizes, its weights not yet loaded."""
    levels = range(len(config.widths))
    down = ["CrossAttnDownBlock2D" if config.has_attention(level) else "DownBlock2D" for level in levels]
    up = ["CrossAttnUpBlock2D" if config.has_attention(level) else "UpBlock2D" for level in reversed(levels)]
    unet = UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        block_out_channels=config.widths,
        layers_per_block=config.num_res_blocks,
        cross_attention_dim=config.context_dim,
        attention_head_dim=config.num_heads,  # diffusers' name for the number of heads in SD 1.5
        norm_num_groups=32,
    )
    for index, layer in enumerate(_text_attentions(unet)):
        layer.set_processor(PromptAttention(index))
    for name, layer in _attentions(unet):
        if name.endswith("attn1"):
            layer.set_processor(PromptAttention(None))
    return unet


def prompt_keys_values(unet: UNet2DConditionModel, text: Tensor) -> tuple[KeysValues, ...]:
    """(G, L, W) text embeddings -> keys and values, (G, heads, L, D) each, of every attention over the prompt."""
    return tuple(
        (split_heads(layer.to_k(text), layer.heads), split_heads(layer.to_v(text), layer.heads))
        for layer in _text_attentions(unet)
    )


def predict(
    unet: UNet2DConditionModel,
    latents: Tensor,
    timesteps: Tensor,
    text: Tensor,
    keys_values: tuple[KeysValues, ...],
    residuals: list[Tensor] | None,
) -> Tensor:
    """(B, 4, s, s) predicted noise.

    Args:
        text: (G, L, W), G divides B; `keys_values` are prompt_keys_values of it.
        residuals: the ControlNet's 13, or None to run without control.
    """
    result = unet(
        latents,
        timesteps,
        encoder_hidden_states=text,
        cross_attention_kwargs={"keys_values": keys_values},
        down_block_additional_residuals=None if residuals is None else tuple(residuals[:-1]),
        mid_block_additional_residual=None if residuals is None else residuals[-1],
        return_dict=False,
    )
    return result[0]


class PromptAttention:
    """diffusers attention processor: attends to given keys and values, or to itself where `index` is None."""

    def __init__(self, index: int | None) -> None:
        self.index = index

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        keys_values: tuple[KeysValues, ...] = (),
        **_: Any,  # noqa: ANN401 - diffusers hands every processor the same options
    ) -> Tensor:
        """(B, L, C) hidden states -> the same shape."""
        if self.index is None:
            key, value = (
                split_heads(attn.to_k(hidden_states), attn.heads),
                split_heads(attn.to_v(hidden_states), attn.heads),
            )
        else:
            key, value = keys_values[self.index]
        return attn.to_out[0](grouped_attention(attn.to_q(hidden_states), key, value))


def _attentions(unet: UNet2DConditionModel) -> list[tuple[str, Attention]]:
    modules = [(name, module) for name, module in unet.named_modules() if name.endswith(("attn1", "attn2"))]
    return sorted(modules)


def _text_attentions(unet: UNet2DConditionModel) -> list[Attention]:
    return [module for name, module in _attentions(unet) if name.endswith("attn2")]
