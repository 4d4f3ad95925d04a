"""Recorded pictures, Co3Dv2, ShapeNet-SRN and Objaverse's renders: known points, crops, and all that is broken."""

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_sets import around, assert_mark_is_where_cameras_say, axes_towards, disc, readable
from PIL import Image
from refusals import refused

from upfusion_core.data.recorded import Co3D, Frame, ObjaverseRenders, ShapeNetSRN, framed, parse_frame
from upfusion_core.data.views import PosedViews
from upfusion_core.geometry import reference_camera

CENTRE = np.array([3.0, -1.0, 2.0])
MARK = CENTRE + np.array([0.3, -0.2, 0.5])
FOCAL, PRINCIPAL = np.array([2.4, 2.6]), np.array([0.1, -0.05])
ISOTROPIC, BOUNDS = "ndc_isotropic", "ndc_norm_image_bounds"
RENDERED_MARK = np.array([0.1, -0.2, 0.25])


def save(path: Path, values: np.ndarray, **options: object) -> None:
    Image.fromarray(np.rint(values).astype(np.uint8)).save(path, **options)


Circle = tuple[float, float, float]  # x and y of its centre, from the top left corner, and its radius, in pixels


def ball(height: int, width: int, body: Circle, mark: Circle, room: Any) -> tuple[np.ndarray, np.ndarray]:  # noqa: ANN401
    """(H, W, 3) of a grey ball with a red mark in a room of one colour; (H, W), how much of a pixel the ball covers."""
    covered, red = disc(height, width, *body), disc(height, width, *mark)[..., None]
    return red * [255, 40, 40] + (1 - red) * np.where(covered[..., None] > 0, 110, room), covered


def viewpoint(number: int, kind: str | None, jitter: float) -> dict[str, Any]:
    """A camera on a wobbly round about the object, in PyTorch3D's convention, written down by hand."""
    azimuth = 2 * math.pi * number / 6
    center = CENTRE + 6 * np.array([math.cos(azimuth), math.sin(azimuth), 0.3])
    target = CENTRE + jitter * np.random.default_rng(number).standard_normal(3)
    right, above, backward = axes_towards(center, target, roll=0.2 * number).T
    rotation = np.stack([-right, above, -backward], axis=1)  # columns: left, up, forward in the world
    intrinsics = {"focal_length": FOCAL.tolist(), "principal_point": PRINCIPAL.tolist(), "intrinsics_format": kind}
    found = {"R": rotation.tolist(), "T": (-center @ rotation).tolist()} | intrinsics
    return {name: value for name, value in found.items() if value is not None}


def project(view: dict[str, Any], point: np.ndarray, height: int, width: int) -> tuple[float, float]:
    """Pixels from the top left corner, by DATA's formulas."""
    x, y, z = point @ np.array(view["R"]) + view["T"]
    half = np.array([width, height]) / 2
    unit = half if view.get("intrinsics_format", BOUNDS) == BOUNDS else np.full(2, min(height, width) / 2)
    px, py = half - PRINCIPAL * unit - FOCAL * unit * [x / z, y / z]
    return float(px), float(py)


def write_frame(
    root: Path, sequence: str, number: int, kind: str | None = ISOTROPIC, jitter: float = 0.0
) -> dict[str, Any]:
    """One frame, landscape or portrait, in a green room."""
    size = (90, 120) if number % 2 else (130, 100)
    view = viewpoint(number, kind, jitter)
    for folder in ("images", "masks"):
        (root / sequence / folder).mkdir(parents=True, exist_ok=True)
    places = (*project(view, CENTRE, *size), 22.0), (*project(view, MARK, *size), 3.0)
    picture, covered = ball(*size, *places, [20, 200, 20])
    image, mask = f"{sequence}/images/frame{number + 1:06d}.jpg", f"{sequence}/masks/frame{number + 1:06d}.png"
    save(root / image, picture, quality=98, subsampling=0)
    save(root / mask, 255 * np.where(covered >= 0.5, 0.9, 0.39))  # 0.39 everywhere else lies just under the threshold
    files = {"image": {"path": image, "size": list(size)}, "mask": {"path": mask}}
    return {"sequence_name": sequence.partition("/")[2], "frame_number": number, "viewpoint": view} | files


def annotate(folder: Path, content: object) -> Path:
    path = folder / "frame_annotations.jgz"
    path.write_bytes(gzip.compress(json.dumps(content).encode("utf-8")))
    return path


def write_category(root: Path, category: str, *sequences: str, **seen: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    places = [(f"{category}/{name}", number) for name in sequences for number in range(6)]
    frames = [write_frame(root, *place, **seen) for place in places]
    annotate(root / category, frames)
    return frames


@pytest.mark.parametrize("kind", [ISOTROPIC, BOUNDS, None])
@pytest.mark.parametrize("jitter", [0.0, 0.4])
def test_known_points_after_crop_and_resize(tmp_path: Path, kind: str | None, jitter: float) -> None:
    write_category(tmp_path, "cup", "1_2_3", kind=kind, jitter=jitter)
    views = Co3D(tmp_path, size=64)[0]
    assert_mark_is_where_cameras_say(views, MARK, least=6)
    assert not views.upright
    assert torch.allclose(views.cameras.camera_to_world[0], reference_camera().camera_to_world[0], atol=1e-5)
    if not jitter:
        assert torch.allclose(views.placement.apply(torch.from_numpy(CENTRE)).float(), torch.zeros(3), atol=1e-5)


def test_crops_on_white(tmp_path: Path) -> None:
    frame = write_category(tmp_path, "cup", "1_2_3")[0]
    views = Co3D(tmp_path, size=92)[0]
    rows = (views.mask[0, 0] > 0.5).any(dim=1).nonzero()[:, 0]
    assert len(rows) == pytest.approx(92 / 1.15, abs=2)
    assert float(views.mask[0, 0].mean()) == pytest.approx(math.pi / 4 / 1.15**2, rel=0.03)
    assert (views.rgb.permute(0, 2, 3, 1)[views.mask[:, 0] == 0] > 0.99).all()
    # the green room, 0.7 greener than red, is gone but for what JPEG smears of it over the rim
    assert (views.rgb[:, 1] - views.rgb[:, 0]).max() < 0.15
    mask = np.zeros((130, 100))
    mask[100:, :20] = 255
    save(tmp_path / frame["mask"]["path"], mask)
    views = Co3D(tmp_path, size=64).read(0, [0])
    assert (views.mask[0, 0, -2:] < 0.01).all()
    assert (views.rgb[0, :, -2:] > 0.99).all()
    assert float(views.mask.mean()) == pytest.approx(20 * 30 / (30 * 1.15) ** 2, rel=0.02)


def test_broken_frames_are_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    frames = [write_frame(tmp_path, "cup/a", number) for number in range(16)]
    frames[0]["viewpoint"] = frames[1]["mask"] = None
    del frames[2]["image"]["size"]
    (tmp_path / frames[3]["image"]["path"]).unlink()
    path = tmp_path / frames[6]["image"]["path"]
    path.write_bytes(path.read_bytes()[:200])
    frames[7]["image"]["size"] = [90, 121]
    save(tmp_path / frames[8]["mask"]["path"], np.full((9, 9), 255))
    frames[9]["viewpoint"]["intrinsics_format"] = "pixels"
    noise = np.random.default_rng(0).integers(0, 12, (90, 120, 3))  # of a lens under its cap
    for number, picture in ((11, noise), (13, np.full_like(noise, 255)), (15, np.full_like(noise, [90, 90, 92]))):
        save(tmp_path / frames[number]["image"]["path"], picture, quality=95)
    annotate(tmp_path / "cup", [*frames, "no frame"])
    dataset = Co3D(tmp_path, size=32)
    (views,) = readable(dataset)
    assert len(views) == 5
    assert_mark_is_where_cameras_say(views, MARK, least=1)
    by_frame = {"cup/a frame 0": "it has no viewpoint", "cup/a frame 1": "it has no mask"}
    by_frame |= {"cup/a frame 2": "must be complete, but cannot be read (KeyError 'size')"}
    by_frame |= {"cup/a frame 9": "intrinsics_format must be", "cup": "a frame annotation names no sequence"}
    assert all(words in dict(dataset.skipped)[item] for item, words in by_frame.items())
    by_view = [reason for item, reason in dataset.skipped if " view " in item]
    reasons = ["No such file", "cannot be read", "must be 121 x 90 pixels", "must have its picture's size"]
    for words, reason in zip([*reasons, "is black there", "is blank", "is blank"], by_view, strict=True):
        assert words in reason


def test_black_and_blank_renders(tmp_path: Path) -> None:
    for color, coverage, words in ((0, 255, "blank"), (0, 0, "black"), (200, 255, "blank")):
        picture = Image.new("LA", (16, 16), (color, coverage))
        picture.paste((color, 255), (4, 4, 12, 12))
        picture.save(tmp_path / "a.png")
        refused(f"must show the object, but is {words}", framed, Frame(reference_camera(), tmp_path / "a.png"), 8, None)


def test_broken_sequences_and_categories(tmp_path: Path) -> None:
    write_category(tmp_path, "cup", "a")
    frames = write_category(tmp_path, "toy", "blind", "still", "bent", "far", "opposite", "nowhere", "whole")
    for blind, still, bent in zip(frames[:6], frames[6:12], frames[12:18], strict=True):
        blind["viewpoint"] = None
        still["viewpoint"] = frames[6]["viewpoint"]
        bent["viewpoint"]["R"] = [[2.0, 0, 0], [0, 1, 0], [0, 0, 1]]
    # one absurd camera condemns its sequence
    for number, absurd in ((20, [2e5, 0.0, 0.0]), (26, [-9e4, -9e4, 0.0]), (32, [math.nan, 0.0, 0.0])):
        frames[number]["viewpoint"]["T"] = absurd
    annotate(tmp_path / "toy", frames)
    for name in ("cut", "deep"):
        (tmp_path / name).mkdir()
    path = annotate(tmp_path / "cut", frames)
    path.write_bytes(path.read_bytes()[:300])
    (tmp_path / "deep" / "frame_annotations.jgz").write_bytes(gzip.compress(b"[" * 200_000))
    dataset = Co3D(tmp_path)
    refused("must hold folders", Co3D, tmp_path / "cup" / "a")
    assert dataset.names == ["cup/a", "toy/whole"]
    wanted = dict.fromkeys(("cut", "deep"), "cannot be read")
    wanted |= dict.fromkeys(("toy/far", "toy/opposite", "toy/nowhere"), "absurd camera")
    wanted |= {"toy/blind": "none of 6", "toy/still": "parallel", "toy/bent frame 0": "rigid"}
    assert all(words in dict(dataset.skipped)[item] for item, words in wanted.items())


def test_intrinsics_by_hand() -> None:
    """W 120, H 90: half the shorter side is 45 pixels, so 2.4 is 108 pixels, of which 60 are 1."""
    frame = {"frame_number": 0, "image": {"path": "i", "size": [90, 120]}, "mask": {"path": "m"}}
    for kind, focal, principal in ((ISOTROPIC, [1.8, 2.6], [0.075, -0.05]), (BOUNDS, [2.4, 2.6], [0.1, -0.05])):
        _, camera = parse_frame(frame | {"viewpoint": viewpoint(0, kind, 0.0)})
        assert camera.focal[0].tolist() == pytest.approx(focal)
        assert camera.principal[0].tolist() == pytest.approx(principal)


def rendered(view: int, size: int, focal: float, left: int, top: int, room: int) -> tuple[np.ndarray, ...]:
    """A camera in a world with +Z up, (3, 4): right, up, backward and place; then what it sees, as `ball` gives it."""
    center = around(0.4 + 2 * math.pi * view / 12, -0.2 + 0.1 * view, 1.5 + 0.06 * view)
    axes = axes_towards(center, np.zeros(3))
    x, y, z = (RENDERED_MARK - center) @ axes
    mark = (left - focal * x / z, top + focal * y / z, 3.0)
    return np.column_stack([axes, center]), *ball(size, size, (left, top, 0.3 * size), mark, room)


def assert_upright(views: PosedViews) -> None:
    """+Z up has become +Y up, view 0 at azimuth 0 and its own elevation."""
    assert views.upright
    assert torch.allclose(views.placement.apply(torch.tensor([0.0, 0, 1.5])), torch.tensor([0.0, 1, 0]), atol=1e-5)
    assert torch.allclose(views.cameras.centers[0], torch.tensor([0.0, math.sin(-0.2), math.cos(-0.2)]), atol=1e-5)


def write_shapenet(folder: Path) -> None:
    """Five views of 128 pixels, with a focal length of 131.25 pixels about (60, 70)."""
    for name in ("rgb", "pose"):
        (folder / name).mkdir(parents=True)
    (folder / "intrinsics.txt").write_text("131.25 60 70 0.\n0. 0. 0.\n1.\n128 128\n")
    for view in range(5):
        camera, picture, _ = rendered(view, 128, 131.25, 60, 70, 255)
        pose = np.vstack([camera * [1, -1, -1, 1], [0, 0, 0, 1]])  # OpenCV: right, down, forward
        (folder / "pose" / f"{view:06d}.txt").write_text(" ".join(map(str, pose.ravel())))
        save(folder / "rgb" / f"{view:06d}.png", picture)


@pytest.mark.parametrize(("size", "margin"), [(128, None), (64, None), (96, 1.15)])
def test_shapenet_s_known_points_and_upright_world(tmp_path: Path, size: int, margin: float | None) -> None:
    write_shapenet(tmp_path / "car1")
    views = ShapeNetSRN(tmp_path, size=size, margin=margin)[0]
    assert_mark_is_where_cameras_say(views, RENDERED_MARK, least=5)
    if margin is None:
        assert torch.allclose(views.cameras.focal, torch.full((5, 2), 2 * 131.25 / 128))
        assert torch.allclose(views.cameras.principal[0], torch.tensor([1 - 2 * 60 / 128, 1 - 2 * 70 / 128]))
        diagonal = views.mask[:, 0].diagonal(dim1=1, dim2=2)[:, [size // 16, round(70 / 128 * size)]]
        assert diagonal.tolist() == [[0, 1]] * 5
    assert_upright(views)


def test_broken_items_of_shapenet_are_counted(tmp_path: Path) -> None:
    for name in "abcde":
        write_shapenet(tmp_path / name)
    for lost in ("b/rgb/000001.png", "b/pose/000002.txt", "c/intrinsics.txt"):
        (tmp_path / lost).unlink()
    for path in (tmp_path / "d" / "rgb").iterdir():
        path.unlink()
    (tmp_path / "b" / "pose" / "000003.txt").write_text("1 0 0 0 0 1")
    (tmp_path / "b" / "pose" / "000004.txt").write_text("1 0 0 nothing")
    (tmp_path / "e" / "intrinsics.txt").write_text("0 64 64 0.\n128 128\n")
    dataset = ShapeNetSRN(tmp_path, size=32)
    assert dataset.names == ["a", "b", "e"]
    assert [(views.name, len(views)) for views in readable(dataset)] == [("a", 5), ("b", 1)]
    assert dataset.view_count(1) == 3
    broken = {"b view 000001": "its picture is missing", "b view 000002": "its pose is missing", "e": "got none of 5"}
    broken |= {"b view 1": "16 numbers, got 6", "b view 2": "cannot be read", "c": "its intrinsics.txt is missing"}
    broken |= {"d": "it has no view with both rgb and pose", "e view 0": "focal length and a size above 0"}
    assert all(words in dict(dataset.skipped)[item] for item, words in broken.items())


def write_renders(folder: Path, views: int = 12) -> None:
    folder.mkdir()
    focal = 48 / math.tan(math.radians(49.13) / 2)  # of 96 pixels
    for view in range(views):
        camera, colors, alpha = rendered(view, 96, focal, 48, 48, 0)  # Blender leaves black where nothing is
        rotation, center = camera[:, :3].T, camera[:, 3:]
        np.save(folder / f"{view:03d}.npy", np.hstack([rotation, -rotation @ center]))  # world -> camera
        save(folder / f"{view:03d}.png", np.concatenate([colors, 255 * alpha[..., None]], axis=-1))


def test_objaverse_s_known_points_and_upright_world(tmp_path: Path) -> None:
    write_renders(tmp_path / "a1")
    (tmp_path / "valid_paths.json").write_text('["a1"]')
    views = ObjaverseRenders(tmp_path, size=64)[0]
    assert_mark_is_where_cameras_say(views, RENDERED_MARK, least=12)
    assert_upright(views)
    assert torch.allclose(views.cameras.focal, torch.full((12, 2), 2.1877), atol=1e-3)
    assert (views.mask[:, 0, 0, 0] == 0).all()
    assert (views.mask[:, 0, 32, 32] == 1).all()
    views = ObjaverseRenders(tmp_path, size=80, margin=1.15).read(0, [5, 2, 9])  # crops carry their cameras
    assert_mark_is_where_cameras_say(views, RENDERED_MARK, least=3)


def test_broken_items_of_objaverse_are_counted(tmp_path: Path) -> None:
    for name in ("a1", "b2", "c3", "d4", "g7"):
        write_renders(tmp_path / name)
    write_renders(tmp_path / "short", views=5)
    (tmp_path / "valid_paths.json").write_text('["a1", "b2", "c3", "d4", "gone", "short", "g7"]')
    torn = tmp_path / "b2"
    (torn / "004.png").write_bytes((torn / "004.png").read_bytes()[:60])
    np.save(torn / "006.npy", np.full((3, 4), np.nan))
    np.save(torn / "007.npy", 2 * np.load(torn / "007.npy"))  # not rigid
    np.save(torn / "008.npy", np.array([{}]), allow_pickle=True)
    for view in range(12):
        (tmp_path / "c3" / f"{view:03d}.npy").write_bytes(b"")
        Image.new("RGBA", (8, 8)).save(tmp_path / "d4" / f"{view:03d}.png")
    dataset = ObjaverseRenders(tmp_path, size=32)
    assert dict(dataset.skipped) == {"gone": "its folder is missing", "short": "it has 5 of 12 views"}
    assert dataset.names == ["a1", "b2", "c3", "d4", "g7"]
    assert [(views.name, len(views)) for views in readable(dataset)] == [("a1", 12), ("b2", 8), ("g7", 12)]
    broken = {"b2 view 4": "cannot be read", "b2 view 6": "3 x 4 finite numbers", "b2 view 7": "rigid"}
    broken |= {"b2 view 8": "must be an NPY file, but cannot be read", "d4 view 0": "empty"}
    broken |= {"c3": "must have a view that can be read, got none of 12"}
    assert all(words in dict(dataset.skipped)[item] for item, words in broken.items())


def test_lists_of_objaverse_that_are_refused(tmp_path: Path) -> None:
    refused("cannot be read", ObjaverseRenders, tmp_path)
    (tmp_path / "valid_paths.json").write_text('{"a1": 1}')
    refused(r"valid_paths\.json must be a list, each text", ObjaverseRenders, tmp_path)
