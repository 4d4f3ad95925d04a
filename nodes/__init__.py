"""The nodes: thin shells that convert ComfyUI's values, call upfusion_core, and convert back."""

from __future__ import annotations

import importlib

OLDEST_COMFYUI = "0.22.0"
_NEEDED = {
    "comfy_api.latest": ("ComfyExtension", "Types", "io", "ui"),
    "comfy_api.latest.io": ("Autogrow", "ComfyNode", "File3DGLB", "Load3DCamera", "Mesh", "Schema"),
    "folder_paths": ("get_full_path_or_raise", "get_output_directory"),
}


def require_comfyui(needed: dict[str, tuple[str, ...]] = _NEEDED) -> None:
    """Raises ImportError unless ComfyUI has what is needed: names by their module, or by an attribute of one."""
    missing = [f"{home}.{name}" for home, names in needed.items() for name in names if not hasattr(_found(home), name)]
    if missing:
        raise ImportError(
            f"UpFusion's nodes need ComfyUI {OLDEST_COMFYUI} or newer, this one lacks {', '.join(missing)}; "
            "update ComfyUI and start it again"
        )


def _found(home: str) -> object:
    """The module, or the module's attribute, as comfy_api.latest.io is one; None if there is no such thing."""
    parent, _, last = home.rpartition(".")
    try:
        return importlib.import_module(home)
    except ModuleNotFoundError:
        return getattr(_found(parent), last, None) if parent else None


require_comfyui()  # before anything is imported from ComfyUI, so that an old one gets a readable sentence

from comfy_api.latest import ComfyExtension, io  # noqa: E402

STAGES = ("loaders", "views", "cameras", "sampling", "field", "evaluate")
"""Parts of the menu, in its order."""


class UpFusionExtension(ComfyExtension):
    """The pack's nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The nodes that the files below define, by their part of the menu and as they stand in the file."""
        from . import cameras, evaluate, field, files, sampling, views

        files.register_folder()
        nodes = [
            value
            for module in (views, cameras, sampling, field, files, evaluate)
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, io.ComfyNode) and value.__module__ == module.__name__
        ]
        return sorted(nodes, key=lambda node: STAGES.index(node.GET_SCHEMA().category.removeprefix("UpFusion/")))
