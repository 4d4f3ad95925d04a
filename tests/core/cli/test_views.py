"""`views`, `predict`, `convert` and `info` on a small checkpoint, and how they refuse bad input."""

import importlib.util
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import pytest
import rule_weights
import torch
from command_runs import read_run
from PIL import Image
from typer.testing import CliRunner, Result

from upfusion_core.cli.app import app
from upfusion_core.cli.run import locked
from upfusion_core.cli.views import save_video
from upfusion_core.geometry import orbit_cameras
from upfusion_core.pipeline.photos import prepare_views
from upfusion_core.pipeline.upfusion import UpFusion
from upfusion_core.support import files
from upfusion_core.types import NovelViews


def _upfusion(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def _refused(result: Result, sentence: str) -> None:
    assert result.exit_code == 2, result.output
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
    assert isinstance(result.exception, SystemExit)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    for index in (1, 2, 3):
        Image.fromarray(rule_weights.rule_photo(index, 64)).save(folder / f"photo {index}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def small_model(small_weights: Path) -> UpFusion:
    return UpFusion.load(small_weights, device="cpu")


@pytest.fixture(autouse=True)
def _loaded_once(small_weights: Path, small_model: UpFusion, monkeypatch: pytest.MonkeyPatch) -> None:
    load = UpFusion.load

    def remembered(path: str, **options: Any) -> UpFusion:  # noqa: ANN401
        return small_model if path == str(small_weights) else load(path, **options)

    monkeypatch.setattr(UpFusion, "load", remembered)


@pytest.fixture
def views_command(photos: list[Path], small_weights: Path, tmp_path: Path) -> Callable[..., Result]:
    def run(*arguments: object, photos: list[Path] = photos[:2], output: Path = tmp_path / "out") -> Result:
        fixed = ("--model", small_weights, "-o", output, "--steps", 2, "--device", "cpu")
        return _upfusion("views", *photos, *fixed, *arguments)

    return run


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image).astype(int)


def test_views_writes_what_the_library_samples(
    views_command: Callable[..., Result], photos: list[Path], small_weights: Path, small_model: UpFusion, tmp_path: Path
) -> None:
    result = views_command("--count", 3, "--batch-size", 2, "--seed", 7)
    assert result.exit_code == 0, result.output
    out = tmp_path / "out"
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    expected = [f"inputs/{i:03d}.png" for i in (1, 2)] + ["photos.png", "run.json", "turntable.gif"]
    assert names == [*expected, "views.png", "views/000.png", "views/001.png", "views/002.png"]
    assert "3 views in" in result.stdout
    assert str(out / "turntable.gif") in result.stdout

    scene = small_model.encode(prepare_views(photos[:2], size=64))
    novel = small_model.sample(scene, orbit_cameras([0, 120, 240]), steps=2, seeds=[7, 8, 9])
    saved = np.stack([_pixels(out / f"views/00{index}.png") for index in range(3)])
    assert np.abs(saved - (novel.rgb.permute(0, 2, 3, 1).clamp(0, 1) * 255).round().numpy()).max() <= 1
    assert _pixels(out / "inputs/001.png").shape == (64, 64, 3)

    record = read_run(out)
    assert record["status"] == "finished"
    assert record["settings"]["seed"] == 7
    assert record["settings"]["model"] == str(small_weights)
    assert record["timings_seconds"].keys() == {"photos", "views"}
    assert record["model_id"] == small_model.model_id
    assert len(record["files"]) == 8


def test_views_of_listed_cameras(views_command: Callable[..., Result], tmp_path: Path) -> None:
    matrix = orbit_cameras(90.0, 10.0).camera_to_world[0].tolist()
    cameras = tmp_path / "cameras.json"
    cameras.write_text(
        json.dumps(
            [{"azimuth_degrees": 90, "elevation_degrees": 10}, {"camera_to_world": matrix}, {"azimuth_degrees": 0}]
        )
    )
    result = views_command("--cameras", cameras, "--video", "none", "--guidance", 1)
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "out/turntable.gif").exists()
    # the same camera in two notations; another seed, so other noise
    assert len(list((tmp_path / "out/views").iterdir())) == 3
    result = views_command("--cameras", cameras, "--resume")
    assert result.exit_code == 0
    cameras.write_text("[]")
    _refused(views_command("--cameras", cameras, "--resume"), "was begun with other cameras")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("not json", "must be JSON"),
        ("{}", "must hold a JSON list of cameras"),
        ("[]", "must hold a JSON list of cameras"),
        ('[{"azimuth": 3}]', 'camera 0: an entry must be {"azimuth_degrees"'),
        ("[7]", "camera 0: an entry must be"),
        ('[{"azimuth_degrees": "3"}]', "azimuth_degrees must be a finite number"),
        ('[{"azimuth_degrees": NaN}]', "NaN is no number in JSON"),
        ('[{"azimuth_degrees": 1e999}]', "azimuth_degrees must be a finite number"),
        ('[{"azimuth_degrees": 1' + "0" * 400 + "}]", "azimuth_degrees must be a finite number"),
        ("[" * 100_000, "nested too deeply"),
        ("[" + "0," * 20_000 + "0]", "1 to 10000, got"),
        ('[{"azimuth_degrees": 3, "elevation_degrees": 90}]', "elevation_degrees must be between"),
        ('[{"azimuth_degrees": 3, "distance": 1e20}]', "nearer than 1e9"),
        ('[{"camera_to_world": [[1,0,0,0],[0,1,0,0],[0,0,1,1],[0,0,0,1]], "focal": 0}]', "focal must be above 0"),
        ('[{"azimuth_degrees": 3, "distance": 0}]', "c.json, camera 0: distance must be above 0"),
        ('[{"azimuth_degrees": 3}, {"azimuth_degrees": 3, "elevation_degrees": 90}]', "c.json, camera 1: elevation"),
        ('[{"azimuth_degrees": 3, "azimuth_degrees": 4}]', "comes twice"),
        ('[{"camera_to_world": [[-1,0,0,0],[0,1,0,0],[0,0,1,1],[0,0,0,1]]}]', "camera 0: Cameras.camera_to_world"),
        ('[{"camera_to_world": [[-1,0,0,0],[0,1,0,0],[0,0,1,1],[0,0,0,1]]}]', "one that mirrors"),
        ('[{"camera_to_world": [[1,0,0,0],[0,1,0,0],[0,0,1,1],[0,0,0,2]]}]', "another last row"),
        ('[{"camera_to_world": [[1, 0, 0]]}]', "4 rows of 4 numbers"),
        ('[{"camera_to_world": [[2,0,0,0],[0,2,0,0],[0,0,2,1],[0,0,0,1]]}]', "must be rigid"),
    ],
)
def test_wrong_lists_of_cameras(
    views_command: Callable[..., Result], tmp_path: Path, content: str, sentence: str
) -> None:
    (tmp_path / "c.json").write_text(content)
    _refused(views_command("--cameras", tmp_path / "c.json"), sentence)
    assert not (tmp_path / "out").exists()


def test_missing_list_of_cameras(views_command: Callable[..., Result], tmp_path: Path) -> None:
    _refused(views_command("--cameras", tmp_path / "none.json"), "cannot be read")
    assert not (tmp_path / "out").exists()


def test_interrupted_views_are_continued(
    views_command: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert views_command("--count", 3, output=tmp_path / "whole").exit_code == 0
    sample, seen = UpFusion.sample, []

    def interrupted(self: UpFusion, *args: Any, **keywords: Any) -> NovelViews:  # noqa: ANN401
        if seen:
            raise KeyboardInterrupt
        seen.append(keywords["seeds"])
        return sample(self, *args, **keywords)

    monkeypatch.setattr(UpFusion, "sample", interrupted)
    out = tmp_path / "my out"
    result = views_command("--count", 3, "--batch-size", 1, output=out)
    assert result.exit_code == 130
    assert f'interrupted; to continue: upfusion views --resume -o "{out}"' in result.stderr
    assert sorted(path.name for path in (out / "views").iterdir()) == ["000.png"]
    assert read_run(out)["status"] == "interrupted"

    monkeypatch.setattr(UpFusion, "sample", sample)
    (out / "views/000.png").touch()
    stamp = (out / "views/000.png").stat().st_mtime_ns
    result = _upfusion("views", "--resume", "-o", out)  # photos and settings come from the record
    assert result.exit_code == 0, result.output
    assert (out / "views/000.png").stat().st_mtime_ns == stamp
    for index in range(3):
        difference = _pixels(out / f"views/00{index}.png") - _pixels(tmp_path / f"whole/views/00{index}.png")
        assert np.abs(difference).max() <= 1
    assert read_run(out)["status"] == "finished"

    result = _upfusion("views", "--resume", "-o", out)
    assert result.exit_code == 0
    assert "finished already" in result.stderr


def test_a_damaged_view_is_painted_again(views_command: Callable[..., Result], tmp_path: Path) -> None:
    assert views_command("--count", 2).exit_code == 0
    path = tmp_path / "out/views/001.png"
    whole = path.read_bytes()
    for content in (whole[:60], b""):
        path.write_bytes(content)
        (tmp_path / "out/run.json").write_text(json.dumps(read_run(tmp_path / "out") | {"status": "interrupted"}))
        result = _upfusion("views", "--resume", "-o", tmp_path / "out")
        assert result.exit_code == 0, result.output
        assert np.abs(_pixels(path) - np.array(Image.open(io.BytesIO(whole))).astype(int)).max() <= 1


def test_resume_refuses_other_settings_and_photos(
    views_command: Callable[..., Result], photos: list[Path], tmp_path: Path
) -> None:
    assert views_command("--count", 1).exit_code == 0
    _refused(views_command("--count", 1, "--seed", 3, "--resume"), "was begun with seed = 0, now it is 3")
    _refused(views_command("--count", 2, "--resume"), "was begun with count = 1, now it is 2")
    _refused(views_command("--resume", photos=photos[1:]), "was begun with other photos")
    _refused(views_command("--count", 1), "holds a run already")
    _refused(_upfusion("predict", "--resume", "-o", tmp_path / "out"), "not of `upfusion predict`")
    assert read_run(tmp_path / "out")["status"] == "finished"
    assert views_command("--count", 2, "--force").exit_code == 0
    assert (tmp_path / "out/views/001.png").exists()


def test_predict(photos: list[Path], small_weights: Path, small_model: UpFusion, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = _upfusion("predict", *photos, "-m", small_weights, "-o", out, "--count", 4, "--size", 24)
    assert result.exit_code == 0, result.output
    scene = small_model.encode(prepare_views(photos, size=64))
    rgb = small_model.predict(scene, orbit_cameras([0, 90, 180, 270]), size=24)
    saved = np.stack([_pixels(out / f"views/00{index}.png") for index in range(4)])
    assert np.abs(saved - (rgb.permute(0, 2, 3, 1) * 255).round().numpy()).max() <= 1
    assert _pixels(out / "views.png").shape == (48, 48, 3)


def test_bad_photos_leave_nothing(
    views_command: Callable[..., Result], photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(UpFusion, "load", None)  # photos are checked before anything is loaded
    (tmp_path / "text.jpg").write_text("no picture")
    Image.new("RGB", (64, 64), "white").save(tmp_path / "white.png")
    Image.new("L", (20, 20), 255).save(tmp_path / "mask.png")
    cases = {
        "there is no file": [tmp_path / "gone.jpg"],
        "is a folder": [tmp_path],
        "cannot be read": [photos[0], tmp_path / "text.jpg"],
        "white all over": [tmp_path / "white.png"],
        "expected 1 to 6 photos, got 7": [photos[0]] * 7,
        "expected 1 to 6 photos, got 0": [],
    }
    for sentence, chosen in cases.items():
        _refused(views_command(photos=chosen), sentence)
        assert not (tmp_path / "out").exists()
    _refused(views_command("--mask", tmp_path / "mask.png"), "expected one mask for each of 2 photos, got 1")
    _refused(views_command("--mask", tmp_path / "mask.png", photos=photos[:1]), "must have the photo's size")
    assert not (tmp_path / "out").exists()


def test_bad_models_and_options_leave_nothing(
    photos: list[Path], small_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(files, "BUNDLED", tmp_path / "nothing")
    _refused(_upfusion("views", *photos, "-o", out), "this takes mini, the small model that comes with the package")
    _refused(_upfusion("views", *photos, "-o", out), "bundles no model yet")
    _refused(_upfusion("views", *photos, "-o", out, "-m", tmp_path / "none"), "does not exist")
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    _refused(_upfusion("views", *photos, "-o", out, "-m", tmp_path / "torn.safetensors"), "torn.safetensors")
    good = ("views", *photos, "-o", out, "-m", small_weights)
    _refused(_upfusion(*good, "--steps", 0), "--steps")
    _refused(_upfusion(*good, "--dtype", "float8"), "--dtype must be one of auto, float32, float16, bfloat16")
    _refused(_upfusion(*good, "--scheduler", "nonsense"), "nonsense")
    if not torch.cuda.is_available():
        _refused(_upfusion(*good, "--device", "cuda"), "no cuda device")
    assert _upfusion("views").exit_code == 2
    assert not out.exists()


def test_output_that_is_a_file_or_in_use(views_command: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    _refused(views_command(output=tmp_path / "file"), "must be a folder, but is a file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    _refused(views_command(output=tmp_path / "full"), "holds other files (mine.txt)")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_second_run_into_one_folder(views_command: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out"):
        _refused(views_command(), "is writing into")
        _refused(views_command("--force"), "wait for it or choose another folder")
    assert views_command("--count", 1).exit_code == 0


def test_mp4_without_its_package(
    views_command: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    _refused(views_command("--video", "mp4"), 'pip install "imageio[ffmpeg]"')
    assert not (tmp_path / "out").exists()


def test_convert_and_info(small_weights: Path, tmp_path: Path) -> None:
    merged = tmp_path / "merged.safetensors"
    result = _upfusion("convert", small_weights, merged, "--dtype", "float16")
    assert result.exit_code == 0, result.output
    assert str(merged) in result.stdout
    record = _record_of(merged)
    assert (record["command"], record["status"], record["settings"]) == ("convert", "finished", {"dtype": "float16"})
    assert record["files"] == [str(merged)]
    _refused(_upfusion("convert", small_weights, merged), "exists already; choose another name, or --force")
    _refused(_upfusion("convert", merged, merged, "--force"), "is the source itself")
    assert _upfusion("convert", small_weights, merged, "--force").exit_code == 0

    folder = tmp_path / "folder"
    assert _upfusion("convert", merged, folder).exit_code == 0
    assert (folder / "upsrt.pt").is_file()
    _refused(_upfusion("convert", tmp_path / "none", tmp_path / "new"), "does not exist")
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "new.run.json").exists()

    result = _upfusion("info", merged, "-o", tmp_path / "info.json")
    assert result.exit_code == 0
    assert "pictures of 64 x 64 pixels" in result.stdout
    content = json.loads((tmp_path / "info.json").read_text())
    assert content["command"] == "info"
    assert content["checkpoint"]["layout"] == "merged"
    assert content["checkpoint"]["config"]["image_size"] == 64
    _refused(_upfusion("info", merged, "-o", tmp_path / "info.json"), "exists already")
    _refused(_upfusion("info", tmp_path / "none"), "does not exist")


def _record_of(path: Path) -> dict[str, Any]:
    return json.loads(path.with_name(path.name + ".run.json").read_text(encoding="utf-8"))


def test_gif_repeats_and_shows_the_frames(tmp_path: Path) -> None:
    colors = torch.tensor([[1.0, 1, 1], [1, 0, 0], [0, 0.5, 1]])
    save_video(tmp_path / "a.gif", colors[:, :, None, None].expand(3, 3, 16, 16), fps=10)
    frames = imageio.imread(tmp_path / "a.gif", index=None)
    assert frames.shape == (3, 16, 16, 3)
    assert np.abs(frames[:, 8, 8].astype(int) - (colors * 255).round().int().numpy()).max() <= 4
    properties = imageio.immeta(tmp_path / "a.gif", index=0)
    assert properties["duration"] == 100
    assert properties["loop"] == 0


@pytest.mark.skipif(importlib.util.find_spec("imageio_ffmpeg") is None, reason="needs imageio[ffmpeg]")
def test_mp4_of_an_odd_size(tmp_path: Path) -> None:
    save_video(tmp_path / "a.mp4", torch.full((5, 3, 33, 35), 0.5))
    frames = imageio.imread(tmp_path / "a.mp4")
    assert frames.shape == (5, 34, 36, 3)
    assert abs(int(frames[2, 10, 10, 0]) - 128) <= 4
