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
    (folder / "text.jpg").write_text("no picture")
    (folder / "torn.safetensors").write_bytes(b"torn")
    torch.save({"a": torch.ones(1)}, folder / "other.pth")
    Image.new("RGB", (64, 64), "white").save(folder / "white.png")
    Image.new("L", (20, 20), 255).save(folder / "mask.png")
    Image.new("RGB", (64, 64), "tan").save(folder / "wood.png")
    (folder / "z").mkdir()
    (folder / "z/a.ply").write_text("no mesh")
    return {"F": folder, "P": photos[0], "W": tiny, "long": "x" * 300, "deep": "x/" * 2000}


VIEWS, RECONSTRUCT = "views {P} -m {W} -o out ", "reconstruct {P} -m {W} -o out --views 2 "
REFERENCE, PROCEDURAL = RECONSTRUCT + "--preset reference ", "evaluate -o out --model {W} --data procedural "
PACK, TRAIN = "pack procedural -o out ", "train encoder --config mini -o out "


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("views {F}/gone.jpg -m none -o out", "there is no file"),  # photos are looked at before weights
        (f"views {'{P} ' * 65}-m none -o out", "expected 1 to 64 photos, got 65"),
        ("views {P} {P} --network-photos 2 -o out", "must see photo 1 and up to 5 others of 2 photos, got 2"),
        ("views {P} {P} --mask {F}/mask.png -m none -o out", "expected one mask for each of 2 photos, got 1"),
        ("views {F}/wood.png -m none -o out", "border is not white (its median is 210, 180, 140 of 255); give a --"),
        ("views {F}/wood.png --any-background -m none -o out", "does not exist"),
        ("views {P} -m {F}/torn.safetensors -o out", "torn.safetensors"),
        ("views {P} -m {W} -o {F}", "holds other files (mask.png, other.pth, text.jpg, ...)"),
        ("views {P} -o a/{long}/b", "one of 300 letters"),
        ("views {P} -o {deep}", "100 new folders"),
        (VIEWS + "--scheduler nonsense", "nonsense"),
        (VIEWS + "--cameras {F}/none.json", "cannot be read"),
        (REFERENCE + "--perceptual lpips", "needs perceptual_weights"),
        (REFERENCE + "--perceptual lpips --perceptual-weights {F}/other.pth", "must hold VGG-16's convolutions"),
        ("evaluate -o out --model {W}", "--data is needed"),
        ("evaluate -o out --model {W} --data . --split test", "--split is of procedural objects"),
        (PROCEDURAL + "--objects 100000", "ask for fewer"),
        ("pack -o out", "something to pack is needed"),
        (PACK + "--kind gso", "--kind is of a folder"),
        (TRAIN + "--data {long}", "is read from a folder"),
        (TRAIN + "--data {F}/z", "none of 1 objects could be read"),
        (TRAIN + "--data procedural --init {F}/other.pth", "must hold UpSRT"),
        (TRAIN + "--data procedural --init {long}", "--init must be"),
        ("mesh {F}/none.safetensors -o a.glb", "does not exist"),
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
