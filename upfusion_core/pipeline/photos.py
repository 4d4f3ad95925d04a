"""Decoding photos and masks: paths, PIL images, arrays and tensors of any mode -> colours and coverage."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..support.checks import check_finite
from ..support.errors import PhotoError
from ..support.files import reading
from ..support.images import check_picture, open_picture, too_large

PhotoSource = str | os.PathLike[str] | Image.Image | Tensor | np.ndarray
"""What a photo or a mask may be given as."""

MIN_SIDE = 8
"""Smaller pictures show no object."""


@dataclass(frozen=True, eq=False)
class Photo:
    """One decoded picture, upright.

    rgb: (3, H, W), uint8 in 0..255 or float32 in [0, 1]; sRGB, not multiplied by the coverage.
    coverage: (H, W) in the same manner, full on the object; None if the picture says nothing about it.
    label: how messages call it, e.g. "photo 2 (cup.jpg)".
    """

    rgb: Tensor
    coverage: Tensor | None
    label: str

    @property
    def height(self) -> int:
        """Rows of pixels."""
        return self.rgb.shape[1]

    @property
    def width(self) -> int:
        """Columns of pixels."""
        return self.rgb.shape[2]


def unit_range(values: Tensor) -> Tensor:
    """uint8 in 0..255 or float32 in [0, 1] -> float32 in [0, 1]."""
    return values.float() / 255 if values.dtype == torch.uint8 else values


def read_photo(source: PhotoSource, label: str = "photo 1") -> Photo:
    """Decodes one photo.

    Files and PIL images are turned upright by their EXIF tag; an animation gives its first frame. 16-bit grey is taken
    as 0..65535, floating point as 0..1. An alpha channel (or a transparent colour) that is opaque everywhere says
    nothing about the object and is dropped.

    Args:
        source: a path, a PIL image, a uint8 array ((H, W), (H, W, 3) or (H, W, 4)) or a float tensor (1|3|4, H, W).
        label: how messages call the photo; a file's name is added.
    """
    if isinstance(source, Tensor):
        channels = _from_tensor(source, label)
    else:
        channels, label = _decode(source, label, _channels)
    _, height, width = channels.shape
    if min(height, width) < MIN_SIDE:
        raise PhotoError(
            f"{label} must be at least {MIN_SIDE} x {MIN_SIDE} pixels, got {width} x {height}; use a larger picture"
        )
    coverage = channels[-1] if len(channels) in (2, 4) else None
    colors = channels[:-1] if coverage is not None else channels
    if coverage is not None and bool((unit_range(coverage) == 1).all()):
        coverage = None
    return Photo(colors.expand(3, height, width), coverage, label)


def read_mask(source: PhotoSource, photo: Photo) -> Tensor:
    """Decodes the mask of `photo` -> (H, W), uint8 or float32, full on the object.

    A picture gives its grey value, or its alpha channel where it has one that is not opaque.

    Args:
        source: a path, a PIL image, a uint8 or boolean array (H, W), or a float or boolean tensor (H, W) or (1, H, W).
        photo: the photo, whose size the mask must have.
    """
    label = f"mask of {photo.label}"
    if isinstance(source, np.ndarray) and source.dtype == bool:
        source = torch.from_numpy(source)
    if isinstance(source, Tensor):
        source = source.float() if source.dtype == torch.bool else source
        channels = _from_tensor(source[None] if source.ndim == 2 else source, label)
    else:
        channels, label = _decode(source, label, _mask_channels)
    if len(channels) != 1:
        raise PhotoError(f"{label} must be (H, W) or (1, H, W), got {tuple(channels.shape)}; give one channel")
    mask = channels[0]
    if mask.shape != photo.rgb.shape[1:]:
        raise PhotoError(
            f"{label} must have the photo's size, {photo.width} x {photo.height}, "
            f"got {mask.shape[1]} x {mask.shape[0]}; make it from the same picture"
        )
    return mask


def _from_tensor(tensor: Tensor, label: str) -> Tensor:
    shape = tuple(tensor.shape)
    if tensor.ndim != 3 or shape[0] not in (1, 3, 4):
        last = tensor.ndim == 3 and shape[-1] in (1, 3, 4)
        advice = "its channels come last: use .permute(2, 0, 1)" if last else "give one picture, channels first"
        raise PhotoError(f"{label} must be (3, H, W), (4, H, W) or (1, H, W), got {shape}; {advice}")
    if not tensor.is_floating_point():
        raise PhotoError(
            f"{label} must be a floating-point tensor in [0, 1], got {tensor.dtype}; use .float() / 255 on 8-bit values"
        )
    tensor = tensor.detach().to("cpu", torch.float32)
    if tensor.numel():
        _check_values(tensor, label)
    return tensor.clamp(0, 1)


def _check_values(values: Tensor, label: str) -> None:
    try:
        check_finite(label, values)
    except ValueError as error:
        raise PhotoError(str(error)) from error
    low, high = float(values.min()), float(values.max())
    if low < -1e-3 or high > 1 + 1e-3:
        raise PhotoError(f"{label} must hold values in [0, 1], got [{low:.4g}, {high:.4g}]; divide 8-bit values by 255")


def _decode(
    source: str | os.PathLike[str] | Image.Image | np.ndarray,
    label: str,
    read: Callable[[Image.Image, str], np.ndarray],
) -> tuple[Tensor, str]:
    """The channels (C, H, W) that `read` finds in a file, PIL image or uint8 array, and the label with its name."""
    if isinstance(source, np.ndarray):
        fits = source.ndim == 2 or (source.ndim == 3 and source.shape[2] in (3, 4))
        if source.dtype != np.uint8 or not fits:
            raise PhotoError(
                f"{label} as an array must be uint8 (H, W), (H, W, 3) or (H, W, 4), "
                f"got {source.dtype} {source.shape}; give floats as a channels-first tensor"
            )
        height, width = source.shape[:2]
        if source.size == 0:
            raise PhotoError(f"{label} must hold pixels, got {width} x {height}; choose another picture")
        source = Image.fromarray(source)
    if isinstance(source, Image.Image):
        return _decode_image(source, label, read), label
    if not isinstance(source, str | os.PathLike):
        raise PhotoError(f"{label} must be a path, a PIL image or a tensor, got {type(source).__name__}; convert it")
    path = Path(source)
    if not os.path.exists(path):  # unlike pathlib's, also false for names that no file can have
        raise PhotoError(f"{label} must be a picture, but there is no file {path!s:.300}; check the path")
    if path.is_dir():
        raise PhotoError(f"{label} must be a picture, but {path} is a folder; name the files in it")
    if not path.is_file():
        raise PhotoError(f"{label} must be a picture, but {path} is a device or pipe; name a file")
    label = f"{label} ({path.name:.100})"
    with _decoding(label):
        try:
            image = open_picture(path)
        except Image.DecompressionBombError as error:
            raise PhotoError(too_large(label, "more")) from error
    with image:
        return _decode_image(image, label, read), label


def _decoding(label: str) -> AbstractContextManager[None]:
    return reading(label, "save it anew as PNG or JPEG", what="a whole picture file", error=PhotoError)


def _decode_image(image: Image.Image, label: str, read: Callable[[Image.Image, str], np.ndarray]) -> Tensor:
    check_picture(image, label)
    with _decoding(label):
        tensor = torch.from_numpy(read(ImageOps.exif_transpose(image), label))
    if tensor.dtype == torch.float32:
        _check_values(tensor, label)
        tensor = tensor.clamp(0, 1)
    return tensor


def _channels(image: Image.Image, label: str) -> np.ndarray:
    """(C, H, W): C = 1 grey, 2 grey and alpha, 3 colour, 4 colour and alpha; uint8, or float32 in [0, 1]."""
    if image.mode.startswith("I"):
        values = np.array(image).astype(np.float32)
        if image.mode == "I" and values.min() >= 0 and values.max() <= 255:  # Pillow's way to widen 8-bit grey
            return values[None] / np.float32(255)
        if values.min() < 0 or values.max() > 65535:
            raise PhotoError(
                f"{label} must hold 16-bit grey values in 0..65535, got {values.min():.0f}..{values.max():.0f}; "
                "save it as 8 or 16 bit"
            )
        return values[None] / np.float32(65535)
    if image.mode == "F":
        return np.array(image, dtype=np.float32)[None]
    if image.has_transparency_data:
        mode = "LA" if image.mode == "LA" else "RGBA"
    else:
        mode = "L" if image.mode in ("1", "L") else "RGB"
    pixels = np.array(image.convert(mode))
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)


def _mask_channels(image: Image.Image, label: str) -> np.ndarray:
    if not image.mode.startswith(("I", "F")) and image.has_transparency_data:
        alpha = np.array(image.convert("RGBA").getchannel("A"))
        if alpha.min() < 255:
            return alpha[None]
    if image.mode not in ("1", "L", "F") and not image.mode.startswith("I"):
        image = image.convert("RGB").convert("L")
    return _channels(image, label)
