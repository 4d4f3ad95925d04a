"""`views` and `predict` on a small checkpoint: what they write, interrupted and continued; films."""

import importlib.util
import json
import re
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from command_runs import done, interrupted, read_run, refused
from PIL import Image, ImageFilter
from rule_weights import write_photos

from upfusion_core import UpFusion, orbit_cameras, prepare_views
from upfusion_core.cli.views import save_video


@pytest.fixture(scope="module")
def model(tiny: Path) -> UpFusion:
    return UpFusion.load(tiny, device="cpu")


@pytest.fixture
def command(photos: list[Path], tiny: Path, tmp_path: Path) -> tuple[object, ...]:
    return "views", *photos[:2], "--model", tiny, "-o", tmp_path / "out", "--steps", 2, "--device", "cpu"


def pixels(path: Path) -> np.ndarray:
    return imageio.imread(path).astype(int)


def assert_saved(folder: Path, rgb: torch.Tensor) -> None:
    saved = np.stack([pixels(folder / f"views/{index:03d}.png") for index in range(len(rgb))])
    assert np.abs(saved - (rgb.permute(0, 2, 3, 1).clamp(0, 1) * 255).round().numpy()).max() <= 1


def test_sampled_views(command: tuple[object, ...], photos: list[Path], model: UpFusion, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = done(*command, "--count", 3, "--batch-size", 2, "--seed", 7)
    assert all(words in said for words in ("3 views in", str(out / "turntable.gif")))
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    expected = ["inputs/001.png", "inputs/002.png", "photo_cameras.json", "photos.png", "run.json", "turntable.gif"]
    assert names == [*expected, "views.json", "views.png", "views/000.png", "views/001.png", "views/002.png"]
    scene = model.encode(prepare_views(photos[:2], size=16))
    assert_saved(out, model.sample(scene, orbit_cameras([0, 120, 240]), steps=2, seeds=[7, 8, 9]).rgb)
    record = read_run(out)
    assert (record["status"], record["model_id"], len(record["files"])) == ("finished", model.model_id, 10)


def test_photo_1s_elevation_is_found_unless_told(
    photos: list[Path], tiny: Path, model: UpFusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("upfusion_core.cli.inputs.estimate_elevation", lambda views: 41.5)
    scene = model.encode(prepare_views(photos, size=16), 41.5)
    for name, words, elevation in (("found", (), 41.5), ("told", ("--photo-elevation", 0), 0.0)):
        said = done("predict", *photos, "-m", tiny, "-o", tmp_path / name, "--count", 2, "--size", 24, *words)
        assert ("Photo 1 looks down by 42 degrees" in said) == (name == "found")
        assert read_run(tmp_path / name)["settings"]["photo_elevation"] == elevation
    assert_saved(tmp_path / "found", model.predict(scene, orbit_cameras([0, 180], 41.5), size=24))
    assert pixels(tmp_path / "found/views.png").shape == (24, 48, 3)
    assert imageio.imread(tmp_path / "found/turntable.gif", index=None).shape == (2, 24, 24, 3)
    monkeypatch.setattr("upfusion_core.cli.inputs.estimate_elevation", lambda views: None)
    assert "finished already" in done("predict", "-o", tmp_path / "found", "--resume")  # as it was found


def test_a_folder_and_a_film_give_sharp_pictures(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight photos with masks, of which the networks see six; six of a film become files, by which a run goes on."""
    jobs, frames, told = tmp_path / "jobs", [], ("-m", tiny, "--count", 1, "--size", 8)
    for number, photo in enumerate(write_photos(jobs, 8, 64)):
        picture = Image.open(photo).filter(ImageFilter.BoxBlur(9 if number == 3 else 0))
        picture.save(photo)
        frames.append((number, torch.from_numpy(np.array(picture)).movedim(-1, 0)))
        Image.fromarray(255 * np.tri(64, k=-20, dtype=np.uint8)).save(photo.with_name(f"{photo.stem}_mask.png"))
    assert "Photo 4 is for cameras, fit and texture only" in done("predict", jobs, "-o", tmp_path / "out", *told)
    record = read_run(tmp_path / "out")
    taken, left_out = [str(jobs / f"{number:03d}.png") for number in range(1, 9)], record["left_out"]
    assert left_out["4"].startswith("blurred")
    masks = [name.replace(".png", "_mask.png") for name in taken]
    assert (record["sources"]["photos"], record["sources"]["masks"]) == (taken, masks)
    decoded = lambda film, wanted, *_: (one for one in frames if wanted is None or one[0] in wanted)  # noqa: E731
    monkeypatch.setattr("upfusion_core.pipeline.frames.film_frames", decoded)
    monkeypatch.setattr("upfusion_core.cli.inputs.film_frames", decoded)
    assert "6 of 8 pictures taken" in done("predict", tmp_path / "a.MOV", "-o", tmp_path / "film", *told)
    assert pixels(tmp_path / "film/choice.png").shape == (384, 384, 3)
    files = [str(tmp_path / f"film-frames/{number:06d}.png") for number in range(8) if str(number + 1) not in left_out]
    assert read_run(tmp_path / "film")["sources"]["photos"] == files
    assert "finished already" in done("predict", "-o", tmp_path / "film", "--resume")


def test_predict_with_known_cameras(photos: list[Path], tiny: Path, model: UpFusion, tmp_path: Path) -> None:
    """Photo 1's lens comes from the file."""
    poses = orbit_cameras([0.0, 90.0], [35.0, 10.0], 2.0).camera_to_world @ torch.diag(torch.tensor([1.0, -1, -1, 1]))
    rows = [
        {"img_name": photo.stem, "width": 64, "height": 64, "fx": 96.0, "fy": 96.0, "position": pose[:3, 3].tolist()}
        | {"rotation": pose[:3, :3].tolist()}
        for photo, pose in zip(photos, poses, strict=False)
    ]
    (tmp_path / "cameras.json").write_text(json.dumps(rows))
    first, told = tmp_path / "first", ("--count", 2, "--size", 16, "--photo-elevation", 35)
    done("predict", *photos[:2], "-m", tiny, "-o", first, *told, "--photo-cameras", tmp_path / "cameras.json")
    stored = json.loads((first / "photo_cameras.json").read_text())["photos"]
    assert [(entry["status"], entry["focal"]) for entry in stored] == [("reference", [3, 3]), ("given", [3, 3])]
    scene = model.encode(prepare_views(photos[:2], size=16), 35.0)  # at 4.5 / 3 times the distance it looks alike
    assert_saved(first, model.predict(scene, orbit_cameras([0, 180], 35.0), size=16))


def test_views_of_listed_cameras(command: tuple[object, ...], tmp_path: Path) -> None:
    matrix = orbit_cameras(90.0, 10.0).camera_to_world[0].tolist()
    entries = [{"azimuth_degrees": 90, "elevation_degrees": 10}, {"camera_to_world": matrix}, {"azimuth_degrees": 0}]
    cameras = tmp_path / "cameras.json"
    cameras.write_text(json.dumps(entries))
    done(*command, "--cameras", cameras, "--video", "none", "--guidance", 1)
    assert not (tmp_path / "out/turntable.gif").exists()
    done(*command, "--cameras", cameras, "--resume")
    cameras.write_text("[]")
    assert "was begun with other cameras" in refused(*command, "--cameras", cameras, "--resume")


def test_wrong_lists_of_cameras(command: tuple[object, ...], tmp_path: Path) -> None:
    for content, sentence in (
        ("[]", "must hold a JSON list of cameras"),
        ('[{"azimuth": 3}]', 'camera 0: an entry must be {"azimuth_degrees"'),
        ('[{"azimuth_degrees": "3"}]', "azimuth_degrees must be a finite number"),
        ('[{"azimuth_degrees": 3}, {"azimuth_degrees": 3, "elevation_degrees": 90}]', "c.json, camera 1: elevation"),
        (json.dumps([{"camera_to_world": np.diag([-1, 1, 1, 1]).tolist()}]), "camera 0: Cameras.camera_to_.*mirrors"),
        ('[{"camera_to_world": [[1, 0, 0]]}]', "4 rows of 4 numbers"),
    ):
        (tmp_path / "c.json").write_text(content)
        assert re.search(sentence, refused(*command, "--cameras", tmp_path / "c.json"))
    assert not (tmp_path / "out").exists()


def test_interrupted_and_resumed(command: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, out = tmp_path / "whole", tmp_path / "my out"
    done(*command, "--count", 4, "-o", whole)
    with monkeypatch.context() as patched:
        pressed = Mock(side_effect=[None] * 6 + [KeyboardInterrupt])  # three views are of two steps each
        patched.setattr("upfusion_core.cli.views.progress", lambda title: nullcontext(pressed))
        said = interrupted(*command, "--count", 4, "--batch-size", 1, "-o", out)
    assert f'interrupted; to continue: upfusion views --resume -o "{out}"' in said
    assert sorted(path.name for path in (out / "views").iterdir()) == ["000.png", "001.png", "002.png"]
    stamp = (out / "views/000.png").stat().st_mtime_ns
    for name, kept in (("001", 60), ("002", 0)):  # damaged since
        path = out / f"views/{name}.png"
        path.write_bytes(path.read_bytes()[:kept])
    done("views", "--resume", "-o", out)  # photos and settings come from the record
    assert (out / "views/000.png").stat().st_mtime_ns == stamp
    for index in range(4):
        assert np.abs(pixels(out / f"views/00{index}.png") - pixels(whole / f"views/00{index}.png")).max() <= 1
    assert "finished already" in done("views", "--resume", "-o", out)


def test_gif_repeats_and_shows_the_frames(tmp_path: Path) -> None:
    colors = torch.tensor([[1.0, 1, 1], [1, 0, 0], [0, 0.5, 1]])
    save_video(tmp_path / "a.gif", colors[:, :, None, None].expand(3, 3, 16, 16), fps=10)
    frames = imageio.imread(tmp_path / "a.gif", index=None)
    assert np.abs(frames[:, 8, 8].astype(int) - (colors * 255).round().int().numpy()).max() <= 4
    properties = imageio.immeta(tmp_path / "a.gif", index=0)
    assert (properties["duration"], properties["loop"]) == (100, 0)


@pytest.mark.skipif(importlib.util.find_spec("imageio_ffmpeg") is None, reason="needs imageio[ffmpeg]")
def test_mp4_of_an_odd_size(tmp_path: Path) -> None:
    save_video(tmp_path / "a.mp4", torch.full((5, 3, 33, 35), 0.5))
    frames = imageio.imread(tmp_path / "a.mp4")
    assert frames.shape == (5, 34, 36, 3)
    assert abs(int(frames[2, 10, 10, 0]) - 128) <= 4
