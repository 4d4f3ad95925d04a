from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from command_runs import read_run
from PIL import Image
from tiny_training import tiny_config
from typer.testing import CliRunner, Result

from upfusion_core import UpFusion
from upfusion_core.cli import train as command
from upfusion_core.cli.app import app
from upfusion_core.cli.run import Run
from upfusion_core.models.checkpoint import describe
from upfusion_core.training import loop


def upfusion(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(tiny_config("encoder", steps=3, batch_size=1).to_dict()))
    return path


@pytest.fixture(autouse=True)
def _few_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands take seconds to draw."""
    monkeypatch.setattr(command, "PROCEDURAL_POOL", 8)


def test_a_run_in_two_stretches_is_one_run(config: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    common = ("--config", config, "--data", "procedural", "--device", "cpu")
    result = upfusion("encoder", *common, "-o", whole)
    assert result.exit_code == 0, result.output
    assert not (whole / "training.pt").exists()
    result = upfusion("encoder", *common, "-o", parts, "--max-minutes", 0)
    assert result.exit_code == 0, result.output
    assert "1 steps of 3; --resume goes on" in result.output
    assert (parts / "training.pt").exists()
    result = upfusion("-o", parts, "--resume", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert (parts / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert read_run(parts)["status"] == "finished"
    assert read_run(parts)["step"] == 3
    assert {"model.safetensors", "history.json"} <= set(read_run(parts)["files"])
    assert describe(parts / "model.safetensors").config == tiny_config().model
    result = upfusion("-o", parts, "--resume", "--device", "cpu")
    assert result.exit_code == 0
    assert "finished already" in result.output


def test_a_folder_of_views_and_weights_to_start_from(config: Path, tmp_path: Path) -> None:
    data = tmp_path / "data" / "cup"
    for name in ("rgb", "pose"):
        (data / name).mkdir(parents=True)
    for view in range(4):
        Image.new("RGB", (16, 16), (200, 50 * view, 0)).save(data / "rgb" / f"{view:06d}.png")
        (data / "pose" / f"{view:06d}.txt").write_text(f"1 0 0 0 0 0 1 {-1 - view / 10} 0 -1 0 0 0 0 0 1")
    (data / "intrinsics.txt").write_text("36 8 8 0.\n0 0 0\n1\n16 16\n")
    first = upfusion("encoder", "--config", config, "--data", data.parent, "-o", tmp_path / "one", "--device", "cpu")
    assert first.exit_code == 0, first.output
    options = (
        "--config",
        config,
        "--data",
        data.parent,
        "--init",
        tmp_path / "one" / "model.safetensors",
        "--steps",
        1,
    )
    second = upfusion("encoder", *options, "--seed", 4, "-o", tmp_path / "two", "--device", "cpu")
    assert second.exit_code == 0, second.output
    assert read_run(tmp_path / "two")["settings"]["config"]["seed"] == 4
    assert UpFusion.load(tmp_path / "two" / "model.safetensors", device="cpu").image_size == 16


def test_ctrl_c_is_130_and_goes_on(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import contextmanager

    @contextmanager
    def pressing(title: str):  # noqa: ANN202
        def on_step(step: int, total: int, preview: object) -> None:
            raise KeyboardInterrupt

        yield on_step

    out = tmp_path / "out"
    common = ("--config", config, "--data", "procedural", "--device", "cpu", "-o", out)
    with monkeypatch.context() as patch:
        patch.setattr(command, "progress", pressing)
        result = upfusion("encoder", *common)
    assert result.exit_code == 130
    assert "upfusion train --resume -o" in result.output
    assert read_run(out)["status"] == "interrupted"
    assert upfusion("encoder", *common).exit_code == 2  # neither --resume nor --force
    result = upfusion("--resume", "-o", out, "--seed", 9, "--device", "cpu")
    assert result.exit_code == 2
    assert "was begun with config" in result.output
    assert upfusion("--resume", "-o", out, "--device", "cpu").exit_code == 0
    assert upfusion("encoder", *common, "--force").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["encoder", "--data", "procedural"], "--config is needed"),
        (["encoder", "--config", "mini"], "--data is needed"),
        (["--config", "mini", "--data", "procedural"], "the stage must be one of"),
        (["nerf", "--config", "mini", "--data", "procedural"], "the stage must be one of"),
        (["encoder", "--config", "none.json", "--data", "procedural"], "JSON file, got none.json"),
        (["encoder", "--config", "mini", "--data", "nowhere"], "nowhere"),
        (["encoder", "--config", "mini", "--data", "procedural", "--init", "nothing.pt"], "none at nothing.pt"),
    ],
)
def test_what_is_refused(arguments: list[str], words: str, tmp_path: Path) -> None:
    result = upfusion(*arguments, "-o", tmp_path / "out", "--device", "cpu")
    assert result.exit_code == 2
    assert words in result.output.replace("\n", "")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such files")
def test_a_configuration_that_is_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    result = upfusion("encoder", "--config", tmp_path / "pipe.json", "--data", "procedural", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "it is a device or pipe" in result.output.replace("\n", " ")


def test_stage_and_file_must_agree(config: Path, tmp_path: Path) -> None:
    result = upfusion("diffusion", "--config", config, "--data", "procedural", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "must be that of the configuration, encoder" in result.output.replace("\n", " ")


def test_a_run_without_its_state(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    common = ("--config", config, "--data", "procedural", "--device", "cpu", "-o", out)
    assert upfusion("encoder", *common, "--max-minutes", 0).exit_code == 0
    content = read_run(out) | {"status": "interrupted"}
    (out / "run.json").write_text(json.dumps(content))
    (out / "training.pt").unlink()
    result = upfusion("-o", out, "--resume")
    assert result.exit_code == 2
    assert "no training.pt to go on from" in result.output.replace("\n", " ")


def test_killed_before_its_first_state_it_begins_anew(config: Path, tmp_path: Path) -> None:
    """With the weights that it began with, although they are not named again."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    first = tmp_path / "first"
    common = ("encoder", "--config", config, "--data", "procedural", "--device", "cpu")
    assert upfusion(*common, "--steps", 1, "--seed", 3, "-o", first).exit_code == 0
    for out in (whole, killed):
        assert upfusion(*common, "--init", first / "model.safetensors", "-o", out).exit_code == 0
    content = read_run(killed) | {"status": "running", "stages": [], "files": [], "timings_seconds": {}}
    (killed / "run.json").write_text(json.dumps(content))
    (killed / "model.safetensors").unlink()
    result = upfusion("-o", killed, "--resume", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "nothing was saved before the run stopped, so it begins anew" in " ".join(result.output.split())
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_killed_between_its_end_and_its_last_words(config: Path, tmp_path: Path) -> None:
    """The model is written and the run is recorded as finished, but its state is still there."""
    out = tmp_path / "out"
    common = ("--data", "procedural", "--device", "cpu", "-o", out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "_remove", lambda run, *names: None)
        assert upfusion("encoder", "--config", config, *common).exit_code == 0
    weights = (out / "model.safetensors").read_bytes()
    assert (out / "training.pt").exists()
    assert upfusion("-o", out, "--resume", "--device", "cpu").exit_code == 0
    assert not (out / "training.pt").exists()
    assert (out / "model.safetensors").read_bytes() == weights


def test_processes_beside_the_first_keep_no_record(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(loop, "train", lambda config, *given, **_: seen.append((given[2], config.steps)))
    monkeypatch.setenv("RANK", "1")
    out = tmp_path / "out"
    result = upfusion("encoder", "--config", config, "--data", "procedural", "--device", "cpu", "-o", out)
    assert result.exit_code == 0, result.output
    assert seen == [(out, 3)]
    assert not out.exists()


@pytest.mark.parametrize("text", ["[" * 100_000, '{"settings": NaN}', "{}", ""])
def test_processes_beside_the_first_refuse_what_is_no_record(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    (tmp_path / "run.json").write_text(text)
    result = upfusion("-o", tmp_path, "--resume")
    assert result.exit_code == 2
    assert "run.json must be" in " ".join(result.output.split())


def test_a_curriculum(config: Path, tmp_path: Path) -> None:
    common = ("encoder", "--config", config, "--data", "procedural", "--device", "cpu")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert upfusion(*common, "--curriculum", "1,2", "-o", whole).exit_code == 0
    assert read_run(whole)["settings"]["config"]["curriculum"] == [1, 2]
    assert upfusion(*common, "--curriculum", "1, 2", "-o", parts, "--max-minutes", 0).exit_code == 0
    assert upfusion("-o", parts, "--resume", "--device", "cpu").exit_code == 0
    assert (parts / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    plain = tmp_path / "plain"
    assert upfusion(*common, "-o", plain).exit_code == 0
    assert "curriculum" not in read_run(plain)["settings"]["config"]
    assert (plain / "model.safetensors").read_bytes() != (whole / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("curriculum", "data", "words"),
    [
        ("5", "procedural", "--curriculum"),
        ("a,b", "procedural", "--curriculum"),
        ("1" * 5000 + ",5", "procedural", "--curriculum"),
        ("0," + "1" * 30, "procedural", "--curriculum"),
        ("5,2", "procedural", "curriculum must be the steps"),
        ("2,5", ".", "a curriculum is of procedural objects"),
    ],
)
def test_curricula_that_are_refused(config: Path, curriculum: str, data: str, words: str, tmp_path: Path) -> None:
    options = ("--config", config, "--data", data, "--curriculum", curriculum)
    result = upfusion("encoder", *options, "-o", tmp_path / "out", "--device", "cpu")
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK"])
def test_numbers_of_processes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "abc")
    result = upfusion("encoder", "--config", "mini", "--data", "procedural", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert f"{name} must be the number of a process, got 'abc'" in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


def test_force_with_wrong_weights_keeps_the_old_run(config: Path, tmp_path: Path) -> None:
    common = ("encoder", "--config", config, "--data", "procedural", "--device", "cpu", "-o", tmp_path / "out")
    assert upfusion(*common, "--max-minutes", 0).exit_code == 0
    (tmp_path / "w.safetensors").write_bytes(b"no weights")
    before = sorted((tmp_path / "out").rglob("*"))
    assert upfusion(*common, "--force", "--init", tmp_path / "w.safetensors").exit_code == 2
    assert sorted((tmp_path / "out").rglob("*")) == before
