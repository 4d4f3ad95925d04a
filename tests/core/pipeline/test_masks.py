"""Masks and backgrounds: what each kind is taken for, what is refused, and what is said; on files made here."""

import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from upfusion_core import prepare_views
from upfusion_core.pipeline.masks import Sense, border, find_object
from upfusion_core.pipeline.photos import read_mask, read_photo, unit_range
from upfusion_core.support.errors import PhotoError

SIDE = 96
PHOTO = torch.zeros(3, SIDE, SIDE)
DOWN, ACROSS = np.indices((SIDE, SIDE)) + 0.5
DISC, SPOT, RING = (np.hypot(DOWN - 40, ACROSS - 52) < radius for radius in (30, 15, 37))
Color = int | tuple[int, int, int]
Made = Callable[[], object]


def painted(ground: Color, *areas: tuple[np.ndarray, Color]) -> Image.Image:
    """Grey or coloured areas, each over the one before."""
    values = np.empty((SIDE, SIDE, *np.shape(ground)), np.uint8)
    values[:] = ground
    for where, color in areas:
        values[where] = color
    return Image.fromarray(values)


def disc(inside: Color, outside: Color) -> Image.Image:
    return painted(outside, (DISC, inside))


def palette(*colors: int) -> Image.Image:
    image = Image.fromarray(DISC.astype(np.uint8)).convert("P")
    image.putpalette(colors)
    return image


def jpeg(image: Image.Image, quality: int = 75) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(io.BytesIO(file.getvalue()))


def smooth(image: Image.Image) -> Image.Image:
    return image.resize((SIDE // 2, SIDE // 2), Image.Resampling.BILINEAR).resize(
        (SIDE, SIDE), Image.Resampling.BICUBIC
    )


def overlay(alpha: int) -> Image.Image:
    image = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))
    image.paste((255, 0, 0, alpha), mask=disc(255, 0))
    return image


def taken(mask: object, folder: Path, sense: Sense = "white") -> tuple[np.ndarray, str, bool]:
    """Coverage in [0, 1], the note's text and whether it is doubtful, of the mask as a file where it is a picture."""
    if isinstance(mask, Image.Image):
        mask.save(folder / "mask.png")
        mask = folder / "mask.png"
    coverage, note = read_mask(mask, read_photo(PHOTO), sense)
    return unit_range(coverage).numpy(), note.text, note.doubtful


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (lambda: disc(255, 0), "white is the object"),
        (lambda: disc(254, 0), "white is the object"),
        (lambda: disc(1, 0), "white is the object"),
        (lambda: disc(255, 0).convert("1"), "white is the object"),
        (lambda: Image.fromarray(DISC.astype(np.uint16)), "white is the object"),
        (lambda: Image.fromarray(DISC.astype(np.uint16) * 65535), "white is the object"),
        (lambda: DISC, "white is the object"),
        (lambda: overlay(255), "white is the object"),
        (lambda: palette(0, 0, 0, 0, 0, 0), "white is the object"),  # a palette that tells nothing: numbers 0 and 1
        (lambda: disc(0, 38), "0 is the object: 100% of the border is 38"),
        (lambda: disc(2, 1), "2 is the object: 100% of the border is 1"),
        (lambda: disc(128, 255), "128 is the object: 100% of the border is 255"),
        (lambda: disc(250, 0), "250 is the object: 100% of the border is 0"),
        (lambda: torch.from_numpy(0.3 * DISC).float(), "0.3 is the object: 100% of the border is 0"),
        (lambda: overlay(120), "120 is the object: 100% of the border is 0"),
        (lambda: jpeg(disc(128, 0)), "12. is the object: 100% of the border is 0"),
        (lambda: palette(0, 0, 0, 128, 0, 0), r"\(128, 0, 0\) is the object: 100% of the border is \(0, 0, 0\)"),
        (lambda: palette(224, 224, 192, 0, 0, 0), r"\(0, 0, 0\) is the object"),
        (lambda: disc((255, 0, 0), (0, 0, 0)), r"\(255, 0, 0\) is the object"),
        (lambda: disc((90, 0, 120), (30, 180, 40)), r"\(90, 0, 120\) is the object: 100% .* \(30, 180, 40\)"),
        (lambda: jpeg(disc((30, 180, 40), (90, 0, 120))), r"\(.*\) is the object: 100% of the border is \(9"),
        (lambda: smooth(disc((255, 0, 0), (255, 255, 255))), r"\(255, 0, 0\) is the object"),
    ],
)
def test_two_values_mean_object_and_nothing(made: Made, text: str, tmp_path: Path) -> None:
    coverage, found, doubtful = taken(made(), tmp_path)
    assert re.match(f"its mask, {text}", found), found
    assert not doubtful
    assert ((coverage > 0.5) != DISC).mean() < 0.01
    assert coverage[50, 52] > 0.98
    assert coverage[0].max() < 0.05


@pytest.mark.parametrize(
    "soft",
    [
        lambda: smooth(disc(255, 0)),
        lambda: disc(255, 0).filter(ImageFilter.GaussianBlur(3)),
        lambda: disc(255, 0).filter(ImageFilter.GaussianBlur(20)),
        lambda: jpeg(disc(255, 0), 40),
        lambda: disc(255, 0).resize((12, 12), Image.Resampling.BOX).resize((SIDE, SIDE), Image.Resampling.BICUBIC),
        lambda: Image.fromarray(np.linspace(0, 255, SIDE * SIDE).reshape(SIDE, SIDE).astype(np.uint8)),
    ],
)
def test_soft_masks_stay_soft(soft: Made, tmp_path: Path) -> None:
    given = np.array(soft(), np.float32) / 255
    coverage, text, _ = taken(soft(), tmp_path)
    assert np.array_equal(coverage, given.astype(np.float32))
    assert text.startswith("its mask, white is the object")
    assert np.array_equal(taken(torch.from_numpy(0.3 * given), tmp_path)[0], np.float32(0.3) * given)


@pytest.mark.parametrize(
    ("inside", "outside", "sense", "text", "doubtful"),
    [
        (0, 255, "white", "white is the object, but looks inverted: 100% of its border is white too", True),
        (0, 1, "white", "white is the object, but looks inverted: 100%", True),
        (0, 255, "border", "0 is the object: 100% of the border is 255", False),
        (255, 0, "border", "255 is the object: 100% of the border is 0", False),
        (0, 255, "told", "as told", False),
    ],
)
def test_who_decides_which_side_is_the_object(
    inside: int, outside: int, sense: Sense, text: str, doubtful: bool, tmp_path: Path
) -> None:
    mask = disc(inside, outside)
    coverage, found, doubt = taken(mask, tmp_path, sense)
    assert found.startswith(f"its mask, {text}")
    assert doubt == doubtful
    assert np.array_equal(coverage == 1, DISC if sense == "border" else ~DISC)
    soft = mask.filter(ImageFilter.GaussianBlur(1)) if outside == 255 else mask
    assert np.array_equal(taken(soft, tmp_path, sense)[0] > 0.5, coverage > 0.5)


@pytest.mark.parametrize("values", [(7, 3), ((0, 200, 0), (200, 0, 0))])
@pytest.mark.parametrize(
    ("rows", "bright", "doubtful"), [(20, True, False), (30, True, True), (66, True, True), (70, False, False)]
)
def test_a_border_of_both_leaves_it_to_the_brighter(
    values: tuple[Color, Color], rows: int, bright: bool, doubtful: bool, tmp_path: Path
) -> None:
    """The upper rows are the brighter value, which makes (96 + 2 · (rows - 1)) / 380 of the border."""
    mask = painted(values[1], (np.s_[:rows], values[0]))
    coverage, text, doubt = taken(mask, tmp_path)
    assert doubt == doubtful
    assert bool(coverage[0, 0]) == bright == (not coverage[-1, 0])
    assert ("which does not tell, so the brighter is taken" in text) == doubtful


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: painted(0, (DISC, 255), (SPOT, 128)), "must hold two values, .* got 0, 128, 255; paint the object"),
        (lambda: jpeg(painted(0, (DISC, 255), (SPOT, 128))), "got 0, 128, 255;"),
        (lambda: painted(0, (DISC, 1), (SPOT, 2)), "got 0, 1, 2;"),
        (lambda: painted(0, (RING, 255), (DISC, 1)), "got 0, 1, 255;"),  # 255 is the border of classes in VOC
        (lambda: Image.fromarray(np.random.RandomState(0).randint(0, 3, (SIDE, SIDE)).astype(np.uint8)), "got 0, 1, 2"),
        (lambda: Image.fromarray((DOWN // 8).astype(np.uint8)), "got 0, 1, 2, 3, 4, 5, 6, 7 and 4 more"),
        (
            lambda: painted((0, 0, 0), (DISC, (128, 0, 0)), (SPOT, (0, 128, 0))),
            r"got \(0, 0, 0\), \(128, 0, 0\), \(0, 1",
        ),
        (
            lambda: Image.fromarray(np.random.RandomState(0).randint(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)),
            "many colours",
        ),
        (lambda: torch.from_numpy(DISC * 0.5 + SPOT * 0.5).float(), "got 0, 0.5, 1;"),
        (lambda: painted(0), r"must cover the object, but it is empty \(0 everywhere\); paint the object white"),
        (lambda: painted(255), r"it is full \(255 everywhere\)"),
        (lambda: painted(3), r"it is empty \(3 everywhere\)"),
        (lambda: torch.ones(SIDE, SIDE), r"it is full \(1 everywhere\)"),
    ],
)
def test_masks_that_tell_nothing_are_refused_with_their_values(made: Made, words: str, tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match=words):
        taken(made(), tmp_path)


def stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """What a camera stores that was turned so."""
    turns = {2: upright[:, ::-1], 3: np.rot90(upright, 2), 4: upright[::-1], 5: upright.swapaxes(0, 1)}
    turns |= {6: np.rot90(upright), 7: np.rot90(upright, 2).swapaxes(0, 1), 8: np.rot90(upright, -1)}
    return np.ascontiguousarray(turns[orientation])


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("width", [80, SIDE])
def test_masks_of_stored_pixels_are_turned_with_the_photo(orientation: int, width: int, tmp_path: Path) -> None:
    inside = DISC[:, :width] & ~SPOT[:, :width]
    ground = np.random.RandomState(1).randint(90, 130, (SIDE, width, 3))
    picture = np.where(inside[..., None], (200, 60, 30), ground).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored(picture, orientation)).save(tmp_path / "photo.jpg", exif=exif, quality=90)
    photo = read_photo(tmp_path / "photo.jpg")
    by_size = width != SIDE and orientation >= 5
    for turned in (False, True):
        Image.fromarray(255 * (stored(inside, orientation) if turned else inside).astype(np.uint8)).save(
            tmp_path / "m.png"
        )
        coverage, note = read_mask(tmp_path / "m.png", photo)
        assert np.array_equal(coverage.numpy() == 255, inside)
        assert note.doubtful == (turned or not by_size)
        how = "turned upright with the photo" if by_size else "turned upright by EXIF's orientation"
        assert (how in note.text) == turned
        assert ("as it is, which meets the picture's edges better" in note.text) == (not turned and not by_size)


def test_a_host_that_turned_the_photo_alone_and_a_mask_that_is_the_same_both_ways() -> None:
    inside = torch.from_numpy(DISC[:, :80] & ~SPOT[:, :80])
    rgb = torch.where(inside, 0.8, 0.3).expand(3, -1, -1)
    for turns in (1, 3):
        coverage, note = find_object(inside.float().rot90(turns)[None], rgb, "photo 1", sense="border")
        assert torch.equal(coverage.bool(), inside)
        assert "turned upright by EXIF's orientation" in note.text
    square = torch.zeros(1, 9, 9)
    square[:, 3:6, 3:6] = 1
    assert not find_object(square, torch.zeros(3, 9, 9), "photo 1", orientation=6)[1].doubtful


def on(color: tuple[int, int, int], noise: int = 0) -> np.ndarray:
    """A dark disc on a ground of a colour, uint8."""
    ground = np.array(color) + np.random.RandomState(2).randint(-noise, noise + 1, (SIDE, SIDE, 1))
    return np.where(DISC[..., None], (70, 20, 20), ground).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("color", "noise", "white"),
    [
        ((255, 255, 255), 0, True),
        ((255, 250, 235), 0, True),
        ((240, 240, 240), 5, True),
        ((255, 255, 234), 0, False),
        ((237, 235, 230), 0, False),
        ((150, 110, 70), 0, False),
        ((2, 2, 2), 0, False),
    ],
)
def test_backgrounds(color: tuple[int, int, int], noise: int, white: bool, recwarn: pytest.WarningsRecorder) -> None:
    photo = on(color, noise)
    views = prepare_views(photo, size=SIDE)
    told = "its border is not white (its median is {}, {}, {} of 255)".format(*color)
    assert [str(warning.message) for warning in recwarn] == ([] if white else [f"photo 1: {views.notes[0].text}"])
    assert (told in views.notes[0].text) == views.notes[0].doubtful == (not white)
    if white:
        assert np.array_equal(prepare_views(photo, size=SIDE, any_background=False).mask[0, 0] > 0.5, DISC)
        assert views.mask[0, 0][~torch.from_numpy(DISC)].max() < 0.1
    else:
        ways = "give a --mask, or let --remove-background .*, or take it as it is by --any-background"
        with pytest.raises(PhotoError, match=rf"photo 1 must tell where its object is, .* not white.*; {ways}"):
            prepare_views(photo, size=SIDE, any_background=False)
    masked = prepare_views([photo], [DISC], size=SIDE, any_background=False)
    assert masked.notes == (("its mask, white is the object", False),)


def test_border_by_hand() -> None:
    assert sorted(border(torch.arange(12.0).reshape(1, 3, 4))[0].tolist()) == [0, 1, 2, 3, 4, 7, 8, 9, 10, 11]
