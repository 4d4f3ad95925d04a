"""Meshes: those of a field known by hand, ComfyUI's MESH and the files that are written of it."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
import trimesh
from known_shapes import COLOR, a_mesh
from torch import nn

pytestmark = pytest.mark.usefixtures("lines", "types", "folders")

EXTRACT, SAVE_MESH = "UpFusionExtractMesh", "UpFusionSaveMesh"


def test_the_mesh_lies_in_comfyui_s_frame(run_node: Callable, ball: nn.Module) -> None:
    mesh, _ = run_node(EXTRACT, field=ball, resolution=48, threshold=12.0)
    assert mesh.vertices.shape[0] == mesh.faces.shape[0] == 1
    assert mesh.vertices.dtype == torch.float32
    assert mesh.faces.dtype == torch.int64
    assert mesh.unlit
    assert mesh.uvs is None
    torch.testing.assert_close(
        mesh.vertices[0].norm(dim=-1), torch.full((mesh.vertices.shape[1],), 0.5), atol=0.02, rtol=0
    )
    assert float(mesh.vertices.abs().max()) <= 0.5 + 1e-6
    linear = torch.tensor([((value + 0.055) / 1.055) ** 2.4 for value in COLOR])
    torch.testing.assert_close(mesh.vertex_colors[0], linear.expand_as(mesh.vertex_colors[0]), atol=2e-3, rtol=0)
    corners = mesh.vertices[0][mesh.faces[0]]
    volume = (corners[:, 0] * torch.linalg.cross(corners[:, 1], corners[:, 2])).sum() / 6
    assert float(volume) == pytest.approx(4 / 3 * math.pi * 0.125, rel=0.03)  # positive: counter-clockwise outside


def test_the_glb_is_the_same_mesh(run_node: Callable, ball: nn.Module) -> None:
    mesh, file = run_node(EXTRACT, field=ball, resolution=32, threshold=12.0)
    assert file.format == "glb"
    source = file.get_source() if hasattr(file, "get_source") else file.source
    loaded = trimesh.load(io.BytesIO(source.read()), file_type="glb", force="mesh", process=False)
    torch.testing.assert_close(torch.tensor(loaded.vertices).float(), mesh.vertices[0], atol=1e-6, rtol=0)
    assert len(loaded.faces) == mesh.faces.shape[1]


def test_a_texture_is_srgb_and_has_its_own_places(run_node: Callable, ball: nn.Module) -> None:
    options = {"coloring": "texture", "texture_size": 64}
    mesh, _ = run_node(EXTRACT, field=ball, resolution=24, threshold=12.0, **options)
    assert mesh.texture.shape == (1, 64, 64, 3)
    assert mesh.uvs.shape == (1, mesh.vertices.shape[1], 2)
    assert mesh.vertex_colors is None  # glTF would multiply them with the texture
    columns = (mesh.uvs[0, :, 0] * 64).long().clamp(0, 63)
    lines = (mesh.uvs[0, :, 1] * 64).long().clamp(0, 63)  # v = 0 is the top row
    found = mesh.texture[0, lines, columns]
    torch.testing.assert_close(found.median(0).values, torch.tensor(COLOR), atol=0.01, rtol=0)


def test_a_textured_mesh_has_a_number_of_faces_by_itself(
    run_node: Callable, ball: nn.Module, pack: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack("nodes.field"), "TEXTURED_FACES", 300)
    settings = {"field": ball, "resolution": 24, "threshold": 12.0, "texture_size": 64}
    colored, _ = run_node(EXTRACT, **settings)
    textured, _ = run_node(EXTRACT, **settings, coloring="texture")
    more, _ = run_node(EXTRACT, **settings, coloring="texture", faces=600)
    assert textured.faces.shape[1] <= 300 < more.faces.shape[1] <= 600 < colored.faces.shape[1]


def test_faces_are_at_most_so_many(run_node: Callable, ball: nn.Module) -> None:
    pytest.importorskip("fast_simplification")
    mesh, _ = run_node(EXTRACT, field=ball, resolution=24, threshold=12.0, faces=200)
    assert 16 <= mesh.faces.shape[1] <= 200


def test_no_surface_gets_a_sentence(run_node: Callable, ball: nn.Module) -> None:
    with pytest.raises(ValueError, match="no density above 900"):
        run_node(EXTRACT, field=ball, resolution=32, threshold=900.0)


@pytest.mark.parametrize("kind", ["glb", "obj", "ply", "stl"])
def test_meshes_are_written_in_each_format(run_node: Callable, folders: Path, kind: str) -> None:
    for _ in range(2):
        (file,) = run_node(SAVE_MESH, mesh=a_mesh(), format=kind, filename_prefix="3d/%year%/corner")
        assert file.format == kind
    (path,) = (folders / "output" / "3d").glob(f"*/corner_00002_.{kind}")
    loaded = trimesh.load(path, force="mesh", process=False)
    assert loaded.bounds.tolist() == [[0, 0, 0], [1, 1, 1]]
    assert loaded.volume == pytest.approx(1 / 6)
    if kind in ("obj", "ply"):
        assert loaded.visual.vertex_colors[:, :3].tolist() == [[0, 0, 0], [255, 0, 0], [0, 128, 0], [0, 0, 255]]


def test_the_viewer_is_told_of_every_mesh_of_a_batch(node_classes: dict[str, type], folders: Path) -> None:
    """The second mesh is padded to the first one's size."""
    mesh = a_mesh()
    small = mesh.faces.clone()
    small[:, 1:] = 0
    batch = a_mesh(
        vertices=mesh.vertices.repeat(2, 1, 1),
        faces=torch.cat([mesh.faces, small]),
        vertex_colors=mesh.vertex_colors.repeat(2, 1, 1),
        vertex_counts=torch.tensor([4, 3]),
        face_counts=torch.tensor([4, 1]),
    )
    output = node_classes[SAVE_MESH].execute(mesh=batch, format="ply", filename_prefix="pair")
    assert output.ui["3d"] == [
        {"filename": f"pair_0000{number}_.ply", "subfolder": "", "type": "output"} for number in (1, 2)
    ]
    assert len(trimesh.load(folders / "output" / "pair_00002_.ply", process=False).vertices) == 3


def test_a_texture_keeps_its_place(pack: Callable[[str], ModuleType], run_node: Callable, folders: Path) -> None:
    """v = 0 is the picture's top row in MESH and its bottom row in the library."""
    convert = pack("nodes.convert")
    texture = torch.zeros(1, 4, 4, 3)
    texture[:, 0, 0] = torch.tensor([1.0, 0.5, 0.0])  # top left
    uvs = torch.full((1, 4, 2), 0.9)
    uvs[0, 1] = 0.1
    (asset,) = convert.assets_from_mesh(a_mesh(uvs=uvs, texture=texture, vertex_colors=None))
    assert asset.texture.shape == (3, 4, 4)
    torch.testing.assert_close(asset.uvs[1], torch.tensor([0.1, 0.9]))
    torch.testing.assert_close(
        asset.vertex_colors[1], torch.tensor([1.0, 0.5, 0.0])
    )  # as formats without textures show it
    assert asset.vertex_colors[0].tolist() == [0, 0, 0]
    back = convert.mesh_from_asset(asset)
    torch.testing.assert_close(back.uvs, uvs)
    assert torch.equal(back.texture, texture)
    assert back.vertex_colors is None


def test_a_mesh_of_another_pack_gets_a_sentence(run_node: Callable) -> None:
    for mesh, message in (
        (SimpleNamespace(mesh="data"), "must have vertices"),
        (a_mesh(vertices=[[0.0, 0, 0]]), "vertices of a MESH must be a tensor of 3 dimensions, got list"),
        (a_mesh(faces=torch.zeros(4, 3)), r"faces of a MESH must be a tensor of 3 dimensions, got \(4, 3\)"),
        (a_mesh(faces=torch.full((1, 2, 3), 9)), "must number vertices 0 to 3, got 9"),
        (a_mesh(faces=torch.tensor([[[0, 1, -1]]])), "must number vertices 0 to 3, got -1"),
        (a_mesh(faces=torch.full((1, 2, 3), 0.7)), "faces of a MESH must hold whole numbers, got torch.float32"),
        (a_mesh(faces=torch.zeros(0, 2, 3, dtype=torch.int64)), r"3 channels for each of its meshes, got \(0, 2, 3\)"),
        (a_mesh(vertex_colors=torch.zeros(0, 4, 3)), r"3 or 4 channels for each of its meshes, got \(0, 4, 3\)"),
        (a_mesh(vertex_colors=torch.zeros(1, 4, 1)), r"3 or 4 channels for each of its meshes, got \(1, 4, 1\)"),
        (a_mesh(vertex_colors=torch.ones(1, 4, 3, dtype=torch.uint8)), "floating-point numbers, got torch.uint8"),
        (a_mesh(uvs=torch.zeros(1, 4, 1), texture=torch.zeros(1, 4, 4, 3)), "uvs of a MESH must hold values of 2"),
        (a_mesh(uvs=torch.zeros(1, 4, 2), texture=torch.zeros(0, 4, 4, 3)), r"texture .* got \(0, 4, 4, 3\)"),
        (a_mesh(uvs=torch.zeros(1, 4, 2), texture=torch.zeros(1, 0, 0, 3)), r"texture .* got \(1, 0, 0, 3\)"),
        (a_mesh(vertex_counts=5), "vertex_counts of a MESH must be one whole number a mesh, got int"),
        (a_mesh(vertex_counts="text"), "vertex_counts of a MESH must be one whole number a mesh, got str"),
        (a_mesh(vertex_counts=torch.tensor([])), r"one whole number a mesh, got \(0,\) torch.float32"),
        (a_mesh(vertex_counts=torch.tensor([torch.nan])), r"one whole number a mesh, got \(1,\) torch.float32"),
        (a_mesh(vertex_counts=torch.tensor([9])), "vertex_counts of a MESH must be between 0 and 4, got 9"),
        (a_mesh(face_counts=torch.tensor([-1])), "face_counts of a MESH must be between 0 and 4, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            run_node(SAVE_MESH, mesh=mesh)
