"""How a field is distilled: the presets and all their numbers."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, Gt, Le, MinLen

from ..support.errors import InputError
from .base import configuration, to_json
from .field import FieldConfig, FitConfig, RaySampling, Share

Steps = Annotated[int, Ge(1), Le(1000)]
Pixels = Annotated[int, Ge(8), Le(1024)]
Index = Annotated[int, Ge(0), Le(1000)]
Rate = Annotated[float, Ge(0.0), Le(1.0)]
Guidance = Annotated[float, Ge(0.0), Le(1000.0)]


@configuration
class DraftSchedule:
    """A first look: fit UpSRT's predictions from many cameras, then a few sampled views, by random rays."""

    predicted_cameras: Annotated[int, Ge(1), Le(10_000)] = 48
    """Views predicted; no diffusion is involved."""
    predicted_size: Pixels = 64
    """Their pixels along each side."""
    predicted_fit: FitConfig = FitConfig.draft(iterations=250)
    """The fit to them."""
    sampled_cameras: Annotated[int, Ge(1), Le(16)] = 16
    """Views sampled, at most 16."""
    sampled_fit: FitConfig = FitConfig.draft(iterations=250)
    """The fit to those."""
    steps: Steps = 10
    """Of the sampler."""
    scheduler: str = "dpm++"
    """Of the sampler (see sampling.make_scheduler)."""


@configuration
class FastSchedule:
    """Minutes in place of an hour: one long fit by random rays, whose targets are painted anew a few times.

    The field is fitted to UpSRT's predictions first. In each round it is rendered from every camera, the renders are
    noised and denoised in few steps, and the fit goes on with the pictures, which count where they agree with it. From
    the first round on the photos are targets too.
    """

    cameras: Annotated[int, Ge(1), Le(1000)] = 32
    """Photo 1's, and others spread over the band that the release distils from."""
    predicted_size: Pixels = 64
    """Pixels along each side of the predictions."""
    predicted_iterations: Annotated[int, Ge(1)] = 200
    """Of the fit, before the first round."""
    levels: Annotated[tuple[Annotated[float, Gt(0.0), Le(1.0)], ...], MinLen(1)] = (1.0, 0.7, 0.45, 0.25)
    """How far up the noise schedule the renders of each round go, in (0, 1]; 1 leaves nothing of them."""
    steps: Steps = 10
    """Of a walk down the whole schedule; a round takes its last repaint_steps(level, steps)."""
    scheduler: str = "dpm++"
    """Of the sampler (see sampling.make_scheduler)."""
    guided: tuple[Share, Share] = (0.0, 1.0)
    """Lowest and highest timestep / 1000 at which guidance acts."""
    shared_noise: bool = True
    """Whether all cameras of a round get the same noise."""
    agreement: Annotated[float, Ge(0.0), Le(10.0)] = 0.2
    """Difference of a pixel from the field, in [0, 1], that halves its weight; 0 counts all pixels equally."""
    photo_weight: Annotated[float, Ge(0.0), Le(1000.0)] = 1.0
    """Of a photo's pixels beside sampled ones; 0 leaves the photos out."""
    all_photos: bool = True
    """Whether the cameras of the photos beside the first are estimated, and those used whose match is good."""
    fit: FitConfig = FitConfig.draft(iterations=500, crisp_weight=0.1)
    """Its iterations hold all rounds, which divide what the predictions leave of them evenly."""

    def __post_init__(self) -> None:
        last = self.fit.iterations - len(self.levels)
        if last < 1:
            raise InputError(
                f"fit.iterations must be more than the {len(self.levels)} levels, got {self.fit.iterations}; give more"
            )
        if self.predicted_iterations > last:
            raise InputError(
                f"predicted_iterations must be between 1 and {last}, got {self.predicted_iterations}; "
                "each level takes one of fit.iterations at least"
            )
        low, high = self.guided
        if low > high:
            raise InputError(f"guided[1] must be between {low} and 1.0, got {high}; the lowest comes first")

    @property
    def ends(self) -> tuple[int, ...]:
        """Iterations of the fit after which each round is painted, and all of them."""
        rounds, left = len(self.levels), self.fit.iterations - self.predicted_iterations
        return tuple(self.predicted_iterations + left * done // rounds for done in range(rounds + 1))


@configuration
class ReferenceSchedule:
    """The release's schedule (paper section 3.3): every render is denoised in earnest and becomes the next target."""

    cameras: Annotated[int, Ge(1), Le(10_000)] = 250
    """The first is photo 1's, the others lie in a band about the object."""
    iterations: Annotated[int, Ge(1)] = 3000
    """One camera each."""
    steps: Steps = 30
    """Of the DDIM table."""
    lowest_index: Index = 1
    """Lowest entry of the table that renders are noised to."""
    highest_index: Index = 28
    """Highest entry, included."""
    bootstrap: Annotated[int, Ge(0)] = 300
    """The first iterations, in which the entry is at least bootstrap_index."""
    bootstrap_index: Index = 25
    """Lowest entry in these."""
    grid_lr: Rate = 5e-3
    """Adam's, of the grid."""
    mlp_lr: Rate = 5e-4
    """Adam's, of the MLP."""
    perceptual_weight: Annotated[float, Ge(0.0), Le(1e6)] = 0.1
    """Of the perceptual term beside the colour's."""
    silhouette_weight: Annotated[float, Ge(0.0), Le(1e6)] = 1e-3
    """Of the silhouette's term beside the colour's."""
    sampling: RaySampling = RaySampling()
    """Samples along a ray."""

    def __post_init__(self) -> None:
        if not 1 <= self.lowest_index <= self.bootstrap_index <= self.highest_index < self.steps + 1:
            raise InputError(
                "noise indices must satisfy 1 <= lowest_index <= bootstrap_index <= highest_index <= steps, got "
                f"{self.lowest_index}, {self.bootstrap_index}, {self.highest_index}, {self.steps}"
            )


Preset = Literal["draft", "fast", "reference"]

PRESETS: tuple[Preset, ...] = get_args(Preset)
"""Names of the presets, from the cheapest to the dearest; each is a method of DistillConfig."""

_SCHEDULES = {"draft": DraftSchedule, "fast": FastSchedule, "reference": ReferenceSchedule}
"""Of each preset; of several with one kind of schedule the first names a configuration that was given no name."""


@configuration
class DistillConfig:
    """What `UpFusion.distill` does. Presets: `fast()`, the default, `draft()` and `reference()`."""

    schedule: DraftSchedule | FastSchedule | ReferenceSchedule = FastSchedule()
    """What is rendered, denoised and fitted, when."""
    field: FieldConfig = FieldConfig.draft()
    """Shape of the field."""
    perceptual: Literal["lpips", "dino", "none"] = "none"
    """"lpips" (perceptual_weights names the user's VGG-16 file), "dino" (the model's own keys) or "none"; only the
    reference has such a term."""
    perceptual_weights: str | None = None
    """VGG-16 file of "lpips"."""
    guidance: Guidance = 9.0
    """Scale of the sampler's guidance."""
    batch_size: Annotated[int, Ge(1)] = 4
    """Views at a time."""
    checkpoint_every: Annotated[int, Ge(1)] = 100
    """Iterations between saved states."""
    preset: str = ""
    """Name of the preset that it was made as; where none is given, of its kind of schedule."""

    def __post_init__(self) -> None:
        kind = type(self.schedule)
        if not self.preset or _SCHEDULES.get(self.preset, kind) is not kind:  # none, or of another schedule
            object.__setattr__(self, "preset", next(name for name, own in _SCHEDULES.items() if own is kind))
        if self.perceptual == "lpips" and not self.perceptual_weights:
            raise InputError("perceptual 'lpips' needs perceptual_weights, a VGG-16 file; give it, or choose 'dino'")
        if kind is not ReferenceSchedule and self.perceptual != "none":
            raise InputError(
                f"the preset {self.preset} has no perceptual term, got {self.perceptual!r}; choose 'none', or the "
                "reference"
            )

    @classmethod
    def draft(cls, **changes: Any) -> DistillConfig:  # noqa: ANN401 - fields of this class
        """A first look, in the time of some sampled views."""
        defaults: dict[str, Any] = {"schedule": DraftSchedule(), "preset": "draft"}
        return cls(**(defaults | changes))

    @classmethod
    def fast(cls, **changes: Any) -> DistillConfig:  # noqa: ANN401 - fields of this class
        """The default: minutes on a GPU or, with a small model, on two CPU cores."""
        return cls(**({"preset": "fast"} | changes))

    @classmethod
    def reference(cls, **changes: Any) -> DistillConfig:  # noqa: ANN401 - fields of this class
        """The release's schedule: 47,100 denoising steps. It took LPIPS; the default here needs no download."""
        defaults: dict[str, Any] = {
            "schedule": ReferenceSchedule(),
            "field": FieldConfig(),
            "perceptual": "dino",
            "preset": "reference",
        }
        return cls(**(defaults | changes))

    @classmethod
    def named(cls, preset: str, **changes: Any) -> DistillConfig:  # noqa: ANN401 - fields of this class
        """The preset of that name, one of PRESETS."""
        if preset not in PRESETS:
            raise InputError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r:.60}")
        config: DistillConfig = getattr(cls, preset)(**changes)
        return config

    def to_dict(self) -> dict[str, Any]:
        """All numbers, for run.json and for recognising a saved state."""
        return to_json(self)
