"""What every command refuses by one sentence, before anything is made."""

import importlib.util
from pathlib import Path

import pytest
import torch
from command_runs import refused
from PIL import Image

from upfusion_core.cli import inputs
from upfusion_core.support import files


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, photos: list[Path], tiny: Path) -> dict[str, object]:
    """What the commands name: F is a folder with files that are not what they should be, P a photo, W weights."""
    folder = tmp_path_factory.mktemp("inputs")
    torch.save({"a": torch.ones(1)}, folder / "other.pth")
    Image.new("L", (20, 20), 255).save(folder / "mask.png")
    Image.new("RGB", (64, 64), "tan").save(folder / "wood.png")
    (folder / "z").mkdir()
    (folder / "z/a.ply").write_text("no mesh")
    return {"F": folder, "P": photos[0], "W": tiny, "deep": "x/" * 2000}


REFERENCE = "reconstruct {P} -m {W} -o out --views 2 --preset reference --perceptual lpips"
TRAIN = "train encoder --config mini -o out --data "


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("views {F}/gone.jpg -m none -o out", "there is no file"),  # photos are looked at before weights
        (f"views {'{P} ' * 65}-m none -o out", "expected 1 to 64 photos, got 65"),
        ("views {P} {P} --network-photos 2 -o out", "must see photo 1 and up to 5 others of 2 photos, got 2"),
        ("views {P} {P} --mask {F}/mask.png -m none -o out", "expected one mask for each of 2 photos, got 1"),
        ("views {F}/wood.png -m none -o out", "border is not white (its median is 210, 180, 140 of 255); give a --"),
        ("views {F}/wood.png --any-background -m none -o out", "does not exist"),
        ("views {P} -m {W} -o {F}", "holds other files (mask.png, other.pth, wood.png, ...)"),
        ("views {P} -o {deep}", "100 new folders"),
        ("views {P} -m {W} -o out --scheduler nonsense", "nonsense"),
        (REFERENCE, "needs perceptual_weights"),
        (REFERENCE + " --perceptual-weights {F}/other.pth", "must hold VGG-16's convolutions"),
        ("evaluate -o out --model {W}", "--data is needed"),
        ("evaluate -o out --model {W} --data . --split test", "--split is of procedural objects"),
        ("pack -o out", "something to pack is needed"),
        ("pack procedural -o out --kind gso", "--kind is of a folder"),
        (TRAIN + "{F}/z", "none of 1 objects could be read"),
        (TRAIN + "procedural --init {F}/other.pth", "must hold UpSRT"),
    ],
)
def test_before_anything_is_made(
    words: str, sentence: str, places: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sentence in refused(*(word.format(**places) for word in words.split()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(importlib.util.find_spec("imageio_ffmpeg") is None, reason="needs imageio-ffmpeg")
def test_an_ffmpeg_that_does_not_run(photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command, program in (("views", "none"), ("predict", "/bin/false")):
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", program)
        said = refused(command, photos[0], "-o", tmp_path / "a/out", "--video", "mp4")
        assert "the program ffmpeg, which does not run" in said
    assert not list(tmp_path.iterdir())


def test_missing_packages_and_models(photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(importlib.util, "find_spec", lambda name: None)
        assert 'pip install "imageio[ffmpeg]"' in refused("views", photos[0], "-o", tmp_path / "out", "--video", "mp4")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(files, "BUNDLED", tmp_path / "nothing")
    inputs.loaded.cache_clear()  # of another test
    said = refused("views", photos[0], "-o", tmp_path / "out")
    assert "this takes mini, the small model that comes with the package" in said
    assert "bundles no model yet" in said
