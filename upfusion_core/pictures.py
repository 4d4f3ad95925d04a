"""Pictures as tensors -> 8-bit ones and PNG files, and other sizes of them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from .checks import check_shape


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
    with Image.open(path) as image:
        pixels = np.array(image.convert(mode))
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1).float() / 255


def resize_pictures(pictures: Tensor, size: int) -> Tensor:
    """(N, C, H, W) in [0, 1] -> (N, C, size, size), bicubic without aliasing; unchanged where it has that size."""
    if pictures.shape[-2:] == (size, size):
        return pictures
    wide = pictures.to(torch.promote_types(pictures.dtype, torch.float32))  # torch has no half-precision resizing
    resized = interpolate(wide, size=(size, size), mode="bicubic", align_corners=False, antialias=True)
    return resized.clamp(0, 1).to(pictures.dtype)


def contact_sheet(rgb: Tensor, columns: int | None = None) -> Tensor:
    """(Q, 3, H, W) -> one picture of them all on white, row by row, as square as can be unless `columns` is given."""
    check_shape("rgb", rgb, ("Q", 3, "H", "W"))
    count, _, height, width = rgb.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = torch.ones(rows * columns, 3, height, width)
    sheet[:count] = rgb.detach().float().cpu()
    sheet = sheet.reshape(rows, columns, 3, height, width)
    return sheet.permute(2, 0, 3, 1, 4).reshape(3, rows * height, columns * width)
