"""One object as a sample of a WebDataset shard, there and back: pictures, cameras as JSON, depths as NPY, no pickles.

The members of the sample `000007`: `000007.json` with name and cameras, and of each view `000007.000.rgb.png`,
`000007.000.mask.png` and, where depths were packed, `000007.000.depth.npy`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from ..errors import InputError
from ..json_text import parse_json
from ..pictures import resize_pictures, to_8bit
from ..types import Cameras
from .arrays import decoded_array
from .examples import PosedViews
from .framing import DECODING_ERRORS

PictureFormat = Literal["png", "webp", "jpeg"]
PICTURE_FORMATS: tuple[PictureFormat, ...] = get_args(PictureFormat)

_SAVING: dict[str, dict[str, Any]] = {
    "png": {"format": "PNG", "compress_level": 6},
    "webp": {"format": "WEBP", "lossless": True, "quality": 50},  # of lossless WebP: effort
    "jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
}
_READABLE = ("PNG", "WEBP", "JPEG")
_LARGEST_SIDE, _MOST_VIEWS, _LONGEST_NAME = 4096, 10_000, 500
_DAMAGED_NUMBERS = (ValueError, TypeError, RuntimeError, OverflowError)

Member = Callable[[str], bytes]
"""The part of a member's name after the sample's key, such as "json" -> its content; raises InputError if absent."""


@dataclass(frozen=True, eq=False)
class SampleHeader:
    """What a sample's JSON says: the object's name, its cameras in our world, the pictures' side in pixels.

    upright: see PosedViews. pictures: ending of the pictures of colours. depth: whether depths were packed.
    """

    name: str
    upright: bool
    depth: bool
    size: int
    pictures: PictureFormat
    cameras: Cameras


def encoded_sample(example: PosedViews, pictures: PictureFormat, *, depth: bool) -> dict[str, bytes]:
    """The members of an object's sample by the part of their names after the key; "jpeg" keeps masks as PNG.

    Args:
        pictures: of the colours; PNG and WebP keep every 8-bit value.
        depth: whether the depths are packed, where the object has them.
    """
    cameras, depths = example.cameras, example.depth if depth else None
    header = {
        "name": example.name,
        "upright": example.upright,
        "depth": depths is not None,
        "size": example.rgb.shape[-1],
        "pictures": pictures,
        "camera_to_world": cameras.camera_to_world.tolist(),
        "focal": cameras.focal.tolist(),
        "principal": cameras.principal.tolist(),
    }
    masks = "png" if pictures == "jpeg" else pictures
    members = {"json": json.dumps(header).encode("utf-8")}
    for view in range(len(example)):
        members[f"{view:03d}.rgb.{pictures}"] = _encoded(example.rgb[view], pictures)
        members[f"{view:03d}.mask.{masks}"] = _encoded(example.mask[view], masks)
        if depths is not None:
            stream = io.BytesIO()
            np.save(stream, depths[view, 0].numpy(), allow_pickle=False)
            members[f"{view:03d}.depth.npy"] = stream.getvalue()
    return members


def decoded_header(content: bytes) -> SampleHeader:
    """Reads a sample's JSON. Raises InputError if it is damaged or says what cannot be."""
    try:
        header = parse_json(content.decode("utf-8-sig"), "its cameras")
    except (UnicodeDecodeError, InputError) as error:
        reason = error.__cause__ or error
        raise InputError(f"its cameras must be JSON, but cannot be read ({reason}); pack it again") from error
    if not isinstance(header, dict):
        raise InputError(f"its cameras must be a JSON object, got {type(header).__name__}; pack it again")
    name, size, pictures = (header.get(key) for key in ("name", "size", "pictures"))
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME:
        raise InputError(f"its name must be a text of 1 to {_LONGEST_NAME} letters, got {name!r:.40}; pack it again")
    upright, depth = header.get("upright"), header.get("depth")
    if not isinstance(upright, bool) or not isinstance(depth, bool):
        raise InputError(f"{name}: upright and depth must be true or false, got {[upright, depth]!r:.40}")
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= _LARGEST_SIDE:
        raise InputError(f"{name}: size must be a whole number from 1 to {_LARGEST_SIDE}, got {size!r:.40}")
    if pictures not in PICTURE_FORMATS:
        raise InputError(f"{name}: pictures must be one of {', '.join(PICTURE_FORMATS)}, got {pictures!r:.40}")
    try:
        matrices, focal, principal = (
            torch.tensor(header.get(key), dtype=torch.float32) for key in ("camera_to_world", "focal", "principal")
        )
    except _DAMAGED_NUMBERS as error:
        raise InputError(f"{name}: its cameras must be lists of numbers ({error}); pack it again") from error
    cameras = Cameras(matrices, focal, principal)
    if not 1 <= len(cameras) <= _MOST_VIEWS:
        raise InputError(f"{name} must have 1 to {_MOST_VIEWS} views, got {len(cameras)}; pack it again")
    return SampleHeader(name, upright, depth, size, pictures, cameras)


def decoded_view(header: SampleHeader, view: int, member: Member, size: int) -> tuple[Tensor, Tensor]:
    """rgb (3, size, size) and mask (1, size, size) in [0, 1] of one view. Raises InputError if it is damaged."""
    masks = "png" if header.pictures == "jpeg" else header.pictures
    rgb = _decoded(member(f"{view:03d}.rgb.{header.pictures}"), "RGB", header.size)
    mask = _decoded(member(f"{view:03d}.mask.{masks}"), "L", header.size)
    return resize_pictures(rgb[None], size)[0], resize_pictures(mask[None], size)[0]


def decoded_depth(header: SampleHeader, view: int, member: Member, size: int) -> Tensor:
    """(1, size, size) depth of one view, 0 off the object; of each pixel the nearest that was packed.

    Raises:
        InputError: it is damaged.
    """
    content = member(f"{view:03d}.depth.npy")
    try:
        depth = decoded_array(content)
    except InputError as error:
        raise InputError(f"its depth cannot be read as an array ({error}); pack it again") from error
    shape = (header.size, header.size)
    if depth.shape != shape or depth.dtype != np.float32:
        raise InputError(f"its depth must be float32 {shape}, got {depth.dtype}; pack it again")
    if not np.isfinite(depth).all() or depth.min() < 0:
        raise InputError("its depth must be finite and at least 0, got other values; pack it again")
    return interpolate(torch.from_numpy(depth)[None, None], size=(size, size), mode="nearest-exact")[0]


def _encoded(picture: Tensor, pictures: str) -> bytes:
    """(3 or 1, S, S) in [0, 1] -> a file's content."""
    values = to_8bit(picture.permute(1, 2, 0))
    stream = io.BytesIO()
    Image.fromarray(values if values.shape[-1] == 3 else values[..., 0]).save(stream, **_SAVING[pictures])
    return stream.getvalue()


def _decoded(content: bytes, mode: str, size: int) -> Tensor:
    """A file's content -> (3 or 1, S, S) in [0, 1]; its size is looked at before anything is unpacked."""
    try:
        with Image.open(io.BytesIO(content), formats=_READABLE) as picture:
            if picture.size != (size, size):
                width, height = picture.size
                raise InputError(f"its pictures must be {size} x {size} pixels, got {width} x {height}; pack it again")
            values = np.asarray(picture.convert(mode))
    except InputError:
        raise
    except DECODING_ERRORS as error:
        raise InputError(f"a picture cannot be decoded ({error}); pack it again") from error
    tensor = torch.from_numpy(values.copy()).float() / 255
    return tensor.permute(2, 0, 1) if mode == "RGB" else tensor[None]
