"""`evaluate` and `pack` as they are called: their folders and records, interrupted and continued; shards in `train`."""

import json
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, get_args
from unittest.mock import Mock

import pytest
import torch
import trimesh
from command_runs import change_run, done, interrupted, press, read_run, refused
from random_vgg import heads, vgg_weights

from upfusion_core.cli.datasets import completed, evaluation_config
from upfusion_core.config import PRESETS, EvaluationConfig
from upfusion_core.config.base import options_of
from upfusion_core.config.options import Evaluate, Folder, Pack
from upfusion_core.data.shards import PictureFormat, ShardedViews
from upfusion_core.evaluation import report as report_module
from upfusion_core.pipeline.upfusion import UpFusion

EVALUATED = ("--photos", "1,2", "--objects", 2, "--views", 1, "--stages", "white,nearest", "--device", "cpu")
PACKED = ("pack", "procedural-2", "--objects", 5, "--views", 4, "--size", 16, "--shard-size", 0.03)


@pytest.fixture(scope="module", autouse=True)
def _quick(model: UpFusion, rough: None) -> Iterator[None]:
    """One model for all tests, and no plots, which take longer than such small evaluations."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(UpFusion, "load", lambda *arguments, **keywords: model)
        patched.setattr(report_module, "plot_results", lambda results, folder: {})
        yield


@pytest.fixture
def meshes(tmp_path: Path) -> Path:
    """A data set of two boxes and what is no mesh."""
    data = tmp_path / "meshes"
    data.mkdir()
    for name in "ac":
        trimesh.creation.box((0.2, 0.3, 0.1)).export(data / f"{name}.ply")
    (data / "b.ply").write_text("torn")
    return data


def evaluation(data: object = "procedural", *further: object) -> tuple[object, ...]:
    return ("evaluate", "--model", "small", "--data", data, *EVALUATED, *further)


def report_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluated") / "out"
    assert "2 objects, 0 skipped" in done(*evaluation(), "-o", out)
    return out


def test_a_report_in_its_folder(evaluated: Path) -> None:
    content, run = report_of(evaluated), read_run(evaluated)
    assert (content["split"], content["data"], content["settings"]["photos"]) == ("test", "procedural", [1, 2])
    assert {"torch", "diffusers"} <= content["versions"].keys()
    assert list(content["results"]) == ["white", "nearest"]
    written = {path.relative_to(evaluated).as_posix() for path in evaluated.rglob("*") if path.is_file()}
    assert (set(run["files"]) | {"run.json"}, run["status"]) == (written, "finished")
    assert "finished already" in done("evaluate", "-o", evaluated, "--resume")
    assert "was begun with seed = 0, now it is 3" in refused("evaluate", "-o", evaluated, "--resume", "--seed", 3)


def test_two_workers_evaluate_as_one(evaluated: Path, meshes: Path, tmp_path: Path, forked: None) -> None:
    """Byte for byte, an object that is broken too. A report that is continued does only the rest."""
    told = evaluation(meshes, "--objects", 3, "--photos", 1, "--threads", 1)
    for workers in (1, 2):
        said = done(*told, "-o", tmp_path / str(workers), "--workers", workers)
        assert "Skipped b.ply:" in said
    for name in ("report.json", "report.md", "sheet.png", "objects/000000.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    content = report_of(tmp_path / "2")
    assert (content["evaluated"], [name for name, _ in content["skipped"]]) == (["a.ply", "c.ply"], ["b.ply"])
    assert set(read_run(tmp_path / "1")["files"]) == set(read_run(tmp_path / "2")["files"])
    out = shutil.copytree(evaluated, tmp_path / "out")
    (out / "objects/000001.json").unlink()
    kept = (out / "objects/000000.json").stat().st_mtime_ns
    change_run(out, status="interrupted")
    done("evaluate", "--resume", "-o", out, "--device", "cpu", "--workers", 2)
    assert (out / "report.json").read_bytes() == (evaluated / "report.json").read_bytes()
    assert (out / "objects/000000.json").stat().st_mtime_ns == kept


def test_ctrl_c_in_the_first_field_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_: object, checkpoint: Path, **__: object) -> None:
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_bytes(b"a state")
        press()

    monkeypatch.setattr(UpFusion, "distill", pressed)
    assert "upfusion evaluate --resume" in interrupted(*evaluation(), "--stages", "field", "-o", tmp_path / "out")
    assert [path.read_bytes() for path in (tmp_path / "out").rglob("*.state")] == [b"a state"]


def test_folders_of_too_few_meshes(meshes: Path, tmp_path: Path) -> None:
    said = refused(*evaluation(meshes, "--objects", 4), "-o", tmp_path / "out")
    assert "holds 3 objects, got --objects 4; ask for fewer" in said
    for name in "ac":
        (meshes / f"{name}.ply").unlink()
    said = refused(*evaluation(meshes, "--objects", 1), "-o", tmp_path / "none")
    assert "none of 1 objects could be evaluated, b.ply because" in said


def test_what_was_never_trained_on_is_reported_apart(tmp_path: Path) -> None:
    few = ("--photos", 2, "--stages", "nearest")
    said = done(*evaluation(), *few, "--held-out", 3, "-o", tmp_path / "out")
    assert "2 objects, 0 skipped, 3 held out reported apart" in said
    content = report_of(tmp_path / "out")
    assert content["evaluated"] == ["procedural-1-test-0", "procedural-1-test-1"]
    apart = content["results_by_group"]
    counts = {name: rows["nearest"]["2"]["box_psnr"]["objects"] for name, rows in apart.items()}
    assert counts == {"held_out_combination": 2, "held_out_pattern": 1}
    assert content["groups"]["held_out_combination"]["evaluated"] == [f"procedural-1-held_out-{n}" for n in (0, 2)]
    text = (tmp_path / "out" / "report.md").read_text()
    assert "## Apart: parts that were never trained on together: spout and leg" in text
    assert "## Apart: a pattern that was never trained on: dots" in text
    # alone, the same objects get the same figures
    done(*evaluation(), *few, "--objects", 3, "--split", "held_out", "-o", tmp_path / "alone")
    content = report_of(tmp_path / "alone")
    assert content["results_by_group"] == apart
    assert content["results"]["nearest"]["2"]["box_psnr"]["objects"] == 3


def test_what_evaluate_asks_for() -> None:
    for objects, held_out in ((5, 0), (24, 4)):
        command = Evaluate(Folder(Path("out")), data="procedural", objects=objects)
        assert completed(command, new=True).held_out == held_out
        assert completed(command, new=False).held_out is None  # a run from before there was the option
    assert options_of(Evaluate)["preset"].choices == tuple(PRESETS)
    protocol, given = EvaluationConfig(photos=(3,)), {"guidance": 3.0, "preset": "reference", "perceptual": "none"}
    config = evaluation_config(Evaluate(Folder(Path("out")), protocol=protocol, **given))
    assert (config.photos, {name: getattr(config.distill, name) for name in given}) == ((3,), given)


def test_lpips_with_the_user_s_weights(tmp_path: Path) -> None:
    torch.save(vgg_weights() | heads(), tmp_path / "vgg.pth")
    few = ("--photos", 1, "--objects", 1, "--stages", "white", "--lpips", tmp_path / "vgg.pth")
    done(*evaluation("procedural-2"), *few, "-o", tmp_path / "out")
    content = report_of(tmp_path / "out")
    assert (content["data"], content["evaluated"]) == ("procedural-2", ["procedural-2-test-0"])
    assert content["results"]["white"]["1"]["lpips"]["mean"] > 0
    assert "LPIPS" in (tmp_path / "out" / "report.md").read_text()
    assert read_run(tmp_path / "out")["inputs"] == {"lpips": content["lpips"]}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed") / "out"
    done(*PACKED, "-o", folder)
    return folder


def test_shards_and_their_index_in_a_folder(shards: Path) -> None:
    assert options_of(Pack)["pictures"].choices == get_args(PictureFormat)
    content = json.loads((shards / "index.json").read_text())
    names = {shard["name"] for shard in content["shards"]} | {"index.json"}
    assert (content["objects"], content["packed"]["data"], len(names) > 2) == (5, "procedural-2", True)
    assert set(read_run(shards)["files"]) == names == {path.name for path in shards.iterdir()} - {"run.json"}
    dataset = ShardedViews(shards)
    assert [dataset[index].name for index in (0, 4)] == ["procedural-2-train-0", "procedural-2-train-4"]
    assert "finished already" in done("pack", "-o", shards, "--resume")


@pytest.mark.usefixtures("forked")
def test_interrupted_packing_goes_on(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, pressed = tmp_path / "out", Mock(side_effect=[None] * 3 + [KeyboardInterrupt])
    with monkeypatch.context() as patch:
        patch.setattr("upfusion_core.cli.datasets.progress", lambda title: nullcontext(pressed))
        assert "upfusion pack --resume -o" in interrupted(*PACKED, "-o", out)
    assert not (out / "index.json").exists()
    assert "is not packed" in refused("train", "encoder", "--config", "mini", "--data", out, "-o", tmp_path / "run")
    done("pack", "--resume", "-o", out, "--workers", 2)
    for path in (*shards.glob("*.tar"), shards / "index.json"):
        assert (out / path.name).read_bytes() == path.read_bytes()


def test_broken_objects_of_a_folder_are_named(meshes: Path, tmp_path: Path) -> None:
    said = done("pack", meshes, "--views", 3, "--size", 16, "--format", "webp", "--depth", "-o", tmp_path / "out")
    assert "Skipped b.ply:" in said
    dataset = ShardedViews(tmp_path / "out")
    assert [dataset[index].name for index in (0, 1)] == ["a.ply", "c.ply"]
    assert dataset[1].depth is not None
    done("pack", tmp_path / "out", "--size", 16, "-o", tmp_path / "again")  # shards may be packed anew
    done(*evaluation(tmp_path / "again"), "--views", 2, "--photos", 1, "-o", tmp_path / "evaluated")
    assert report_of(tmp_path / "evaluated")["evaluated"] == ["a.ply", "c.ply"]
