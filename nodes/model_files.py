"""Where weights are found: the bundled model, and merged files and folders in ComfyUI's models/upfusion."""

from __future__ import annotations

import os
from pathlib import Path, PureWindowsPath

import folder_paths

from ..upfusion_core import BUNDLED_NAME, CheckpointError, check_type

FOLDER = "upfusion"
WEIGHTS_ADDRESS = "https://github.com/upfusion3d/upfusion#model-weights"
_PART_FILES = ("upsrt.pt", "upsrt.safetensors")


def register_folder() -> None:
    """Adds models/upfusion to what ComfyUI knows; paths from extra_model_paths.yaml stay."""
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))
    paths, extensions = folder_paths.folder_names_and_paths[FOLDER]
    folder_paths.folder_names_and_paths[FOLDER] = (paths, set(extensions) | {".safetensors"})


def model_names() -> list[str]:
    """The bundled model, then folders of weights and merged files by their path inside models/upfusion."""
    found = set()
    for root in _roots():
        for place, folders, files in os.walk(root, followlinks=True):
            name = Path(place).relative_to(root).as_posix()
            if name != "." and any(part in files for part in _PART_FILES):
                found.add(name)
                folders.clear()
                continue
            found |= {(Path(name) / file).as_posix() for file in files if file.endswith(".safetensors")}
    return [BUNDLED_NAME, *sorted(found)]


def model_path(name: str) -> str | Path:
    """What open_checkpoint takes for a name of model_names.

    Raises:
        CheckpointError: there is no such file or folder; the message says where it belongs and where to get it.
    """
    check_type("weights", name, str, "choose a file")
    if name == BUNDLED_NAME:
        return BUNDLED_NAME
    inside = not PureWindowsPath(name).anchor and ".." not in PureWindowsPath(name).parts
    for root in _roots():
        if inside and os.path.exists(root / name):
            return root / name
    places = " or ".join(str(root) for root in _roots())
    raise CheckpointError(
        f"{name:.200} is not in {places}; nothing is downloaded for you: get the weights through {WEIGHTS_ADDRESS}, "
        f"put the folder or the merged .safetensors there, or choose {BUNDLED_NAME}"
    )


def modification_time(name: str) -> float:
    """When the newest of the files behind a name was changed, 0 for the bundled model and for missing files."""
    path = model_path(name) if name in model_names() else BUNDLED_NAME
    if isinstance(path, str):  # the bundled model's name
        return 0.0
    files = [path, *path.iterdir()] if path.is_dir() else [path]
    return max(file.stat().st_mtime for file in files)


def _roots() -> list[Path]:
    return [Path(path) for path in folder_paths.get_folder_paths(FOLDER)]
