"""Files of weights are read whole; saved states come back as they were, or not at all."""

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from upfusion_core.support.errors import CheckpointError
from upfusion_core.support.files import save_tensors
from upfusion_core.support.weights import read_metadata, read_saved, read_weights

WEIGHTS = {"a": torch.arange(4.0), "b": torch.ones(2, 3, dtype=torch.float16)}


@pytest.mark.parametrize("key", [None, "model_state_dict", "state_dict"])
@pytest.mark.parametrize("legacy", [False, True])
def test_pickles_of_tensors(tmp_path: Path, key: str | None, legacy: bool) -> None:
    path = tmp_path / "weights.pt"
    content = {key: WEIGHTS, "epoch": 3} if key else WEIGHTS
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    read = read_weights(path)
    assert read["a"].tolist() == [0, 1, 2, 3]
    assert read["b"].dtype == torch.float16
    save_file(WEIGHTS, path.with_suffix(".safetensors"), metadata={"k": "v"})
    assert read_weights(path.with_suffix(".safetensors"))["a"].tolist() == [0, 1, 2, 3]
    assert read_metadata(path.with_suffix(".safetensors")) == {"k": "v"}


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    with pytest.raises(CheckpointError, match="unpacks to 50,000,000 bytes"):
        read_weights(path)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 10, 0.3, 0.9])
def test_truncated_files(tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"weights{suffix}"
    big = {"a": torch.rand(2000)}
    torch.save(big, path) if suffix == ".pt" else save_file(big, path)
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    with pytest.raises(CheckpointError, match=r"again"):
        read_weights(path)


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


def test_other_files_and_one_changed_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.pt"
    for content in (b"junk", b"PK\x03\x04", b""):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"must be a state, but cannot be read .*; it is damaged or of"):
            read_saved(path, "a state")
    for other in ([1], {"a": 1}):
        torch.save(other, path)
        with pytest.raises(CheckpointError, match="must be a state, but is another kind of file"):
            read_saved(path, "a state")
    for other, words in (([torch.ones(2)], "got list"), ({}, "got dict")):
        torch.save(other, path)
        with pytest.raises(CheckpointError, match=f"named tensors, {words}"):
            read_weights(path)
    torch.save({"a": torch.zeros(2, dtype=torch.float8_e4m3fn)}, path)
    with pytest.raises(CheckpointError, match="not quantised"):
        read_weights(path)
    save_tensors({"fingerprint": "", "values": torch.full((1000,), 0.125)}, path)
    saved = bytearray(path.read_bytes())
    saved[saved.index(torch.full((1000,), 0.125).numpy().tobytes()) + 2001] ^= 1
    path.write_bytes(saved)
    with pytest.raises(CheckpointError, match=r"state\.pt was changed or damaged since it was saved; delete it"):
        read_saved(path, "a state")

    def damaged(*_: object, **__: object) -> None:
        raise pickle.UnpicklingError("invalid load key")

    monkeypatch.setattr(torch, "load", damaged)
    with pytest.raises(CheckpointError, match="invalid load key"):
        read_weights(path)
