"""Two hundred pictures mixed at random of what people's files have: each is read right, or refused in one sentence."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from icc import INK_COLORS, SPACES, cmyk_profile, encoded, from_lab, gray_profile, meant, png16, rgb_profile
from PIL import Image, ImageCms

from upfusion_core.pipeline.photos import Photo, read_photo, unit_range
from upfusion_core.support.errors import PhotoError

COUNT, SEED = 200, 17
MODES = ["1", "L", "LA", "RGB", "RGBA", "P", "CMYK", "LAB", "I;16", "F", "RGB;16"]
CONTAINERS = ["png", "tiff", "jpg", "webp", "avif", "heic", "bmp", "gif", "mpo", "jp2", "dng", "cr3", "cut"]
LOSSY = ("jpg", "avif", "heic", "mpo", "jp2")
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PROFILES = {space: rgb_profile(space) for space in SPACES} | {
    "none": None, "sRGB": SRGB, "grey": gray_profile(1.80078125), "cmyk": cmyk_profile(), "damaged": b"damaged" * 30,
}  # fmt: skip
T = Image.Transpose
STORED = {  # how upright pixels are stored under EXIF's orientation
    2: T.FLIP_LEFT_RIGHT, 3: T.ROTATE_180, 4: T.FLIP_TOP_BOTTOM, 5: T.TRANSPOSE, 6: T.ROTATE_90, 7: T.TRANSVERSE,
    8: T.ROTATE_270,
}  # fmt: skip


@dataclass
class Mixed:
    """A picture file, what it is made of, and what is to be read: (H, W, 3) and (H, W) in levels of 255."""

    path: Path
    story: str
    rgb: np.ndarray
    coverage: np.ndarray | None
    most: float
    refused: bool


def patches(rng: np.random.RandomState, channels: int) -> np.ndarray:
    return rng.randint(0, 256, (3, 4, channels), dtype=np.uint8).repeat(16, 0).repeat(16, 1)


def drawn(
    rng: np.random.RandomState, mode: str, soft: bool
) -> tuple[Image.Image | np.ndarray, np.ndarray, np.ndarray | None]:
    """An upright picture, its numbers (H, W, 3 or 4) in [0, 1], and its coverage; 16-bit colours as an array.

    soft: away from the spaces' borders, where little that is lost becomes much.
    """
    values, alpha = patches(rng, 3) // (2 if soft else 1) + (64 if soft else 0), None
    gray = values[..., :1]
    if mode == "1":
        gray = np.where(gray > 127, 255, 0).astype(np.uint8)
        image = Image.fromarray(gray[..., 0]).convert("1", dither=Image.Dither.NONE)
    elif mode == "CMYK":
        values = np.where(patches(rng, 4) > 127, 255, 0).astype(np.uint8)
        return Image.fromarray(values, "CMYK"), values / 255, None
    elif mode == "LAB":
        values = values // 4 + 96
        image = Image.merge("LAB", Image.fromarray(values).split())
        return image, values * [100 / 255, 1, 1] - [0, 128, 128], None
    elif mode in ("I;16", "F", "RGB;16"):
        wide = (patches(rng, 3) * 257.0 + rng.randint(-120, 120)).clip(0, 65535).astype(np.uint16)
        if mode == "RGB;16":
            return wide, wide / 65535, None
        image = Image.fromarray(wide[..., 0] if mode == "I;16" else (wide[..., 0] / 65535).astype(np.float32))
        return image, (wide[..., :1] / 65535).repeat(3, 2), None
    elif mode in ("LA", "RGBA"):
        alpha = patches(rng, 1)[..., 0]
        image = Image.fromarray(np.dstack([gray if mode == "LA" else values, alpha]), mode)
    else:
        image = Image.fromarray(gray[..., 0] if mode == "L" else values)
        image = image.quantize(16) if mode == "P" else image
    return image, (values if mode in ("RGB", "RGBA", "P") else gray.repeat(3, 2)) / 255, alpha


def right(numbers: np.ndarray, mode: str, profile: str, opened: str) -> np.ndarray:
    """(H, W, 3) in levels of 255 that numbers mean; `opened`: the mode that the file has, some keep no grey."""
    if mode == "CMYK":
        inks = (numbers > 0.5).astype(int) @ [8, 4, 2, 1]
        return INK_COLORS[inks] if profile == "cmyk" else 255 * (1 - numbers[..., :3]) * (1 - numbers[..., 3:])
    if mode == "LAB":
        return 255 * from_lab(numbers)
    if profile in SPACES:
        return 255 * meant(numbers, profile)
    if profile == "grey" and opened in ("1", "L", "LA", "I", "I;16", "F"):
        return 255 * encoded(numbers**1.80078125)
    return 255 * numbers


def mixed(rng: np.random.RandomState, folder: Path, number: int) -> Mixed | None:
    """A picture of properties drawn at random; None where no such file can be written."""
    heif = pytest.importorskip("pillow_heif")
    mode, container = MODES[rng.randint(len(MODES))], CONTAINERS[rng.randint(len(CONTAINERS))]
    profile, turn = list(PROFILES)[rng.randint(len(PROFILES))], int(rng.randint(1, 9))
    image, numbers, alpha = drawn(rng, mode, container in LOSSY)
    kind = {"dng": "tiff", "cut": "png", "cr3": "png"}.get(container, container)
    lost = mode in ("LAB", "I;16", "F", "CMYK") and kind in ("webp", "avif", "heic", "gif")
    if lost or (mode in ("LA", "RGBA") and kind in ("gif", "bmp")):  # which these formats do not hold
        return None
    path = folder / f"{number}.{rng.choice([container, 'jpg', 'png'])}"  # names say what they like
    if isinstance(image, np.ndarray):
        if kind != "png":
            return None
        key = tuple(int(value) for value in image[0, 0])
        alpha = np.where((image == key).all(-1), 0, 255)
        png16(path, image, key)
    else:
        stored = image.transpose(STORED[turn]) if turn > 1 else image
        exif = Image.Exif()
        exif[0x0112] = turn
        options = {"icc_profile": PROFILES[profile], "exif": exif, "quality": 100, "subsampling": 0, "lossless": True}
        if kind == "png" and mode in ("L", "RGB", "I;16") and rng.rand() < 0.3:  # a transparent colour
            key = np.array(image)[0, 0]
            options["transparency"] = tuple(map(int, key)) if mode == "RGB" else int(key)
            alpha = np.where((numbers == numbers[0, 0]).all(-1), 0, 255)
        if container == "dng":
            options["tiffinfo"] = {50706: b"\1\4\0\0"} if rng.rand() < 0.5 else {254: 1}
        try:
            if kind == "heic":
                extra = {"icc_profile": PROFILES[profile]} if PROFILES[profile] else {}
                heif.from_pillow(stored).save(path, quality=-1, chroma=444, exif=exif.tobytes(), **extra)
            else:
                stored.save(path, {"jpg": "jpeg", "jp2": "jpeg2000"}.get(kind, kind), **options)
        except (OSError, KeyError, ValueError, TypeError):
            return None
    with heif.HeifImageFile(path) if kind == "heic" else Image.open(path) as written:  # what the format has kept
        opened, kept = written.mode, written.info.get("icc_profile")
        if kind != "heic" and written.getexif().get(0x0112, 1) != turn:
            turn = 1
    if turn == 1 and not isinstance(image, np.ndarray) and stored is not image:
        return None
    profile = profile if kept else "none"
    content = path.read_bytes()
    if container == "cut":
        path.write_bytes(content[: len(content) * 2 // 3])
    if container == "cr3":
        path.write_bytes(b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + content)
    story = f"{number}: {mode} in {container}, profile {profile}, orientation {turn}"
    if alpha is not None and (alpha == 255).all():
        alpha = None
    most, refused = 8 if container in LOSSY else 3, container in ("dng", "cut", "cr3")
    return Mixed(path, story, right(numbers, mode, profile, opened), alpha, most, refused)


def difference(case: Mixed, photo: Photo) -> float:
    """In levels, the largest of colours where anything is seen, and of coverage."""
    rgb, coverage = 255 * unit_range(photo.rgb).permute(1, 2, 0).numpy(), photo.coverage
    if rgb.shape != case.rgb.shape or (coverage is None) != (case.coverage is None):
        return np.inf
    if coverage is None or case.coverage is None:
        return np.abs(rgb - case.rgb).max()
    off = np.abs(255 * unit_range(coverage).numpy() - case.coverage).max()
    return max(off, np.abs(rgb - case.rgb)[case.coverage > 0].max())


def test_two_hundred_pictures_are_right_or_refused(tmp_path: Path) -> None:
    rng = np.random.RandomState(SEED)
    seen, wrong = [], []
    warnings.simplefilter("ignore")  # profiles that cannot be used
    while len(seen) < COUNT:
        case = mixed(rng, tmp_path, len(seen))
        if case is None:
            continue
        seen.append(case)
        try:
            photo = read_photo(case.path)
        except PhotoError as error:
            text = str(error)
            if not case.refused or "\n" in text or len(text) > 400 or ";" not in text:
                wrong.append(f"{case.story}: {text}")
            continue
        off = difference(case, photo)
        if case.refused or off > case.most:
            wrong.append(f"{case.story}: {off:.1f} off, at most {case.most}")
    assert not wrong, "\n".join(wrong)
    assert sum(not case.refused for case in seen) > COUNT / 2
