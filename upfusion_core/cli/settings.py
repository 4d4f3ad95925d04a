"""What each command is told: settings shape the result and must agree when a run is continued, conduct does not."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from ..support.errors import InputError
from ..support.json_text import shown

DEFAULT_MODEL = "mini"
"""The bundled model (the same name as in models.checkpoints, which needs torch)."""
PRESETS = ("draft", "fast", "reference")
"""Of distillation (the same names as in pipeline.distill_config, which needs torch)."""
LIMITS = {
    "steps": (1, 1000), "batch_size": (1, 2**31), "seed": (0, 2**32 - 1), "count": (1, 1000), "objects": (1, 2**31),
    "size": (8, 4096), "turntable_size": (16, 1024), "views": (0, 10_000), "shard_size": (0.001, 1e12),
    "guidance": (0, 1000),
}  # fmt: skip
"""What the command line takes for numbers of a record that people may have edited."""
CHOICES = {
    "dtype": ("auto", "float32", "float16", "bfloat16"), "video": ("gif", "mp4", "none"), "preset": PRESETS,
    "alignment": ("object", "picture"),
}  # fmt: skip
"""The same for words."""
DEFAULT_MODEL_NOTE = "no --model given, so this takes mini, the small model that comes with the package"


@dataclass(frozen=True, kw_only=True)
class SceneSettings:
    """What turns photos into a scene.

    model: "mini", or a checkpoint, a folder or a merged file; None means "mini", or what a continued run began with.
    dtype: precision of the networks, or "auto".
    photo_elevation: degrees above the horizon that photo 1 is taken to be shot from.
    """

    model: str | None
    dtype: str
    photo_elevation: float
    remove_background: bool
    seed: int


@dataclass(frozen=True, kw_only=True)
class SamplingSettings(SceneSettings):
    """What turns a scene and a camera into a picture. steps None means 50, scheduler None ddim.

    guidance None means what the weights recommend, and is replaced by it before anything begins.
    """

    steps: int | None
    guidance: float | None
    scheduler: str | None
    prompt: str | None
    batch_size: int

    def view_sampler(self) -> dict[str, Any]:
        """Steps, guidance and scheduler of sampled views, as `UpFusion.sample` takes them."""
        return {"steps": self.steps or 50, "guidance": self.guidance, "scheduler": self.scheduler or "ddim"}


@dataclass(frozen=True, kw_only=True)
class OrbitSettings:
    """The cameras, unless a file lists them. elevation None means that of photo 1."""

    count: int
    elevation: float | None
    distance: float
    video: str


@dataclass(frozen=True, kw_only=True)
class ViewsSettings(OrbitSettings, SamplingSettings):
    """`upfusion views`."""


@dataclass(frozen=True, kw_only=True)
class PredictSettings(OrbitSettings, SceneSettings):
    """`upfusion predict`; size is the side of the pictures in pixels."""

    size: int


@dataclass(frozen=True, kw_only=True)
class ReconstructSettings(SamplingSettings):
    """`upfusion reconstruct`.

    views: how many novel views are sampled and saved beside the reconstruction.
    turntable_size: side of the renders of the field in pixels.
    resolution: samples of the density along the object's longest side; threshold: density of the surface, None chooses
    it. texture_size: side of the texture in pixels, 0 for coloured vertices; faces: most of the mesh, or all.
    formats: of the mesh; perceptual: distance in the loss, None leaves the preset's.
    """

    preset: str
    views: int
    turntable_size: int
    resolution: int
    threshold: float | None
    texture_size: int
    faces: int | None
    formats: tuple[str, ...]
    perceptual: str | None
    perceptual_weights: str | None


@dataclass(frozen=True, kw_only=True)
class DemoSettings(ReconstructSettings):
    """`upfusion demo`; object and photos: which bundled object, and how many of its photos.

    The rest is as quick as can be shown: minutes on two cores.
    """

    object: int
    photos: int
    photo_elevation: float = 22.5
    remove_background: bool = False
    prompt: str | None = None
    batch_size: int = 4
    preset: str = "fast"
    views: int = 0
    turntable_size: int = 96
    resolution: int = 128
    threshold: float | None = None
    texture_size: int = 0
    faces: int | None = None
    formats: tuple[str, ...] = ("glb",)
    perceptual: str | None = None
    perceptual_weights: str | None = None


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Files that a run reads, beside the model."""

    photos: tuple[Path, ...]
    masks: tuple[Path, ...] = ()
    cameras: Path | None = None

    def as_json(self) -> dict[str, Any]:
        """Absolute paths, for the record."""
        return {
            "photos": [str(path.absolute()) for path in self.photos],
            "masks": [str(path.absolute()) for path in self.masks],
            "cameras": str(self.cameras.absolute()) if self.cameras else None,
        }

    def or_stored(self, stored: dict[str, Any]) -> Sources:
        """These files; where none are named, those of the record of a continued run."""
        if not stored:
            return self
        lists = all(is_of_kind(stored.get(name), list[str]) for name in ("photos", "masks"))
        if not lists or not is_of_kind(stored.get("cameras"), str | None):
            raise InputError(
                f"run.json must hold the sources photos, masks and cameras as they were written, got {shown(stored)}; "
                "correct it there, or use --force to begin anew"
            )
        cameras = self.cameras or (Path(stored["cameras"]) if stored["cameras"] else None)
        if self.photos:
            return Sources(photos=self.photos, masks=self.masks, cameras=cameras)
        masks = self.masks or tuple(Path(path) for path in stored["masks"])
        return Sources(photos=tuple(Path(path) for path in stored["photos"]), masks=masks, cameras=cameras)


@dataclass(frozen=True, kw_only=True)
class Conduct:
    """How a run is carried out: none of it changes the result beyond rounding.

    explicit: names of the settings that the command line gives itself.
    """

    output: Path
    device: str
    resume: bool
    force: bool
    explicit: frozenset[str]
    checkpoint_every: int = 100
    preview_every: int = 50


def is_of_kind(value: object, kind: Any) -> bool:  # noqa: ANN401 - any annotation
    """Whether a JSON value fits the annotation of a settings' field, such as `int | None` or `tuple[str, ...]`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(is_of_kind(value, part) for part in arguments)
    if origin in (list, tuple):
        return isinstance(value, list | tuple) and all(is_of_kind(item, arguments[0]) for item in value)
    if kind in (int, float):
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and -(2**63) < value < 2**63
        return is_number and (kind is float or isinstance(value, int))
    return isinstance(value, kind)


Settings = TypeVar("Settings", bound=SceneSettings)


def settings_json(settings: SceneSettings) -> dict[str, Any]:
    """For the record; the model's path made absolute."""
    content = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(settings).items()}
    content["model"] = absolute_model(settings.model)
    return content


def absolute_model(name: str | None) -> str | None:
    """The name of a model for the record: paths made absolute."""
    if name in (None, DEFAULT_MODEL) or not os.path.exists(name):
        return name
    return str(Path(name).absolute())


def checked_stored(stored: dict[str, Any], kinds: Mapping[str, Any]) -> dict[str, Any]:
    """The values called as in `kinds` of a continued run's record, None for what it lacks; empty of a new run.

    Raises:
        InputError: a value is not of its kind (see is_of_kind), or not one that the command line takes.
    """
    if not stored:
        return {}
    values = {name: stored.get(name) for name in kinds}
    wrong = sorted(n for n, value in values.items() if not is_of_kind(value, kinds[n]) or not _is_taken(n, value))
    if wrong:
        raise InputError(
            f"run.json must hold the settings as they were written, got {wrong[0]} = {shown(values[wrong[0]])}; "
            "correct it there, or use --force to begin anew"
        )
    return values


def _is_taken(name: str, value: Any) -> bool:  # noqa: ANN401 - any setting
    """Whether a value of the right kind is one that the command line takes, too."""
    if value is None:
        return True
    low, high = LIMITS.get(name, (-math.inf, math.inf))
    return (name not in LIMITS or low <= value <= high) and (name not in CHOICES or value in CHOICES[name])


def with_stored(settings: Settings, stored: dict[str, Any], explicit: frozenset[str]) -> Settings:
    """Settings of a continued run: those of its record, except where the command line says something itself.

    What the two disagree about is refused by `Run.begin`.
    """
    if stored:
        names = {field.name for field in fields(settings)}
        if names != stored.keys():
            raise InputError("the run was begun by another version of upfusion; use --force to begin anew")
        stored = checked_stored(stored, get_type_hints(type(settings)))
        chosen = {name: getattr(settings, name) if name in explicit else stored[name] for name in names}
        chosen = {name: tuple(value) if isinstance(value, list) else value for name, value in chosen.items()}
        settings = type(settings)(**chosen)
    return replace(settings, model=DEFAULT_MODEL) if settings.model is None else settings
