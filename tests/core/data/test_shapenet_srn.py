"""ShapeNet-SRN: known points, intrinsics, broken files."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from data_sets import around, assert_mark_is_where_cameras_say, axes_towards, disc, readable
from PIL import Image

from upfusion_core.data.recorded import ShapeNetSRN

MARK = np.array([0.1, 0.15, -0.05])
SIZE, FOCAL, CX, CY = 128, 131.25, 60.0, 70.0


def write_object(folder: Path, views: int = 5) -> None:
    (folder / "rgb").mkdir(parents=True)
    (folder / "pose").mkdir()
    (folder / "intrinsics.txt").write_text(f"{FOCAL} {CX} {CY} 0.\n0. 0. 0.\n1.\n{SIZE} {SIZE}\n", encoding="utf-8")
    for view in range(views):
        center = around(1.3 * view, 0.2 + 0.15 * view, 1.3)
        right, above, backward = axes_towards(center, np.zeros(3)).T
        pose = np.eye(4)
        pose[:3] = np.stack([right, -above, -backward, center], axis=1)  # OpenCV: right, down, forward
        text = " ".join(str(value) for value in pose.ravel())
        (folder / "pose" / f"{view:06d}.txt").write_text(text, encoding="utf-8")
        x, y, z = np.linalg.inv(pose)[:3] @ [*MARK, 1]
        mark = disc(SIZE, SIZE, FOCAL * x / z + CX, FOCAL * y / z + CY, 4.0)[..., None]
        body = disc(SIZE, SIZE, CX, CY, 35.0)[..., None]
        picture = mark * [255, 30, 30] + (1 - mark) * (body * 100 + (1 - body) * 255)
        Image.fromarray(np.rint(picture).astype(np.uint8)).save(folder / "rgb" / f"{view:06d}.png")


@pytest.mark.parametrize(("size", "margin"), [(128, None), (64, None), (96, 1.15)])
def test_known_points_and_upright_world(tmp_path: Path, size: int, margin: float | None) -> None:
    write_object(tmp_path / "car1")
    views = ShapeNetSRN(tmp_path, size=size, margin=margin)[0]
    assert_mark_is_where_cameras_say(views, MARK, least=5)
    if margin is None:
        assert torch.allclose(views.cameras.focal, torch.full((5, 2), 2 * FOCAL / SIZE))
        assert torch.allclose(views.cameras.principal[0], torch.tensor([1 - 2 * CX / SIZE, 1 - 2 * CY / SIZE]))
        diagonal = views.mask[:, 0].diagonal(dim1=1, dim2=2)[:, [size // 16, round(CY / SIZE * size)]]
        assert diagonal.tolist() == [[0, 1]] * 5
    up = views.placement.apply(torch.tensor([0.0, 0, 1.3]))
    assert torch.allclose(up, torch.tensor([0.0, 1, 0]), atol=1e-5)
    expected = torch.tensor([0.0, math.sin(0.2), math.cos(0.2)])
    assert torch.allclose(views.cameras.centers[0], expected, atol=1e-5)


def test_broken_items_are_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d", "e"):
        write_object(tmp_path / name)
    (tmp_path / "b" / "rgb" / "000001.png").unlink()
    (tmp_path / "b" / "pose" / "000002.txt").unlink()
    (tmp_path / "b" / "pose" / "000003.txt").write_text("1 0 0 0 0 1", encoding="utf-8")
    (tmp_path / "b" / "pose" / "000004.txt").write_text("1 0 0 nothing", encoding="utf-8")
    (tmp_path / "c" / "intrinsics.txt").unlink()
    for path in (tmp_path / "d" / "rgb").iterdir():
        path.unlink()
    (tmp_path / "e" / "intrinsics.txt").write_text("0 64 64 0.\n128 128\n", encoding="utf-8")
    dataset = ShapeNetSRN(tmp_path, size=32)
    assert dataset.names == ["a", "b", "e"]
    assert [(views.name, len(views)) for views in readable(dataset)] == [("a", 5), ("b", 1)]
    assert dataset.view_count(1) == 3
    broken = {"b view 000001": "its picture is missing", "b view 000002": "its pose is missing", "e": "got none of 5"}
    broken |= {"b view 1": "16 numbers, got 6", "b view 2": "cannot be read", "c": "its intrinsics.txt is missing"}
    broken |= {"d": "it has no view with both rgb and pose", "e view 0": "focal length and a size above 0"}
    assert all(words in dict(dataset.skipped)[item] for item, words in broken.items())
