"""What the nodes need of the ComfyUI they run in; a ComfyUI without it is told apart by one readable sentence."""

from __future__ import annotations

import importlib

OLDEST_COMFYUI = "0.22.0"
_NAMES = {
    "comfy_api.latest": ("ComfyExtension", "Types", "io", "ui"),
    "comfy_api.latest.io": ("Autogrow", "ComfyNode", "File3DGLB", "Load3DCamera", "Mesh", "Schema"),
    "folder_paths": ("get_full_path_or_raise", "get_output_directory"),
}


def require_comfyui(names: dict[str, tuple[str, ...]] = _NAMES) -> None:
    """Checks that ComfyUI has what the nodes use.

    Args:
        names: module, or attribute of a module, -> names it must have.

    Raises:
        ImportError: it has not; the message names what is missing and the oldest ComfyUI that works.
    """
    for home, wanted in names.items():
        missing = [name for name in wanted if not hasattr(_found(home), name)]
        if missing:
            raise ImportError(_sentence(", ".join(f"{home}.{name}" for name in missing)))


def _found(home: str) -> object:
    try:
        return importlib.import_module(home)
    except ModuleNotFoundError as error:
        parent, _, last = home.rpartition(".")
        if error.name == home and parent:  # not a module of its own: an attribute, as comfy_api.latest.io is
            return getattr(importlib.import_module(parent), last, None)
        raise ImportError(_sentence(error.name or home)) from error


def _sentence(missing: str) -> str:
    return (
        f"UpFusion's nodes need ComfyUI {OLDEST_COMFYUI} or newer, this one lacks {missing}; "
        "update ComfyUI and start it again"
    )
