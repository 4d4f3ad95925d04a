"""One run at a time: the second is refused, a killed one leaves no lasting lock."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from upfusion_core.cli.run import LOCK_NAME, locked
from upfusion_core.support.errors import OutputError


@pytest.mark.parametrize(("name", "words"), [("", "is writing into .*another folder"), ("a.glb", r"a\.glb; .* name")])
def test_second_is_refused_and_told_who_holds(tmp_path: Path, name: str, words: str) -> None:
    """The folder is made, and goes again where nothing was written."""
    folder = tmp_path / "new" / "folder"
    for _ in range(2):
        with locked(folder, name), locked(folder, "other"):
            for _ in range(2):
                with pytest.raises(OutputError, match=rf"another run \(process {os.getpid()}\) .*{words}"):
                    locked(folder, name).__enter__()
    assert list(tmp_path.iterdir()) == []
    with locked(folder, name):
        (folder / "done").write_text("done")
    assert [path.name for path in folder.iterdir()] == ["done"]


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


def test_folders_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("mine")
    for folder, words in (("file", "must be a folder, but is a file"), ("file/below", "cannot be written to")):
        with pytest.raises(OutputError, match=words), locked(tmp_path / folder):
            pass

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("filelock.FileLock.acquire", denied)
    with pytest.raises(OutputError, match="Permission denied"), locked(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_what_a_link_leads_to_stays_as_it_was(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / LOCK_NAME).symlink_to(precious)
    with pytest.raises(OutputError, match="cannot be written to"), locked(tmp_path):
        pass
    assert precious.read_text() == "mine"
