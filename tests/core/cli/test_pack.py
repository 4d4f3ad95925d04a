"""`pack` as it is called, and its shards in `train` and `evaluate`."""

from __future__ import annotations

import errno
import json
import tarfile
from pathlib import Path

import pytest
import trimesh
from command_runs import read_run
from tiny_training import tiny_config
from typer.testing import CliRunner, Result

from upfusion_core.cli.app import app
from upfusion_core.config.base import options_of
from upfusion_core.config.options import Pack
from upfusion_core.data.formats import FORMATS
from upfusion_core.data.shards import PICTURE_FORMATS, ShardedViews
from upfusion_core.evaluation import report as report_module

SMALL = ("--objects", 5, "--views", 4, "--size", 16, "--shard-size", 0.03)


def upfusion(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def words_of(result: Result) -> str:
    return " ".join(result.output.split())


def test_the_options_are_the_library_s() -> None:
    assert options_of(Pack)["kind"].choices == tuple(FORMATS)
    assert options_of(Pack)["pictures"].choices == PICTURE_FORMATS


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed") / "out"
    result = upfusion("pack", "procedural", *SMALL, "-o", folder)
    assert result.exit_code == 0, result.output
    return folder


def test_shards_and_their_index_in_a_folder(shards: Path) -> None:
    content = json.loads((shards / "index.json").read_text())
    names = [shard["name"] for shard in content["shards"]]
    assert content["objects"] == 5
    assert len(names) > 1
    assert content["packed"]["split"] == "train"
    assert set(read_run(shards)["files"]) == {*names, "index.json"}
    assert sorted(path.name for path in shards.iterdir()) == sorted([*names, "index.json", "run.json"])
    assert all(shard["bytes"] <= 30_000 + 10_240 for shard in content["shards"])
    dataset = ShardedViews(shards)
    assert [dataset[index].name for index in (0, 4)] == ["procedural-1-train-0", "procedural-1-train-4"]
    assert dataset[0].rgb.shape == (4, 3, 16, 16)
    again = upfusion("pack", "-o", shards, "--resume")
    assert "finished already" in words_of(again)


def test_ctrl_c_is_130_and_goes_on(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add = tarfile.TarFile.addfile

    def pressing(self: tarfile.TarFile, info: tarfile.TarInfo, content: object) -> None:
        if info.name.startswith("000000003"):
            raise KeyboardInterrupt
        add(self, info, content)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "addfile", pressing)
        result = upfusion("pack", "procedural", *SMALL, "-o", out)
    assert result.exit_code == 130
    assert "upfusion pack --resume -o" in words_of(result)
    assert not (out / "index.json").exists()
    used = upfusion("train", "encoder", "--config", "mini", "--data", out, "-o", tmp_path / "run")
    assert used.exit_code == 2
    assert "is not packed to the end" in words_of(used)
    other = upfusion("pack", "--resume", "-o", out, "--size", 32)
    assert other.exit_code == 2
    assert "was begun with size = 16, now it is 32" in words_of(other)
    result = upfusion("pack", "--resume", "-o", out)
    assert result.exit_code == 0, result.output
    for path in (*shards.glob("*.tar"), shards / "index.json"):
        assert (out / path.name).read_bytes() == path.read_bytes()
    assert not (out / "packing.json").exists()


def packing(place: object = 0, shards: object = (), skipped: object = ()) -> str:
    return json.dumps({"place": place, "shards": shards, "skipped": skipped})


OUTSIDE = {"name": "../p1.tar", "objects": 1, "bytes": 512}


@pytest.mark.parametrize("text", ["{", "[]", packing("x"), packing(skipped=[1]), packing(1, [OUTSIDE])])
def test_a_state_that_is_none(shards: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(json.dumps(read_run(shards) | {"status": "interrupted"}))
    (tmp_path / "packing.json").write_text(text)
    result = upfusion("pack", "--resume", "-o", tmp_path)
    assert result.exit_code == 2
    assert "packing.json" in words_of(result)


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    result = upfusion("pack", "procedural", *SMALL, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "the disk is full" in words_of(result)
    assert not (tmp_path / "out").exists()


def test_broken_objects_of_a_folder_are_named(tmp_path: Path) -> None:
    data = tmp_path / "meshes"
    data.mkdir()
    for name in "ac":
        trimesh.creation.box((0.2, 0.3, 0.1)).export(data / f"{name}.ply")
    (data / "b.ply").write_text("torn")
    options = ("--views", 3, "--size", 16, "--format", "webp", "--depth")
    result = upfusion("pack", data, *options, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "Skipped b.ply:" in words_of(result)
    assert "2 objects in 1 shards" in words_of(result)
    dataset = ShardedViews(tmp_path / "out")
    assert [dataset[index].name for index in (0, 1)] == ["a.ply", "c.ply"]
    assert dataset[1].depth is not None
    again = upfusion("pack", tmp_path / "out", "--size", 16, "-o", tmp_path / "again")  # shards may be packed anew
    assert again.exit_code == 0, again.output


def test_training_on_shards_in_two_stretches_is_one_run(shards: Path, tmp_path: Path) -> None:
    config = tmp_path / "tiny.json"
    config.write_text(json.dumps(tiny_config("encoder", steps=3, batch_size=2, photos=(1, 2)).to_dict()))
    common = ("--config", config, "--data", shards, "--device", "cpu")
    assert upfusion("train", "encoder", *common, "-o", tmp_path / "whole").exit_code == 0
    result = upfusion("train", "encoder", *common, "-o", tmp_path / "parts", "--max-minutes", 0)
    assert "1 steps of 3" in words_of(result)
    result = upfusion("train", "-o", tmp_path / "parts", "--resume", "--device", "cpu")
    assert result.exit_code == 0, result.output
    whole, parts = (tmp_path / name / "model.safetensors" for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()


def test_evaluation_of_shards(
    shards: Path, small_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_module, "plot_results", lambda results, folder: {})
    options = ("--photos", "1", "--objects", 2, "--views", 2, "--stages", "white,nearest", "--device", "cpu")
    result = upfusion("evaluate", "--model", small_weights, "--data", shards, *options, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    assert content["evaluated"] == ["procedural-1-train-0", "procedural-1-train-2"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "something to pack is needed"),
        (["nowhere"], "nowhere"),
        (["procedural", "--kind", "gso"], "--kind is of a folder"),
        ([".", "--split", "test"], "--split is of procedural objects"),
        (["procedural", "--split", "test", "--objects", 100_000], "ask for fewer"),
        (["procedural", "--views", 65], "views must be between 1 and 64"),
        (["procedural", "--format", "gif"], "--format must be one of png, webp, jpeg"),
        (["procedural", "--shard-size", 0], "shard-size"),
        (["procedural", "--shard-size", "inf"], "shard-size"),
        (["procedural", "--shard-size", "1e305"], "shard-size"),
        (["procedural", "--shard-size", "nan"], "shard-size"),
    ],
)
def test_what_is_refused(arguments: list[object], words: str, tmp_path: Path) -> None:
    result = upfusion("pack", *arguments, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert words in words_of(result)
    assert not (tmp_path / "out").exists()
