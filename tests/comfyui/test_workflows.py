"""The shipped workflows in a real ComfyUI: loaded by its own frontend, run to the end with the bundled model.

Beside COMFYUI_PATH this needs node, playwright-core (NODE_PATH) and chromium (CHROMIUM). Screenshots go to the folder
in UPFUSION_SCREENSHOTS, if it is set.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyui_server import ROOT, Server, start_server
from safetensors.torch import save_file

pytestmark = pytest.mark.comfyui

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
CANONICAL = ROOT / "workflows" / "upfusion_6_canonical_views.json"  # weights of Hunyuan3D, which no test has
BLUEPRINTS = sorted((ROOT / "subgraphs").glob("*.json"))
RUN_SECONDS = 3600
# ComfyUI's own templates, in a package that it requires; the last is run: it needs neither models nor pictures
STOCK = ("basic_mask_operations_and_compositing", "utility_birefnet_remove_background", "3d_moge_perspective_to_mesh")
STOCK += ("basic_datatype_conversion",)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where screenshots go."""
    folder = Path(os.environ.get("UPFUSION_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.mark.parametrize("path", [path for path in WORKFLOWS if path != CANONICAL], ids=lambda path: path.stem)
def test_a_workflow_loads_and_runs(server: Server, path: Path, pictures: Path) -> None:
    report = in_the_frontend(server, pictures / f"{path.stem}.png", path)
    is_whole(path, report["loaded"][-1])
    assert report["errors"] == []
    assert (report["status"], report["message"]) == ("success", "")
    assert report["outputs"]


def test_one_with_foreign_weights_is_valid_as_far_as_their_loader(server: Server, pictures: Path) -> None:
    """With an empty file of their name it is queued, and only what reads that file fails."""
    checkpoints = server.base / "models" / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    save_file({"nothing": torch.zeros(1)}, checkpoints / "hunyuan3d-dit-v2-mv_fp16.safetensors")
    report = in_the_frontend(server, pictures / f"{CANONICAL.stem}.png", CANONICAL)
    is_whole(CANONICAL, report["loaded"][-1])
    assert report["status"] == "error"
    assert report["message"].startswith("ImageOnlyCheckpointLoader")
    assert report["errors"] == []


@pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda path: path.stem)
def test_a_blueprint_loads(server: Server, path: Path, pictures: Path) -> None:
    report = in_the_frontend(server, pictures / f"{path.stem}.png", path, seconds=0)
    assert report["errors"] == []
    assert report["loaded"][-1]["missing"] == []
    assert len(report["loaded"][-1]["widgets"]["1"]) >= 3  # those of the nodes inside


def test_stock_templates_are_the_same_beside_ours(server: Server, pictures: Path, tmp_path: Path) -> None:
    """Loaded in tabs after one of our workflows, and run, as in a ComfyUI without the pack."""
    python = os.environ.get("COMFY_PYTHON", sys.executable)
    ask = "import comfyui_workflow_templates_json as p; print(p.__path__[0])"
    done = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True)
    templates = [Path(done.stdout.strip()) / "templates" / f"{name}.json" for name in STOCK]
    assert all(path.is_file() for path in templates)
    beside = in_the_frontend(server, pictures / "stock_beside.png", WORKFLOWS[1], *templates)
    is_whole(WORKFLOWS[1], beside["loaded"].pop(0))
    with start_server(tmp_path, with_pack=False) as plain:
        alone = in_the_frontend(plain, pictures / "stock_alone.png", *templates)
    assert beside["status"] == "success"
    assert beside == alone


def is_whole(path: Path, loaded: dict[str, Any]) -> None:
    """Nothing of a workflow's file was lost on the way into the frontend."""
    saved = json.loads(path.read_text(encoding="utf-8"))
    assert loaded["missing"] == []
    assert loaded["nodes"] == len(saved["nodes"])
    assert loaded["links"] == len(saved["links"])
    for node in saved["nodes"]:
        kept, found = node["widgets_values"], loaded["widgets"][str(node["id"])]
        assert len(kept) == len(found), (node["type"], kept, found)
        for one, other in zip(kept, found, strict=True):
            assert one == other or not isinstance(one, str | int | float), (node["type"], one, other)


def in_the_frontend(server: Server, picture: Path, *workflows: Path, seconds: int = RUN_SECONDS) -> dict[str, Any]:
    """The report of load_workflow.js on workflows in tabs of their own, the last of them run if there are seconds."""
    script = Path(__file__).parent / "load_workflow.js"
    command = ["node", str(script), f"http://127.0.0.1:{server.port}", str(picture), str(seconds)]
    command += [str(path) for path in workflows]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_SECONDS + 900, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)
