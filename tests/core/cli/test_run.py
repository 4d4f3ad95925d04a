"""The run's folder: what is refused, what is kept, what a continued run finds."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from command_runs import read_run

from upfusion_core.cli.run import Run, open_run
from upfusion_core.support.errors import InputError, OutputError

SETTINGS = {"steps": 50, "prompt": None}
INPUTS = {"photos": ["abc"]}
MODEL = SimpleNamespace(model_id="fingerprint", device="cpu", dtype=torch.float32)


def _begin(run: Run, settings: dict[str, Any] = SETTINGS) -> None:
    run.plan(settings, {"photos": ["a.png"]}, INPUTS)
    run.begin()


def _write(run: Run, name: str, keep: bool = True) -> None:
    with run.writing(name, keep=keep) as path:
        path.write_text(name)


def _finish_run(folder: Path, **options: bool) -> None:
    with open_run(folder, "views", **options) as run:
        _begin(run)
        with run.stage("views"):
            _write(run, "views/000.png")


def test_finished_run_and_its_record(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "deeper"
    with open_run(folder, "views") as run:
        _begin(run)
        run.temporary("preview.png").write_text("preview")
        with run.stage("views"):
            _write(run, "views/000.png")
        _write(run, "views.png")
    record = read_run(folder)
    assert record["status"] == "finished"
    assert (record["command"], record["settings"], record["inputs"]) == ("views", SETTINGS, INPUTS)
    assert record["stages"] == ["views"]
    assert record["files"] == ["views/000.png", "views.png"]
    assert 0 <= record["timings_seconds"]["views"] < 5
    assert record["environment"]["torch"].startswith("2")
    assert sorted(path.name for path in folder.rglob("*")) == ["000.png", "run.json", "views", "views.png"]


def test_existing_runs_and_foreign_files_are_refused(tmp_path: Path) -> None:
    _finish_run(tmp_path / "run")
    with pytest.raises(OutputError, match=r"holds a run already; .* --force to replace it or --resume"):
        _finish_run(tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "holiday.jpg").write_text("mine")
    with pytest.raises(OutputError, match=r"holds other files \(holiday\.jpg\)"):
        _finish_run(tmp_path / "other")
    _finish_run(tmp_path / "other", force=True)
    assert (tmp_path / "other" / "holiday.jpg").read_text() == "mine"
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="must be a folder, but is a file"):
        _finish_run(tmp_path / "file")
    with pytest.raises(OutputError, match="choose another folder"):
        _finish_run(tmp_path / "file" / "below")


def test_force_replaces_the_old_files_only_when_the_new_run_begins(tmp_path: Path) -> None:
    _finish_run(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="found before"), open_run(tmp_path, "predict", force=True):
        raise InputError("found before begin")
    assert (tmp_path / "views/000.png").read_text() == "views/000.png"
    with open_run(tmp_path, "predict", force=True) as run:
        _begin(run)
        _write(run, "new.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.png", "notes.txt", "run.json"]


def _attempt(folder: Path, act: Callable[[Run], None], **options: bool) -> None:
    with open_run(folder, "views", **options) as run:
        act(run)


def test_error_before_anything_is_finished_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"

    def before_begin(run: Run) -> None:
        raise InputError("no good")

    def after_the_photos(run: Run) -> None:
        _begin(run)
        with run.stage("photos"):
            _write(run, "inputs/001.png", keep=False)
        raise InputError("no good")

    for act in (before_begin, after_the_photos):
        with pytest.raises(InputError, match="no good"):
            _attempt(folder, act)
        assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(("error", "status"), [(InputError("x"), "failed"), (KeyboardInterrupt(), "interrupted")])
def test_what_is_finished_is_kept(tmp_path: Path, error: BaseException, status: str) -> None:
    def act(run: Run) -> None:
        _begin(run)
        with run.stage("views"):
            _write(run, "views/000.png")
            raise error

    with pytest.raises((InputError, KeyboardInterrupt)) as caught:
        _attempt(tmp_path, act)
    assert read_run(tmp_path)["status"] == status
    assert read_run(tmp_path)["stages"] == []
    assert (tmp_path / "views/000.png").exists()
    if status == "interrupted":
        assert str(caught.value) == f"interrupted; to continue: upfusion views --resume -o {tmp_path}"


def test_on_a_full_disk_only_a_minute_s_work_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def act(run: Run) -> None:
        _begin(run)
        with run.stage("views"):
            _write(run, "views/000.png")
        raise OutputError("out could not be written: the disk is full")

    with pytest.raises(OutputError, match=r"the disk is full$"):
        _attempt(tmp_path / "quick", act)
    assert not (tmp_path / "quick").exists()
    monkeypatch.setattr("upfusion_core.cli.run.CHEAP_SECONDS", 0.0)
    with pytest.raises(OutputError, match="is full; what is finished was kept: upfusion views --resume -o"):
        _attempt(tmp_path / "slow", act)
    assert (tmp_path / "slow/views/000.png").exists()


def test_a_checkpoint_alone_is_kept(tmp_path: Path) -> None:
    def act(run: Run) -> None:
        _begin(run)
        run.temporary("field.checkpoint").write_text("half a field")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="to continue"):
        _attempt(tmp_path, act)
    with open_run(tmp_path, "views", resume=True) as run:
        _begin(run)
        assert run.temporary("field.checkpoint").read_text() == "half a field"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.json"]


def test_interrupt_before_anything(tmp_path: Path) -> None:
    def act(run: Run) -> None:
        _begin(run)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="nothing was finished"):
        _attempt(tmp_path / "o", act)
    assert not (tmp_path / "o").exists()


def test_resume_knows_what_is_finished(tmp_path: Path) -> None:
    def act(run: Run) -> None:
        _begin(run)
        with run.stage("one"):
            _write(run, "1.png")
        _write(run, "2.png")
        (tmp_path / ".3.99.partial.png").write_text("torn")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _attempt(tmp_path, act)
    (tmp_path / "2.png").unlink()
    with open_run(tmp_path, "views", resume=True) as run:
        assert run.stored.settings == SETTINGS
        _begin(run)
        assert run.finished("one")
        assert not run.finished("two")
        assert run.has("1.png")
        assert not run.has("2.png")
        assert not run.already_finished
    assert not (tmp_path / ".3.99.partial.png").exists()
    with open_run(tmp_path, "views", resume=True) as run:
        assert run.already_finished
        _begin(run)


def test_resume_refuses_other_settings_inputs_commands_and_weights(tmp_path: Path) -> None:
    with open_run(tmp_path, "views") as run:
        _begin(run)
        run.check_model(MODEL)
        _write(run, "1.png")

    def other_weights(run: Run) -> None:
        _begin(run)
        run.check_model(SimpleNamespace(model_id="another"))

    with pytest.raises(InputError, match="was begun with steps = 50, now it is 20"):
        _attempt(tmp_path, lambda run: run.plan({**SETTINGS, "steps": 20}, {}, INPUTS), resume=True)
    with pytest.raises(InputError, match="was begun with other photos"):
        _attempt(tmp_path, lambda run: run.plan(SETTINGS, {}, {"photos": ["def"]}), resume=True)
    with pytest.raises(InputError, match="was begun with other weights"):
        _attempt(tmp_path, other_weights, resume=True)
    with pytest.raises(InputError, match="give one of them"):
        _attempt(tmp_path, _begin, resume=True, force=True)
    opening = open_run(tmp_path, "predict", resume=True)
    with pytest.raises(OutputError, match="holds a run of `upfusion views`, not of `upfusion predict`"):
        opening.__enter__()
    assert (tmp_path / "1.png").exists()


def test_resume_without_a_run_or_with_a_torn_record(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="holds no run to continue; leave out --resume"):
        _finish_run(tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()
    (tmp_path / "run.json").write_text('{"command": "views", "sett')
    with pytest.raises(InputError, match="must be JSON"):
        _finish_run(tmp_path, resume=True)
    _finish_run(tmp_path, force=True)
    assert read_run(tmp_path)["status"] == "finished"


def test_what_was_killed_while_writing_is_removed_wherever_it_lies(tmp_path: Path) -> None:
    """Before the record names the place too, and before there is a record; another run within is left alone."""
    (tmp_path / "objects").mkdir()
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "run.json").write_text("{}")
    torn = [tmp_path / ".run.99.partial.json", tmp_path / "objects" / ".000000.99.partial.png"]
    others = tmp_path / "inner" / ".1.99.partial.png"
    for path in (*torn, others):
        path.write_text("torn")
    with open_run(tmp_path, "views", force=True) as run:
        _begin(run)
        assert not any(path.exists() for path in torn)
        assert others.exists()


def test_a_stranger_s_record_removes_nothing_outside_of_its_folder(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    _finish_run(tmp_path / "run")
    record = read_run(tmp_path / "run")
    for name in ("../mine.txt", str(mine)):
        record["temporary_files"] = record["files"] = [name]
        (tmp_path / "run" / "run.json").write_text(json.dumps(record))
        with pytest.raises(InputError, match=r"its files\.0 is another"):
            _finish_run(tmp_path / "run", resume=True)
        _finish_run(tmp_path / "run", force=True)
        assert mine.read_text() == "mine"
