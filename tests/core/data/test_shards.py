"""Shards: what is packed comes back, in the library's format, and no file, however damaged, does any harm."""

import io
import json
import math
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

import data_sets
import fsspec
import numpy as np
import pytest
import torch
from data_sets import readable
from PIL import Image
from refusals import refused

from upfusion_core import InputError, orbit_cameras
from upfusion_core.data import open_dataset
from upfusion_core.data.shards import PackState, ShardedViews
from upfusion_core.data.views import PosedViews

SIZE, VIEWS = 8, 3


def disc(index: int) -> PosedViews:
    """8-bit noise with known cameras and depths."""
    generator = torch.Generator().manual_seed(index)
    rgb = torch.randint(0, 256, (VIEWS, 3, SIZE, SIZE), generator=generator) / 255
    mask = torch.randint(0, 256, (VIEWS, 1, SIZE, SIZE), generator=generator) / 255
    cameras = orbit_cameras([0.0, 50.0, 170.0], [22.5, 0.0, 40.0], [1.0, 1.1, 0.9])
    depth = torch.rand(VIEWS, 1, SIZE, SIZE, generator=generator)
    return PosedViews(rgb, mask, cameras, f"disc {index}", upright=index != 2, depth=depth)


DISCS = [disc(index) for index in range(5)]


class Objects(list):
    """A data set of these objects, None standing for broken ones."""

    skipped: tuple[tuple[str, str], ...] = ()

    def __getitem__(self, index: int) -> PosedViews:
        found = super().__getitem__(index)
        if found is None:
            self.skipped += ((f"disc {index}", "torn"),)
            raise InputError("torn")
        return found


def packed(folder: Path, objects: Sequence[PosedViews | None] = DISCS, **options: object) -> Path:
    return data_sets.packed(folder, Objects(objects), len(objects), **{"depth": True, **options})


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def copy(shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards, tmp_path / "copy"))


@pytest.mark.parametrize("pictures", ["png", "webp"])
def test_what_is_packed_comes_back(tmp_path: Path, pictures: str) -> None:
    dataset = ShardedViews(packed(tmp_path, pictures=pictures))
    for index, (got, wanted) in enumerate(zip(readable(dataset), DISCS, strict=True)):
        assert (got.name, got.upright) == (f"disc {index}", index != 2)
        for name in ("rgb", "mask", "depth"):
            torch.testing.assert_close(getattr(got, name), getattr(wanted, name), rtol=0, atol=1e-7)
        for name in ("camera_to_world", "focal", "principal"):
            assert torch.equal(getattr(got.cameras, name), getattr(wanted.cameras, name))


def test_jpeg_loses_a_little_and_fewer_views_are_packed(tmp_path: Path) -> None:
    values = torch.linspace(0, 1, 64).view(1, 1, 8, 8)
    smooth = PosedViews(values.repeat(1, 3, 1, 1), torch.ones(1, 1, 8, 8), orbit_cameras([0]), "smooth")
    got = ShardedViews(packed(tmp_path, [smooth], pictures="jpeg"))[0]
    assert 0 < (got.rgb - smooth.rgb).abs().max() < 0.05
    assert torch.equal(got.mask, smooth.mask)
    got = ShardedViews(packed(tmp_path, views=2))[0]  # fewer are spread and keep the reference
    torch.testing.assert_close(got.rgb, DISCS[0].rgb[[0, 1]])
    assert len(ShardedViews(packed(tmp_path, views=9))[0]) == VIEWS


def test_chosen_views_have_their_first_as_reference(shards: Path) -> None:
    dataset = ShardedViews(shards)
    for index in (0, 2):
        got, wanted = dataset.read(index, [2, 0]), DISCS[index].chosen([2, 0])
        torch.testing.assert_close(got.cameras.camera_to_world, wanted.cameras.camera_to_world)
        torch.testing.assert_close(got.depth, wanted.depth)
        torch.testing.assert_close(got.rgb, wanted.rgb)
    assert [len(dataset.draw(0, count, torch.Generator())) for count in (2, 9)] == [2, VIEWS]
    with pytest.raises(IndexError):
        dataset.read(5)
    assert ShardedViews(shards, size=16)[1].rgb.shape == (VIEWS, 3, 16, 16)


def test_the_library_reads_them(shards: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    samples = list(webdataset.WebDataset(str(shards / "shard-000000.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["000000000", "000000001"]
    header = json.loads(samples[1]["json"])
    assert (header["name"], len(header["camera_to_world"])) == ("disc 1", VIEWS)
    expected = (DISCS[1].rgb[2] * 255).round().permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(samples[1]["002.rgb.png"]))), expected)
    assert np.load(io.BytesIO(samples[1]["000.depth.npy"]), allow_pickle=False).shape == (SIZE, SIZE)


def test_shards_keep_their_size_and_are_the_same_again(shards: Path, tmp_path: Path) -> None:
    listed = json.loads((shards / "index.json").read_text())["shards"]
    assert [shard["objects"] for shard in listed] == [2, 2, 1]
    assert all((shards / shard["name"]).stat().st_size == shard["bytes"] for shard in listed)
    states: list[str] = []
    again, parts = tmp_path / "again", tmp_path / "parts"
    packed(again, on_shard=lambda state: states.append(json.dumps(vars(state))))
    parts.mkdir()
    shutil.copy(shards / "shard-000000.tar", parts)
    packed(parts, state=PackState(**json.loads(states[0])))
    for path in shards.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes() == (parts / path.name).read_bytes()
    assert len(list(packed(tmp_path / "one", shard_bytes=1).glob("*.tar"))) == 5


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    folder = packed(tmp_path / "some", [None, *DISCS[1:3], None, DISCS[4]])
    assert [example.name for example in readable(ShardedViews(folder))] == ["disc 1", "disc 2", "disc 4"]
    assert json.loads((folder / "index.json").read_text())["skipped"] == [["disc 0", "torn"], ["disc 3", "torn"]]
    refused("none of 2 objects could be read, the last because disc 1: torn", packed, tmp_path / "none", [None, None])
    assert not (tmp_path / "none").exists()


def test_formats_are_told_apart(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_dataset(shards, size=16)[0].rgb.shape[-1] == 16
    shutil.copy(shards / "shard-000000.tar", tmp_path / "a.tar")
    shutil.copy(shards / "shard-000001.tar", tmp_path / ".b.7.partial.tar")  # of a run that was killed
    assert len(open_dataset(tmp_path, size=8)) == len(open_dataset(tmp_path / "a.tar", size=8)) == 2  # no index
    read = type(system := fsspec.filesystem("memory")).cat_file
    # S3's second place is a version's
    monkeypatch.setattr(type(system), "cat_file", lambda own, path, version=None, **part: read(own, path, **part))
    system.put(f"{shards}/", "/shards/", recursive=True)
    ends = ("", "/shard-000001.tar")
    assert [open_dataset(f"memory://shards{end}", size=8)[1].name for end in ends] == ["disc 1", "disc 3"]
    assert torch.equal(open_dataset("memory://shards", size=8)[4].rgb, open_dataset(shards, size=8)[4].rgb)
    system.rm("/shards/index.json")
    assert len(open_dataset("memory://shards/", size=8)) == 5
    monkeypatch.setattr(type(system), "glob", None)  # as where nobody answers
    refused("memory://shards cannot be read .*; check the address", open_dataset, "memory://shards", size=8)
    (tmp_path / "packing.json").write_text("{}")
    refused("finish it by: upfusion pack --resume", open_dataset, tmp_path, size=8)


def names_read(folder: Path) -> tuple[list[str], list[str]]:
    dataset = ShardedViews(folder)
    names = [example.name for example in readable(dataset)]
    return names, [f"{item}: {reason}" for item, reason in dataset.skipped]


def test_shards_cut_short(copy: Path) -> None:
    path = copy / "shard-000001.tar"
    path.write_bytes(path.read_bytes()[:-20_000])
    names, skipped = names_read(copy)
    assert names == ["disc 0", "disc 1", "disc 2", "disc 4"]
    assert any("bytes, not the" in reason for reason in skipped)
    path.unlink()
    assert names_read(copy) == (["disc 0", "disc 1", "disc 4"], ["shard-000001.tar: it is missing"])


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b" + bytes(2000), bytes(30_000), b"\xff" * 3000])
def test_files_that_are_no_shards(copy: Path, content: bytes) -> None:
    (copy / "shard-000000.tar").write_bytes(content)
    names, skipped = names_read(copy)
    assert names == ["disc 2", "disc 3", "disc 4"]
    assert skipped
    for path in copy.iterdir():
        path.unlink()
    (copy / "shard-000000.tar").write_bytes(content)
    refused("must hold shards with objects, got none", ShardedViews, copy)


def test_bytes_flipped_anywhere_do_no_harm(copy: Path) -> None:
    path = copy / "shard-000000.tar"
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for place in (*generator.integers(0, len(whole), 8), *(512 * generator.integers(0, len(whole) // 512, 12) + 130)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x81
        path.write_bytes(damaged)
        assert names_read(copy)[0][-3:] == ["disc 2", "disc 3", "disc 4"]


def rewritten(path: Path, changes: dict[str, bytes | dict | None]) -> None:
    """Members of the first object replaced, left out, or with other entries in their JSON."""
    with tarfile.open(path) as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}
    for ending, change in changes.items():
        name = f"000000000.{ending}"
        if isinstance(change, dict):
            text = json.dumps(json.loads(members[name]) | change)
            members[name] = text.replace("Infinity", "1e999").encode()  # which is JSON
        else:
            members[name] = change
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            if content is not None:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


POSE = torch.eye(4).tolist()
HOSTILE = [
    ("json", None, "json is missing"),
    ("json", b"\xff\xfe", "must be JSON"),
    ("json", {"size": 10**9}, "size must be"),
    ("json", {"size": 9}, "got none of 3; disc 0 view 0: its pictures must be 9 pixels a side"),
    ("json", {"camera_to_world": [[[1.0] * 4] * 4] * 3}, "must be rigid"),
    ("json", {"focal": [[math.inf, 1]] * 3}, "must be finite"),
    ("json", {"camera_to_world": [POSE] * 3}, "must look at the origin"),
    ("001.depth.npy", None, "depth.npy is missing"),
    ("001.depth.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '|O'}", "must be an NPY file"),
]


@pytest.mark.parametrize(("member", "change", "words"), HOSTILE, ids=[words for *_, words in HOSTILE])
def test_hostile_objects_are_left_out(copy: Path, member: str, change: bytes | dict | None, words: str) -> None:
    rewritten(copy / "shard-000000.tar", {member: change})
    names, skipped = names_read(copy)
    assert names == ["disc 1", "disc 2", "disc 3", "disc 4"]
    assert any(words in reason for reason in skipped), skipped


def test_a_broken_view_is_left_out_of_a_whole_object(copy: Path) -> None:
    rewritten(copy / "shard-000000.tar", {"001.rgb.png": b"{}"})
    refused("a picture cannot be read", ShardedViews(copy).read, 0, [0, 1])
    rewritten(copy / "shard-000000.tar", {"001.rgb.png": None})
    dataset = ShardedViews(copy)
    assert len(dataset[0]) == len(dataset.draw(0, 3, torch.Generator())) == 2
    refused(r"its 001\.rgb\.png is missing", dataset.read, 0, [0, 1])
    assert [item for item, _ in dataset.skipped if item.startswith("disc")] == ["disc 0 view 1"]  # noted once


def test_pickles_and_links_are_never_opened(copy: Path, tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    bomb = b"cos\nsystem\n(S'touch " + str(trap).encode() + b"'\ntR."
    path = copy / "shard-000000.tar"
    rewritten(path, dict.fromkeys(("pyd", "pickle", "pth"), bomb))
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("000000001.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert names_read(copy)[0][:2] == ["disc 0", "disc 1"]
    assert not trap.exists()
