"""Photos -> InputViews: background made white, object framed in a square, resized to the model's size."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from skimage.measure import label
from torch import Tensor
from torch.nn.functional import max_pool2d

from ..config import MAX_PHOTOS
from ..data.recorded import FRAME_MARGIN, Box, bounds, squared
from ..support.checks import check_count, check_range, check_shape, check_unit_range
from ..support.errors import InputError, MissingPackageError, PhotoError
from ..support.images import to_8bit
from ..types import REFERENCE_FOCAL, InputViews
from .photos import Photo, PhotoSource, read_mask, read_photo, unit_range

_WHITE_ENOUGH, _SURELY_OBJECT = 8 / 255, 32 / 255
"""Darkness below the first is JPEG noise on white (the released demo photos stay under it), above the second object."""

_SMALL_PLACE = 0.01
"""Part of the picture below which white enclosed by the object is taken as a white part of it."""

_NARROWEST = 8
"""Pixels of the result that a whole photo must cover in its shorter direction."""


def prepare_views(
    images: PhotoSource | Sequence[PhotoSource],
    masks: PhotoSource | Sequence[PhotoSource | None] | None = None,
    *,
    size: int = 256,
    margin: float = FRAME_MARGIN,
    crop: bool = True,
    remove_background: bool = False,
) -> InputViews:
    """1 to 6 photos of one object -> InputViews with rgb (V, 3, size, size), float32 on the CPU.

    A photo with a mask or an alpha channel is composited on white (in sRGB, straight alpha) and cropped to a square
    round the object, which white fills where it leaves the photo. A photo with neither is **taken as already on white
    and framed**: it is padded to a square with white and resized, never cropped, and one that is already size x size
    comes through unchanged; its mask is estimated as what is not white. The focal length is set to 4.5, the only
    one that the released networks know.

    Args:
        images: paths, PIL images, uint8 arrays (H, W, 3), or float tensors (1|3|4, H, W) in [0, 1] of any size; one of
            them alone; or a (V, C, H, W) batch. The first is the reference photo, the order of the others is free.
        masks: one a photo, of its size, 1 on the object; None, or None for a photo, leaves it to the photo's alpha.
            With both, their product counts.
        size: side of the results in pixels, the model's image size.
        margin: side of the crop over the longer side of the object's box, at least 1.
        crop: whether photos with a mask or alpha are cropped to the object; if not, they are padded like the others.
        remove_background: finds the object by `rembg` in photos that have neither mask nor alpha. That package
            fetches its own network on its first use.

    Raises:
        PhotoError: a photo or mask cannot be used. InputError: wrong number of them, or a wrong option.
        MissingPackageError: `rembg` is wanted and not installed.
    """
    check_count("size", size, 16, 4096)
    check_range("margin", margin, 1.0, 8.0)
    sources = _listed(images, "images", None)
    if not 1 <= len(sources) <= MAX_PHOTOS:
        raise InputError(f"expected 1 to {MAX_PHOTOS} photos, got {len(sources)}; choose the most different views")
    count = len(sources)
    mask_sources = [None] * count if masks is None else _listed(masks, "masks", count)
    if len(mask_sources) != count:
        raise InputError(
            f"expected one mask for each of {count} photos, got {len(mask_sources)}; give as many, in order"
        )
    rgb, coverage = [], []
    for index, (source, mask_source) in enumerate(zip(sources, mask_sources, strict=True)):
        photo = read_photo(source, f"photo {index + 1}")
        if mask_source is not None:
            mask = read_mask(mask_source, photo)
            if photo.coverage is not None:
                mask = unit_range(mask) * unit_range(photo.coverage)
            photo = replace(photo, coverage=mask)
        if remove_background and photo.coverage is None:
            photo = _without_background(photo)
        colors, mask = _frame(photo, size, margin, crop)
        rgb.append(colors)
        coverage.append(mask)
    focal = torch.full((len(rgb), 2), REFERENCE_FOCAL, dtype=torch.float32)
    return InputViews(torch.stack(rgb), torch.stack(coverage)[:, None], focal)


def estimate_mask(rgb: Tensor) -> Tensor:
    """(3, H, W) on white -> (1, H, W) in [0, 1]: what is not white, with a soft edge, deaf to JPEG noise.

    Small white places inside the object (eyes, highlights) count as object, large ones (under a handle) do not.
    """
    check_shape("rgb", rgb, (3, "H", "W"), "one picture, channels first")
    if not rgb.numel():
        raise InputError(f"rgb must hold pixels, got {tuple(rgb.shape)}; give a picture")
    check_unit_range("rgb", rgb, "divide 8-bit values by 255")
    darkness = 1 - rgb.detach().cpu().float().amin(dim=0)
    mask = ((darkness - _WHITE_ENOUGH) / (_SURELY_OBJECT - _WHITE_ENOUGH)).clamp(0, 1)
    places = label((mask < 0.5).numpy(), connectivity=1)  # 0 is the object; the others are white places
    areas = np.bincount(places.ravel())
    border = np.unique(np.concatenate([places[0], places[-1], places[:, 0], places[:, -1]]))
    small = areas < _SMALL_PLACE * places.size
    small[0] = small[border] = False
    return torch.where(torch.from_numpy(small[places]), torch.ones_like(mask), mask)[None]


def estimate_coverage(rgb: Tensor, reach: int = 1) -> Tensor:
    """(3, H, W) on white -> (1, H, W) in [0, 1]: how much of each pixel the object covers.

    `estimate_mask` finds all that is not white, and so takes pixels on the outline for object that it covers in part.
    Within `reach` pixels of the outside they count here by their darkness beside the darkest within `reach` of them.
    """
    mask = estimate_mask(rgb)
    width = 2 * reach + 1
    darkness = (1 - rgb.amin(dim=0))[None]
    darkest = max_pool2d(darkness, width, stride=1, padding=reach)
    outline = max_pool2d((mask < 0.5).float(), width, stride=1, padding=reach) > 0
    return torch.where(outline, torch.minimum(mask, darkness / darkest.clamp(min=1e-3)), mask)


def resample(values: Tensor, box: Box, size: int) -> Tensor:
    """The part `box` of (H, W) values -> (size, size), zero outside the picture; not clamped.

    Separable bicubic (a = -0.5), widened when shrinking, so that nothing aliases.

    Args:
        values: (H, W), uint8 (then divided by 255) or float32.
        box: left, top, right, bottom in pixels of the picture, (0, 0) its top left corner; may lie outside.
        size: side of the result.
    """
    left, top, right, bottom = box
    rows, row_weights = _weights(values.shape[0], top, bottom, size)
    columns, column_weights = _weights(values.shape[1], left, right, size)
    return row_weights @ unit_range(values[rows, columns]) @ column_weights.T


def _listed(given: Any, name: str, one: int | None) -> list[Any]:  # noqa: ANN401 - whatever was given
    """Photos or masks as a list; `one` is how many a tensor or array of three axes holds, None for a single one."""
    if isinstance(given, Tensor | np.ndarray):
        return list(given) if given.ndim == 4 or (given.ndim == 3 and given.shape[0] == one) else [given]
    if isinstance(given, str | os.PathLike | Image.Image):
        return [given]
    if isinstance(given, Sequence):
        return list(given)
    raise InputError(
        f"{name} must be a list of {name.replace('images', 'photos')}, got {type(given).__name__}; see prepare_views"
    )


def _without_background(photo: Photo) -> Photo:
    try:
        from rembg import remove
    except (ImportError, SystemExit) as error:  # rembg ends the process where onnxruntime is missing
        raise MissingPackageError(
            'removing backgrounds needs the package rembg, which is not installed; run: pip install "rembg[cpu]"'
        ) from error
    pixels = to_8bit(rearrange(unit_range(photo.rgb), "c h w -> h w c"))
    found = remove(Image.fromarray(pixels), only_mask=True)
    return replace(photo, coverage=torch.from_numpy(np.array(found.convert("L"))))


def _frame(photo: Photo, size: int, margin: float, crop: bool) -> tuple[Tensor, Tensor]:
    """The photo on white in its square -> rgb (3, size, size), mask (size, size)."""
    object_box = None if photo.coverage is None else _object_box(photo)
    if crop and object_box is not None:
        box = squared(object_box, margin)
    else:
        shorter, longer = sorted((photo.width, photo.height))
        if shorter * size < _NARROWEST * longer:
            raise PhotoError(
                f"{photo.label} is too narrow to be framed as a square, got {photo.width} x {photo.height}; "
                "cut it to the object, or give a mask"
            )
        box = squared((0, 0, photo.width, photo.height), 1.0)
    untouched = box == (0, 0, size, size) and (photo.height, photo.width) == (size, size)
    channels = []
    for color in photo.rgb:
        color = unit_range(color)
        if photo.coverage is not None:
            coverage = unit_range(photo.coverage)
            color = color * coverage + (1 - coverage)
        # White is 0 in terms of darkness: what lies outside the object or the photo then adds nothing to a filter, so
        # that no edge gets a fringe of the colours that were hidden under alpha.
        channels.append(color if untouched else 1 - resample(1 - color, box, size))
    rgb = torch.stack(channels).clamp(0, 1)
    if photo.coverage is not None:
        mask = unit_range(photo.coverage) if untouched else resample(photo.coverage, box, size)
        return rgb, mask.clamp(0, 1)
    mask = estimate_mask(rgb)[0]
    if mask.max() < 0.5:
        raise PhotoError(
            f"{photo.label} must show an object, but it is white all over; choose another photo or give a mask"
        )
    return rgb, mask


def _object_box(photo: Photo) -> Box:
    """Left, top, right, bottom of the pixels that the mask covers at least half as much as any."""
    assert photo.coverage is not None, "asked only where there is a mask"
    coverage = unit_range(photo.coverage)
    most = float(coverage.max())
    if most < 0.05:
        raise PhotoError(
            f"the mask or alpha channel of {photo.label} must cover the object, but it is empty; "
            "paint the object white, or swap inside and outside"
        )
    return bounds((coverage >= most / 2).numpy())


def _weights(length: int, start: float, stop: float, size: int) -> tuple[slice, Tensor]:
    """Filter taps along one axis: which of `length` pixels are read, and (size, taps) weights for them.

    Rows sum to 1 over all pixels, those outside the picture included: only these are then left out.
    """
    scale = (stop - start) / size
    support = max(scale, 1.0)
    centers = start + (torch.arange(size, dtype=torch.float64) + 0.5) * scale
    taps = torch.arange(math.floor(start - 2 * support), math.ceil(stop + 2 * support), dtype=torch.float64)
    distance = ((taps + 0.5 - centers[:, None]) / support).abs()
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(distance)))
    weights = weights / weights.sum(dim=1, keepdim=True)
    first, last = max(0, int(taps[0])), min(length, int(taps[-1]) + 1)
    first = min(first, last)
    chosen = weights[:, first - int(taps[0]) : last - int(taps[0])]
    return slice(first, last), chosen.float()
