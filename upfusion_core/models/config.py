"""All sizes of a model in one value, and the JSON form in which files carry them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..support.checks import check_count, check_type
from ..support.errors import CheckpointError, InputError
from ..support.json_text import parse_json, shown
from .controlnet import DiffusionConfig
from .dino import DinoConfig
from .stable_diffusion import TextConfig, VaeConfig
from .upsrt import UpSRTConfig

# golden/meta.json describes its fixtures beside the sizes; such words carry no size and are passed over
_DESCRIPTIONS = {"camera_index", "camera_indices", "feature_grid", "rgb_grid", "input", "resize", "pos_embed"}


MODEL_ID = "model_id"
"""Name in the JSON form under which conversions hand on the fingerprint of the weights (see checkpoints.weights_id)."""


MAX_IMAGE_SIZE = 4096
"""Pixels along each side; the released model has 256."""

MAX_LAYERS = 256
"""Of a network; the released ones have 12 at most."""

_MOST = {
    **dict.fromkeys(("encoder_layers", "decoder_layers", "depth", "num_hidden_layers", "num_res_blocks"), MAX_LAYERS),
    "num_freqs": 64,  # together with start_freq: harmonics beyond are infinite in float32
    "start_freq": 60,
    "layer": 256,
    "channel_mult": 64,
    "ch_mult": 64,
}
"""Sizes that no model comes near; a file that claims more would only cost time and memory until it is refused."""

_MOST_LEVELS = 8


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of all networks; the defaults are the released model's. image_size: pixels along each side."""

    upsrt: UpSRTConfig = field(default_factory=UpSRTConfig)
    dino: DinoConfig = field(default_factory=DinoConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    vae: VaeConfig = field(default_factory=VaeConfig)
    text: TextConfig = field(default_factory=TextConfig)
    image_size: int = 256

    def __post_init__(self) -> None:
        for name, kind in _sections().items():
            check_type(f"ModelConfig.{name}", getattr(self, name), kind)
        step = self.vae.downsampling * 2 ** (len(self.diffusion.channel_mult) - 1)
        check_count("image_size", self.image_size, step, MAX_IMAGE_SIZE)
        if self.image_size % step:
            raise InputError(f"image_size must be divisible by {step} for these networks, got {self.image_size}")
        if self.diffusion.hint_channels != self.upsrt.transformer_dim + 6:
            raise InputError(
                "diffusion.hint_channels must be upsrt.transformer_dim + 6 (features and Plücker numbers), got "
                f"{self.diffusion.hint_channels} and {self.upsrt.transformer_dim}; correct the configuration"
            )
        if self.diffusion.context_dim != self.upsrt.transformer_dim:
            raise InputError(
                "diffusion.context_dim must equal upsrt.transformer_dim (attention to the set latents), got "
                f"{self.diffusion.context_dim} and {self.upsrt.transformer_dim}; correct the configuration"
            )

    @property
    def latent_size(self) -> int:
        """Latent cells along each side."""
        return self.image_size // self.vae.downsampling

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: one section a network, and image_size."""
        return asdict(self)

    @staticmethod
    def from_dict(content: dict[str, Any], source: str = "the configuration") -> ModelConfig:
        """Reads the JSON form; absent sections and entries take the released sizes.

        Raises:
            CheckpointError: an unknown name, or a value of the wrong type or range; `source` is named in the message.
        """
        if not isinstance(content, dict):
            raise CheckpointError(f"{source} must be a JSON object with one section a network, got {shown(content)}")
        sections = _sections()
        unknown = set(content) - set(sections) - {"image_size", MODEL_ID}
        if unknown:
            known = ", ".join([*sections, "image_size"])
            raise CheckpointError(
                f"{source} may have the sections {known}, got {shown(sorted(map(str, unknown)), 200)}; remove it"
            )
        values: dict[str, Any] = {}
        try:
            for name, kind in sections.items():
                if name in content:
                    values[name] = _section(kind, content[name], f"{source}, section {name}")
            return ModelConfig(**values, image_size=content.get("image_size", 256))
        except InputError as error:
            raise CheckpointError(f"{source} is not usable: {error}") from error

    @staticmethod
    def from_json(text: str, source: str) -> ModelConfig:
        """Reads JSON text (see from_dict)."""
        return ModelConfig.from_dict(parse_json(text, source, CheckpointError), source)


def _sections() -> dict[str, type]:
    """The networks' sections of the JSON form, and what each becomes."""
    kinds = {"upsrt": UpSRTConfig, "dino": DinoConfig, "diffusion": DiffusionConfig, "vae": VaeConfig}
    return {**kinds, "text": TextConfig}


def _section(kind: type, content: Any, where: str) -> Any:  # noqa: ANN401 - JSON in, one of five configurations out
    if not isinstance(content, dict):
        raise CheckpointError(f"{where} must be a JSON object, got {shown(content)}")
    defaults = kind()
    known = {item.name for item in fields(kind)}
    values = {}
    for name, value in content.items():
        if name in _DESCRIPTIONS:
            continue
        if name not in known:
            raise CheckpointError(f"{where} may have {', '.join(sorted(known))}, got {shown(name)}; remove it")
        values[name] = _checked(value, getattr(defaults, name), f"{where}: {name}")
    return kind(**values)


def _checked(value: Any, like: Any, where: str) -> Any:  # noqa: ANN401 - a JSON value, compared with its default
    name = where.rpartition(" ")[2]
    most = _MOST.get(name, 65536)
    if isinstance(like, tuple):
        is_list = isinstance(value, list | tuple) and 1 <= len(value) <= _MOST_LEVELS
        good = is_list and all(_is_size(item, most) for item in value)
    elif isinstance(like, float):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        good = is_number and abs(value) <= 1e6 and not math.isnan(value)
    elif name in ("start_freq", "layer"):
        good = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= most
    else:
        good = _is_size(value, most)
    if not good:
        raise CheckpointError(f"{where} must be like {like!r}, got {shown(value)}; correct it")
    return tuple(value) if isinstance(like, tuple) else value


def _is_size(value: Any, most: int) -> bool:  # noqa: ANN401 - any JSON value
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most
