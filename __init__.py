"""UpFusion for ComfyUI: from 1 to 6 photos without camera poses to novel views and a coloured 3D mesh."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .nodes import UpFusionExtension

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> UpFusionExtension:
    """What ComfyUI asks for the nodes. The import stands inside, so that tests may collect this folder."""
    from .nodes import UpFusionExtension

    return UpFusionExtension()
