"""How a field is distilled: the presets and all their numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..checks import check_choice, check_count, check_range
from ..errors import InputError
from ..field.fitting import FitConfig
from ..field.radiance import FieldConfig
from ..field.rendering import RaySampling

PRESETS = ("draft", "reference")
"""Names of the presets, from the cheapest to the dearest."""


@dataclass(frozen=True)
class DraftSchedule:
    """A first look: fit UpSRT's predictions from many cameras, then a few sampled views, by random rays.

    predicted_cameras, predicted_size: views predicted, and their pixels along each side; no diffusion is involved.
    predicted_fit, sampled_fit: the two fits. sampled_cameras: at most 16 views are sampled.
    steps, scheduler: of the sampler.
    """

    predicted_cameras: int = 48
    predicted_size: int = 64
    predicted_fit: FitConfig = field(default_factory=lambda: FitConfig.draft(iterations=250))
    sampled_cameras: int = 16
    sampled_fit: FitConfig = field(default_factory=lambda: FitConfig.draft(iterations=250))
    steps: int = 10
    scheduler: str = "dpm++"

    def __post_init__(self) -> None:
        check_count("predicted_cameras", self.predicted_cameras, 1, 10_000)
        check_count("predicted_size", self.predicted_size, 8, 1024)
        check_count("sampled_cameras", self.sampled_cameras, 1, 16)
        check_count("steps", self.steps, 1, 1000)


@dataclass(frozen=True)
class ReferenceSchedule:
    """The release's schedule (paper section 3.3): every render is denoised in earnest and becomes the next target.

    cameras: the first is photo 1's, the others lie in a band about the object. iterations: one camera each.
    steps: of the DDIM table. lowest_index, highest_index: entries of it that renders are noised to, ends included;
    in the first `bootstrap` iterations at least bootstrap_index.
    grid_lr, mlp_lr: Adam's. perceptual_weight, silhouette_weight: of the loss terms beside the colour's.
    """

    cameras: int = 250
    iterations: int = 3000
    steps: int = 30
    lowest_index: int = 1
    highest_index: int = 28
    bootstrap: int = 300
    bootstrap_index: int = 25
    grid_lr: float = 5e-3
    mlp_lr: float = 5e-4
    perceptual_weight: float = 0.1
    silhouette_weight: float = 1e-3
    sampling: RaySampling = field(default_factory=RaySampling)

    def __post_init__(self) -> None:
        check_count("cameras", self.cameras, 1, 10_000)
        check_count("iterations", self.iterations, 1)
        check_count("bootstrap", self.bootstrap, 0)
        if not 1 <= self.lowest_index <= self.bootstrap_index <= self.highest_index < self.steps + 1:
            raise InputError(
                "noise indices must satisfy 1 <= lowest_index <= bootstrap_index <= highest_index <= steps, got "
                f"{self.lowest_index}, {self.bootstrap_index}, {self.highest_index}, {self.steps}"
            )


@dataclass(frozen=True)
class DistillConfig:
    """What `UpFusion.distill` does. Presets: `draft()`, the default, and `reference()`.

    perceptual: "lpips" (perceptual_weights names the user's VGG-16 file), "dino" (the model's own keys) or "none"; a
    draft is fitted by single rays, which show no pictures, so there it is "none".
    guidance: scale of the sampler. batch_size: views at a time. checkpoint_every: iterations between saved states.
    """

    schedule: DraftSchedule | ReferenceSchedule = field(default_factory=DraftSchedule)
    field: FieldConfig = field(default_factory=FieldConfig.draft)
    perceptual: Literal["lpips", "dino", "none"] = "none"
    perceptual_weights: str | None = None
    guidance: float = 9.0
    batch_size: int = 4
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        check_choice("perceptual", self.perceptual, ("lpips", "dino", "none"))
        check_range("guidance", self.guidance, 0.0, 1000.0)
        check_count("batch_size", self.batch_size, 1)
        check_count("checkpoint_every", self.checkpoint_every, 1)
        if self.perceptual == "lpips" and not self.perceptual_weights:
            raise InputError("perceptual 'lpips' needs perceptual_weights, a VGG-16 file; give it, or choose 'dino'")
        if isinstance(self.schedule, DraftSchedule) and self.perceptual != "none":
            raise InputError(f"a draft has no perceptual term, got {self.perceptual!r}; choose 'none' or the reference")

    @classmethod
    def draft(cls, **changes: Any) -> DistillConfig:  # noqa: ANN401 - fields of this class
        """A first look in a minute or two with a small model on two CPU cores."""
        return cls(**changes)

    @classmethod
    def reference(cls, **changes: Any) -> DistillConfig:  # noqa: ANN401 - fields of this class
        """The release's schedule: 47,100 denoising steps. It took LPIPS; the default here needs no download."""
        return cls(**({"schedule": ReferenceSchedule(), "field": FieldConfig(), "perceptual": "dino"} | changes))

    @classmethod
    def named(cls, preset: str, **changes: Any) -> DistillConfig:  # noqa: ANN401 - fields of this class
        """The preset of that name, one of PRESETS."""
        check_choice("preset", preset, PRESETS)
        presets = {"draft": cls.draft, "reference": cls.reference}
        return presets[preset](**changes)

    @property
    def preset(self) -> Literal["draft", "reference"]:
        """Which of the schedules it follows."""
        return "draft" if isinstance(self.schedule, DraftSchedule) else "reference"

    def to_dict(self) -> dict[str, Any]:
        """All numbers, for run.json and for recognising a saved state."""
        return {"preset": self.preset, **asdict(self)}
