"""`mesh`, `convert` and `info`: files and their records, or a sentence that says why not; sources stay."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from command_runs import done, refused
from tiny_training import FIELD

from upfusion_core.cli import files
from upfusion_core.field.radiance import RadianceField

pytestmark = pytest.mark.usefixtures("rough")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grey ball with a soft edge."""
    field = RadianceField(replace(FIELD, blob_weight=8.0))
    torch.nn.init.zeros_(field.mlp[-1].weight)
    with torch.no_grad():
        field.mlp[-1].bias.copy_(torch.tensor([-1.0, 0, 0, 0]))
    path = tmp_path_factory.mktemp("field") / "field.safetensors"
    field.save(path)
    return path


def record_of(path: Path) -> dict[str, Any]:
    return json.loads(path.with_name(path.name + ".run.json").read_text(encoding="utf-8"))


def test_a_textured_obj(stored: Path, tmp_path: Path) -> None:
    out = tmp_path / "ball.obj"
    told = ("--resolution", 16, "--texture-size", 64, "--size-mm", 80, "--up", "z", "--device", "cpu")
    done("mesh", stored, "-o", out, *told)
    assert {path.name for path in tmp_path.iterdir()} == {"ball.obj", "ball.mtl", "ball.png", "ball.obj.run.json"}
    record = record_of(out)
    assert (record["command"], record["status"], len(record["files"])) == ("mesh", "finished", 3)
    surface = {"resolution": 16, "threshold": None, "texture_size": 64, "faces": None, "size_mm": 80.0, "up": "z"}
    assert record["settings"] == {"splats": False, **surface}
    assert "is the source itself" in refused("mesh", out, "-o", out, "--force")
    found = trimesh.load(out, force="mesh")
    assert len(found.faces) == record["mesh"]["faces"] > 0
    assert found.extents.max() == pytest.approx(80, abs=1e-3)
    picture = found.visual.material.image
    assert picture.size == (64, 64)
    assert all(abs(value - 128) <= 1 for value in picture.convert("RGB").getpixel((32, 32)))


def test_splats(stored: Path, tmp_path: Path) -> None:
    """Their record: place, no normal, grey, opacity, logarithms of widths, the third across the surface, quaternion."""
    made = done("mesh", stored, "-o", tmp_path / "a.ply", "--splats", "--resolution", 24, "--device", "cpu")
    head, _, body = (tmp_path / "a.ply").read_bytes().partition(b"end_header\n")
    at, _, grey, _, width, turn = np.split(np.frombuffer(body, "<f4").reshape(-1, 17), [3, 6, 9, 10, 13], axis=1)
    assert (f"({len(at)} splats)" in made, f"element vertex {len(at)}".encode() in head) == (True, True)
    assert np.ptp(np.linalg.norm(at, axis=1)) < 0.01 < float(np.linalg.norm(at, axis=1).min())
    assert (np.abs(grey).max() < 0.05, bool((width[:, 2] <= width[:, 0]).all())) == (True, True)
    assert np.linalg.norm(turn, axis=1) == pytest.approx(1, abs=1e-5)
    assert "are written as .ply" in refused("mesh", stored, "-o", tmp_path / "a.glb", "--splats")


def test_meshes_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "load_field", None)  # names are checked before the field is read
    (tmp_path / "a.glb.run.json").mkdir()
    (tmp_path / "b_c.mtl").write_text("mine")
    for name, words in {
        "q.fbx": "change the suffix",
        "a.glb": "a.glb.run.json could not be written",
        "b c.obj": "b_c.mtl exists already",
    }.items():
        assert words in refused("mesh", tmp_path / "field.safetensors", "-o", tmp_path / name)
    assert len(list(tmp_path.iterdir())) == 2


def test_convert_and_info(small_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merged, folder = tmp_path / "merged.safetensors", tmp_path / "folder"
    assert str(merged) in done("convert", small_weights, merged, "--dtype", "float16")
    record = record_of(merged)
    assert (record["command"], record["status"], record["settings"]) == ("convert", "finished", {"dtype": "float16"})
    assert "exists already; choose another name, or --force" in refused("convert", small_weights, merged)
    assert "is the source itself" in refused("convert", merged, merged, "--force")
    assert "is the source itself" in refused("info", merged, "-o", merged, "--force")
    done("convert", small_weights, merged, "--force")
    monkeypatch.chdir(tmp_path)
    assert ". exists already" in refused("convert", merged, ".")
    done("convert", merged, folder)
    assert (folder / "upsrt.pt").is_file()
    assert "pictures of 16 x 16 pixels" in done("info", merged, "-o", tmp_path / "info.json")
    content = json.loads((tmp_path / "info.json").read_text())
    assert (content["command"], content["checkpoint"]["layout"]) == ("info", "merged")
