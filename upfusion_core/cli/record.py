"""Reading a run's record, which people edit by hand and pass on: what is no record of ours is told from one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from types import UnionType
from typing import Any, Union, get_args, get_origin

from ..errors import InputError
from ..json_text import read_json

RECORD_NAME = "run.json"

_SECTIONS = {"command": str, "settings": dict, "sources": dict, "inputs": dict, "timings_seconds": dict}
_LISTS = ("stages", "files", "temporary_files")


def read_record(path: Path) -> dict[str, Any] | None:
    """The record in a file; None where it cannot be read, or a section that every record has is missing or another."""
    try:
        record = read_json(path)
    except InputError:
        return None
    if not isinstance(record, dict):
        return None
    sections = all(isinstance(record.get(name), kind) for name, kind in _SECTIONS.items())
    lists = all(is_of_kind(record.get(name), list[str]) for name in _LISTS)
    timings = sections and all(is_of_kind(value, float) for value in record["timings_seconds"].values())
    return record if sections and lists and timings else None


def listed_files(folder: Path, record: Mapping[str, Any]) -> list[Path]:
    """The files that the record lists, and itself; a record that was tampered with lists none outside the folder."""
    home = folder.resolve()
    found = []
    for name in (*record["files"], *record["temporary_files"], RECORD_NAME):
        parts = PureWindowsPath(name)  # knows both slashes and drives, whatever the system
        path = folder / name
        if name and not parts.drive and not parts.root and ".." not in parts.parts and "\0" not in name:
            place = path.parent.resolve()  # a folder in it may be a link that leads elsewhere
            if place == home or home in place.parents:
                found.append(path)
    return found


def is_of_kind(value: object, kind: Any) -> bool:  # noqa: ANN401 - any annotation
    """Whether a JSON value fits the annotation of a settings' field, such as `int | None` or `tuple[str, ...]`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(is_of_kind(value, part) for part in arguments)
    if origin in (list, tuple):
        return isinstance(value, list | tuple) and all(is_of_kind(item, arguments[0]) for item in value)
    if kind in (int, float):
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and -(2**63) < value < 2**63
        return is_number and (kind is float or isinstance(value, int))
    return isinstance(value, kind)
