"""WebDataset shards as a data set: any object by its number, and an order that visits shard after shard."""

from __future__ import annotations

import io
import json
import os
import tarfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeGuard, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from ..support.checks import check_choice, check_count
from ..support.errors import InputError, MissingPackageError, UpFusionError
from ..support.files import Writing
from ..support.images import resize_pictures, to_8bit
from ..support.json_text import parse_json, read_json, shown
from ..types import Cameras
from .examples import (
    MultiViewDataset,
    PosedViews,
    checked_views,
    decoded_array,
    none_readable,
    normalise,
    note,
    readable_views,
    shuffled_views,
)
from .recorded import DECODING_ERRORS

INDEX_NAME = "index.json"
UNFINISHED_NAME = "packing.json"
"""Stands beside the shards until all are written."""
_FORMAT, _VERSION = "upfusion-shards", 1
_LARGEST_INDEX = 64_000_000
_LARGEST_SHARD = 2**50
_LEAST_OBJECT = 1024
"""Bytes of a member in a tar file, its header included; an object has at least one."""
_DAMAGED_TAR = (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, UnicodeError, MemoryError)


@dataclass(frozen=True)
class Shard:
    """One tar file. objects: how many it is said to hold. size: bytes it is said to have, None if nothing says."""

    path: Path
    objects: int
    size: int | None


@dataclass(frozen=True)
class Sample:
    """An object's members by the part of their names after the key: (first byte, number of bytes) in the shard."""

    key: str
    members: dict[str, tuple[int, int]]


def index_content(shards: list[dict[str, Any]], facts: dict[str, Any]) -> dict[str, Any]:
    """What `index.json` holds.

    Args:
        shards: name, objects and bytes of each. facts: what else is worth knowing.
    """
    total = sum(shard["objects"] for shard in shards)
    return {"format": _FORMAT, "version": _VERSION, "objects": total, "shards": shards, **facts}


def is_index(path: Path) -> bool:
    """Whether a file is the index of a set of shards, damaged or not, and not somebody else's index.json."""
    try:
        if not path.is_file():  # a pipe would never end
            return False
        with path.open("rb") as file:
            return _FORMAT.encode() in file.read(1000)
    except OSError:
        return False


def tar_files(root: Path) -> list[Path]:
    """The tar files of a folder in the order of their names; hidden ones are left out, they are not finished."""
    return sorted(path for path in root.glob("*.tar") if path.is_file() and not path.name.startswith("."))


def listed_shards(root: Path, skipped: list[tuple[str, str]]) -> list[Shard]:
    """The shards of a folder by its index, or all its tar files where it has none; or those of one tar file.

    Args:
        skipped: takes shards that are missing or shorter than the index says, and those that hold nothing.

    Raises:
        InputError: the index is damaged, packing has not ended, or no shard is left.
    """
    if root.is_file():
        shards = _found([root], skipped)
    elif (root / INDEX_NAME).is_file():
        shards = _present(_read_index(root / INDEX_NAME), skipped)
    elif (root / UNFINISHED_NAME).is_file():
        raise InputError(f"{root} is not packed to the end; finish it by: upfusion pack --resume -o {root}")
    else:
        shards = _found(tar_files(root), skipped)
    if not shards:
        item, reason = skipped[-1] if skipped else (str(root), "it has no .tar files")
        raise InputError(f"{root} must hold shards with objects, got none: {item}: {reason}; pack or copy it again")
    return shards


def samples_of(path: Path) -> tuple[list[Sample], str]:
    """The complete samples of a shard in their order, and what ended the list early ("" if nothing did).

    Only headers are read. Links, sparse files and folders are passed over: they hold no content of their own.
    """
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    trouble = ""
    try:
        length = path.stat().st_size
        with tarfile.open(path, "r:") as archive:
            while (member := archive.next()) is not None:
                vars(archive)["members"] = []  # it would keep them all
                if not 0 <= member.size <= length - member.offset_data:
                    trouble = "it is cut short or damaged"
                    break
                key, _, ending = PurePosixPath(member.name).name.partition(".")
                if member.isreg() and not member.issparse() and ending:
                    folder = str(PurePosixPath(member.name).parent)
                    samples.setdefault(f"{folder}/{key}", {})[ending] = (member.offset_data, member.size)
            end = archive.offset
        if not trouble:
            with path.open("rb") as file:
                file.seek(end)
                block = file.read(tarfile.BLOCKSIZE)
            if not block or block.count(0) != len(block):
                trouble = "it is cut short or damaged"
    except _DAMAGED_TAR as error:
        expected = "it is cut short or damaged" if samples else "it cannot be read as an uncompressed tar file"
        trouble = f"{expected} ({error or type(error).__name__})"
    return [Sample(key, members) for key, members in samples.items()], trouble


def _found(paths: list[Path], skipped: list[tuple[str, str]]) -> list[Shard]:
    """Shards that no index lists: their members are counted."""
    shards = []
    for path in paths:
        samples, trouble = samples_of(path)
        if trouble:
            skipped.append((path.name, trouble))
        if samples:
            shards.append(Shard(path, len(samples), None))
    return shards


def _present(shards: list[Shard], skipped: list[tuple[str, str]]) -> list[Shard]:
    kept = []
    for shard in shards:
        if not shard.path.is_file():
            skipped.append((shard.path.name, "it is missing"))
            continue
        size = shard.path.stat().st_size
        if size != shard.size:
            skipped.append((shard.path.name, f"it has {size} bytes, not the {shard.size} that were packed"))
            shard = replace(shard, objects=min(shard.objects, max(1, size // _LEAST_OBJECT)))
        kept.append(shard)  # what is whole in it can still be read
    return kept


def _read_index(path: Path) -> list[Shard]:
    try:
        too_large = path.stat().st_size > _LARGEST_INDEX
        content = None if too_large else read_json(path)
    except (OSError, InputError) as error:
        reason = error.__cause__ or error
        raise InputError(f"{path} must be an index of shards, but cannot be read ({reason}); pack it again") from error
    if too_large:
        raise InputError(f"{path} must be an index of shards, but is far too large; pack the set again")
    if not isinstance(content, dict) or content.get("format") != _FORMAT or content.get("version") != _VERSION:
        raise InputError(f'{path} must be an index of shards ("{_FORMAT}", version {_VERSION}), got another file')
    entries = content.get("shards")
    if not isinstance(entries, list):
        raise InputError(f"{path} must list shards, got {type(entries).__name__}; pack the set again")
    return [shard_entry(path, entry) for entry in entries]


def shard_entry(path: Path, entry: object) -> Shard:
    """One entry of an index at `path`; shards lie beside it, nowhere else."""
    name, objects, size = (entry.get(key) if isinstance(entry, dict) else None for key in ("name", "objects", "bytes"))
    if not _is_plain(name) or not _is_whole(objects) or not _is_whole(size) or not _fits(objects, size):
        raise InputError(
            f'{path}: a shard must be {{"name": "*.tar", "objects", "bytes"}} and lie beside it, '
            f"got {shown(entry, 80)}; pack the set again"
        )
    return Shard(path.parent / name, objects, size)


def _fits(objects: int, size: int) -> bool:
    """Whether a shard of `size` bytes can hold as many objects."""
    return 0 < objects <= size // _LEAST_OBJECT and size <= _LARGEST_SHARD


def _is_plain(name: object) -> TypeGuard[str]:
    """Whether it names a shard in the index's own folder."""
    if not isinstance(name, str) or not name.endswith(".tar") or len(name.encode("utf-8")) > 255:
        return False
    return not set(name) & set("/\\\0:") and name[0] != "."


def _is_whole(number: object) -> TypeGuard[int]:
    return isinstance(number, int) and not isinstance(number, bool)


PictureFormat = Literal["png", "webp", "jpeg"]
PICTURE_FORMATS: tuple[PictureFormat, ...] = get_args(PictureFormat)

_SAVING: dict[str, dict[str, Any]] = {
    "png": {"format": "PNG", "compress_level": 6},
    "webp": {"format": "WEBP", "lossless": True, "quality": 50},  # of lossless WebP: effort
    "jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
}
_READABLE = ("PNG", "WEBP", "JPEG")
_LARGEST_SIDE, _MOST_VIEWS, _LONGEST_NAME = 4096, 10_000, 500
_DAMAGED_NUMBERS = (ValueError, TypeError, RuntimeError, OverflowError)

Member = Callable[[str], bytes]
"""The part of a member's name after the sample's key, such as "json" -> its content; raises InputError if absent."""


@dataclass(frozen=True, eq=False)
class SampleHeader:
    """What a sample's JSON says: the object's name, its cameras in our world, the pictures' side in pixels.

    upright: see PosedViews. pictures: ending of the pictures of colours. depth: whether depths were packed.
    """

    name: str
    upright: bool
    depth: bool
    size: int
    pictures: PictureFormat
    cameras: Cameras


def encoded_sample(example: PosedViews, pictures: PictureFormat, *, depth: bool) -> dict[str, bytes]:
    """The members of an object's sample by the part of their names after the key; "jpeg" keeps masks as PNG.

    Args:
        pictures: of the colours; PNG and WebP keep every 8-bit value.
        depth: whether the depths are packed, where the object has them.
    """
    cameras, depths = example.cameras, example.depth if depth else None
    header = {
        "name": example.name,
        "upright": example.upright,
        "depth": depths is not None,
        "size": example.rgb.shape[-1],
        "pictures": pictures,
        "camera_to_world": cameras.camera_to_world.tolist(),
        "focal": cameras.focal.tolist(),
        "principal": cameras.principal.tolist(),
    }
    masks = "png" if pictures == "jpeg" else pictures
    members = {"json": json.dumps(header).encode("utf-8")}
    for view in range(len(example)):
        members[f"{view:03d}.rgb.{pictures}"] = _encoded(example.rgb[view], pictures)
        members[f"{view:03d}.mask.{masks}"] = _encoded(example.mask[view], masks)
        if depths is not None:
            stream = io.BytesIO()
            np.save(stream, depths[view, 0].numpy(), allow_pickle=False)
            members[f"{view:03d}.depth.npy"] = stream.getvalue()
    return members


def decoded_header(content: bytes) -> SampleHeader:
    """Reads a sample's JSON. Raises InputError if it is damaged or says what cannot be."""
    try:
        header = parse_json(content.decode("utf-8-sig"), "its cameras")
    except (UnicodeDecodeError, InputError) as error:
        reason = error.__cause__ or error
        raise InputError(f"its cameras must be JSON, but cannot be read ({reason}); pack it again") from error
    if not isinstance(header, dict):
        raise InputError(f"its cameras must be a JSON object, got {type(header).__name__}; pack it again")
    name, size, pictures = (header.get(key) for key in ("name", "size", "pictures"))
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME:
        raise InputError(f"its name must be a text of 1 to {_LONGEST_NAME} letters, got {name!r:.40}; pack it again")
    upright, depth = header.get("upright"), header.get("depth")
    if not isinstance(upright, bool) or not isinstance(depth, bool):
        raise InputError(f"{name}: upright and depth must be true or false, got {[upright, depth]!r:.40}")
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= _LARGEST_SIDE:
        raise InputError(f"{name}: size must be a whole number from 1 to {_LARGEST_SIDE}, got {size!r:.40}")
    if pictures not in PICTURE_FORMATS:
        raise InputError(f"{name}: pictures must be one of {', '.join(PICTURE_FORMATS)}, got {pictures!r:.40}")
    try:
        matrices, focal, principal = (
            torch.tensor(header.get(key), dtype=torch.float32) for key in ("camera_to_world", "focal", "principal")
        )
    except _DAMAGED_NUMBERS as error:
        raise InputError(f"{name}: its cameras must be lists of numbers ({error}); pack it again") from error
    cameras = Cameras(matrices, focal, principal)
    if not 1 <= len(cameras) <= _MOST_VIEWS:
        raise InputError(f"{name} must have 1 to {_MOST_VIEWS} views, got {len(cameras)}; pack it again")
    return SampleHeader(name, upright, depth, size, pictures, cameras)


def decoded_view(header: SampleHeader, view: int, member: Member, size: int) -> tuple[Tensor, Tensor]:
    """rgb (3, size, size) and mask (1, size, size) in [0, 1] of one view. Raises InputError if it is damaged."""
    masks = "png" if header.pictures == "jpeg" else header.pictures
    rgb = _decoded(member(f"{view:03d}.rgb.{header.pictures}"), "RGB", header.size)
    mask = _decoded(member(f"{view:03d}.mask.{masks}"), "L", header.size)
    return resize_pictures(rgb[None], size)[0], resize_pictures(mask[None], size)[0]


def decoded_depth(header: SampleHeader, view: int, member: Member, size: int) -> Tensor:
    """(1, size, size) depth of one view, 0 off the object; of each pixel the nearest that was packed.

    Raises:
        InputError: it is damaged.
    """
    content = member(f"{view:03d}.depth.npy")
    try:
        depth = decoded_array(content)
    except InputError as error:
        raise InputError(f"its depth cannot be read as an array ({error}); pack it again") from error
    shape = (header.size, header.size)
    if depth.shape != shape or depth.dtype != np.float32:
        raise InputError(f"its depth must be float32 {shape}, got {depth.dtype}; pack it again")
    if not np.isfinite(depth).all() or depth.min() < 0:
        raise InputError("its depth must be finite and at least 0, got other values; pack it again")
    return interpolate(torch.from_numpy(depth)[None, None], size=(size, size), mode="nearest-exact")[0]


def _encoded(picture: Tensor, pictures: str) -> bytes:
    """(3 or 1, S, S) in [0, 1] -> a file's content."""
    values = to_8bit(picture.permute(1, 2, 0))
    stream = io.BytesIO()
    Image.fromarray(values if values.shape[-1] == 3 else values[..., 0]).save(stream, **_SAVING[pictures])
    return stream.getvalue()


def _decoded(content: bytes, mode: str, size: int) -> Tensor:
    """A file's content -> (3 or 1, S, S) in [0, 1]; its size is looked at before anything is unpacked."""
    try:
        with Image.open(io.BytesIO(content), formats=_READABLE) as picture:
            if picture.size != (size, size):
                width, height = picture.size
                raise InputError(f"its pictures must be {size} x {size} pixels, got {width} x {height}; pack it again")
            values = np.asarray(picture.convert(mode))
    except InputError:
        raise
    except DECODING_ERRORS as error:
        raise InputError(f"a picture cannot be decoded ({error}); pack it again") from error
    tensor = torch.from_numpy(values.copy()).float() / 255
    return tensor.permute(2, 0, 1) if mode == "RGB" else tensor[None]


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


MIXED_SHARDS = 8
"""Neighbours in the order of a pass whose objects are mixed."""
_REMEMBERED_SHARDS = 64
"""Of which the places of all members are kept, a few MB each at most."""
_LARGEST_MEMBER = 128_000_000
"""Bytes; what is larger was not packed by us."""


class ShardedViews:
    """Objects packed by `upfusion pack`, a `MultiViewDataset`. Nothing in them is ever run: see `shards_format`.

    A shard that is missing, or cut short, and objects and views that are damaged, are left out and noted in `skipped`.
    Reading takes one seek an object, and from several threads at once is safe.

    Args:
        root: a folder of shards, with the index that `upfusion pack` writes or without one; or one .tar file.
        size: side of the views in pixels; None keeps the packed one.

    Raises:
        InputError: the index is damaged, or there is no shard with an object.
    """

    def __init__(self, root: str | os.PathLike[str], *, size: int | None = None) -> None:
        if size is not None:
            check_count("size", size, 1, 4096)
        self.size = size
        self.skipped: list[tuple[str, str]] = []
        self._shards: list[Shard] = listed_shards(Path(root), self.skipped)
        self._ends = list(accumulate(shard.objects for shard in self._shards))
        self._samples: OrderedDict[int, list[Sample]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> PosedViews:
        """Object `index` with all its views; see `read`."""
        return self.read(index)

    def order(self, generator: torch.Generator) -> Tensor:
        """(len,) every object's number once: shards in random order, the objects of some neighbours mixed.

        So a pass reads shard after shard, as slow or distant disks want it.
        """
        shards = torch.randperm(len(self._shards), generator=generator).tolist()
        parts = []
        for begin in range(0, len(shards), MIXED_SHARDS):
            numbers = torch.cat([self._numbers(shard) for shard in shards[begin : begin + MIXED_SHARDS]])
            parts.append(numbers[torch.randperm(len(numbers), generator=generator)])
        return torch.cat(parts)

    def view_count(self, index: int) -> int:
        """How many views object `index` has, broken ones included; raises like `read`."""
        return len(self._header(index)[0].cameras)

    def read(self, index: int, views: Sequence[int] | None = None) -> PosedViews:
        """Object `index` with the chosen views in the given order, the first as reference.

        Without `views` it has all that can be read; the others are noted in `skipped`.

        Raises:
            InputError: a chosen view is broken, or all are (noted in `skipped`), or does not exist.
            IndexError: there is no such object.
        """
        header, member = self._header(index)
        wanted = checked_views(views, len(header.cameras), header.name)
        return self._assembled(header, member, wanted, len(wanted), whole=views is not None)

    def draw(self, index: int, count: int, generator: torch.Generator) -> PosedViews:
        """Object `index` with `count` views drawn without replacement; others step in for broken ones."""
        header, member = self._header(index)
        check_count("count", count, 1)
        order = shuffled_views(len(header.cameras), generator)
        return self._assembled(header, member, order, count, whole=False)

    def _assembled(
        self, header: SampleHeader, member: Member, order: list[int], count: int, *, whole: bool
    ) -> PosedViews:
        """The first `count` readable views of `order`; with `whole`, a broken one is an error."""
        size = self.size or header.size

        def read(view: int) -> tuple[Tensor, Tensor]:
            return decoded_view(header, view, member, size)

        found = readable_views(order, count, read, name=header.name, skipped=self.skipped, whole=whole)
        try:
            if not found:
                raise none_readable(header.name, order, self.skipped)
            chosen = [view for view, _ in found]
            cameras, scale = _moved(header, chosen)
            return PosedViews(
                rgb=torch.stack([rgb for _, (rgb, _) in found]),
                mask=torch.stack([mask for _, (_, mask) in found]),
                cameras=cameras,
                name=header.name,
                upright=header.upright,
                depth=_depth(header, chosen, member, size, scale),
            )
        except UpFusionError as error:
            note(self.skipped, header.name, str(error))
            raise

    def _header(self, index: int) -> tuple[SampleHeader, Member]:
        """An object's header, and its members as a function; what is damaged is noted."""
        index = range(len(self))[index]  # raises IndexError, so that iteration ends
        number = int(np.searchsorted(self._ends, index, side="right"))
        shard, place = self._shards[number], index - (self._ends[number - 1] if number else 0)
        samples, item = self._opened(number), f"{shard.path.name} object {place}"
        try:
            if place >= len(samples):
                raise InputError(f"{shard.path.name} must hold {shard.objects} objects, but {len(samples)} can be read")
            sample = samples[place]

            def member(ending: str) -> bytes:
                return _content(shard.path, sample, ending)

            return decoded_header(member("json")), member
        except UpFusionError as error:
            note(self.skipped, item, str(error))
            raise

    def _opened(self, number: int) -> list[Sample]:
        """The samples of a shard; those of the shards used last are remembered."""
        with self._lock:
            if number in self._samples:
                self._samples.move_to_end(number)
                return self._samples[number]
            shard = self._shards[number]
            samples, trouble = samples_of(shard.path)
            if trouble:
                note(self.skipped, shard.path.name, trouble)
            self._samples[number] = samples
            if len(self._samples) > _REMEMBERED_SHARDS:
                self._samples.popitem(last=False)
            return samples

    def _numbers(self, shard: int) -> Tensor:
        return torch.arange(self._ends[shard - 1] if shard else 0, self._ends[shard])


def _content(path: Path, sample: Sample, ending: str) -> bytes:
    """One member of a sample. Raises InputError if there is none, or it cannot be read."""
    if ending not in sample.members:
        raise InputError(f"its {ending} is missing; pack it again")
    first, size = sample.members[ending]
    if size > _LARGEST_MEMBER:
        raise InputError(f"its {ending} has {size} bytes, more than anything that is packed; pack it again")
    try:
        with path.open("rb") as file:
            file.seek(first)
            return file.read(size)
    except OSError as error:
        raise InputError(f"{path.name} cannot be read ({error.strerror}); copy it again") from error


def _moved(header: SampleHeader, chosen: list[int]) -> tuple[Cameras, float]:
    """Cameras of the chosen views in the world of the first of them, and that world's unit; see PosedViews.chosen."""
    if chosen[0] == 0:
        return header.cameras[torch.tensor(chosen)], 1.0
    up = torch.tensor([0.0, 1.0, 0.0]) if header.upright else None
    cameras, move = normalise(header.cameras[torch.tensor(chosen)], center=torch.zeros(3), up=up)
    return cameras, move.scale


def _depth(header: SampleHeader, chosen: list[int], member: Member, size: int, scale: float) -> Tensor | None:
    """(N, 1, size, size) depths, or None where they were not packed."""
    if not header.depth:
        return None
    return torch.stack([decoded_depth(header, view, member, size) for view in chosen]) * scale
