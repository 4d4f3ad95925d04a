"""Reading a run's record, which people edit by hand and pass on: what is no record of ours is told from one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from types import UnionType
from typing import Any, Union, get_args, get_origin

from ..errors import InputError, OutputError
from ..json_text import read_json, shown

RECORD_NAME = "run.json"

_SECTIONS = {"command": str, "settings": dict, "sources": dict, "inputs": dict, "timings_seconds": dict}
_LISTS = ("stages", "files", "temporary_files")


def read_record(path: Path) -> dict[str, Any] | None:
    """The record in a file; None where it cannot be read, or a section that every record has is missing or another.

    What it lists as a file is no temporary one, whatever else it says.
    """
    try:
        record = read_json(path, halves=True)
    except InputError:
        return None
    if not isinstance(record, dict):
        return None
    sections = all(isinstance(record.get(name), kind) for name, kind in _SECTIONS.items())
    lists = all(is_of_kind(record.get(name), list[str]) for name in _LISTS)
    timings = sections and all(is_of_kind(value, float) for value in record["timings_seconds"].values())
    if not (sections and lists and timings):
        return None
    kept = {Path(name) for name in record["files"]}
    record["temporary_files"] = [name for name in record["temporary_files"] if Path(name) not in kept]
    return record


def listed_files(folder: Path, record: Mapping[str, Any]) -> list[Path]:
    """The files that the record lists, and itself; a record that was tampered with lists none outside the folder."""
    found = (inside(folder, name) for name in (*record["files"], *record["temporary_files"], RECORD_NAME))
    return [path for path in found if path is not None]


def check_listed(folder: Path, record: Mapping[str, Any]) -> None:
    """Raises OutputError if a record lists what is no file of its folder; continuing its run would remove that."""
    for name in (*record["files"], *record["temporary_files"]):
        if inside(folder, name) is None:
            raise OutputError(
                f"{folder / RECORD_NAME} must list files of its folder, got {shown(name)}; correct it there, "
                "or use --force to begin anew"
            )


def inside(folder: Path, name: str) -> Path | None:
    """The path of the file `name` of a folder; None if it is elsewhere, a folder, or no name."""
    parts = PureWindowsPath(name)  # knows both slashes and drives, whatever the system
    if not name or parts.drive or parts.root or ".." in parts.parts or "\0" in name:
        return None
    path, home = folder / name, folder.resolve()
    place = path.parent.resolve()  # a folder in it may be a link that leads elsewhere
    is_folder = os.path.isdir(path) and not os.path.islink(path)
    return path if home in (place, *place.parents) and not is_folder else None


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
