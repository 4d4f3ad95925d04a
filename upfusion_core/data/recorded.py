"""What all readers of recorded views share: choosing, framing, normalising, and counting what is broken."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..support.checks import check_count, check_range
from ..support.errors import PhotoError
from ..support.files import reading
from ..support.images import check_picture, open_picture
from ..types import Cameras
from .views import PosedViews, StoredObject, StoredViews, normalise

FRAME_MARGIN = 1.15
"""Side of the crop over the longer side of the object's box, as in the preparation of Co3Dv2."""
_LONGEST_SIDE = 20_000
"""Pixels; pictures are padded to squares, which takes the square of it in bytes a channel."""
MASK_THRESHOLD = 0.4
"""Probability of a mask at and above which a pixel is object, customarily 0.4 to 0.5."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels, (0, 0) the top left corner; may leave the picture."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One recorded picture.

    camera: one, in the recording's world, for the whole picture: NDC runs from border to border in x and in y.
    image, mask: files; without a mask the picture's alpha tells the object, else whatever is not pure white is object.
    size: (H, W) that the camera was given for, which the picture must have; None if the camera fits any.
    """

    camera: Cameras
    image: Path
    mask: Path | None = None
    size: tuple[int, int] | None = None


def framed(frame: Frame, size: int, margin: float | None) -> tuple[Tensor, Tensor, Cameras]:
    """A frame's object on white -> rgb (3, size, size), mask (1, size, size) in [0, 1], and the camera of the crop.

    Args:
        margin: side of the crop over the longer side of the object's box; what leaves the picture is white. None
            keeps the whole picture, padded with white to a square.

    Raises:
        PhotoError: a file is missing or damaged, its size is not the camera's, or the mask is empty.
    """
    colors, mask = _read(frame)
    height, width = mask.shape
    inside = mask >= 128
    if not inside.any():
        raise PhotoError(f"the mask of {frame.image.name} must cover the object, but it is empty; leave the frame out")
    box = squared((0, 0, width, height), 1.0) if margin is None else squared(bounds(inside), margin)
    view = torch.from_numpy(_resized(colors, mask, box, size)).float() / 255
    left, top, right, bottom = box
    camera, whole = frame.camera, torch.tensor([width, height], dtype=torch.float64)
    part = torch.tensor([right - left, bottom - top], dtype=torch.float64)
    principal = (1 - camera.principal.double()) * whole / 2 - torch.tensor([left, top], dtype=torch.float64)
    cropped = Cameras(camera.camera_to_world, camera.focal.double() * whole / part, 1 - 2 * principal / part)
    return view[:3], view[3:], cropped


def _read(frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) colours as they were recorded, and (H, W) mask; both uint8."""
    picture = _decoded(frame.image, "RGBA")
    colors, alpha = picture[..., :3], picture[..., 3]
    height, width = alpha.shape
    if frame.size is not None and (height, width) != frame.size:
        raise PhotoError(
            f"{frame.image.name} must be {frame.size[1]} x {frame.size[0]} pixels as its camera says, "
            f"got {width} x {height}; fetch the original picture"
        )
    if frame.mask is None:
        return colors, alpha if (alpha < 255).any() else np.where(colors.min(axis=-1) < 255, 255, 0).astype(np.uint8)
    mask = _decoded(frame.mask, "L")
    if mask.shape != alpha.shape:
        raise PhotoError(
            f"{frame.mask.name} must have its picture's size, {width} x {height}, "
            f"got {mask.shape[1]} x {mask.shape[0]}; fetch the original mask"
        )
    return colors, np.where(mask >= 255 * MASK_THRESHOLD, 255, 0).astype(np.uint8)


def _decoded(path: Path, mode: str) -> np.ndarray:
    """(H, W) or (H, W, C) uint8."""
    with reading(path.name, "fetch it again", error=PhotoError), open_picture(path) as picture:
        check_picture(picture, path.name)
        if max(picture.size) > _LONGEST_SIDE:
            width, height = picture.size
            raise PhotoError(
                f"{path.name} must have sides of at most {_LONGEST_SIDE} pixels, got {width} x {height}; "
                "make it smaller or leave it out"
            )
        return np.asarray(picture.convert(mode))


def bounds(inside: np.ndarray) -> Box:
    """Left, top, right, bottom of the true pixels, borders included."""
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def squared(box: Box, margin: float) -> Box:
    """The square about the box's centre whose side is the longer side of the box times `margin`."""
    left, top, right, bottom = box
    half = max(right - left, bottom - top) * margin / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    return x - half, y - half, x + half, y + half


def _resized(colors: np.ndarray, mask: np.ndarray, box: Box, size: int) -> np.ndarray:
    """The part `box` of a picture -> (4, size, size) uint8: colours on white and mask; white outside the picture.

    Bicubic, widened when shrinking, channel by channel, as colours on white need no alpha. Pillow's, as recordings have
    8 bits and are many; photos of any depth and users' soft masks go through `pipeline.photos.resample`, in float32.
    """
    height, width = mask.shape
    left, top, right, bottom = box
    reach = 2 * max(1.0, (right - left) / size) + 1  # of the filter; what lies farther off is not touched
    first_x, last_x = math.floor(left - reach), math.ceil(right + reach)
    first_y, last_y = math.floor(top - reach), math.ceil(bottom + reach)
    rows, columns = slice(max(0, first_y), min(height, last_y)), slice(max(0, first_x), min(width, last_x))
    room = ((rows.start - first_y, last_y - rows.stop), (columns.start - first_x, last_x - columns.stop))
    coverage = mask[rows, columns].astype(np.float32) / 255
    channels = [coverage * colors[rows, columns, number] + 255 * (1 - coverage) for number in range(3)]
    shifted = (left - first_x, top - first_y, right - first_x, bottom - first_y)
    result = []
    for channel, outside in zip([*channels, 255 * coverage], (255, 255, 255, 0), strict=True):
        padded = np.pad(np.rint(channel).astype(np.uint8), room, constant_values=outside)
        result.append(np.asarray(Image.fromarray(padded).resize((size, size), Image.Resampling.BICUBIC, box=shifted)))
    return np.stack(result)


class RecordedViews(StoredViews):
    """Objects recorded as pictures with cameras, a `MultiViewDataset`; a format fills `names` and finds the frames.

    Args:
        size: side of the views in pixels.
        margin: side of each view's crop over the longer side of the object's box; None keeps whole pictures.
    """

    def __init__(self, size: int, margin: float | None) -> None:
        super().__init__()
        check_count("size", size, 1, 4096)
        if margin is not None:
            check_range("margin", margin, 1.0, 8.0)
        self.size, self.margin = size, margin
        self.names: list[str] = []

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def view_count(self, index: int) -> int:
        """How many views object `index` has, broken ones included that only reading finds."""

    @abstractmethod
    def _frame(self, index: int, view: int) -> Frame:
        """One frame of an object; raises an UpFusionError if its camera cannot be read."""

    @abstractmethod
    def _world(self, index: int) -> tuple[Tensor, Tensor | None]:
        """Of the recording's world: the object's centre (3,), and the direction (3,) that is up, if known."""

    def _stored(self, index: int) -> StoredObject:
        name = self.names[index]

        def read(view: int) -> tuple[Tensor, Tensor, Cameras]:
            return framed(self._frame(index, view), self.size, self.margin)

        def join(_: list[int], found: list[tuple[Tensor, Tensor, Cameras]]) -> PosedViews:
            rgb, mask, cameras = zip(*found, strict=True)
            center, up = self._world(index)
            moved, placement = normalise(Cameras.concatenate(cameras), center=center, up=up)
            upright = up is not None
            return PosedViews(torch.stack(rgb), torch.stack(mask), moved, name, upright, placement=placement)

        return StoredObject(name, self.view_count(index), read, join)
