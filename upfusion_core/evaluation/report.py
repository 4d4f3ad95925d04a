"""Objects one by one into a folder, and what it says in the end: report.json, report.md, plots, a picture sheet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import interpolate, pad

from ..config import EvaluationConfig, to_dict
from ..data.views import MultiViewDataset
from ..models.perceptual import PerceptualDistance
from ..support.errors import FieldError, InputError
from ..support.files import Writing, read_json, replacing, write_json
from ..support.images import contact_sheet, load_png, save_png
from ..types import OnStep
from .metrics import MEASURES
from .protocol import Group, Values, draw_object, evaluate_object
from .summary import (
    WAYS,
    Results,
    Score,
    markdown_table,
    measures_of,
    object_mean,
    paired_difference,
    plot_results,
    require_matplotlib,
    results_to_json,
    score,
    split_measure,
)

if TYPE_CHECKING:
    from ..pipeline.upfusion import UpFusion

TITLES = {"nearest": "nearest photo", "predict": "prediction", "sample": "2D sample", "field": "3D field"}
"""Columns of the picture sheet by stage."""

LEAST_SIDE = 96
"""Pictures smaller than this are shown enlarged, so that the titles fit."""

SHEET_OBJECTS = 12
"""Rows of the picture sheet: the first objects that could be evaluated, whatever they look like."""

ALIGNMENTS = {
    "object": "one 3D similarity of the object's frame for `predict` and `field` (quick search), one shared 2D "
    "similarity of the pictures for the other stages",
    "picture": "one shared 2D similarity of the pictures for all stages; meshes have their own 3D similarity",
}


@dataclass(frozen=True, eq=False)
class Report:
    """What an evaluation found.

    results: results[stage][photos][measure]. objects: names of those evaluated.
    skipped: (object, reason) of the others. results_by_group: the same of each group, by its name.
    """

    results: Results
    objects: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    results_by_group: dict[str, Results]


def evaluate(
    model: UpFusion,
    dataset: MultiViewDataset,
    indices: Sequence[int],
    folder: Path,
    config: EvaluationConfig | None = None,
    *,
    groups: Sequence[Group] = (),
    lpips: PerceptualDistance | None = None,
    about: dict[str, Any] | None = None,
    writing: Writing | None = None,
    temporary: Callable[[str], Path] | None = None,
    on_step: OnStep | None = None,
) -> Report:
    """Evaluates objects of a data set and writes the report into a folder.

    Each object's values are in objects/<number>.json as soon as they are known. Those that the folder holds already,
    from the same settings, are not computed again, and a field goes on from its saved state.

    Args:
        indices: the objects' numbers in the data set.
        groups: objects that are reported apart, of this data set or of others (see Group).
        lpips: gives the measure "lpips" too; `about` should then tell whose weights it has.
        about: what else shapes the result or is worth knowing, such as the data's name: it stands in the report.
        writing: how files of the folder get their names; by default they are renamed into the folder.
        temporary: gives the paths of files that are only needed until the end, the fields' states.
        on_step: called with (step, total, preview), `total` counting stages of numbers of photos of objects.

    Raises:
        MissingPackageError: matplotlib is not installed. InputError: no object could be evaluated.
    """
    require_matplotlib()
    config = config or EvaluationConfig()
    if not len(indices):
        raise InputError("expected at least one object to evaluate, got none; ask for some")
    settings = {**(about or {}), "model_id": model.model_id, "settings": to_dict(config)}
    fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    writing = writing or (lambda name: replacing(folder / name))
    evaluation = _Evaluation(model, config, folder, fingerprint, writing, temporary or folder.joinpath, lpips)
    chosen = [_Task(dataset, index) for index in indices]
    prefixes = {group: "" if group.dataset is dataset else f"{group.name}-" for group in groups}
    members = {group: [_Task(group.dataset, index, of) for index in group.indices] for group, of in prefixes.items()}
    tasks = [*chosen, *(task for found in members.values() for task in found if task.prefix)]
    records, skipped = evaluation.records(tasks, on_step)
    apart = {group: [records[task.name] for task in found if task.name in records] for group, found in members.items()}
    main = [records[task.name] for task in chosen if task.name in records]
    if not main:
        raise InputError(
            f"none of {len(indices)} objects could be evaluated, {skipped[0][0]} because {skipped[0][1]}; "
            "correct that, then begin again"
        )
    settings["groups"] = {
        group.name: {"title": group.title, "evaluated": [record["object"] for record in found]}
        for group, found in apart.items()
    }
    settings["left_out_by_the_data_set"] = [list(entry) for entry in dataset.skipped]
    notes = [f"{record['object']}: {note}" for record in records.values() for note in record["notes"]]
    return evaluation.report(settings, main, apart, skipped, notes)


@dataclass(frozen=True)
class _Task:
    """One object to be evaluated. prefix: of its files' names, those of the main data set's being numbers alone."""

    dataset: MultiViewDataset
    index: int
    prefix: str = ""

    @property
    def name(self) -> str:
        return f"{self.prefix}{self.index:06d}"


@dataclass(frozen=True, eq=False)
class _Evaluation:
    """What all objects of an evaluation share; see `evaluate`."""

    model: UpFusion
    config: EvaluationConfig
    folder: Path
    fingerprint: str
    writing: Writing
    temporary: Callable[[str], Path]
    lpips: PerceptualDistance | None

    def records(
        self, tasks: Sequence[_Task], on_step: OnStep | None
    ) -> tuple[dict[str, dict[str, Any]], list[tuple[str, str]]]:
        """The records of the objects that could be evaluated, by their tasks' names, and (object, reason) of others."""
        found: dict[str, dict[str, Any]] = {}
        skipped: list[tuple[str, str]] = []
        each = len(self.config.photos) * len(self.config.stages)
        for place, task in enumerate(tasks):

            def tell(step: int, total: int, preview: Callable[[], Tensor] | None, before: int = place * each) -> None:
                if on_step is not None:
                    on_step(before + step, each * len(tasks), preview)

            record = self._stored(task)
            if record is None:
                record = self._evaluated(task, skipped, None if on_step is None else tell)
                for left in (self.folder / "objects").glob(f"{task.name}-*.state"):
                    left.unlink()
            if record is not None:
                found[task.name] = record
            tell(each, each, None)
        return found, skipped

    def _stored(self, task: _Task) -> dict[str, Any] | None:
        """The record of an object that is finished; None where there is none, or one of other settings."""
        path = self.folder / "objects" / f"{task.name}.json"
        try:
            record = read_json(path)
            load_png(path.with_suffix(".png"))
        except InputError:
            return None
        fits = isinstance(record, dict) and record.get("run") == self.fingerprint and record.get("index") == task.index
        return record if fits else None

    def _evaluated(self, task: _Task, skipped: list[tuple[str, str]], on_step: OnStep | None) -> dict[str, Any] | None:
        """The record of an object that is not finished yet, written; or None and a new entry in `skipped`."""
        name, known = f"object {task.index}", len(task.dataset.skipped)

        def state(count: int) -> Path:
            return self.temporary(f"objects/{task.name}-{self.fingerprint}-{count}.state")

        try:
            item = draw_object(task.dataset, task.index, self.config)
            name = item.views.name
            result = evaluate_object(self.model, item, self.config, on_step, lpips=self.lpips, state=state)
        except (InputError, FieldError) as error:
            skipped.append((task.dataset.skipped[-1][0] if len(task.dataset.skipped) > known else name, str(error)))
            return None
        record = {
            "object": name,
            "index": item.index,
            "run": self.fingerprint,
            "photos": list(item.photos),
            "targets": list(item.targets),
            "reference_elevation_degrees": item.elevation_degrees,
            "values": result.values,
            "notes": result.notes,
        }
        # the photos, the truth of the first target and what each stage made of it, small ones enlarged, framed in grey
        photos, shown = item.views.rgb[list(item.photos)], (views[:1] for views in result.shown.values())
        row = torch.cat([photos, item.truth[:1], *shown]).float().cpu().clamp(0, 1)
        row = interpolate(row, scale_factor=-(-LEAST_SIDE // row.shape[-1]), mode="nearest")
        with self.writing(f"objects/{task.name}.png") as path:
            save_png(path, contact_sheet(pad(row, (1, 1, 1, 1), value=0.8), columns=len(row)))
        with self.writing(f"objects/{task.name}.json") as path:  # with this it is finished
            write_json(path, record)
        return record

    def report(
        self,
        settings: dict[str, Any],
        main: Sequence[dict[str, Any]],
        apart: Mapping[Group, Sequence[dict[str, Any]]],
        skipped: Sequence[tuple[str, str]],
        notes: Sequence[str],
    ) -> Report:
        """Writes the report's files. main: records of the data set's objects; apart: of the groups' objects."""
        config = self.config
        by_group = {group.name: _results(records, config) for group, records in apart.items() if records}
        names = tuple(record["object"] for record in main)
        report = Report(_results(main, config), names, tuple(skipped), by_group)
        content = {
            **settings,
            "similarity_alignment": ALIGNMENTS[config.alignment],
            "evaluated": list(names),
            "skipped": [list(entry) for entry in skipped],
            "notes": list(notes),
            "results": results_to_json(report.results),
            "results_by_group": {name: results_to_json(scores) for name, scores in by_group.items()},
            "gains": _gains(main, config),
        }
        rows = [load_png(self.folder / "objects" / f"{record['index']:06d}.png") for record in main[:SHEET_OBJECTS]]
        with self.writing("sheet.png") as path:
            save_png(path, titled(rows, max(config.photos), [stage for stage in config.stages if stage != "white"]))
        plot_results(report.results, self.writing)
        with self.writing("report.md") as path:
            # names of files may be no UTF-8; write_json spells them so, too
            path.write_text(_markdown(report, content, config), encoding="utf-8", errors="backslashreplace")
        with self.writing("report.json") as path:
            write_json(path, content)
        return report


def titled(rows: Sequence[Tensor], photos: int, stages: Sequence[str]) -> Tensor:
    """Rows of pictures, one (3, S', W) an object -> one (3, H, W) sheet with the columns' titles above."""
    body = torch.cat(list(rows), dim=1)
    columns = [f"photo {number}" for number in range(1, photos + 1)]
    columns += ["truth", *(TITLES.get(stage, stage) for stage in stages)]
    width = body.shape[-1]
    head = Image.new("RGB", (width, 14), "white")
    draw = ImageDraw.Draw(head)
    for place, title in enumerate(columns):
        draw.text((place * width / len(columns) + 2, 1), title, fill="black")
    return torch.cat([torch.from_numpy(np.array(head)).permute(2, 0, 1).float() / 255, body], dim=1)


def _object_values(rows: Sequence[Values], stage: str, photos: int, measure: str) -> list[float]:
    """Each object's mean over its views, of the objects that have the measure."""
    found = (row.get(stage, {}).get(str(photos), {}).get(measure) for row in rows)
    return [object_mean(numbers) for numbers in found if numbers is not None]


def _results(finished: Sequence[dict[str, Any]], config: EvaluationConfig) -> Results:
    """Per view, then per object: scores of every measure that at least one object has."""
    rows: list[Values] = [record["values"] for record in finished]
    results: dict[str, dict[int, dict[str, Score]]] = {}
    for stage in config.stages:
        results[stage] = {}
        for photos in sorted(config.photos):
            names = dict.fromkeys(name for row in rows for name in row[stage][str(photos)])
            results[stage][photos] = {name: score(_object_values(rows, stage, photos, name)) for name in names}
    return results


def _gains(finished: Sequence[dict[str, Any]], config: EvaluationConfig) -> dict[str, Any]:
    """What more photos bring, object by object: gains[stage]["1 to 3"][measure]."""
    gains: dict[str, Any] = {}
    for stage in config.stages:
        gains[stage] = {}
        for fewer, more in pairwise(sorted(config.photos)):
            row = {}
            for name in MEASURES:
                pairs = [
                    [_object_values([record["values"]], stage, photos, name) for photos in (fewer, more)]
                    for record in finished
                ]
                both = [(first[0], second[0]) for first, second in pairs if first and second]
                if both:
                    row[name] = vars(paired_difference(*zip(*both, strict=True)))
            gains[stage][f"{fewer} to {more}"] = row
    return gains


def _markdown(report: Report, content: dict[str, Any], config: EvaluationConfig) -> str:
    about = ", ".join(f"{name} {content[name]}" for name in ("model", "data", "split") if name in content)
    lines = [
        "# Evaluation",
        "",
        f"{len(report.objects)} objects, {config.views} views each, seed {config.seed}"
        + (f"; {about}." if about else "."),
        f"Model {content['model_id']}. Mean ± standard error over objects; an object's is the mean of its views.",
        f"Global similarity: {content['similarity_alignment']}.",
        "`white` is all white, `nearest` the photo nearest in angle with its true mask. The other stages' silhouettes "
        "end at half of their greatest difference from white, `field`'s is its opacity.",
        "",
    ]
    present = measures_of(report.results)
    for title, chosen in (("Raw", None), *((way.capitalize(), suffix) for suffix, way in WAYS.items())):
        names = [name for name in present if split_measure(name)[1] == chosen]
        if names:
            lines += [f"## {title}", "", markdown_table(report.results, names)]
    for name, found in report.results_by_group.items():
        facts = content["groups"][name]
        count = len(facts["evaluated"])
        raw = [name for name in present if split_measure(name)[1] is None]
        lines += [f"## Apart: {facts['title']}", "", f"{count} objects, raw.", "", markdown_table(found, raw)]
    lines += _listed("Skipped", [f"{item}: {reason}" for item, reason in report.skipped])
    lines += _listed(
        "Left out by the data set", [f"{item}: {reason}" for item, reason in content["left_out_by_the_data_set"]]
    )
    lines += _listed("Notes", content["notes"])
    lines += ["![photos, truth and stages](sheet.png)", ""]
    return "\n".join(lines)


def _listed(title: str, entries: Sequence[str]) -> list[str]:
    return [f"## {title} ({len(entries)})", "", *(f"- {entry}" for entry in entries), ""] if entries else []
