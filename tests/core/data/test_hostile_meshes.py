"""Mesh files with wrong indices, NaN, lying sizes and missing halves: each is one sentence."""

from pathlib import Path

import numpy as np
import pytest
import trimesh
from glb import edited_glb
from refusals import refused

from upfusion_core.support.errors import InputError
from upfusion_core.surface.reading import read_surface

CORNERS = "v 0 0 0\nv 1 0 0\nv 0 1 0\n"
GLB = trimesh.creation.box().export(file_type="glb")


NONE = ["", "no mesh at all", "\x00" * 100, CORNERS, "v 0 0\nv 1 0\nv 0 1\nf 1 2 3\n"]
NONE += [f"{CORNERS}f {face}\n" for face in ("1 2 9", "-9 1 2", "1 2", "a b c", "1 2 99999999999999999999")]
NONE += [CORNERS.replace("0 1 0", f"0 {value} 0") + "f 1 2 3\n" for value in ("nan", "inf", "1e999", "x")]


@pytest.mark.parametrize("text", NONE)
def test_obj(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.obj").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"mesh|finite|triangles|Surface") as error:
        read_surface(tmp_path / "a.obj")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("share", [0.0, 0.005, 0.02, 0.3, 0.7, 0.99])
def test_glb_cut_short(tmp_path: Path, share: float) -> None:
    (tmp_path / "a.glb").write_bytes(GLB[: int(share * len(GLB))])
    refused("must be a mesh, but cannot be read", read_surface, tmp_path / "a.glb")


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(
    "change",
    [{"count": 10**9}, {"count": -1}, {"bufferView": 99}, {"componentType": 3}, {"type": "MAT9"}, {"count": "a"}],
)
def test_glb_that_lies_about_its_arrays(tmp_path: Path, change: dict[str, object], index: int) -> None:
    (tmp_path / "a.glb").write_bytes(edited_glb(GLB, lambda tree: tree["accessors"][index].update(change)))
    refused(r"mesh|Surface|triangles", read_surface, tmp_path / "a.glb")


@pytest.mark.parametrize("counted", [b"element vertex 8", b"element face 12"])
def test_ply_that_lies_about_its_length(tmp_path: Path, counted: bytes) -> None:
    data = trimesh.creation.box().export(file_type="ply")
    assert counted in data
    (tmp_path / "a.ply").write_bytes(data.replace(counted, counted.rstrip(b"0123456789") + b"99999999"))
    refused(r"must be a mesh, but cannot be read|triangles|Surface", read_surface, tmp_path / "a.ply")


def test_other_faults(tmp_path: Path) -> None:
    (tmp_path / "a.glb").mkdir()
    for name in ("a.glb", "none.obj", "x" * 5000 + ".ply", "a\0b.glb"):
        refused("must be a mesh, but cannot be read", read_surface, tmp_path / name)
    refused("a mesh is read from", read_surface, tmp_path / "a.blend")
    for value in (np.nan, np.inf, 3e38):
        box = trimesh.creation.box()
        box.vertices[0, 0] = value
        box.export(tmp_path / "a.ply")
        refused("finite", lambda: read_surface(tmp_path / "a.ply").centered(0.2))
