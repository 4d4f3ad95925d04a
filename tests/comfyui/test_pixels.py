"""Photos with known cameras in a running ComfyUI: fitted, meshed, painted, seen by its renderer, saved, read back."""

import shutil
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


def test_comfyui_renders_the_mesh_where_the_field_is_and_a_data_set_comes_back(server: Server) -> None:
    """Silhouettes overlap by .97; the photos' cameras are read again from the data set that was written."""
    kept = {"images": ("example", 0), "cameras": ("example", 5), "masks": ("example", 1), "filename_prefix": "set"}
    points = {"mesh": ("painted", 0), "placement": ("mesh", 2)}
    data = {"set": node("UpFusionSaveDataset", **kept, **points, format="nerfstudio")}
    outputs = server.run({**painted_mesh(), **seen_by_both(), **data}, seconds=3600)
    fields = opened(server, outputs["saved"])
    for index, field in enumerate(fields):
        (mesh,) = opened(server, outputs[f"saved{index}"])
        overlap = (field & mesh).sum() / (field | mesh).sum()
        print(f"view {index + 1}: silhouettes overlap by {overlap:.4f}")
        assert overlap >= 0.97
    (name,) = outputs["set"]["text"]
    shutil.copytree(server.base / name, server.base / "input" / "set")
    files = "\n".join(f"set/images/view_{place:03}.png" for place in range(1, 7))
    chosen = {"path": "set/transforms.json", "photos": files, "views": ("prepared", 2)}
    back = {
        "prepared": node("UpFusionPrepareViews", **{"images.image0": ("example", 0)}, invert_mask=False, margin=1.15),
        "read": node("UpFusionLoadCameras", **chosen),
        "told": node("PreviewAny", source=("read", 2)),
        "again": node("UpFusionProjectPhotos", **points | {"mesh": ("mesh", 0)}, views=("read", 1), texture_size=64),
        "file": node("UpFusionSaveMesh", mesh=("again", 0), format="glb", filename_prefix="again"),
    }
    assert server.run({**painted_mesh(), **back})["file"]["3d"]


def opened(server: Server, output: dict[str, Any]) -> list[np.ndarray]:
    """Silhouettes of saved pictures, booleans."""
    paths = [server.base / "output" / image["filename"] for image in output["images"]]
    return [np.asarray(Image.open(path).convert("L")) >= 128 for path in paths]
