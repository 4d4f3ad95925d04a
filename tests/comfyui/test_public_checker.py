"""comfy-test, the public checker of node packs: its levels syntax, registration and instantiation."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from comfyui_server import Server

pytestmark = pytest.mark.comfyui


def test_syntax_registration_and_instantiation(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from comfy_test.orchestration.context import LevelContext
    from comfy_test.orchestration.levels import instantiation, registration, syntax

    (tmp_path / "server.log").write_text(server.log, encoding="utf-8")
    monkeypatch.setenv("COMFY_TEST_LOGS_DIR", str(tmp_path))
    folder, comfyui = server.base / "custom_nodes", Path(os.environ["COMFYUI_PATH"])
    python = Path(os.environ.get("COMFY_PYTHON", sys.executable))
    paths = SimpleNamespace(custom_nodes_dir=folder, comfyui_dir=comfyui, python=python)
    told = {"config": None, "platform_name": "linux", "log": lambda message: None, "output_base": tmp_path}
    address = f"http://127.0.0.1:{server.port}"
    context = LevelContext(**told, node_dir=folder / "upfusion", server_url=address, paths=paths)
    syntax.run(context)
    after = registration.run(context)
    assert "UpFusionLoadModel" in after.registered_nodes
    instantiation.run(after)
