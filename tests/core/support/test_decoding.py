"""Pictures of every make: their colours by hand-made profiles, what holds no finished picture, what reads HEIC."""

import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from icc import INK_COLORS, INKS, cmyk_profile, encoded, gray_profile, meant, rgb_profile
from PIL import Image, ImageCms, features

from upfusion_core.support import decoding
from upfusion_core.support.decoding import check_picture, open_picture, pixels, rgba
from upfusion_core.support.errors import MissingPackageError, PhotoError

PATCHES = np.random.RandomState(0).randint(0, 256, (3, 4, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)


def read(path: Path) -> np.ndarray:
    with open_picture(path) as image:
        check_picture(image, path.name)
        return pixels(image, path.name).astype(float)


def off(found: np.ndarray, truth: np.ndarray) -> float:
    """The largest difference of (C, H, W) from (H, W, C), in levels of 255."""
    return float(np.abs(found - np.moveaxis(truth, -1, 0)).max())


@pytest.mark.parametrize("space", ["p3", "adobe", "prophoto"])
def test_colours_of_wider_spaces(space: str, tmp_path: Path) -> None:
    truth, profile = 255 * meant(PATCHES / 255, space), rgb_profile(space)
    assert np.abs(truth - PATCHES).max() > 40  # what neglecting the profile costs
    for name, most in (("a.png", 1), ("a.tiff", 1), ("a.webp", 1), ("a.jpg", 8)):
        Image.fromarray(PATCHES).save(tmp_path / name, icc_profile=profile, lossless=True, quality=98, subsampling=0)
        assert off(read(tmp_path / name), truth) <= most, name
    Image.fromarray(PATCHES).quantize(16).save(tmp_path / "p.png", icc_profile=profile)
    assert off(read(tmp_path / "p.png"), truth) <= 1
    alpha = np.linspace(0, 255, 48 * 64).reshape(48, 64).astype(np.uint8)
    straight = Image.fromarray(np.dstack([PATCHES, alpha]))
    straight.save(tmp_path / "a.png", icc_profile=profile)
    found = read(tmp_path / "a.png")
    assert off(found[:3], truth) <= 1
    assert np.array_equal(found[3], alpha)


def test_inks_and_lab(tmp_path: Path) -> None:
    inks = Image.fromarray((INKS * 255).astype(np.uint8).reshape(4, 4, 4).repeat(8, 0).repeat(8, 1), "CMYK")
    truth = INK_COLORS.reshape(4, 4, 3).repeat(8, 0).repeat(8, 1)
    for name, most in (("a.tiff", 1.5), ("a.jpg", 4)):
        inks.save(tmp_path / name, icc_profile=cmyk_profile(), quality=98, subsampling=0)
        assert off(read(tmp_path / name), truth) <= most
    soft, srgb = Image.fromarray(PATCHES // 2 + 64), ImageCms.createProfile("sRGB")
    lab = ImageCms.profileToProfile(soft, srgb, ImageCms.createProfile("LAB"), outputMode="LAB")
    lab.save(tmp_path / "lab.tiff", icc_profile=None)
    assert off(read(tmp_path / "lab.tiff"), PATCHES // 2 + 64) <= 3  # a* and b* are whole numbers


@pytest.mark.parametrize("gamma", [1.0, 1.80078125])
def test_grey_profiles_in_eight_and_sixteen_bits(gamma: float, tmp_path: Path) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    truth = 255 * encoded((values / 65535) ** gamma)[..., None]
    for name in ("a.png", "a.tiff"):
        Image.fromarray(values).save(tmp_path / name, icc_profile=gray_profile(gamma))
        assert off(read(tmp_path / name), truth) < 2
    Image.fromarray((values / 65535).astype(np.float32)).save(tmp_path / "f.tiff", icc_profile=gray_profile(gamma))
    assert off(read(tmp_path / "f.tiff"), truth) < 2
    levels = np.arange(256, dtype=np.uint8)[None].repeat(2, 0)
    truth = 255 * encoded((levels / 255) ** gamma)[..., None]
    Image.fromarray(levels).save(tmp_path / "a.jpg", icc_profile=gray_profile(gamma), quality=100)
    assert off(read(tmp_path / "a.jpg"), truth) < (16 if gamma == 1 else 3)  # a level of light is 13 in the dark
    Image.fromarray(levels).save(tmp_path / "a.png", icc_profile=rgb_profile("p3"))  # as editors save grey photos
    assert off(read(tmp_path / "a.png"), 255 * encoded((levels / 255) ** 2.19921875)[..., None]) < 1


def test_profiles_that_change_nothing_or_cannot_be_used(tmp_path: Path) -> None:
    picture, path = Image.fromarray(PATCHES), tmp_path / "a.png"
    picture.save(path, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    assert off(read(path), PATCHES) == 0
    cut = rgb_profile("p3")[:200]
    for profile, why in ((b"no profile", ""), (cut, ""), (gray_profile(2.2), "it is for GRAY, the picture holds RGB")):
        picture.save(path, icc_profile=profile)
        with pytest.warns(UserWarning, match=rf"a\.png has a colour profile that cannot be used \(.*{why}.*\)"):
            assert off(read(path), PATCHES) == 0
        assert np.array_equal(pixels(Image.open(path), "a mask", is_mask=True), np.moveaxis(PATCHES, 2, 0))


def png16(path: Path, values: np.ndarray, transparent: tuple[int, ...]) -> None:
    """(H, W, C) uint16, C = 1 or 3, as a PNG with a transparent colour, which Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 0 if channels == 1 else 2, 0, 0, 0)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    key = struct.pack(f">{channels}H", *transparent)
    content = chunk(b"IHDR", header) + chunk(b"tRNS", key) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_with_a_transparent_colour(channels: int, tmp_path: Path) -> None:
    values = np.random.RandomState(2).randint(30000, 65536, (12, 16, channels)).astype(np.uint16)
    key = (1000, 20000, 300)[:channels]
    values[2:6, 3:9] = key
    png16(tmp_path / "a.png", values, key)
    found = read(tmp_path / "a.png")
    coverage = np.ones((12, 16), bool)
    coverage[2:6, 3:9] = False
    assert np.array_equal(found[-1] > 0, coverage)
    assert off(found[:-1] * (255 if channels == 1 else 1), values / 257) <= (1e-3 if channels == 1 else 1)


def tiff(path: Path, *pages: dict[int, int], subs: int = 0) -> Path:
    """Grey pictures of one strip, a dictionary of further tags each; the last `subs` are in the first one's SubIFDs."""
    content, links = b"II*\0\x08\0\0\0", []
    for number, tags in enumerate(pages):
        side = tags.pop(256, 16)
        tags = {256: side, 257: side, 258: 8, 259: 1, 262: 1, 277: 1, 278: side, 279: side * side, 273: 0} | tags
        tags |= {330: 0} if subs and number == 0 else {}
        start = len(content)
        tags[273] = start + 2 + 12 * len(tags) + 4
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
        links.append(start)
        content += struct.pack("<H", len(tags)) + entries + bytes(4) + bytes(side * side)
    data = bytearray(content)
    for number in range(len(pages) - 1):
        count = struct.unpack_from("<H", data, links[number])[0]
        at = links[number] + 2 + 12 * count
        if subs and number == 0:
            at = data.index(struct.pack("<HHI", 330, 4, 1), links[0]) + 8
        struct.pack_into("<I", data, at, links[number + 1])
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("pages", "subs"),
    [
        ([{254: 1}], 0),  # marked as reduced
        ([{50706: 0x0401}], 0),  # DNG
        ([{262: 32803}], 0),  # a sensor's pattern
        ([{}, {256: 64}], 1),  # the picture lies in SubIFDs
        ([{}, {}, {256: 64}], 2),
        ([{}, {262: 34892}], 1),
        ([{}, {256: 64}], 0),
    ],
)
def test_files_whose_first_picture_is_a_thumbnail(pages: list[dict[int, int]], subs: int, tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match=r"a\.nef must be a finished picture, got a camera's RAW file"):
        read(tiff(tmp_path / "a.nef", *pages, subs=subs))


def test_other_raw_files_and_files_of_several_pages(tmp_path: Path) -> None:
    starts = b"FUJIFILMCCD-RAW", b"IIRO", b"IIU\0", b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", b"II*\0\x10\0\0\0CR\2\0"
    for start in starts:
        (tmp_path / "a.jpg").write_bytes(start + bytes(200))
        with pytest.raises(PhotoError, match="camera's RAW file"):
            read(tmp_path / "a.jpg")
    for subs in (0, 1):  # pages of a scan, or a preview behind the picture
        assert read(tiff(tmp_path / "a.tiff", {}, {256: 8}, subs=subs)).shape == (1, 16, 16)
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.mpo", save_all=True, append_images=frames[1:])
    assert off(read(tmp_path / "a.mpo"), np.full((16, 16, 3), (255, 0, 0))) <= 2


def test_heic_and_avif_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heif = pytest.importorskip("pillow_heif")
    truth, profile, path = 255 * meant(PATCHES / 255, "p3"), rgb_profile("p3"), tmp_path / "phone.jpg"
    heif.from_pillow(Image.fromarray(PATCHES)).save(path, quality=-1, chroma=444, icc_profile=profile)
    assert off(read(path), truth) <= 8
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(MissingPackageError, match=r"phone\.jpg is HEIC, .*pip install pillow-heif"):
        read(path)
    assert ".heic" not in Image.registered_extensions()  # the host's Pillow is left alone
    if features.check("avif"):
        Image.fromarray(PATCHES).save(path, "AVIF", quality=100, subsampling="4:4:4", icc_profile=profile)
        assert off(read(path), truth) <= 8
        monkeypatch.setattr(decoding.features, "check", lambda name: False)
        with pytest.raises(MissingPackageError, match=r"phone\.jpg is AVIF, for which Pillow 11\.3 is needed"):
            read(path)


@pytest.mark.parametrize("mode", ["RGB", "LA", "P", "I;16", "1", "CMYK"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_pictures_taken_in_bands_and_turned(mode: str, turn: int, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = Image.fromarray(PATCHES[:, :50])
    wide = Image.fromarray(PATCHES[:, :50, 0].astype(np.uint16) * 200)
    picture = wide if mode == "I;16" else picture.convert(mode)
    flat = pixels(picture, "a")
    picture.getexif()[0x0112] = turn
    monkeypatch.setattr(decoding, "_BAND", 7 * 50)
    assert np.array_equal(pixels(picture, "a", upright=False), flat)
    found = pixels(picture, "a")
    assert found.flags["C_CONTIGUOUS"]
    stored = found if turn < 5 else found.swapaxes(1, 2)
    flips = {2: (2,), 3: (1, 2), 4: (1,), 6: (1,), 7: (1, 2), 8: (2,)}.get(turn, ())  # 6 is clockwise when shown
    assert np.array_equal(np.flip(stored, flips), flat)


def test_rgba_of_every_depth() -> None:
    grey = np.array([[0, 32896, 65535]], np.uint16)
    assert rgba(Image.fromarray(grey), "a")[0].tolist() == [[v] * 3 + [255] for v in (0, 128, 255)]
    assert rgba(Image.fromarray(np.array([[[9, 7]]], np.uint8), "LA"), "a").tolist() == [[[9, 9, 9, 7]]]
