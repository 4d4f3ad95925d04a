"""The 3D nodes and all long ones in a running ComfyUI: Cancel, memory, and what ComfyUI's own nodes make of results."""

from __future__ import annotations

import time
from typing import Any

import pytest
from comfyui_server import Server
from workflows_api import Prompt, node, one_box, sampled, scene

pytestmark = pytest.mark.comfyui

CANCEL_SECONDS = 1.0
MINI: dict[str, Any] = {"weights": "mini", "cameras": 2}
LOADED: Prompt = {"field": node("UpFusionLoadField", field="round.safetensors")}


def distilled(seed: int = 0, preset: str = "reference", steps: int = 1) -> Prompt:
    """A field by the bundled model, hardly begun unless there are more steps, and a small picture of it."""
    settings = {"preset": preset, "steps": steps, "guidance": 3.0, "seed": seed}
    inputs = {"upfusion_model": ("model", 0), "model": ("model", 1), "vae": ("model", 3), "scene": ("scene", 0)}
    return {**scene(**MINI), "field": node("UpFusionDistill", **inputs, **settings), **rendered(32)}


def rendered(size: int, cameras: str = "cameras") -> Prompt:
    """Pictures of the node `field`."""
    inputs = {"field": ("field", 0), "cameras": (cameras, 0), "size": size, "background": "black"}
    return {
        f"render{size}": node("UpFusionRenderField", **inputs),
        f"seen{size}": node("PreviewImage", images=(f"render{size}", 2)),
    }


def extracted(resolution: int, coloring: str = "vertex colors", texture_size: int = 64, field: str = "field") -> Prompt:
    """The surface of a field, written to a file."""
    settings = {"coloring": coloring, "texture_size": texture_size, "faces": 0, "threshold": 12.0}
    return {
        "mesh": node("UpFusionExtractMesh", field=(field, 0), resolution=resolution, **settings),
        "ours": node("UpFusionSaveMesh", mesh=("mesh", 0), format="ply", filename_prefix="ours"),
    }


def predicted(size: int) -> Prompt:
    """The scene transformer's own views."""
    inputs = {"upfusion_model": ("model", 0), "scene": ("scene", 0), "cameras": ("cameras", 0), "size": size}
    return {"ghost": node("UpFusionPredictViews", **inputs), "shown": node("PreviewImage", images=("ghost", 0))}


LONG: dict[str, Prompt] = {
    "UpFusionDistill": distilled(seed=7, preset="draft", steps=0),
    "UpFusionDistill, reference": distilled(seed=7, steps=0),
    "UpFusionRenderField": {**scene(**MINI), **LOADED, **rendered(2048)},
    "UpFusionRenderField, distilled": {**distilled(), **rendered(2048)},
    "UpFusionExtractMesh": {**LOADED, **extracted(1024)},
    "UpFusionExtractMesh, texture": {**LOADED, **extracted(96, "texture", 8192)},
    "UpFusionPredictViews": {**scene(**MINI), **predicted(1024)},
    "KSampler": sampled(900, **MINI),
    "UpFusionSampleViews": one_box(900, **MINI),
}


@pytest.mark.parametrize("name", LONG)
def test_cancel_stops_within_a_second_the_next_prompt_runs_and_memory_is_back(server: Server, name: str) -> None:
    server.run({**distilled(), **predicted(64)})
    before = server.anonymous_bytes()
    running = server.queue(LONG[name])
    time.sleep(4)
    assert server.interrupted_after(running) < CANCEL_SECONDS
    server.run({**distilled(), **predicted(80)})
    assert server.anonymous_bytes() < 1.05 * before


def test_meshes_go_to_comfyui_s_own_nodes(server: Server) -> None:
    import trimesh

    own = {
        "theirs": node("SaveGLB", mesh=("mesh", 0), filename_prefix="theirs"),
        "file": node("SaveGLB", mesh=("mesh", 1), filename_prefix="file"),
        "viewer": node("Preview3D", model_file=("ours", 0)),
    }
    outputs: dict[str, Any] = server.run({**LOADED, **extracted(24), **own})
    meshes = []
    for key in ("ours", "theirs", "file"):
        (entry,) = outputs[key]["3d"]
        path = server.base / "output" / entry["subfolder"] / entry["filename"]
        meshes.append(trimesh.load(path, force="mesh", process=False))
    assert len({len(mesh.faces) for mesh in meshes}) == 1
    for mesh in meshes:
        low, high = mesh.bounds
        assert (high - low).max() == pytest.approx(1.0, abs=1e-5)
        assert (high + low).tolist() == pytest.approx([0, 0, 0], abs=1e-5)
    assert outputs["viewer"]["result"][0].endswith(".ply")


def test_ten_runs_of_the_3d_nodes_do_not_grow(server: Server) -> None:
    """Distillation with gradients through the bundled model, renders, meshes."""

    def everything(seed: int) -> Prompt:
        return {**distilled(seed), "loaded": LOADED["field"], **extracted(24, field="loaded")}

    for seed in range(3):  # what first runs import and keep is not counted
        server.run(everything(100 + seed))
    held = [server.anonymous_bytes()]
    for seed in range(10):
        server.run(everything(200 + seed))
        held.append(server.anonymous_bytes())
    print("MB held after each run:", [round(value / 1e6, 1) for value in held])
    assert held[-1] < 1.02 * held[0]
