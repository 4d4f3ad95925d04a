"""What is evaluated: all that shapes a report, beside the model and the data."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Le, MinLen

from ..support.errors import InputError
from .base import configuration
from .distill import DistillConfig, Guidance, Steps
from .photos import MAX_PHOTOS

EvaluationStage = Literal["white", "nearest", "predict", "sample", "field"]
EVALUATION_STAGES: tuple[EvaluationStage, ...] = ("white", "nearest", "predict", "sample", "field")


@configuration
class EvaluationConfig:
    """All that shapes an evaluation, beside the model and the data."""

    photos: Annotated[tuple[Annotated[int, Ge(1), Le(MAX_PHOTOS)], ...], MinLen(1)] = (1, 3, 6)
    """Numbers of photos, each once."""
    views: Annotated[int, Ge(1), Le(32)] = 4
    """Targets an object."""
    stages: Annotated[tuple[EvaluationStage, ...], MinLen(1)] = EVALUATION_STAGES
    """What is evaluated, in the order of the report."""
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0
    """Of views, samples and fields."""
    steps: Steps = 50
    """Of the 2D model's sampler."""
    guidance: Guidance = 9.0
    """Scale of its guidance."""
    scheduler: str = "ddim"
    """Of the sampler (see sampling.make_scheduler)."""
    batch_size: Annotated[int, Ge(1)] = 4
    """Views at a time."""
    alignment: Literal["object", "picture"] = "object"
    """"object" gives predict and field one 3D similarity an object, found by alignment.SEARCH; "picture" gives
    them the shared 2D similarity that the other stages always get."""
    distill: DistillConfig = DistillConfig.fast()
    """Of the field; its guidance is its own."""
    mesh_resolution: Annotated[int, Ge(8), Le(2048)] = 128
    """Cells along an axis of the box from which the field's surface is taken."""
    mesh_samples: Annotated[int, Ge(100)] = 100_000
    """Points on each surface."""

    def __post_init__(self) -> None:
        for name, given in (("photos", self.photos), ("stages", self.stages)):
            if len(set(given)) != len(given):
                raise InputError(f"{name} must be one or more different ones, got {list(given)}; name each once")
