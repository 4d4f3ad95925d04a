"""The nodes: thin shells that convert ComfyUI's values, call upfusion_core, and convert back."""

from __future__ import annotations

OLDEST_COMFYUI = "0.22.0"


def require_comfyui() -> None:
    """Raises ImportError, which says what to do, unless ComfyUI has what the nodes use."""
    try:
        from comfy_api.latest import ComfyExtension, Types, io, ui  # noqa: F401
        from folder_paths import get_output_directory, get_save_image_path  # noqa: F401

        _ = io.Autogrow, io.ComfyNode, io.File3DGLB, io.Load3DCamera, io.Mesh, io.Schema
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"UpFusion's nodes need ComfyUI {OLDEST_COMFYUI} or newer, this one lacks a part ({error}); update ComfyUI "
            "and start it again"
        ) from error


require_comfyui()  # before anything is imported from ComfyUI, so that an old one gets a readable sentence

from comfy_api.latest import ComfyExtension, io  # noqa: E402

STAGES = ("loaders", "views", "cameras", "sampling", "field", "evaluate")
"""Parts of the menu, in its order."""


class UpFusionExtension(ComfyExtension):
    """The pack's nodes; those that need a socket (NEEDS) which this ComfyUI does not have yet are left out."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The nodes that the files below define, by their part of the menu and as they stand in the file."""
        from . import cameras, evaluate, field, files, handover, pixels, sampling, views

        files.register_folder()
        nodes = [
            value
            for module in (views, cameras, sampling, field, handover, pixels, files, evaluate)
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, io.ComfyNode) and value.__module__ == module.__name__
            if all(hasattr(io, socket) for socket in getattr(value, "NEEDS", ()))
        ]
        return sorted(nodes, key=lambda node: STAGES.index(node.GET_SCHEMA().category.removeprefix("UpFusion/")))
