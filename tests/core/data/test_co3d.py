"""Co3Dv2: both intrinsics, crops, and everything that is broken in it."""

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_sets import assert_mark_is_where_cameras_say, axes_towards, disc, readable
from PIL import Image
from refusals import refused

from upfusion_core.data.recorded import Co3D, Frame, framed, parse_frame
from upfusion_core.geometry import reference_camera

CENTRE = np.array([3.0, -1.0, 2.0])
MARK = CENTRE + np.array([0.3, -0.2, 0.5])
FOCAL, PRINCIPAL = np.array([2.4, 2.6]), np.array([0.1, -0.05])
ISOTROPIC, BOUNDS = "ndc_isotropic", "ndc_norm_image_bounds"


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


def write_frame(root: Path, sequence: str, number: int, kind: str | None, jitter: float) -> dict[str, Any]:
    """One frame, landscape or portrait: a grey ball with a red mark in a green room."""
    height, width = (90, 120) if number % 2 else (130, 100)
    category = sequence.split("/")[0]
    view = viewpoint(number, kind, jitter)
    folder = root / sequence
    for kind_folder in ("images", "masks"):
        (folder / kind_folder).mkdir(parents=True, exist_ok=True)
    x, y = project(view, CENTRE, height, width)
    body = disc(height, width, x, y, 22.0)
    mark = disc(height, width, *project(view, MARK, height, width), 3.0)[..., None]
    picture = mark * [255, 40, 40] + (1 - mark) * np.where(body[..., None] > 0, 110, [20, 200, 20])
    image, mask = f"images/frame{number + 1:06d}.jpg", f"masks/frame{number + 1:06d}.png"
    Image.fromarray(np.rint(picture).astype(np.uint8)).save(folder / image, quality=98, subsampling=0)
    probability = np.where(body >= 0.5, 0.9, 0.39)  # 0.39 everywhere else lies just under the threshold
    Image.fromarray(np.rint(255 * probability).astype(np.uint8)).save(folder / mask)
    return {
        "sequence_name": sequence.removeprefix(f"{category}/"),
        "frame_number": number,
        "image": {"path": f"{sequence}/{image}", "size": [height, width]},
        "mask": {"path": f"{sequence}/{mask}", "mass": float((body >= 0.5).sum())},
        "viewpoint": view,
    }


def write_jgz(path: Path, content: object) -> None:
    path.write_bytes(gzip.compress(json.dumps(content).encode("utf-8")))


def write_category(
    root: Path, category: str, sequences: tuple[str, ...], kind: str | None = ISOTROPIC, jitter: float = 0.0
) -> list[dict[str, Any]]:
    places = [(f"{category}/{name}", number) for name in sequences for number in range(6)]
    frames = [write_frame(root, *place, kind, jitter) for place in places]
    write_jgz(root / category / "frame_annotations.jgz", frames)
    return frames


@pytest.mark.parametrize("kind", [ISOTROPIC, BOUNDS, None])
@pytest.mark.parametrize("jitter", [0.0, 0.4])
def test_known_points_after_crop_and_resize(tmp_path: Path, kind: str | None, jitter: float) -> None:
    write_category(tmp_path, "cup", ("1_2_3",), kind, jitter)
    views = Co3D(tmp_path, size=64)[0]
    assert_mark_is_where_cameras_say(views, MARK, least=6)
    assert not views.upright
    assert torch.allclose(views.cameras.camera_to_world[0], reference_camera().camera_to_world[0], atol=1e-5)
    if not jitter:
        assert torch.allclose(views.placement.apply(torch.from_numpy(CENTRE)).float(), torch.zeros(3), atol=1e-5)


def test_crops_on_white(tmp_path: Path) -> None:
    write_category(tmp_path, "cup", ("1_2_3",))
    views = Co3D(tmp_path, size=92)[0]
    rows = (views.mask[0, 0] > 0.5).any(dim=1).nonzero()[:, 0]
    assert len(rows) == pytest.approx(92 / 1.15, abs=2)
    assert float(views.mask[0, 0].mean()) == pytest.approx(math.pi / 4 / 1.15**2, rel=0.03)
    assert (views.rgb.permute(0, 2, 3, 1)[views.mask[:, 0] == 0] > 0.99).all()
    # the green room, 0.7 greener than red, is gone but for what JPEG smears of it over the rim
    assert (views.rgb[:, 1] - views.rgb[:, 0]).max() < 0.15
    (frame, *_) = write_category(tmp_path, "cup", ("1_2_3",))
    mask = np.zeros((130, 100), dtype=np.uint8)
    mask[100:, :20] = 255
    Image.fromarray(mask).save(tmp_path / frame["mask"]["path"])
    views = Co3D(tmp_path, size=64).read(0, [0])
    assert (views.mask[0, 0, -2:] < 0.01).all()
    assert (views.rgb[0, :, -2:] > 0.99).all()
    assert float(views.mask.mean()) == pytest.approx(20 * 30 / (30 * 1.15) ** 2, rel=0.02)


def test_broken_frames_are_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    frames = write_category(tmp_path, "cup", ("a",))
    frames[0]["viewpoint"] = None
    frames[1]["mask"] = None
    del frames[2]["image"]["size"]
    (tmp_path / frames[3]["image"]["path"]).unlink()
    extra = [write_frame(tmp_path, "cup/a", number, ISOTROPIC, 0.0) for number in range(6, 10)]
    path = tmp_path / extra[0]["image"]["path"]
    path.write_bytes(path.read_bytes()[:200])
    extra[1]["image"]["size"] = [90, 121]
    Image.new("L", (9, 9), 255).save(tmp_path / extra[2]["mask"]["path"])
    extra[3]["viewpoint"]["intrinsics_format"] = "pixels"
    write_jgz(tmp_path / "cup" / "frame_annotations.jgz", [*frames, *extra, "no frame"])
    dataset = Co3D(tmp_path, size=32)
    (views,) = readable(dataset)
    assert len(views) == 2
    assert_mark_is_where_cameras_say(views, MARK, least=1)
    by_frame = {"cup/a frame 0": "it has no viewpoint", "cup/a frame 1": "it has no mask"}
    by_frame |= {"cup/a frame 2": "must be complete, but cannot be read (KeyError 'size')"}
    by_frame |= {"cup/a frame 9": "intrinsics_format must be", "cup": "a frame annotation names no sequence"}
    assert all(words in dict(dataset.skipped)[item] for item, words in by_frame.items())
    by_view = [reason for item, reason in dataset.skipped if " view " in item]
    assert len(by_view) == 4
    for words in ("No such file", "cannot be read", "must be 121 x 90 pixels", "must have its picture's size"):
        assert any(words in reason for reason in by_view)


def test_black_and_blank_frames_are_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    frames = write_category(tmp_path, "cup", ("a",))
    noise = np.random.default_rng(0).integers(0, 12, (90, 120, 3), dtype=np.uint8)  # of a lens under its cap
    for number, picture in ((1, noise), (3, np.full_like(noise, 255)), (5, np.full_like(noise, [90, 90, 92]))):
        Image.fromarray(picture).save(tmp_path / frames[number]["image"]["path"], quality=95)
    dataset = Co3D(tmp_path, size=32)
    assert [len(views) for views in readable(dataset)] == [3]
    reasons = {item: reason.partition("; ")[0].split(", but ")[1] for item, reason in dataset.skipped}
    assert reasons == {"cup/a view 1": "is black there", "cup/a view 3": "is blank", "cup/a view 5": "is blank"}
    for color, coverage, words in ((0, 255, "blank"), (0, 0, "black"), (200, 255, "blank")):  # renders of one colour
        picture = Image.new("LA", (16, 16), (color, coverage))
        picture.paste((color, 255), (4, 4, 12, 12))
        picture.save(tmp_path / "a.png")
        refused(f"must show the object, but is {words}", framed, Frame(reference_camera(), tmp_path / "a.png"), 8, None)


@pytest.mark.parametrize("absurd", [[2e5, 0.0, 0.0], [-9e4, -9e4, 0.0], [math.nan, 0.0, 0.0]])
def test_one_absurd_camera_condemns_its_sequence(tmp_path: Path, absurd: list[float]) -> None:
    frames = write_category(tmp_path, "cup", ("a", "b"))
    frames[2]["viewpoint"]["T"] = absurd
    write_jgz(tmp_path / "cup" / "frame_annotations.jgz", frames)
    dataset = Co3D(tmp_path)
    ((item, reason),) = dataset.skipped
    assert (dataset.names, item, "absurd camera" in reason) == (["cup/b"], "cup/a", True)


def test_broken_sequences_and_categories(tmp_path: Path) -> None:
    write_category(tmp_path, "cup", ("a",))
    frames = write_category(tmp_path, "toy", ("blind", "still", "bent"))
    for frame in frames[:6]:
        frame["viewpoint"] = None
    for frame in frames[6:12]:
        frame["viewpoint"] = frames[6]["viewpoint"]
    for frame in frames[12:]:
        frame["viewpoint"]["R"] = [[2.0, 0, 0], [0, 1, 0], [0, 0, 1]]
    write_jgz(tmp_path / "toy" / "frame_annotations.jgz", frames)
    write_category(tmp_path, "cut", ("a",))
    path = tmp_path / "cut" / "frame_annotations.jgz"
    path.write_bytes(path.read_bytes()[:300])
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "frame_annotations.jgz").write_bytes(gzip.compress(b"[" * 200_000))
    dataset = Co3D(tmp_path)
    refused("must hold folders", Co3D, tmp_path / "cup" / "a")
    assert dataset.names == ["cup/a"]
    reasons = dict(dataset.skipped)
    wanted = dict.fromkeys(("cut", "deep"), "cannot be read")
    wanted |= {"toy/blind": "none of 6", "toy/still": "parallel", "toy/bent frame 0": "rigid"}
    assert all(words in reasons[item] for item, words in wanted.items())


def test_intrinsics_by_hand() -> None:
    """W 120, H 90: half the shorter side is 45 pixels, so 2.4 is 108 pixels, of which 60 are 1."""
    frame = {"frame_number": 0, "image": {"path": "i", "size": [90, 120]}, "mask": {"path": "m"}}
    _, camera = parse_frame(frame | {"viewpoint": viewpoint(0, ISOTROPIC, 0.0)})
    assert camera.focal[0].tolist() == pytest.approx([1.8, 2.6])
    assert camera.principal[0].tolist() == pytest.approx([0.075, -0.05])
    _, camera = parse_frame(frame | {"viewpoint": viewpoint(0, BOUNDS, 0.0)})
    assert camera.focal[0].tolist() == pytest.approx([2.4, 2.6])
    assert camera.principal[0].tolist() == pytest.approx([0.1, -0.05])
