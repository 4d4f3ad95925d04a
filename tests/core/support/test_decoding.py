"""Pictures of every make: grey light, profiles that cannot be used, what holds no finished picture, HEIC and AVIF."""

import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from icc import encoded, gray_profile, meant, rgb_profile, scanner_profile
from PIL import Image, features
from refusals import raised, unusable

from upfusion_core.support import decoding
from upfusion_core.support.decoding import check_picture, open_picture, pixels, rgba
from upfusion_core.support.errors import MissingPackageError

PATCHES = np.random.RandomState(0).randint(0, 256, (3, 4, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
RAW = r"\.jpg must be a finished picture, got a camera's RAW file"


def read(path: Path) -> np.ndarray:
    with open_picture(path) as image:
        check_picture(image, path.name)
        return pixels(image, path.name).astype(float)


def off(found: np.ndarray, truth: np.ndarray) -> float:
    """The largest difference of (C, H, W) from (H, W, C), in levels of 255."""
    return float(np.abs(found - np.moveaxis(truth, -1, 0)).max())


@pytest.mark.parametrize("gamma", [1.0, 1.80078125])
def test_grey_profiles_in_sixteen_bits(gamma: float, tmp_path: Path) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    truth = 255 * encoded((values / 65535) ** gamma)[..., None]
    for name, grey in (("a.png", values), ("a.tiff", (values / 65535).astype(np.float32))):
        Image.fromarray(grey).save(tmp_path / name, icc_profile=gray_profile(gamma))
        assert off(read(tmp_path / name), truth) <= 1


def test_profiles_for_which_quick_tables_are_too_rough(tmp_path: Path) -> None:
    """Linear grey, of which 1 of 255 is 12.71 as sRGB, and colours by a table, as scanners have them."""
    grey = np.arange(256, dtype=np.uint8)[None]
    assert round(float(255 * encoded(grey / 255)[0, 1]), 2) == 12.71
    light = np.random.RandomState(1).randint(80, 176, (40, 50, 3), dtype=np.uint8)
    for values, profile, truth in (
        (grey, gray_profile(1.0), encoded(grey / 255)[..., None]),
        (light, scanner_profile("adobe"), meant(light / 255, "adobe")),
    ):
        Image.fromarray(values).save(tmp_path / "a.png", icc_profile=profile)
        assert off(read(tmp_path / "a.png"), 255 * truth) <= 1.5


def test_profiles_that_cannot_be_used(tmp_path: Path) -> None:
    truth = 255 * meant(PATCHES / 255, "p3")
    assert np.abs(truth - PATCHES).max() > 40  # what neglecting a profile costs
    foreign = gray_profile(2.2), "it is for GRAY, the picture holds RGB"
    for profile, why in ((b"no profile", ""), (rgb_profile("p3")[:200], ""), foreign):
        Image.fromarray(PATCHES).save(tmp_path / "a.png", icc_profile=profile)
        with pytest.warns(UserWarning, match=rf"a\.png has a colour profile that cannot be used \(.*{why}.*\)"):
            assert off(read(tmp_path / "a.png"), PATCHES) == 0
        mask = pixels(Image.open(tmp_path / "a.png"), "a mask", is_mask=True)
        assert np.array_equal(mask, PATCHES.transpose(2, 0, 1))


def tiff(path: Path, *pages: dict[int, int], sub: bool = False) -> Path:
    """Grey pictures of one strip, with further tags; those after the first one follow it, or are its SubIFDs."""
    data, link = bytearray(b"II*\0\x08\0\0\0"), 4
    for number, tags in enumerate(pages):
        side, start = tags.get(256, 16), len(data)
        tags = {256: side, 257: side, 258: 8, 259: 1, 262: 1, 273: 0, 277: 1, 278: side, 279: side * side} | tags
        tags |= {330: 0} if sub and number == 0 else {}
        tags[273] = start + 6 + 12 * len(tags)
        struct.pack_into("<I", data, link, start)
        data += struct.pack("<H", len(tags))
        data += b"".join(struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags)) + bytes(4 + side * side)
        link = start + 2 + 12 * (sorted(tags).index(330) if 330 in tags else len(tags)) + (8 if 330 in tags else 0)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "pages", [[{254: 1}], [{50706: 1025}], [{262: 32803}], [{}, {256: 64}], [{}, {}, {256: 64}], [{}, {262: 34892}]]
)
@pytest.mark.parametrize("sub", [False, True])
def test_files_whose_first_picture_is_none(pages: list[dict[int, int]], sub: bool, tmp_path: Path) -> None:
    unusable(RAW, read, tiff(tmp_path / "a.jpg", *pages, sub=sub and len(pages) > 1))


def test_other_raw_files_and_files_of_several_pages(tmp_path: Path) -> None:
    starts = b"FUJIFILMCCD-RAW", b"IIRO", b"IIU\0", b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", b"II*\0\x10\0\0\0CR\2\0"
    for start in starts:
        (tmp_path / "a.jpg").write_bytes(start + bytes(200))
        unusable(RAW, read, tmp_path / "a.jpg")
    for sub in (False, True):  # pages of a scan, or a preview behind the picture
        assert read(tiff(tmp_path / "a.tiff", {}, {256: 8}, sub=sub)).shape == (1, 16, 16)
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    for kind in ("mpo", "gif", "webp"):
        frames[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:], lossless=True)
        assert off(read(tmp_path / f"a.{kind}"), np.full((16, 16, 3), (255, 0, 0))) <= 2


def test_what_reads_heic_and_avif(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "phone.jpg"
    pytest.importorskip("pillow_heif").from_pillow(Image.fromarray(PATCHES)).save(path, quality=-1, chroma=444)
    known = dict(Image.registered_extensions())
    assert off(read(path), PATCHES) <= 8
    assert Image.registered_extensions() == known  # the host's Pillow is left alone
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    raised(MissingPackageError, r"phone\.jpg is HEIC, .*pip install pillow-heif", read, path)
    if features.check("avif"):
        Image.fromarray(PATCHES).save(path, "AVIF")
        monkeypatch.setattr(decoding.features, "check", lambda name: False)
        raised(MissingPackageError, r"phone\.jpg is AVIF, for which Pillow 11\.3 is needed", read, path)


@pytest.mark.parametrize("mode", ["RGB", "LA", "P", "1", "CMYK"])
def test_pictures_taken_in_bands_and_as_rgba(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = Image.fromarray(PATCHES[:, :50]).convert(mode)
    picture.getexif()[0x0112] = 6
    whole = pixels(picture, "a")
    monkeypatch.setattr(decoding, "_BAND", 7 * 50)
    assert np.array_equal(pixels(picture, "a"), whole)
    assert np.array_equal(rgba(picture, "a"), np.asarray(picture.convert("RGBA")))
