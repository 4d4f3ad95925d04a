"""The 3D nodes in a running ComfyUI: progress, Cancel, memory, and what ComfyUI's own nodes make of their results."""

from __future__ import annotations

import time
from typing import Any

import pytest
from comfyui_server import Server
from workflows_api import Prompt, node, scene

pytestmark = pytest.mark.comfyui


def distilled(seed: int = 0, steps: int = 1) -> Prompt:
    """A field of random weights, and a small picture of it."""
    settings = {"preset": "draft", "steps": steps, "guidance": 3.0, "seed": seed}
    inputs = {"upfusion_model": ("model", 0), "model": ("model", 1), "vae": ("model", 3), "scene": ("scene", 0)}
    return {
        **scene(cameras=1),
        "field": node("UpFusionDistill", **inputs, **settings),
        "small": node("UpFusionRenderField", field=("field", 0), cameras=("cameras", 0), size=32, background="white"),
        "shown": node("PreviewImage", images=("small", 0)),
    }


def rendered(size: int) -> Prompt:
    """The same field, large."""
    large = node("UpFusionRenderField", field=("field", 0), cameras=("cameras", 0), size=size, background="black")
    return {**distilled(), "large": large, "seen": node("PreviewImage", images=("large", 2))}


def extracted(resolution: int) -> Prompt:
    """The same field as files: of our node from MESH, of ComfyUI's own from MESH and from the GLB file."""
    settings = {"coloring": "vertex colors", "texture_size": 64, "faces": 0}
    mesh = node("UpFusionExtractMesh", field=("field", 0), resolution=resolution, threshold=1.0, **settings)
    return {
        **distilled(),
        "mesh": mesh,
        "ours": node("UpFusionSaveMesh", mesh=("mesh", 0), format="ply", filename_prefix="ours"),
        "theirs": node("SaveGLB", mesh=("mesh", 0), filename_prefix="theirs"),
        "file": node("SaveGLB", mesh=("mesh", 1), filename_prefix="file"),
        "viewer": node("Preview3D", model_file=("ours", 0)),
    }


def interrupted(server: Server, prompt: Prompt) -> float:
    """Cancels a prompt after some seconds; gives the seconds until it ended."""
    running = server.queue(prompt)
    time.sleep(5)
    asked = time.monotonic()
    server.post("/interrupt", {})
    entry = server.wait(running)
    assert "execution_interrupted" in [name for name, _ in entry["status"]["messages"]]
    return time.monotonic() - asked


def test_cancel_stops_the_3d_nodes_within_a_second_and_memory_is_back(server: Server) -> None:
    server.run(distilled())
    before = server.anonymous_bytes()
    for prompt in (distilled(seed=7, steps=500), rendered(2048)):
        assert interrupted(server, prompt) < 1.5  # a second, and a poll of the history
        server.run(distilled(seed=1))  # the next prompt runs
        assert server.anonymous_bytes() < 1.05 * before


def test_meshes_go_to_comfyui_s_own_nodes(server: Server) -> None:
    import trimesh

    outputs: dict[str, Any] = server.run(extracted(24))
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


def test_ten_distillations_do_not_grow(server: Server) -> None:
    for seed in range(2):
        server.run(distilled(seed=100 + seed))
    before = server.anonymous_bytes()
    for seed in range(10):
        server.run(distilled(seed=200 + seed))
    assert server.anonymous_bytes() < 1.02 * before
