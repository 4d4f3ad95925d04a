"""comfy-test, the public checker of node packs: its levels syntax, registration and instantiation."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from comfyui_server import ROOT, Server

pytestmark = pytest.mark.comfyui


@pytest.fixture
def context(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> object:
    """What comfy-test hands from level to level, on the running server."""
    import os

    from comfy_test.orchestration.context import LevelContext

    (tmp_path / "server.log").write_text(server.log, encoding="utf-8")
    monkeypatch.setenv("COMFY_TEST_LOGS_DIR", str(tmp_path))
    paths = SimpleNamespace(
        custom_nodes_dir=server.base / "custom_nodes",
        comfyui_dir=Path(os.environ["COMFYUI_PATH"]),
        python=Path(os.environ.get("COMFY_PYTHON", sys.executable)),
    )
    return LevelContext(
        config=None,
        node_dir=server.base / "custom_nodes" / "upfusion",
        platform_name="linux",
        log=lambda message: None,
        output_base=tmp_path,
        server_url=f"http://127.0.0.1:{server.port}",
        paths=paths,
    )


def test_syntax(context: object) -> None:
    from comfy_test.orchestration.levels import syntax

    assert (ROOT / "pyproject.toml").exists()
    syntax.run(context)


def test_registration_and_instantiation(context: object) -> None:
    from comfy_test.orchestration.levels import instantiation, registration

    after = registration.run(context)
    assert "UpFusionLoadModel" in after.registered_nodes
    instantiation.run(after)
