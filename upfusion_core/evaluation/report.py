"""Objects one by one into a folder, and what it says in the end: report.json, report.md, plots, a picture sheet.

A PSNR of averages is not an average of PSNRs, and views of one object are not independent. Measures are therefore
averaged over the views of an object first, then over objects; the standard error counts objects.
"""

import hashlib
import importlib.util
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, pairwise, product
from pathlib import Path
from statistics import fmean
from typing import Any, TypedDict

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import interpolate, pad

from ..config import EvaluationConfig, to_dict
from ..data.views import MultiViewDataset, note
from ..models.perceptual import PerceptualDistance
from ..pipeline.upfusion import UpFusion
from ..support.errors import FieldError, InputError
from ..support.files import Writing, read_json, replacing, write_json
from ..support.images import contact_sheet, load_png, save_png
from ..types import OnStep
from .metrics import MEASURES
from .protocol import Group, draw_object, evaluate_object

# how alignments are called, by the ending of a measure's name, e.g. box_psnr_affine; raw measures have none
WAYS = {"": "raw", "affine": "per-view affine", "similarity": "global similarity"}
# columns of the picture sheet by stage
TITLES = {"nearest": "nearest photo", "predict": "prediction", "sample": "2D sample", "field": "3D field"}
LEAST_SIDE = 96  # smaller pictures are shown enlarged, so that the titles fit
SHEET_OBJECTS = 12  # rows of the picture sheet
ALIGNMENTS = {
    "object": "one 3D similarity of the object's frame for `predict` and `field` (quick search), one shared 2D "
    "similarity of the pictures for the other stages",
    "picture": "one shared 2D similarity of the pictures for all stages; meshes have their own 3D similarity",
}


class Score(TypedDict):
    """A measure over objects, as it stands in report.json."""

    mean: float
    stderr: float | None  # standard error, s / sqrt(n); of one object, which shows no spread, None
    objects: int


_Record = dict[str, Any]  # of an object, in its file
_Skipped = list[tuple[str, str]]  # objects and reasons
Faults = tuple[_Skipped, _Skipped]  # of one object: why it was skipped, and what its data set left out
Results = Mapping[str, Mapping[str, Mapping[str, Score]]]  # [stage][photos][measure], the number of photos as text


def score(objects: Sequence[float]) -> Score:
    """Mean and standard error over objects, one value each: 1, 2 and 3 give 2 and 1 / sqrt(3)."""
    mean = fmean(objects)
    if len(objects) == 1:
        return Score(mean=mean, stderr=None, objects=1)
    variance = math.fsum((value - mean) ** 2 for value in objects) / (len(objects) - 1)
    return Score(mean=mean, stderr=math.sqrt(variance / len(objects)), objects=len(objects))


def paired_difference(first: Sequence[float], second: Sequence[float]) -> Score:
    """The score of second - first, object by object, from which the spread of objects drops out."""
    return score([b - a for a, b in zip(first, second, strict=True)])


@dataclass(frozen=True)
class Task:
    """An object to be evaluated, of the data set or of the one apart; `name` is that of its files."""

    index: int
    name: str
    apart: bool = False


@dataclass(frozen=True, eq=False)
class Evaluator:
    """What evaluates objects into a folder.

    datasets: the objects', and that of those to be reported apart, if any. about: what else shapes the results: it
    stands in the report. writing: how files get into the folder, not just renamed; temporary: where fields' states go.
    """

    model: UpFusion
    datasets: Sequence[MultiViewDataset]
    folder: Path
    config: EvaluationConfig
    about: Mapping[str, Any] = field(default_factory=dict)
    lpips: PerceptualDistance | None = None
    writing: Writing | None = None
    temporary: Callable[[str], Path] | None = None

    @property
    def settings(self) -> _Record:
        return {**self.about, "model_id": self.model.model_id, "settings": to_dict(self.config)}

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:16]

    def evaluate(
        self,
        indices: Sequence[int],
        groups: Sequence[Group] = (),
        on_step: OnStep | None = None,
        elsewhere: Callable[[Sequence[Task]], Iterator[Faults]] | None = None,
    ) -> _Record:
        """Evaluates objects, writes the report, and gives what report.json holds.

        Each object's values are in objects/<number>.json as soon as they are known. Those that the folder holds
        already, from the same settings, are not computed again, and a field goes on from its saved state. elsewhere:
        the faults of tasks in their order, of others that do them.
        """
        tasks = {"": [Task(index, f"{index:06d}") for index in indices]}
        apart = len(self.datasets) > 1  # else those of groups are among the others
        for group in groups:
            prefix = f"{group.name}-" if apart else ""
            tasks[group.name] = [Task(index, f"{prefix}{index:06d}", apart) for index in group.indices]
        every = list({task.name: task for task in chain(*tasks.values())}.values())
        missing = [task for task in every if self._stored(task) is None]
        each = len(self.config.photos) * len(self.config.stages)
        done = each * (len(every) - len(missing))

        def tell(step: int, total: int, preview: Callable[[], Tensor] | None) -> None:
            if on_step is not None:
                on_step(done + step, each * len(every), preview)

        skipped: _Skipped = []
        all_faults = elsewhere(missing) if elsewhere else (self(task, tell) for task in missing)
        for task, (why, left_out) in zip(missing, all_faults, strict=True):
            skipped += why
            for entry in left_out:
                note(self.datasets[task.apart].skipped, *entry)
            done += each
            tell(0, 0, None)
        records = {task.name: record for task in every if (record := self._stored(task)) is not None}
        found = {name: [records[task.name] for task in those if task.name in records] for name, those in tasks.items()}
        names = {name: [record["object"] for record in those] for name, those in found.items()}
        if not (main := found.pop("")):
            fault = f"none of {len(indices)} objects could be evaluated, {' because '.join(skipped[0])}"
            raise InputError(f"{fault}; correct that, then begin again")
        facts: dict[str, Any] = {
            "groups": {group.name: {"title": group.title, "evaluated": names[group.name]} for group in groups},
            "left_out_by_the_data_set": self.datasets[0].skipped,
            "similarity_alignment": ALIGNMENTS[self.config.alignment],
            "evaluated": names[""],
            "skipped": skipped,
            "notes": [f"{record['object']}: {note}" for record in records.values() for note in record["notes"]],
        }
        return self._report(self.settings | facts, main, found)

    def _written(self, name: str) -> AbstractContextManager[Path]:
        return self.writing(name) if self.writing else replacing(self.folder / name)

    def _stored(self, task: Task) -> _Record | None:
        """The record of an object that is finished; None where there is none, or one of other settings."""
        path = self.folder / "objects" / f"{task.name}.json"
        try:
            record = read_json(path)
            load_png(path.with_suffix(".png"))
        except InputError:
            return None
        fits = isinstance(record, dict) and record.get("run") == self.fingerprint and record.get("index") == task.index
        return record if fits else None

    def __call__(self, task: Task, on_step: OnStep | None = None) -> Faults:
        """Evaluates an object and writes its record, unless something is wrong with it."""
        dataset, name, why = self.datasets[task.apart], f"object {task.index}", list[tuple[str, str]]()
        known = len(dataset.skipped)
        try:
            item = draw_object(dataset, task.index, self.config)
            name, state = item.views.name, f"objects/{task.name}-{self.fingerprint}-%d.state"
            place = self.temporary or self.folder.joinpath
            result = evaluate_object(
                self.model, item, self.config, on_step, lpips=self.lpips, state=lambda n: place(state % n)
            )
        except (InputError, FieldError) as error:
            left_out = dataset.skipped[known:]
            why.append((left_out[-1][0] if left_out else name, str(error)))
        else:
            record = {"object": name, "index": item.index, "run": self.fingerprint, "photos": item.photos}
            record |= {"targets": item.targets, "reference_elevation_degrees": item.elevation_degrees}
            record |= {"values": result.values, "notes": result.notes}
            # photos, the truth of the first target and what each stage made of it, small ones enlarged, framed in grey
            photos, shown = item.views.rgb[list(item.photos)], (views[:1] for views in result.shown.values())
            row = torch.cat([photos, item.truth[:1], *shown]).float().cpu().clamp(0, 1)
            row = interpolate(row, scale_factor=-(-LEAST_SIDE // row.shape[-1]), mode="nearest")
            with self._written(f"objects/{task.name}.png") as path:
                save_png(path, contact_sheet(pad(row, (1, 1, 1, 1), value=0.8), columns=len(row)))
            with self._written(f"objects/{task.name}.json") as path:  # with this it is finished
                write_json(path, record)
        for left in (self.folder / "objects").glob(f"{task.name}-*.state"):
            left.unlink()
        return why, dataset.skipped[known:]

    def _report(self, about: _Record, main: list[_Record], apart: Mapping[str, list[_Record]]) -> _Record:
        """Writes the report's files, from records of the data set's objects and of the groups'."""
        grouped = {group: _results(found, self.config) for group, found in apart.items() if found}
        gains: dict[str, Any] = {stage: {} for stage in self.config.stages}  # what more photos bring, by object
        content = about | {"results": _results(main, self.config), "results_by_group": grouped, "gains": gains}
        for (stage, lines), (fewer, more) in product(gains.items(), pairwise(map(str, sorted(self.config.photos)))):
            lines[f"{fewer} to {more}"] = line = {}
            for name in MEASURES:
                both = [each for each in main if all(name in each["values"][stage][step] for step in (fewer, more))]
                if both:
                    line[name] = paired_difference(*(_means(both, stage, step, name) for step in (fewer, more)))
        rows = [load_png(self.folder / "objects" / f"{record['index']:06d}.png") for record in main[:SHEET_OBJECTS]]
        columns = [f"photo {number}" for number in range(1, max(self.config.photos) + 1)]
        columns += ["truth", *(TITLES[stage] for stage in self.config.stages if stage != "white")]
        width = rows[0].shape[-1]
        head = Image.new("RGB", (width, 14), "white")
        for place, title in enumerate(columns):
            ImageDraw.Draw(head).text((place * width / len(columns) + 2, 1), title, fill="black")
        with self._written("sheet.png") as path:
            save_png(path, torch.cat([torch.from_numpy(np.array(head)).permute(2, 0, 1).float() / 255, *rows], dim=1))
        if importlib.util.find_spec("matplotlib") is not None:
            plot_results(content["results"], self._written)
        with self._written("report.md") as path:
            # names of files may be no UTF-8; write_json spells them so, too
            path.write_text(_markdown(content), encoding="utf-8", errors="backslashreplace")
        with self._written("report.json") as path:
            write_json(path, content)
        return content


def _means(records: Sequence[dict[str, Any]], stage: str, photos: str, measure: str) -> list[float]:
    """Each object's mean over its views, of the objects that have the measure."""
    found = (record["values"][stage][photos].get(measure) for record in records)
    return [fmean(views) for views in found if views is not None]


def _results(records: Sequence[dict[str, Any]], config: EvaluationConfig) -> Results:
    """Per view, then per object: scores of every measure that at least one object has."""
    results: dict[str, dict[str, dict[str, Score]]] = {stage: {} for stage in config.stages}
    for stage, lines in results.items():
        for photos in map(str, sorted(config.photos)):
            names = dict.fromkeys(name for record in records for name in record["values"][stage][photos])
            lines[photos] = {name: score(_means(records, stage, photos, name)) for name in names}
    return results


def plot_results(results: Results, writing: Writing) -> None:
    """`plots/<measure>.png`: mean and standard error against the number of photos, by stage."""
    from matplotlib.figure import Figure

    for measure in measures_of(results):
        figure = Figure(figsize=(5, 3.6), layout="constrained")  # no pyplot: no window, no state shared with others
        axes, counts = figure.add_subplot(), set[int]()
        for stage, lines in results.items():
            points = {int(photos): scores[measure] for photos, scores in lines.items() if measure in scores}
            if points:
                counts.update(points)
                means = [value["mean"] for value in points.values()]
                errors = [value["stderr"] or 0.0 for value in points.values()]
                axes.errorbar(list(points), means, yerr=errors, marker="o", capsize=3, label=stage)
        axes.set_xticks(sorted(counts))
        axes.set(xlabel="photos", ylabel=measure_label(measure))
        axes.grid(alpha=0.3)
        axes.legend()
        with writing(f"plots/{measure}.png") as path:
            figure.savefig(path, dpi=150)


def measures_of(results: Results) -> list[str]:
    """The measures that occur, in the order of their first occurrence."""
    return list(dict.fromkeys(name for lines in results.values() for scores in lines.values() for name in scores))


def split_measure(name: str) -> tuple[str, str]:
    """A measure and the ending of its alignment, e.g. "box_psnr_affine" -> "box_psnr", "affine"; "" for raw ones."""
    stem, _, way = name.rpartition("_")
    return (stem, way) if way in WAYS else (name, "")


def measure_label(name: str) -> str:
    """How tables and plots call a measure, e.g. "box_psnr_affine" -> "box PSNR (dB), per-view affine"."""
    stem, way = split_measure(name)
    return MEASURES[stem].label + (f", {WAYS[way]}" if way else "")


def markdown_table(results: Results, measures: Sequence[str]) -> str:
    """A Markdown table: a line for each stage and number of photos, a column for each measure, mean ± stderr."""
    head = ["stage", "photos", "objects", *(measure_label(name) for name in measures)]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for stage, rows in results.items():
        for photos, scores in rows.items():
            counts = [value["objects"] for value in scores.values()] or [0]
            objects = "–".join(str(count) for count in dict.fromkeys((min(counts), max(counts))))
            cells = [_shown(scores[name]) if name in scores else "" for name in measures]
            lines.append([stage, photos, objects, *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _shown(value: Score) -> str:
    digits = 2 if abs(value["mean"]) >= 10 else 3
    error = "" if value["stderr"] is None else f" ± {value['stderr']:.{digits}f}"
    return f"{value['mean']:.{digits}f}{error}"


def _markdown(content: Mapping[str, Any]) -> str:
    """The text of report.md, from what report.json holds."""
    about = ", ".join(f"{name} {content[name]}" for name in ("model", "data", "split") if name in content)
    size = f"{len(content['evaluated'])} objects, {content['settings']['views']} views each"
    results = content["results"]
    lines = [
        "# Evaluation",
        "",
        f"{size}, seed {content['settings']['seed']}{'; ' if about else ''}{about}.",
        f"Model {content['model_id']}. Mean ± standard error over objects; an object's is the mean of its views.",
        f"Global similarity: {content['similarity_alignment']}.",
        "`white` is all white, `nearest` the photo nearest in angle with its true mask. The other stages' silhouettes "
        "end at half of their greatest difference from white, `field`'s is its opacity.",
        "",
    ]
    by_way = {way: [name for name in measures_of(results) if split_measure(name)[1] == way] for way in WAYS}
    for way, names in by_way.items():
        if names:
            lines += [f"## {WAYS[way].capitalize()}", "", markdown_table(results, names)]
    for group, found in content["results_by_group"].items():
        facts = content["groups"][group]
        lines += [f"## Apart: {facts['title']}", "", f"{len(facts['evaluated'])} objects, raw.", ""]
        lines += [markdown_table(found, by_way[""])]
    sections = {"skipped": "Skipped", "left_out_by_the_data_set": "Left out by the data set", "notes": "Notes"}
    for name, title in sections.items():
        if entries := [entry if name == "notes" else ": ".join(entry) for entry in content[name]]:
            lines += [f"## {title} ({len(entries)})", "", *(f"- {entry}" for entry in entries), ""]
    return "\n".join([*lines, "![photos, truth and stages](sheet.png)", ""])
