"""Radiance fields: their shape, how rays are sampled, how they are fitted and distilled; and how photos are placed."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, MinLen

from ..support.errors import InputError
from .base import configuration, to_dict

Backend = Literal["auto", "torch", "triton", "tinycudann"]
Preset = Literal["draft", "fast", "reference"]

Count = Annotated[int, Ge(1)]
Cells = Annotated[int, Ge(1), Le(2**16)]
Cameras = Annotated[int, Ge(1), Le(10_000)]
Pixels = Annotated[int, Ge(8), Le(1024)]
Steps = Annotated[int, Ge(1), Le(1000)]
Index = Annotated[int, Ge(0), Le(1000)]
Share = Annotated[float, Ge(0.0), Le(1.0)]
Weight = Annotated[float, Ge(0.0)]
Factor = Annotated[float, Ge(0.0), Le(1e6)]
Radius = Annotated[float, Ge(1e-3), Le(1e3)]
LearningRate = Annotated[float, Ge(1e-8), Le(1.0)]
Guidance = Annotated[float, Ge(0.0), Le(1000.0)]
Deviation = Annotated[float, Ge(1e-6)]
Elevations = Annotated[tuple[Annotated[float, Ge(-89.0), Le(89.0)], ...], MinLen(1)]


@configuration
class GridConfig:
    """Sizes of the grid; the defaults are the release's (paper section 3.3)."""

    levels: Annotated[int, Ge(1), Le(32)] = 16  # resolutions, growing geometrically from `coarsest` to `finest`
    features: Annotated[int, Ge(1), Le(16)] = 2  # learned numbers at each lattice point of each level
    coarsest: Cells = 16  # cells along each axis of the box at the first level
    finest: Cells = 2048  # the same at the last level, `coarsest` or more
    table_size: Annotated[int, Ge(2), Le(2**28)] = 2**16  # most rows of a level, a power of two; finer lattices share
    indexing: Literal["tiled", "hashed"] = "tiled"  # how: "tiled" wraps their row-major number, "hashed" scatters it

    def __post_init__(self) -> None:
        if self.finest < self.coarsest:
            ends = f"between {self.coarsest} and {2**16}"
            raise InputError(f"GridConfig.finest must be {ends}, got {self.finest}; coarsest is no finer than finest")
        if self.table_size & (self.table_size - 1):
            raise InputError(f"GridConfig.table_size must be a power of two, got {self.table_size}; 65536 is usual")

    @cached_property
    def resolutions(self) -> tuple[int, ...]:
        """Cells along an axis, a level each, e.g. 16, 22, 30, …, 2048."""
        growth = (self.finest / self.coarsest) ** (1 / max(self.levels - 1, 1))
        return tuple(round(self.coarsest * growth**level) for level in range(self.levels))

    @cached_property
    def rows(self) -> tuple[int, ...]:
        """Rows of each level: one a lattice point while they fit into `table_size`, else `table_size`."""
        return tuple(min((cells + 1) ** 3, self.table_size) for cells in self.resolutions)

    @cached_property
    def dense_levels(self) -> int:
        """How many levels, from the coarsest, have a row of their own for each lattice point."""
        return sum((cells + 1) ** 3 <= self.table_size for cells in self.resolutions)

    @property
    def width(self) -> int:
        """Numbers that a point is encoded into."""
        return self.levels * self.features


@configuration
class FieldConfig:
    """Shape of a radiance field; the defaults are the release's (paper section 3.3)."""

    grid: GridConfig = GridConfig()
    hidden: Annotated[int, Ge(1), Le(1024)] = 64  # width of the MLP
    layers: Annotated[int, Ge(1), Le(16)] = 3  # linear layers of the MLP
    blob_weight: Annotated[float, Ge(-1e3), Le(1e3)] = 5.0  # start: logit blob_weight·exp(-|x|² / (2·blob_sigma²))
    blob_sigma: Radius = 0.2  # radius of that blob, in scene units
    half_extent: Radius = 1.0  # the field lives in the box [-half_extent, half_extent]³ of the world
    backend: Backend = "auto"  # "auto": Triton where it works, else torch; changes only rounding, and is not saved

    @property
    def widths(self) -> tuple[int, ...]:
        """Numbers between the layers of the MLP: the grid's, hidden ones, and the four logits."""
        return (self.grid.width, *[self.hidden] * (self.layers - 1), 4)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The parameters of a field of this configuration and their sizes, known without making one."""
        shapes: dict[str, tuple[int, ...]] = {"grid.table": (sum(self.grid.rows), self.grid.features)}
        for index, (inputs, outputs) in enumerate(pairwise(self.widths)):
            shapes |= {f"mlp.{index}.weight": (outputs, inputs), f"mlp.{index}.bias": (outputs,)}
        return shapes

    @classmethod
    def small(cls) -> FieldConfig:
        """A field that is fitted in minutes: all that a photo shows at the object's depth lies within ±0.3."""
        grid = GridConfig(levels=4, features=4, coarsest=16, finest=192, table_size=2**17, indexing="hashed")
        return cls(grid=grid, hidden=32, half_extent=0.3, blob_sigma=0.1)

    def no_finer_than(self, cell: float) -> FieldConfig:
        """The same field, the cells of its finest grid at least `cell` wide (scene units, above 0).

        Cells smaller than a pixel of what a field is fitted to are seen by few rays: in larger renders they are noise.
        """
        if not cell >= 1e-6:
            raise InputError(f"cell must be at least 1e-06, got {cell}; it is a width in scene units")
        finest = max(self.grid.coarsest, round(2 * self.half_extent / cell))
        return replace(self, grid=replace(self.grid, finest=min(self.grid.finest, finest)))

    def as_fine_as(self, cell: float) -> FieldConfig:
        """The same field with levels of the same growth added, or left out, until its finest cells are `cell` wide."""
        grid, wanted = self.grid, max(self.grid.coarsest, round(2 * self.half_extent / cell))
        growth = (grid.finest / grid.coarsest) ** (1 / max(grid.levels - 1, 1))
        levels = 1 + math.ceil(math.log(wanted / grid.coarsest) / math.log(max(growth, 1.5)) - 1e-6)
        return replace(self, grid=replace(grid, levels=levels, finest=min(wanted, 2**16)))


@configuration
class RaySampling:
    """How a ray is sampled; the defaults are the release's (paper section 3.3)."""

    uniform: Annotated[int, Ge(1), Le(65536)] = 128  # samples spread evenly over the part of the ray inside the box
    importance: Annotated[int, Ge(0), Le(65536)] = 128  # further samples where the first ones found something
    near: Weight = 0.05  # nothing is seen closer to the camera than this, in scene units


@configuration
class FitConfig:
    """How a field, by default FieldConfig.small(), is fitted by random rays; the weights are of `fit_losses`' terms."""

    iterations: Count = 400
    rays: Count = 4096  # random rays of each step, at most
    points: Count = 2**14  # points of the field that a step should ask for; while much is visible, it has fewer rays
    edge_share: Share = 0.2  # of the rays, through pixels where the picture changes: few of all show outlines
    sampling: RaySampling = RaySampling(uniform=64, importance=24)
    grid_lr: LearningRate = 1e-1  # Adam's learning rates at the start
    mlp_lr: LearningRate = 1e-2
    final_lr: Annotated[float, Ge(1e-6), Le(1.0)] = 0.05  # what is left of both in the last step, falling exponentially
    color_weight: Weight = 1.0
    opacity_weight: Weight = 0.5
    distortion_weight: Weight = 0.1
    depth_weight: Weight = 0.3  # in the last step, rising from 0 in the first: on a fog it would act too soon
    crisp_weight: Weight = 0.0  # in the last step, rising with the square of the progress: no haze is left
    coarse_share: Share = 0.0  # of the steps, in which finer levels join the grid's two coarsest: shape before detail
    occupancy_cells: Annotated[int, Ge(0), Le(512)] = 48  # along an axis of the OccupancyGrid; 0: no space is skipped
    occupancy_every: Count = 16  # steps between its updates
    outside_weight: Weight = 1.0  # of what is dense where silhouettes leave nothing, if the caller has found that out

    @classmethod
    def views(cls) -> FitConfig:
        """For few large pictures with known cameras, beside nothing else."""
        sampling = RaySampling(uniform=48, importance=16)
        options: dict[str, Any] = {"depth_weight": 0.03, "coarse_share": 0.6, "occupancy_every": 64}
        return cls(iterations=1000, rays=8192, sampling=sampling, **options)


@configuration
class DraftSchedule:
    """A first look: fit UpSRT's predictions from many cameras, then a few sampled views, by random rays."""

    predicted_cameras: Cameras = 48  # views predicted; no diffusion is involved
    predicted_size: Pixels = 64
    predicted_fit: FitConfig = FitConfig(iterations=250)
    sampled_cameras: Annotated[int, Ge(1), Le(16)] = 16
    sampled_fit: FitConfig = FitConfig(iterations=250)
    steps: Steps = 10
    scheduler: str = "dpm++"  # of the sampler (see sampling.make_scheduler)


@configuration
class FastSchedule:
    """Minutes in place of an hour: one long fit by random rays, whose targets are painted anew a few times.

    The field is fitted to UpSRT's predictions first. In each round its renders from every camera are noised and
    denoised in few steps, and the fit goes on with these, which count where they agree with it, and with the photos.
    """

    cameras: Annotated[int, Ge(1), Le(1000)] = 32  # photo 1's, and others over the band that the release distils from
    predicted_size: Pixels = 64
    predicted_iterations: Count = 200  # of the fit, before the first round
    # how far up the noise schedule the renders of each round go, in (0, 1]; 1 leaves nothing of them
    levels: Annotated[tuple[Annotated[float, Gt(0.0), Le(1.0)], ...], MinLen(1)] = (1.0, 0.7, 0.45, 0.25)
    steps: Steps = 10  # of a walk down the whole schedule; a round takes its last repaint_steps(level, steps)
    scheduler: str = "dpm++"
    guided: tuple[Share, Share] = (0.0, 1.0)  # lowest and highest timestep / 1000 at which guidance acts
    shared_noise: bool = True  # whether all cameras of a round get the same noise
    agreement: Annotated[float, Ge(0.0), Le(10.0)] = 0.2  # difference that halves a pixel's weight; 0: all are equal
    photo_weight: Guidance = 1.0  # of a photo's pixels beside sampled ones; 0 leaves the photos out
    all_photos: bool = True  # whether the other photos' cameras are estimated, and those used whose match is good
    fit: FitConfig = FitConfig(iterations=500, crisp_weight=0.1)  # rounds share what the predictions leave of it evenly

    def __post_init__(self) -> None:
        rounds, iterations, (low, high) = len(self.levels), self.fit.iterations, self.guided
        if iterations <= rounds:
            raise InputError(f"fit.iterations must be more than the {rounds} levels, got {iterations}; give more")
        if self.predicted_iterations > iterations - rounds:
            rule = f"predicted_iterations must be between 1 and {iterations - rounds}, got {self.predicted_iterations}"
            raise InputError(f"{rule}; each level takes one of fit.iterations at least")
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

    cameras: Cameras = 250  # the first is photo 1's, the others lie in a band about the object
    iterations: Count = 3000  # one camera each
    steps: Steps = 30  # of the DDIM table
    lowest_index: Index = 1  # lowest entry of the table that renders are noised to
    highest_index: Index = 28  # highest entry, included
    bootstrap: Annotated[int, Ge(0)] = 300  # the first iterations, in which the entry is at least bootstrap_index
    bootstrap_index: Index = 25
    grid_lr: Share = 5e-3  # Adam's learning rates
    mlp_lr: Share = 5e-4
    perceptual_weight: Factor = 0.1  # of these terms beside the colour's
    silhouette_weight: Factor = 1e-3
    sampling: RaySampling = RaySampling()

    def __post_init__(self) -> None:
        if not 1 <= self.lowest_index <= self.bootstrap_index <= self.highest_index <= self.steps:
            rule = "noise indices must satisfy 1 <= lowest_index <= bootstrap_index <= highest_index <= steps"
            given = f"{self.lowest_index}, {self.bootstrap_index}, {self.highest_index}, {self.steps}"
            raise InputError(f"{rule}, got {given}")


# What each preset changes in DistillConfig, cheapest first; a new one is an entry here and its name in `Preset`. Of
# several with one kind of schedule the first names a configuration that was given no name.
PRESETS: dict[str, dict[str, Any]] = {
    "draft": {"schedule": DraftSchedule()},
    "fast": {"schedule": FastSchedule()},
    "reference": {"schedule": ReferenceSchedule(), "field": FieldConfig(), "perceptual": "dino"},
}


@configuration
class DistillConfig:
    """What `UpFusion.distill` does. Presets: `fast()`, the default, `draft()`, `reference()`, others by `named()`."""

    schedule: DraftSchedule | FastSchedule | ReferenceSchedule = FastSchedule()
    field: FieldConfig = FieldConfig.small()
    perceptual: Literal["lpips", "dino", "none"] = "none"  # "dino": the model's own keys; only the reference has a term
    perceptual_weights: str | None = None  # the user's VGG-16 file, for "lpips"
    guidance: Guidance = 9.0
    batch_size: Count = 4  # views at a time
    checkpoint_every: Count = 100  # iterations between saved states
    preset: str = ""  # name of the preset that it was made as; where none is given, of its kind of schedule

    def __post_init__(self) -> None:
        kind = type(self.schedule)
        kinds = {name: type(changes["schedule"]) for name, changes in PRESETS.items()}
        if not self.preset or kinds.get(self.preset, kind) is not kind:  # none, or of another schedule
            object.__setattr__(self, "preset", next(name for name, own in kinds.items() if own is kind))
        if self.perceptual == "lpips" and not self.perceptual_weights:
            raise InputError("perceptual 'lpips' needs perceptual_weights, a VGG-16 file; give it, or choose 'dino'")
        if kind is not ReferenceSchedule and self.perceptual != "none":
            rule = f"the preset {self.preset} has no perceptual term, got {self.perceptual!r}"
            raise InputError(f"{rule}; choose 'none', or the reference")

    @classmethod
    def named(cls, preset: str, **changes: Any) -> DistillConfig:  # noqa: ANN401 - fields of this class
        """The preset of that name, one of PRESETS."""
        if preset not in PRESETS:
            raise InputError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r:.60}")
        return cls(**({"preset": preset} | PRESETS[preset] | changes))

    @classmethod
    def draft(cls, **changes: Any) -> DistillConfig:  # noqa: ANN401 - fields of this class
        """A first look, in the time of some sampled views."""
        return cls.named("draft", **changes)

    @classmethod
    def fast(cls, **changes: Any) -> DistillConfig:  # noqa: ANN401 - fields of this class
        """The default: minutes on a GPU or, with a small model, on two CPU cores."""
        return cls.named("fast", **changes)

    @classmethod
    def reference(cls, **changes: Any) -> DistillConfig:  # noqa: ANN401 - fields of this class
        """The release's schedule: 47,100 denoising steps. It took LPIPS; the default here needs no download."""
        return cls.named("reference", **changes)

    def to_dict(self) -> dict[str, Any]:
        """All numbers, for run.json and for recognising a saved state."""
        return to_dict(self)


@configuration
class PhotoSearch:
    """How the cameras of photos are searched for."""

    azimuths: Annotated[int, Ge(4), Le(360)] = 36  # candidates' azimuths, spread evenly over the circle
    elevations_degrees: Elevations = (-5.0, 5.0, 15.0, 25.0, 35.0, 45.0, 55.0)  # candidates' elevations
    samples: Annotated[int, Ge(1), Le(100_000)] = 128  # answers that are drawn
    sweeps: Annotated[int, Ge(1), Le(10_000)] = 40  # in which the evidence is let in
    width: Deviation = 0.03  # usual differences of the angles of tangent planes, in sizes of the object
    background: Deviation = 0.3  # and between wrong cameras
    elevation_deviation: Annotated[float, Gt(0.0), Le(90.0)] = 5.0  # degrees, of photo 1's from what it is taken to be
    refinements: Annotated[int, Ge(0), Le(10_000)] = 16  # rounds of the refinement
    # standard deviations of azimuth and elevation in degrees, the size's logarithm, and both ways of the middle
    refined_deviations: tuple[Deviation, Deviation, Deviation, Deviation, Deviation] = (8.0, 8.0, 0.02, 0.003, 0.003)
    refined_width: Deviation = 0.01  # as width, once refined
    refined_weight: Share = 0.6  # of what the refinement tells of different answers, in logarithms
    fit: Share = 0.975  # share of the greatest likelihood below which an answer explains nothing
    # share of the answers that agree -> share of photos that are right, by benchmarks/photo_cameras.py
    trusts: tuple[tuple[Share, Share], ...] = ((0.0, 0.1), (0.4, 0.5), (0.6, 0.75), (0.8, 0.8), (0.9, 0.99))
    accept: Share = 0.8  # trust from which on a photo's camera is used

    @property
    def azimuths_degrees(self) -> list[float]:
        """The candidates' azimuths, from 0 on."""
        return [360.0 * index / self.azimuths for index in range(self.azimuths)]
