"""Two hundred pictures mixed at random of what people's files have: each is read right."""

from itertools import count, islice, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from icc import INK_COLORS, SPACES, cmyk_profile, encoded, gray_profile, meant, png16, rgb_profile
from PIL import Image, ImageCms, features

from upfusion_core.pipeline.photos import read_photo, unit_range

MODES = ["1", "L", "LA", "RGB", "RGBA", "P", "CMYK", "LAB", "I;16", "F", "RGB;16"]
CONTAINERS = ["png", "tiff", "jpeg", "webp", "avif", "heic", "bmp", "gif", "mpo", "jpeg2000"]
LOSSY = ("jpeg", "avif", "heic", "mpo", "jpeg2000")
PROFILES: dict[str, bytes | None] = {space: rgb_profile(space) for space in SPACES}
PROFILES |= {"none": None, "grey": gray_profile(1.80078125), "cmyk": cmyk_profile(), "damaged": b"?" * 99}
PROFILES["sRGB"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
STORED = dict(zip(range(2, 9), (0, 3, 1, 5, 2, 6, 4), strict=True))  # EXIF's orientation: how Pillow turns to store it


def drawn(rng: np.random.RandomState, mode: str, soft: bool) -> tuple[Any, np.ndarray, np.ndarray | None]:
    """An upright picture, its numbers (H, W, 3 or 4) as they are meant, and its coverage; 16-bit colours as an array.

    soft: away from the spaces' borders, where little that is lost becomes much.
    """
    values = rng.randint(0, 256, (3, 4, 4), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    if mode == "CMYK":
        values = np.where(values > 127, 255, 0).astype(np.uint8)
        return Image.fromarray(values, "CMYK"), values / 255, None
    alpha, values = values[..., 3], values[..., :3] // (2 if soft else 1) + (64 if soft else 0)
    gray = values[..., :1].repeat(3, 2)
    if mode == "1":
        gray = np.where(gray > 127, 255, 0).astype(np.uint8)
        return Image.fromarray(gray[..., 0]).convert("1", dither=Image.Dither.NONE), gray / 255, None
    if mode == "LAB":
        values = values // 4 + 96
        return Image.merge("LAB", Image.fromarray(values).split()), values * [100 / 255, 1, 1] - [0, 128, 128], None
    if mode == "RGB;16":
        wide = values.astype(np.uint16) * 257
        return wide, wide / 65535, np.where((wide == wide[0, 0]).all(-1), 0, 255)
    if mode in ("I;16", "F"):
        wide = gray[..., 0].astype(np.uint16) * 250
        image = Image.fromarray(wide if mode == "I;16" else (wide / 65535).astype(np.float32))
        return image, (wide[..., None] / 65535).repeat(3, 2), None
    color = gray if mode in ("L", "LA") else values
    if mode in ("LA", "RGBA"):
        return Image.fromarray(np.dstack([color, alpha])).convert(mode), color / 255, alpha
    image = Image.fromarray(color).convert("L" if mode == "L" else "RGB")
    return image.quantize(16) if mode == "P" else image, color / 255, None


def right(numbers: np.ndarray, mode: str, profile: str, opened: str) -> np.ndarray:
    """(H, W, 3) in levels of 255 that numbers mean; `opened`: the mode that the file has, some keep no grey."""
    if mode == "CMYK":
        inks = numbers.round().astype(int) @ [8, 4, 2, 1]
        return INK_COLORS[inks] if profile == "cmyk" else 255 * (1 - numbers[..., :3]) * (1 - numbers[..., 3:])
    if mode == "LAB" or profile in SPACES:
        return 255 * meant(numbers, "lab" if mode == "LAB" else profile)
    is_gray = profile == "grey" and (opened in ("1", "L", "LA", "I", "I;16", "F") or np.ptp(numbers, axis=2).max() == 0)
    return 255 * (encoded(numbers**1.80078125) if is_gray else numbers)


def mixed(rng: np.random.RandomState, folder: Path, number: int) -> str | None:
    """What is wrong with how a picture of random properties is read; None where no such file can be written."""
    heif = pytest.importorskip("pillow_heif")
    mode, container, profile = (list(each)[rng.randint(len(each))] for each in (MODES, CONTAINERS, PROFILES))
    turn, with_key = int(rng.randint(1, 9)), rng.rand() < 0.3
    image, numbers, alpha = drawn(rng, mode, container in LOSSY)
    path = folder / f"{number}.{rng.choice([container, 'jpg', 'png'])}"  # names say what they like
    lost = mode in ("LAB", "I;16", "F", "CMYK") and container in ("webp", "avif", "heic", "gif")
    lost |= container == "avif" and not features.check("avif")  # Pillow before 11.3
    if lost or (mode in ("LA", "RGBA") and container in ("gif", "bmp")) or (mode == "RGB;16" and container != "png"):
        return None  # these formats do not hold them
    if mode == "RGB;16":
        turn = 1
        png16(path, image, tuple(map(int, image[0, 0])))
    else:
        stored, exif = image.transpose(Image.Transpose(STORED[turn])) if turn > 1 else image, Image.Exif()
        exif[0x0112] = turn
        options = {"icc_profile": PROFILES[profile], "exif": exif, "quality": 100, "subsampling": 0, "lossless": True}
        if container == "png" and mode in ("L", "P", "RGB", "I;16") and with_key:  # a transparent colour
            key = np.array(image)[0, 0]
            options["transparency"] = tuple(map(int, key)) if mode == "RGB" else int(key)
            alpha = np.where((numbers == numbers[0, 0]).all(-1), 0, 255)
        try:
            if container == "heic":
                options = {"exif": exif.tobytes(), "icc_profile": PROFILES[profile] or PROFILES["sRGB"], "chroma": 444}
                heif.from_pillow(stored).save(path, quality=-1, **options)
            else:
                stored.save(path, container, **options)
        except (OSError, KeyError, ValueError, TypeError):
            return None
    with heif.HeifImageFile(path) if container == "heic" else Image.open(path) as written:
        opened, profile = written.mode, profile if written.info.get("icc_profile") else "none"
        if container != "heic" and written.getexif().get(0x0112, 1) != turn:
            return None  # the format holds no EXIF
    story = f"{number}: {mode} in {container}, profile {profile}, orientation {turn}: "
    photo = read_photo(path)
    truth, found = right(numbers, mode, profile, opened), 255 * unit_range(photo.rgb).permute(1, 2, 0).numpy()
    lossy = container in LOSSY and profile in SPACES and mode not in ("CMYK", "LAB")  # a level of the file may be many
    steps = product((-1, 0, 1), repeat=3) if lossy else [0]
    truths = np.stack([right(numbers + np.array(step) / 255, mode, profile, opened) for step in steps])
    shown = np.ones(truth.shape[:2], int) if alpha is None else alpha
    if found.shape != truth.shape or (photo.coverage is None) != (alpha is None):
        return f"{story}read as {found.shape}, coverage {photo.coverage is not None}"
    off = np.maximum(found - truths.max(0), truths.min(0) - found)[shown > 0].max()
    if photo.coverage is not None:
        off = max(off, np.abs(255 * unit_range(photo.coverage).numpy() - shown).max())
    return f"{story}{off:.1f} off" if off > (8 if container in LOSSY else 3) else ""


@pytest.mark.filterwarnings("ignore")  # profiles that cannot be used
def test_two_hundred_pictures_are_right(tmp_path: Path) -> None:
    rng = np.random.RandomState(17)
    tried = (mixed(rng, tmp_path, number) for number in count())
    outcomes = list(islice((outcome for outcome in tried if outcome is not None), 200))
    assert not any(outcomes), "\n".join(filter(None, outcomes))
