"""All that shapes a training run, in one value, and its JSON form."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args

from ..models.config import ModelConfig
from ..models.controlnet import DiffusionConfig
from ..models.dino import DinoConfig
from ..models.stable_diffusion import VaeConfig
from ..models.upsrt import UpSRTConfig
from ..support.checks import check_choice, check_count, check_range
from ..support.errors import InputError
from ..support.json_text import parse_json, shown
from .batches import check_curriculum, check_photos

Stage = Literal["encoder", "autoencoder", "diffusion"]
STAGES: tuple[str, ...] = get_args(Stage)

_BOOKKEEPING = ("validate_every", "validation_batches", "save_every", "log_every", "compile")
"""What may change when a run is continued: none of it changes the weights beyond rounding."""


_ADDED = ("curriculum",)
"""Newer than the first saved runs: left out of the JSON form where they have their defaults, so that those go on."""


@dataclass(frozen=True)
class TrainConfig:
    """Defaults: the paper's settings (paper section 3) where it states them.

    Data: batch_size objects in each process's part of a step, `accumulation` parts a step; `photos` (least, most) of
    an object, drawn for each step; `targets` views an object; `rays` a target for the colour loss, `inside_share` of
    them through its silhouette; `curriculum` of procedural objects: the steps at which they get their second part and
    all of their parts, until the first of which they have one part (0, 0: all from the beginning).
    Optimiser: AdamW with `learning_rate`, `betas`, `weight_decay`; `warmup_steps` from 0 linearly, then down a cosine
    to `final_share` of the rate at `steps` (1: constant); gradients clipped to the norm `clip_norm` (0: not at all);
    `ema_decay` of the averaged weights, which are the ones that are saved in the end (0: no averaging).
    Computation: `precision` through accelerate; `compile` by torch.compile; `gradient_checkpointing` trades time for
    memory.
    Trained: `train_dino` and `train_upsrt` in the encoder and the diffusion stage, `train_unet` its "output" half (the
    paper) or "all" of it; in the diffusion stage the ControlNet always, VAE and text never.
    Losses: `dropout` p of the conditions; `rgb_weight` of UpSRT's colour loss beside the diffusion's where UpSRT is
    trained with it; `kl_weight` of the autoencoder.
    Bookkeeping, in steps: validation on `validation_batches` fixed batches with pictures each `validate_every` (0:
    never), state saved each `save_every`, loss noted (mean since the last) each `log_every`.
    """

    stage: Stage = "encoder"
    model: ModelConfig = field(default_factory=ModelConfig)
    batch_size: int = 1
    accumulation: int = 1
    photos: tuple[int, int] = (1, 6)
    targets: int = 1
    rays: int = 7168
    inside_share: float = 0.0
    curriculum: tuple[int, int] = (0, 0)
    steps: int = 100_000
    learning_rate: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    warmup_steps: int = 0
    final_share: float = 1.0
    clip_norm: float = 1.0
    ema_decay: float = 0.0
    precision: Literal["no", "bf16"] = "no"
    compile: bool = False
    gradient_checkpointing: bool = False
    train_dino: bool = False
    train_upsrt: bool = False
    train_unet: Literal["output", "all"] = "output"
    dropout: float = 0.05
    rgb_weight: float = 0.0
    kl_weight: float = 1e-6
    validate_every: int = 1000
    validation_batches: int = 2
    save_every: int = 1000
    log_every: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("photos", "betas", "curriculum"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_choice("stage", self.stage, STAGES)
        check_choice("precision", self.precision, ("no", "bf16"))
        check_choice("train_unet", self.train_unet, ("output", "all"))
        check_photos(self.photos)
        check_curriculum(self.curriculum)
        for name in ("accumulation", "rays", "steps", "save_every", "log_every"):
            check_count(name, getattr(self, name), 1, 10**9)
        check_count("batch_size", self.batch_size, 1, 65_536)
        check_count("targets", self.targets, 1, 1024)
        check_count("validation_batches", self.validation_batches, 0, 65_536)
        for name in ("warmup_steps", "validate_every", "seed"):
            check_count(name, getattr(self, name), 0, 2**63 - 1)
        for name in ("weight_decay", "clip_norm"):
            check_range(name, getattr(self, name), 0, 2**63 - 1)
        for name in ("rgb_weight", "kl_weight", "learning_rate"):
            check_range(name, getattr(self, name), 0, 1e6)
        for name in ("inside_share", "final_share"):
            check_range(name, getattr(self, name), 0, 1)
        check_range("dropout", self.dropout, 0, 1 / 3)
        for name, value in (("betas", self.betas[0]), ("betas", self.betas[1]), ("ema_decay", self.ema_decay)):
            check_range(name, value, 0, 1 - 1e-9)
        if self.stage == "encoder" and not self.train_upsrt:
            raise InputError("the encoder stage trains UpSRT, got train_upsrt = false; set it to true")
        if self.rgb_weight and self.stage == "diffusion" and not self.train_upsrt:
            raise InputError(
                f"rgb_weight must be 0 where UpSRT is frozen, got {self.rgb_weight}; set it so, or train_upsrt to true"
            )
        if self.train_dino and self.stage == "diffusion" and not self.train_upsrt:
            raise InputError("train_dino needs train_upsrt, through which its gradients come; set both or neither")

    @property
    def fingerprint(self) -> str:
        """Of all that shapes the weights; a run's state is refused by another run by it."""
        content = {name: value for name, value in self.to_dict().items() if name not in _BOOKKEEPING}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @staticmethod
    def preset(name: Literal["mini", "released"], stage: Stage) -> TrainConfig:
        """ "mini": the small model, everything from scratch. "released": the paper's settings and sizes."""
        check_choice("preset", name, ("mini", "released"))
        check_choice("stage", stage, STAGES)
        if name == "mini":
            return _mini(stage)
        return TrainConfig(stage=stage, train_upsrt=stage == "encoder", gradient_checkpointing=stage != "encoder")

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; the model's sizes are its section `model`."""
        content = asdict(self)
        for name in _ADDED:
            if content[name] == getattr(TrainConfig, name):
                del content[name]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in content.items()}

    @staticmethod
    def from_dict(content: dict[str, Any], source: str = "the training configuration") -> TrainConfig:
        """Reads the JSON form; absent names take the defaults.

        Raises:
            InputError: an unknown name, or a value of the wrong type or range; `source` is named in the message.
            CheckpointError: the same in the section `model`.
        """
        if not isinstance(content, dict):
            raise InputError(f"{source} must be a JSON object, got {shown(content)}")
        defaults = {item.name: getattr(TrainConfig, item.name, None) for item in fields(TrainConfig)}
        unknown = sorted(map(str, set(content) - set(defaults)))
        if unknown:
            raise InputError(f"{source} may have {', '.join(defaults)}, got {shown(unknown, 200)}; remove it")
        values = {
            name: _checked(value, defaults[name], f"{source}: {name}")
            for name, value in content.items()
            if name != "model"
        }
        if "model" in content:
            values["model"] = ModelConfig.from_dict(content["model"], f"{source}, section model")
        try:
            return TrainConfig(**values)
        except InputError as error:
            raise InputError(f"{source} is not usable: {error}") from error

    @staticmethod
    def from_json(text: str, source: str) -> TrainConfig:
        """Reads JSON text (see from_dict)."""
        return TrainConfig.from_dict(parse_json(text, source), source)


def mini_model() -> ModelConfig:
    """The small model's sizes: 64 x 64 pixels, under 40 MB as float16.

    A small trained encoder of patches stands in DINO's place; rays come as a few low frequencies, which helps a small
    transformer off the plateau; latents are 4 x 16 x 16. The autoencoder has 64 channels even on its finest level,
    because its norms have 32 groups: 32 channels would be normalised one by one, and a colour's strength be lost.
    """
    width = 192
    return ModelConfig(
        image_size=64,
        dino=DinoConfig(img_size=64, patch_size=8, embed_dim=128, depth=4, num_heads=4, layer=3),
        upsrt=UpSRTConfig(
            transformer_dim=width,
            num_heads=8,
            ff_dim=448,
            encoder_layers=6,
            decoder_layers=4,
            image_feature_dim=128,
            patches=(8, 8),
            num_freqs=8,
            start_freq=-2,
        ),
        diffusion=DiffusionConfig(
            model_channels=64, channel_mult=(1, 1, 2, 2), context_dim=width, hint_channels=width + 6
        ),
        vae=VaeConfig(ch=64, ch_mult=(1, 1, 1), num_res_blocks=1),
    )


def _mini(stage: Stage) -> TrainConfig:
    base = TrainConfig(
        stage=stage,
        model=mini_model(),
        batch_size=16,
        targets=4,
        rays=256,
        inside_share=0.7,
        steps=200_000,
        learning_rate=3e-4,
        betas=(0.9, 0.99),
        warmup_steps=1000,
        final_share=0.02,
        ema_decay=0.999,
        train_dino=stage != "autoencoder",
        train_upsrt=stage != "autoencoder",
        train_unet="all",
    )
    return replace(base, rgb_weight=1.0) if stage == "diffusion" else base


def _checked(value: Any, like: Any, where: str) -> Any:  # noqa: ANN401 - a JSON value, compared with its default
    if isinstance(like, tuple):
        kind = type(like[0])
        good = isinstance(value, list | tuple) and len(value) == len(like) and all(_is(item, kind) for item in value)
    else:
        good = _is(value, type(like))
    if not good:
        example = list(like) if isinstance(like, tuple) else like
        raise InputError(f"{where} must be like {json.dumps(example)}, got {shown(value)}; correct it")
    return tuple(value) if isinstance(like, tuple) else value


def _is(value: Any, kind: type) -> bool:  # noqa: ANN401 - any JSON value
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))
