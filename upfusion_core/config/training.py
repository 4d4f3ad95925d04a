"""All that shapes a training run, and its JSON form. The defaults are the paper's settings (section 3)."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, Le

from ..support.errors import InputError
from .base import configuration, from_value, to_dict
from .field import Factor, Share
from .models import MAX_PHOTOS, ModelConfig, mini_model, without_model_id

Stage = Literal["encoder", "autoencoder", "diffusion"]
STAGES: tuple[Stage, ...] = get_args(Stage)
TrainPreset = Literal["mini", "released"]
TRAIN_PRESETS: tuple[TrainPreset, ...] = get_args(TrainPreset)

Count = Annotated[int, Ge(1), Le(10**9)]
Steps = Annotated[int, Ge(0), Le(2**63 - 1)]
Amount = Annotated[float, Ge(0), Le(2**63 - 1)]
Decay = Annotated[float, Ge(0), Le(1 - 1e-9)]
Photos = Annotated[int, Ge(1), Le(MAX_PHOTOS)]

_BOOKKEEPING = ("validate_every", "validation_batches", "save_every", "log_every", "compile")
"""What may change when a run is continued: none of it changes the weights beyond rounding."""


@configuration
class TrainConfig:
    """All that shapes a training run. In the diffusion stage the ControlNet is always trained, VAE and text never."""

    stage: Stage = "encoder"
    model: ModelConfig = ModelConfig()
    batch_size: Annotated[int, Ge(1), Le(65_536)] = 1
    """Objects in each process's part of a step."""
    accumulation: Count = 1
    """Parts a step."""
    photos: tuple[Photos, Photos] = (1, MAX_PHOTOS)
    """(least, most) photos of an object, drawn for each step."""
    targets: Annotated[int, Ge(1), Le(1024)] = 1
    """Views an object that are predicted."""
    rays: Count = 7168
    """Rays a target for the colour loss."""
    inside_share: Share = 0.0
    """Share of them that goes through the target's silhouette."""
    curriculum: tuple[Steps, Steps] = (0, 0)
    """Steps at which procedural objects get their second part and all of their parts; until the first they have one
    part. (0, 0): all from the beginning."""
    steps: Count = 100_000
    learning_rate: Factor = 1e-5
    """Of AdamW, at its highest."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    weight_decay: Amount = 0.0
    warmup_steps: Steps = 0
    """Steps in which the learning rate rises from 0, linearly."""
    final_share: Share = 1.0
    """Share of the learning rate that is left at `steps`, down a cosine; 1: constant."""
    clip_norm: Amount = 1.0
    """Norm that gradients are clipped to; 0: not at all."""
    ema_decay: Decay = 0.0
    """Of the averaged weights, which are the ones that are saved in the end; 0: no averaging."""
    precision: Literal["no", "bf16"] = "no"
    """Mixed precision, through accelerate."""
    compile: bool = False
    gradient_checkpointing: bool = False
    """Trades time for memory."""
    train_dino: bool = False
    train_upsrt: bool = False
    """Both in the encoder and the diffusion stage."""
    train_unet: Literal["output", "all"] = "output"
    """Its output half (the paper), or all of it."""
    dropout: Annotated[float, Ge(0), Le(1 / 3)] = 0.05
    """Probability p of the conditions' dropout."""
    rgb_weight: Factor = 0.0
    """Of UpSRT's colour loss beside the diffusion's, where UpSRT is trained with it."""
    kl_weight: Factor = 1e-6
    """Of the autoencoder's."""
    validate_every: Steps = 1000
    """Steps between validations with pictures; 0: never."""
    validation_batches: Annotated[int, Ge(0), Le(65_536)] = 2
    """Fixed batches of each validation."""
    save_every: Count = 1000
    """Steps between saved states."""
    log_every: Count = 20
    """Steps between notes of the loss (mean since the last)."""
    seed: Steps = 0

    def __post_init__(self) -> None:
        if self.photos[0] > self.photos[1]:
            rule = f"photos must be (least, most) within 1 to {MAX_PHOTOS}"
            raise InputError(f"{rule}, got {self.photos}; correct the range")
        if self.curriculum[0] > self.curriculum[1]:
            rule = "curriculum must be the steps of the second and of all parts, ascending"
            raise InputError(f"{rule}, got {self.curriculum}; correct it")
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
        """Of all that shapes the weights; a run's state is refused by another run by it."""
        shaping = {name: value for name, value in self.to_dict().items() if name not in _BOOKKEEPING}
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
        content = to_dict(self)
        if self.curriculum == (0, 0):
            del content["curriculum"]
        return content

    @staticmethod
    def from_dict(content: dict[str, Any], source: str = "the training configuration") -> TrainConfig:
        """Reads the JSON form; absent names take the defaults. Raises InputError that names source and entry."""
        if isinstance(content, dict) and "model" in content:
            content = {**content, "model": without_model_id(content["model"])}
        config: TrainConfig = from_value(TrainConfig, content, source)
        return config
