"""`upfusion pack`: a data set, or procedural objects, as WebDataset shards in a run's folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..support.errors import InputError
from ..support.json_text import read_json, shown
from . import options
from .console import duration, progress, say
from .options import PROCEDURAL, one_of
from .settings import LIMITS, checked_stored, is_of_kind

if TYPE_CHECKING:
    from ..data.examples import MultiViewDataset
    from ..data.shards import PackState
    from .run import Run

KINDS = ("co3d", "objaverse", "gso", "shapenet_srn", "meshes", "shards")
SPLITS = ("train", "validation", "test", "held_out")
PICTURES = ("png", "webp", "jpeg")
"""These and the kinds are the same as in the package `data`, which needs torch."""
PROCEDURAL_OBJECTS = 1000
RENDERED_VIEWS = 24
"""Of an object that is rendered on the fly, unless told."""


@dataclass(frozen=True, kw_only=True)
class PackOptions:
    """What the command line says; None where it is silent. shard_size: in MB."""

    data: str | None
    kind: str | None
    split: str | None
    objects: int | None
    views: int | None
    size: int | None
    pictures: str | None
    depth: bool | None
    shard_size: float | None


DEFAULTS: dict[str, Any] = {"size": 256, "pictures": "png", "depth": False, "shard_size": 512.0}
STORED: dict[str, Any] = {
    "data": str, "kind": str | None, "split": str | None, "objects": int | None, "views": int | None, "size": int,
    "pictures": str, "depth": bool, "shard_size": float,
}  # fmt: skip
"""The settings of a run, as its record holds them."""
_STATE = ("place", "shards", "skipped")


def pack(
    output: options.Output,
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="procedural|DATA", help="What to pack; the folders of train --data.", show_default=False
        ),
    ] = None,
    kind: Annotated[
        str | None, one_of(*KINDS, help="Format of the folder.", show_default="recognised by its files")
    ] = None,
    split: Annotated[str | None, one_of(*SPLITS, help="Of the procedural objects.", show_default="train")] = None,
    objects: Annotated[
        int | None,
        typer.Option(help="The first so many objects.", min=1, show_default=f"all; procedural: {PROCEDURAL_OBJECTS}"),
    ] = None,
    views: Annotated[
        int | None,
        typer.Option(
            help="Views of an object: rendered of a mesh or procedural one (of these up to 64), at most so many else.",
            min=1,
            max=10_000,
            show_default=f"{RENDERED_VIEWS}; recorded: all",
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Side of the views, pixels.", min=8, max=4096, show_default="256")
    ] = None,
    pictures: Annotated[
        str | None,
        one_of(*PICTURES, name="--format", help="Of the pictures; png and webp lose nothing.", show_default="png"),
    ] = None,
    depth: Annotated[
        bool | None, typer.Option("--depth", help="Also pack depths, where there are any.", show_default=False)
    ] = None,
    shard_size: Annotated[
        float | None,
        typer.Option(help="Largest shard, MB; an object is never split.", min=0.001, max=1e12, show_default="512"),
    ] = None,
    resume: options.Resume = False,
    force: options.Force = False,
) -> None:
    """Packs objects with their views into WebDataset shards, which train and evaluate take as --data OUT."""
    told = PackOptions(
        data=data, kind=kind, split=split, objects=objects, views=views, size=size, pictures=pictures, depth=depth,
        shard_size=shard_size,
    )  # fmt: skip
    from .run import open_run

    with open_run(output, "pack", resume=resume, force=force) as run:
        _pack_in(run, told)


def _pack_in(run: Run, told: PackOptions) -> None:
    from ..data.shards import INDEX_NAME, UNFINISHED_NAME, index_content, pack_shards
    from ..support.files import write_json

    settings = _settings(told, run.stored.settings if run.stored else {})
    run.plan(settings, {}, {})
    if run.already_finished:
        run.begin()
        return
    dataset = _dataset(settings)
    indices = range(_count(settings, len(dataset)))
    state = _state(run, len(indices))
    run.begin()

    def remember(state: PackState) -> None:
        write_json(run.temporary(UNFINISHED_NAME), state.to_dict())

    with run.stage("pack"), progress(f"Packing {len(indices)} objects") as advance:
        state = pack_shards(
            dataset,
            indices,
            run.writing,
            pictures=settings["pictures"],
            depth=settings["depth"],
            views=settings["views"],
            shard_bytes=round(settings["shard_size"] * 1e6),
            state=state,
            on_shard=remember,
            on_step=lambda done, total: advance(done / total),
        )
    facts = {name: value for name, value in settings.items() if value is not None}
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


def _settings(told: PackOptions, stored: dict[str, Any]) -> dict[str, Any]:
    """What shapes the result, as JSON: of the command line, where that is silent of the run that is continued."""
    from ..support.checks import check_range

    unsaid = checked_stored(stored, STORED) or DEFAULTS
    settings: dict[str, Any] = {
        name: unsaid.get(name) if value is None else value for name, value in asdict(told).items()
    }
    check_range("--shard-size", settings["shard_size"], *LIMITS["shard_size"])
    if settings["data"] is None:
        raise InputError("something to pack is needed, got none; give procedural, or the folder of a data set")
    if settings["data"] == PROCEDURAL:
        if settings["kind"] is not None:
            raise InputError(f"--kind is of a folder, got {settings['kind']} with procedural objects; leave it out")
        settings["split"] = settings["split"] or "train"
        settings["objects"] = settings["objects"] or PROCEDURAL_OBJECTS
    else:
        settings["data"] = str(Path(settings["data"]).absolute())
        if settings["split"] is not None:
            raise InputError(f"--split is of procedural objects, got {settings['split']} with a folder; leave it out")
    return settings


def _dataset(settings: dict[str, Any]) -> MultiViewDataset:
    """The objects to be packed; what is rendered on the fly has as many views as are asked for."""
    from dataclasses import replace

    from ..data.formats import open_dataset
    from ..data.meshes import MeshViews
    from ..procedural import ProceduralObjects

    size, rendered = settings["size"], settings["views"] or RENDERED_VIEWS
    if settings["data"] == PROCEDURAL:
        return ProceduralObjects(settings["split"], size=size, views=rendered)
    dataset = open_dataset(settings["data"], size=size, kind=settings["kind"])
    if isinstance(dataset, MeshViews):
        return replace(dataset, rendering=replace(dataset.rendering, views=rendered))
    return dataset


def _count(settings: dict[str, Any], available: int) -> int:
    """How many objects are packed."""
    wanted = settings["objects"]
    if not available:
        raise InputError(f"{settings['data']} must hold objects, got none that can be read; check its folder")
    if wanted is not None and wanted > available:
        raise InputError(f"{settings['data']} holds {available} objects, got --objects {wanted}; ask for fewer")
    return available if wanted is None else wanted


def _state(run: Run, objects: int) -> PackState | None:
    """Where the run that is continued has come to; None in a new one. Its shards must still be there."""
    from ..data.shards import UNFINISHED_NAME, PackState, shard_entry

    path = run.folder / UNFINISHED_NAME
    if not run.resumed or not path.is_file():
        return None
    try:
        content = read_json(path)
        values: dict[str, Any] = {name: content.get(name) if isinstance(content, dict) else None for name in _STATE}
        place, shards, skipped = values.values()
        whole = is_of_kind(place, int) and isinstance(shards, list) and is_of_kind(skipped, list[list[str]])
        if not whole or not 0 <= place <= objects or any(len(entry) != 2 for entry in skipped):
            raise InputError(f"it must hold place, shards and skipped as they were written, got {shown(content)}")
        present = [shard_entry(path, entry) for entry in shards]
        if sum(shard.objects for shard in present) + len(skipped) != place:
            raise InputError(f"its shards and what was skipped must be the {place} objects of its place, but are not")
    except InputError as error:
        raise InputError(f"{path} cannot be read ({error}); use --force to begin anew") from error
    missing = [shard.path.name for shard in present if not shard.path.is_file()]
    if missing:
        raise InputError(f"{run.folder} lacks {missing[0]}, which was packed before; use --force to begin anew")
    state = PackState(place, shards, skipped)
    return state
