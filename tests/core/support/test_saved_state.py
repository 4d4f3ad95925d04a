"""Saved states come back as they were, or not at all."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from upfusion_core.support.errors import CheckpointError
from upfusion_core.support.files import save_tensors
from upfusion_core.support.weights import read_saved


def test_all_kinds_of_content_come_back(tmp_path: Path) -> None:
    content = {
        "fingerprint": "of a run",
        "half": torch.rand(3, 4, dtype=torch.float32).bfloat16().t(),
        "none": None,
        "empty": torch.zeros(0, 2),
        "flag": torch.tensor(True),
        "nested": OrderedDict(a=[1, (2.5, "x")], b={0: torch.arange(3)}),
    }
    save_tensors(content, tmp_path / "state.pt")
    for mapped in (False, True):
        back = read_saved(tmp_path / "state.pt", "a state", mapped=mapped)
        assert back.keys() == content.keys()
        assert torch.equal(back["half"], content["half"])
        assert back["nested"]["a"] == [1, (2.5, "x")]


def test_one_changed_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    save_tensors({"fingerprint": "", "values": torch.full((1000,), 0.125)}, path)
    content = bytearray(path.read_bytes())
    place = content.index(torch.full((1000,), 0.125).numpy().tobytes()) + 2001
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"state\.pt was changed or damaged since it was saved; delete it"):
        read_saved(path, "a state")


@pytest.mark.parametrize("content", [b"junk", b"PK\x03\x04", b""])
def test_other_files(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    path.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"must be a state, but cannot be read .*; it is damaged or of another kind; delete"
    ):
        read_saved(path, "a state")
    for other in ([1], {"a": 1}):
        torch.save(other, path)
        with pytest.raises(CheckpointError, match="must be a state, but is another kind of file"):
            read_saved(path, "a state")
