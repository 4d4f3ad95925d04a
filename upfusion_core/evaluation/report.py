"""Objects one by one into a folder, and what it says in the end: report.json, report.md, plots, a picture sheet."""

from __future__ import annotations

import shutil
import tempfile
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

from ..config import EvaluationConfig
from ..data.views import MultiViewDataset
from ..models.perceptual import PerceptualDistance
from ..support.checks import check_shape
from ..support.errors import FieldError, InputError
from ..support.files import Writing, replacing, write_json
from ..support.images import load_png, save_png
from ..support.json_text import read_json
from ..types import OnStep
from .metrics import MEASURES
from .protocol import (
    EvaluatedObject,
    Group,
    ObjectResult,
    Values,
    draw_object,
    evaluate_object,
    object_values,
    settings_id,
)
from .summary import (
    WAYS,
    Results,
    Score,
    markdown_table,
    paired_difference,
    plot_results,
    require_matplotlib,
    results_to_json,
    score,
)

TITLES = {
    "nearest": "nearest photo",
    "predict": "prediction",
    "sample": "2D sample",
    "field": "3D field",
}
"""Columns by stage."""

LEAST_SIDE = 96
"""Pictures smaller than this are shown enlarged, so that the titles fit."""

_HEAD = 14


def object_row(photos: Tensor, truth: Tensor, stages: Mapping[str, Tensor]) -> Tensor:
    """(P, 3, S, S) photos, (3, S, S) truth of the first target and (N, 3, S, S) of each stage -> one (3, S', W) row.

    Each picture has a grey frame; small ones are enlarged by a whole number.
    """
    check_shape("photos", photos, ("P", 3, "S", "S"))
    pictures = torch.cat([photos, truth[None], *(views[:1] for views in stages.values())]).float().cpu().clamp(0, 1)
    enlarged = -(-LEAST_SIDE // pictures.shape[-1])
    pictures = interpolate(pictures, scale_factor=enlarged, mode="nearest")
    return pad(pictures, (1, 1, 1, 1), value=0.8).permute(1, 2, 0, 3).flatten(2)


def stacked(rows: Sequence[Tensor], photos: int, stages: Sequence[str]) -> Tensor:
    """Rows of `object_row`, each (3, S', W) -> one (3, H, W) sheet with the columns' titles above."""
    if not rows:
        raise InputError("expected at least one row of pictures, got none; evaluate at least one object")
    body = torch.cat(list(rows), dim=1)
    columns = [f"photo {number}" for number in range(1, photos + 1)]
    columns += ["truth", *(TITLES.get(stage, stage) for stage in stages)]
    width = body.shape[-1]
    head = Image.new("RGB", (width, _HEAD), "white")
    draw = ImageDraw.Draw(head)
    for place, title in enumerate(columns):
        draw.text((place * width / len(columns) + 2, 1), title, fill="black")
    titles = torch.from_numpy(np.array(head)).permute(2, 0, 1).float() / 255
    return torch.cat([titles, body], dim=1)


if TYPE_CHECKING:
    from ..pipeline.upfusion import UpFusion

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
    from the same settings, are not computed again, and the field that was being distilled goes on from its saved
    state, so a run that was killed goes on where it was.

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
    writing = writing or (lambda name: replacing(folder / name))
    temporary = temporary or (lambda name: folder / name)
    settings = {**(about or {}), "model_id": model.model_id, "settings": config.to_dict()}
    fingerprint = settings_id(settings)
    tasks = _tasks(dataset, indices, groups)
    finished: dict[str, dict[str, Any]] = {}
    skipped: list[tuple[str, str]] = []
    each = len(config.photos) * len(config.stages)
    for place, task in enumerate(tasks):
        record = _stored(folder, task, fingerprint, config)
        if record is None:
            hook = _shifted(on_step, place * each, len(tasks))
            found = _evaluated(
                model, task, config, fingerprint, writing=writing, temporary=temporary, on_step=hook, lpips=lpips
            )
            for left in (folder / "objects").glob(f"{task.name}-*.state"):
                left.unlink()
            if isinstance(found, _Skipped):
                skipped.append((found.name, found.reason))
            else:
                record = found
        if record is not None:
            finished[task.name] = record
        if on_step is not None:
            on_step((place + 1) * each, len(tasks) * each, None)
    main = _of(indices, "", finished)
    if not main:
        raise InputError(
            f"none of {len(indices)} objects could be evaluated, {skipped[0][0]} because {skipped[0][1]}; "
            "correct that, then begin again"
        )
    apart = {group: _of(group.indices, _prefix(group, dataset), finished) for group in groups}
    settings["groups"] = {
        group.name: {"title": group.title, "evaluated": [record["object"] for record in records]}
        for group, records in apart.items()
    }
    settings["left_out_by_the_data_set"] = [list(entry) for entry in dataset.skipped]
    report = _report(main, apart, skipped, config)
    _write(report, list(finished.values()), main, settings, config, folder, writing)
    return report


def _report(
    main: Sequence[dict[str, Any]],
    apart: dict[Group, list[dict[str, Any]]],
    skipped: Sequence[tuple[str, str]],
    config: EvaluationConfig,
) -> Report:
    """What the records of the objects, and of those that groups report apart, say."""
    by_group = {group.name: _results(records, config) for group, records in apart.items() if records}
    objects = tuple(record["object"] for record in main)
    return Report(_results(main, config), objects, tuple(skipped), by_group)


@dataclass(frozen=True, eq=False)
class _Task:
    """One object to be evaluated. name: of its files."""

    dataset: MultiViewDataset
    index: int
    name: str


@dataclass(frozen=True)
class _Skipped:
    """An object that could not be evaluated, and why."""

    name: str
    reason: str


def _tasks(dataset: MultiViewDataset, indices: Sequence[int], groups: Sequence[Group]) -> list[_Task]:
    """The objects, then those that groups bring along."""
    tasks = [_Task(dataset, index, f"{index:06d}") for index in indices]
    for group in groups:
        if group.dataset is not dataset:
            prefix = _prefix(group, dataset)
            tasks += [_Task(group.dataset, index, f"{prefix}{index:06d}") for index in group.indices]
    return tasks


def _prefix(group: Group, dataset: MultiViewDataset) -> str:
    """What the names of a group's files begin with; those of the main data set's objects are numbers alone."""
    return "" if group.dataset is dataset else f"{group.name}-"


def _of(indices: Sequence[int], prefix: str, finished: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The records of objects, of those that could be evaluated."""
    names = [f"{prefix}{index:06d}" for index in indices]
    return [finished[name] for name in names if name in finished]


def _evaluated(
    model: UpFusion,
    task: _Task,
    config: EvaluationConfig,
    fingerprint: str,
    *,
    writing: Writing,
    temporary: Callable[[str], Path],
    on_step: OnStep | None,
    lpips: PerceptualDistance | None,
) -> dict[str, Any] | _Skipped:
    """The record of an object that is not finished yet."""
    name, known = f"object {task.index}", len(task.dataset.skipped)
    try:
        item = draw_object(task.dataset, task.index, config)
        name = item.views.name
        result = evaluate_object(
            model,
            item,
            config,
            on_step,
            lpips=lpips,
            state=lambda count: temporary(f"objects/{task.name}-{fingerprint}-{count}.state"),
        )
    except (InputError, FieldError) as error:
        name = task.dataset.skipped[-1][0] if len(task.dataset.skipped) > known else name
        return _Skipped(name, str(error))
    return _saved(item, result, task, fingerprint, writing)


def _saved(
    item: EvaluatedObject, result: ObjectResult, task: _Task, fingerprint: str, writing: Writing
) -> dict[str, Any]:
    """Writes an object's row of pictures, then its values: with these it is finished."""
    record = {
        "object": item.views.name,
        "index": item.index,
        "run": fingerprint,
        "photos": list(item.photos),
        "targets": list(item.targets),
        "reference_elevation_degrees": item.elevation_degrees,
        "values": result.values,
        "notes": result.notes,
    }
    with writing(f"objects/{task.name}.png") as path:
        save_png(path, object_row(item.views.rgb[list(item.photos)], item.truth[0], result.shown))
    with writing(f"objects/{task.name}.json") as path:
        write_json(path, record)
    return record


def _stored(folder: Path, task: _Task, fingerprint: str, config: EvaluationConfig) -> dict[str, Any] | None:
    """The record of an object that is finished; None where there is none, a damaged one, or one of other settings."""
    path = folder / "objects" / f"{task.name}.json"
    try:
        record = read_json(path)
        load_png(path.with_suffix(".png"))
    except InputError:
        return None
    return record if _is_record(record, task, fingerprint, config) else None


def _is_record(record: Any, task: _Task, fingerprint: str, config: EvaluationConfig) -> bool:  # noqa: ANN401 - any JSON
    """Whether it is what `_saved` writes."""
    if not isinstance(record, dict) or record.get("run") != fingerprint or record.get("index") != task.index:
        return False
    notes, values = record.get("notes"), record.get("values")
    if not isinstance(record.get("object"), str) or not isinstance(notes, list) or not isinstance(values, dict):
        return False
    rows = [values.get(stage) for stage in config.stages]
    measured = [row.get(str(count)) for row in rows if isinstance(row, dict) for count in config.photos]
    lists = [found for row in measured if isinstance(row, dict) for found in row.values()]
    return (
        all(isinstance(note, str) for note in notes)
        and len(measured) == len(config.stages) * len(config.photos)
        and all(isinstance(row, dict) for row in measured)
        and all(isinstance(found, list) and all(type(number) in (int, float) for number in found) for found in lists)
    )


def _results(finished: Sequence[dict[str, Any]], config: EvaluationConfig) -> Results:
    """Per view, then per object: scores of every measure that at least one object has."""
    rows: list[Values] = [record["values"] for record in finished]
    results: dict[str, dict[int, dict[str, Score]]] = {}
    for stage in config.stages:
        results[stage] = {}
        for photos in sorted(config.photos):
            names = dict.fromkeys(name for row in rows for name in row[stage][str(photos)])
            results[stage][photos] = {name: score(object_values(rows, stage, photos, name)) for name in names}
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
                    [object_values([record["values"]], stage, photos, name) for photos in (fewer, more)]
                    for record in finished
                ]
                both = [(first[0], second[0]) for first, second in pairs if first and second]
                if both:
                    difference = paired_difference([pair[0] for pair in both], [pair[1] for pair in both])
                    row[name] = vars(difference)
            gains[stage][f"{fewer} to {more}"] = row
    return gains


def _write(
    report: Report,
    finished: Sequence[dict[str, Any]],
    main: Sequence[dict[str, Any]],
    settings: dict[str, Any],
    config: EvaluationConfig,
    folder: Path,
    writing: Writing,
) -> None:
    """Writes the report's files. finished: records of all objects, `main` without those that only groups have."""
    notes = [f"{record['object']}: {note}" for record in finished for note in record["notes"]]
    content = {
        **settings,
        "similarity_alignment": ALIGNMENTS[config.alignment],
        "evaluated": list(report.objects),
        "skipped": [list(entry) for entry in report.skipped],
        "notes": notes,
        "results": results_to_json(report.results),
        "results_by_group": {name: results_to_json(found) for name, found in report.results_by_group.items()},
        "gains": _gains(main, config),
    }
    rows = [load_png(folder / "objects" / f"{record['index']:06d}.png") for record in main[:SHEET_OBJECTS]]
    shown = [stage for stage in config.stages if stage != "white"]
    with writing("sheet.png") as path:
        save_png(path, stacked(rows, max(config.photos), shown))
    with tempfile.TemporaryDirectory() as place:
        for measure, plot in plot_results(report.results, place).items():
            with writing(f"plots/{measure}.png") as path:
                shutil.copyfile(plot, path)
    with writing("report.md") as path:
        # names of files may be no UTF-8; write_json spells them so, too
        path.write_text(_markdown(report, content, config), encoding="utf-8", errors="backslashreplace")
    with writing("report.json") as path:
        write_json(path, content)


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
    present = list(dict.fromkeys(name for rows in report.results.values() for row in rows.values() for name in row))
    for title, chosen in (("Raw", None), *((way.capitalize(), suffix) for suffix, way in WAYS.items())):
        names = [name for name in present if _way(name) == chosen]
        if names:
            lines += [f"## {title}", "", markdown_table(report.results, names)]
    for name, found in report.results_by_group.items():
        facts = content["groups"][name]
        count = len(facts["evaluated"])
        raw = [name for name in present if _way(name) is None]
        lines += [f"## Apart: {facts['title']}", "", f"{count} objects, raw.", "", markdown_table(found, raw)]
    lines += _listed("Skipped", [f"{item}: {reason}" for item, reason in report.skipped])
    lines += _listed(
        "Left out by the data set", [f"{item}: {reason}" for item, reason in content["left_out_by_the_data_set"]]
    )
    lines += _listed("Notes", content["notes"])
    lines += ["![photos, truth and stages](sheet.png)", ""]
    return "\n".join(lines)


def _way(name: str) -> str | None:
    """The ending that tells a measure's alignment; None for raw ones."""
    return next((suffix for suffix in WAYS if name.endswith(f"_{suffix}")), None)


def _listed(title: str, entries: Sequence[str]) -> list[str]:
    return [f"## {title} ({len(entries)})", "", *(f"- {entry}" for entry in entries), ""] if entries else []


def _shifted(on_step: OnStep | None, before: int, objects: int) -> OnStep | None:
    """The hook of one object among many: `before` stages are done."""
    if on_step is None:
        return None
    return lambda step, total, preview: on_step(before + step, total * objects, preview)
