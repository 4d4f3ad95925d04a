"""UpSRT: photos without poses -> set latents, and the answers to rays that query them (paper section 3.1)."""

from collections.abc import Callable, Sequence
from itertools import zip_longest
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import UpSRTConfig
from ..geometry.rays import harmonic_encoding
from ..support.checks import check_shape
from ..support.devices import Chunk
from .controlnet import KeysValues, apply_layer, grouped_attention, keys_values


class UpSRT(nn.Module):
    """The set-latent scene transformer. It knows no cameras: rays come to it as Plücker forms, float32."""

    def __init__(self, config: UpSRTConfig, *, ops: ModuleType = nn) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False  # activations computed again in the backward pass, not kept
        self.scene_encoder = _Stack("transformer_encoder", config.encoder_layers, config, ops)
        self.ray_decoder = _Stack("transformer_decoder", config.decoder_layers, config, ops)
        self.ray_decoder.rgb_mlp = nn.Sequential(
            ops.Linear(config.transformer_dim, 256), nn.ReLU(), ops.Linear(256, 64), nn.ReLU(), ops.Linear(64, 3)
        )
        self.linear_scene = ops.Linear(config.scene_input_dim, config.transformer_dim)
        self.linear_query_pixel_rays = ops.Linear(6 * 2 * config.num_freqs, config.transformer_dim)

    def encode(self, keys: Tensor, patch_plucker: Tensor) -> Tensor:
        """(B, V, P, C) keys of V photos, and (P, 6) patch rays, the same for each -> (B, V·P, D) set latents."""
        batch, views = keys.shape[:2]
        count, device = len(patch_plucker), patch_plucker.device
        camera_id = torch.full((views, 1, 1), 2 / 3 + 0.05, device=device)  # all photos but the first are a set
        camera_id[0] = 1 / 3 + 0.05
        patch_id = torch.arange(1, count + 1, device=device)[:, None] / count
        ids = [patch_plucker.expand(views, -1, -1), patch_id.expand(views, -1, -1), camera_id.expand(-1, count, -1)]
        position = torch.cat([self._harmonics(values) for values in ids], dim=-1)  # (V, P, K)
        position = position.to(keys.dtype).expand(batch, -1, -1, -1)
        tokens = self.linear_scene(torch.cat([keys, position], dim=-1)).flatten(1, 2)
        # upstream: no final norm (golden: upsrt.set_latents)
        return self.scene_encoder(tokens, again=self.gradient_checkpointing)

    def decode(
        self, tokens: Tensor, plucker: Tensor, *, chunk: int = 8192, read: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """(B, N, D) set latents and (B, R, 6) rays, `chunk` at a time -> what `read` makes of (B, R, D) features."""
        check_shape("UpSRT.decode tokens", tokens, ("B", "N", self.config.transformer_dim))
        memory = [keys_values(layer, tokens) for layer in self.ray_decoder.layers]  # constant over the chunks

        def answers(part: slice) -> Tensor:
            rays = self.linear_query_pixel_rays(self._harmonics(plucker[:, part]).to(tokens.dtype))
            features = self.ray_decoder(rays, memory, again=self.gradient_checkpointing)
            return read(features) if read else features

        return torch.cat(list(Chunk(chunk, "ray").map(answers, plucker.shape[1])), dim=1)

    def read_rgb(self, features: Tensor) -> Tensor:
        """(..., D) view-aligned features -> (..., 3) direct, blurry colours in [0, 1]."""
        return self.ray_decoder.rgb_mlp(features).sigmoid()

    def _harmonics(self, values: Tensor) -> Tensor:
        return harmonic_encoding(values, self.config.num_freqs, self.config.start_freq)


class _Layer(nn.Module):
    """Pre-norm transformer layer, which attends to the given keys and values or, where they are None, to itself."""

    def __init__(self, config: UpSRTConfig, ops: ModuleType) -> None:
        super().__init__()
        width, self.heads = config.transformer_dim, config.num_heads
        self.to_q = ops.Linear(width, width, bias=False)
        self.to_k = ops.Linear(width, width, bias=False)
        self.to_v = ops.Linear(width, width, bias=False)
        self.to_out = ops.Linear(width, width, bias=False)
        self.linear1 = ops.Linear(width, config.ff_dim)
        self.linear2 = ops.Linear(config.ff_dim, width)
        self.norm1 = ops.LayerNorm(width, eps=1e-5)
        self.norm2 = ops.LayerNorm(width, eps=1e-5)

    def forward(self, x: Tensor, pair: KeysValues | None) -> Tensor:
        normed = self.norm1(x)
        key, value = pair or keys_values(self, normed)
        x = x + self.to_out(grouped_attention(self.to_q(normed), key, value))
        return x + self.linear2(F.gelu(self.linear1(self.norm2(x))))


class _Stack(nn.Module):
    """Layers one after another, under `name` as in the checkpoint."""

    rgb_mlp: nn.Sequential  # the ray decoder's

    def __init__(self, name: str, depth: int, config: UpSRTConfig, ops: ModuleType) -> None:
        super().__init__()
        layers = nn.ModuleList(_Layer(config, ops) for _ in range(depth))
        self.add_module(name, nn.ModuleDict({"layers": layers}))

    @property
    def layers(self) -> list[nn.Module]:
        return list(next(self.children()).get_submodule("layers").children())

    def forward(self, x: Tensor, memory: Sequence[KeysValues] = (), *, again: bool) -> Tensor:
        """(B, R, D) queries of the memory, keys and values a layer; without one they attend to each other."""
        for layer, pair in zip_longest(self.layers, memory):
            x = apply_layer(layer, x, pair, again=again)
        return x
