"""Pictures of a run: sheets with titles, GIF and MP4."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import pad

from ..support.checks import check_shape
from ..support.errors import MissingPackageError
from ..support.images import to_8bit

FRAMES_PER_SECOND = 12


def labelled_sheet(columns: Mapping[str, Tensor], rows: Sequence[str], size: int) -> Tensor:
    """(3, H, W): a column of pictures under each title, beside the rows' labels.

    Args:
        columns: title -> (N, 3, S, S) in [0, 1], N at most the number of rows. size: of each shown, whatever S is.
    """
    font = ImageFont.load_default(max(10, size // 9))
    head, margin, gap = round(size / 5), round(size / 1.6), max(2, size // 32)
    width, height = margin + len(columns) * (size + gap), head + len(rows) * (size + gap)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for place, label in enumerate(rows):
        draw.text((gap, head + place * (size + gap) + size / 2), label, fill="black", font=font, anchor="lm")
    for place, (title, rgb) in enumerate(columns.items()):
        check_shape(title, rgb, ("N", 3, "S", "S"))
        left = margin + place * (size + gap)
        draw.text((left + size / 2, head / 2), title, fill="black", font=font, anchor="mm")
        for row, pixels in enumerate(_bytes(rgb)):
            picture = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
            sheet.paste(picture, (left, head + row * (size + gap)))
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1).float() / 255


def check_video(kind: str) -> None:
    """Raises MissingPackageError if MP4 is wanted and its encoder is not installed."""
    if kind == "mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise MissingPackageError(
            "writing MP4 needs the package imageio-ffmpeg, which is not installed; "
            'run: pip install "imageio[ffmpeg]", or choose --video gif'
        )


def save_video(path: Path, rgb: Tensor, frames_per_second: int = FRAMES_PER_SECOND) -> None:
    """(Q, 3, H, W) in [0, 1] -> a GIF that repeats for ever, or an MP4, by the suffix of `path`."""
    check_shape("rgb", rgb, ("Q", 3, "H", "W"))
    if path.suffix == ".gif":
        # made in memory: on a full disk the writer would try again when it is let go of, and complain to the user
        path.write_bytes(
            imageio.imwrite("<bytes>", _bytes(rgb), extension=".gif", duration=1000 / frames_per_second, loop=0)
        )
        return
    check_video("mp4")
    height, width = rgb.shape[-2:]
    even = pad(rgb, (0, width % 2, 0, height % 2), value=1.0)  # the encoder halves the resolution of colours
    imageio.imwrite(path, _bytes(even), extension=".mp4", fps=frames_per_second, macro_block_size=2)


def _bytes(rgb: Tensor) -> np.ndarray:
    """(Q, 3, H, W) in [0, 1] -> (Q, H, W, 3) uint8."""
    return to_8bit(rgb.permute(0, 2, 3, 1))
