"""Names of files in ComfyUI's output and input folders, none of which leads out of them."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from ..upfusion_core import InputError, check_file_name, check_type

SUFFIX = ".safetensors"
_DEPTH = 2
"""Folders inside folders that are searched for fields; output folders may hold very many pictures."""


def next_output(prefix: str, suffix: str) -> tuple[Path, dict[str, str]]:
    """Where the next file of `prefix` goes, numbered like those of ComfyUI's own nodes, and how its server finds it.

    Args:
        prefix: a name, or folders and a name, inside the output folder; %date% and the like are replaced by ComfyUI.
        suffix: with its dot.
    """
    if not prefix.strip() or prefix.endswith(("/", "\\")):
        raise InputError(f"filename_prefix must end in a name, got {prefix!r}; give one such as 3d/UpFusion")
    inside(folder_paths.get_output_directory(), prefix, "filename_prefix")
    for part in prefix.replace("\\", "/").split("/"):
        if part not in ("", "."):
            check_file_name(part, "filename_prefix")
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, folder_paths.get_output_directory())
    file = f"{name}_{counter:05}_{suffix}"
    inside(folder_paths.get_output_directory(), os.path.join(subfolder, file), "filename_prefix")
    return Path(folder) / file, {"filename": file, "subfolder": subfolder, "type": "output"}


def field_names() -> list[str]:
    """Files that may be fields: those in the input folder, then those in the output folder, marked as such."""
    kept = _files(folder_paths.get_input_directory())
    made = [f"{name} [output]" for name in _files(folder_paths.get_output_directory())]
    return kept + made


def field_path(name: str) -> Path:
    """The file of a name that `field_names` gave.

    Raises:
        InputError: the name leads out of the folders, is no field's, or nothing is there.
    """
    check_type("field", name, str, "choose a file")
    marked = name.endswith(" [output]")
    folder = folder_paths.get_output_directory() if marked else folder_paths.get_input_directory()
    path = inside(folder, name.removesuffix(" [output]"), "field")
    if path.suffix != SUFFIX or not path.is_file():
        raise InputError(f"field must name a {SUFFIX} file in the input or output folder, got {name!r}; choose another")
    return path


def inside(folder: str, name: str, label: str) -> Path:
    """The path of `name` in `folder`, if it stays there."""
    home = os.path.abspath(folder)
    path = os.path.abspath(os.path.join(home, name.replace("\\", "/")))
    if "\0" in name or not path.startswith(home + os.sep):
        raise InputError(f"{label} must stay inside ComfyUI's folder, got {name!r}; leave out leading slashes and '..'")
    return Path(path)


def _files(folder: str) -> list[str]:
    found = []
    for place, folders, names in os.walk(folder):
        shown = os.path.relpath(place, folder)
        if shown.count(os.sep) + (shown != ".") >= _DEPTH:
            folders.clear()
        found += [os.path.normpath(os.path.join(shown, name)) for name in names if name.endswith(SUFFIX)]
    return sorted(name.replace(os.sep, "/") for name in found)
