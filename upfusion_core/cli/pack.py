"""`upfusion pack`: a data set, or procedural objects, as WebDataset shards in a run's folder."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..config import from_value
from ..config.commands import PROCEDURAL, Pack
from ..support.errors import InputError
from ..support.files import write_json
from ..support.json_text import read_json
from .console import duration, progress, say
from .options import planned_run
from .run import Run

if TYPE_CHECKING:
    from ..data.shards import PackState
    from ..data.views import MultiViewDataset

PROCEDURAL_OBJECTS = 1000
RENDERED_VIEWS = 24
"""Of an object that is rendered on the fly, unless told."""


def run_pack(command: Pack, given: frozenset[str]) -> None:
    """Shards and their index in the run's folder; shards that were written before are left as they are."""
    with planned_run("pack", command, given, lambda command, run: (_completed(command), {})) as (run, command):
        if not run.already_finished:
            _pack(run, command)


def _completed(command: Pack) -> Pack:
    """What is left out is filled in by what else is asked for."""
    if command.data is None:
        raise InputError("something to pack is needed, got none; give procedural, or the folder of a data set")
    if command.data == PROCEDURAL:
        if command.kind is not None:
            raise InputError(f"--kind is of a folder, got {command.kind} with procedural objects; leave it out")
        return replace(command, split=command.split or "train", objects=command.objects or PROCEDURAL_OBJECTS)
    if command.split is not None:
        raise InputError(f"--split is of procedural objects, got {command.split} with a folder; leave it out")
    return command


def _pack(run: Run, command: Pack) -> None:
    from ..data.shards import INDEX_NAME, UNFINISHED_NAME, index_content, pack_shards

    dataset = _dataset(command)
    indices = range(_count(command, len(dataset)))
    state = _state(run, len(indices))
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
    run.discard(UNFINISHED_NAME)
    for name, reason in state.skipped:
        say(f"Skipped {name}: {reason}")
    size = sum(shard["bytes"] for shard in state.shards) / 1e6
    run.tell(
        f"{run.folder}: {content['objects']} objects in {len(state.shards)} shards, {size:.1f} MB, "
        f"{len(state.skipped)} skipped ({duration(run.seconds)})"
    )


def _dataset(command: Pack) -> MultiViewDataset:
    """The objects to be packed; what is rendered on the fly has as many views as are asked for."""
    from ..data.formats import open_dataset
    from ..data.meshes import MeshViews
    from ..procedural import ProceduralObjects

    assert command.data is not None, "_completed sees to it"
    rendered = command.views or RENDERED_VIEWS
    if command.data == PROCEDURAL:
        return ProceduralObjects(command.split or "train", size=command.size, views=rendered)
    dataset = open_dataset(command.data, size=command.size, kind=command.kind)
    if isinstance(dataset, MeshViews):
        return replace(dataset, views=rendered)
    return dataset


def _count(command: Pack, available: int) -> int:
    """How many objects are packed."""
    wanted = command.objects
    if not available:
        raise InputError(f"{command.data} must hold objects, got none that can be read; check its folder")
    if wanted is not None and wanted > available:
        raise InputError(f"{command.data} holds {available} objects, got --objects {wanted}; ask for fewer")
    return available if wanted is None else wanted


def _state(run: Run, objects: int) -> PackState | None:
    """Where the run that is continued has come to; None in a new one. Its shards must still be there."""
    from ..data.shards import UNFINISHED_NAME, PackState, shard_entry

    path = run.folder / UNFINISHED_NAME
    if not run.resumed or not path.is_file():
        return None
    state: PackState = from_value(PackState, read_json(path), str(path))
    present = [shard_entry(path, entry) for entry in state.shards]
    missing = [shard.path.name for shard in present if not shard.path.is_file()]
    if missing:
        raise InputError(f"{run.folder} lacks {missing[0]}, which was packed before; use --force to begin anew")
    return state
