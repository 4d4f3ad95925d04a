"""Photos -> InputViews: decoded to colours and coverage, put on white, framed in a square of the model's size."""

import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor
from torch.nn.functional import max_pool2d

from ..config.models import MAX_PHOTOS, MAX_VIEWS
from ..data.recorded import FRAME_MARGIN, Box, bounds, squared
from ..geometry.lenses import KnownCameras, Lens
from ..support.checks import check_count, check_range, check_unit_range
from ..support.decoding import check_picture, open_picture, orientation, pixels, turned
from ..support.errors import InputError, MissingPackageError, PhotoError
from ..support.files import reading
from ..support.images import shrunk, to_8bit, unit_range
from ..types import REFERENCE_FOCAL, InputViews, PhotoNote, SourcePhoto
from .masks import ON_WHITE, WHITE_ENOUGH, Sense, border_median, check_tells, estimate_mask, find_object

PhotoSource = str | os.PathLike[str] | Image.Image | Tensor | np.ndarray  # what a photo or a mask may be given as

_BAND = 4_000_000  # pixels of a photo that are floating point at a time
LARGEST = 4000  # pixels along a JPEG's longer side that are kept; more of six photos would take gigabytes, of more less
MIN_SIDE = 8  # smaller pictures show no object
_NARROWEST = 8  # pixels of the result that a whole photo must cover in its shorter direction
_GREY_ENOUGH = 16  # JPEG noise between the channels of a grey mask


def prepare_views(
    images: PhotoSource | Sequence[PhotoSource],
    masks: PhotoSource | Sequence[PhotoSource | None] | None = None,
    *,
    size: int = 256,
    margin: float = FRAME_MARGIN,
    crop: bool = True,
    remove_background: bool = False,
    cameras: KnownCameras | None = None,
    any_background: bool = True,
    sense: Sense | Sequence[Sense] = "white",
) -> InputViews:
    """1 to 64 photos of one object -> InputViews with rgb (V, 3, size, size), float32 on the CPU.

    A photo with a mask or an alpha channel is composited on white (in sRGB, straight alpha) and cropped to a square
    round the object. A photo with neither is **taken as already on white and framed**: it is padded to a square with
    white and resized, never cropped, and one that is already size x size comes through unchanged; its mask is estimated
    as what is not white. The focal length is the networks', 4.5. The photos' own pixels go along as `sources`, and how
    each object was found as `notes`; what people should look at is a warning too.

    Args:
        images: paths, PIL images, uint8 arrays (H, W, 3), or float tensors (1|3|4, H, W) in [0, 1] of any size; one of
            them alone; or a (V, C, H, W) batch. The first is the reference photo, the order of the others is free.
        masks: one a photo, 1 on the object (see `sense`); its alpha is multiplied in. None leaves a photo to its alpha.
        size: side of the results in pixels, the model's image size.
        margin: side of the crop over the longer side of the object's box, at least 1; beyond the photo is white.
        crop: whether photos with a mask or alpha are cropped to the object; if not, they are padded like the others.
        remove_background: finds the object by `rembg`, which fetches a network, in photos with neither mask nor alpha.
        cameras: of the photos, see `load_photo_cameras`; the lens's distortion is taken out.
        any_background: whether a photo with neither whose border is not white is taken, with a warning, or refused.
        sense: what masks mean, all of them or each. "white": black-and-white and soft ones are white (1) on the object,
            of two other values that of most of the border is nothing. "border": so for all. "told": 1 on the object.

    Raises PhotoError: a photo or mask cannot be used. InputError: a wrong number or option. MissingPackageError: rembg.
    """
    check_count("size", size, 16, 4096)
    check_range("margin", margin, 1.0, 8.0)
    sources = _listed(images, "images", None)
    count = len(sources)
    if not 1 <= count <= MAX_VIEWS:
        raise InputError(f"expected 1 to {MAX_VIEWS} photos, got {count}; choose the most different views")
    given = [None] * count if masks is None else _listed(masks, "masks", count)
    if len(given) != count:
        raise InputError(f"expected one mask for each of {count} photos, got {len(given)}; give as many, in order")
    if cameras is not None and len(cameras.lenses) != count:
        raise InputError(f"expected a camera for each of {count} photos, got {len(cameras.lenses)}; give as many")
    senses = [sense] * count if isinstance(sense, str) else list(sense)
    framed, least = [], int(LARGEST * min(1.0, MAX_PHOTOS / count) ** 0.5)
    for index, (source, mask, how) in enumerate(zip(sources, given, senses, strict=True)):
        photo = read_photo(source, f"photo {index + 1}", least=least)
        photo, note = _with_object(photo, mask, how, remove_background, any_background)
        if cameras is not None and not cameras.lenses[index].is_pinhole:
            photo = photo.straightened(cameras.lenses[index])
        framed.append((*_frame(photo, size, margin, crop), note))
        del photo  # before the next is decoded
    rgb, coverage, originals, notes = zip(*framed, strict=True)
    known = None if cameras is None else cameras.of_squares(originals)
    focal = torch.full((count, 2), REFERENCE_FOCAL, dtype=torch.float32)
    return InputViews(torch.stack(rgb), torch.stack(coverage)[:, None], focal, originals, known, notes)


def estimate_coverage(rgb: Tensor) -> Tensor:
    """(3, H, W) on white -> (1, H, W) in [0, 1]: how much of each pixel the object covers.

    Unlike in `estimate_mask`, pixels beside the outside count by their darkness beside the darkest of their neighbours.
    """
    mask = estimate_mask(rgb)
    darkness = (1 - rgb.amin(dim=0))[None]
    darkest, outside = (max_pool2d(each, 3, stride=1, padding=1) for each in (darkness, (mask < 0.5).float()))
    return torch.where(outside > 0.5, torch.minimum(mask, darkness / darkest.clamp(min=1e-3)), mask)


def photo_silhouette(photo: SourcePhoto, longest: int | None = None) -> Tensor:
    """(h, w) of the photo's part: its mask, or what is not white, looked for in `longest` pixels along a side."""
    if photo.mask is not None:
        return photo.mask
    rgb = photo.rgb if longest is None else shrunk(photo.rgb, longest)
    return estimate_coverage(unit_range(rgb))[0]


def _listed(given: Any, name: str, one: int | None) -> list[Any]:  # noqa: ANN401 - whatever was given
    """Photos or masks as a list; `one` is how many a tensor or array of three axes holds, None for a single one."""
    if isinstance(given, Tensor | np.ndarray):
        return list(given) if given.ndim == 4 or (given.ndim == 3 and given.shape[0] == one) else [given]
    if isinstance(given, str | os.PathLike | Image.Image):
        return [given]
    if not isinstance(given, Sequence):
        raise InputError(f"{name} must be a list of them, got {type(given).__name__}; see prepare_views")
    return list(given)


@dataclass(frozen=True, eq=False)
class Photo:
    """One decoded picture, upright.

    rgb: (3, H, W), uint8 in 0..255 or float32 in [0, 1]; sRGB, not multiplied by the coverage.
    coverage: (H, W) in the same manner, full on the object; None if the picture says nothing about it.
    label: how messages call it, e.g. "photo 2 (cup.jpg)". name: its file, else the label.
    orientation: EXIF's, by which the stored pixels were turned.
    """

    rgb: Tensor
    coverage: Tensor | None
    label: str
    name: str
    orientation: int = 1
    distortion: Mapping[str, Any] | None = None  # that was taken out of it
    shrunk: int = 1  # how many pixels of the file are one along each side

    def straightened(self, lens: Lens) -> "Photo":
        """The photo as a pinhole would have it; white, and no object, where its lens did not reach."""
        lens = lens.resized((self.rgb.shape[2], self.rgb.shape[1]))  # large photos are read smaller
        rgb, known = lens.undistorted(self.rgb)
        coverage = None if self.coverage is None else lens.undistorted(self.coverage[None])[0][0] * known
        rgb = rgb.masked_fill_(~known, 1 if rgb.is_floating_point() else 255)
        return replace(self, rgb=rgb, coverage=coverage, distortion=lens.distortion)

    def source(self, box: Box) -> SourcePhoto:
        """Its own pixels in the square; of a file only these are kept, a caller's tensor is looked at."""
        height, width = self.rgb.shape[1:]
        left, right = (min(max(place, 0), width) for place in (math.floor(box[0]), math.ceil(box[2])))
        top, bottom = (min(max(place, 0), height) for place in (math.floor(box[1]), math.ceil(box[3])))
        parts = [self.rgb[:, top:bottom, left:right]]
        if self.coverage is not None:
            parts.append(self.coverage[top:bottom, left:right])
        whole = (left, top, right, bottom) == (0, 0, width, height)
        rgb, *mask = [part if whole or part.is_floating_point() else part.clone() for part in parts]
        mask_of = mask[0] if mask else None
        return SourcePhoto(self.name, (width, height), rgb, mask_of, (left, top), box, self.distortion)


def read_photo(source: PhotoSource, label: str = "photo 1", *, least: int | None = None) -> Photo:
    """Decodes one photo: a path, PIL image, uint8 array ((H, W), (H, W, 3|4)) or float tensor (1|3|4, H, W).

    Files and PIL images are turned upright by their EXIF tag, and become sRGB by their colour profile; an animation
    gives its first frame. 16-bit grey is taken as 0..65535, floating point as 0..1. An alpha channel (or a transparent
    colour) that is opaque everywhere says nothing about the object and is dropped.

    Args:
        label: how messages call the photo; a file's name is added.
        least: a JPEG file may be decoded 2, 4 or 8 times smaller, where its sides remain whole, the longer this long.
    """
    opened_here = isinstance(source, str | os.PathLike)  # a picture of the caller's own is not to become smaller
    name, shrunk = Path(source).as_posix() if isinstance(source, str | os.PathLike) else label, 1

    def read(image: Image.Image, label: str) -> np.ndarray:
        nonlocal shrunk
        if least and opened_here and image.format in ("JPEG", "MPO"):
            for factor in (8, 4, 2):
                if max(image.size) // factor >= least and image.width % factor == image.height % factor == 0:
                    image.draft(None, (image.width // factor, image.height // factor))
                    shrunk = factor
                    break
        return pixels(image, label)

    channels, label, way = _decode(source, label, read)
    _, height, width = channels.shape
    if min(height, width) < MIN_SIDE:
        wanted = f"{label} must be at least {MIN_SIDE} x {MIN_SIDE} pixels"
        raise PhotoError(f"{wanted}, got {width} x {height}; use a larger picture")
    if len(channels) in (1, 3):
        return Photo(channels.expand(3, height, width), None, label, name, way, shrunk=shrunk)
    opaque = bool((channels[-1] == (255 if channels.dtype == torch.uint8 else 1)).all())
    return Photo(channels[:-1].expand(3, height, width), None if opaque else channels[-1], label, name, way)


def read_mask(source: PhotoSource, photo: Photo, sense: Sense = "white") -> tuple[Tensor, PhotoNote]:
    """Decodes the mask of `photo` -> (H, W), uint8 or float32, full on the object, and how it was taken (masks.py).

    The source is as of a photo, or boolean. A picture gives its alpha channel where it has one that is not opaque, else
    its grey values or colours.
    """
    if isinstance(source, np.ndarray) and source.dtype == bool:
        source = torch.from_numpy(source)
    if isinstance(source, Tensor):
        source = source.float() if source.dtype == torch.bool else source
        source = source[None] if source.ndim == 2 else source
    channels, label, _ = _decode(source, f"mask of {photo.label}", _mask_channels)
    if len(channels) != 1 and isinstance(source, Tensor):
        raise PhotoError(f"{label} must be (H, W) or (1, H, W), got {tuple(channels.shape)}; give one channel")
    label, way = label.removeprefix("mask of "), photo.orientation
    return find_object(channels, photo.rgb, label, orientation=way, sense=sense, shrunk=photo.shrunk)


def _with_object(
    photo: Photo, mask: PhotoSource | None, sense: Sense, remove_background: bool, any_background: bool
) -> tuple[Photo, PhotoNote]:
    """The photo with its object's coverage, unless that is estimated later, and where it is from; warns of doubts."""
    coverage, note = photo.coverage, PhotoNote("its transparency", False)
    white = border_median(photo.rgb)
    if mask is not None:
        found, note = read_mask(mask, photo, sense)
        coverage = found if coverage is None else unit_range(found) * unit_range(coverage)
    elif coverage is None and remove_background:
        try:
            from rembg import remove
        except (ImportError, SystemExit) as error:  # rembg ends the process where onnxruntime is missing
            wanted = "removing backgrounds needs the package rembg, which is not installed"
            raise MissingPackageError(f'{wanted}; run: pip install "rembg[cpu]"') from error
        picture = Image.fromarray(to_8bit(rearrange(unit_range(photo.rgb), "c h w -> h w c")))
        coverage = torch.from_numpy(np.array(remove(picture, only_mask=True).convert("L")))
        note = PhotoNote("found by rembg", False)
    elif coverage is None and white.min() >= ON_WHITE:
        note = PhotoNote("on white, the object is what is not", False)
    elif coverage is None:
        wrong = "its border is not white (its median is {:.0f}, {:.0f}, {:.0f} of 255)".format(*(255 * white))
        note = PhotoNote(f"no mask and no alpha, and {wrong}: all that is not white is taken as the object", True)
        if not any_background:
            rule = f"{photo.label} must tell where its object is, but has no mask and no alpha, and {wrong}"
            ways = "give a --mask, or let --remove-background find the object, or take it as it is by --any-background"
            raise PhotoError(f"{rule}; {ways}")
    if note.doubtful:
        warnings.warn(f"{photo.label}: {note.text}", stacklevel=3)
    return replace(photo, coverage=coverage), note


def _clamped(values: Tensor, label: str) -> Tensor:
    try:  # they may leave [0, 1] by rounding only
        check_unit_range(label, values, "divide 8-bit values by 255")
    except InputError as error:
        raise PhotoError(str(error)) from error
    return values.float().clamp(0, 1)


def _decode(source: PhotoSource, label: str, read: Callable[[Image.Image, str], np.ndarray]) -> tuple[Tensor, str, int]:
    """Channels (C, H, W) of a tensor, or by `read`; the label with the file's name; by which orientation of EXIF's."""
    if isinstance(source, Tensor):
        shape = tuple(source.shape)
        if source.ndim != 3 or shape[0] not in (1, 3, 4):
            last = source.ndim == 3 and shape[-1] in (1, 3, 4)
            advice = "its channels come last: use .permute(2, 0, 1)" if last else "give one picture, channels first"
            raise PhotoError(f"{label} must be (3, H, W), (4, H, W) or (1, H, W), got {shape}; {advice}")
        return _clamped(source.detach().cpu(), label), label, 1
    if isinstance(source, np.ndarray):
        fits = source.ndim == 2 or (source.ndim == 3 and source.shape[2] in (3, 4))
        if source.dtype != np.uint8 or not fits or not source.size:
            wanted, found = "uint8 (H, W), (H, W, 3) or (H, W, 4)", f"{source.dtype} {source.shape}"
            raise PhotoError(f"{label} as an array must be {wanted}, got {found}; give floats as a (3, H, W) tensor")
        source = Image.fromarray(source)
    reason = {"advice": "save it anew as PNG or JPEG", "what": "a whole picture file"}
    if isinstance(source, Image.Image):
        with reading(label, **reason, error=PhotoError):
            check_picture(source, label)
            way = orientation(source) if source.format == "TIFF" else 0  # decoded it tells no more
            channels = torch.from_numpy(read(source, label))
            way = way or orientation(source)  # others later: to look may decode, after which no file tells its bits
        return _clamped(channels, label) if channels.is_floating_point() else channels, label, way
    if not isinstance(source, str | os.PathLike):
        raise PhotoError(f"{label} must be a path, a PIL image or a tensor, got {type(source).__name__}; convert it")
    path = Path(source)
    if not os.path.exists(path):  # unlike pathlib's, also false for names that no file can have
        raise PhotoError(f"{label} must be a picture, but there is no file {path!s:.300}; check the path")
    if path.is_dir():
        raise PhotoError(f"{label} must be a picture, but {path} is a folder; name the files in it")
    label = f"{label} ({path.name:.100})"
    with reading(label, **reason, error=PhotoError):
        image = open_picture(path)
    with image:
        return _decode(image, label, read)


def _mask_channels(image: Image.Image, label: str) -> np.ndarray:
    found = pixels(image, label, is_mask=True)
    if found.dtype != np.uint8 and found.max() <= 255 / 65535:  # numbers of classes in 16 bits
        found = np.rint(65535 * found).astype(np.uint8)
    if len(found) in (2, 4) and found[-1].min() < (255 if found.dtype == np.uint8 else 1):
        return np.ascontiguousarray(found[-1:])
    if len(found) < 3:
        return found[:1]
    colors = np.ascontiguousarray(found[:3])
    if np.ptp(colors, axis=0).max() > _GREY_ENOUGH:
        return colors
    if image.mode == "P" and colors.min() == colors.max():  # a palette that tells nothing
        return np.ascontiguousarray(turned(np.array(image), orientation(image)))[None]
    return np.array(Image.fromarray(np.ascontiguousarray(colors.transpose(1, 2, 0))).convert("L"))[None]


def _frame(photo: Photo, size: int, margin: float, crop: bool) -> tuple[Tensor, Tensor, SourcePhoto]:
    """The photo on white in its square -> rgb (3, size, size), mask (size, size), and what they were made from."""
    height, width = photo.rgb.shape[1:]
    coverage = photo.coverage
    if coverage is not None and float(unit_range(coverage.max())) < 0.05:
        check_tells(coverage, photo.label)
    if crop and coverage is not None:  # to the pixels that are covered at least half as much as any
        box = squared(bounds((coverage >= coverage.max() / 2).numpy()), margin)
    else:
        if min(width, height) * size < _NARROWEST * max(width, height):
            wrong = f"{photo.label} is too narrow to be framed as a square, got {width} x {height}"
            raise PhotoError(f"{wrong}; cut it to the object, or give a mask")
        box = squared((0, 0, width, height), 1.0)
    source = photo.source(box)
    untouched = box == (0, 0, size, size) and (height, width) == (size, size)
    beside = () if coverage is None else (coverage,)
    channels = []
    for color in photo.rgb:
        if untouched:
            channels.append(_on_white(color, *beside))
        else:  # as darkness white is 0: what is outside adds nothing to a filter, no fringe of colours hidden by alpha
            darkness = resample(color, box, size, *beside, of=lambda *planes: 1 - _on_white(*planes))
            channels.append(1 - darkness)
    rgb = torch.stack(channels).clamp(0, 1)
    if coverage is not None:
        return rgb, (unit_range(coverage) if untouched else resample(coverage, box, size)).clamp(0, 1), source
    white = border_median(photo.rgb)
    if ON_WHITE <= white.min() < 1 - WHITE_ENOUGH:  # paper
        rgb = (rgb / white[:, None, None]).clamp(max=1)
    mask = estimate_mask(rgb)[0]
    if mask.max() < 0.5:
        wanted = f"{photo.label} must show an object, but it is white all over"
        raise PhotoError(f"{wanted}; choose another photo or give a mask")
    return rgb, mask, source


def _on_white(color: Tensor, coverage: Tensor | None = None) -> Tensor:
    if coverage is None:
        return unit_range(color)
    covered = unit_range(coverage)
    return unit_range(color) * covered + (1 - covered)


def resample(values: Tensor, box: Box, size: int, *beside: Tensor, of: Callable[..., Tensor] = unit_range) -> Tensor:
    """The part `box` (left, top, right, bottom in pixels, may lie outside) of (H, W) values -> (size, size).

    Separable bicubic (a = -0.5), widened when shrinking, so that nothing aliases; not clamped, and zero outside the
    picture, whose top left corner is (0, 0). What is filtered is `of(values, *beside)`, which is made band by band.
    """
    left, top, right, bottom = box
    rows, row_weights = _weights(values.shape[0], top, bottom, size)
    columns, column_weights = _weights(values.shape[1], left, right, size)
    planes = [plane[rows, columns] for plane in (values, *beside)]
    height, width = planes[0].shape
    band = max(64, _BAND // max(1, width))
    if height <= band:
        return row_weights @ of(*planes) @ column_weights.T
    shrunk = torch.zeros(size, width)
    for top in range(0, height, band):
        weights = row_weights[:, top : top + band]
        reached = weights.any(dim=1)  # the few rows of the result to which this band adds
        shrunk[reached] += weights[reached] @ of(*(plane[top : top + band] for plane in planes))
    return shrunk @ column_weights.T


def _weights(length: int, start: float, stop: float, size: int) -> tuple[slice, Tensor]:
    """Filter taps along one axis: which of `length` pixels are read, and (size, taps) weights for them."""
    scale = (stop - start) / size
    support = max(scale, 1.0)
    centers = start + (torch.arange(size, dtype=torch.float64) + 0.5) * scale
    taps = torch.arange(math.floor(start - 2 * support), math.ceil(stop + 2 * support), dtype=torch.float64)
    distance = ((taps + 0.5 - centers[:, None]) / support).abs()
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(distance)))
    weights = weights / weights.sum(dim=1, keepdim=True)  # over all pixels, those outside the picture included
    first, last = max(0, int(taps[0])), min(length, int(taps[-1]) + 1)
    first = min(first, last)
    chosen = weights[:, first - int(taps[0]) : last - int(taps[0])]
    return slice(first, last), chosen.float()
