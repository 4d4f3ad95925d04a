"""One run at a time: the second is refused, a killed one leaves no lasting lock."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from upfusion_core.cli.run import LOCK_NAME, locked, locked_file
from upfusion_core.support.errors import OutputError


def test_second_is_refused_and_told_who_holds(tmp_path: Path) -> None:
    with locked(tmp_path):
        assert (tmp_path / LOCK_NAME).read_text() == str(os.getpid())
        with (
            pytest.raises(OutputError, match=rf"another run \(process {os.getpid()}\) is writing into"),
            locked(tmp_path),
        ):
            pass
        assert (tmp_path / LOCK_NAME).exists()
    assert list(tmp_path.iterdir()) == []


def test_lock_of_a_killed_process_is_stale(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from upfusion_core.cli.run import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    with pytest.raises(OutputError, match=f"process {child.pid}"), locked(tmp_path):
        pass
    child.kill()
    child.wait()
    child.stdout.close()
    assert (tmp_path / LOCK_NAME).exists()
    with locked(tmp_path):
        assert (tmp_path / LOCK_NAME).read_text() == str(os.getpid())


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="choose another folder"), locked(tmp_path / "missing"):
        pass


def test_a_file_is_held_by_its_name(tmp_path: Path) -> None:
    """Its parents are made, and go again where nothing was written."""
    path = tmp_path / "new" / "folder" / "mesh.glb"
    wanted = rf"process {os.getpid()}\) is writing .*mesh.glb; .*another name"
    with (
        locked_file(path),
        locked_file(path.with_name("other.glb")),
        pytest.raises(OutputError, match=wanted),
        locked_file(path),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
    with locked_file(path):
        path.write_text("done")
    assert [file.name for file in path.parent.iterdir()] == ["mesh.glb"]
    with pytest.raises(OutputError, match="cannot be made"), locked_file(path / "within" / "a file"):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such files")
def test_locks_that_are_no_files(tmp_path: Path) -> None:
    """What a link leads to stays as it was."""
    precious = tmp_path / "precious"
    precious.write_text("mine")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / LOCK_NAME).symlink_to(precious)
    (folder / f".a.ply{LOCK_NAME}").symlink_to(tmp_path / "missing")
    os.mkfifo(folder / f".b.ply{LOCK_NAME}")
    os.link(precious, folder / f".c.ply{LOCK_NAME}")
    for hold in (locked(folder), *(locked_file(folder / f"{name}.ply") for name in "abc")):
        with pytest.raises(OutputError, match=r"upfusion\.lock must be a file that a run made .*; remove it"), hold:
            pass
    assert precious.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "precious"]
    assert len(list(folder.iterdir())) == 4
