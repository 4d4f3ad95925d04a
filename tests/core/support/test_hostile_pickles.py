"""Pickles and zips of weights that run code or lie: each is refused in one sentence, and nothing in it runs."""

import pickle
import re
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from refusals import unfit

from upfusion_core.support.weights import read_weights


class Hostile:
    """Unpickled carelessly, it leaves a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("kind", ["zip", "legacy", "plain"])
@pytest.mark.parametrize("name", ["weights.pt", "weights.pth", "pytorch_model.bin", "weights.ckpt"])
def test_code_in_pickles_never_runs(tmp_path: Path, kind: str, name: str) -> None:
    path, mark = tmp_path / name, tmp_path / "mark"
    content = {"a": torch.ones(2), "b": Hostile(mark)}
    if kind == "plain":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    unfit("it asks to run other code or is damaged, so it was not opened", read_weights, path)
    assert not mark.exists()


def test_a_zip_that_claims_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"a": torch.ones(100)}, path)
    data = bytearray(path.read_bytes())
    for place in re.finditer(b"PK\x01\x02", bytes(data)):  # the sizes in the list of contents
        struct.pack_into("<II", data, place.start() + 20, 0xF0000000, 0xF0000000)
    path.write_bytes(data)
    unfit(r"got one that unpacks to \d+,\d+,\d+,\d+ bytes", read_weights, path)
    # found by fuzzing: zipfile, asked whether a zip on many disks is one, raises
    path.write_bytes(bytes(100) + b"PK\x06\x07" + struct.pack("<LQL", 0, 0, 5) + b"PK\x05\x06" + bytes(18))
    unfit("span multiple disks", read_weights, path)


@pytest.mark.parametrize("lies", [1, 2])  # of the tensor, and of its storage
def test_a_pickle_that_claims_more_numbers_than_the_file_holds(tmp_path: Path, lies: int) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"a": torch.ones(100_000)}, path)
    told, claimed = (b"J" + struct.pack("<i", count) for count in (100_000, 2**31 - 1))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            assert data.count(told) == (2 if name.endswith("data.pkl") else 0)
            archive.writestr(name, claimed.join(data.rsplit(told, lies)))
    unfit("must be a file of weights, but cannot be read", read_weights, path)


def test_a_legacy_pickle_of_storages_that_it_does_not_name(tmp_path: Path) -> None:
    """Found by fuzzing: torch says so by an AssertionError."""
    path = tmp_path / "weights.pt"
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    key = re.findall(rb"\d{6,}", data)[-1]
    place = data.rindex(key)  # in the list of storages at the end
    path.write_bytes(data[:place] + b"1" * len(key) + data[place + len(key) :])
    unfit("must be a file of weights, but cannot be read", read_weights, path)


@pytest.mark.filterwarnings("ignore")  # torch's own, on what it still reads
def test_pickles_of_unusual_tensors(tmp_path: Path) -> None:
    expanded, path = torch.ones(1).expand(2**20, 2**20), tmp_path / "weights.pt"
    for content, words in (
        ({"a": expanded}, r"got \(1048576, 1048576\) numbers of which the file holds only"),
        ({"a": torch.ones(3).to_sparse()}, "layout sparse_coo"),
        ({"a": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)}, "a quantised one"),
        ({"a": torch.ones(3, device="meta")}, "one without values"),
        ({"a": {"b": torch.ones(1)}}, "got dict under 'a'"),
        ({3: torch.ones(1)}, "got Tensor under 3"),
    ):
        torch.save(content, path)
        unfit(words, read_weights, path)
