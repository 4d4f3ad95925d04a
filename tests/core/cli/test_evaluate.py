"""`evaluate` as it is called: its folder, its record, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trimesh
from typer.testing import CliRunner, Result

from upfusion_core.cli.app import app
from upfusion_core.cli.evaluation import evaluation_config
from upfusion_core.evaluation import report as report_module
from upfusion_core.pipeline.upfusion import UpFusion

SMALL = ("--photos", "1,2", "--objects", 2, "--views", 1, "--stages", "white,nearest", "--device", "cpu")


def upfusion(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def words_of(result: Result) -> str:
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def small_model(small_weights: Path) -> UpFusion:
    return UpFusion.load(small_weights, device="cpu")


@pytest.fixture(autouse=True)
def _quick(small_model: UpFusion, monkeypatch: pytest.MonkeyPatch) -> None:
    """One model for all tests, and no plots, which take longer than such small evaluations."""
    monkeypatch.setattr(UpFusion, "load", lambda *arguments, **keywords: small_model)
    monkeypatch.setattr(report_module, "plot_results", lambda results, folder: {})


def record(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def test_a_report_in_its_folder(small_weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = upfusion("--model", small_weights, "--data", "procedural", *SMALL, "-o", out)
    assert result.exit_code == 0, result.output
    assert "2 objects, 0 skipped" in words_of(result)
    content = json.loads((out / "report.json").read_text())
    assert content["split"] == "test"
    assert content["data"] == "procedural"
    assert {"torch", "diffusers"} <= content["versions"].keys()
    assert content["settings"]["photos"] == [1, 2]
    assert list(content["results"]) == ["white", "nearest"]
    assert content["results"]["nearest"]["2"]["box_psnr"]["objects"] == 2
    written = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert set(record(out)["files"]) | {"run.json"} == written
    assert record(out)["status"] == "finished"
    again = upfusion("-o", out, "--resume")
    assert again.exit_code == 0
    assert "finished already" in words_of(again)
    assert upfusion("--model", small_weights, "--data", "procedural", *SMALL, "-o", out).exit_code == 2
    other = upfusion("-o", out, "--resume", "--seed", 3)
    assert other.exit_code == 2
    assert "was begun with seed = 0, now it is 3" in words_of(other)


def test_ctrl_c_is_130_and_goes_on(small_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common = ("--model", small_weights, "--data", "procedural", "--split", "held_out", *SMALL)
    assert upfusion(*common, "-o", tmp_path / "whole").exit_code == 0
    draw = report_module.draw_object

    def pressing(dataset: object, index: int, config: object) -> object:
        if index == 1:
            raise KeyboardInterrupt
        return draw(dataset, index, config)

    parts = tmp_path / "parts"
    with monkeypatch.context() as patch:
        patch.setattr(report_module, "draw_object", pressing)
        result = upfusion(*common, "-o", parts)
    assert result.exit_code == 130
    assert "upfusion evaluate --resume -o" in words_of(result)
    assert (parts / "objects" / "000000.json").is_file()
    assert not (parts / "report.json").exists()
    result = upfusion("--resume", "-o", parts, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert (parts / "report.json").read_bytes() == (tmp_path / "whole" / "report.json").read_bytes()


def test_a_folder_of_meshes(small_weights: Path, tmp_path: Path) -> None:
    data = tmp_path / "meshes"
    data.mkdir()
    for name in "ac":
        trimesh.creation.box((0.2, 0.3, 0.1)).export(data / f"{name}.ply")
    (data / "b.ply").write_text("torn")
    common = ("--model", small_weights, "--data", data, *SMALL)
    refused = upfusion(*common, "--objects", 4, "-o", tmp_path / "out")
    assert refused.exit_code == 2
    assert "holds 3 objects, got --objects 4; ask for fewer" in words_of(refused)
    assert not (tmp_path / "out").exists()
    result = upfusion(*common, "--objects", 3, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "Skipped b.ply:" in words_of(result)
    assert "2 objects, 1 skipped" in words_of(result)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "w"], "--data is needed"),
        (["--model", "w", "--data", "nowhere"], "nowhere"),
        (["--model", "w", "--data", ".", "--split", "test"], "--split is of procedural objects"),
        (["--model", "w", "--data", "procedural", "--photos", "1;3"], "--photos must be whole numbers"),
        (["--model", "w", "--data", "procedural", "--photos", "0,3"], "photos must be between 1 and 6, got 0"),
        (["--model", "w", "--data", "procedural", "--stages", "white,guess"], "stages must be one of"),
        (["--model", "w", "--data", "procedural", "--scheduler", "magic"], "magic"),
        (["--model", "w", "--data", "procedural", "--objects", "100000"], "ask for fewer"),
        (["--model", "w", "--data", "procedural", "--split", "train"], "'train' is not one of"),
    ],
)
def test_what_is_refused(arguments: list[str], words: str, tmp_path: Path) -> None:
    result = upfusion(*arguments, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert words in words_of(result)
    assert not (tmp_path / "out").exists()


def test_the_field_is_the_draft_with_the_command_s_guidance() -> None:
    settings = {"photos": [3], "stages": ["field"], "views": 2, "seed": 1, "steps": 5, "guidance": 3.0}
    config = evaluation_config({**settings, "scheduler": "ddim", "alignment": "picture", "batch_size": 2})
    assert config.distill.preset == "draft"
    assert config.distill.guidance == 3.0
    assert config.photos == (3,)
