"""`upfusion train`: one stage of training in a run's folder, in stretches as long as there is time."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from ..support.errors import InputError, OutputError
from ..support.files import read_regular
from ..support.json_text import LARGEST_JSON
from . import options
from .console import duration, progress, say
from .options import PROCEDURAL, is_whole, one_of
from .run import RECORD_NAME, read_record
from .settings import checked_stored

if TYPE_CHECKING:
    from torch import Tensor

    from ..config import Stage, TrainConfig
    from ..training.batches import BatchSource
    from .run import Run

PROCEDURAL_POOL = 8192
"""Objects that are drawn at once, in two seconds, and each seen 16 times from other sides before new ones come."""
READERS = 8
"""Threads that read objects of a data set, where there are so many cores."""
PRESETS = ("mini", "released")
STAGE_NAMES = ("encoder", "autoencoder", "diffusion")
STORED: dict[str, Any] = {"config": dict, "data": str, "validation": str | None}
"""The settings of a run, as its record holds them."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What the command line says; None and () where it is silent.

    config: a preset or a JSON file. data, validation: "procedural" or a folder.
    """

    stage: str | None
    config: str | None
    data: str | None
    validation: str | None
    init: tuple[Path, ...]
    steps: int | None
    batch_size: int | None
    seed: int | None
    curriculum: str | None


def train(
    output: options.Output,
    stage: Annotated[
        str | None,
        typer.Argument(metavar=f"[{'|'.join(STAGE_NAMES)}]", help="What to train.", show_default=False),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(metavar="FILE.json|mini|released", help="Sizes and settings of the run.", show_default=False),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="procedural|DATA",
            help="What to train on: procedural objects, a folder of Co3Dv2, "
            "Objaverse renders, GSO, ShapeNet-SRN or meshes, or shards of `upfusion pack`.",
            show_default=False,
        ),
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option(metavar="procedural|DATA", help="For validation.", show_default="the same, other examples"),
    ] = None,
    init: Annotated[
        list[Path] | None,
        typer.Option(metavar="WEIGHTS", help="Start from it: SD 1.5, UpSRT, DINOv2 or our own; repeatable."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="In place of the configuration's.", min=1)] = None,
    batch_size: Annotated[int | None, typer.Option(help="In place of the configuration's.", min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="In place of the configuration's.", min=0, max=2**32 - 1)] = None,
    curriculum: Annotated[
        str | None,
        typer.Option(
            metavar="STEP,STEP",
            help="Procedural objects have one part until the first step, two until the second, then all.",
            show_default="the configuration's",
        ),
    ] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option(help="Stop after so long with a saved model; --resume goes on.", min=0, callback=options.finite),
    ] = None,
    device: Annotated[str, one_of("auto", "cpu", help="auto: what accelerate finds.")] = "auto",
    resume: options.Resume = False,
    force: options.Force = False,
) -> None:
    """Trains a stage of the model; writes model.safetensors, which all commands take, and the state to resume from."""
    _process("LOCAL_RANK")  # accelerate reads it, too
    told = TrainOptions(
        stage=stage, config=config, data=data, validation=validation, init=tuple(init or ()), steps=steps,
        batch_size=batch_size, seed=seed, curriculum=curriculum,
    )  # fmt: skip
    if _process("RANK"):  # another process of `accelerate launch`: the first one keeps the folder
        _train_beside(told, output, device=device, max_minutes=max_minutes, resume=resume)
        return
    from .run import open_run

    with open_run(output, "train", resume=resume, force=force) as run:
        _train_in(run, told, device=device, max_minutes=max_minutes)


def _process(name: str) -> int:
    """The number that `accelerate launch` gives this process in the variable `name`; 0 of the only one."""
    text = os.environ.get(name, "0")
    if not is_whole(text):
        raise InputError(f"the environment variable {name} must be the number of a process, got {text!r:.60}; unset it")
    return int(text)


def _train_in(run: Run, told: TrainOptions, *, device: str, max_minutes: float | None) -> None:
    from ..training.report import STATE_NAME

    settings = _settings(told, run.stored("settings"))
    sources = {"init": [str(path.absolute()) for path in told.init]}
    run.check_same(settings, {})
    if run.resumed and not (run.folder / STATE_NAME).is_file():
        if run.already_finished:
            run.begin_finished(settings, sources, {})
            return
        if STATE_NAME in run.stored("files"):
            raise OutputError(f"{run.folder} holds no {STATE_NAME} to go on from; use --force to begin anew")
        say(f"{run.folder} holds no {STATE_NAME}: nothing was saved before the run stopped, so it begins anew")
        before = checked_stored(run.stored("sources"), {"init": list[str]})
        told = replace(told, init=told.init or tuple(map(Path, before.get("init", ()))))
    for path in told.init:
        if not os.path.exists(path):
            raise InputError(f"--init must be a file or folder of weights, but there is none at {path}")
    config, source, validation = _made(settings, device)
    goes_on = run.resumed and (run.folder / STATE_NAME).is_file()
    if run.previous is not None and not run.resumed:  # --force: what is wrong is said while the old run is there
        from ..training.initial import initial_networks
        from ..training.loop import frozen_parts

        initial_networks(config.model, told.init, seed=config.seed, required=frozen_parts(config))
    run.begin(settings, sources, {}, _written_names())
    try:
        with run.stage("train"), progress(f"Training the {config.stage}") as advance:
            result = _call(
                run.folder, config, source, validation,
                init=told.init, advance=advance, device=device, max_minutes=max_minutes, resume=goes_on,
            )  # fmt: skip
    finally:
        _record_files(run)
    run.note("step", result.step)
    if result.finished:
        run.retire(STATE_NAME)
    left = "" if result.finished else f" of {config.steps}; --resume goes on"
    run.tell(f"{result.model}: {result.step} steps{left} ({duration(result.elapsed)})")


def _train_beside(told: TrainOptions, folder: Path, *, device: str, max_minutes: float | None, resume: bool) -> None:
    from ..training.report import STATE_NAME

    path = folder / RECORD_NAME
    record = read_record(path) if resume else None
    if resume and record is None:
        raise OutputError(f"{path} must be a record of a run, but cannot be read; use --force to begin anew")
    config, source, validation = _made(_settings(told, record["settings"] if record else {}), device)
    goes_on = resume and (folder / STATE_NAME).is_file()
    _call(
        folder, config, source, validation,
        init=told.init, advance=lambda done: None, device=device, max_minutes=max_minutes, resume=goes_on,
    )  # fmt: skip


def _call(
    folder: Path,
    config: TrainConfig,
    source: BatchSource,
    validation: BatchSource,
    *,
    init: tuple[Path, ...],
    advance: Callable[[float], None],
    device: str,
    max_minutes: float | None,
    resume: bool,
) -> Any:  # noqa: ANN401 - TrainResult, whose module needs torch
    from ..training.loop import train as train_stage

    def on_step(step: int, total: int, preview: Callable[[], Tensor] | None) -> None:
        advance(step / total)

    return train_stage(
        config,
        source,
        validation,
        folder,
        init=init,
        resume=resume,
        max_minutes=max_minutes,
        device=device,
        on_step=on_step,
    )


def _settings(told: TrainOptions, stored: dict[str, Any]) -> dict[str, Any]:
    """What shapes the result, as JSON: of the command line, and where that is silent, of the run that is continued."""
    stored = checked_stored(stored, STORED)
    data = _data_name(told.data) or stored.get("data")
    if data is None:
        raise InputError("--data is needed, got none; give procedural, or the folder of a data set")
    validation = _data_name(told.validation) or stored.get("validation")
    changes: dict[str, Any] = {"steps": told.steps, "batch_size": told.batch_size, "seed": told.seed}
    changes["curriculum"] = None if told.curriculum is None else _curriculum(told.curriculum)
    if told.config is None and stored:
        from ..config import TrainConfig

        config = TrainConfig.from_dict(stored["config"], "run.json")
    else:
        config = _config(told.config, told.stage)
    if told.stage not in (None, config.stage):
        raise InputError(f"the stage must be that of the configuration, {config.stage}, got {told.stage}; correct one")
    config = replace(config, **{name: value for name, value in changes.items() if value is not None})
    if any(config.curriculum) and data != PROCEDURAL:
        raise InputError(f"a curriculum is of procedural objects, got one with {data}; leave it out")
    return {"config": json.loads(json.dumps(config.to_dict())), "data": data, "validation": validation}


def _curriculum(text: str) -> tuple[int, int]:
    """Example: "2000,10000" -> (2000, 10000)."""
    steps = [part.strip() for part in text.split(",")]
    if len(steps) != 2 or not all(map(is_whole, steps)):
        raise InputError(f"--curriculum must be two steps with a comma between, such as 2000,10000, got {text:.60}")
    return int(steps[0]), int(steps[1])


def _data_name(name: str | None) -> str | None:
    return name if name in (None, PROCEDURAL) else str(Path(name).absolute())


def _config(name: str | None, stage: str | None) -> TrainConfig:
    from ..config import TrainConfig

    if name is None:
        raise InputError(f"--config is needed, got none; give {' or '.join(PRESETS)}, or a JSON file")
    if name not in PRESETS:
        path = Path(name)
        try:
            return TrainConfig.from_json(read_regular(path, LARGEST_JSON).decode("utf-8-sig"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--config must be {', '.join(PRESETS)} or a JSON file, got {name} ({error})") from error
    if stage not in STAGE_NAMES:
        raise InputError(f"the stage must be one of {', '.join(STAGE_NAMES)}, got {stage}; name it before the options")
    return TrainConfig.preset(cast(Literal["mini", "released"], name), cast("Stage", stage))


def _made(settings: dict[str, Any], device: str) -> tuple[TrainConfig, BatchSource, BatchSource]:
    from ..config import TrainConfig

    config = TrainConfig.from_dict(settings["config"], "the settings")
    validation = settings["validation"] or settings["data"]
    return config, _source(settings["data"], config, device), _source(validation, config, device, held_out=True)


def _source(data: str, config: TrainConfig, device: str, *, held_out: bool = False) -> BatchSource:
    """Batches of procedural objects or of a folder; those that are held out come from another split or seed."""
    import torch

    from ..data.formats import open_dataset
    from ..procedural import ProceduralObjects
    from ..training.batches import DatasetBatches, ProceduralBatches

    common: dict[str, Any] = {
        "batch_size": config.batch_size,
        "photos": config.photos,
        "targets": config.targets,
        "image_size": config.model.image_size,
        "seed": config.seed + held_out,
    }
    if data != PROCEDURAL:
        dataset = open_dataset(data, size=config.model.image_size)
        return DatasetBatches(dataset, **common, workers=min(READERS, os.cpu_count() or 1))
    place = "cuda" if device == "auto" and torch.cuda.is_available() else "cpu"
    if place == "cuda" and "LOCAL_RANK" in os.environ:
        place = f"cuda:{_process('LOCAL_RANK')}"
    pool = 0 if held_out else PROCEDURAL_POOL
    objects = ProceduralObjects("validation" if held_out else "train")
    curriculum = (0, 0) if held_out else config.curriculum
    return ProceduralBatches(objects, **common, device=place, pool=pool, curriculum=curriculum)


def _record_files(run: Run) -> None:
    """Enters what the training has written into the record, so that --force removes it and a stop keeps it."""
    for name in _written_names():
        if (run.folder / name).is_file():
            run.keep(name)


def _written_names() -> tuple[str, ...]:
    """The files that training writes."""
    from ..training.loop import MODEL_NAME
    from ..training.report import CURVES_NAME, HISTORY_NAME, SHEET_NAME, STATE_NAME

    return MODEL_NAME, STATE_NAME, HISTORY_NAME, SHEET_NAME, CURVES_NAME
