"""`upfusion mesh`: a saved field becomes the files of a mesh, with a record, or a sentence that says why not."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
import trimesh
from typer.testing import CliRunner, Result

from upfusion_core.cli.app import app
from upfusion_core.config import FieldConfig, GridConfig
from upfusion_core.field.radiance import RadianceField


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grey ball with a soft edge."""
    grid = GridConfig(levels=2, coarsest=4, finest=8, table_size=2**10)
    field = RadianceField(FieldConfig(grid=grid, hidden=8, blob_weight=8.0, blob_sigma=0.1, half_extent=0.3))
    torch.nn.init.zeros_(field.mlp[-1].weight)
    with torch.no_grad():
        field.mlp[-1].bias.copy_(torch.tensor([-1.0, 0, 0, 0]))
    path = tmp_path_factory.mktemp("field") / "field.safetensors"
    field.save(path)
    return path


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["mesh", *(str(argument) for argument in arguments)])


def test_a_textured_obj(stored: Path, tmp_path: Path) -> None:
    out = tmp_path / "ball.obj"
    result = _run(stored, "-o", out, "--resolution", 16, "--texture-size", 64, "--device", "cpu")
    assert result.exit_code == 0, result.output
    names = {"ball.obj", "ball.mtl", "ball.png", "ball.obj.run.json"}
    assert {path.name for path in tmp_path.iterdir()} == names
    record = json.loads((tmp_path / "ball.obj.run.json").read_text(encoding="utf-8"))
    assert record["status"] == "finished"
    assert record["settings"] == {"resolution": 16, "threshold": None, "texture_size": 64, "faces": None}
    assert len(record["files"]) == 3
    found = trimesh.load(out, force="mesh")
    assert len(found.faces) == record["mesh"]["faces"] > 0
    picture = found.visual.material.image
    assert picture.size == (64, 64)
    assert all(abs(value - 128) <= 1 for value in picture.convert("RGB").getpixel((32, 32)))
    again = _run(stored, "-o", out)
    assert again.exit_code == 2
    assert "exists already" in again.output


def test_what_cannot_be_done_is_said_first(stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _run(stored, "-o", tmp_path / "a.glb", "--texture-size", 30).exit_code == 2
    missing = _run(tmp_path / "none.safetensors", "-o", tmp_path / "a.glb")
    assert missing.exit_code == 2
    assert "is not a file" in missing.output
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = _run(stored, "-o", tmp_path / "a.glb", "--faces", 100, "--texture-size", 0)
    assert result.exit_code == 2
    assert "pip install fast-simplification" in result.output
    assert not list(tmp_path.iterdir())
