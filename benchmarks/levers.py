"""What each lever of the fast preset brings: one is changed at a time, on the same objects, compared in pairs.

    python benchmarks/levers.py [--weights mini] [--objects 4] [--photos 3] [--only NAME ...] [--out results.json]

The objects are the first of the procedural validation split, with photos, targets and seeds as `upfusion evaluate`
draws them. The table gives the mean of the preset as it is, then what a change adds, mean ± its standard error over the
objects that have the measure both times (a field without a surface has no F-score); "-" where none has. The column
`processor` holds the processor's seconds of the distillation alone.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parent))

from measuring import machine, timed, write_json

from upfusion_core import DistillConfig, RadianceField, UpFusion
from upfusion_core.config import EvaluationConfig, FastSchedule
from upfusion_core.evaluation.protocol import EvaluatedObject, draw_object, evaluate_object
from upfusion_core.evaluation.report import paired_difference
from upfusion_core.models.checkpoint import recommended_guidance
from upfusion_core.procedural import ProceduralObjects

VIEWS = 8
MEASURES = ("box_psnr", "iou", "sharpness", "f_score_2", "processor")
AS_IT_IS = "as it is"
LEVERS: dict[str, dict[str, Any]] = {
    AS_IT_IS: {},
    "all pixels count alike": {"agreement": 0.0},
    "other noise for each camera": {"shared_noise": False},
    "of the photos the first alone": {"all_photos": False},
    "no photos": {"photo_weight": 0.0},
    "one round": {"levels": (1.0,)},
    "guidance in the middle": {"guided": (0.2, 0.8)},
    "no term against haze": {"fit": replace(FastSchedule().fit, crisp_weight=0.0)},
}
"""Changes of FastSchedule, one at a time."""


class TimedDistillation:
    """A model that keeps how long its last distillation took the processor, in seconds."""

    def __init__(self, model: UpFusion) -> None:
        self._model, self.processor = model, 0.0

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the model has
        return getattr(self._model, name)

    def distill(self, *arguments: Any, **options: Any) -> RadianceField:  # noqa: ANN401 - the model's own
        field, taken = timed(lambda: self._model.distill(*arguments, **options))
        self.processor = taken.processor
        return field


def measured(model: UpFusion, item: EvaluatedObject, config: EvaluationConfig) -> dict[str, float]:
    """The measures of one object's field, each the mean over its views, and the seconds of its distillation."""
    timing = TimedDistillation(model)
    values = evaluate_object(timing, item, config).values["field"][str(config.photos[0])]
    return {name: fmean(values[name]) for name in MEASURES if name in values} | {"processor": timing.processor}


def table(rows: dict[str, list[dict[str, float]]]) -> list[str]:
    """Lines for people."""
    base = rows[AS_IT_IS]
    lines = [f"{'':32}" + "".join(f"{name:>18}" for name in MEASURES)]
    for name, changed in rows.items():
        cells = (mean(base, m) if name == AS_IT_IS else difference(base, changed, m) for m in MEASURES)
        lines.append(f"{name:32}" + "".join(f"{cell:>18}" for cell in cells))
    return lines


def mean(rows: list[dict[str, float]], measure: str) -> str:
    """Over the objects that have the measure."""
    values = [row[measure] for row in rows if measure in row]
    return f"{sum(values) / len(values):.3f}" if values else "-"


def difference(first: list[dict[str, float]], second: list[dict[str, float]], measure: str) -> str:
    """second - first and its standard error, over the objects that have the measure in both."""
    pairs = [
        (one[measure], other[measure])
        for one, other in zip(first, second, strict=True)
        if measure in one and measure in other
    ]
    if not pairs:
        return "-"
    found = paired_difference(*zip(*pairs, strict=True))
    return f"{found['mean']:+.3f}" + (f" ± {found['stderr']:.3f}" if found["stderr"] is not None else "")


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="mini")
    parser.add_argument("--objects", type=int, default=4)
    parser.add_argument("--photos", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=[name for name in LEVERS if name != AS_IT_IS])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(words)
    model = UpFusion.load(options.weights, device="cpu")
    data = ProceduralObjects("validation", size=model.image_size)
    config = EvaluationConfig(photos=(options.photos,), views=VIEWS, stages=("field",), alignment="picture")
    items = [draw_object(data, index, config) for index in range(options.objects)]
    guidance = recommended_guidance(options.weights)
    rows: dict[str, list[dict[str, float]]] = {}
    for name in [AS_IT_IS, *(options.only or [name for name in LEVERS if name != AS_IT_IS])]:
        distill = DistillConfig.fast(schedule=replace(FastSchedule(), **LEVERS[name]), guidance=guidance)
        rows[name] = [measured(model, item, replace(config, distill=distill)) for item in items]
        write_json(options.out, machine() | {"objects": options.objects, "photos": options.photos, "rows": rows})
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
