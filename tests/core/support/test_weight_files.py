from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from upfusion_core.support.errors import CheckpointError
from upfusion_core.support.weights import read_metadata, read_weights

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


def test_safetensors_and_their_metadata(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(WEIGHTS, path, metadata={"k": "v"})
    assert read_weights(path)["a"].tolist() == [0, 1, 2, 3]
    assert read_metadata(path) == {"k": "v"}


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


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.ones(2)], "named tensors, got list"),
        ({}, "named tensors, got dict"),
        ({"a": 3}, "got int under 'a'"),
        ({"a": torch.zeros(2, dtype=torch.float8_e4m3fn)}, "not quantised"),
    ],
)
def test_pickles_of_something_else(tmp_path: Path, content: object, words: str) -> None:
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=words):
        read_weights(path)
