"""`reconstruct` and `demo` on small models: everything they should write, interrupted anywhere and continued."""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
import trimesh
from command_runs import done, interrupted, press, read_run, refused, small_distillation

from upfusion_core import UpFusion, example_views, load_field, load_photo_cameras
from upfusion_core.cli import reconstruct
from upfusion_core.cli.reconstruct import distill_config, sampled_by
from upfusion_core.config import DistillConfig, DraftSchedule
from upfusion_core.config.options import Folder, Photos, Reconstruct, Sampler, Surface
from upfusion_core.support.images import labelled_sheet
from upfusion_core.surface import projection

SMALL = (
    "--device", "cpu", "--checkpoint-every", 1, "--format", "stl", "--views", 2, "--steps", 1, "--resolution", 24,
    "--turntable-size", 16, "--format", "glb", "--texture-size", 64, "--threshold", 10,
)  # fmt: skip
WRITTEN = {"inputs/001.png", "inputs/002.png", "photos.png", "views.png", "turntable.gif", "mesh.glb",
           "field.safetensors", "run.json", "photo_cameras.json", "views.json"}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _small(rough: None) -> Iterator[None]:
    """What the command line asks for, but with few and small pictures and a small field."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(reconstruct, "distill_config", small_distillation(distill_config))
        patched.setattr(reconstruct, "TURNTABLE_FRAMES", 6)
        patched.setattr("upfusion_core.pipeline.distill.CELLS", 32)
        yield


@pytest.fixture
def command(photos: list[Path], tiny: Path, tmp_path: Path) -> tuple[object, ...]:
    return ("reconstruct", *photos[:2], "-m", tiny, "-o", tmp_path / "out", *SMALL)


@pytest.fixture(scope="module")
def whole(photos: list[Path], tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    output = tmp_path_factory.mktemp("whole") / "out"
    assert str(output / "mesh.glb") in done("reconstruct", *photos[:2], "-m", tiny, "-o", output, *SMALL)
    return output


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def same_fields(first: Path, second: Path) -> bool:
    one, two = (load_field(folder / "field.safetensors").field.state_dict() for folder in (first, second))
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_everything_is_written(whole: Path) -> None:
    assert files(whole) == WRITTEN | {"views/000.png", "views/001.png", "mesh.stl"}
    assert imageio.imread(whole / "turntable.gif", index=None).shape == (6, 16, 16, 3)
    record = read_run(whole)
    assert len(trimesh.load_mesh(whole / "mesh.glb").faces) == record["mesh"]["faces"] > 0
    assert (record["status"], record["settings"]["formats"]) == ("finished", ["stl", "glb"])
    assert record["stages"] == ["photos", "views", "field", "turntable", "mesh"]
    assert record["grid_backend"] == "torch (auto: the field is on the CPU)"
    assert load_field(whole / "field.safetensors").settings == record["settings"]


def test_interrupted(command: tuple[object, ...], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the field, of which there is a preview, and while its mesh is made."""
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        pressed = Mock(side_effect=[None] * 6 + [KeyboardInterrupt])
        patched.setattr(reconstruct, "progress", lambda title: nullcontext(pressed))
        assert f"upfusion reconstruct --resume -o {out}" in interrupted(*command, "--preview-every", 5)
    assert (read_run(out)["status"], (out / "field.checkpoint").exists()) == ("interrupted", True)
    assert np.ptp(imageio.imread(out / "preview.png")) > 0
    views = (out / "views/000.png").stat().st_mtime_ns
    with monkeypatch.context() as patched:
        patched.setattr(reconstruct, "save_mesh", press)
        interrupted("reconstruct", "--resume", "-o", out)
    monkeypatch.setattr(UpFusion, "load", None)  # the field is finished: no network is needed any more
    done("reconstruct", "--resume", "-o", out)
    assert (out / "views/000.png").stat().st_mtime_ns == views
    assert same_fields(out, whole)
    for name in ("mesh.glb", "turntable.gif", "views.png"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert files(out) - {"preview.png"} == files(whole)
    assert read_run(out)["status"] == "finished"


def test_given_cameras(
    whole: Path, command: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their photos are fitted, and painted, at full size; what the run writes of them gives the same field."""
    stored = json.loads((whole / "photo_cameras.json").read_text())
    assert stored["photos"][0]["status"] == "reference"
    stored["photos"][1] |= {"status": "given", "reason": ""}
    (tmp_path / "given.json").write_text(json.dumps(stored))
    arguments = (*command, "--views", 0, "--format", "glb", "--photo-cameras")
    monkeypatch.setattr(projection, "_gates", lambda colors, *_: [1.0] * len(colors))  # random weights fit no photo
    painted = Mock(wraps=reconstruct.project_photos)
    monkeypatch.setattr(reconstruct, "project_photos", painted)
    done(*arguments, tmp_path / "given.json", "-o", tmp_path / "given")
    assert painted.call_count == 1
    assert json.loads((tmp_path / "given/photo_cameras.json").read_text()) == stored
    assert not same_fields(whole, tmp_path / "given")
    done(*arguments, tmp_path / "given/photo_cameras.json", "--no-photo-texture")
    assert same_fields(tmp_path / "given", tmp_path / "out")
    assert painted.call_count == 1
    assert (tmp_path / "given/mesh.glb").read_bytes() != (tmp_path / "out/mesh.glb").read_bytes()


def test_export_of_a_run(whole: Path, photos: list[Path], tmp_path: Path) -> None:
    """Only photo 1's camera is sure here; both views go along, and points of the surface."""
    out = tmp_path / "set"
    assert "3 pictures" in done("export", whole, "-o", out, "--format", "nerfstudio")
    names = ["photo_1.png", "view_000.png", "view_001.png"]
    assert sorted(path.name for path in (out / "images").iterdir()) == names
    known = load_photo_cameras(out, [out / "images" / name for name in names])
    kept = json.loads((whole / "views.json").read_text())
    turned = torch.tensor(kept[1]["camera_to_world"]) @ torch.linalg.inv(torch.tensor(kept[0]["camera_to_world"]))
    matrices = known.cameras.camera_to_world
    torch.testing.assert_close((matrices[2] @ torch.linalg.inv(matrices[1]))[:3, :3], turned[:3, :3], atol=1e-4, rtol=0)
    assert len(imageio.imread(out / "images/photo_1.png")) == 64
    assert "exists already" in refused("export", whole, "-o", out)
    assert "must be" in refused("export", photos[0].parent)


def test_presets_and_what_changes_in_them() -> None:
    def config(**options: Any) -> DistillConfig:  # noqa: ANN401
        return distill_config(Reconstruct(Photos(), Folder(Path("out")), **options))

    assert config() == DistillConfig.named("fast")
    drafted = DistillConfig.named("draft", schedule=DraftSchedule(steps=7), guidance=3.0)
    assert config(preset="draft", sampler=Sampler(steps=7, guidance=3.0)) == drafted
    assert config(preset="reference", perceptual="none") == DistillConfig.named("reference", perceptual="none")


def test_a_demo_and_its_continuation(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruct, "sampled_by", small_distillation(sampled_by))
    monkeypatch.setattr(reconstruct, "SHEET_SIZE", 16)
    monkeypatch.setattr(reconstruct, "DEMO_TURNTABLE_SIZE", 16)
    monkeypatch.setattr(reconstruct, "DEMO_SURFACE", Surface(resolution=24, texture_size=0))
    whole = tmp_path / "whole"
    said = done("demo", "--object", 2, "--photos", 2, "--steps", 1, "--device", "cpu", "-o", whole)
    for words in ("no --model given, so this takes mini", "First picture after", str(whole / "sheet.png")):
        assert words in said
    numbered = {f"{kind}/{index:03d}.png" for kind in ("views", "predictions") for index in range(8)}
    assert files(whole) == WRITTEN | numbered | {"truth.png", "prediction.png", "sheet.png"}
    record = read_run(whole)
    assert record["example"] == example_views(2).name
    assert (record["settings"]["model"], record["settings"]["guidance"]) == ("mini", 9.0)
    assert "was begun with object = 2, now it is 1" in refused("demo", "--resume", "-o", whole, "--object", 1)
    assert "finished already" in done("demo", "--resume", "-o", whole)


def test_a_sheet_by_hand() -> None:
    red = torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 4, 4)
    sheet = labelled_sheet({"one": red[None], "two": torch.stack([1 - red, red])}, ["a", "b"], 20)
    cells = sheet[:, 4:, 12:].unfold(1, 20, 22).unfold(2, 20, 22)  # below the titles, beside the labels, 2 pixels apart
    assert sheet.shape == (3, 4 + 2 * 22, 12 + 2 * 22)
    assert cells.mean((3, 4)).permute(1, 2, 0).tolist() == [[[1, 0, 0], [0, 1, 1]], [[1, 1, 1], [1, 0, 0]]]
