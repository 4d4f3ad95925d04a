"""Radiance fields: their shape, how rays are sampled, and how they are fitted; the defaults are the release's."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Literal

from annotated_types import Ge, Le

from ..support.errors import InputError
from .base import configuration

Backend = Literal["auto", "torch", "triton", "tinycudann"]

Weight = Annotated[float, Ge(0.0)]
Share = Annotated[float, Ge(0.0), Le(1.0)]


@configuration
class GridConfig:
    """Sizes of the grid; the defaults are the release's (paper section 3.3)."""

    levels: Annotated[int, Ge(1), Le(32)] = 16
    """Resolutions, growing geometrically from `coarsest` to `finest`."""
    features: Annotated[int, Ge(1), Le(16)] = 2
    """Learned numbers at each lattice point of each level."""
    coarsest: Annotated[int, Ge(1), Le(2**16)] = 16
    """Cells along each axis of the box at the first level."""
    finest: Annotated[int, Ge(1), Le(2**16)] = 2048
    """Cells along each axis of the box at the last level, `coarsest` or more."""
    table_size: Annotated[int, Ge(2), Le(2**28)] = 2**16
    """Most rows a level may have, a power of two; finer lattices share rows."""
    indexing: Literal["tiled", "hashed"] = "tiled"
    """How lattice points share rows: "tiled" wraps their row-major number, "hashed" scatters it."""

    def __post_init__(self) -> None:
        if self.finest < self.coarsest:
            raise InputError(
                f"GridConfig.finest must be between {self.coarsest} and {2**16}, got {self.finest}; "
                "coarsest is no finer than finest"
            )
        if self.table_size & (self.table_size - 1):
            raise InputError(f"GridConfig.table_size must be a power of two, got {self.table_size}; 65536 is usual")

    @cached_property
    def resolutions(self) -> tuple[int, ...]:
        """Cells along an axis, a level each, e.g. 16, 22, 30, …, 2048."""
        steps = max(self.levels - 1, 1)
        growth = (self.finest / self.coarsest) ** (1 / steps)
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
    """Of the grid of features."""
    hidden: Annotated[int, Ge(1), Le(1024)] = 64
    """Width of the MLP."""
    layers: Annotated[int, Ge(1), Le(16)] = 3
    """Linear layers of the MLP."""
    blob_weight: Annotated[float, Ge(-1e3), Le(1e3)] = 5.0
    """The density logit starts from `blob_weight·exp(-|x|² / (2·blob_sigma²))`."""
    blob_sigma: Annotated[float, Ge(1e-3), Le(1e3)] = 0.2
    """Radius of that blob, in scene units."""
    half_extent: Annotated[float, Ge(1e-3), Le(1e3)] = 1.0
    """The field lives in the box [-half_extent, half_extent]³ of the world."""
    backend: Backend = "auto"
    """What computes the grid: "torch" (the definition), "triton", "tinycudann", or "auto", which takes Triton where it
    works and torch elsewhere. It changes no value beyond rounding and is not stored in files of fields."""

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
    def draft(cls) -> FieldConfig:
        """A small field for a first look: all that a photo shows at the object's depth lies within ±0.3."""
        grid = GridConfig(levels=4, features=4, coarsest=16, finest=192, table_size=2**17, indexing="hashed")
        return cls(grid=grid, hidden=32, half_extent=0.3, blob_sigma=0.1)

    def no_finer_than(self, cell: float) -> FieldConfig:
        """The same field, the cells of its finest grid at least `cell` wide (scene units, above 0).

        Cells smaller than a pixel of the pictures that a field is fitted to are seen by few rays or none: in larger
        renders they show as noise.
        """
        if not cell >= 1e-6:
            raise InputError(f"cell must be at least 1e-06, got {cell}; it is a width in scene units")
        finest = max(self.grid.coarsest, round(2 * self.half_extent / cell))
        return replace(self, grid=replace(self.grid, finest=min(self.grid.finest, finest)))


@configuration
class RaySampling:
    """How a ray is sampled; the defaults are the release's (paper section 3.3)."""

    uniform: Annotated[int, Ge(1), Le(65536)] = 128
    """Samples spread evenly over the part of the ray inside the box."""
    importance: Annotated[int, Ge(0), Le(65536)] = 128
    """Further samples where the first ones found something."""
    near: Annotated[float, Ge(0)] = 0.05
    """Nothing is seen closer to the camera than this, in scene units."""


@configuration
class FitConfig:
    """How a field is fitted; the defaults are thorough, and meant for `FieldConfig.draft()`."""

    iterations: Annotated[int, Ge(1)] = 900
    """Optimiser steps."""
    rays: Annotated[int, Ge(1)] = 4096
    """Random rays of each step, at most."""
    points: Annotated[int, Ge(1)] = 2**15
    """How many points of the field a step should ask for; while much is visible there are fewer rays."""
    edge_share: Share = 0.2
    """Share of the rays that go through pixels where the picture changes: few of all pixels show outlines."""
    sampling: RaySampling = RaySampling(uniform=64, importance=24)
    """Samples along a ray."""
    grid_lr: Annotated[float, Ge(1e-8), Le(1.0)] = 1e-1
    """Adam's learning rate of the grid at the start."""
    mlp_lr: Annotated[float, Ge(1e-8), Le(1.0)] = 1e-2
    """Adam's learning rate of the MLP at the start."""
    final_lr: Annotated[float, Ge(1e-6), Le(1.0)] = 0.05
    """What is left of both in the last step, falling exponentially."""
    color_weight: Weight = 1.0
    """Of the colour's term of `fit_losses`."""
    opacity_weight: Weight = 0.5
    """Of its term for silhouettes."""
    distortion_weight: Weight = 0.1
    """Of its term that keeps the light of a ray together."""
    depth_weight: Weight = 0.3
    """Of its term depth in the last step, rising from 0 in the first: on a fog it would act too soon."""
    crisp_weight: Weight = 0.0
    """Of its term crisp in the last step, rising with the square of the progress: no haze is left."""
    occupancy_cells: Annotated[int, Ge(0), Le(512)] = 48
    """Cells along an axis of the OccupancyGrid that skips empty space; 0 skips nothing."""
    occupancy_every: Annotated[int, Ge(1)] = 16
    """Steps between its updates."""

    @classmethod
    def draft(cls, iterations: int = 400, crisp_weight: float = 0.0) -> FitConfig:
        """A first look: fewer steps, and half the points in each."""
        return cls(iterations=iterations, points=2**14, crisp_weight=crisp_weight)
