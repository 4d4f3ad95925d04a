"""Sizes of the networks; the defaults are the released model's."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, MaxLen, MinLen

from ..support.errors import CheckpointError, InputError
from .base import configuration, from_value, to_dict

MODEL_ID = "model_id"
"""Name in the JSON form under which conversions hand on the fingerprint of the weights (see checkpoint.weights_id)."""
MAX_LAYERS = 256
"""Of a network; the released ones have 12 at most."""
MAX_PHOTOS = 6
"""The released UpSRT was trained on 1 to 6 photos."""

# sizes that no model comes near: a file that claims more would only cost time and memory until it is refused
Width = Annotated[int, Ge(1), Le(65536)]
Layers = Annotated[int, Ge(1), Le(MAX_LAYERS)]
Multiples = Annotated[tuple[Annotated[int, Ge(1), Le(64)], ...], MaxLen(8)]


def _require(fits: bool, rule: str) -> None:
    if not fits:
        raise InputError(f"{rule}; correct the configuration")


@configuration
class UpSRTConfig:
    """Sizes of UpSRT; the defaults are the released checkpoint's (48.4 M parameters)."""

    transformer_dim: Width = 768
    """Width of the set latents."""
    num_heads: Width = 12
    """Attention heads, which divide transformer_dim."""
    ff_dim: Width = 1024
    """Hidden width of the feed-forward layers."""
    encoder_layers: Layers = 8
    """Layers that turn photos into set latents."""
    decoder_layers: Layers = 4
    """Layers that answer rays."""
    image_feature_dim: Width = 768
    """Width of a patch's features."""
    patches: tuple[Width, Width] = (16, 16)
    """(rows, columns) of patch features a photo."""
    num_freqs: Annotated[int, Ge(1), Le(64)] = 15
    """Harmonics of each number, f_k = pi·2^(start_freq + k)."""
    start_freq: Annotated[int, Ge(-60), Le(60)] = -6
    """Exponent of the lowest harmonic; together with num_freqs: those beyond are infinite in float32."""

    def __post_init__(self) -> None:
        dim, heads = self.transformer_dim, self.num_heads
        _require(dim % heads == 0, f"upsrt needs transformer_dim divisible by num_heads, got {dim} and {heads}")

    @property
    def scene_input_dim(self) -> int:
        """Numbers a patch: its key, and harmonics of 6 Plücker numbers, the patch id and the camera id."""
        return self.image_feature_dim + 2 * self.num_freqs * (6 + 1 + 1)


@configuration
class DinoConfig:
    """Sizes of the vision transformer; the defaults are ViT-B/14."""

    img_size: Width = 518
    """Image side that the position table was trained at."""
    patch_size: Width = 14
    """Pixels along each side of a patch."""
    embed_dim: Width = 768
    """Width of its tokens."""
    depth: Layers = 12
    """Blocks in the published file; those after `layer` are neither loaded nor computed."""
    num_heads: Width = 12
    """Attention heads, which divide embed_dim."""
    init_values: Annotated[float, Ge(-1e6), Le(1e6)] = 1.0
    """What the scales of the blocks begin from."""
    layer: Annotated[int, Ge(0), Le(MAX_LAYERS)] = 8
    """0-based block whose keys are the features."""

    def __post_init__(self) -> None:
        _require(
            self.embed_dim % self.num_heads == 0 and self.layer < self.depth,
            f"dino needs embed_dim divisible by num_heads and 0 <= layer < depth, got embed_dim {self.embed_dim}, "
            f"num_heads {self.num_heads}, layer {self.layer}, depth {self.depth}",
        )


@configuration
class DiffusionConfig:
    """Sizes of UNet and ControlNet, with attention at all levels but the last; the defaults are SD 1.5's."""

    model_channels: Width = 320
    """Channels of the finest level: a multiple of 32 and of num_heads."""
    channel_mult: Annotated[Multiples, MinLen(2)] = (1, 2, 4, 4)
    """Channels of each level in multiples of model_channels, finest first."""
    num_res_blocks: Layers = 2
    """Residual blocks a level."""
    num_heads: Width = 8
    context_dim: Width = 768
    """Width of text and of set latents."""
    hint_channels: Width = 774
    """Width of the set latents plus 6 Plücker numbers."""

    def __post_init__(self) -> None:
        channels, heads = self.model_channels, self.num_heads
        rule = f"diffusion needs model_channels divisible by 32 and by num_heads, got {channels} and {heads}"
        _require(channels % 32 == 0 and channels % heads == 0, rule)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at each level, finest first."""
        return tuple(self.model_channels * multiple for multiple in self.channel_mult)

    def has_attention(self, level: int) -> bool:
        """Whether the spatial transformers stand at this level."""
        return level < len(self.channel_mult) - 1


@configuration
class VaeConfig:
    """Sizes of the KL autoencoder; the defaults are SD 1.5's."""

    ch: Width = 128
    """Channels of the finest level, a multiple of 32."""
    ch_mult: Annotated[Multiples, MinLen(1)] = (1, 2, 4, 4)
    """Channels of each level in multiples of ch, finest first."""
    num_res_blocks: Layers = 2
    """Residual blocks a level."""
    embed_dim: Width = 4
    """Channels of the latents, which the UNet takes 4 of."""
    scale_factor: Annotated[float, Gt(0), Le(1e6)] = 0.18215
    """What latents are multiplied by after encoding."""

    def __post_init__(self) -> None:
        rule = f"vae needs ch divisible by 32 and embed_dim 4, got {self.ch} and {self.embed_dim}"
        _require(self.ch % 32 == 0 and self.embed_dim == 4, rule)

    @property
    def downsampling(self) -> int:
        """Image pixels a latent cell, along each side."""
        return 2 ** (len(self.ch_mult) - 1)


@configuration
class TextConfig:
    """Sizes of the text encoder; the defaults are CLIP ViT-L/14's."""

    hidden_size: Width = 768
    """Width of its tokens."""
    num_attention_heads: Width = 12
    """Attention heads, which divide hidden_size."""
    num_hidden_layers: Layers = 12
    intermediate_size: Width = 3072
    """Hidden width of the feed-forward layers."""

    def __post_init__(self) -> None:
        size, heads = self.hidden_size, self.num_attention_heads
        rule = f"text needs hidden_size divisible by num_attention_heads, got {size} and {heads}"
        _require(size % heads == 0, rule)


@configuration
class ModelConfig:
    """Sizes of all networks; the defaults are the released model's."""

    upsrt: UpSRTConfig = UpSRTConfig()
    dino: DinoConfig = DinoConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    vae: VaeConfig = VaeConfig()
    text: TextConfig = TextConfig()
    image_size: Annotated[int, Ge(1), Le(4096)] = 256
    """Pixels along each side."""

    def __post_init__(self) -> None:
        size, width, hint = self.image_size, self.upsrt.transformer_dim, self.diffusion.hint_channels
        step = self.vae.downsampling * 2 ** (len(self.diffusion.channel_mult) - 1)
        _require(size % step == 0, f"image_size must be divisible by {step} for these networks, got {size}")
        rule = "diffusion.hint_channels must be upsrt.transformer_dim + 6 (features and Plücker numbers)"
        _require(hint == width + 6, f"{rule}, got {hint} and {width}")
        rule, context = "diffusion.context_dim must equal upsrt.transformer_dim", self.diffusion.context_dim
        _require(context == width, f"{rule} (attention to the set latents), got {context} and {width}")

    @property
    def latent_size(self) -> int:
        """Latent cells along each side."""
        return self.image_size // self.vae.downsampling

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: one section a network, and image_size."""
        return to_dict(self)

    @staticmethod
    def from_dict(content: dict[str, Any], source: str = "the configuration") -> ModelConfig:
        """Reads the JSON form; what is absent takes its released size. Raises CheckpointError that names the entry."""
        config: ModelConfig = from_value(ModelConfig, without_model_id(content), source, CheckpointError)
        return config


def without_model_id(content: Any) -> Any:  # noqa: ANN401 - JSON that should be a model's
    """The JSON form of a ModelConfig without the fingerprint of weights that files carry beside the sizes."""
    if not isinstance(content, dict):
        return content
    return {name: value for name, value in content.items() if name != MODEL_ID}


def mini_model() -> ModelConfig:
    """The small model's sizes: 64 x 64 pixels, under 40 MB as float16.

    A small trained encoder of patches stands in DINO's place; rays come as a few low frequencies, which helps a small
    transformer off the plateau; latents are 4 x 16 x 16. The autoencoder has 64 channels even on its finest level,
    because its norms have 32 groups: 32 channels would be normalised one by one, and a colour's strength be lost.
    """
    width, features = 192, 128
    return ModelConfig(
        image_size=64,
        dino=DinoConfig(img_size=64, patch_size=8, embed_dim=features, depth=4, num_heads=4, layer=3),
        upsrt=UpSRTConfig(width, 8, 448, 6, 4, features, patches=(8, 8), num_freqs=8, start_freq=-2),
        diffusion=DiffusionConfig(64, (1, 1, 2, 2), context_dim=width, hint_channels=width + 6),
        vae=VaeConfig(ch=64, ch_mult=(1, 1, 1), num_res_blocks=1),
    )
