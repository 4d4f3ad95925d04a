"""What is evaluated: all that shapes a report, beside the model and the data."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..pipeline.distill_config import DistillConfig
from ..support.checks import check_choice, check_count, check_range
from ..support.errors import InputError
from ..types import MAX_PHOTOS

Stage = Literal["white", "nearest", "predict", "sample", "field"]

STAGES: tuple[Stage, ...] = ("white", "nearest", "predict", "sample", "field")


@dataclass(frozen=True)
class EvaluationConfig:
    """All that shapes an evaluation, beside the model and the data.

    photos: numbers of photos, 1 to 6. views: targets an object. stages: in the order of the report.
    seed: of views, samples and fields. steps, guidance, scheduler, batch_size: of the 2D model.
    alignment: "object" gives predict and field one 3D similarity an object, found by SimilaritySearch.quick; "picture"
    gives them the shared 2D similarity that the other stages always get.
    distill: of the field; its guidance is its own.
    mesh_resolution, mesh_samples: of the field's surface, and points on each surface.
    """

    photos: tuple[int, ...] = (1, 3, 6)
    views: int = 4
    stages: tuple[Stage, ...] = STAGES
    seed: int = 0
    steps: int = 50
    guidance: float = 9.0
    scheduler: str = "ddim"
    batch_size: int = 4
    alignment: Literal["object", "picture"] = "object"
    distill: DistillConfig = field(default_factory=DistillConfig.fast)
    mesh_resolution: int = 128
    mesh_samples: int = 100_000

    def __post_init__(self) -> None:
        for name, given in (("photos", self.photos), ("stages", self.stages)):
            if not given or len(set(given)) != len(given):
                raise InputError(f"{name} must be one or more different ones, got {list(given)}; name each once")
        for count in self.photos:
            check_count("photos", count, 1, MAX_PHOTOS)
        for stage in self.stages:
            check_choice("stages", stage, STAGES)
        check_count("views", self.views, 1, 32)
        check_count("seed", self.seed, 0, 2**32 - 1)
        check_count("steps", self.steps, 1, 1000)
        check_range("guidance", self.guidance, 0.0, 1000.0)
        check_count("batch_size", self.batch_size, 1)
        check_choice("alignment", self.alignment, ("object", "picture"))
        check_count("mesh_resolution", self.mesh_resolution, 8, 2048)
        check_count("mesh_samples", self.mesh_samples, 100)

    def to_dict(self) -> dict[str, Any]:
        """As JSON, for reports and for recognising objects that are finished."""
        content = asdict(self) | {"distill": self.distill.to_dict()}
        plain: dict[str, Any] = json.loads(json.dumps(content))
        return plain
