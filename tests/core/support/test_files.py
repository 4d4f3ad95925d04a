from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch
from refusals import refused
from safetensors import safe_open

from upfusion_core.support.errors import CheckpointError, InputError, OutputError, PhotoError
from upfusion_core.support.files import (
    check_file_name,
    inside,
    reading,
    replacing,
    save_safetensors,
    save_tensors,
    write_json,
)


def test_a_finished_file_replaces_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.txt"
    for text in ("one", "two"):
        with replacing(target) as partial:
            assert partial.suffix == ".txt"
            partial.write_text(text)
    assert target.read_text() == "two"
    assert [path.name for path in target.parent.iterdir()] == ["a.txt"]


def test_a_failure_keeps_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fail() -> None:
        with replacing(target) as partial:
            partial.write_text("half")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fail()
    assert target.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.ENOSPC, "disk is full"), (errno.EACCES, "no permission"), (errno.EIO, "choose another place")],
)
def test_what_the_disk_says_becomes_a_sentence(tmp_path: Path, code: int, words: str) -> None:
    def fail() -> None:
        with replacing(tmp_path / "a.bin") as partial:
            partial.write_bytes(b"half")
            raise OSError(code, "from the system")

    with pytest.raises(OutputError, match=words):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_folders_made_for_a_failure_go_again(tmp_path: Path) -> None:
    def fail() -> None:
        with replacing(tmp_path / "a" / "b" / "c.bin") as partial:
            partial.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OutputError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_tensors_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tensors({"a": torch.ones(2)}, tmp_path / "a.pt")
    assert torch.load(tmp_path / "a.pt", weights_only=True)["a"].tolist() == [1, 1]

    def full(content: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match="disk is probably full"):
        save_tensors({"a": torch.zeros(2)}, tmp_path / "a.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    def fail() -> None:
        with replacing(tmp_path / "file" / "a.txt"):
            pass

    with pytest.raises(OutputError, match="a file stands where a folder is needed"):
        fail()


def test_json_is_utf8_and_indented(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"name": "Tasse für \u0141ukasz"})
    text = (tmp_path / "run.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"name": "Tasse für \u0141ukasz"}
    assert text == '{\n  "name": "Tasse für \u0141ukasz"\n}\n'


@pytest.mark.parametrize(
    "name", ["mug.glb", "\u8336\u7897 \u0447\u0430\u0439.obj", ".hidden", "console.png", "a b", "com10", "x" * 170]
)
def test_names_that_every_system_can_write(name: str, tmp_path: Path) -> None:
    check_file_name(name)
    with replacing(tmp_path / name) as partial:
        partial.write_text("whole")
    assert (tmp_path / name).read_text() == "whole"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("CON", "a device on Windows"),
        ("nul.txt", "a device on Windows"),
        ("aux.tar.png", "a device on Windows"),
        ("Com1 .glb", "a device on Windows"),
        ("LPT\u00b9", "a device on Windows"),
        ("mug.", "with a space or dot at its end"),
        ("mug ", "with a space or dot at its end"),
        ("a:b.glb", "with ':'"),
        ("a\\b", r"with '\\\\'"),
        ("what?", "with '\\?'"),
        ("a\nb", r"with '\\n'"),
        ("a\x1b[2J", r"with '\\x1b'"),
        ("", "got no name"),
        ("..", "got no name"),
        (" . ", "got no name"),
        ("x" * 300, "got one of 300 letters"),
        ("\u8336" * 100, "got one of 100 letters"),
    ],
)
def test_names_that_some_system_cannot_write(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=words):
        check_file_name(name)
    if "/" not in name and name not in ("", ".."):
        with pytest.raises(OutputError, match="choose another name"), replacing(tmp_path / name):
            pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), r"cannot be read \(Permission denied\); copy it again"),
        (ValueError("bad\n magic"), r"cannot be read \(bad magic\); copy it again"),
        (KeyError("a"), r"cannot be read \(KeyError 'a'\); copy it again"),
        (EOFError(), r"cannot be read \(EOFError\); copy it again"),
        (MemoryError("9" * 999), r"cannot be read \(9{160}\); copy it again"),
    ],
)
def test_what_a_reader_raises_becomes_a_sentence(reason: Exception, words: str) -> None:
    with (
        pytest.raises(CheckpointError, match=f"^a.pt {words}$"),
        reading("a.pt", "copy it again", error=CheckpointError),
    ):
        raise reason


def test_our_own_errors_and_interrupts_pass_a_reader() -> None:
    sentence = r"^a.npy must be an array, but cannot be read \(odd\); render it again$"
    with pytest.raises(InputError, match=sentence), reading("a.npy", "render it again", what="an array"):
        raise RuntimeError("odd")
    for error in (PhotoError("too dark"), KeyboardInterrupt()):
        with pytest.raises(type(error), check=lambda found, error=error: found is error), reading("a.png", "mend it"):
            raise error


def test_names_stay_in_their_folder(tmp_path: Path) -> None:
    assert inside(tmp_path, "a/b..c.png") == tmp_path / "a" / "b..c.png"
    refused(
        r"^a file of the data set must lie in its folder, got '\.\./a'; correct the list$", inside, tmp_path, "../a"
    )


def test_safetensors_are_the_same_bytes_every_time(tmp_path: Path) -> None:
    metadata = {name: f'{{"{name}": "ü\u2028\x7f\\n"}}' for name in "zyxwvutsr"}
    for name in ("first", "second"):
        save_safetensors({"b": torch.arange(5.0), "a": torch.zeros(2, 3)}, tmp_path / name, metadata)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    with safe_open(tmp_path / "first", "pt") as file:
        assert file.metadata() == metadata
        assert file.get_tensor("b").tolist() == [0, 1, 2, 3, 4]
