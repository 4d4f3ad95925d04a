"""WebDataset shards of whole objects: packing them, any object by its number, and an order shard after shard.

A shard is a tar file; an object's sample is `<key>.json` with its cameras, `<key>.<view>.rgb.<ending>`,
`<key>.<view>.mask.<ending>` and, where depths were packed, `<key>.<view>.depth.npy`. `index.json` lists the shards.
"""

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Le, MaxLen, MinLen
from PIL import Image
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as pydantic_dataclass
from torch import Tensor
from torch.nn.functional import interpolate

from ..config import from_value
from ..support.decoding import rgba
from ..support.errors import InputError, UpFusionError
from ..support.files import Remote, Writing, inside, located, parse_json, read_json, reading, shown
from ..support.images import resize_pictures, to_8bit
from ..types import Cameras, OnStep
from .views import UP, MultiViewDataset, PosedViews, StoredObject, StoredViews, decoded_array, normalise, note

INDEX_NAME = "index.json"
UNFINISHED_NAME = "packing.json"  # stands beside the shards until all are written
MIXED_SHARDS = 8  # neighbours in the order of a pass whose objects are mixed
FORMAT, _VERSION = "upfusion-shards", 1
_LEAST_OBJECT = 1024  # bytes of an object, which has at least one member and its header
_LARGEST_MEMBER = 128_000_000  # bytes of a member that was packed by us
_REMEMBERED_SHARDS = 64  # of which the places of all members are kept, a few MB each at most

PictureFormat = Literal["png", "webp", "jpeg"]
# of an object: the members of its sample by the part of their names after the key, or None; what was left out for it
Encoded = tuple[dict[str, bytes] | None, list[tuple[str, str]]]
_SAVING: dict[str, dict[str, Any]] = {
    "png": {"format": "PNG", "compress_level": 6},
    "webp": {"format": "WEBP", "lossless": True, "quality": 50},  # of lossless WebP: effort
    "jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
}


@dataclass(frozen=True)
class Shard:
    """One tar file, how many objects it is said to hold, and how many bytes it is said to have."""

    path: Path | Remote
    objects: int
    size: int


def index_content(shards: list[dict[str, Any]], facts: dict[str, Any]) -> dict[str, Any]:
    """What `index.json` holds: name, objects and bytes of each shard, and what else is worth knowing."""
    objects = sum(shard["objects"] for shard in shards)
    return {"format": FORMAT, "version": _VERSION, "objects": objects, "shards": shards, **facts}


def listed_shards(root: Path | Remote, skipped: list[tuple[str, str]]) -> list[Shard]:
    """The shards of a folder by its index, else all its tar files, the hidden ones being unfinished; or one tar file.

    `skipped` takes shards that are missing or shorter than the index says. InputError if the index is damaged, packing
    has not ended, or no shard with an object is left.
    """
    shards, path = list[Shard](), root / INDEX_NAME
    if path.is_file():
        content = read_json(path)
        known = isinstance(content, dict) and (content.get("format"), content.get("version")) == (FORMAT, _VERSION)
        entries = content.get("shards") if known else None
        if not isinstance(entries, list):
            wanted = f'an index of shards ("{FORMAT}", version {_VERSION}, a list of shards)'
            raise InputError(f"{path} must be {wanted}, got {shown(content, 80)}; pack the set again")
        for shard in [shard_entry(root, entry) for entry in entries]:
            # unlike pathlib's, also false for names that no file can have
            if not (shard.path.is_file() if isinstance(shard.path, Remote) else os.path.isfile(shard.path)):
                skipped.append((shard.path.name, "it is missing"))
                continue
            size = shard.path.stat().st_size
            if size != shard.size:  # what is whole in it can still be read
                skipped.append((shard.path.name, f"it has {size} bytes, not the {shard.size} that were packed"))
            shards.append(Shard(shard.path, min(shard.objects, max(1, size // _LEAST_OBJECT)), size))
    elif (root / UNFINISHED_NAME).is_file():
        raise InputError(f"{root} is not packed to the end; finish it by: upfusion pack --resume -o {root}")
    else:
        for path in [root] if root.is_file() else sorted(root.glob("[!.]*.tar"), key=str):
            if path.is_file() and (samples := samples_of(path, skipped)):
                shards.append(Shard(path, len(samples), path.stat().st_size))
    if not shards:
        item, reason = skipped[-1] if skipped else (str(root), "it has no .tar files")
        raise InputError(f"{root} must hold shards with objects, got none: {item}: {reason}; pack or copy it again")
    return shards


def shard_entry(root: Path | Remote, entry: object) -> Shard:
    """One entry of the index in `root`; shards lie beside it, nowhere else."""
    match entry:
        case {"name": str(name), "objects": int(objects), "bytes": int(size)} if 0 < objects <= size // _LEAST_OBJECT:
            return Shard(root / inside(Path(), name).as_posix(), objects, size)
    wanted = '{"name", "objects", "bytes"} and large enough for its objects'
    raise InputError(f"{root}: a shard must be {wanted}, got {shown(entry, 80)}; pack the set again")


@dataclass(frozen=True)
class Sample:
    """An object's members by the part of their names after the key: (first byte, number of bytes) in the shard."""

    shard: Path | Remote
    members: dict[str, tuple[int, int]]

    def read(self, ending: str) -> bytes:
        if ending not in self.members:
            raise InputError(f"its {ending} is missing; pack it again")
        first, size = self.members[ending]
        if size > _LARGEST_MEMBER:
            raise InputError(f"its {ending} has {size} bytes, more than anything that is packed; pack it again")
        with reading(self.shard.name, "copy it again"):
            if isinstance(self.shard, Remote):
                return self.shard.read_bytes(first, first + size)
            return np.fromfile(self.shard, np.uint8, size, offset=first).tobytes()


def samples_of(path: Path | Remote, skipped: list[tuple[str, str]]) -> list[Sample]:
    """The complete samples of a shard in their order; `skipped` takes what ends the list early.

    Only headers are read. Links, sparse files and folders are passed over: they hold no content of their own.
    """
    samples: dict[str, Sample] = {}
    try:
        with reading("it", "copy it again", what="an uncompressed tar file"), path.open("rb") as file:
            length = path.stat().st_size
            with tarfile.open(fileobj=file, mode="r:") as archive:
                while (member := archive.next()) is not None:
                    vars(archive)["members"] = []  # it would keep them all
                    if not 0 <= member.size <= length - member.offset_data:
                        raise InputError("it is cut short or damaged; copy it again")
                    key, _, ending = PurePosixPath(member.name).name.partition(".")
                    if member.isreg() and not member.issparse() and ending:
                        sample = samples.setdefault(f"{PurePosixPath(member.name).parent}/{key}", Sample(path, {}))
                        sample.members[ending] = (member.offset_data, member.size)
                file.seek(archive.offset)
            block = file.read(tarfile.BLOCKSIZE)
            if not block or any(block):
                raise InputError("it is cut short or damaged; copy it again")
    except InputError as error:
        note(skipped, path.name, str(error))
    return list(samples.values())


# entries that later releases add are passed over
@pydantic_dataclass(frozen=True, config=ConfigDict(strict=True, allow_inf_nan=False))
class SampleHeader:
    """What a sample's JSON says; `size`: the pictures' side in pixels; `pictures`: the ending of those of colours."""

    name: Annotated[str, MinLen(1), MaxLen(500)]
    upright: bool
    depth: bool
    size: Annotated[int, Ge(1), Le(4096)]
    pictures: PictureFormat
    camera_to_world: Annotated[list[list[list[float]]], MinLen(1), MaxLen(10_000)]
    focal: list[list[float]]
    principal: list[list[float]]


def encoded(
    dataset: MultiViewDataset,
    index: int,
    pictures: PictureFormat = "png",
    depth: bool = False,
    views: int | None = None,
) -> Encoded:
    """What `pack_shards` takes of an object.

    pictures: of the colours; PNG and WebP keep every 8-bit value, "jpeg" keeps masks as PNG. depth: whether depths are
    packed, where there are any. views: at most so many, spread evenly, the first still the reference; None keeps all.
    """
    known = len(dataset.skipped)
    try:
        example = dataset[index]
        if views is not None and views < len(example):
            example = example.chosen([view * len(example) // views for view in range(views)])
    except UpFusionError as error:
        if known == len(dataset.skipped):
            note(dataset.skipped, f"object {index}", str(error))
        return None, dataset.skipped[known:]
    cameras, depths = example.cameras, example.depth if depth else None
    header = {"name": example.name, "upright": example.upright, "depth": depths is not None}
    header |= {"size": example.rgb.shape[-1], "pictures": pictures}
    header |= {name: value.tolist() for name, value in vars(cameras).items()}
    masks = "png" if pictures == "jpeg" else pictures
    members = {"json": json.dumps(header).encode("utf-8")}
    for view in range(len(example)):
        members[f"{view:03d}.rgb.{pictures}"] = _encoded(example.rgb[view], pictures)
        members[f"{view:03d}.mask.{masks}"] = _encoded(example.mask[view], masks)
        if depths is not None:
            stream = io.BytesIO()
            np.save(stream, depths[view, 0].numpy(), allow_pickle=False)
            members[f"{view:03d}.depth.npy"] = stream.getvalue()
    return members, dataset.skipped[known:]


def _encoded(picture: Tensor, pictures: str) -> bytes:
    """(3 or 1, S, S) in [0, 1] -> a file's content."""
    values, stream = to_8bit(picture.permute(1, 2, 0)), io.BytesIO()
    Image.fromarray(values if values.shape[-1] == 3 else values[..., 0]).save(stream, **_SAVING[pictures])
    return stream.getvalue()


def _decoded(content: bytes, mode: str, size: int) -> Tensor:
    """A file's content -> (3 or 1, S, S) in [0, 1]; its size is looked at before anything is unpacked."""
    known = tuple(saving["format"] for saving in _SAVING.values())
    with reading("a picture", "pack it again"), Image.open(io.BytesIO(content), formats=known) as picture:
        if picture.size != (size, size):
            raise InputError(f"its pictures must be {size} pixels a side, got {picture.size}; pack it again")
        values = rgba(picture, "a picture")[..., :3] if mode == "RGB" else np.array(picture.convert("L"))
    tensor = torch.from_numpy(values).float() / 255
    return tensor.permute(2, 0, 1) if mode == "RGB" else tensor[None]


@dataclass
class PackState:
    """How far packing has come. place: objects tried. shards: name, objects and bytes of each that is complete."""

    place: int = 0
    shards: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[list[str]] = field(default_factory=list)


def pack_shards(
    encode: Callable[[Sequence[int]], Iterator[Encoded]],
    indices: Sequence[int],
    writing: Writing,
    state: PackState,
    *,
    shard_bytes: int = 512_000_000,
    on_shard: Callable[[PackState], None] | None = None,
    on_step: OnStep | None = None,
) -> None:
    """Writes objects as `shard-000000.tar`, ...; those that cannot be read are left out and noted.

    The same data give the same bytes, so packing that was stopped may go on from the state after its last shard.

    Args:
        encode: gives `encoded` of objects in their order.
        state: to go on from; it is changed. on_shard: called with it after each shard.
        shard_bytes: what a shard exceeds only with a single object.

    InputError if no object could be read.
    """
    samples = _samples(encode(indices[state.place :]), state, len(indices), on_step or (lambda *_: None))
    pending = next(samples, None)
    while pending is not None:
        name, objects = f"shard-{len(state.shards):06d}.tar", 0
        with writing(name) as path:
            with tarfile.open(path, "w") as tar:
                while pending is not None and (not objects or tar.offset + pending[2] <= shard_bytes):
                    place, members, _ = pending
                    for ending, content in sorted(members.items()):  # as webdataset's TarWriter would
                        info = tarfile.TarInfo(f"{place:09d}.{ending}")
                        info.size, info.mode, info.uname, info.gname = len(content), 0o444, "bigdata", "bigdata"
                        tar.addfile(info, io.BytesIO(content))
                    objects += 1
                    pending = next(samples, None)
            size = path.stat().st_size
        state.shards.append({"name": name, "objects": objects, "bytes": size})
        state.place = len(indices) if pending is None else pending[0]
        if on_shard is not None:
            on_shard(state)
    if not state.shards:
        item, reason = state.skipped[-1] if state.skipped else ("all", "there are none")
        raise InputError(f"none of {len(indices)} objects could be read, the last because {item}: {reason}")


def _samples(
    found: Iterator[Encoded], state: PackState, count: int, on_step: OnStep
) -> Iterator[tuple[int, dict[str, bytes], int]]:
    """Place, members and bytes in a tar file of each object that can be read."""
    block = tarfile.BLOCKSIZE  # a header has one, and contents are filled up to whole ones
    for place, (members, left_out) in enumerate(found, state.place):
        state.skipped += [entry for entry in map(list, left_out) if entry not in state.skipped]
        if members is not None:
            yield place, members, sum(block + -(-len(content) // block) * block for content in members.values())
        on_step(place + 1, count, None)


class ShardedViews(StoredViews):
    """Objects packed by `upfusion pack`, which several threads may read; nothing in it is ever run.

    What is missing, cut short or damaged is left out and noted in `skipped`. root: a folder of shards, with or without
    the index that `upfusion pack` writes, or one .tar file, or an address of fsspec of either. size: side of the views
    in pixels; None keeps the packed one. InputError as of `listed_shards`.
    """

    def __init__(self, root: str | os.PathLike[str], *, size: int | None = None) -> None:
        super().__init__()
        with reading(root, "check the address"):
            self.size, self._shards = size, listed_shards(located(root), self.skipped)
        self._ends = list(accumulate(shard.objects for shard in self._shards))
        self._samples = lru_cache(_REMEMBERED_SHARDS)(partial(samples_of, skipped=self.skipped))

    def __len__(self) -> int:
        return self._ends[-1]

    def view_count(self, index: int) -> int:
        return self._stored(index).views

    def order(self, generator: torch.Generator) -> Tensor:
        """(len,) every object's number once: shards in random order, as slow disks want it, some neighbours mixed."""
        numbers = torch.arange(len(self)).split([shard.objects for shard in self._shards])
        shards = torch.randperm(len(numbers), generator=generator).tolist()
        parts = []
        for begin in range(0, len(shards), MIXED_SHARDS):
            mixed = torch.cat([numbers[shard] for shard in shards[begin : begin + MIXED_SHARDS]])
            parts.append(mixed[torch.randperm(len(mixed), generator=generator)])
        return torch.cat(parts)

    def _stored(self, index: int) -> StoredObject:
        index = range(len(self))[index]  # raises IndexError, so that iteration ends
        number = int(np.searchsorted(self._ends, index, side="right"))
        shard, place = self._shards[number], index - (self._ends[number - 1] if number else 0)
        samples = self._samples(shard.path)
        try:
            if place >= len(samples):
                raise InputError(f"{shard.path.name} must hold {shard.objects} objects, but {len(samples)} can be read")
            sample = samples[place]
            with reading("its cameras", "pack it again", what="JSON"):
                text = sample.read("json").decode("utf-8-sig")
            header: SampleHeader = from_value(SampleHeader, parse_json(text, "its cameras"), "its cameras")
            with reading("its cameras", "pack it again", what="lists of numbers"):
                cameras = Cameras(*map(torch.tensor, (header.camera_to_world, header.focal, header.principal)))
        except UpFusionError as error:
            note(self.skipped, f"{shard.path.name} object {place}", str(error))
            raise
        size, masks = self.size or header.size, "png" if header.pictures == "jpeg" else header.pictures

        def read(view: int) -> tuple[Tensor, Tensor]:
            rgb = _decoded(sample.read(f"{view:03d}.rgb.{header.pictures}"), "RGB", header.size)
            mask = _decoded(sample.read(f"{view:03d}.mask.{masks}"), "L", header.size)
            return resize_pictures(rgb[None], size)[0], resize_pictures(mask[None], size)[0]

        def depth_of(view: int) -> Tensor:
            name = f"{view:03d}.depth.npy"
            depth = decoded_array(sample.read(name), (header.size, header.size), name)
            if depth.min() < 0:
                raise InputError(f"{name} must be at least 0, got {depth.min()}; pack it again")
            depths = torch.from_numpy(depth[None, None].astype(np.float32))
            return interpolate(depths, size=(size, size), mode="nearest-exact")[0]

        def join(chosen: list[int], found: list[tuple[Tensor, Tensor]]) -> PosedViews:
            seen, scale, depth = cameras[torch.tensor(chosen)], 1.0, None
            if chosen[0] != 0:  # the world of the first of them; see PosedViews.chosen
                seen, move = normalise(seen, center=torch.zeros(3), up=UP if header.upright else None)
                scale = move.scale
            if header.depth:
                depth = torch.stack([depth_of(view) for view in chosen]) * scale
            rgb, mask = (torch.stack(pictures) for pictures in zip(*found, strict=True))
            return PosedViews(rgb, mask, seen, header.name, upright=header.upright, depth=depth)

        return StoredObject(header.name, len(cameras), read, join)
