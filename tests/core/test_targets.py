"""What may be written where: names of new folders, what stands under the name already, names that are no UTF-8."""

import os
import sys
from pathlib import Path

import pytest
from refusals import denied, refused

from upfusion_core.support.errors import OutputError
from upfusion_core.support.files import existing_folder, made_folder, read_json, replacing, write_json


def _write(path: Path) -> None:
    with replacing(path) as partial:
        partial.write_text("new")


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such files")
def test_special_files_stay(tmp_path: Path) -> None:
    pipe, link, target = tmp_path / "pipe.glb", tmp_path / "link.glb", tmp_path / "target.glb"
    os.mkfifo(pipe)
    denied("but is a device or pipe; choose another name", _write, pipe)
    assert pipe.is_fifo()
    target.write_text("old")
    link.symlink_to(target)
    _write(link)
    assert (link.read_text(), target.read_text()) == ("new", "old")


def test_what_stands_under_the_name(tmp_path: Path) -> None:
    denied("could not be written: Is a directory; choose another place", _write, tmp_path)
    folder = tmp_path / ("x" * 200)
    folder.mkdir()
    _write(folder / "new" / "a.glb")  # folders that exist keep their names
    assert (folder / "new" / "a.glb").read_text() == "new"
    refused("check the path", existing_folder, "x" * 300)


@pytest.mark.parametrize("name", ["CON", "a/nul/b", "a\nb", "\x1b[31mred", "abc. ", "a/" + "x" * 300 + "/b", "q\udcff"])
def test_names_of_new_folders(name: str, tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"the name of a new folder must be .*; choose another name"),
        made_folder(tmp_path / name),
    ):
        pass
    denied("the name of a new folder must be", _write, tmp_path / name / "a.glb")
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    content = {"photo": "caf\udce9.png", "mask": "\u8336.png"}
    write_json(tmp_path / "run.json", content)
    assert (tmp_path / "run.json").read_bytes().decode("utf-8").count("\\udce9") == 1
    assert read_json(tmp_path / "run.json", lone_surrogates=True) == content
    refused("surrogates not allowed", read_json, tmp_path / "run.json")
