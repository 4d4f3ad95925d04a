"""What a command leaves alone: the files that it reads, and what lies outside its folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from command_runs import read_run
from typer.testing import CliRunner, Result

from upfusion_core.cli import files, inputs
from upfusion_core.cli.app import app
from upfusion_core.cli.run import Run, open_run
from upfusion_core.config.options import Networks, Sampler
from upfusion_core.pipeline import sampling as schedule
from upfusion_core.support.errors import InputError, OutputError

NOT_ON_WINDOWS = pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")


def _write(run: Run, name: str) -> None:
    with run.writing(name) as path:
        path.write_text(name)


def _finished(folder: Path, *names: str) -> Path:
    with open_run(folder, "views") as run:
        run.plan({}, {}, {})
        run.begin()
        for name in names:
            _write(run, name)
    return folder


def _again(folder: Path, source: Path | str, *names: str, **options: Any) -> None:  # noqa: ANN401
    """The run anew, which reads `source` and writes `names`."""
    with open_run(folder, "views", force=True) as run:
        run.plan({}, {"photos": [str(source)]}, {})
        run.begin(**options)
        for name in names:
            _write(run, name)


def _upfusion(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_force_keeps_what_the_run_reads(tmp_path: Path) -> None:
    run = _finished(tmp_path / "run", "inputs/001.png", "model.safetensors")
    for source in (run / "inputs" / "001.png", run / "model.safetensors", run, run / "inputs"):
        with pytest.raises(OutputError, match=r"is read by this run, which would replace .*; choose another folder"):
            _again(run, source)
        assert (run / "inputs" / "001.png").read_text() == "inputs/001.png"
        assert (run / "model.safetensors").read_text() == "model.safetensors"
        assert read_run(run)["status"] == "finished"


@NOT_ON_WINDOWS
def test_links_to_results_are_sources_too(tmp_path: Path) -> None:
    run, link = _finished(tmp_path / "run", "a.png"), tmp_path / "link.png"
    link.symlink_to(run / "a.png")
    with pytest.raises(OutputError, match="is read by this run"):
        _again(run, link)
    assert link.read_text() == "a.png"


def test_other_files_about_the_folder_are_no_hindrance(tmp_path: Path) -> None:
    run = _finished(tmp_path / "run", "a.png")
    (tmp_path / "photo.png").write_text("mine")
    (run / "photo.png").write_text("mine")
    for source in (tmp_path, tmp_path / "photo.png", run / "photo.png", tmp_path / "none.png", "procedural"):
        _again(run, source, "a.png")
    assert (run / "photo.png").read_text() == "mine"


def test_photos_under_the_name_of_a_result(tmp_path: Path) -> None:
    photo = tmp_path / "photos.png"
    photo.write_text("mine")
    with pytest.raises(OutputError, match=r"would replace .*photos\.png"):
        _again(tmp_path, photo, "photos.png")
    with pytest.raises(OutputError, match=r"would replace .*photos\.png"):
        _again(tmp_path, photo, writes=["photos.png"])
    assert [path.name for path in tmp_path.iterdir()] == ["photos.png"]
    assert photo.read_text() == "mine"


def test_a_record_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "run.json").mkdir()
    with pytest.raises(OutputError, match="could not be written: Is a directory"):
        _again(tmp_path, "procedural")


def test_the_answer_comes_when_all_is_on_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(text: str) -> None:
        raise OutputError(f"stdout is full: {text}")

    monkeypatch.setattr("upfusion_core.cli.run.answer", full)

    def tell() -> None:
        with open_run(tmp_path, "views") as run:
            run.plan({}, {}, {})
            run.begin()
            _write(run, "a.png")
            run.tell("one picture")

    with pytest.raises(OutputError, match="stdout is full: one picture"):
        tell()
    assert read_run(tmp_path)["status"] == "finished"


@pytest.mark.parametrize("name", ["f.safetensors", "f.glb"])
def test_the_source_is_not_replaced(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("weights")
    command = ("mesh", path, "-o") if name == "f.glb" else ("info", path, "-o")
    result = _upfusion(*command, path, "--force")
    assert (result.exit_code, path.read_text()) == (2, "weights")
    assert "is the source itself" in result.stderr


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("q.fbx", "change the suffix"), ("q", "change the suffix"), ("con.glb", "a device on Windows"),
        ("a\nb.glb", "with '\\n'"), ("x" * 175 + ".glb", "letters"), ("folder.glb", "Is a directory"),
        ("new/nul/a.glb", "a device on Windows"), ("a.glb", "a.glb.run.json could not be written"), ("/", "no name"),
        ("b.obj", "b.png exists already"), ("b c.obj", "b_c.mtl exists already"),
    ],
)  # fmt: skip
def test_meshes_that_cannot_be_written(name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("the field was read before the name was checked")

    monkeypatch.setattr(files, "load_field", never)
    for folder in ("folder.glb", "a.glb.run.json"):
        (tmp_path / folder).mkdir()
    for file in ("b.png", "b_c.mtl"):
        (tmp_path / file).write_text("mine")
    force = [] if "exists" in words else ["--force"]
    result = _upfusion("mesh", tmp_path / "field.safetensors", "-o", tmp_path / name, *force)
    assert result.exit_code == 2, result.exception
    assert words in result.stderr
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize(
    "arguments",
    [
        ("views", "a.png", "-o", ""), ("views", "a.png", "-o", "v", "--guidance", "1e9"),
        ("views", "a.png", "-o", "v", "--guidance", "nan"), ("mesh", "f", "-o", "a.glb", "--threshold", "inf"),
        ("train", "-o", "t", "--max-minutes", "inf"), ("evaluate", "-o", "e", "--guidance", "1001"), ("info", ""),
        ("views", "a.png", "-o", "a/" + "x" * 300 + "/b"), ("views", "a.png", "-o", "x/" * 2000),
        ("info", "mini", "-o", "x" * 300), ("pack", "x" * 300, "-o", "p"), ("convert", "mini", "con"),
        ("train", "encoder", "--config", "mini", "--data", "x" * 300, "-o", "t"),
        ("train", "encoder", "--config", "mini", "--data", "procedural", "--init", "x" * 300, "-o", "t"),
    ],
    ids=lambda arguments: " ".join(arguments)[:50],
)  # fmt: skip
def test_what_is_refused_before_anything_is_made(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = _upfusion(*arguments)
    assert result.exit_code == 2, result.exception
    assert list(tmp_path.iterdir()) == []


def test_schedulers_are_tried_with_their_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_many(name: str, steps: int) -> None:
        raise InputError(f"{name} takes no {steps} steps")

    monkeypatch.setattr(schedule, "make_scheduler", too_many)
    with pytest.raises(InputError, match="LCMScheduler takes no 999 steps"):
        inputs.load_model(Networks(), Sampler(steps=999, scheduler="LCMScheduler"))
