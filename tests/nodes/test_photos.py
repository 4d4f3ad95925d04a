"""Photos from the input folder: turned, with their lens and transparency; of many, the sharp ones; a sheet of all."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from small_models import Pack, Run, refused

pytestmark = pytest.mark.usefixtures("lines", "shown")


@pytest.fixture(autouse=True)
def _quiet(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("progress_hook", "check_interrupted"):
        monkeypatch.setattr(pack("nodes.host"), name, lambda *_: lambda *_: None)


def dots(column: int) -> Image.Image:
    """64 x 48: black dots with a red bar at a column."""
    values = np.full((48, 64, 3), 255, np.uint8)
    values[::4, ::4] = 0
    values[:, 8 * column : 8 * column + 8] = (200, 30, 30)
    return Image.fromarray(values)


def test_files_stand_upright_and_tell_their_lens(run_node: Run, folders: Path) -> None:
    (folders / "input/mine").mkdir()
    turned = Image.Exif()
    turned[274] = 6
    turned.get_ifd(0x8769)[41989] = 26
    dots(2).save(folders / "input/mine/a.jpg", exif=turned)
    clear = dots(3).convert("RGBA")
    clear.putalpha(Image.new("L", clear.size, 128))
    clear.save(folders / "input/b.png")
    images, _, report, names = run_node("UpFusionLoadPhotos", photos="mine\n b.png \n")
    assert [tuple(image.shape) for image in images] == [(1, 64, 48, 3), (1, 48, 64, 4)]
    assert float(images[1][0, 0, 0, 3]) == pytest.approx(128 / 255)
    assert report.splitlines() == ["2 of 2 taken", "mine/a.jpg: taken, lens of 67 degrees", "b.png: taken"]
    assert names == "mine/a.jpg\nb.png"
    refused("must name files or folders", run_node, "UpFusionLoadPhotos", photos=" ")
    refused("must stay inside", run_node, "UpFusionLoadPhotos", photos="../other")


def test_of_many_or_of_a_film_the_sharp_and_different_ones_are_taken(
    run_node: Run, core: ModuleType, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = []
    for number in range(8):
        picture = dots(min(number, 5)).filter(ImageFilter.GaussianBlur(4 if number == 3 else 0))
        picture.save(folders / f"input/{number}.png")
        frames.append((number, torch.from_numpy(np.array(picture)).movedim(-1, 0)))
    photos = "\n".join(f"{number}.png" for number in range(8))
    images, sheet, report, names = run_node("UpFusionLoadPhotos", photos=photos, count=5)
    assert {"0.png", "1.png", "2.png", "4.png"} < set(names.split("\n"))
    lines = report.splitlines()
    assert (lines[0], len(images), sum(": like " in line for line in lines)) == ("5 of 8 taken", 5, 2)
    assert lines[4].startswith("3.png: blurred")
    colors = [tuple(pixel) for pixel in (255 * sheet[0]).round().int().reshape(-1, 3).tolist()]
    assert {(40, 160, 70), (210, 60, 50), (150, 150, 150)} <= {*colors}
    for module in (core, sys.modules[core.choose_pictures.__module__]):
        decoded = lambda film, wanted, _: (one for one in frames if wanted is None or one[0] in wanted)  # noqa: E731
        monkeypatch.setattr(module, "film_frames", decoded)
    video = SimpleNamespace(get_stream_source=lambda: "film.mp4")
    images, _, report, names = run_node("UpFusionLoadPhotos", photos="", count=3, video=video)
    taken = [number for number, _ in frames if f"frame {number}: taken" in report]
    assert (len(taken), names) == (3, "")
    for number, image in zip(taken, images, strict=True):
        torch.testing.assert_close(image[0].movedim(-1, 0), frames[number][1] / 255)
