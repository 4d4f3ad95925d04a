"""`upfusion pack` and `upfusion evaluate`: what is done with data sets; and how all commands name and open them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..config import DistillConfig, EvaluationConfig, from_value
from ..config.options import PROCEDURAL, Evaluate, Pack
from ..support.errors import InputError
from ..support.files import BUNDLED_NAME, read_json, write_json
from .console import duration, progress, say
from .inputs import load_model, planned_run
from .run import Run, package_versions

if TYPE_CHECKING:
    from ..data.shards import PackState
    from ..data.views import MultiViewDataset
    from ..evaluation.protocol import Group

PROCEDURAL_OBJECTS = 1000
RENDERED_VIEWS = 24
"""Of an object that is rendered on the fly, unless told."""


def asks_for_procedural(data: str | None, split: str | None, what: str = "--data") -> bool:
    """Whether objects are to be procedural; refuses to do without data, and a split of a folder."""
    if data is None:
        raise InputError(f"{what} is needed, got none; give procedural, or the folder of a data set")
    if data != PROCEDURAL and split is not None:
        raise InputError(f"--split is of procedural objects, got {split} with a folder; leave it out")
    return data == PROCEDURAL


def open_objects(
    data: str, split: str | None, size: int, *, kind: str | None = None, views: int | None = None
) -> MultiViewDataset:
    """Procedural objects, or those of a folder. views: of what is rendered on the fly, in place of the readers' own."""
    from ..data.formats import open_dataset
    from ..data.meshes import MeshViews
    from ..procedural import ProceduralObjects

    if data == PROCEDURAL:
        return ProceduralObjects(split or "train", size=size, **({} if views is None else {"views": views}))
    dataset = open_dataset(data, size=size, kind=kind)
    if views is not None and isinstance(dataset, MeshViews):
        return replace(dataset, views=views)
    return dataset


def object_count(data: str, available: int, wanted: int | None) -> int:
    """How many objects are taken: those that are asked for, or all."""
    if not available:
        raise InputError(f"{data} must hold objects, got none that can be read; check its folder")
    if wanted is not None and wanted > available:
        raise InputError(f"{data} holds {available} objects, got --objects {wanted}; ask for fewer")
    return wanted or available


def run_pack(command: Pack, given: frozenset[str]) -> None:
    """Shards and their index in the run's folder; shards that were written before are left as they are."""
    from ..data.shards import INDEX_NAME, UNFINISHED_NAME, index_content, pack_shards

    with planned_run("pack", command, given, lambda command, run: (_completed(command), {})) as (run, command):
        if run.already_finished:
            return
        assert command.data is not None, "_completed sees to it"
        views = command.views or RENDERED_VIEWS
        dataset = open_objects(command.data, command.split, command.size, kind=command.kind, views=views)
        indices = range(object_count(command.data, len(dataset), command.objects))
        state = _state(run)
        run.begin()

        def remember(state: PackState) -> None:
            write_json(run.temporary(UNFINISHED_NAME), vars(state))

        with run.stage("pack"), progress(f"Packing {len(indices)} objects") as on_step:
            state = pack_shards(
                dataset,
                indices,
                run.writing,
                pictures=command.pictures,
                depth=command.depth,
                views=command.views,
                shard_bytes=round(command.shard_size * 1e6),
                state=state,
                on_shard=remember,
                on_step=lambda done, total: on_step(done, total, None),
            )
        facts = {name: value for name, value in run.record.settings.items() if value is not None}
        content = index_content(state.shards, {"packed": facts, "skipped": state.skipped})
        with run.writing(INDEX_NAME) as path:
            write_json(path, content)
        for name, reason in state.skipped:
            say(f"Skipped {name}: {reason}")
        size = sum(shard["bytes"] for shard in state.shards) / 1e6
        run.tell(
            f"{run.folder}: {content['objects']} objects in {len(state.shards)} shards, {size:.1f} MB, "
            f"{len(state.skipped)} skipped ({duration(run.record.seconds)})"
        )


def _completed(command: Pack) -> Pack:
    """What is left out is filled in by what else is asked for."""
    if not asks_for_procedural(command.data, command.split, "something to pack"):
        return command
    if command.kind is not None:
        raise InputError(f"--kind is of a folder, got {command.kind} with procedural objects; leave it out")
    return replace(command, split=command.split or "train", objects=command.objects or PROCEDURAL_OBJECTS)


def _state(run: Run) -> PackState | None:
    """Where the run that is continued has come to; None in a new one. Its shards must still be there."""
    from ..data.shards import UNFINISHED_NAME, PackState, shard_entry

    path = run.folder / UNFINISHED_NAME
    if not run.resumed or not path.is_file():
        return None
    state: PackState = from_value(PackState, read_json(path), str(path))
    for shard in [shard_entry(path, entry) for entry in state.shards]:
        if not shard.path.is_file():
            lost = f"{run.folder} lacks {shard.path.name}, which was packed before"
            raise InputError(f"{lost}; use --force to begin anew")
    return state


def run_evaluate(command: Evaluate, given: frozenset[str]) -> None:
    """Tables, plots and pictures in the run's folder; objects that were measured before are left as they are."""
    from ..evaluation.protocol import held_out_groups
    from ..evaluation.report import evaluate
    from ..models.perceptual import load_lpips
    from ..procedural import ProceduralObjects

    with planned_run(
        "evaluate", command, given, lambda command, run: (completed(command, new=not run.resumed), {})
    ) as (run, command):
        if run.already_finished:
            return
        config = evaluation_config(command)
        model = load_model(command.networks)
        assert command.data is not None, "completed sees to it"
        dataset = open_objects(command.data, command.split, model.image_size)
        available = len(dataset)
        wanted = object_count(command.data, available, command.objects)
        # the first objects of a split, which are in no order; of a folder, which is sorted, some spread evenly
        spread = wanted if command.data == PROCEDURAL else available
        indices = [place * spread // wanted for place in range(wanted)]
        groups: list[Group] = []  # of objects that training has never shown the like of
        if isinstance(dataset, ProceduralObjects) and command.split == "held_out":
            groups = held_out_groups(dataset, wanted)
        elif isinstance(dataset, ProceduralObjects) and command.held_out:
            groups = held_out_groups(ProceduralObjects("held_out", size=dataset.size), command.held_out)
        lpips = None if command.lpips is None else load_lpips(command.lpips, model.device)
        settings, inputs = run.record.settings, {} if lpips is None else {"lpips": lpips.weights_id()}
        run.plan(settings, {}, inputs)
        run.begin()
        run.check_model(model)
        about = {name: settings[name] for name in ("model", "data", "split", "objects", "dtype") if settings[name]}
        with run.stage("evaluate"), progress(f"Evaluating {wanted} objects") as on_step:
            report = evaluate(
                model, dataset, indices, run.folder, config,
                groups=groups, lpips=lpips, about=about | inputs | {"versions": package_versions()},
                writing=run.writing, temporary=run.temporary, on_step=on_step,
            )  # fmt: skip
        for name, reason in report.skipped:
            say(f"Skipped {name}: {reason}")
        apart = sum(len(group.indices) for group in groups if group.dataset is not dataset)
        run.tell(
            f"{run.folder / 'report.md'}: {len(report.objects)} objects, {len(report.skipped)} skipped"
            + (f", {apart} held out reported apart" if apart else "")
            + f" ({duration(run.record.seconds)})"
        )


def completed(command: Evaluate, *, new: bool) -> Evaluate:
    """What is left out is filled in by what else is asked for."""
    from ..models.checkpoint import recommended_guidance

    networks = replace(command.networks, model=command.networks.model or BUNDLED_NAME)
    split, held_out = command.split, command.held_out
    if asks_for_procedural(command.data, command.split):
        split = split or "test"
    if split in (None, "held_out"):
        if held_out:
            raise InputError("--held-out is beside the splits test and validation of procedural objects; leave it out")
    elif held_out is None and new:
        held_out = command.objects // 10 * 2
    guidance = recommended_guidance(networks.model or BUNDLED_NAME) if command.guidance is None else command.guidance
    protocol = replace(command.protocol, photos=tuple(sorted(command.protocol.photos)))
    return replace(command, networks=networks, split=split, held_out=held_out, guidance=guidance, protocol=protocol)


def evaluation_config(command: Evaluate) -> EvaluationConfig:
    """The protocol's settings of the command's."""
    from ..pipeline.sampling import make_scheduler

    protocol = command.protocol
    make_scheduler(protocol.scheduler, protocol.steps)  # refuses names that mean nothing
    sampled: dict[str, Any] = {"guidance": command.guidance}  # settled by `completed`
    distill = DistillConfig.named(command.preset, **sampled, batch_size=protocol.batch_size)
    if command.perceptual is not None:
        distill = replace(distill, perceptual=command.perceptual)
    return replace(protocol, distill=distill, **sampled)
