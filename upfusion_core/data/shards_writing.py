"""Data sets -> WebDataset shards: tar files of whole objects, each renamed into place when it is complete."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..checks import check_choice, check_count
from ..errors import InputError, MissingPackageError, UpFusionError
from ..files import Writing
from .examples import MultiViewDataset, PosedViews, note
from .shards_format import PICTURE_FORMATS, PictureFormat, encoded_sample

_BLOCK = 512
"""Tar's unit: every member has a header of one, and its content is filled up to whole ones."""


@dataclass
class PackState:
    """How far packing has come. place: objects tried. shards: name, objects and bytes of each that is complete."""

    place: int = 0
    shards: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[list[str]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def pack_shards(
    dataset: MultiViewDataset,
    indices: Sequence[int],
    writing: Writing,
    *,
    pictures: PictureFormat = "png",
    depth: bool = False,
    views: int | None = None,
    shard_bytes: int = 512_000_000,
    state: PackState | None = None,
    on_shard: Callable[[PackState], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> PackState:
    """Writes objects as `shard-000000.tar`, ...; objects that cannot be read are left out and noted.

    The same data give the same bytes, so packing that was stopped may go on from the state after its last shard.

    Args:
        indices: the objects' numbers in the data set.
        writing: how files get their names.
        pictures, depth: see encoded_sample.
        views: at most so many of an object, spread evenly over those it has; None keeps all.
        shard_bytes: least size at which a further object begins a new shard; only a single object exceeds it.
        state: to go on from; it is changed. on_shard: called with it after each shard.
        on_step: called with (objects done, of how many).

    Raises:
        MissingPackageError: webdataset is not installed.
        InputError: no object could be read.
        OutputError: a shard cannot be written.
    """
    check_choice("pictures", pictures, PICTURE_FORMATS)
    check_count("shard_bytes", shard_bytes, 1)
    writer = _tar_writer()
    state = state or PackState()
    samples = _samples(dataset, indices, state, pictures, depth, views, on_step)
    pending = next(samples, None)
    while pending is not None:
        name, size, objects = f"shard-{len(state.shards):06d}.tar", 0, 0
        with writing(name) as path:
            with path.open("wb") as stream, writer(stream, encoder=False, mtime=0) as tar:
                while pending is not None and (not objects or size + _packed_size(pending[1]) <= shard_bytes):
                    place, members = pending
                    tar.write({"__key__": f"{place:09d}", **members})
                    size, objects = size + _packed_size(members), objects + 1
                    pending = next(samples, None)
            size = path.stat().st_size
        state.shards.append({"name": name, "objects": objects, "bytes": size})
        state.place = len(indices) if pending is None else pending[0]
        state.skipped = [list(entry) for entry in dict.fromkeys((*map(tuple, state.skipped), *dataset.skipped))]
        if on_shard is not None:
            on_shard(state)
    if not state.shards:
        item, reason = dataset.skipped[-1] if dataset.skipped else ("all", "there are none")
        raise InputError(f"none of {len(indices)} objects could be read, the last because {item}: {reason}")
    return state


def _samples(
    dataset: MultiViewDataset,
    indices: Sequence[int],
    state: PackState,
    pictures: PictureFormat,
    depth: bool,
    views: int | None,
    on_step: Callable[[int, int], None] | None,
) -> Iterator[tuple[int, dict[str, bytes]]]:
    """Place and members of each object that can be read, from the state's place on."""
    for place in range(state.place, len(indices)):
        try:
            example = _read(dataset, indices[place], views)
        except UpFusionError as error:
            if not any(reason == str(error) for _, reason in dataset.skipped):
                note(dataset.skipped, f"object {indices[place]}", str(error))
        else:
            yield place, encoded_sample(example, pictures, depth=depth)
        if on_step is not None:
            on_step(place + 1, len(indices))


def _read(dataset: MultiViewDataset, index: int, views: int | None) -> PosedViews:
    """All views that can be read, or `views` of them; the first stays the reference."""
    example = dataset[index]
    if views is None or views >= len(example):
        return example
    return example.chosen([place * len(example) // views for place in range(views)])


def _packed_size(members: dict[str, bytes]) -> int:
    """Bytes of a sample in a tar file."""
    return sum(_BLOCK + -(-len(content) // _BLOCK) * _BLOCK for content in members.values())


def _tar_writer() -> Any:  # noqa: ANN401 - webdataset's class, which is optional
    try:
        from webdataset import TarWriter
    except ImportError as error:
        raise MissingPackageError(
            "packing needs the package webdataset, which is not installed; run: pip install webdataset"
        ) from error
    return TarWriter
