"""Zero-1-to-3's layout: known points, broken folders and files."""

import json
import math
from pathlib import Path

import numpy as np
import torch
from data_sets import around, assert_mark_is_where_cameras_say, axes_towards, disc, readable
from PIL import Image
from refusals import refused

from upfusion_core.data.recorded import ObjaverseRenders

MARK = np.array([0.1, -0.2, 0.25])
"""In Blender's world, +Z up."""

SIZE = 96


def write_object(folder: Path, views: int = 12) -> None:
    folder.mkdir(parents=True)
    focal = SIZE / 2 / math.tan(math.radians(49.13) / 2)
    for view in range(views):
        center = around(0.4 + 2 * math.pi * view / 12, -0.2 + 0.1 * view, 1.5 + 0.06 * view)
        world_to_camera = axes_towards(center, np.zeros(3)).T
        translation = -world_to_camera @ center
        np.save(folder / f"{view:03d}.npy", np.concatenate([world_to_camera, translation[:, None]], axis=1))
        x, y, z = world_to_camera @ MARK + translation
        mark = disc(SIZE, SIZE, SIZE / 2 + focal * x / -z, SIZE / 2 - focal * y / -z, 3.0)[..., None]
        alpha = disc(SIZE, SIZE, SIZE / 2, SIZE / 2, 0.35 * SIZE)
        colors = mark * [255, 40, 40] + (1 - mark) * 120
        colors[alpha == 0] = 0  # Blender leaves black where nothing is
        picture = np.concatenate([colors, 255 * alpha[..., None]], axis=-1)
        Image.fromarray(np.rint(picture).astype(np.uint8)).save(folder / f"{view:03d}.png")


def write_list(root: Path, names: object) -> None:
    (root / "valid_paths.json").write_text(json.dumps(names), encoding="utf-8")


def test_known_points_and_upright_world(tmp_path: Path) -> None:
    write_object(tmp_path / "a1")
    write_list(tmp_path, ["a1"])
    views = ObjaverseRenders(tmp_path, size=64)[0]
    assert_mark_is_where_cameras_say(views, MARK, least=12)
    assert views.upright
    assert torch.allclose(views.cameras.focal, torch.full((12, 2), 2.1877), atol=1e-3)
    # +Z up has become +Y up, view 0 at azimuth 0 and its own elevation
    up = views.placement.apply(torch.tensor([0.0, 0, 1.5]))
    assert torch.allclose(up, torch.tensor([0.0, 1, 0]), atol=1e-5)
    assert torch.allclose(views.cameras.centers[0], torch.tensor([0.0, math.sin(-0.2), math.cos(-0.2)]), atol=1e-5)
    assert (views.mask[:, 0, 0, 0] == 0).all()
    assert (views.mask[:, 0, 32, 32] == 1).all()
    views = ObjaverseRenders(tmp_path, size=80, margin=1.15).read(0, [5, 2, 9])  # crops carry their cameras
    assert_mark_is_where_cameras_say(views, MARK, least=3)


def test_broken_items_are_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    for name in ("a1", "b2", "c3", "d4", "g7"):
        write_object(tmp_path / name)
    write_object(tmp_path / "short", views=5)
    write_list(tmp_path, ["a1", "b2", "c3", "d4", "gone", "short", "g7"])
    (tmp_path / "b2" / "004.png").write_bytes((tmp_path / "b2" / "004.png").read_bytes()[:60])
    (tmp_path / "b2" / "005.npy").write_bytes(b"\x93NUMPY")
    np.save(tmp_path / "b2" / "006.npy", np.full((3, 4), np.nan))
    np.save(tmp_path / "b2" / "007.npy", 2 * np.load(tmp_path / "b2" / "007.npy"))  # not rigid
    np.save(tmp_path / "b2" / "008.npy", np.array([{}]), allow_pickle=True)
    for view in range(12):
        (tmp_path / "c3" / f"{view:03d}.npy").write_bytes(b"")
        Image.new("RGBA", (8, 8)).save(tmp_path / "d4" / f"{view:03d}.png")
    dataset = ObjaverseRenders(tmp_path, size=32)
    assert dict(dataset.skipped) == {"gone": "its folder is missing", "short": "it has 5 of 12 views"}
    assert dataset.names == ["a1", "b2", "c3", "d4", "g7"]
    found = list(readable(dataset))
    assert [(views.name, len(views)) for views in found] == [("a1", 12), ("b2", 7), ("g7", 12)]
    broken = dict.fromkeys(("b2 view 5", "b2 view 8"), "must be an NPY file, but cannot be read")
    broken |= {"b2 view 4": "cannot be read", "b2 view 6": "3 x 4 finite numbers", "b2 view 7": "rigid"}
    broken |= {"c3": "must have a view that can be read, got none of 12", "d4 view 0": "empty"}
    assert all(words in dict(dataset.skipped)[item] for item, words in broken.items())


def test_refusals(tmp_path: Path) -> None:
    refused("is none", ObjaverseRenders, tmp_path / "nowhere")
    refused("cannot be read", ObjaverseRenders, tmp_path)
    (tmp_path / "valid_paths.json").write_text("[" * 200_000, encoding="utf-8")
    refused("valid_paths.json must be JSON, but is not .*nested too deeply", ObjaverseRenders, tmp_path)
    write_list(tmp_path, {"a1": 1})
    refused(r"valid_paths\.json must be a list, each text", ObjaverseRenders, tmp_path)
