"""`upfusion train`: one stage of training in a run's folder, in stretches as long as there is time."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import STAGES, TRAIN_PRESETS, TrainConfig, options_of
from ..config.options import PROCEDURAL, Train
from ..support.errors import InputError, OutputError
from ..support.files import LARGEST_JSON, parse_json, read_regular
from .console import duration, progress, say
from .datasets import asks_for_procedural, open_objects
from .run import RECORD_NAME, Run, open_run, read_record

if TYPE_CHECKING:
    from ..training.batches import BatchSource
    from ..training.loop import TrainResult

PROCEDURAL_POOL = 8192
"""Objects that are drawn at once, in two seconds, and each seen 16 times from other sides before new ones come."""
READERS = 8  # threads that read objects of a data set, where there are so many cores


def run_train(command: Train, given: frozenset[str]) -> None:
    """A stage of training, or, in another process of `accelerate launch`, its part of the work."""
    folder = command.folder
    _process("LOCAL_RANK")  # accelerate reads it, too
    if not _process("RANK"):
        with open_run(folder.output, "train", resume=folder.resume, force=folder.force) as run:
            _train_in(run, command)
        return
    from ..training.report import STATE_NAME  # the first process keeps the folder

    stored = read_record(folder.output / RECORD_NAME).settings if folder.resume else {}
    goes_on = folder.resume and (folder.output / STATE_NAME).is_file()
    _prepared(command, _settings(command, stored), goes_on)()


def _process(name: str) -> int:
    """The number that `accelerate launch` gives this process in the variable `name`; 0 of the only one."""
    text = os.environ.get(name, "0")
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise InputError(f"the environment variable {name} must be the number of a process, got {text!r:.60}; unset it")
    return int(text)


def _train_in(run: Run, command: Train) -> None:
    from ..training.initial import initial_networks
    from ..training.loop import MODEL_NAME, frozen_parts
    from ..training.report import CURVES_NAME, HISTORY_NAME, SHEET_NAME, STATE_NAME

    names = (MODEL_NAME, STATE_NAME, HISTORY_NAME, SHEET_NAME, CURVES_NAME)
    settings = _settings(command, run.stored.settings if run.stored else {})
    run.plan(settings, {"init": [str(path.absolute()) for path in command.init]}, {})
    goes_on = run.resumed and (run.folder / STATE_NAME).is_file()
    if run.resumed and not goes_on:
        if run.already_finished:
            run.begin()
            return
        if STATE_NAME in run.record.files:
            raise OutputError(f"{run.folder} holds no {STATE_NAME} to go on from; use --force to begin anew")
        say(f"{run.folder} holds no {STATE_NAME}: nothing was saved before the run stopped, so it begins anew")
        command = replace(command, init=command.init or tuple(map(Path, run.record.sources["init"])))
    for path in command.init:
        if not os.path.exists(path):
            raise InputError(f"--init must be a file or folder of weights, but there is none at {path}")
    config, train = TrainConfig.from_dict(settings["config"], "run.json"), _prepared(command, settings, goes_on)
    if run.replaced is not None:  # what is wrong is said while the old run is there
        initial_networks(config.model, command.init, seed=config.seed, required=frozen_parts(config))
    run.begin(names)
    try:
        with run.stage("train"), progress(f"Training the {config.stage}") as on_step:
            result = train(on_step=on_step)
    finally:
        for name in names:  # on record, so that --force removes it and a stop keeps it
            if (run.folder / name).is_file():
                run.keep(name)
    run.note(step=result.step)
    if result.finished:
        run.temporary(STATE_NAME)
    left = "" if result.finished else f" of {config.steps}; --resume goes on"
    run.tell(f"{result.model}: {result.step} steps{left} ({duration(result.elapsed)})")


def _settings(command: Train, stored: dict[str, Any]) -> dict[str, Any]:
    """What shapes the result, as JSON: of the command line, and where that is silent, of the run that is continued."""
    names = {name: options_of(Train)[name].written(getattr(command, name)) for name in ("data", "validation")}
    names = {name: value or stored.get(name) for name, value in names.items()}
    procedural = asks_for_procedural(names["data"], None)
    name, stage, known = command.config, command.stage, ", ".join(TRAIN_PRESETS)
    if name is None and stored:
        config = TrainConfig.from_dict(stored["config"], "run.json")
    elif name is None:
        raise InputError(f"--config is needed, got none; give {' or '.join(TRAIN_PRESETS)}, or a JSON file")
    elif name in TRAIN_PRESETS:
        if stage not in STAGES:
            raise InputError(f"the stage must be one of {', '.join(STAGES)}, got {stage}; name it before the options")
        config = TrainConfig.preset(name, stage)
    else:
        try:
            text = read_regular(Path(name), LARGEST_JSON).decode("utf-8-sig")
            config = TrainConfig.from_dict(parse_json(text, name), name)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--config must be {known} or a JSON file, got {name} ({error})") from error
    if stage not in (None, config.stage):
        raise InputError(f"the stage must be that of the configuration, {config.stage}, got {stage}; correct one")
    changes = {name: getattr(command, name) for name in ("steps", "batch_size", "seed", "curriculum")}
    config = replace(config, **{name: value for name, value in changes.items() if value is not None})
    if any(config.curriculum) and not procedural:
        raise InputError(f"a curriculum is of procedural objects, got one with {names['data']}; leave it out")
    return {"config": json.loads(json.dumps(config.to_dict())), **names}


def _prepared(command: Train, settings: dict[str, Any], goes_on: bool) -> partial[TrainResult]:
    """The training, which takes `on_step`; its data are open."""
    from ..training.loop import train

    config = TrainConfig.from_dict(settings["config"], "the settings")
    source = _source(settings["data"], config, command.device)
    validation = _source(settings["validation"] or settings["data"], config, command.device, held_out=True)
    whole = partial(train, config, source, validation, command.folder.output, init=command.init, resume=goes_on)
    return partial(whole, max_minutes=command.max_minutes, device=command.device)


def _source(data: str, config: TrainConfig, device: str, *, held_out: bool = False) -> BatchSource:
    """Batches of procedural objects or of a folder; those that are held out come from another split or seed."""
    import torch

    from ..procedural import ProceduralObjects
    from ..training.batches import DatasetBatches, ProceduralBatches

    if data != PROCEDURAL:
        dataset = open_objects(data, None, config.model.image_size)
        return DatasetBatches(dataset, config, held_out=held_out, workers=min(READERS, os.cpu_count() or 1))
    place = "cuda" if device == "auto" and torch.cuda.is_available() else "cpu"
    if place == "cuda" and "LOCAL_RANK" in os.environ:
        place = f"cuda:{_process('LOCAL_RANK')}"
    pool = 0 if held_out else PROCEDURAL_POOL
    objects = ProceduralObjects("validation" if held_out else "train")
    return ProceduralBatches(objects, config, held_out=held_out, device=place, pool=pool)
