"""Pictures as tensors -> 8-bit ones and PNG files, and other sizes of them."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import interpolate

from .checks import check_shape
from .files import reading


def saturate(values: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """`values.clamp(low, high)` whose gradient at the bounds, where white pixels lie, is 1 as before torch 2.14."""
    if not (values.requires_grad and torch.is_grad_enabled()):
        return values.clamp(low, high)
    return torch.where(values < low, low, torch.where(values > high, high, values))


def unit_range(values: Tensor) -> Tensor:
    """uint8 in 0..255 or float32 in [0, 1] -> float32 in [0, 1]."""
    return values.float() / 255 if values.dtype == torch.uint8 else values


def srgb_to_linear(values: Tensor) -> Tensor:
    """sRGB in [0, 1] -> linear light in [0, 1] (IEC 61966-2-1), e.g. 0.5 -> 0.2140."""
    return ((values + 0.055) / 1.055).pow(2.4).where(values > 0.04045, values / 12.92)


def linear_to_srgb(values: Tensor) -> Tensor:
    """Linear light in [0, 1] -> sRGB (IEC 61966-2-1), e.g. 0.2140 -> 0.5."""
    return torch.where(values > 0.0031308, 1.055 * values.clamp_min(1e-9).pow(1 / 2.4) - 0.055, 12.92 * values)


def to_8bit(values: Tensor) -> np.ndarray:
    """Values in [0, 1], in any order of axes -> uint8 of the same shape, each the nearest of 256."""
    pixels: np.ndarray = (values.detach().float().cpu().clamp(0, 1) * 255).round().byte().contiguous().numpy()
    return pixels


def save_png(path: Path, rgb: Tensor) -> None:
    """(3, H, W) in [0, 1] -> an 8-bit PNG."""
    check_shape("rgb", rgb, (3, "H", "W"))
    Image.fromarray(to_8bit(rgb.permute(1, 2, 0))).save(path, format="PNG")


def load_png(path: Path, mode: str = "RGB") -> Tensor:
    """(3, H, W) in [0, 1] of a picture that `save_png` wrote; (1, H, W) of one of grey values, with mode "L"."""
    with reading(path, "remove it", what="a whole PNG"), Image.open(path, formats=("PNG",)) as image:
        pixels = np.array(image.convert(mode))
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1).float() / 255


def shrunk(picture: Tensor, longest: int) -> Tensor:
    """(C, H, W) of any type -> a copy of the same type, its longer side at most so many pixels, without aliasing."""
    share = min(1.0, longest / max(picture.shape[1:]))
    size = [max(1, round(side * share)) for side in picture.shape[1:]]
    return picture.clone() if share == 1 else interpolate(picture[None], size, mode="bilinear", antialias=True)[0]


def resize_pictures(pictures: Tensor, size: int) -> Tensor:
    """(N, C, H, W) in [0, 1] -> (N, C, size, size), bicubic without aliasing; unchanged where it has that size."""
    if pictures.shape[-2:] == (size, size):
        return pictures
    wide = pictures.to(torch.promote_types(pictures.dtype, torch.float32))  # torch has no half-precision resizing
    resized = interpolate(wide, size=(size, size), mode="bicubic", align_corners=False, antialias=True)
    return saturate(resized).to(pictures.dtype)


def contact_sheet(rgb: Tensor, columns: int | None = None) -> Tensor:
    """(Q, 3, H, W) -> one picture of them all on white, row by row, as square as can be unless `columns` is given."""
    check_shape("rgb", rgb, ("Q", 3, "H", "W"))
    columns = columns or math.ceil(math.sqrt(len(rgb)))
    sheet = torch.ones(-(-len(rgb) // columns) * columns, *rgb.shape[1:])
    sheet[: len(rgb)] = rgb.detach().float().cpu()
    return rearrange(sheet, "(rows columns) c h w -> c (rows h) (columns w)", columns=columns)


def labelled_sheet(columns: Mapping[str, Tensor], rows: Sequence[str], size: int) -> Tensor:
    """(3, H, W): a column of (N, 3, S, S), shown at `size`, under each title, beside the labels of N or more rows."""
    font = ImageFont.load_default(max(10, size // 9))
    head, gap, lines = round(size / 5), max(2, size // 32), "\n".join(rows).split("\n")
    margin = max(round(size / 1.6), math.ceil(max(map(font.getlength, lines))) + 2 * gap)
    width, height = margin + len(columns) * (size + gap), head + len(rows) * (size + gap)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for place, label in enumerate(rows):
        draw.text((gap, head + place * (size + gap) + size / 2), label, fill="black", font=font, anchor="lm")
    for place, (title, rgb) in enumerate(columns.items()):
        left = margin + place * (size + gap)
        draw.text((left + size / 2, head / 2), title, fill="black", font=font, anchor="mm")
        for row, pixels in enumerate(to_8bit(rgb.permute(0, 2, 3, 1))):
            picture = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
            sheet.paste(picture, (left, head + row * (size + gap)))
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1).float() / 255
