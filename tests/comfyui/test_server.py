"""The pack in a running ComfyUI: imported without a warning, every node offered and cancelled, and nothing grows."""

import json
import re
import time
from typing import Any

import pytest
import trimesh
from comfyui_server import ROOT, Server
from workflows_api import MINI, Prompt, distilled, extracted, node, one_box, predicted, rendered, sampled, scene

pytestmark = pytest.mark.comfyui

CANCEL_SECONDS = 1.0
LONG: dict[str, Prompt] = {
    "UpFusionDistill": distilled(seed=7, preset="draft", steps=0),
    "UpFusionDistill, reference": distilled(seed=7, steps=0),
    "UpFusionRenderField": {**distilled(), **rendered(2048)},
    "UpFusionExtractMesh": extracted(1024),
    "UpFusionExtractMesh, texture": extracted(96, "texture", 8192),
    "UpFusionPredictViews": {**scene(**MINI), **predicted(1024)},
    "KSampler": sampled(900, **MINI),
    "UpFusionSampleViews": one_box(900, **MINI),
}


def test_the_pack_imports_without_a_warning_and_every_node_has_its_help(server: Server) -> None:
    log = server.log
    assert "IMPORT FAILED" not in log
    lines = [line for line in log.splitlines() if re.search(r"WARN|ERROR|Traceback", line)]
    assert not [line for line in lines if re.search("upfusion|custom node|node", line, re.IGNORECASE)], lines
    assert re.search(r"seconds: .*custom_nodes/upfusion", log)
    offered = server.get("/object_info")
    ours = {name for name, info in offered.items() if info["python_module"].endswith("upfusion")}
    sources = "".join(path.read_text() for path in (ROOT / "nodes").glob("*.py"))
    assert ours == set(re.findall(r"class (UpFusion\w+)\(io\.ComfyNode\)", sources))
    assert all(server.text(f"/extensions/upfusion/docs/{name}.md").startswith("# ") for name in ours)


def test_blueprints_languages_and_templates_are_offered(server: Server) -> None:
    offered = server.get("/global_subgraphs")
    ours = {entry["name"] for entry in offered.values() if entry["info"]["node_pack"] == "custom_nodes.upfusion"}
    assert ours == {path.stem for path in (ROOT / "subgraphs").glob("*.json")}
    told = server.get("/i18n")
    for path in (ROOT / "locales").glob("*/*.json"):
        kept = json.loads(path.read_text(encoding="utf-8"))
        offered = told[path.parent.name] if path.stem == "main" else told[path.parent.name][path.stem]
        assert offered.items() >= kept.items()
    templates = {path.stem for path in (ROOT / "workflows").glob("*.json")}
    assert set(server.get("/workflow_templates")["upfusion"]) == templates


@pytest.mark.slow
def test_importing_delays_the_start_by_less_than_half_a_second(server: Server) -> None:
    """ComfyUI measures it itself; the entry point and get_node_list are within."""
    (seconds,) = re.findall(r"([\d.]+) seconds: .*custom_nodes/upfusion", server.log)
    assert float(seconds) < 0.5


def test_a_missing_file(server: Server) -> None:
    with pytest.raises(AssertionError, match=r"lost\.safetensors is not in models/upfusion"):
        server.queue(sampled(1, weights="lost.safetensors"))
    inputs = server.get("/object_info/UpFusionLoadModel")["UpFusionLoadModel"]["input"]["required"]
    assert inputs["weights"][1]["options"] == ["mini", "quarter.safetensors"]


@pytest.mark.parametrize("name", LONG)
def test_cancel_stops_within_a_second_the_next_prompt_runs_and_memory_is_back(server: Server, name: str) -> None:
    server.run({**distilled(), **predicted(64)})
    before = server.get("/probe")["bytes"]
    running = server.queue(LONG[name])
    time.sleep(4)
    assert server.interrupted_after(running) < CANCEL_SECONDS
    server.run({**distilled(), **predicted(80)})
    assert server.get("/probe")["bytes"] < 1.05 * before


def test_meshes_go_to_comfyui_s_own_nodes(server: Server) -> None:
    own = {
        "theirs": node("SaveGLB", mesh=("mesh", 0), filename_prefix="theirs"),
        "file": node("SaveGLB", mesh=("mesh", 1), filename_prefix="file"),
        "viewer": node("Preview3D", model_file=("ours", 0)),
    }
    outputs: dict[str, Any] = server.run({**extracted(24), **own})
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
