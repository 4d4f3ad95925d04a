"""The dual-conditioned ControlNet: view-aligned features as a hint, attention to the set latents (paper section 3.2).

Module and parameter names are the released checkpoint's, without the prefix `control_model.`.
"""

from collections import OrderedDict
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from ..config import DiffusionConfig
from ..support.checks import check_shape
from ..support.errors import InputError

KeysValues = tuple[Tensor, Tensor]
Network = TypeVar("Network", bound=nn.Module)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, heads·D) -> (B, heads, N, D)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def keys_values(layer: Any, context: Tensor) -> KeysValues:  # noqa: ANN401 - ours, or diffusers' Attention
    """(G, N, C) -> keys and values, (G, heads, N, D) each, of an attention layer with `to_k`, `to_v` and `heads`."""
    return split_heads(layer.to_k(context), layer.heads), split_heads(layer.to_v(context), layer.heads)


def grouped_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """(B, L, heads·D) queries over (G, heads, N, D) keys and values -> (B, L, heads·D); G = B is ordinary attention.

    The B queries are G equal runs, group-major. The samples of a run share keys and values, as the cameras of a scene
    its set latents; they are laid end to end along the query axis, so that nothing shared is copied.
    """
    groups, heads = key.shape[:2]
    batch, length, width = query.shape
    folded = split_heads(query.reshape(groups, batch // groups * length, width), heads)
    if folded.requires_grad and (folded.device.type, folded.dtype) == ("cpu", torch.bfloat16):
        # torch's own takes a CPU five times as long backwards
        out = (folded * folded.shape[-1] ** -0.5 @ key.transpose(-1, -2)).softmax(-1) @ value
    else:
        out = scaled_dot_product_attention(folded, key, value)
    return out.transpose(1, 2).reshape(batch, length, width)


def apply_layer(layer: nn.Module, *inputs: object, again: bool) -> Tensor:
    """The layer's output; with `again` its activations are not kept but computed anew in the backward pass."""
    if again and torch.is_grad_enabled():
        return checkpoint(layer, *inputs, use_reentrant=False)
    return layer(*inputs)


CHANNELS_A_POSITION = 4  # output channels a position of the batch from which the product is faster, on AVX-512 cores


class WideConv2d(nn.Conv2d):
    """torch's 3x3 convolution, padded by 1; on a CPU in float32, one matrix product where the feature maps are small.

    There oneDNN, which reorders the weights at every call, spends most of its time on that.
    """

    def forward(self, x: Tensor) -> Tensor:
        height, width = ((size - 1) // step + 1 for size, step in zip(x.shape[-2:], self.stride, strict=True))
        few = len(x) * height * width * CHANNELS_A_POSITION <= self.out_channels
        if not few or x.device.type != "cpu" or x.dtype != torch.float32:
            return super().forward(x)
        columns = F.unfold(x, 3, padding=1, stride=self.stride)  # (B, C·9, H'·W')
        product = self.weight.flatten(1) @ columns.transpose(0, 1).flatten(1)
        result = product if self.bias is None else product + self.bias[:, None]
        return result.unflatten(1, (len(x), height, width)).transpose(0, 1).contiguous()


def widen(network: Network) -> Network:
    """The network whose 3x3 convolutions are of class WideConv2d from now on; names and parameters stay."""
    for layer in network.modules():
        if type(layer) is nn.Conv2d and layer.groups == 1 and layer.kernel_size == (3, 3) and layer.padding == (1, 1):
            layer.__class__ = WideConv2d
    return network


@dataclass(frozen=True, eq=False)
class ControlConstants:
    """What the ControlNet needs of a scene and its cameras, constant over the sampling steps."""

    hint: Tensor  # (B, C, s, s) after the hint convolution
    ray_maps: tuple[Tensor, ...]  # one (B, 6, s, s) a level, finest first
    keys_values: tuple[KeysValues, ...]  # of the set latents, (G, heads, N, D) each; G divides B - blank
    blank: int = 0  # how many samples, the first of the batch, have set latents of zeros


class ControlNet(nn.Module):
    """(B, 4, s, s) noisy latents -> 13 residuals: the UNet's 12 skip connections in input order, then its middle."""

    def __init__(self, config: DiffusionConfig, *, ops: ModuleType = nn) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False  # activations computed again in the backward pass, not kept
        width, time_width = config.model_channels, 4 * config.model_channels
        self.time_embed = nn.Sequential(ops.Linear(width, time_width), nn.SiLU(), ops.Linear(time_width, time_width))
        self.input_hint_block = nn.Sequential(ops.Conv2d(config.hint_channels, width, 3, padding=1))
        blocks = [[ops.Conv2d(4, width, 3, padding=1)]]
        places = [(0, width)]  # level and channels of each block
        for level, out in enumerate(config.widths):
            for _ in range(config.num_res_blocks):
                blocks.append([_ResBlock(places[-1][1], out, time_width, ops)])
                if config.has_attention(level):
                    blocks[-1].append(_SetTransformer(out, config, ops))
                places.append((level, out))
            if level < len(config.widths) - 1:
                blocks.append([nn.Sequential(OrderedDict(op=ops.Conv2d(out, out, 3, stride=2, padding=1)))])
                places.append((level, out))
        self.levels = tuple(level for level, _ in places)
        self.input_blocks = nn.ModuleList(map(nn.ModuleList, blocks))
        self.zero_convs = nn.ModuleList(nn.Sequential(ops.Conv2d(count, count, 1)) for _, count in places)
        middle = (_ResBlock(out, out, time_width, ops), _SetTransformer(out, config, ops))
        self.middle_block = nn.ModuleList([*middle, _ResBlock(out, out, time_width, ops)])
        self.middle_block_out = nn.Sequential(ops.Conv2d(out, out, 1))

    def constants(
        self, hint: Tensor, ray_maps: tuple[Tensor, ...], tokens: Tensor, *, blank: int = 0
    ) -> ControlConstants:
        """In the precision of `tokens`: hints (B, C+6, s, s), ray maps (B, 6, s/2^i, s/2^i) of every level i, and set
        latents (G, N, C) of all samples but the first `blank`, whose are zeros; G divides their number.
        """
        check_shape("ControlNet hint", hint, ("B", self.config.hint_channels, "s", "s"))
        check_shape("ControlNet tokens", tokens, ("G", "N", self.config.context_dim))
        levels, batch = len(self.config.widths), len(hint) - blank
        if len(ray_maps) != levels or batch % len(tokens):
            wanted = f"{levels} ray maps and a batch divisible by the {len(tokens)} set latents"
            raise InputError(f"ControlNet expects {wanted}, got {len(ray_maps)} and {batch}; use UpFusion.condition")
        blocks = [*self.input_blocks, self.middle_block]
        layers = (layer for block in blocks for layer in block.children() if isinstance(layer, _SetTransformer))
        pairs = tuple(keys_values(layer.transformer_blocks[0].attn2, tokens) for layer in layers)
        maps = tuple(ray_map.to(tokens.dtype) for ray_map in ray_maps)
        return ControlConstants(self.input_hint_block(hint.to(tokens.dtype)), maps, pairs, blank)

    def forward(self, latents: Tensor, timesteps: Tensor, constants: ControlConstants) -> list[Tensor]:
        """Residuals for `latents` (B, 4, s, s) at `timesteps` (B,) in 0…999."""
        steps = get_timestep_embedding(timesteps, self.config.model_channels, True, 0)  # as in the UNet
        embedding = self.time_embed(steps.to(latents.dtype))
        pairs = iter(constants.keys_values)

        def run(block: nn.Module, x: Tensor, level: int) -> Tensor:
            for layer in block.children():
                inputs: tuple[object, ...] = ()
                if isinstance(layer, _ResBlock):
                    inputs = (embedding,)
                elif isinstance(layer, _SetTransformer):
                    inputs = (constants.ray_maps[level], next(pairs), constants.blank)
                x = apply_layer(layer, x, *inputs, again=self.gradient_checkpointing)
            return x

        x, residuals = latents, list[Tensor]()
        for block, zero_conv, level in zip(self.input_blocks, self.zero_convs, self.levels, strict=True):
            x = run(block, x, level)
            if not residuals:
                x = x + constants.hint
            residuals.append(zero_conv(x))
        return [*residuals, self.middle_block_out(run(self.middle_block, x, -1))]


class _ResBlock(nn.Module):
    def __init__(self, channels: int, out: int, time_width: int, ops: ModuleType) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            ops.GroupNorm(32, channels, eps=1e-5), nn.SiLU(), ops.Conv2d(channels, out, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), ops.Linear(time_width, out))
        # the identity keeps the place, and so the name, of the checkpoint's dropout
        self.out_layers = nn.Sequential(
            ops.GroupNorm(32, out, eps=1e-5), nn.SiLU(), nn.Identity(), ops.Conv2d(out, out, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if channels == out else ops.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(embedding)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class _SetTransformer(nn.Module):
    """Spatial transformer over the set latents; it sees the camera through the rays appended to its input."""

    def __init__(self, channels: int, config: DiffusionConfig, ops: ModuleType) -> None:
        super().__init__()
        self.norm = ops.GroupNorm(32, channels, eps=1e-6)
        self.proj_in = ops.Conv2d(channels + 6, channels, 1)
        self.transformer_blocks = nn.ModuleList([_TransformerBlock(channels, config, ops)])
        self.proj_out = ops.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, ray_map: Tensor, pair: KeysValues, blank: int) -> Tensor:
        h = self.proj_in(torch.cat([self.norm(x), ray_map], dim=1))
        h = self.transformer_blocks[0](h.flatten(2).transpose(1, 2), pair, blank)  # (B, s·s, C)
        return x + self.proj_out(h.transpose(1, 2).unflatten(2, x.shape[2:]))


class _TransformerBlock(nn.Module):
    def __init__(self, width: int, config: DiffusionConfig, ops: ModuleType) -> None:
        super().__init__()
        self.attn1 = _Attention(width, width, config.num_heads, ops)
        feed_forward = nn.Sequential(_Geglu(width, 4 * width, ops), nn.Identity(), ops.Linear(4 * width, width))
        self.ff = nn.ModuleDict({"net": feed_forward})
        self.attn2 = _Attention(width, config.context_dim, config.num_heads, ops)
        self.norm1, self.norm2, self.norm3 = (ops.LayerNorm(width, eps=1e-5) for _ in range(3))

    def forward(self, x: Tensor, pair: KeysValues, blank: int) -> Tensor:
        normed = self.norm1(x)
        x = x + self.attn1(normed, keys_values(self.attn1, normed))
        x = x + self.attn2(self.norm2(x), pair, blank)
        return x + self.ff["net"](self.norm3(x))


class _Attention(nn.Module):
    """Attention to keys and values; that of the first `blank` samples, to zeros, gives zeros, as there is no bias."""

    def __init__(self, width: int, context_width: int, heads: int, ops: ModuleType) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = ops.Linear(width, width, bias=False)
        self.to_k = ops.Linear(context_width, width, bias=False)
        self.to_v = ops.Linear(context_width, width, bias=False)
        self.to_out = nn.Sequential(ops.Linear(width, width))

    def forward(self, x: Tensor, pair: KeysValues, blank: int = 0) -> Tensor:
        seen = self.to_out(grouped_attention(self.to_q(x[blank:]), *pair))
        if not blank:
            return seen
        return torch.cat([self.to_out(torch.zeros_like(x[:1, :1])).expand_as(x[:blank]), seen])


class _Geglu(nn.Module):
    def __init__(self, width: int, hidden: int, ops: ModuleType) -> None:
        super().__init__()
        self.proj = ops.Linear(width, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)
