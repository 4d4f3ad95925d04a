"""Meshes from files: colours of every kind, scene transforms, what cannot be read."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from refusals import refused
from trimesh.visual import ColorVisuals

from upfusion_core.geometry import orbit_cameras
from upfusion_core.surface.rasterise import rasterise
from upfusion_core.surface.reading import Surface, read_surface

CORNERS = np.array([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
FACES = np.array([[0, 1, 2], [0, 2, 3]])
UVS = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
QUARTERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [0, 0, 0]]], dtype=np.uint8).repeat(8, 0).repeat(8, 1)
EXPECTED = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]


def corners(surface: Surface) -> list[list[float]]:
    """Colours of the top left, top right, bottom left and bottom right, seen from +Z and filling the picture."""
    picture = rasterise(surface, orbit_cameras(0.0, 0.0, focal=1.0), 4).rgb[0]
    return [[round(v, 2) for v in picture[:, y, x].tolist()] for y in (1, 2) for x in (1, 2)]


def test_vertex_colours(tmp_path: Path) -> None:
    """sRGB in PLY and OBJ; grey where there are none."""
    visual = ColorVisuals(vertex_colors=np.array([[51, 0, 255, 255]] * 4, dtype=np.uint8))
    for name in ("a.ply", "a.obj"):
        trimesh.Trimesh(CORNERS, FACES, visual=visual, process=False).export(tmp_path / name)
        assert read_surface(tmp_path / name).colors[0].tolist() == pytest.approx([0.2, 0, 1], abs=0.01)
    trimesh.Trimesh(CORNERS, FACES, process=False).export(tmp_path / "grey.ply")
    assert torch.allclose(read_surface(tmp_path / "grey.ply").colors, torch.full((4, 3), 0.7))


def write_obj(folder: Path, mtl: str | None) -> Path:
    lines = ["mtllib a.mtl", "usemtl skin"] if mtl is not None else []
    lines += [f"v {x} {y} {z}" for x, y, z in CORNERS] + [f"vt {u} {v}" for u, v in UVS]
    lines += [f"f {' '.join(f'{i + 1}/{i + 1}' for i in face)}" for face in FACES]
    (folder / "a.obj").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if mtl is not None:
        (folder / "a.mtl").write_text(f"newmtl skin\n{mtl}\n", encoding="utf-8")
    return folder / "a.obj"


def test_obj_texture_and_colour_of_its_material(tmp_path: Path) -> None:
    Image.fromarray(QUARTERS).save(tmp_path / "skin.png")
    path = write_obj(tmp_path, "Kd 0.2 0.4 0.6\nmap_Kd skin.png")
    assert corners(read_surface(path)) == EXPECTED
    path = write_obj(tmp_path, "Kd 0.2 0.4 0.6")
    assert read_surface(path).colors[0].tolist() == pytest.approx([0.2, 0.4, 0.6], abs=0.01)
    for mtl in (None, "map_Kd missing.png"):  # a texture can be given
        assert corners(read_surface(write_obj(tmp_path, mtl), texture=tmp_path / "skin.png")) == EXPECTED


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    trimesh.PointCloud(CORNERS).export(tmp_path / "points.ply")
    refused("must hold triangles", read_surface, tmp_path / "points.ply")
    refused("must be a mesh, but cannot be read", read_surface, write_obj(tmp_path, None), texture=tmp_path / "a.png")


def test_centred_and_turned() -> None:
    vertices = torch.tensor([[9.0, 9, 9], [1.0, 0, 0], [3.0, 0, 0], [1.0, 0, 2]])  # the first is in no face
    bare = torch.zeros(4, 3), torch.zeros(4, 2), (), torch.tensor([-1])
    surface = Surface(vertices, torch.tensor([[1, 2, 3]]), *bare)
    expected = 0.2 / 2**0.5 * torch.tensor([[-1.0, 0, -1], [1, 0, -1], [-1, 0, 1]])
    assert torch.allclose(surface.centered(0.2).vertices[1:], expected)
    quarter = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    assert surface.turned(quarter).vertices[3].tolist() == [1, 2, 0]
    refused("extent", replace(surface, vertices=torch.ones(4, 3)).centered, 0.2)
