"""The shipped workflows in a real ComfyUI: loaded by its own frontend, run to the end with the bundled model.

Beside COMFYUI_PATH this needs node, playwright-core (NODE_PATH) and chromium (CHROMIUM). Screenshots go to the folder
in UPFUSION_SCREENSHOTS, if it is set.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from comfyui_server import Server

pytestmark = pytest.mark.comfyui

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
RUN_SECONDS = 3600


def test_all_five_workflows_are_there() -> None:
    assert len(WORKFLOWS) == 5


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_loads_and_runs(server: Server, path: Path, tmp_path: Path) -> None:
    saved = json.loads(path.read_text(encoding="utf-8"))
    folder = Path(os.environ.get("UPFUSION_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    report = _in_the_frontend(server, path, folder / f"{path.stem}.png")
    assert report["missing"] == []
    assert report["errors"] == []
    assert report["nodes"] == len(saved["nodes"])
    assert report["links"] == len(saved["links"])
    for node in saved["nodes"]:
        for kept, found in zip(node["widgets_values"], report["widgets"][str(node["id"])], strict=False):
            assert kept == found or not isinstance(kept, str | int | float), (node["type"], kept, found)
    assert (report["status"], report["message"]) == ("success", "")
    assert report["outputs"]


def _in_the_frontend(server: Server, path: Path, picture: Path) -> dict[str, Any]:
    script = Path(__file__).parent / "load_workflow.js"
    command = ["node", str(script), f"http://127.0.0.1:{server.port}", str(path), str(picture), str(RUN_SECONDS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_SECONDS + 600, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)
