"""What a command must leave alone: the files that it reads, whatever --force may replace."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import OutputError


def source_paths(settings: Mapping[str, Any], sources: Mapping[str, Any]) -> list[Path]:
    """The files and folders that a record names: all of its sources, and the settings that are absolute paths."""
    paths = [Path(name) for name in (*_texts(sources.values()), *_texts(settings.values())) if os.path.isabs(name)]
    return [path for path in paths if os.path.exists(path)]


def check_sources(folder: Path, sources: Iterable[Path], doomed: Iterable[Path]) -> None:
    """Raises OutputError if files that go, or are written anew, are sources, or lie in one that is a folder.

    Args:
        folder: of the run. A source that merely holds it, as a folder of many runs may, is not harmed.
        sources: see source_paths.
        doomed: files of the folder; those that do not exist harm nothing.
    """
    home, present = folder.resolve(), [path for path in doomed if os.path.exists(path)]
    for source in sources:
        place = source.resolve()
        whole = os.path.isdir(place) and home in (place, *place.parents)
        for path in present:
            if os.path.samefile(place, path) or (whole and place in path.resolve().parents):
                raise OutputError(f"{source} is read by this run, which would replace {path}; choose another folder")


def refuse_existing(*paths: Path, source: Path, force: bool) -> None:
    """Raises OutputError if something is at one of the paths and is not to be replaced, or is the source itself."""
    for path in paths:
        if os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source):
            raise OutputError(f"{path} is the source itself; choose another name")
        if os.path.exists(path) and not force:
            raise OutputError(f"{path} exists already; choose another name, or --force to replace it")


def _texts(values: Iterable[object]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, list | tuple):
            yield from _texts(value)
