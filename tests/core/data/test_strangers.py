"""Data sets that a stranger made to run a program, to read other files, to fill the memory or to wait for ever."""

import gzip
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from glb import edited_glb
from PIL import EpsImagePlugin, Image
from refusals import refused
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from upfusion_core.data import recorded
from upfusion_core.data.recorded import Co3D, Frame, ObjaverseRenders, framed
from upfusion_core.data.shards import listed_shards
from upfusion_core.geometry import reference_camera
from upfusion_core.support import decoding as pictures
from upfusion_core.support.errors import InputError
from upfusion_core.support.files import inside
from upfusion_core.surface import reading as surface
from upfusion_core.surface.reading import read_surface

OBJ = "mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nusemtl m\nf 1/1 2/2 3/3\n"
RED = Image.new("RGB", (4, 4), "red")


@pytest.fixture(autouse=True)
def _no_ghostscript(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """It is there, as Pillow believes, and is never run."""
    runs: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", "gs")
    monkeypatch.setattr("subprocess.check_call", lambda *command, **_: runs.append(command))
    yield
    assert not runs
    assert EpsImagePlugin.gs_binary == "gs"


def read_picture(path: Path) -> tuple[torch.Tensor, ...]:
    return framed(Frame(reference_camera(), path), 8, None)[:2]


def write_obj(folder: Path, texture: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "a.obj").write_text(OBJ)
    (folder / "a.mtl").write_text(f"newmtl m\nKd 0.5 0.5 0.5\nmap_Kd {texture}\n")
    return folder / "a.obj"


def test_pictures_that_are_programs_are_not_run(tmp_path: Path) -> None:
    RED.save(tmp_path / "000000.png", format="EPS")
    refused(r"000000\.png must be a picture of pixels, got EPS", read_picture, tmp_path / "000000.png")
    path = write_obj(tmp_path, "000000.png")
    refused(r"a texture of a\.obj must be a picture of pixels, got EPS", read_surface, path)
    RED.save(tmp_path / "red.png")
    write_obj(tmp_path, "red.png")
    refused(r"000000\.png must be a picture of pixels, got EPS", read_surface, path, tmp_path / "000000.png")


@pytest.mark.parametrize("slot", ["baseColorTexture", "emissiveTexture"])
def test_programs_within_glb_are_not_run(tmp_path: Path, slot: str) -> None:
    """A picture that shows in no colour is not even opened."""
    material = PBRMaterial(**{slot: Image.new("RGB", (64, 64), "red")})
    box, visual = trimesh.creation.box(), TextureVisuals(uv=np.zeros((8, 2)), material=material)
    data = trimesh.Trimesh(box.vertices, box.faces, visual=visual).export(file_type="glb")
    start, end = data.index(b"\x89PNG"), data.index(b"IEND") + 8
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    assert len(program) < end - start
    data = data[:start] + program.ljust(end - start, b"\n") + data[end:]
    shine = {"diffuseTexture": {"index": 0}, "specularGlossinessTexture": {"index": 0}}  # GLTF's older manner
    materials = [{"extensions": {"KHR_materials_pbrSpecularGlossiness": shine}}]
    (tmp_path / "b.glb").write_bytes(edited_glb(data, lambda tree: tree.update(materials=materials)))
    refused(r"a texture of b\.glb must be a picture of pixels, got EPS", read_surface, tmp_path / "b.glb")
    (tmp_path / "a.glb").write_bytes(data)
    if slot == "emissiveTexture":
        assert not read_surface(tmp_path / "a.glb").textures
    else:
        refused(r"a texture of a\.glb must be a picture of pixels, got EPS", read_surface, tmp_path / "a.glb")


def test_large_and_long_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in ((20_001, 1), (1, 20_001)):
        Image.new("1", size).save(tmp_path / "a.png")
        refused(rf"a\.png must have sides of at most 20000 pixels, got {size[0]} x", read_picture, tmp_path / "a.png")
    Image.new("1", (15_001, 17_000)).save(tmp_path / "a.png")
    path = write_obj(tmp_path, "a.png")
    refused(r"a texture of a\.obj must have at most 250 megapixels", read_surface, path)
    RED.save(tmp_path / "a.png")
    monkeypatch.setattr(pictures, "_LARGEST_FILE", 10)
    refused(r"a\.png cannot be read \(it has \d+ bytes, more than 10\)", read_picture, tmp_path / "a.png")
    monkeypatch.setattr(surface, "_LARGEST_COMPANION", 10)
    refused(r"a\.mtl \(it has \d+ bytes, more than 10\); replace it", read_surface, path)


def test_textures_come_from_the_meshs_own_folder(tmp_path: Path) -> None:
    RED.save(tmp_path / "secret.png")
    for name in ("../secret.png", str(tmp_path / "secret.png"), "none.png"):
        assert not read_surface(write_obj(tmp_path / "object", name)).textures
    (tmp_path / "object" / "inner").mkdir()
    for place in ("inner/red.png", "red.png"):
        RED.save(tmp_path / "object" / place)
        texture = read_surface(write_obj(tmp_path / "object", place)).textures[0]
        assert texture[:, 0, 0].tolist() == [1, 0, 0]
    moved = read_surface(write_obj(tmp_path / "object", "/somebody/else/red.png"))  # its bare name, as last resort
    assert moved.textures[0].shape == (3, 4, 4)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    refused("is a device or pipe", read_picture, tmp_path / "pipe.png")
    path = write_obj(tmp_path, "pipe.png")
    refused(r"a\.obj names a file that cannot be read: pipe\.png \(it is a device", read_surface, path)
    os.mkfifo(tmp_path / "frame_annotations.jgz")
    refused("is a device or pipe", recorded._annotations, tmp_path / "frame_annotations.jgz")


def test_lists_and_annotations_of_strangers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jgz").write_bytes(gzip.compress(json.dumps([0] * 100).encode()))
    monkeypatch.setattr(recorded, "_LARGEST_ANNOTATIONS", 300)
    assert recorded._annotations(tmp_path / "a.jgz") == [0] * 100
    monkeypatch.setattr(recorded, "_LARGEST_ANNOTATIONS", 299)
    refused(r"a\.jgz unpacks to more than 299 bytes; fetch it again", recorded._annotations, tmp_path / "a.jgz")
    monkeypatch.setattr(ObjaverseRenders, "VIEWS", 1)
    root = tmp_path / "renders"
    for folder in (root / "cup", tmp_path / "secret"):
        folder.mkdir(parents=True)
        for ending in ("png", "npy"):
            (folder / f"000.{ending}").touch()
    (root / "valid_paths.json").write_text(json.dumps(["../secret", "x" * 300]))
    dataset = ObjaverseRenders(root)
    assert [reason[:30] for _, reason in dataset.skipped] == ["a file of the data set must li", "its folder is missing"]
    frame = {"sequence_name": "\ud800", "viewpoint": None}
    (root / "cup" / "frame_annotations.jgz").write_bytes(gzip.compress(json.dumps([frame]).encode()))
    assert Co3D(root).skipped == [("cup", "a frame annotation names no sequence")]


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/etc", "\\\\host\\a", "c:\\a", "c:a", "\ud800", "a\0b", "a\n"])
def test_names_that_lead_outside(tmp_path: Path, name: str) -> None:
    assert inside(tmp_path, "a/b..c.png") == tmp_path / "a" / "b..c.png"
    with pytest.raises(InputError, match="must lie in its folder") as error:
        inside(tmp_path, name)
    str(error.value).encode("ascii")


def npy(width: str) -> bytes:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': (3, {width})}}\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()


NONE = [npy("400000000000"), npy("1" + "0" * 40), npy("-4"), npy("'"), b"PK\x03\x04", bytes(2_000_000)]


@pytest.mark.parametrize("content", NONE)
def test_matrices_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(ObjaverseRenders, "VIEWS", 1)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "000.npy").write_bytes(content)
    RED.save(tmp_path / "a" / "000.png")
    (tmp_path / "valid_paths.json").write_text('["a"]')
    dataset = ObjaverseRenders(tmp_path)
    refused(r"got none of 1; a view 0: 000\.npy (cannot be read|must )", dataset.read, 0)
    assert [item for item, _ in dataset.skipped] == ["a view 0", "a"]


def index(folder: Path, name: str = "a.tar", objects: int = 1, size: int = 10240) -> Path:
    shards = [{"name": name, "objects": objects, "bytes": size}]
    (folder / "index.json").write_text(json.dumps({"format": "upfusion-shards", "version": 1, "shards": shards}))
    return folder


def test_shards_that_claim_too_much(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(bytes(10240))
    for objects in (10**18, 11):
        refused(r"a shard must be .* large enough for its objects", listed_shards, index(tmp_path, objects=objects), [])
    refused("must lie in its folder", listed_shards, index(tmp_path, "../a.tar"), [])
    for name in ("x" * 300 + ".tar", "\u8336" * 90 + ".tar", "pipe:rm a.tar"):
        refused(r"got none: .*\.tar: it is missing", listed_shards, index(tmp_path, name), [])
    assert listed_shards(index(tmp_path, objects=10), [])[0].objects == 10
    skipped: list[tuple[str, str]] = []
    assert listed_shards(index(tmp_path, objects=10**9, size=10**13), skipped)[0].objects == 10
    assert skipped == [("a.tar", "it has 10240 bytes, not the 10000000000000 that were packed")]
    for shards, words in (("3", "must be an index of shards"), ("[]", r"it has no \.tar files")):
        (tmp_path / "index.json").write_text(f'{{"format": "upfusion-shards", "version": 1, "shards": {shards}}}')
        refused(words, listed_shards, tmp_path, [])
