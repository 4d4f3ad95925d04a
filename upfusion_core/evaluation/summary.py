"""From numbers of views to what a report says: averages, differences, JSON, tables and plots.

A PSNR of averages is not an average of PSNRs, and views of one object are not independent. Measures are therefore
averaged over the views of an object first, then over objects; the standard error counts objects.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from torch import Tensor

from ..support.errors import InputError, MissingPackageError
from ..support.files import Writing
from .metrics import MEASURES

WAYS = {"affine": "per-view affine", "similarity": "global similarity"}
"""Alignments by the ending that a measure's name carries, e.g. box_psnr_affine; no ending means raw."""


@dataclass(frozen=True)
class Score:
    """A measure over objects.

    mean: of the objects' averages. stderr: its standard error, s / sqrt(n); None for one object, which shows no spread.
    objects: how many.
    """

    mean: float
    stderr: float | None
    objects: int

    def __str__(self) -> str:
        digits = 2 if abs(self.mean) >= 10 else 3
        error = "" if self.stderr is None else f" ± {self.stderr:.{digits}f}"
        return f"{self.mean:.{digits}f}{error}"


Results = Mapping[str, Mapping[int, Mapping[str, Score]]]
"""results[stage][photos][measure], stages such as "white", "nearest", "predict", "sample", "field"."""


def object_mean(views: Tensor | Sequence[float]) -> float:
    """The average of one measure over the views of one object."""
    values = [float(value) for value in (views.flatten().tolist() if isinstance(views, Tensor) else views)]
    if not values:
        raise InputError("expected at least one view's value, got none; leave objects without views out")
    _check_values("a view's value", values)
    return math.fsum(values) / len(values)


def score(objects: Iterable[float]) -> Score:
    """Mean and standard error over objects, one value each.

    Example: 1, 2 and 3 give mean 2 and standard error 1 / sqrt(3).
    """
    values = [float(value) for value in objects]
    if not values:
        raise InputError("expected at least one object's value, got none; evaluate at least one object")
    _check_values("an object's value", values)
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Score(mean, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return Score(mean, math.sqrt(variance / len(values)), len(values))


def paired_difference(first: Sequence[float], second: Sequence[float]) -> Score:
    """The score of second - first, object by object: how much better, and how surely.

    The spread of objects, which is common to both, drops out, so this is far more certain than the difference of means.
    """
    if len(first) != len(second):
        raise InputError(
            f"a paired difference needs the same objects twice, got {len(first)} and {len(second)} values; "
            "evaluate both on one list of objects"
        )
    return score(float(b) - float(a) for a, b in zip(first, second, strict=True))


def results_to_json(results: Results) -> dict[str, dict[str, dict[str, dict[str, float | int | None]]]]:
    """`results[stage][photos][measure] = {mean, stderr, objects}`, with the photos as text, as JSON wants keys."""
    return {
        stage: {
            str(photos): {measure: asdict(value) for measure, value in measures.items()}
            for photos, measures in sorted(rows.items())
        }
        for stage, rows in results.items()
    }


def split_measure(name: str) -> tuple[str, str | None]:
    """A measure and the ending of its alignment, e.g. "box_psnr_affine" -> "box_psnr", "affine"; None for raw ones."""
    way = next((way for way in WAYS if name.endswith(f"_{way}")), None)
    return (name, None) if way is None else (name.removesuffix(f"_{way}"), way)


def measure_label(name: str) -> str:
    """How tables and plots call a measure, e.g. "box_psnr_affine" -> "box PSNR (dB), per-view affine"."""
    stem, way = split_measure(name)
    if stem not in MEASURES:
        return name
    return MEASURES[stem].label + ("" if way is None else f", {WAYS[way]}")


def markdown_table(results: Results, measures: Sequence[str]) -> str:
    """A Markdown table: a line for each stage and number of photos, a column for each measure, mean ± stderr."""
    rows = [(stage, photos, values) for stage, lines in results.items() for photos, values in sorted(lines.items())]
    if not rows:
        raise InputError("expected results of at least one stage, got none; evaluate something first")
    head = ["stage", "photos", "objects", *(measure_label(name) for name in measures)]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for stage, photos, values in rows:
        counts = sorted({value.objects for value in values.values()})
        objects = "–".join(str(count) for count in dict.fromkeys((counts[0], counts[-1]))) if counts else "0"
        cells = [str(values[name]) if name in values else "" for name in measures]
        lines.append([stage, str(photos), objects, *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def require_matplotlib() -> None:
    """Raises MissingPackageError before any long work if nothing can be plotted."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingPackageError(
            "plots need the package matplotlib, which is not installed; run: pip install matplotlib"
        )


def measures_of(results: Results) -> list[str]:
    """The measures that occur, in the order of their first occurrence."""
    return list(dict.fromkeys(name for rows in results.values() for values in rows.values() for name in values))


def plot_results(results: Results, writing: Writing) -> None:
    """One PNG a measure, `plots/<measure>.png`: mean and standard error against the number of photos, by stage.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    for measure in measures_of(results):
        figure = Figure(figsize=(5, 3.6), layout="constrained")  # no pyplot: no window, no state shared with others
        FigureCanvasAgg(figure)
        axes, counts = figure.add_subplot(), set()
        for stage, rows in results.items():
            points = [(photos, values[measure]) for photos, values in sorted(rows.items()) if measure in values]
            if points:
                photos = [count for count, _ in points]
                counts.update(photos)
                errors = [value.stderr or 0.0 for _, value in points]
                axes.errorbar(
                    photos, [value.mean for _, value in points], yerr=errors, marker="o", capsize=3, label=stage
                )
        axes.set_xticks(sorted(counts))
        axes.set(xlabel="photos", ylabel=measure_label(measure))
        axes.grid(alpha=0.3)
        axes.legend()
        with writing(f"plots/{measure}.png") as path:
            figure.savefig(path, dpi=150)


def _check_values(name: str, values: Sequence[float]) -> None:
    bad = [value for value in values if not math.isfinite(value)]
    if bad:
        raise InputError(
            f"{name} must be finite, got {len(bad)} NaN or infinite of {len(values)}; leave out what was not measured"
        )
