"""Photos with known cameras in a running ComfyUI: fitted, meshed, painted and seen by its renderer."""

import numpy as np
import pytest
from comfyui_server import Server
from workflows_api import Prompt, node

pytestmark = pytest.mark.comfyui

OBJECT, VIEWS, SIZE = 4, 2, 256


def seen_by_both() -> Prompt:
    """A field of the example's photos alone and its mesh with their pixels: silhouettes of the field, and of the mesh
    by ComfyUI's renderer, from cameras between the photos."""
    photos = {"images": ("example", 0), "cameras": ("example", 5), "masks": ("example", 1)}
    surface = {"resolution": 128, "threshold": 0.0, "coloring": "vertex colors", "texture_size": 64, "faces": 20_000}
    placed = {"mesh": ("mesh", 0), "placement": ("mesh", 2)}
    orbit = {"azimuth_from": 30.0, "azimuth_to": 200.0, "elevation_from": 5.0, "elevation_to": 40.0}
    seen = {
        "example": node("UpFusionExampleViews", object=OBJECT, number=6),
        "field": node("UpFusionFitViews", **photos, seed=0),
        "mesh": node("UpFusionExtractMesh", field=("field", 0), **surface),
        "painted": node("UpFusionProjectPhotos", **placed, views=("example", 6), texture_size=1024),
        "orbit": node("UpFusionOrbitCameras", count=VIEWS, **orbit, distance=1.1, zoom=1.0),
        "ours": node("UpFusionRenderField", field=("field", 0), cameras=("orbit", 0), size=SIZE, background="white"),
        "silhouettes": node("MaskToImage", mask=("ours", 1)),
        "saved": node("SaveImage", images=("silhouettes", 0), filename_prefix="field"),
    }
    view = {"mode": "auto", "width": SIZE, "height": SIZE, "background": "#ffffff"}
    for index in range(VIEWS):
        camera = {"cameras": ("orbit", 0), "placement": ("mesh", 2), "index": index, "units": 1.0}
        seen |= {
            f"info{index}": node("UpFusionCameraToLoad3D", **camera),
            f"theirs{index}": node("RenderMesh", mesh=("painted", 0), camera_info=(f"info{index}", 0), **view),
            f"mask{index}": node("MaskToImage", mask=(f"theirs{index}", 1)),
            f"saved{index}": node("SaveImage", images=(f"mask{index}", 0), filename_prefix="mesh"),
        }
    return seen


def test_comfyui_renders_the_mesh_where_the_field_is(server: Server) -> None:
    outputs = server.run(seen_by_both(), seconds=3600)
    saved = [picture for key in ("saved", "saved0", "saved1") for picture in server.pictures(outputs[key])]
    fields, meshes = np.split(np.stack([np.asarray(picture.convert("L")) >= 128 for picture in saved]), 2)
    for field, mesh in zip(fields, meshes, strict=True):
        overlap = (field & mesh).sum() / (field | mesh).sum()
        print(f"silhouettes overlap by {overlap:.4f}")
        assert overlap >= 0.97
