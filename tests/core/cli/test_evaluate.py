"""`evaluate` as it is called: its folder, its record, what it refuses."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import trimesh
from command_runs import read_run
from random_vgg import heads, lpips_by_hand, vgg_weights
from typer.testing import CliRunner, Result

from upfusion_core.cli.app import app
from upfusion_core.cli.datasets import completed, evaluation_config
from upfusion_core.config import PRESETS, EvaluationConfig
from upfusion_core.config.base import options_of
from upfusion_core.config.options import Evaluate, Folder
from upfusion_core.evaluation import report as report_module
from upfusion_core.evaluation.protocol import draw_object
from upfusion_core.pipeline.upfusion import UpFusion
from upfusion_core.procedural import ProceduralObjects

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
    assert set(read_run(out)["files"]) | {"run.json"} == written
    assert read_run(out)["status"] == "finished"
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


@pytest.mark.parametrize("saved", [False, True])
def test_ctrl_c_in_the_first_field_keeps_its_state_or_nothing(
    saved: bool, small_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed(*_: object, checkpoint: Path, **__: object) -> None:
        if saved:
            checkpoint.write_bytes(b"a state")
        raise KeyboardInterrupt

    monkeypatch.setattr(UpFusion, "distill", pressed)
    out = tmp_path / "out"
    result = upfusion("--model", small_weights, "--data", "procedural", *SMALL, "--stages", "field", "-o", out)
    assert result.exit_code == 130
    if saved:
        assert "upfusion evaluate --resume -o" in words_of(result)
        assert [path.read_bytes() for path in (out / "objects").iterdir()] == [b"a state"]
    else:
        assert "nothing was finished, so nothing was kept" in words_of(result)
        assert not out.exists()


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


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no names that are no UTF-8")
def test_a_folder_whose_name_is_no_utf_8(small_weights: Path, tmp_path: Path) -> None:
    data = tmp_path / "meshes\udcff"
    data.mkdir()
    trimesh.creation.box((0.2, 0.3, 0.1)).export(tmp_path / "a.ply")
    shutil.copyfile(tmp_path / "a.ply", data / "a.ply")
    shutil.copyfile(tmp_path / "a.ply", data / "b\udcff.ply")  # trimesh cannot read it
    result = upfusion("--model", small_weights, "--data", data, *SMALL, "--objects", 2, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "meshes\\udcff" in text
    assert "b\\udcff.ply: " in text
    assert json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["data"] == str(data)


def test_what_was_never_trained_on_is_reported_apart(small_weights: Path, tmp_path: Path) -> None:
    common = ("--model", small_weights, "--data", "procedural", *SMALL)
    result = upfusion(*common, "--held-out", 3, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "2 objects, 0 skipped, 3 held out reported apart" in words_of(result)
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    assert content["evaluated"] == ["procedural-1-test-0", "procedural-1-test-1"]
    assert content["results"]["nearest"]["2"]["box_psnr"]["objects"] == 2
    apart = content["results_by_group"]
    assert list(apart) == ["held_out_combination", "held_out_pattern"]
    assert [apart[name]["nearest"]["2"]["box_psnr"]["objects"] for name in apart] == [2, 1]
    assert content["groups"]["held_out_combination"] == {
        "title": "parts that were never trained on together: spout and leg",
        "evaluated": ["procedural-1-held_out-0", "procedural-1-held_out-2"],
    }
    text = (tmp_path / "out" / "report.md").read_text()
    assert "## Apart: a pattern that was never trained on: dots" in text
    assert text.count("| nearest | 2 | 1 |") == 1
    # alone, the same objects get the same figures
    alone = upfusion(*common, "--objects", 3, "--split", "held_out", "-o", tmp_path / "alone")
    assert alone.exit_code == 0, alone.output
    content = json.loads((tmp_path / "alone" / "report.json").read_text())
    assert content["results_by_group"] == apart
    assert content["results"]["nearest"]["2"]["box_psnr"]["objects"] == 3


def test_a_fifth_is_held_out_unless_told() -> None:
    for objects, held_out in ((100, 20), (5, 0), (10, 2), (24, 4)):
        command = Evaluate(Folder(Path("out")), data="procedural", objects=objects)
        assert completed(command, new=True).held_out == held_out
        assert completed(command, new=False).held_out is None  # a run from before there was the option


def test_lpips_with_the_user_s_weights(small_weights: Path, tmp_path: Path) -> None:
    torch.save(vgg_weights() | heads(), tmp_path / "vgg.pth")
    options = ("--photos", "1", "--objects", 1, "--views", 1, "--stages", "white", "--device", "cpu")
    common = ("--model", small_weights, "--data", "procedural", *options)
    result = upfusion(*common, "--lpips", tmp_path / "vgg.pth", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    measured = content["results"]["white"]["1"]
    truth = draw_object(
        ProceduralObjects("test", size=64), 0, EvaluationConfig(photos=(1,), views=1, stages=("white",))
    ).truth
    assert measured["lpips"]["mean"] == pytest.approx(lpips_by_hand(vgg_weights(), torch.ones_like(truth), truth), 1e-4)
    assert measured["lpips_affine"]["mean"] == pytest.approx(measured["lpips"]["mean"])
    assert "LPIPS" in (tmp_path / "out" / "report.md").read_text()
    assert read_run(tmp_path / "out")["inputs"] == {"lpips": content["lpips"]}
    torch.save({"a": torch.ones(1)}, tmp_path / "other.pth")
    for name, words in (("other.pth", "must hold VGG-16's convolutions"), ("none.pth", "does not exist")):
        refused = upfusion(*common, "--lpips", tmp_path / name, "-o", tmp_path / "refused")
        assert refused.exit_code == 2
        assert words in words_of(refused)
        assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "png"])
def test_a_broken_object_is_measured_again(small_weights: Path, tmp_path: Path, text: str) -> None:
    out = tmp_path / "out"
    assert upfusion("--model", small_weights, "--data", "procedural", *SMALL, "-o", out).exit_code == 0
    before = (out / "objects" / "000001.json").read_bytes()
    if text == "png":
        (out / "objects" / "000001.png").write_text(text)
    else:
        (out / "objects" / "000001.json").write_text(text)
    (out / "run.json").write_text(json.dumps(read_run(out) | {"status": "interrupted"}))
    result = upfusion("--resume", "-o", out, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert (out / "objects" / "000001.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "w"], "--data is needed"),
        (["--model", "w", "--data", "nowhere"], "nowhere"),
        (["--model", "w", "--data", ".", "--split", "test"], "--split is of procedural objects"),
        (["--model", "w", "--data", "procedural", "--photos", "1;3"], "--photos must be a whole number"),
        (["--model", "w", "--data", "procedural", "--photos", "1" * 5000], "--photos must be a whole number"),
        (["--model", "w", "--data", "procedural", "--photos", "0,3"], "--photos must be between 1 and 6, got 0"),
        (["--model", "w", "--data", "procedural", "--stages", "white,guess"], "--stages must be one of"),
        (["--model", "w", "--data", "procedural", "--scheduler", "magic"], "magic"),
        (["--model", "w", "--data", "procedural", "--objects", "100000"], "ask for fewer"),
        (
            ["--model", "w", "--data", "procedural", "--split", "train"],
            "--split must be one of test",
        ),
        (["--model", "w", "--data", "procedural", "--split", "held_out", "--held-out", "4"], "--held-out is beside"),
        (["--model", "w", "--data", ".", "--held-out", "4"], "--held-out is beside"),
    ],
)
def test_what_is_refused(arguments: list[str], words: str, tmp_path: Path) -> None:
    result = upfusion(*arguments, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert words in words_of(result)
    assert not (tmp_path / "out").exists()


def test_the_field_is_of_the_preset_with_the_command_s_guidance() -> None:
    assert options_of(Evaluate)["preset"].choices == tuple(PRESETS)
    command = Evaluate(Folder(Path("out")), protocol=EvaluationConfig(photos=(3,)), guidance=3.0)
    config = evaluation_config(dataclasses.replace(command, preset="reference", perceptual="none"))
    assert (config.distill.preset, config.distill.perceptual) == ("reference", "none")
    config = evaluation_config(dataclasses.replace(command, preset="draft"))
    assert config.distill.preset == "draft"
    assert config.distill.guidance == 3.0
    assert config.photos == (3,)
