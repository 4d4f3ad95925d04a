"""Folders of data sets: found, listed, and told apart from files."""

from __future__ import annotations

import os
from pathlib import Path, PureWindowsPath

from ..errors import InputError


def existing_folder(root: str | os.PathLike[str]) -> Path:
    """The folder, or InputError where there is none."""
    root = Path(root)
    if not os.path.isdir(root):  # unlike Path.is_dir, this takes names that are too long for the system
        raise InputError(f"a data set is read from a folder, but {root} is none; check the path")
    return root


def inside(root: Path, name: str) -> Path:
    """`root / name`, or InputError where a list of a data set names what lies outside of it, or no file at all."""
    parts = PureWindowsPath(name)  # knows both slashes and drives, whatever the system
    if parts.drive or parts.root or ".." in parts.parts or not name.isprintable():
        raise InputError(f"a file of the data set must lie in its folder, got {name!a:.80}; correct the list")
    return root / name


def subfolders(root: Path) -> list[Path]:
    """Folders directly in `root`, hidden ones left out, in the order of their names."""
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def existing_file(*candidates: Path) -> Path | None:
    """The first of the paths that is a file and not empty, or None."""
    return next((path for path in candidates if path.is_file() and path.stat().st_size), None)
