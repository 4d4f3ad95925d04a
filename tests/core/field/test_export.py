from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from upfusion_core.errors import OutputError
from upfusion_core.field.export import UNLIT, srgb_to_linear
from upfusion_core.field.mesh import MeshAsset

# a corner of a cube, with red, green, blue and mid-grey vertices
MESH = MeshAsset(
    vertices=torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]]),
    faces=torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]),
    vertex_colors=torch.tensor([[0.5, 0.5, 0.5], [1, 0, 0], [0, 1, 0], [0, 0, 1]]),
)


def _gltf_tree(path: Path) -> dict:
    content = path.read_bytes()
    (length,) = struct.unpack("<I", content[12:16])
    return json.loads(content[20 : 20 + length])


def test_srgb_by_hand() -> None:
    values = torch.tensor([0.0, 0.04, 0.5, 1.0])
    torch.testing.assert_close(srgb_to_linear(values), torch.tensor([0.0, 0.0030960, 0.2140411, 1.0]))


@pytest.mark.parametrize("suffix", ["glb", "obj", "ply", "stl", "GLB"])
def test_every_format_keeps_shape_and_winding(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mesh.{suffix}"
    MESH.save(path)
    found = trimesh.load(path, force="mesh")
    assert found.is_watertight
    assert found.volume == pytest.approx(1.0)
    np.testing.assert_allclose(found.bounds, [[0, 0, 0], [1, 2, 3]], atol=1e-6)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(("suffix", "grey"), [("glb", 55), ("obj", 128), ("ply", 128)])
def test_vertex_colours(tmp_path: Path, suffix: str, grey: int) -> None:
    path = tmp_path / f"mesh.{suffix}"
    MESH.save(path)
    found = trimesh.load(path, process=False)
    found = next(iter(found.geometry.values())) if suffix == "glb" else found
    # with a material (the unlit one of GLB) trimesh hands vertex colours out as an attribute
    visual = found.visual
    colors = visual.vertex_attributes["color"] if suffix == "glb" else visual.vertex_colors
    colors = colors[:, :3].astype(int)
    for vertex, color in zip(MESH.vertices.numpy(), [[grey] * 3, [255, 0, 0], [0, 255, 0], [0, 0, 255]], strict=True):
        nearest = np.abs(found.vertices - vertex).sum(1).argmin()
        assert np.abs(colors[nearest] - color).max() <= 1


def test_glb_is_unlit(tmp_path: Path) -> None:
    MESH.save(tmp_path / "mesh.glb")
    tree = _gltf_tree(tmp_path / "mesh.glb")
    assert UNLIT in tree["extensionsUsed"]
    (primitive,) = tree["meshes"][0]["primitives"]
    assert UNLIT in tree["materials"][primitive["material"]]["extensions"]
    assert "COLOR_0" in primitive["attributes"]


def test_glb_carries_a_texture(tmp_path: Path) -> None:
    texture = torch.zeros(3, 4, 8)
    texture[0] = 0.5
    uvs = torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1]])
    mesh = MeshAsset(MESH.vertices, MESH.faces, MESH.vertex_colors, uvs, texture)
    mesh.save(tmp_path / "mesh.glb")
    found = trimesh.load(tmp_path / "mesh.glb", force="mesh", process=False)
    picture = found.visual.material.baseColorTexture
    assert picture.size == (8, 4)
    assert picture.getpixel((3, 2))[:3] == (128, 0, 0)
    np.testing.assert_allclose(found.visual.uv, uvs.numpy(), atol=1e-6)
    assert UNLIT in _gltf_tree(tmp_path / "mesh.glb")["materials"][0]["extensions"]


def test_a_bad_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"one of \.glb, \.obj, \.ply, \.stl, got 'mesh\.fbx'"):
        MESH.save(tmp_path / "mesh.fbx")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="could not be written"):
        MESH.save(tmp_path / "file" / "mesh.glb")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
