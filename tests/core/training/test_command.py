import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
from command_runs import done, interrupted, press, read_run, refused
from data_sets import packed
from tiny_training import tiny_config

from upfusion_core import UpFusion
from upfusion_core.cli import datasets as command
from upfusion_core.models.checkpoint import open_checkpoint
from upfusion_core.procedural import ProceduralObjects

pytestmark = pytest.mark.usefixtures("rough")


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(tiny_config("encoder", steps=3, batch_size=1).to_dict()))
    return path


@pytest.fixture
def common(config: Path) -> tuple[object, ...]:
    return "encoder", "--config", config, "--data", "procedural", "--device", "cpu"


@pytest.fixture(autouse=True)
def _few_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands take seconds to draw."""
    monkeypatch.setattr(command, "PROCEDURAL_POOL", 8)


def test_a_run_in_two_stretches_is_one_run(common: tuple, tmp_path: Path) -> None:
    whole, parts, curriculum = tmp_path / "whole", tmp_path / "parts", ("--curriculum", "1, 2")
    done("train", *common, *curriculum, "-o", whole)
    assert "1 steps of 3; --resume goes on" in done("train", *common, *curriculum, "-o", parts, "--max-minutes", 0)
    assert (parts / "training.pt").exists()
    done("train", "-o", parts, "--resume", "--device", "cpu")
    assert weights(parts) == weights(whole)
    run = read_run(parts)
    assert (run["status"], run["step"]) == ("finished", 3)
    assert run["settings"]["config"]["curriculum"] == [1, 2]
    assert open_checkpoint(parts / "model.safetensors").config == tiny_config().model
    assert "finished already" in done("train", "-o", parts, "--resume", "--device", "cpu")


def test_a_folder_of_views_and_weights_to_start_from(config: Path, tmp_path: Path) -> None:
    data = packed(tmp_path / "data", ProceduralObjects("train", size=16, views=4), 3, shard_bytes=1)
    (data / "shard-000001.tar").unlink()
    common = ("encoder", "--config", config, "--data", data, "--device", "cpu", "--steps", 1)
    said = done("train", *common, "-o", tmp_path / "one")
    assert all(words in said for words in ("Skipped shard-000001.tar: it is missing", "1 steps, 1 skipped"))
    done("train", *common, "--init", tmp_path / "one" / "model.safetensors", "--seed", 4, "-o", tmp_path / "two")
    assert read_run(tmp_path / "two")["settings"]["config"]["seed"] == 4
    assert UpFusion.load(tmp_path / "two" / "model.safetensors", device="cpu").image_size == 16


def test_ctrl_c_is_130(common: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(command, "progress", lambda title: nullcontext(press))
    assert "upfusion train --resume -o" in interrupted("train", *common, "-o", out)
    assert read_run(out)["status"] == "interrupted"
    assert "was begun with config" in refused("train", "--resume", "-o", out, "--seed", 9, "--device", "cpu")
    (tmp_path / "w.safetensors").write_bytes(b"no weights")
    before = sorted(out.rglob("*"))
    refused("train", *common, "-o", out, "--force", "--init", tmp_path / "w.safetensors")
    assert sorted(out.rglob("*")) == before


def test_killed_before_its_first_state_it_begins_anew(common: tuple, tiny: Path, tmp_path: Path) -> None:
    """With the weights that it began with, although they are not named again."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done("train", *common, "--init", tiny, "-o", whole)
    shutil.copytree(whole, killed)
    content = read_run(killed) | {"status": "running", "stages": [], "files": [], "timings_seconds": {}}
    (killed / "run.json").write_text(json.dumps(content))
    (killed / "model.safetensors").unlink()
    said = done("train", "-o", killed, "--resume", "--device", "cpu")
    assert "nothing was saved before the run stopped, so it begins anew" in said
    assert weights(killed) == weights(whole)


def test_the_other_processes_keep_no_record(common: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, out = [], tmp_path / "out"
    monkeypatch.setattr(command, "train", lambda config, *given, **_: seen.append((given[2], config.steps)))
    monkeypatch.setenv("RANK", "1")
    done("train", *common, "-o", out)
    assert (seen, out.exists()) == ([(out, 3)], False)
