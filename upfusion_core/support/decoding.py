"""Strangers' picture files -> upright pixels in sRGB: whatever decodes a picture does it here."""

import io
import math
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError, features

from .errors import MissingPackageError, PhotoError
from .files import check_regular

# Phones and cameras make pictures of up to 200 megapixels. Larger ones are refused by their header, before anything is
# decoded: Pillow takes 4 bytes a pixel beside the 1 to 4 of the result, 2 GB for as many as these.
MAX_PIXELS = 250_000_000
_LARGEST_FILE = 1_000_000_000  # bytes; a picture of MAX_PIXELS in 8 bits a channel has as many uncompressed
_BAND = 8_000_000  # pixels converted at a time: beside the decoded picture and the result there is little else

_GRAY = ("1", "L", "LA", "La")  # Pillow's modes of 8 bits and less
_RAW_STARTS = (b"FUJIFILMCCD-RAW", b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"FOVb", b"\0MRM", b"II\x1a\0\0\0HEAPCCDR")
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_SUBFILE, _WIDTH, _HEIGHT, _PHOTOMETRIC, _ORIENTATION, _SUB_IFDS, _DNG_VERSION = 254, 256, 257, 262, 274, 330, 50706
_EXIF, _FOCAL_IN_FILM = 0x8769, 41989
_SENSOR = (32803, 34892)  # photometric interpretation: colour filter array, linear RAW
TURNS = {2: (True, 0), 3: (False, 2), 4: (True, 2), 5: (True, 1), 6: (False, 3), 7: (True, 3), 8: (False, 1)}
"""EXIF's orientation -> whether the stored picture is mirrored, then how many quarters it turns against the clock."""
_OPENING = threading.Lock()


def open_picture(path: Path) -> Image.Image:
    """A picture file of which the header is read and nothing more: see check_picture. OSError where it is none.

    Its content tells what it is, not its name. PhotoError: RAW. MissingPackageError: nothing here reads HEIC, or AVIF.
    """
    check_regular(path, _LARGEST_FILE)
    with path.open("rb") as file:
        head = file.read(64)
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, min(len(head), int.from_bytes(head[:4], "big")), 4))}
    if head[4:8] != b"ftyp":
        brands = set()
    if head.startswith(_RAW_STARTS) or b"crx " in brands or (head[:4] == b"II*\0" and head[8:10] == b"CR"):
        raise PhotoError(_raw(path.name))
    if b"avif" in brands and not features.check("avif"):
        raise MissingPackageError(f"{path.name} is AVIF, for which Pillow 11.3 is needed; run: pip install -U Pillow")
    if brands & _HEIC_BRANDS and b"avif" not in brands:
        try:
            from pillow_heif import HeifImageFile
        except ImportError as error:
            advice = "run: pip install pillow-heif, or save it as JPEG or PNG"
            raise MissingPackageError(f"{path.name} is HEIC, for which pillow-heif is needed; {advice}") from error
        plugin: Any = HeifImageFile  # opened here and not registered with Pillow, which belongs to the host
        heic: Image.Image = plugin(path)
        return heic
    try:
        with any_size():
            return Image.open(path)
    except UnidentifiedImageError:
        with path.open("rb") as file:
            if _is_thumbnail(file, math.inf):  # sensor data and nothing else
                raise PhotoError(_raw(path.name)) from None
        raise


@contextmanager
def any_size() -> Iterator[None]:
    """Within, Pillow opens pictures of any size: it allows 179 megapixels, check_picture MAX_PIXELS."""
    with _OPENING:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def check_picture(image: Image.Image, label: str) -> None:
    """Raises PhotoError, before anything is decoded, if a picture would run a program, is too large, empty or RAW."""
    if image.format in ("EPS", "WMF", "PDF"):  # which Pillow hands to Ghostscript or to Windows
        raise PhotoError(f"{label} must be a picture of pixels, got {image.format}; save it as PNG or JPEG")
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise PhotoError(too_large(label, f"{width} x {height}"))
    if width == 0 or height == 0:
        raise PhotoError(f"{label} must hold pixels, got {width} x {height}; choose another picture")
    file = getattr(image, "fp", None)  # None where the picture is decoded already
    if image.format == "PCD" or (image.format == "TIFF" and file and _is_thumbnail(file, width * height)):
        raise PhotoError(_raw(label))


def too_large(label: str, found: str) -> str:
    """The sentence about a picture of more than MAX_PIXELS."""
    limit = MAX_PIXELS // 1_000_000
    return f"{label} must have at most {limit} megapixels, its header says {found}; make it smaller first"


def _raw(label: str) -> str:
    found = "a camera's RAW file, or one whose first picture is a thumbnail"
    return f"{label} must be a finished picture, got {found}; export it as JPEG, PNG or TIFF of one picture"


def _is_thumbnail(file: IO[bytes], pixels: float) -> bool:
    """Whether a TIFF's first picture, of so many pixels, is reduced, less than half of another or beside a sensor's."""
    file.seek(0)
    head = file.read(8)
    if head[:4] not in (b"II*\0", b"MM\0*"):
        return False
    order = "<" if head[:1] == b"I" else ">"
    offsets, seen = [struct.unpack(order + "I", head[4:])[0]], {0}
    try:
        while offsets and len(seen) < 1000:
            offset = offsets.pop()
            if offset in seen:
                continue
            seen.add(offset)
            file.seek(offset)
            count = struct.unpack(order + "H", file.read(2))[0]
            entries, (following,) = file.read(12 * count), struct.unpack(order + "I", file.read(4))
            values = {}  # of tags of one number
            for at in range(0, 12 * count, 12):
                tag, kind, numbers = struct.unpack_from(order + "HHI", entries, at)
                values[tag] = struct.unpack_from(order + ("H" if kind == 3 else "I"), entries, at + 8)[0]
                if tag == _SUB_IFDS and 1 < numbers < 100:
                    file.seek(values[tag])
                    offsets += struct.unpack(f"{order}{numbers}I", file.read(4 * numbers))
                elif tag == _SUB_IFDS:
                    offsets.append(values[tag])
            offsets.append(following)
            reduced = len(seen) == 2 and values.get(_SUBFILE, 0) & 1
            larger = values.get(_WIDTH, 0) * values.get(_HEIGHT, 0) > 2 * pixels
            if reduced or larger or _DNG_VERSION in values or values.get(_PHOTOMETRIC) in _SENSOR:
                return True
    except struct.error:
        pass  # cut short: whether its first picture is whole is found when that is decoded
    return False


def orientation(image: Image.Image) -> int:
    """EXIF's, 1 to 8; 1 where nothing, or nonsense, is said. Of TIFF until it is decoded: Pillow turns it then."""
    opened: Any = image
    found = (opened.tag_v2 if image.format == "TIFF" else image.getexif()).get(_ORIENTATION, 1)
    return found if found in TURNS else 1


def stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of the unturned pixels. Of TIFF Pillow tells those of the turned ones, from some version on."""
    opened: Any = image
    return (opened.tag_v2[_WIDTH], opened.tag_v2[_WIDTH + 1]) if image.format == "TIFF" else image.size


def turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """(..., H, W) as stored -> a view of it upright, by EXIF's `orientation`."""
    mirrored, quarters = TURNS.get(orientation, (False, 0))
    return np.rot90(values[..., ::-1] if mirrored else values, quarters, axes=(-2, -1))


def pixels(image: Image.Image, label: str, *, upright: bool = True, is_mask: bool = False) -> np.ndarray:
    """A picture in sRGB -> (C, H, W): C = 1 grey, 2 grey and alpha, 3 colour, 4 colour and alpha.

    uint8, or float32 where it is 16-bit grey, 0..65535 as 0..1, or floating point. By its ICC profile, relative
    colorimetric, to 8 bits; one that cannot be used is warned of, and left aside, and so is one of a mask, whose
    numbers are no colours. Turned by EXIF if `upright`.
    """
    opened: Any = image  # what is told of files only
    deep = bool(getattr(image, "tile", None)) and "16" in str(opened.tile[0][3])
    turn = orientation(image) if upright and image.format != "TIFF" else 1  # which Pillow turns
    if image.format == "TIFF":
        opened.filename, name = "", opened.filename  # Pillow 13 garbles pictures on their side that it maps into memory
        image.load()
        opened.filename = name
    image.load()
    transparent = image.info.get("transparency")
    if deep and isinstance(transparent, tuple):  # Pillow keeps the upper 8 bits of each colour, and 16 of this one
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    transform = None if is_mask else _to_srgb(image, label)
    if image.mode.startswith("I") or image.mode == "F":  # 16-bit grey, or floating point
        values, key = np.array(image), image.info.get("transparency")
        visible = values != key if isinstance(key, int) else None
        if image.mode != "F":
            low, high = int(values.min()), int(values.max())
            if low < 0 or high > 65535:
                wanted = f"{label} must hold 16-bit grey values in 0..65535"
                raise PhotoError(f"{wanted}, got {low}..{high}; save it as 8 or 16 bit")
            most = 255 if image.mode == "I" and high <= 255 else 65535  # Pillow's way to widen 8-bit grey
            values = values.astype(np.float32)
            values /= np.float32(most)
        if transform is not None and values.min() >= 0 and values.max() <= 1:  # else refused where the range is checked
            if transform.input_mode == "I;16":
                wide = Image.fromarray(np.arange(65536, dtype=np.uint16)[None])
                table = np.asarray(transform.apply(wide))[0, :, 1]
            else:  # neutral colours of a profile for RGB
                ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None]).convert("RGB")
                table = np.interp(np.arange(65536) / 257, np.arange(256), np.asarray(transform.apply(ramp))[0, :, 1])
            values = np.rint(table).astype(np.uint8)[np.rint(values * 65535).astype(np.uint16)]
        planes = values[None]
        if visible is not None:
            planes = np.stack([values, visible.astype(values.dtype) * (255 if values.dtype == np.uint8 else 1)])
        return np.ascontiguousarray(turned(planes, turn))
    alpha, gray = image.has_transparency_data, image.mode in _GRAY and transform is None
    mode = ("L" if gray else "RGB") + ("A" if alpha else "")
    height, width = image.height, image.width
    result = np.empty((len(mode), *((width, height) if turn >= 5 else (height, width))), np.uint8)
    stored = turned(result, {6: 8, 8: 6}.get(turn, turn))  # what is written here as stored stands upright in `result`
    rows = max(1, _BAND // width)
    for top in range(0, height, rows):
        band = image.crop((0, top, width, min(top + rows, height)))
        band = band.convert("RGBA") if alpha and band.mode not in ("LA", "RGBA") else band
        found = band.convert(mode) if transform is None else transform.apply(band.convert(transform.input_mode))
        if alpha and transform is not None:
            found.putalpha(band.getchannel("A"))
        for channel, plane in zip(stored, found.split(), strict=True):
            channel[top : top + rows] = np.asarray(plane)
    return result


def rgba(image: Image.Image, label: str) -> np.ndarray:
    """A picture in sRGB, as stored -> (H, W, 4) uint8: colours, and alpha that is 255 where it has none."""
    values = pixels(image, label, upright=False)
    if values.dtype != np.uint8:
        values = np.rint(values.clip(0, 1) * 255).astype(np.uint8)
    colors = values[:3] if len(values) >= 3 else values[:1].repeat(3, axis=0)
    alpha = np.full_like(values[:1], 255) if len(values) in (1, 3) else values[-1:]
    return np.ascontiguousarray(np.concatenate([colors, alpha]).transpose(1, 2, 0))


def _to_srgb(image: Image.Image, label: str) -> ImageCms.ImageCmsTransform | None:
    """What takes a picture's colours to sRGB; None where they are sRGB, or nothing usable says that they are not."""
    profile, lab = image.info.get("icc_profile"), image.mode == "LAB"
    if not profile and not lab:
        return None
    wide = image.mode.startswith("I") or image.mode == "F"
    try:
        source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB") if lab else io.BytesIO(profile or b""))
        kind = "LAB" if lab else source.profile.xcolor_space.strip()
        grey = wide or image.mode in _GRAY
        if kind == "GRAY" and not grey and image.mode != "CMYK":  # WebP, AVIF and HEIC give grey as colours
            grey = bool(np.ptp(np.asarray(image.convert("RGB")), axis=2).max() <= 2)
        fits = {"GRAY": grey, "RGB": image.mode != "CMYK", "CMYK": image.mode == "CMYK"}
        if not fits.get(kind, lab):
            raise ValueError(f"it is for {kind}, the picture holds {image.mode}")
        mode = kind if kind != "GRAY" else "I;16" if wide else "L"
        relative, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags
        exact, quick = (  # quick by tables, up to 20 levels off for most but matrices with curves
            ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB", relative, how)
            for how in (flags.NOOPTIMIZE, flags.NONE)
        )
        if mode in ("L", "RGB"):
            levels = np.arange(256)[None] if mode == "L" else np.indices((16, 16, 16)).reshape(3, 1, -1).T * 17
            given = Image.fromarray(levels.astype(np.uint8))
            wanted, found = (np.asarray(each.apply(given)).astype(int) for each in (exact, quick))
            if np.abs(wanted - levels.reshape(*wanted.shape[:2], -1)).max() <= 1:
                return None  # sRGB under any name: such a picture is left as it is, to the bit
            if np.abs(wanted - found).max() <= 1:
                return quick
        return exact
    except (ImageCms.PyCMSError, ImportError, OSError, TypeError, ValueError) as error:
        why = " ".join(str(error).split())[:100]
        message = f"{label} has a colour profile that cannot be used ({why}); its colours are taken as sRGB"
        warnings.warn(message, stacklevel=2)
        return None


def field_of_view(path: Path) -> float | None:
    """Degrees along a picture's longer side, by EXIF's focal length in 35 mm film (of equal diagonal), if it tells."""
    with open_picture(path) as image:
        focal = image.getexif().get_ifd(_EXIF).get(_FOCAL_IN_FILM, 0)
        if not isinstance(focal, int | float) or not 1 <= focal <= 2000:
            return None
        share = max(image.size) / math.hypot(*image.size)
        return math.degrees(2 * math.atan(math.hypot(36, 24) / 2 * share / focal))
