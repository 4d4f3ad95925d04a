"""Sizes of the networks, and what shapes a training run; the defaults are the release's and its paper's (section 3)."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, Gt, Le, MaxLen, MinLen

from ..support.errors import CheckpointError, InputError
from .base import configuration, from_value, to_dict
from .field import Factor, Share

MODEL_ID = "model_id"  # in the JSON form: the fingerprint of the weights, which conversions hand on
MAX_LAYERS = 256  # of a network; the released ones have 12 at most
MAX_PHOTOS = 6  # the released UpSRT was trained on 1 to 6 photos
MAX_VIEWS = 64  # photos of an object, of which up to MAX_PHOTOS go to the networks

# sizes that no model comes near: a file that claims more would only cost time and memory until it is refused
Width = Annotated[int, Ge(1), Le(65536)]
Layers = Annotated[int, Ge(1), Le(MAX_LAYERS)]
Multiples = Annotated[tuple[Annotated[int, Ge(1), Le(64)], ...], MaxLen(8)]

Stage = Literal["encoder", "autoencoder", "diffusion"]
STAGES: tuple[Stage, ...] = get_args(Stage)
TrainPreset = Literal["mini", "released"]
TRAIN_PRESETS: tuple[TrainPreset, ...] = get_args(TrainPreset)

Count = Annotated[int, Ge(1), Le(10**9)]
Steps = Annotated[int, Ge(0), Le(2**63 - 1)]
Amount = Annotated[float, Ge(0), Le(2**63 - 1)]
Decay = Annotated[float, Ge(0), Le(1 - 1e-9)]
Photos = Annotated[int, Ge(1), Le(MAX_PHOTOS)]


def _require(fits: bool, rule: str) -> None:
    if not fits:
        raise InputError(f"{rule}; correct the configuration")


@configuration
class UpSRTConfig:
    """Sizes of UpSRT; the defaults are the released checkpoint's (48.4 M parameters)."""

    transformer_dim: Width = 768  # width of the set latents
    num_heads: Width = 12  # attention heads, which divide transformer_dim
    ff_dim: Width = 1024  # hidden width of the feed-forward layers
    encoder_layers: Layers = 8  # layers that turn photos into set latents
    decoder_layers: Layers = 4  # layers that answer rays
    image_feature_dim: Width = 768  # width of a patch's features
    patches: tuple[Width, Width] = (16, 16)  # (rows, columns) of patch features a photo
    num_freqs: Annotated[int, Ge(1), Le(64)] = 15  # harmonics of each number, f_k = pi·2^(start_freq + k)
    start_freq: Annotated[int, Ge(-60), Le(60)] = -6  # with num_freqs: harmonics beyond are infinite in float32

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

    img_size: Width = 518  # image side that the position table was trained at
    patch_size: Width = 14  # pixels along each side of a patch
    embed_dim: Width = 768  # width of its tokens
    depth: Layers = 12  # blocks in the published file; those after `layer` are neither loaded nor computed
    num_heads: Width = 12  # attention heads, which divide embed_dim
    init_values: Annotated[float, Ge(-1e6), Le(1e6)] = 1.0  # what the scales of the blocks begin from
    layer: Annotated[int, Ge(0), Le(MAX_LAYERS)] = 8  # 0-based block whose keys are the features

    def __post_init__(self) -> None:
        dim, heads, layer, depth = self.embed_dim, self.num_heads, self.layer, self.depth
        rule = "dino needs embed_dim divisible by num_heads and 0 <= layer < depth"
        given = f"embed_dim {dim}, num_heads {heads}, layer {layer}, depth {depth}"
        _require(dim % heads == 0 and layer < depth, f"{rule}, got {given}")


@configuration
class DiffusionConfig:
    """Sizes of UNet and ControlNet, with attention at all levels but the last; the defaults are SD 1.5's."""

    model_channels: Width = 320  # channels of the finest level: a multiple of 32 and of num_heads
    channel_mult: Annotated[Multiples, MinLen(2)] = (1, 2, 4, 4)  # in multiples of model_channels, finest level first
    num_res_blocks: Layers = 2  # residual blocks a level
    num_heads: Width = 8
    context_dim: Width = 768  # width of text and of set latents
    hint_channels: Width = 774  # width of the set latents plus 6 Plücker numbers

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

    ch: Width = 128  # channels of the finest level, a multiple of 32
    ch_mult: Annotated[Multiples, MinLen(1)] = (1, 2, 4, 4)  # channels of each level in multiples of ch, finest first
    num_res_blocks: Layers = 2  # residual blocks a level
    embed_dim: Width = 4  # channels of the latents, which the UNet takes 4 of
    scale_factor: Annotated[float, Gt(0), Le(1e6)] = 0.18215  # what latents are multiplied by after encoding

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

    hidden_size: Width = 768  # width of its tokens
    num_attention_heads: Width = 12  # attention heads, which divide hidden_size
    num_hidden_layers: Layers = 12
    intermediate_size: Width = 3072  # hidden width of the feed-forward layers

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
    image_size: Annotated[int, Ge(1), Le(4096)] = 256  # pixels along each side

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
    """The small model's sizes: 64 x 64 pixels, latents of 4 x 16 x 16, under 40 MB as float16.

    A small trained encoder of patches stands in DINO's place; rays come as a few low frequencies, which helps a small
    transformer off the plateau. Norms of 32 groups need 64 channels in the autoencoder: 32 would be normalised alone.
    """
    width, features = 192, 128
    return ModelConfig(
        image_size=64,
        dino=DinoConfig(img_size=64, patch_size=8, embed_dim=features, depth=4, num_heads=4, layer=3),
        upsrt=UpSRTConfig(width, 8, 448, 6, 4, features, patches=(8, 8), num_freqs=8, start_freq=-2),
        diffusion=DiffusionConfig(64, (1, 1, 2, 2), context_dim=width, hint_channels=width + 6),
        vae=VaeConfig(ch=64, ch_mult=(1, 1, 1), num_res_blocks=1),
    )


@configuration
class TrainConfig:
    """All that shapes a training run. In the diffusion stage the ControlNet is always trained, VAE and text never."""

    stage: Stage = "encoder"
    model: ModelConfig = ModelConfig()
    batch_size: Annotated[int, Ge(1), Le(65_536)] = 1  # objects in each process's part of a step
    accumulation: Count = 1  # parts a step
    photos: tuple[Photos, Photos] = (1, MAX_PHOTOS)  # (least, most) photos of an object, drawn for each step
    targets: Annotated[int, Ge(1), Le(1024)] = 1  # views an object that are predicted
    rays: Count = 7168  # rays a target for the colour loss
    inside_share: Share = 0.0  # share of them that goes through the target's silhouette
    curriculum: tuple[Steps, Steps] = (0, 0)  # procedural objects have one part until the first, two until the second
    steps: Count = 100_000
    hours: Amount = 0.0  # of processor time that one process trains, in place of `steps`; 0: `steps` count
    learning_rate: Factor = 1e-5  # of AdamW, at its highest
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    weight_decay: Amount = 0.0
    warmup_steps: Steps = 0  # steps in which the learning rate rises from 0, linearly
    final_share: Share = 1.0  # share of the learning rate that is left in the end, down a cosine; 1: constant
    clip_norm: Amount = 1.0  # norm that gradients are clipped to; 0: not at all
    ema_decay: Decay = 0.0  # of the averaged weights, which are the ones that are saved in the end; 0: no averaging
    precision: Literal["no", "bf16"] = "no"  # mixed precision, through accelerate
    compile: bool = False
    gradient_checkpointing: bool = False  # trades time for memory
    train_dino: bool = False  # both in the encoder and the diffusion stage
    train_upsrt: bool = False
    train_unet: Literal["output", "all"] = "output"  # its output half (the paper), or all of it
    dropout: Annotated[float, Ge(0), Le(1 / 3)] = 0.05  # Probability p of the conditions' dropout
    rgb_weight: Factor = 0.0  # of UpSRT's colour loss beside the diffusion's, where UpSRT is trained with it
    kl_weight: Factor = 1e-6  # of the autoencoder's
    validate_every: Steps = 1000  # steps between validations with pictures; 0: never
    validation_batches: Annotated[int, Ge(0), Le(65_536)] = 2  # fixed batches of each validation
    save_every: Count = 1000  # steps between saved states
    save_minutes: Amount = 0.0  # after which the state is saved even if fewer steps were done; 0: never
    log_every: Count = 20  # steps between notes of the loss (mean since the last)
    seed: Steps = 0

    def __post_init__(self) -> None:
        (least, most), (second, every) = self.photos, self.curriculum
        _require(least <= most, f"photos must be (least, most) within 1 to {MAX_PHOTOS}, got {self.photos}")
        rule = "curriculum must be the steps of the second and of all parts, ascending"
        _require(second <= every, f"{rule}, got {self.curriculum}")
        if self.stage == "encoder" and not self.train_upsrt:
            raise InputError("the encoder stage trains UpSRT, got train_upsrt = false; set it to true")
        frozen = self.stage == "diffusion" and not self.train_upsrt
        if frozen and self.rgb_weight:
            rule = f"rgb_weight must be 0 where UpSRT is frozen, got {self.rgb_weight}"
            raise InputError(f"{rule}; set it so, or train_upsrt to true")
        if frozen and self.train_dino:
            raise InputError("train_dino needs train_upsrt, through which its gradients come; set both or neither")

    @property
    def fingerprint(self) -> str:
        """Of all that shapes the weights beyond rounding; a run's state is refused by another run by it."""
        others = ("validate_every", "validation_batches", "save_every", "save_minutes", "log_every", "compile")
        shaping = {name: value for name, value in self.to_dict().items() if name not in others}
        return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()[:16]

    @staticmethod
    def preset(name: TrainPreset, stage: Stage) -> TrainConfig:
        """ "mini": the small model, everything from scratch. "released": the paper's settings and sizes."""
        if name not in TRAIN_PRESETS:
            raise InputError(f"preset must be one of {', '.join(TRAIN_PRESETS)}, got {name!r:.60}")
        if name == "released":
            return TrainConfig(stage=stage, train_upsrt=stage == "encoder", gradient_checkpointing=stage != "encoder")
        data = {"batch_size": 16, "targets": 4, "rays": 256, "inside_share": 0.7}
        rates = {"learning_rate": 3e-4, "betas": (0.9, 0.99), "warmup_steps": 1000, "final_share": 0.02}
        whole = stage != "autoencoder"
        trained = {"train_dino": whole, "train_upsrt": whole, "train_unet": "all", "ema_decay": 0.999}
        changes: dict[str, Any] = {**data, **rates, **trained, "rgb_weight": float(stage == "diffusion")}
        return TrainConfig(stage=stage, model=mini_model(), steps=200_000, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; what is newer than the first saved runs is left out at its default, so that those go on."""
        content, unset = to_dict(self), {"curriculum": [0, 0], "hours": 0.0, "save_minutes": 0.0}
        return {name: value for name, value in content.items() if name not in unset or value != unset[name]}

    @staticmethod
    def from_dict(content: dict[str, Any], source: str = "the training configuration") -> TrainConfig:
        """Reads the JSON form; absent names take the defaults. Raises InputError that names source and entry."""
        if isinstance(content, dict) and "model" in content:
            content = {**content, "model": without_model_id(content["model"])}
        config: TrainConfig = from_value(TrainConfig, content, source)
        return config
