"""Recorded pictures -> square views on white, with the camera that goes with the part shown."""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import PhotoError
from ..types import Cameras

FRAME_MARGIN = 1.15
"""Side of the crop over the longer side of the object's box, as in the preparation of Co3Dv2."""

DECODING_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, TypeError, OverflowError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)
"""What Pillow's readers raise on damaged files."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Frame:
    """One recorded picture.

    camera: one, in the recording's world, for the whole picture: NDC runs from border to border in x and in y.
    image, mask: files; without a mask the picture's alpha tells the object, else whatever is not pure white is object.
    size: (H, W) that the camera was given for, which the picture must have; None if the camera fits any.
    threshold: of the mask's probability, at and above which a pixel is object.
    """

    camera: Cameras
    image: Path
    mask: Path | None = None
    size: tuple[int, int] | None = None
    threshold: float = 0.4


def framed(frame: Frame, size: int, margin: float | None) -> tuple[Tensor, Tensor, Cameras]:
    """A frame's object on white -> rgb (3, size, size), mask (1, size, size) in [0, 1], and the camera of the crop.

    Args:
        frame: what was recorded.
        size: side of the result in pixels.
        margin: side of the crop over the longer side of the object's box; what leaves the picture is white. None
            keeps the whole picture, padded with white to a square.

    Raises:
        PhotoError: a file is missing or damaged, its size is not the camera's, or the mask is empty.
    """
    rgb, mask = _on_white(frame)
    height, width = mask.shape
    inside = mask >= 0.5
    if not inside.any():
        raise PhotoError(f"the mask of {frame.image.name} must cover the object, but it is empty; leave the frame out")
    box = _squared((0, 0, width, height), 1.0) if margin is None else _squared(_bounds(inside), margin)
    pixels = np.concatenate([rgb, np.rint(255 * mask)[..., None]], axis=-1).astype(np.uint8)
    view = torch.from_numpy(_resized(pixels, box, size)).permute(2, 0, 1).float() / 255
    return view[:3].contiguous(), view[3:].contiguous(), cropped_camera(frame.camera, (height, width), box)


def cropped_camera(camera: Cameras, size: tuple[int, int], box: Box) -> Cameras:
    """The camera of a part of the picture: same place and direction, focal length and principal point updated.

    Args:
        camera: of the whole picture.
        size: (H, W) of the whole picture in pixels.
        box: left, top, right, bottom of the part in pixels, (0, 0) the top left corner; may leave the picture.
    """
    left, top, right, bottom = box
    whole = torch.tensor([size[1], size[0]], dtype=torch.float64)
    part = torch.tensor([right - left, bottom - top], dtype=torch.float64)
    principal = (1 - camera.principal.double()) * whole / 2 - torch.tensor([left, top], dtype=torch.float64)
    return Cameras(camera.camera_to_world, camera.focal.double() * whole / part, 1 - 2 * principal / part)


def _on_white(frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) in 0..255 on white and (H, W) in [0, 1], float32."""
    picture = _decoded(frame.image, "RGBA")
    colors, alpha = picture[..., :3], picture[..., 3] / 255
    height, width = alpha.shape
    if frame.size is not None and (height, width) != tuple(frame.size):
        raise PhotoError(
            f"{frame.image.name} must be {frame.size[1]} x {frame.size[0]} pixels as its camera says, "
            f"got {width} x {height}; fetch the original picture"
        )
    if frame.mask is not None:
        mask = (_decoded(frame.mask, "L") / 255 >= frame.threshold).astype(np.float32)
        if mask.shape != alpha.shape:
            raise PhotoError(
                f"{frame.mask.name} must have its picture's size, {width} x {height}, "
                f"got {mask.shape[1]} x {mask.shape[0]}; fetch the original mask"
            )
    elif (alpha < 1).any():
        mask = alpha
    else:
        return colors, (colors.min(axis=-1) < 255).astype(np.float32)
    return colors * mask[..., None] + 255 * (1 - mask[..., None]), mask


def _decoded(path: Path, mode: str) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert(mode), dtype=np.float32)
    except FileNotFoundError as error:
        raise PhotoError(f"{path.name} is missing; fetch it again") from error
    except DECODING_ERRORS as error:
        raise PhotoError(f"{path.name} cannot be decoded ({error}); fetch it again") from error


def _bounds(inside: np.ndarray) -> Box:
    """Left, top, right, bottom of the true pixels, borders included."""
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _squared(box: Box, margin: float) -> Box:
    """The square about the box's centre whose side is the longer side of the box times `margin`."""
    left, top, right, bottom = box
    half = max(right - left, bottom - top) * margin / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    return x - half, y - half, x + half, y + half


def _resized(pixels: np.ndarray, box: Box, size: int) -> np.ndarray:
    """The part `box` of (H, W, 4) colours and mask -> (size, size, 4), white and no object outside the picture.

    Bicubic, widened when shrinking, channel by channel: the colours are on white already and need no alpha.
    """
    height, width, _ = pixels.shape
    left, top, right, bottom = box
    before_x, before_y = max(0, math.ceil(-left)), max(0, math.ceil(-top))
    after_x, after_y = max(0, math.ceil(right - width)), max(0, math.ceil(bottom - height))
    room = ((before_y, after_y), (before_x, after_x))
    shifted = (left + before_x, top + before_y, right + before_x, bottom + before_y)
    channels = []
    for number in range(4):
        padded = np.pad(pixels[..., number], room, constant_values=0 if number == 3 else 255)
        channel = Image.fromarray(padded).resize((size, size), Image.Resampling.BICUBIC, box=shifted)
        channels.append(np.asarray(channel))
    return np.stack(channels, axis=-1)
