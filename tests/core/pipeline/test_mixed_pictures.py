"""What people's files hold besides plain colours: other modes, profiles, transparent colours. Each is read right."""

from pathlib import Path

import numpy as np
import pytest
from icc import INK_COLORS, cmyk_profile, meant, png16, rgb_profile
from PIL import Image

from upfusion_core.pipeline.photos import read_photo
from upfusion_core.support.images import unit_range

BLOCKS = np.random.RandomState(17).randint(0, 256, (3, 4, 4), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
COLORS, INKS = np.ascontiguousarray(BLOCKS[..., :3]), np.where(BLOCKS > 127, 255, 0).astype(np.uint8)
RGB, LAB = Image.fromarray(COLORS), COLORS // 4 + 96
LAB_NUMBERS = LAB * [100 / 255, 1, 1] - [0, 128, 128]
TURNS = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE}
# the picture, its profile, and the sRGB that it means
PICTURES = {
    "P3": (RGB, rgb_profile("p3"), 255 * meant(COLORS / 255, "p3")),
    "ProPhoto with alpha": (Image.fromarray(BLOCKS), rgb_profile("prophoto"), 255 * meant(COLORS / 255, "prophoto")),
    "palette of Adobe RGB": (RGB.quantize(16), rgb_profile("adobe"), 255 * meant(COLORS / 255, "adobe")),
    "Lab": (Image.merge("LAB", Image.fromarray(LAB).split()), None, 255 * meant(LAB_NUMBERS, "lab")),
    "inks": (Image.fromarray(INKS, "CMYK"), None, (255 - INKS[..., :3]) * (INKS[..., 3:] == 0)),
    "a printer's inks": (Image.fromarray(INKS, "CMYK"), cmyk_profile(), INK_COLORS[INKS // 255 @ [8, 4, 2, 1]]),
    "black and white": (Image.fromarray(INKS[..., 0]).convert("1"), None, INKS[..., :1].repeat(3, 2)),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_modes_and_profiles(kind: str, tmp_path: Path) -> None:
    image, profile, truth = PICTURES[kind]
    containers = ("tiff", "jpeg") if image.mode == "CMYK" else ("tiff",)
    for (orientation, stored), container in ((turn, container) for turn in TURNS.items() for container in containers):
        exif, path = Image.Exif(), tmp_path / f"a.{container}"
        exif[0x0112] = orientation
        turned = image if stored is None else image.transpose(stored)
        turned.save(path, icc_profile=profile, exif=exif, quality=100, subsampling=0)
        photo = read_photo(path)
        found = 255 * unit_range(photo.rgb).permute(1, 2, 0).numpy()
        shown = BLOCKS[..., 3] if image.mode == "RGBA" else np.full(BLOCKS.shape[:2], 255)
        assert np.abs(found - truth)[shown > 0].max() <= (8 if container == "jpeg" else 3)
        assert (photo.coverage is None) == (image.mode != "RGBA")
        assert photo.coverage is None or np.array_equal(photo.coverage.numpy(), shown)


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "I;16", "RGB;16"])
def test_transparent_colours(mode: str, tmp_path: Path) -> None:
    wide = COLORS.astype(np.uint16) * 257
    values = {"L": COLORS[..., 0], "I;16": wide[..., 0], "RGB;16": wide}.get(mode, COLORS)
    if mode == "RGB;16":
        png16(tmp_path / "a.png", values, tuple(map(int, values[0, 0])))
    else:
        image = RGB.quantize(16) if mode == "P" else Image.fromarray(values)
        image.save(tmp_path / "a.png", transparency=image.getpixel((0, 0)))
    expected = np.where((np.atleast_3d(values) == values[0, 0]).all(-1), 0, 255)
    assert np.array_equal(255 * unit_range(read_photo(tmp_path / "a.png").coverage).numpy(), expected)
