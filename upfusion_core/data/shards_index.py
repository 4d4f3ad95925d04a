"""Where things lie in WebDataset shards: the list of shards of a set, and the members of one."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

from ..errors import InputError
from ..json_text import read_json, shown

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
