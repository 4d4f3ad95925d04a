"""Photos with known cameras in a running ComfyUI: fitted, meshed, painted and seen by its renderer."""

from typing import Any

import numpy as np
import pytest
from comfyui_server import Server
from PIL import Image
from workflows_api import Prompt, node

pytestmark = pytest.mark.comfyui

OBJECT, VIEWS, SIZE = 4, 2, 256


def painted_mesh() -> Prompt:
    """A field of the example's photos alone, its mesh and that with the photos' pixels."""
    photos = {"images": ("example", 0), "cameras": ("example", 5), "masks": ("example", 1)}
    surface = {"resolution": 128, "threshold": 0.0, "coloring": "vertex colors", "texture_size": 64, "faces": 20_000}
    placed = {"mesh": ("mesh", 0), "placement": ("mesh", 2)}
    return {
        "example": node("UpFusionExampleViews", object=OBJECT, number=6),
        "field": node("UpFusionFitViews", **photos, seed=0),
        "mesh": node("UpFusionExtractMesh", field=("field", 0), **surface),
        "painted": node("UpFusionProjectPhotos", **placed, views=("example", 6), texture_size=1024),
    }


def seen_by_both() -> Prompt:
    """Silhouettes of the field, and of its mesh by ComfyUI's renderer, from cameras between the photos."""
    orbit = {"azimuth_from": 30.0, "azimuth_to": 200.0, "elevation_from": 5.0, "elevation_to": 40.0}
    ours = node("UpFusionRenderField", field=("field", 0), cameras=("orbit", 0), size=SIZE, background="white")
    seen = {
        "orbit": node("UpFusionOrbitCameras", count=VIEWS, **orbit, distance=1.1, zoom=1.0),
        "ours": ours,
        "silhouettes": node("MaskToImage", mask=("ours", 1)),
        "saved": node("SaveImage", images=("silhouettes", 0), filename_prefix="field"),
    }
    for index in range(VIEWS):
        view = {"mode": "auto", "width": SIZE, "height": SIZE, "background": "#ffffff"}
        placed = {"placement": ("mesh", 2), "index": index, "units": 1.0}
        seen |= {
            f"info{index}": node("UpFusionCameraToLoad3D", cameras=("orbit", 0), **placed),
            f"theirs{index}": node("RenderMesh", mesh=("painted", 0), camera_info=(f"info{index}", 0), **view),
            f"mask{index}": node("MaskToImage", mask=(f"theirs{index}", 1)),
            f"saved{index}": node("SaveImage", images=(f"mask{index}", 0), filename_prefix="mesh"),
        }
    return seen


def test_comfyui_renders_the_mesh_where_the_field_is(server: Server) -> None:
    outputs = server.run({**painted_mesh(), **seen_by_both()}, seconds=3600)
    fields = opened(server, outputs["saved"])
    for index, field in enumerate(fields):
        (mesh,) = opened(server, outputs[f"saved{index}"])
        overlap = (field & mesh).sum() / (field | mesh).sum()
        print(f"view {index + 1}: silhouettes overlap by {overlap:.4f}")
        assert overlap >= 0.97


def opened(server: Server, output: dict[str, Any]) -> list[np.ndarray]:
    """Silhouettes of saved pictures, booleans."""
    paths = [server.base / "output" / image["filename"] for image in output["images"]]
    return [np.asarray(Image.open(path).convert("L")) >= 128 for path in paths]
