"""Masks and backgrounds: what each kind is taken for, what is refused, and what is said; on files made here."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import unusable

from upfusion_core import prepare_views
from upfusion_core.pipeline.masks import Sense, find_object
from upfusion_core.pipeline.photos import read_mask, read_photo, unit_range

SIDE = 96
DOWN, ACROSS = np.indices((SIDE, SIDE)) + 0.5
DISC, SPOT, THIN, RING = (np.hypot(DOWN - 40, ACROSS - 52) < radius for radius in (30, 15, 31, 37))
NOISE = np.random.RandomState(0).randint(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
Color = int | tuple[int, ...]


def painted(ground: Color, *areas: tuple[np.ndarray, Color]) -> Image.Image:
    """Grey, coloured or transparent areas, each over the one before."""
    values = np.full((SIDE, SIDE, *np.shape(ground)), ground, np.uint8)
    for where, color in areas:
        values[where] = color
    return Image.fromarray(values)


def disc(inside: Color, outside: Color) -> Image.Image:
    return painted(outside, (DISC, inside))


def palette(*colors: int) -> Image.Image:
    image = disc(1, 0).convert("P")
    image.putpalette(colors)
    return image


def jpeg(image: Image.Image, quality: int = 75) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


def smooth(image: Image.Image, side: int = SIDE // 2) -> Image.Image:
    return image.resize((side, side), Image.Resampling.BILINEAR).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def taken(mask: object, folder: Path, sense: Sense = "white") -> tuple[np.ndarray, str, bool]:
    """Coverage in [0, 1], the note's text and whether it is doubtful, of the mask as a file where it is a picture."""
    if isinstance(mask, Image.Image):
        mask.save(folder / "mask.png")
        mask = folder / "mask.png"
    coverage, note = read_mask(mask, read_photo(torch.zeros(3, SIDE, SIDE)), sense)
    return unit_range(coverage).numpy(), note.text, note.doubtful


def test_two_values_mean_object_and_nothing(tmp_path: Path) -> None:
    for mask, text in (
        (disc(254, 0), "white is the object"),
        (disc(1, 0), "white is the object"),
        (Image.fromarray(DISC.astype(np.uint16) * 65535), "white is the object"),
        (palette(0, 0, 0, 0, 0, 0), "white is the object"),  # a palette that tells nothing: numbers 0 and 1
        (disc(0, 38), "0 is the object: 100% of the border is 38"),
        (torch.from_numpy(0.3 * DISC).float(), "0.3 is the object: 100% of the border is 0"),
        (disc((255, 0, 0, 120), (0, 0, 0, 0)), "120 is the object: 100% of the border is 0"),
        (jpeg(disc(128, 0)), "12. is the object: 100% of the border is 0"),
        (palette(224, 224, 192, 128, 0, 0), r"\(128, 0, 0\) is the object: 100% of the border is \(224, 224, "),
        (disc((90, 0, 120), (30, 180, 40)), r"\(90, 0, 120\) is the object: 100% .* \(30, 180, 40\)"),
        (smooth(disc((255, 0, 0), (255, 255, 255))), r"\(255, 0, 0\) is the object"),
    ):
        coverage, found, doubtful = taken(mask, tmp_path)
        assert re.match(f"its mask, {text}", found), found
        assert not doubtful
        assert ((coverage > 0.5) != DISC).mean() < 0.01
        assert coverage[50, 52] > 0.98
        assert coverage[0].max() < 0.05


def test_soft_masks_stay_soft(tmp_path: Path) -> None:
    ramp = Image.fromarray(np.linspace(0, 255, SIDE * SIDE).reshape(SIDE, SIDE).astype(np.uint8))
    for soft in (smooth(disc(255, 0), 12), jpeg(disc(255, 0), 40), ramp):
        given = np.array(soft, np.float32) / 255
        coverage, text, _ = taken(soft, tmp_path)
        assert np.array_equal(coverage, given)
        assert text.startswith("its mask, white is the object")
        assert np.array_equal(taken(torch.from_numpy(0.3 * given), tmp_path)[0], np.float32(0.3) * given)


def test_who_decides_what_is_object(tmp_path: Path) -> None:
    for sense, text, doubtful in (
        ("white", "white is the object, but looks inverted: 100% of its border is white too", True),
        ("border", "0 is the object: 100% of the border is 255", False),
        ("told", "as told", False),
    ):
        coverage, found, doubt = taken(disc(0, 255), tmp_path, sense)
        assert found.startswith(f"its mask, {text}")
        assert doubt == doubtful
        assert ((coverage > 0.5) == (DISC if sense == "border" else ~DISC)).mean() > 0.99


@pytest.mark.parametrize(("bright", "dark"), [(7, 3), ((0, 200, 0), (200, 0, 0))])
def test_a_border_of_both_leaves_it_to_the_brighter(bright: Color, dark: Color, tmp_path: Path) -> None:
    """The upper rows are the brighter value, (96 + 2 · (rows - 1)) / 380 of the border: 35, 41, 59 and 62 %."""
    for rows, covered, doubtful in ((20, 1, 0), (30, 1, 1), (66, 1, 1), (70, 0, 0)):
        coverage, text, doubt = taken(painted(dark, (np.s_[:rows], bright)), tmp_path)
        assert coverage[0, 0] == covered == 1 - coverage[-1, 0]
        assert doubt == doubtful == ("which does not tell, so the brighter is taken" in text)


def test_masks_that_tell_nothing_are_refused_with_their_values(tmp_path: Path) -> None:
    for mask, words in (
        (painted(0, (DISC, 255), (SPOT, 128)), "must hold two values, .* got 0, 128, 255; paint the object"),
        (Image.fromarray((DISC + 1 * SPOT).astype(np.uint16)), "got 0, 1, 2;"),
        (painted(0, (RING, 255), (DISC, 1)), "got 0, 1, 255;"),  # 255 is the border of classes in VOC
        (painted(0, (THIN, 255), (DISC, 15)), "got 0, 15, 255;"),  # however thin it is
        (painted((0, 0, 0), (DISC, (9, 0, 99)), (SPOT, (0, 99, 0))), r"\(0, 0, 0\), \(9, 0, 99\), \(0, 99"),
        (Image.fromarray(NOISE), "got many colours"),
        (torch.from_numpy(DISC * 0.5 + SPOT * 0.5).float(), "got 0, 0.5, 1;"),
        (painted(0), r"must cover the object, but it is empty \(0 everywhere\); paint the object white"),
        (torch.ones(SIDE, SIDE), r"it is full \(1 everywhere\)"),
    ):
        unusable(words, taken, mask, tmp_path)


STORED = dict(zip(range(2, 9), map(Image.Transpose, (0, 3, 1, 5, 2, 6, 4)), strict=True))  # by EXIF's orientation


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("width", [80, SIDE])
@pytest.mark.parametrize("name", ["photo.jpg", "photo.tiff"])  # TIFF is turned by Pillow
def test_masks_of_stored_pixels_turn_with_the_photo(orientation: int, width: int, name: str, tmp_path: Path) -> None:
    inside = (DISC & ~SPOT)[:, :width]
    picture = Image.fromarray(np.where(inside[..., None], np.uint8([200, 60, 30]), 90 + NOISE[:, :width] // 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.transpose(STORED[orientation]).save(tmp_path / name, exif=exif, quality=90)
    photo, mask = read_photo(tmp_path / name), Image.fromarray(inside)
    by_size = width != SIDE and orientation >= 5
    for stored, given in ((False, mask), (True, mask.transpose(STORED[orientation]))):
        coverage, note = read_mask(given, photo)
        assert np.array_equal(coverage.numpy() == 255, inside)
        assert note.doubtful == (stored or not by_size)
        how = "turned upright with the photo" if by_size else "turned upright by EXIF's orientation"
        assert (how in note.text) == stored
        assert ("as it is, which meets the picture's edges better" in note.text) == (not stored and not by_size)


def test_a_host_that_turned_the_photo_alone_and_a_mask_that_is_the_same_both_ways() -> None:
    inside = torch.from_numpy((DISC & ~SPOT)[:, :80])
    rgb = torch.where(inside, 0.8, 0.3).expand(3, -1, -1)
    for turns in (1, 3):
        coverage, note = find_object(inside.float().rot90(turns)[None], rgb, "photo 1", sense="border")
        assert torch.equal(coverage.bool(), inside)
        assert "turned upright by EXIF's orientation" in note.text
    square = torch.zeros(1, 9, 9)
    square[:, 3:6, 3:6] = 1
    assert not find_object(square, torch.zeros(3, 9, 9), "photo 1", orientation=6)[1].doubtful


@pytest.mark.parametrize(("ground", "white"), [((255, 250, 235), 1), ((240, 240, 240), 1), ((255, 255, 234), 0)])
def test_backgrounds(ground: tuple[int, int, int], white: bool, recwarn: pytest.WarningsRecorder) -> None:
    photo = disc((70, 20, 20), ground)
    views = prepare_views(photo, size=SIDE)
    (note,) = views.notes
    assert [str(warning.message) for warning in recwarn] == ([] if white else [f"photo 1: {note.text}"])
    told = "its border is not white (its median is {}, {}, {} of 255)".format(*ground)
    assert (told in note.text) == note.doubtful == (not white)
    if white:
        assert np.array_equal(views.mask[0, 0] > 0.5, DISC)
        assert views.mask[0, 0][~torch.from_numpy(DISC)].max() == 0
        prepare_views(photo, any_background=False)
    else:
        words = "photo 1 must tell where its object is, .* not white.*; give a --mask, or .*by --any-background"
        unusable(words, prepare_views, photo, any_background=False)
    masked = prepare_views([photo], [DISC], size=SIDE, any_background=False)
    assert masked.notes == (("its mask, white is the object", False),)
