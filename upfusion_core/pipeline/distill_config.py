"""How a field is distilled: the presets and all their numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..field.fitting import FitConfig
from ..field.radiance import FieldConfig
from ..field.rendering import RaySampling
from ..support.checks import check_choice, check_count, check_numbers, check_range, check_type
from ..support.errors import InputError

PRESETS = ("draft", "fast", "reference")
"""Names of the presets, from the cheapest to the dearest."""


def _check_sampler(scheduler: str, steps: int) -> None:
    """A wrong scheduler is said before anything is fitted."""
    from .sampling import make_scheduler  # diffusers takes seconds, and this module is read for its names alone

    check_count("steps", steps, 1, 1000)
    make_scheduler(scheduler, steps)


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
        check_type("predicted_fit", self.predicted_fit, FitConfig)
        check_type("sampled_fit", self.sampled_fit, FitConfig)
        _check_sampler(self.scheduler, self.steps)


@dataclass(frozen=True)
class FastSchedule:
    """Minutes in place of an hour: one long fit by random rays, whose targets are painted anew a few times.

    The field is fitted to UpSRT's predictions first. In each round it is rendered from every camera, the renders are
    noised and denoised in few steps, and the fit goes on with the pictures, which count where they agree with it. From
    the first round on the photos are targets too.

    cameras: photo 1's and others spread over the band that the release distils from.
    predicted_size: pixels along each side of the predictions. predicted_iterations: of the fit, before the first round.
    levels: how far up the noise schedule the renders of each round go, in (0, 1]; 1 leaves nothing of them.
    steps, scheduler: of a walk down the whole schedule; a round takes its last repaint_steps(level, steps).
    guided: lowest and highest timestep / 1000 at which guidance acts.
    shared_noise: whether all cameras of a round get the same noise.
    agreement: difference of a pixel from the field, in [0, 1], that halves its weight; 0 counts all pixels equally.
    photo_weight: of a photo's pixels beside painted ones; 0 leaves the photos out. all_photos: whether the cameras of
    the photos beside the first are estimated, and those used whose match is good.
    fit: its iterations hold all rounds, which divide what the predictions leave of them evenly.
    """

    cameras: int = 32
    predicted_size: int = 64
    predicted_iterations: int = 200
    levels: tuple[float, ...] = (1.0, 0.7, 0.45, 0.25)
    steps: int = 10
    scheduler: str = "dpm++"
    guided: tuple[float, float] = (0.0, 1.0)
    shared_noise: bool = True
    agreement: float = 0.2
    photo_weight: float = 1.0
    all_photos: bool = True
    fit: FitConfig = field(default_factory=lambda: FitConfig.draft(iterations=500, crisp_weight=0.1))

    def __post_init__(self) -> None:
        check_count("cameras", self.cameras, 1, 1000)
        check_count("predicted_size", self.predicted_size, 8, 1024)
        _check_sampler(self.scheduler, self.steps)
        check_type("fit", self.fit, FitConfig)
        check_numbers("levels", self.levels, 0.0, 1.0)
        if not all(self.levels):
            raise InputError(f"levels must be one or more numbers in (0, 1], got {list(self.levels)}")
        last = self.fit.iterations - len(self.levels)
        check_count("predicted_iterations", self.predicted_iterations, 1, max(last, 1))
        if last < 1:
            raise InputError(
                f"fit.iterations must be more than the {len(self.levels)} levels, got {self.fit.iterations}; give more"
            )
        check_numbers("guided", self.guided)
        if len(self.guided) != 2:
            raise InputError(f"guided must be the lowest and the highest, got {len(self.guided)} numbers; give two")
        low, high = self.guided
        check_range("guided[0]", low, 0.0, 1.0)
        check_range("guided[1]", high, low, 1.0)
        check_range("agreement", self.agreement, 0.0, 10.0)
        check_range("photo_weight", self.photo_weight, 0.0, 1000.0)

    @property
    def ends(self) -> tuple[int, ...]:
        """Iterations of the fit after which each round is painted, and all of them."""
        rounds, left = len(self.levels), self.fit.iterations - self.predicted_iterations
        return tuple(self.predicted_iterations + left * done // rounds for done in range(rounds + 1))


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
        check_count("steps", self.steps, 1, 1000)
        for name in ("lowest_index", "bootstrap_index", "highest_index"):
            check_count(name, getattr(self, name), 0, 1000)
        for name in ("grid_lr", "mlp_lr"):
            check_range(name, getattr(self, name), 0.0, 1.0)
        for name in ("perceptual_weight", "silhouette_weight"):
            check_range(name, getattr(self, name), 0.0, 1e6)
        check_type("sampling", self.sampling, RaySampling)
        if not 1 <= self.lowest_index <= self.bootstrap_index <= self.highest_index < self.steps + 1:
            raise InputError(
                "noise indices must satisfy 1 <= lowest_index <= bootstrap_index <= highest_index <= steps, got "
                f"{self.lowest_index}, {self.bootstrap_index}, {self.highest_index}, {self.steps}"
            )


@dataclass(frozen=True)
class DistillConfig:
    """What `UpFusion.distill` does. Presets: `fast()`, the default, `draft()` and `reference()`.

    perceptual: "lpips" (perceptual_weights names the user's VGG-16 file), "dino" (the model's own keys) or "none"; a
    draft is fitted by single rays, which show no pictures, so there it is "none".
    guidance: scale of the sampler. batch_size: views at a time. checkpoint_every: iterations between saved states.
    """

    schedule: DraftSchedule | FastSchedule | ReferenceSchedule = field(default_factory=FastSchedule)
    field: FieldConfig = field(default_factory=FieldConfig.draft)
    perceptual: Literal["lpips", "dino", "none"] = "none"
    perceptual_weights: str | None = None
    guidance: float = 9.0
    batch_size: int = 4
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, DraftSchedule | FastSchedule | ReferenceSchedule):
            raise InputError(f"schedule must be a Draft-, Fast- or ReferenceSchedule, got {self.schedule!r:.40}")
        check_type("field", self.field, FieldConfig)
        check_choice("perceptual", self.perceptual, ("lpips", "dino", "none"))
        check_range("guidance", self.guidance, 0.0, 1000.0)
        check_count("batch_size", self.batch_size, 1)
        check_count("checkpoint_every", self.checkpoint_every, 1)
        if self.perceptual == "lpips" and not self.perceptual_weights:
            raise InputError("perceptual 'lpips' needs perceptual_weights, a VGG-16 file; give it, or choose 'dino'")
        if not isinstance(self.schedule, ReferenceSchedule) and self.perceptual != "none":
            raise InputError(
                f"the preset {self.preset} has no perceptual term, got {self.perceptual!r}; choose 'none', or the "
                "reference"
            )

    @classmethod
    def draft(cls, **changes: Any) -> DistillConfig:  # noqa: ANN401 - fields of this class
        """A first look, in the time of some sampled views."""
        defaults: dict[str, Any] = {"schedule": DraftSchedule()}
        return cls(**(defaults | changes))

    @classmethod
    def fast(cls, **changes: Any) -> DistillConfig:  # noqa: ANN401 - fields of this class
        """The default: minutes on a GPU or, with a small model, on two CPU cores."""
        return cls(**changes)

    @classmethod
    def reference(cls, **changes: Any) -> DistillConfig:  # noqa: ANN401 - fields of this class
        """The release's schedule: 47,100 denoising steps. It took LPIPS; the default here needs no download."""
        defaults: dict[str, Any] = {"schedule": ReferenceSchedule(), "field": FieldConfig(), "perceptual": "dino"}
        return cls(**(defaults | changes))

    @classmethod
    def named(cls, preset: str, **changes: Any) -> DistillConfig:  # noqa: ANN401 - fields of this class
        """The preset of that name, one of PRESETS."""
        check_choice("preset", preset, PRESETS)
        presets = {"draft": cls.draft, "fast": cls.fast, "reference": cls.reference}
        return presets[preset](**changes)

    @property
    def preset(self) -> Literal["draft", "fast", "reference"]:
        """Which of the schedules it follows."""
        if isinstance(self.schedule, ReferenceSchedule):
            return "reference"
        return "draft" if isinstance(self.schedule, DraftSchedule) else "fast"

    def to_dict(self) -> dict[str, Any]:
        """All numbers, for run.json and for recognising a saved state."""
        return {"preset": self.preset, **asdict(self)}
