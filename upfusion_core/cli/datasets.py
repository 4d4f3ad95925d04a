"""What is done with data sets: `upfusion pack`, `upfusion evaluate`, and `upfusion train`, one stage in its folder."""

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from ..config import STAGES, TRAIN_PRESETS, DistillConfig, EvaluationConfig, TrainConfig, from_value, options_of
from ..config.options import PROCEDURAL, Evaluate, Pack, Train
from ..data import open_dataset
from ..data.meshes import MeshViews
from ..data.shards import INDEX_NAME, UNFINISHED_NAME, PackState, encoded, index_content, pack_shards, shard_entry
from ..data.views import MultiViewDataset
from ..evaluation.protocol import held_out_groups
from ..evaluation.report import Evaluator
from ..models.checkpoint import recommended_guidance
from ..models.perceptual import load_lpips
from ..pipeline.sampling import make_scheduler
from ..procedural import ProceduralObjects
from ..support.errors import InputError, OutputError
from ..support.files import BUNDLED_NAME, LARGEST_JSON, parse_json, read_json, read_regular, reading, write_json
from ..training.batches import BatchSource, DatasetBatches, ProceduralBatches
from ..training.initial import initial_networks
from ..training.loop import MODEL_NAME, TrainResult, frozen_parts, train
from ..training.report import CURVES_NAME, HISTORY_NAME, SHEET_NAME, STATE_NAME
from .console import duration, progress, say
from .inputs import load_model
from .run import RECORD_NAME, open_run, package_versions, plan, read_record, settled_run
from .spread import elsewhere

PROCEDURAL_OBJECTS = 1000
RENDERED_VIEWS = 24  # of an object that is rendered on the fly, unless told
PROCEDURAL_POOL = 8192  # objects drawn at once, in two seconds, and each seen 16 times from other sides before new ones
READERS = 8  # threads that read objects of a data set, where there are so many cores


def asks_for_procedural(data: str | None, split: str | None, what: str = "--data") -> bool:
    """Whether objects are to be procedural; refuses to do without data, and a split of a folder."""
    if data is None:
        raise InputError(f"{what} is needed, got none; give procedural, or the folder of a data set")
    if data not in PROCEDURAL and split is not None:
        raise InputError(f"--split is of procedural objects, got {split} with a folder; leave it out")
    return data in PROCEDURAL


def open_objects(
    data: str, split: str | None, size: int, *, kind: str | None = None, views: int | None = None
) -> MultiViewDataset:
    """Procedural objects, or those of a folder. views: of what is rendered on the fly, in place of the readers' own."""
    if data in PROCEDURAL:
        rendered = {} if views is None else {"views": views}
        return ProceduralObjects(split or "train", size=size, version=PROCEDURAL[data], **rendered)
    dataset = open_dataset(data, size=size, kind=kind)
    if views is not None and isinstance(dataset, MeshViews):
        return replace(dataset, views=views)
    return dataset


def object_count(data: str, available: int, wanted: int | None) -> int:
    if not available:
        raise InputError(f"{data} must hold objects, got none that can be read; check its folder")
    if wanted is not None and wanted > available:
        raise InputError(f"{data} holds {available} objects, got --objects {wanted}; ask for fewer")
    return wanted or available


def encoding(command: Pack) -> partial[Any]:
    """What makes samples of objects, of whose data set it holds."""
    rendered = command.views or RENDERED_VIEWS
    dataset = open_objects(str(command.data), command.split, command.size, kind=command.kind, views=rendered)
    return partial(encoded, dataset, pictures=command.pictures, depth=command.depth, views=command.views)


def run_pack(command: Pack, given: frozenset[str]) -> None:
    """Shards and their index in the run's folder; shards that were written before are left as they are."""
    with settled_run(command, given) as (run, command):
        if asks_for_procedural(command.data, command.split, "something to pack"):
            if command.kind is not None:
                raise InputError(f"--kind is of a folder, got {command.kind} with procedural objects; leave it out")
            command = replace(command, split=command.split or "train", objects=command.objects or PROCEDURAL_OBJECTS)
        plan(run, command, {})
        if run.already_finished:
            return
        encode = encoding(command)
        dataset = encode.args[0]
        indices = range(object_count(str(command.data), len(dataset), command.objects))
        unfinished, state = run.folder / UNFINISHED_NAME, PackState(skipped=list(map(list, dataset.skipped)))
        if run.resumed and unfinished.is_file():
            state = from_value(PackState, read_json(unfinished), str(unfinished))
            for shard in [shard_entry(run.folder, entry) for entry in state.shards]:
                if not shard.path.is_file():
                    lost = f"{run.folder} lacks {shard.path.name}, which was packed before"
                    raise InputError(f"{lost}; use --force to begin anew")
        run.begin()
        with run.stage("pack"), progress(f"Packing {len(indices)} objects") as on_step:
            pack_shards(
                elsewhere(partial(encoding, command), command.spread) or partial(map, encode), indices, run.writing,
                state, shard_bytes=round(command.shard_size * 1e6), on_step=on_step,
                on_shard=lambda state: write_json(run.temporary(UNFINISHED_NAME), vars(state)),
            )  # fmt: skip
        facts = {name: value for name, value in run.record.settings.items() if value is not None}
        content = index_content(state.shards, {"packed": facts, "skipped": state.skipped})
        with run.writing(INDEX_NAME) as path:
            write_json(path, content)
        for name, reason in state.skipped:
            say(f"Skipped {name}: {reason}")
        size = sum(shard["bytes"] for shard in state.shards) / 1e6
        packed = f"{content['objects']} objects in {len(state.shards)} shards, {size:.1f} MB"
        run.tell(f"{run.folder}: {packed}, {len(state.skipped)} skipped ({duration(run.record.seconds)})")


def evaluator(command: Evaluate, folder: Path, about: Mapping[str, Any]) -> Evaluator:
    """What evaluates; its second data set, if it has one, are the procedural objects to be reported apart."""
    model = load_model(command.networks)
    assert command.data is not None, "completed sees to it"
    datasets = [open_objects(command.data, command.split, model.image_size)]
    if isinstance(datasets[0], ProceduralObjects) and command.held_out:
        datasets += [open_objects(command.data, "held_out", model.image_size)]
    lpips = None if command.lpips is None else load_lpips(command.lpips, model.device)
    return Evaluator(model, datasets, folder, evaluation_config(command), about, lpips)


def run_evaluate(command: Evaluate, given: frozenset[str]) -> None:
    """Tables, plots and pictures in the run's folder; objects that were measured before are left as they are."""
    with settled_run(command, given) as (run, command):
        command = completed(command, new=not run.resumed)
        plan(run, command, {})
        if run.already_finished:
            return
        whole = evaluator(command, run.folder, {})
        lpips: Any = whole.lpips
        available = len(whole.datasets[0])
        wanted = object_count(str(command.data), available, command.objects)
        # the first objects of a split, which are in no order; of a folder, which is sorted, some spread evenly
        among = wanted if command.data in PROCEDURAL else available
        indices = [place * among // wanted for place in range(wanted)]
        apart, groups = whole.datasets[-1], []
        if isinstance(apart, ProceduralObjects) and apart.split == "held_out":  # training has never shown the like
            groups = held_out_groups(apart, command.held_out or wanted)
        settings, inputs = run.record.settings, {} if lpips is None else {"lpips": lpips.weights_id()}
        run.plan(settings, {}, inputs)
        run.begin()
        run.check_model(whole.model)
        if importlib.util.find_spec("matplotlib") is None:
            say("Plots are left out: they need the package matplotlib (pip install matplotlib)")
        about = {name: settings[name] for name in ("model", "data", "split", "objects", "dtype") if settings[name]}
        about |= inputs | {"versions": package_versions()}
        whole = replace(whole, about=about, writing=run.writing, temporary=run.temporary)
        make = partial(evaluator, command, run.folder.absolute(), about)
        in_workers = elsewhere(make, command.spread, whole.model.device.type)
        try:
            with run.stage("evaluate"), progress(f"Evaluating {wanted} objects") as on_step:
                report = whole.evaluate(indices, groups, on_step, in_workers)
        finally:  # what workers have written is on record, too
            for name in sorted(f"objects/{path.name}" for path in run.folder.glob("objects/[!.]*.[jp][sn]*")):
                if not run.has(name):
                    run.keep(name)
        for name, reason in report["skipped"]:
            say(f"Skipped {name}: {reason}")
        counts = f"{len(report['evaluated'])} objects, {len(report['skipped'])} skipped"
        counts += f", {command.held_out} held out reported apart" if command.held_out else ""
        run.tell(f"{run.folder / 'report.md'}: {counts} ({duration(run.record.seconds)})")


def completed(command: Evaluate, *, new: bool) -> Evaluate:
    """What is left out is filled in by what else is asked for."""
    model = command.networks.model or BUNDLED_NAME
    split, held_out = command.split, command.held_out
    if asks_for_procedural(command.data, command.split):
        split = split or "test"
    if split in (None, "held_out"):
        if held_out:
            raise InputError("--held-out is beside the splits test and validation of procedural objects; leave it out")
    elif held_out is None and new:
        held_out = command.objects // 10 * 2
    guidance = recommended_guidance(model) if command.guidance is None else command.guidance
    protocol = replace(command.protocol, photos=tuple(sorted(command.protocol.photos)))
    networks = replace(command.networks, model=model)
    return replace(command, networks=networks, split=split, held_out=held_out, guidance=guidance, protocol=protocol)


def evaluation_config(command: Evaluate) -> EvaluationConfig:
    protocol = command.protocol
    make_scheduler(protocol.scheduler, protocol.steps)  # refuses names that mean nothing
    sampled: dict[str, Any] = {"guidance": command.guidance}  # settled by `completed`
    changes = {} if command.perceptual is None else {"perceptual": command.perceptual}
    distill = DistillConfig.named(command.preset, **sampled, **changes, batch_size=protocol.batch_size)
    return replace(protocol, distill=distill, **sampled)


def run_train(command: Train, given: frozenset[str]) -> None:
    """A stage of training, or, in another process of `accelerate launch`, its part of the work."""
    folder = command.folder
    _process("LOCAL_RANK")  # accelerate reads it, too
    if _process("RANK"):  # the first keeps the folder
        stored = read_record(folder.output / RECORD_NAME).settings if folder.resume else {}
        _prepared(command, _settings(command, stored), folder.resume and (folder.output / STATE_NAME).is_file())()
        return
    with open_run(folder.output, "train", resume=folder.resume, force=folder.force) as run:
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
        config, training = TrainConfig.from_dict(settings["config"], "run.json"), _prepared(command, settings, goes_on)
        if run.replaced is not None:  # what is wrong is said while the old run is there
            initial_networks(config.model, command.init, seed=config.seed, required=frozen_parts(config))
        run.begin(names)
        try:
            with run.stage("train"), progress(f"Training the {config.stage}") as on_step:
                result = training(on_step=on_step)
        finally:
            for name in names:  # on record, so that --force removes it and a stop keeps it
                if (run.folder / name).is_file():
                    run.keep(name)
        run.note(step=result.step)
        if result.finished:
            run.temporary(STATE_NAME)
        sources = [source.dataset.skipped for source in training.args if isinstance(source, DatasetBatches)]
        skipped = dict.fromkeys(chain(*sources))
        for name, reason in skipped:
            say(f"Skipped {name}: {reason}")
        left = "" if result.finished else f" of {config.steps}; --resume goes on"
        left = f"{left}, {len(skipped)} skipped" if skipped else left
        run.tell(f"{result.model}: {result.step} steps{left} ({duration(result.elapsed)})")


def _process(name: str) -> int:
    """The number that `accelerate launch` gives this process in the variable `name`; 0 of the only one."""
    text = os.environ.get(name, "0")
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise InputError(f"the environment variable {name} must be the number of a process, got {text!r:.60}; unset it")
    return int(text)


def _settings(command: Train, stored: dict[str, Any]) -> dict[str, Any]:
    """What shapes the result, as JSON: of the command line, and where that is silent, of the run that is continued."""
    names = {name: options_of(Train)[name].written(getattr(command, name)) for name in ("data", "validation")}
    names = {name: value or stored.get(name) for name, value in names.items()}
    procedural = asks_for_procedural(names["data"], None)
    name, stage, known = command.config, command.stage, f"give {' or '.join(TRAIN_PRESETS)}, or a JSON file"
    if name is None and stored:
        config = TrainConfig.from_dict(stored["config"], "run.json")
    elif name is None:
        raise InputError(f"--config is needed, got none; {known}")
    elif name in TRAIN_PRESETS:
        if stage not in STAGES:
            raise InputError(f"the stage must be one of {', '.join(STAGES)}, got {stage}; name it before the options")
        config = TrainConfig.preset(name, stage)
    else:
        with reading(f"--config {name}", known, what="a JSON file"):
            text = read_regular(Path(name), LARGEST_JSON).decode("utf-8-sig")
        config = TrainConfig.from_dict(parse_json(text, name), name)
    if stage not in (None, config.stage):
        raise InputError(f"the stage must be that of the configuration, {config.stage}, got {stage}; correct one")
    changes = {name: getattr(command, name) for name in ("steps", "batch_size", "seed", "curriculum")}
    config = replace(config, **{name: value for name, value in changes.items() if value is not None})
    if any(config.curriculum) and not procedural:
        raise InputError(f"a curriculum is of procedural objects, got one with {names['data']}; leave it out")
    return {"config": config.to_dict(), **names}


def _prepared(command: Train, settings: dict[str, Any], goes_on: bool) -> partial[TrainResult]:
    """The training, which takes `on_step`; its data are open."""
    config = TrainConfig.from_dict(settings["config"], "the settings")
    source = _source(settings["data"], config, command.device)
    validation = _source(settings["validation"] or settings["data"], config, command.device, held_out=True)
    whole = partial(train, config, source, validation, command.folder.output, init=command.init, resume=goes_on)
    return partial(whole, max_minutes=command.max_minutes, device=command.device)


def _source(data: str, config: TrainConfig, device: str, *, held_out: bool = False) -> BatchSource:
    """Batches of procedural objects or of a folder; those that are held out come from another split or seed."""
    if data not in PROCEDURAL:
        dataset = open_objects(data, None, config.model.image_size)
        return DatasetBatches(dataset, config, held_out=held_out, workers=min(READERS, os.cpu_count() or 1))
    place = "cuda" if device == "auto" and torch.cuda.is_available() else "cpu"
    if place == "cuda" and "LOCAL_RANK" in os.environ:
        place = f"cuda:{_process('LOCAL_RANK')}"
    pool = 0 if held_out else PROCEDURAL_POOL
    objects = ProceduralObjects("validation" if held_out else "train", version=PROCEDURAL[data])
    return ProceduralBatches(objects, config, held_out=held_out, device=place, pool=pool)
