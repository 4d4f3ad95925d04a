"""Files are written whole or not at all, read or refused in one sentence; so is JSON."""

import errno
import os
import sys
from pathlib import Path

import pytest
import torch
from refusals import denied, refused, unfit
from safetensors import safe_open

from upfusion_core.support import files
from upfusion_core.support.errors import CheckpointError, InputError, PhotoError


def write(path: Path, error: Exception | None = None) -> None:
    with files.replacing(path) as partial:
        partial.write_text("new")
        if error is not None:
            raise error


def test_a_finished_file_replaces_the_old_one_and_a_failure_keeps_it(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.txt"
    for text in ("one", "two"):
        with files.replacing(target) as partial:
            assert partial.suffix == ".txt"
            partial.write_text(text)
    with pytest.raises(RuntimeError, match="stopped"):
        write(target, RuntimeError("stopped"))
    assert target.read_text() == "two"
    assert [path.name for path in target.parent.iterdir()] == ["a.txt"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_who_may_read_a_file_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.save_safetensors({"a": torch.ones(2)}, tmp_path / "a.safetensors", {})
        files.save_tensors({"a": torch.ones(2)}, tmp_path / "a.pt")
        files.write_json(tmp_path / "a.json", {})
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}


def test_what_the_disk_says_becomes_a_sentence(tmp_path: Path) -> None:
    for code, words in ((errno.ENOSPC, "disk is full"), (errno.EACCES, "no permission"), (errno.EIO, "mend this one")):
        denied(words, write, tmp_path / "a/b/c.bin", OSError(code, "from the system"))
    assert list(tmp_path.iterdir()) == []


def test_names_that_every_system_can_write(tmp_path: Path) -> None:
    for name in ("\u8336\u7897 \u0447\u0430\u0439.obj", ".hidden", "console.png", "com10", "x" * 170):
        write(tmp_path / name)
        assert (tmp_path / name).read_text() == "new"


NAMES = {"a:b.glb": "with ':'", "a\\b": r"with '\\\\'", "a\nb": r"with '\\n'", "a\x1b[2J": r"with '\\x1b'"}
NAMES |= dict.fromkeys(("CON", "nul.txt", "aux.tar.png", "Com1 .glb", "LPT\u00b9"), "a device on Windows")
NAMES |= dict.fromkeys(("mug.", "mug "), "with a space or dot at its end") | dict.fromkeys(("", ".."), "got no name")
NAMES |= {"x" * 300: "got one of 300 letters", "\u8336" * 100: "got one of 100 letters"}


def test_names_that_some_system_cannot_write(tmp_path: Path) -> None:
    for name, words in NAMES.items():
        denied(words, files.check_file_name, name)
        denied("choose another", write, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_what_a_reader_raises_becomes_a_sentence() -> None:
    for reason, words in (
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
        (ValueError("bad\n magic"), "bad magic"),
        (KeyError("a"), "KeyError 'a'"),
        (EOFError(), "EOFError"),
        (MemoryError("9" * 999), "9{160}"),
    ):
        sentence = rf"^a\.npy must be an array, but cannot be read \({words}\); copy it again$"
        with pytest.raises(InputError, match=sentence), files.reading("a.npy", "copy it again", what="an array"):
            raise reason
    for error in (PhotoError("too dark"), KeyboardInterrupt()):  # our own errors and interrupts pass
        with pytest.raises(type(error)) as caught, files.reading("a.png", "mend it"):
            raise error
        assert caught.value is error


def test_safetensors_are_the_same_bytes_every_time(tmp_path: Path) -> None:
    metadata = {name: f'{{"{name}": "ü\u2028\x7f\\n"}}' for name in "zyxwvutsr"}
    for name in ("first", "second"):
        files.save_safetensors({"b": torch.arange(5.0), "a": torch.zeros(2, 3)}, tmp_path / name, metadata)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    with safe_open(tmp_path / "first", "pt") as file:
        assert file.metadata() == metadata
        assert file.get_tensor("b").tolist() == [0, 1, 2, 3, 4]


def test_json_that_is_read_or_refused() -> None:
    assert files.parse_json('"\\ud83d\\ude00"', "it") == "\U0001f600"
    assert files.parse_json('\ufeff{"a": 1}', "it") == {"a": 1}
    for text, words in (
        ("{", "it must be JSON, but is not"),
        ('{"a": NaN}', "NaN is no number in JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('["\\ud800"]', "surrogates not allowed"),
        ('[{"a": 1, "b": 2, "a": 1}]', 'the name "a" comes twice in one object'),
    ):
        unfit(words, files.parse_json, text, "it", CheckpointError)


def test_files_of_json(tmp_path: Path) -> None:
    path = tmp_path / "\u8336 notes.json"
    files.write_json(path, {"name": "Tasse f\xfcr \u0141ukasz"})
    assert path.read_text(encoding="utf-8") == '{\n  "name": "Tasse f\xfcr \u0141ukasz"\n}\n'
    path.write_text('{"a": 1}', encoding="utf-8-sig")
    assert files.read_json(path) == {"a": 1}
    content = {"photo": "caf\udce9.png", "mask": "\u8336.png"}  # a name that is no UTF-8
    files.write_json(path, content)
    assert files.read_json(path, lone_surrogates=True) == content
    refused("surrogates not allowed", files.read_json, path)
    path.write_bytes(b"\xff\xfe{}")
    refused("must be a JSON file, but cannot be read .*save it as UTF-8", files.read_json, path)
    for absent in (tmp_path, "a\0b.json", "x" * 5000):
        refused(r"cannot be read .*; check the path", files.read_json, absent)
    with path.open("wb") as file:
        file.truncate(files.LARGEST_JSON + 1)
    refused(r"cannot be read \(it has 64,000,001 bytes, more than 64,000,000\)", files.read_json, path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.json")
        refused("it is a device or pipe", files.read_json, tmp_path / "pipe.json")
    assert [files.shown(value) for value in ({"a": [1, None]}, {1, 2}, 10**5000)] == ['{"a": [1, null]}', "set", "int"]
    assert files.shown("x" * 1000) == '"' + "x" * 59 + "..."


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such files")
def test_special_files_stay(tmp_path: Path) -> None:
    pipe, link, target = tmp_path / "pipe.glb", tmp_path / "link.glb", tmp_path / "target.glb"
    os.mkfifo(pipe)
    denied("but is a device or pipe; choose another name", write, pipe)
    assert pipe.is_fifo()
    target.write_text("old")
    link.symlink_to(target)
    write(link)
    assert (link.read_text(), target.read_text()) == ("new", "old")


def test_what_stands_under_the_name(tmp_path: Path) -> None:
    denied("could not be written: Is a directory; choose another place", write, tmp_path)
    (tmp_path / "file").write_text("")
    denied("a file stands where a folder is needed", write, tmp_path / "file" / "a.txt")
    folder = tmp_path / ("x" * 200)
    folder.mkdir()
    write(folder / "new" / "a.glb")  # folders that exist keep their names
    assert (folder / "new" / "a.glb").read_text() == "new"
    refused("check the path", files.existing_folder, "x" * 300)


def test_names_of_new_folders(tmp_path: Path) -> None:
    for name in ("CON", "a/nul/b", "a\nb", "\x1b[31mred", "abc. ", "a/" + "x" * 300 + "/b", "q\udcff"):
        denied("the name of a new folder must be .*; choose another", files.made_folder(tmp_path / name).__enter__)
        denied("the name of a new folder must be", write, tmp_path / name / "a.glb")
    assert list(tmp_path.iterdir()) == []
