"""Folders of meshes and GSO's two layouts: known points land where the cameras say."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from data_sets import assert_mark_is_where_cameras_say, readable
from PIL import Image
from refusals import refused
from trimesh.visual import ColorVisuals

from upfusion_core.data.meshes import MeshViews, gso, mesh_folder


def small(root: Path) -> MeshViews:
    return replace(mesh_folder(root, size=64), views=5)


RED, GREEN = (1.0, 0.5, -0.4), (-1.0, -0.5, 0.4)  # opposite corners, so that the box's centre is the origin


def write_marked(path: Path) -> None:
    parts = []
    for place, color in ((RED, (255, 0, 0)), (GREEN, (0, 255, 0))):
        ball = trimesh.creation.icosphere(subdivisions=2, radius=0.15)
        ball.apply_translation(place)
        visual = ColorVisuals(vertex_colors=np.array([[*color, 255]] * len(ball.vertices), dtype=np.uint8))
        parts.append(trimesh.Trimesh(ball.vertices, ball.faces, visual=visual, process=False))
    trimesh.util.concatenate(parts).export(path)


def test_a_folder_of_meshes(tmp_path: Path) -> None:
    for name in ("b.ply", "sub/a.PLY", ".cache/hidden.ply"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_marked(tmp_path / name)
    (tmp_path / "a.glb").write_bytes(b"glTF cut short")
    (tmp_path / "notes.txt").write_text("no mesh")
    dataset = small(tmp_path)
    assert [source.name for source in dataset.sources] == ["a.glb", "b.ply", "sub/a.PLY"]
    found = list(readable(dataset))
    assert [views.name for views in found] == ["b.ply", "sub/a.PLY"]
    ((item, reason),) = dataset.skipped
    assert (item, "cannot be read" in reason) == ("a.glb", True)
    # The file's box is [-1.15, 1.15] × …, its centre the origin; the farthest vertex is put at radius 0.2.
    scale = 0.2 / float(np.linalg.norm(trimesh.load(tmp_path / "b.ply").vertices, axis=1).max())
    assert len(found[0]) == dataset.view_count(1) == 5
    assert_mark_is_where_cameras_say(found[0], scale * np.array(RED), least=3)


def test_depths(tmp_path: Path) -> None:
    trimesh.creation.icosphere(subdivisions=4, radius=7.0).export(tmp_path / "ball.ply")
    dataset = small(tmp_path)
    views = dataset[0]
    assert torch.allclose(views.cameras.centers.norm(dim=-1), torch.ones(5), atol=1e-5)
    assert torch.allclose(views.depth[:, 0, 31:33, 31:33].mean(dim=(1, 2)), torch.full((5,), 0.8), atol=1e-3)
    assert float(dataset.surface(0, views).vertices.norm(dim=-1).max()) == pytest.approx(0.2, rel=1e-4)


def test_views_are_the_same_every_time_and_draws_follow_the_generator(tmp_path: Path) -> None:
    write_marked(tmp_path / "a.ply")
    dataset = small(tmp_path)
    everything, some = dataset[0], dataset.read(0, [3, 1])
    again = everything.chosen([3, 1])
    assert torch.equal(some.rgb, again.rgb)
    assert torch.allclose(some.cameras.camera_to_world, again.cameras.camera_to_world, atol=1e-5)
    write_marked(tmp_path / "0.ply")
    assert torch.equal(small(tmp_path)[1].rgb, everything.rgb)
    drawn = [dataset.draw(0, 2, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0].rgb, drawn[1].rgb)
    assert not torch.equal(drawn[0].cameras.camera_to_world, drawn[2].cameras.camera_to_world)
    with pytest.raises(IndexError):
        dataset[1]


# x, y, z of a board 2 wide and 1 high that stands in the x-z plane and shows its texture towards -y
BOARD = [(-1.0, 0.0, -0.5), (1.0, 0.0, -0.5), (1.0, 0.0, 0.5), (-1.0, 0.0, 0.5)]
MARK = (-1 + 2 * 12.5 / 64, 0.0, 0.5 - 8.5 / 32)  # where it shows the texel (12, 8) from the top left, of 64 x 32


def write_gso(folder: Path, *, flat: bool) -> None:
    """A scan in one of the two distributions; its material names texture.png beside the OBJ in both."""
    meshes, textures = (folder, folder) if flat else (folder / "meshes", folder / "materials" / "textures")
    meshes.mkdir(parents=True)
    textures.mkdir(parents=True, exist_ok=True)
    lines = ["mtllib model.mtl", *(f"v {x} {y} {z}" for x, y, z in BOARD)]
    lines += ["vt 0 0", "vt 1 0", "vt 1 1", "vt 0 1", "vn 0 -1 0", "usemtl material_0"]
    lines += ["f 1/1/1 2/2/1 3/3/1", "f 1/1/1 3/3/1 4/4/1"]
    (meshes / "model.obj").write_text("\n".join(lines))
    material = "newmtl material_0\n# shader_type beckmann\nmap_Kd texture.png\n# Kd: Diffuse reflectivity.\nKd 1 1 1"
    (meshes / "model.mtl").write_text(material)
    texture = np.full((32, 64, 3), 60, dtype=np.uint8)
    texture[7:10, 11:14] = (255, 60, 60)
    Image.fromarray(texture).save(textures / "texture.png")


@pytest.mark.parametrize("flat", [True, False])
def test_gso_in_both_distributions(tmp_path: Path, flat: bool) -> None:
    for name in ("Mug", "Untextured", "Broken"):
        write_gso(tmp_path / name, flat=flat)
    next((tmp_path / "Untextured").rglob("texture.png")).unlink()
    next((tmp_path / "Broken").rglob("model.obj")).write_text("v 0 0\nf nothing")
    (tmp_path / "Empty").mkdir()
    dataset = replace(gso(tmp_path, size=128), views=16)
    assert [source.name for source in dataset.sources] == ["Broken", "Mug"]
    (views,) = readable(dataset)
    assert dict(dataset.skipped).keys() == {"Empty", "Untextured", "Broken"}
    x, y, z = MARK
    mark = 0.2 / (1 + 0.25) ** 0.5 * np.array([x, z, -y])  # +Z up to +Y up
    assert_mark_is_where_cameras_say(views, mark, least=4)


def test_refusals(tmp_path: Path) -> None:
    refused("is none", mesh_folder, tmp_path / "nowhere")
    refused(r"must hold \.glb", mesh_folder, tmp_path)
    refused(r"model.obj and texture.png, got none \(0 skipped\)", gso, tmp_path)
