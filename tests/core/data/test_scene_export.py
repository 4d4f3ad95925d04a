"""Data sets of posed pictures: written, and read again by our reader of other programs' files."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from upfusion_core import Cameras, PosedPicture, export_scene, load_photo_cameras, orbit_cameras


def posed(count: int = 4) -> list[PosedPicture]:
    """Pictures 20 x 30 of a dark square in the middle, from round it, with principal points off the middle."""
    orbit = orbit_cameras([0.0, 70.0, 150.0, 260.0], [20.0, -10.0, 45.0, 5.0], [1.0, 1.2, 0.9, 1.1])
    cameras = Cameras(orbit.camera_to_world, torch.tensor([[3.0, 4.5]] * 4), torch.tensor([[0.05, -0.02]] * 4))
    rgb = torch.ones(3, 20, 30)
    rgb[:, 9:11, 13:16] = 0.1  # round where the origin is seen: x = 30 (1 - .05) / 2, y = 20 (1 + .02) / 2
    return [PosedPicture(f"view_{index}", rgb, cameras[index], mask=(rgb[0] < 0.5).float()) for index in range(count)]


@pytest.mark.parametrize("form", ["nerfstudio", "colmap"])
def test_cameras_come_back(form: str, tmp_path: Path) -> None:
    pictures = posed()
    points = torch.rand(20, 3, generator=torch.Generator().manual_seed(0)) * 0.1 - 0.05
    files = export_scene(pictures, tmp_path, form, points, torch.rand(20, 3))
    assert all(path.is_file() for path in files)
    assert Image.open(tmp_path / "masks" / "view_0.png").getpixel((14, 9)) == 255
    path = tmp_path / "transforms.json" if form == "nerfstudio" else tmp_path
    photos = [tmp_path / "images" / f"view_{index}.png" for index in range(4)]
    known = load_photo_cameras(path, photos, elevation_degrees=20)
    wanted = Cameras.concatenate([picture.camera for picture in pictures])
    for name in ("focal", "principal"):
        torch.testing.assert_close(getattr(known.cameras, name), getattr(wanted, name), atol=1e-5, rtol=0)
    worlds = (cameras.camera_to_world.double() for cameras in (known.cameras, wanted))
    made, own = (torch.linalg.inv(found[:1]) @ found for found in worlds)
    scale = made[1:, :3, 3].norm() / own[1:, :3, 3].norm()
    torch.testing.assert_close(made[:, :3, :3], own[:, :3, :3], atol=1e-5, rtol=0)
    torch.testing.assert_close(made[:, :3, 3], own[:, :3, 3] * scale, atol=1e-5, rtol=0)
    assert float(scale) == pytest.approx(1, abs=0.02)  # the middle of the silhouettes is not quite the origin


def test_points_lie_where_the_pictures_show_them(tmp_path: Path) -> None:
    export_scene(posed(1), tmp_path, "colmap", torch.zeros(1, 3), torch.ones(1, 3))
    _, observed = (tmp_path / "sparse" / "0" / "images.txt").read_text().splitlines()
    assert [float(value) for value in observed.split()] == pytest.approx([14.25, 10.2, 1], abs=1e-4)
    assert (tmp_path / "sparse" / "0" / "points3D.txt").read_text() == "1 0 0 0 255 255 255 0 1 0\n"
