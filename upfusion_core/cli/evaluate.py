"""`upfusion evaluate`: a model measured on a data set, with tables, plots and pictures in a report's folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..support.errors import InputError
from . import options
from .console import duration, progress, say
from .options import PROCEDURAL, is_whole, one_of
from .settings import DEFAULT_MODEL, DEFAULT_MODEL_NOTE, PRESETS, absolute_model, checked_stored

if TYPE_CHECKING:
    from torch import Tensor

    from ..config import EvaluationConfig
    from ..data.examples import MultiViewDataset
    from ..evaluation.protocol import Group
    from .run import Run

SPLITS = ("test", "validation", "held_out")
DEFAULTS: dict[str, Any] = {
    "photos": "1,3,6", "objects": 100, "views": 4, "stages": "white,nearest,predict,sample,field", "seed": 0,
    "steps": 50, "scheduler": "ddim", "alignment": "object", "dtype": "auto", "batch_size": 4, "preset": "fast",
}  # fmt: skip
STORED: dict[str, Any] = {
    "model": str, "data": str, "split": str | None, "photos": list[int], "objects": int, "held_out": int | None,
    "views": int, "stages": list[str], "seed": int, "steps": int, "guidance": float, "scheduler": str,
    "alignment": str, "dtype": str, "batch_size": int, "lpips": str | None, "preset": str, "perceptual": str | None,
}  # fmt: skip
"""The settings of a run, as its record holds them."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What the command line says; None where it is silent."""

    model: str | None
    data: str | None
    split: str | None
    photos: str | None
    objects: int | None
    held_out: int | None
    views: int | None
    stages: str | None
    seed: int | None
    steps: int | None
    guidance: float | None
    scheduler: str | None
    alignment: str | None
    dtype: str | None
    batch_size: int | None
    lpips: str | None
    preset: str | None
    perceptual: str | None


def evaluate(
    output: options.Output,
    model: options.Model = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="procedural|DATA",
            help="What to evaluate on: a folder as in train, or shards of `upfusion pack`.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[str | None, one_of(*SPLITS, help="Of the procedural objects.", show_default="test")] = None,
    photos: Annotated[str | None, typer.Option(help="Numbers of photos, 1 to 6.", show_default="1,3,6")] = None,
    objects: Annotated[int | None, typer.Option(help="How many objects.", min=1, show_default="100")] = None,
    held_out: Annotated[
        int | None,
        typer.Option(
            help="Further procedural objects, half with parts and half with a pattern that were never trained on, "
            "reported apart.",
            min=0,
            show_default="a fifth of --objects",
        ),
    ] = None,
    views: Annotated[int | None, typer.Option(help="Target views an object.", min=1, max=32, show_default="4")] = None,
    stages: Annotated[
        str | None, typer.Option(help="Which of white,nearest,predict,sample,field.", show_default="all")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Start of all random numbers.", min=0, max=2**32 - 1, show_default="0")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps of a sampled view.", min=1, max=1000, show_default="50")
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            help="Guidance scale.", min=0, max=1000, callback=options.finite, show_default="the weights', else 9"
        ),
    ] = None,
    scheduler: Annotated[str | None, typer.Option(help=options.SCHEDULER_HELP, show_default="ddim")] = None,
    preset: Annotated[str | None, one_of(*PRESETS, help="How fields are distilled.", show_default="fast")] = None,
    perceptual: Annotated[
        str | None,
        one_of("dino", "none", help="Perceptual term of the distillation.", show_default="the preset's"),
    ] = None,
    alignment: Annotated[
        str | None,
        one_of("object", "picture", help="Global similarity: in 3D where possible, or in 2D.", show_default="object"),
    ] = None,
    device: options.Device = "auto",
    dtype: Annotated[
        str | None,
        one_of("auto", "float32", "float16", "bfloat16", help="Precision of the networks.", show_default="auto"),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Views that are sampled at once.", min=1, show_default="4")
    ] = None,
    lpips: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also measure LPIPS with your weights: a saved lpips.LPIPS(net='vgg'), or torchvision's VGG-16 with "
            "the heads (vgg.pth) beside it.",
            show_default=False,
        ),
    ] = None,
    resume: options.Resume = False,
    force: options.Force = False,
) -> None:
    """Measures a model beside baselines on objects with known views: report.json, report.md, plots, a picture sheet."""
    told = EvaluateOptions(
        model=model, data=data, split=split, photos=photos, objects=objects, views=views, stages=stages, seed=seed,
        steps=steps, guidance=guidance, scheduler=scheduler, alignment=alignment, dtype=dtype, batch_size=batch_size,
        held_out=held_out, lpips=None if lpips is None else str(lpips.absolute()), preset=preset, perceptual=perceptual,
    )  # fmt: skip
    from .run import open_run

    with open_run(output, "evaluate", resume=resume, force=force) as run:
        _evaluate_in(run, told, device)


def evaluation_config(settings: dict[str, Any]) -> EvaluationConfig:
    """The protocol's settings of the command's."""
    from ..config import DistillConfig, EvaluationConfig
    from ..pipeline.sampling import make_scheduler

    make_scheduler(settings["scheduler"], settings["steps"])  # refuses names that mean nothing
    distill = {"guidance": settings["guidance"], "batch_size": settings["batch_size"]}
    if settings["perceptual"] is not None:
        distill["perceptual"] = settings["perceptual"]
    names = ("views", "seed", "steps", "guidance", "scheduler", "alignment", "batch_size")
    return EvaluationConfig(
        photos=tuple(settings["photos"]),
        stages=tuple(settings["stages"]),
        distill=DistillConfig.named(settings["preset"], **distill),
        **{name: settings[name] for name in names},
    )


def _evaluate_in(run: Run, told: EvaluateOptions, device: str) -> None:
    settings = evaluation_settings(told, run.stored.settings if run.stored else {})
    if settings["guidance"] is None:
        from ..models.checkpoint import recommended_guidance

        settings["guidance"] = recommended_guidance(settings["model"])
    run.plan(settings, {}, {})
    if run.already_finished:
        run.begin()
        return
    import torch

    from ..evaluation.report import evaluate as evaluate_objects
    from ..models.perceptual import load_lpips
    from ..pipeline.upfusion import UpFusion
    from ..support.devices import resolve_device
    from .run import package_versions

    config = evaluation_config(settings)
    if told.model is None and not run.resumed:
        say(DEFAULT_MODEL_NOTE)
    dtype = None if settings["dtype"] == "auto" else getattr(torch, settings["dtype"])
    model = UpFusion.load(settings["model"], device=resolve_device(device), dtype=dtype)
    dataset = _dataset(settings, model.image_size)
    indices = _indices(settings, len(dataset))
    groups = _groups(settings, dataset, len(indices))
    lpips = None if settings["lpips"] is None else load_lpips(settings["lpips"], model.device)
    inputs = {} if lpips is None else {"lpips": lpips.weights_id()}
    run.plan(settings, {}, inputs)
    run.begin()
    run.check_model(model.model_id)
    run.note(device=f"{model.device}, {str(model.dtype).removeprefix('torch.')}")
    about = {name: settings[name] for name in ("model", "data", "split", "objects", "dtype") if settings[name]}
    about |= {"lpips": inputs["lpips"]} if lpips is not None else {}
    with run.stage("evaluate"), progress(f"Evaluating {len(indices)} objects") as advance:

        def on_step(step: int, total: int, preview: Callable[[], Tensor] | None) -> None:
            advance(step / total)

        report = evaluate_objects(
            model, dataset, indices, run.folder, config, groups=groups, lpips=lpips,
            about=about | {"versions": package_versions()}, writing=run.writing,
            temporary=run.temporary, on_step=on_step,
        )  # fmt: skip
    for name, reason in report.skipped:
        say(f"Skipped {name}: {reason}")
    apart = sum(len(group.indices) for group in groups if group.dataset is not dataset)
    run.tell(
        f"{run.folder / 'report.md'}: {len(report.objects)} objects, {len(report.skipped)} skipped"
        + (f", {apart} held out reported apart" if apart else "")
        + f" ({duration(run.seconds)})"
    )


def evaluation_settings(told: EvaluateOptions, stored: dict[str, Any]) -> dict[str, Any]:
    """What shapes the result, as JSON: of the command line, where that is silent of the run that is continued."""
    stored = checked_stored(stored, STORED)
    settings: dict[str, Any] = {}
    for field in fields(told):
        value: Any = getattr(told, field.name)
        if value is None and stored:
            settings[field.name] = stored[field.name]
            continue
        value = DEFAULTS.get(field.name) if value is None else value
        if field.name in ("photos", "stages"):
            value = _list(field.name, value)
        elif field.name == "model":
            value = absolute_model(value or DEFAULT_MODEL)
        elif field.name == "data" and value not in (None, PROCEDURAL) and os.path.exists(value):
            value = str(Path(value).absolute())
        settings[field.name] = value
    if settings["data"] is None:
        raise InputError("--data is needed, got none; give procedural, or the folder of a data set")
    if settings["data"] == PROCEDURAL:
        settings["split"] = settings["split"] or "test"
    elif settings["split"] is not None:
        raise InputError(f"--split is of procedural objects, got {settings['split']} with a folder; leave it out")
    if settings["split"] in (None, "held_out"):
        if settings["held_out"]:
            raise InputError("--held-out is beside the splits test and validation of procedural objects; leave it out")
    elif settings["held_out"] is None and not stored:
        settings["held_out"] = settings["objects"] // 10 * 2
    return settings


def _list(name: str, text: str) -> list[Any]:
    """Example: "1,3,6" -> [1, 3, 6]; stages stay words."""
    parts = [part.strip() for part in text.split(",")]
    if name == "stages":
        return parts
    if not all(map(is_whole, parts)):
        raise InputError(f"--photos must be whole numbers with commas between, such as 1,3,6, got {text:.60}")
    return sorted(int(part) for part in parts)


def _dataset(settings: dict[str, Any], size: int) -> MultiViewDataset:
    from ..data.formats import open_dataset
    from ..procedural import ProceduralObjects

    if settings["data"] == PROCEDURAL:
        return ProceduralObjects(settings["split"], size=size)
    return open_dataset(settings["data"], size=size)


def _groups(settings: dict[str, Any], dataset: MultiViewDataset, objects: int) -> list[Group]:
    """What is reported apart: objects that training has never shown the like of."""
    from ..evaluation.protocol import held_out_groups
    from ..procedural import ProceduralObjects

    if settings["split"] == "held_out":
        assert isinstance(dataset, ProceduralObjects), "the split is of them"
        return held_out_groups(dataset, objects)
    if not settings["held_out"]:
        return []
    assert isinstance(dataset, ProceduralObjects), "only they have objects held out"
    return held_out_groups(ProceduralObjects("held_out", size=dataset.size), settings["held_out"])


def _indices(settings: dict[str, Any], available: int) -> list[int]:
    """The first objects of a split, which are in no order; of a folder, which is sorted, some spread evenly."""
    wanted = settings["objects"]
    if wanted > available:
        raise InputError(f"{settings['data']} holds {available} objects, got --objects {wanted}; ask for fewer")
    if settings["data"] == PROCEDURAL:
        return list(range(wanted))
    return [place * available // wanted for place in range(wanted)]
