"""The run's folder: what is refused, what is kept and removed, what a continued run finds; its record and its lock."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from command_runs import change_run, press, read_run
from refusals import denied, raised, refused

from upfusion_core.cli.run import Run, locked, open_run
from upfusion_core.support.errors import InputError, OutputError

SETTINGS = {"steps": 50, "prompt": None}
INPUTS = {"photos": ["abc"]}
MODEL = SimpleNamespace(model_id="fingerprint", device="cpu", dtype=torch.float32)
Captured = pytest.CaptureFixture[str]
NOT_ON_WINDOWS = pytest.mark.skipif(sys.platform == "win32", reason="it locks otherwise, and links need rights")


def begin(run: Run, sources: dict[str, Any] | None = None, **options: Any) -> None:  # noqa: ANN401
    run.plan(SETTINGS, sources or {"photos": ["a.png"]}, INPUTS)
    run.begin(**options)


def write(run: Run, name: str, keep: bool = True) -> None:
    with run.writing(name, keep=keep) as path:
        path.write_text(name)


def one_view(run: Run) -> None:
    begin(run)
    with run.stage("views"):
        write(run, "views/000.png")


def attempt(folder: Path, act: Callable[[Run], object] = one_view, **options: bool) -> None:
    with open_run(folder, "views", **options) as run:
        act(run)


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_finished_run_and_its_record(tmp_path: Path) -> None:
    with open_run(tmp_path / "new" / "deeper", "views") as run:
        one_view(run)
        run.temporary("preview.png").write_text("preview")
        write(run, "views.png")
        run.check_model(MODEL)
    record = read_run(run.folder)
    expected = {"command": "views", "settings": SETTINGS, "inputs": INPUTS, "status": "finished", "stages": ["views"]}
    expected |= {"format": 2, "model_id": "fingerprint", "device": "cpu, float32"}
    assert record | expected | {"files": ["views/000.png", "views.png"]} == record


def test_existing_runs_and_foreign_files_are_refused(tmp_path: Path) -> None:
    attempt(tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "holiday.jpg").write_text("mine")
    (tmp_path / "file").write_text("")
    (tmp_path / "folder" / "run.json").mkdir(parents=True)
    for name, words in {
        "run": r"holds a run already; .* --force to replace it or --resume",
        "other": r"holds other files \(holiday\.jpg\)",
        "file": "must be a folder, but is a file",
        "folder": "could not be written: Is a directory",
    }.items():
        denied(words, attempt, tmp_path / name)
    attempt(tmp_path / "other", force=True)
    assert (tmp_path / "other" / "holiday.jpg").read_text() == "mine"


def test_force_replaces_the_old_files_only_when_the_new_run_begins(tmp_path: Path) -> None:
    attempt(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="found before"), open_run(tmp_path, "predict", force=True):
        raise InputError("found before begin")
    assert (tmp_path / "views/000.png").read_text() == "views/000.png"
    with open_run(tmp_path, "predict", force=True) as run:
        begin(run)
        write(run, "new.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.png", "notes.txt", "run.json"]


@pytest.mark.parametrize(("error", "status"), [(InputError("no good"), "failed"), (KeyboardInterrupt(), "interrupted")])
def test_what_is_finished_is_kept(error: BaseException, status: str, tmp_path: Path) -> None:
    nothing, something = "^no good$", "^no good$"
    if status == "interrupted":
        nothing = "nothing was finished, so nothing was kept"
        something = f"^interrupted; to continue: upfusion views --resume -o {tmp_path}$"

    def before_begin(run: Run) -> None:
        raise error

    def after_the_photos(run: Run) -> None:
        begin(run)
        with run.stage("photos"):
            write(run, "inputs/001.png", keep=False)
        raise error

    def within_the_views(run: Run) -> None:
        begin(run)
        with run.stage("views"):
            write(run, "views/000.png")
            raise error

    for act in (before_begin, after_the_photos):
        raised(type(error), nothing, attempt, tmp_path / "a" / "b", act)
        assert not (tmp_path / "a").exists()
    raised(type(error), something, attempt, tmp_path, within_the_views)
    assert (read_run(tmp_path)["status"], read_run(tmp_path)["stages"]) == (status, [])
    assert (tmp_path / "views/000.png").exists()


def test_on_a_full_disk_only_a_minute_s_work_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def act(run: Run) -> None:
        one_view(run)
        raise OutputError("out could not be written: the disk is full")

    denied(r"the disk is full$", attempt, tmp_path / "quick", act)
    assert not (tmp_path / "quick").exists()
    monkeypatch.setattr("upfusion_core.cli.run.CHEAP_SECONDS", 0.0)
    denied("is full; what is finished was kept: upfusion views --resume -o", attempt, tmp_path / "slow", act)
    assert (tmp_path / "slow/views/000.png").exists()


def test_the_answer_comes_when_all_is_on_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upfusion_core.cli.run.answer", press)
    raised(KeyboardInterrupt, "^$", attempt, tmp_path, lambda run: (begin(run), run.tell("one picture")))
    assert read_run(tmp_path)["status"] == "finished"


def test_resume_knows_what_is_finished(tmp_path: Path) -> None:
    def act(run: Run) -> None:
        begin(run)
        with run.stage("one"):
            write(run, "1.png")
        write(run, "2.png")
        press()

    raised(KeyboardInterrupt, "interrupted", attempt, tmp_path, act)
    (tmp_path / "2.png").unlink()
    with open_run(tmp_path, "views", resume=True) as run:
        assert run.stored.settings == SETTINGS
        begin(run)
        assert [run.finished("one"), run.finished("two")] == [True, False]
        assert [run.has("1.png"), run.has("2.png")] == [True, False]
    with open_run(tmp_path, "views", resume=True) as run:
        assert run.already_finished
        begin(run)


def test_resume_refuses_what_is_not_as_it_was(tmp_path: Path) -> None:
    denied("holds no run to continue; leave out --resume", attempt, tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()
    attempt(tmp_path, lambda run: (begin(run), run.check_model(MODEL), write(run, "1.png")))
    for words, act in {
        "was begun with steps = 50, now it is 20": lambda run: run.plan({**SETTINGS, "steps": 20}, {}, INPUTS),
        "was begun with other photos": lambda run: run.plan(SETTINGS, {}, {"photos": ["def"]}),
        "was begun with other weights": lambda run: (begin(run), run.check_model(SimpleNamespace(model_id="another"))),
    }.items():
        refused(words, attempt, tmp_path, act, resume=True)
    refused("give one of them", attempt, tmp_path, begin, resume=True, force=True)
    denied("holds a run of `upfusion views`, not of `upfusion", open_run(tmp_path, "predict", resume=True).__enter__)
    assert (tmp_path / "1.png").exists()


def test_what_was_killed_while_writing_is_removed_wherever_it_lies(tmp_path: Path) -> None:
    """Before the record names the place too, and before there is a record; another run within is left alone."""
    for folder in ("objects", "inner", ".upfusion-abc"):
        (tmp_path / folder).mkdir()
    (tmp_path / "inner" / "run.json").write_text("{}")
    for name in (".run.99.partial.json", "objects/.000000.99.partial.png", ".upfusion-abc/converted"):
        (tmp_path / name).write_text("torn")
    (tmp_path / "inner/.1.99.partial.png").write_text("torn")
    attempt(tmp_path, begin, force=True)
    assert names(tmp_path) == ["inner/.1.99.partial.png", "inner/run.json", "run.json"]


def again(folder: Path, source: Path | str, *written: str, **options: Any) -> None:  # noqa: ANN401
    """The run anew, which reads `source`."""
    with open_run(folder, "views", force=True) as run:
        begin(run, {"photos": [str(source)]}, **options)
        for name in written:
            write(run, name)


def test_force_keeps_what_the_run_reads(tmp_path: Path) -> None:
    run, view = tmp_path / "run", tmp_path / "run/views/000.png"
    attempt(run)
    sources = [view, run]
    if sys.platform != "win32":  # links need rights there
        (tmp_path / "link.png").symlink_to(view)
        sources.append(tmp_path / "link.png")
    for source in sources:
        denied(r"is read by this run, which would replace .*; choose another folder", again, run, source)
        assert (view.read_text(), read_run(run)["status"]) == ("views/000.png", "finished")
    for photo in (tmp_path / "photo.png", run / "photo.png"):  # other files about the folder are no hindrance
        photo.write_text("mine")
    for source in (tmp_path, tmp_path / "photo.png", run / "photo.png", tmp_path / "none.png", "procedural"):
        again(run, source, "a.png")
    assert (run / "photo.png").read_text() == "mine"


def test_photos_under_the_name_of_a_result(tmp_path: Path) -> None:
    photo = tmp_path / "photos.png"
    photo.write_text("mine")
    for written, options in ((["photos.png"], {}), ([], {"writes": ["photos.png"]})):
        denied(r"would replace .*photos\.png", again, tmp_path, photo, *written, **options)
        assert (names(tmp_path), photo.read_text()) == (["photos.png"], "mine")


@pytest.mark.parametrize(("entry", "value"), [("format", 1), ("temporary_files", ["../mine.txt"])])
def test_what_is_no_record(tmp_path: Path, entry: str, value: object) -> None:
    """It is not continued; --force writes over it, and removes nothing outside of the folder."""
    attempt(tmp_path / "run")
    change_run(tmp_path / "run", sources={"photos": ["a\udcff.png"]}, **{entry: value})
    (tmp_path / "mine.txt").write_text("mine")
    refused(rf"its {entry}(\.0)? is another", attempt, tmp_path / "run", resume=True)
    attempt(tmp_path / "run", force=True)
    assert read_run(tmp_path / "run")["status"] == "finished"
    assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(("name", "words"), [("", "is writing into .*another folder"), ("a.glb", r"a\.glb; .* name")])
def test_second_is_refused_and_told_who_holds(tmp_path: Path, name: str, words: str) -> None:
    """The folder is made, and goes again where nothing was written."""
    folder = tmp_path / "new" / "folder"
    for _ in range(2):
        with locked(folder, name), locked(folder, "other"):
            for _ in range(2):
                denied(rf"another run \(process {os.getpid()}\) .*{words}", locked(folder, name).__enter__)
    assert list(tmp_path.iterdir()) == []
    with locked(folder, name):
        (folder / "done").write_text("done")
    assert names(folder) == ["done"]


@NOT_ON_WINDOWS
def test_a_drive_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr("fcntl.flock", Mock(side_effect=OSError(errno.ENOLCK, "flock")))
    attempt(tmp_path / "run")
    assert "on a drive without file locks" in " ".join(capsys.readouterr().err.split())
    assert names(tmp_path) == ["run/run.json", "run/views/000.png"]
