"""Meshes from files: colours of every kind, scene transforms, what cannot be read."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from refusals import refused
from trimesh.visual import ColorVisuals, TextureVisuals
from trimesh.visual.material import PBRMaterial

from upfusion_core.geometry import orbit_cameras
from upfusion_core.surface.rasterise import rasterise
from upfusion_core.surface.reading import Surface, read_surface

CORNERS = np.array([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
FACES = np.array([[0, 1, 2], [0, 2, 3]])
UVS = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
QUARTERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [0, 0, 0]]], dtype=np.uint8).repeat(8, 0).repeat(8, 1)


def textured() -> trimesh.Trimesh:
    material = PBRMaterial(baseColorTexture=Image.fromarray(QUARTERS))
    return trimesh.Trimesh(CORNERS, FACES, visual=TextureVisuals(uv=UVS, material=material), process=False)


def shown(surface: Surface) -> torch.Tensor:
    """(3, 4, 4) as seen from +Z, filling the picture."""
    return rasterise(surface, orbit_cameras(0.0, 0.0, focal=1.0), 4).rgb[0]


def corners(picture: torch.Tensor) -> list[list[float]]:
    """Colours of the top left, top right, bottom left and bottom right."""
    return [[round(v, 2) for v in picture[:, y, x].tolist()] for y in (1, 2) for x in (1, 2)]


EXPECTED = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]


def test_textures_and_materials_of_glb(tmp_path: Path) -> None:
    textured().export(tmp_path / "a.glb")
    assert corners(shown(read_surface(tmp_path / "a.glb"))) == EXPECTED
    for material, expected in (
        (PBRMaterial(baseColorFactor=[55, 255, 0, 255]), [0.5017, 1, 0]),
        (PBRMaterial(roughnessFactor=0.5), [1, 1, 1]),
        (PBRMaterial(baseColorTexture=Image.fromarray(QUARTERS)), [1, 1, 1]),
    ):
        visual = TextureVisuals(material=material)  # no texture coordinates
        trimesh.Trimesh(CORNERS, FACES, visual=visual, process=False).export(tmp_path / "a.glb")
        surface = read_surface(tmp_path / "a.glb")
        assert surface.textures == ()
        assert surface.colors[0].tolist() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("kind", "red"), [("glb", 0.4845), ("ply", 0.2), ("obj", 0.2)])
def test_vertex_colours_are_linear_in_glb_and_srgb_elsewhere(tmp_path: Path, kind: str, red: float) -> None:
    visual = ColorVisuals(vertex_colors=np.array([[51, 0, 255, 255]] * 4, dtype=np.uint8))
    trimesh.Trimesh(CORNERS, FACES, visual=visual, process=False).export(tmp_path / f"a.{kind}")
    expected = pytest.approx([red, 0, 1], abs=1e-3 if kind == "glb" else 0.01)
    assert read_surface(tmp_path / f"a.{kind}").colors[0].tolist() == expected
    trimesh.Trimesh(CORNERS, FACES, process=False).export(tmp_path / "grey.ply")  # a mesh without colours
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
    assert corners(shown(read_surface(path))) == EXPECTED
    path = write_obj(tmp_path, "Kd 0.2 0.4 0.6")
    assert read_surface(path).colors[0].tolist() == pytest.approx([0.2, 0.4, 0.6], abs=0.01)
    for mtl in (None, "map_Kd missing.png"):  # a texture can be given
        surface = read_surface(write_obj(tmp_path, mtl), texture=tmp_path / "skin.png")
        assert corners(shown(surface)) == EXPECTED


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    textured().export(tmp_path / "a.glb")
    trimesh.PointCloud(CORNERS).export(tmp_path / "points.ply")
    for name, words in (("points.ply", "must hold triangles"), ("a.stl", "convert it first")):
        refused(words, read_surface, tmp_path / name)
    refused("must be a mesh, but cannot be read", read_surface, tmp_path / "a.glb", texture=tmp_path / "none.png")


def test_centred_and_turned() -> None:
    vertices = torch.tensor([[9.0, 9, 9], [1.0, 0, 0], [3.0, 0, 0], [1.0, 0, 2]])  # the first is in no face
    faces, none = torch.tensor([[1, 2, 3]]), torch.tensor([-1])
    surface = Surface(vertices, faces, torch.zeros(4, 3), torch.zeros(4, 2), (), none)
    centered = surface.centered(0.2)
    half = 0.2 / 2**0.5
    assert torch.allclose(centered.vertices[1:], half * torch.tensor([[-1.0, 0, -1], [1, 0, -1], [-1, 0, 1]]))
    quarter = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    assert surface.turned(quarter).vertices[3].tolist() == [1, 2, 0]
    refused("extent", replace(surface, vertices=torch.ones(4, 3)).centered, 0.2)
