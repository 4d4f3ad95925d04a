"""Pictures against their truth: the table, the plot and the differences of UpFusion Compare Views."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import interpolate

from ..upfusion_core import MEASURES, InputError, estimate_mask, measure_views
from .convert import image_from_rgb, plane_from_mask, rgb_from_image
from .host import progress_hook

_PANEL = (240, 170)
_COLUMNS = 4
_BAR, _MEAN, _INK, _FAINT = "#4878a8", "#d0602c", "#30343a", "#c8ccd2"


def compared(images: Tensor, truth: Tensor, masks: Tensor | None) -> tuple[str, Tensor, Tensor]:
    """Two IMAGEs and the truth's MASK -> the measures as a table, the plot (1, H, W, 3), differences (N, H, W, 3)."""
    target = rgb_from_image(truth).cpu()
    prediction = _of_size(rgb_from_image(images).cpu(), target)
    if masks is None:
        silhouettes = torch.stack([estimate_mask(picture) for picture in target])
    else:
        silhouettes = plane_from_mask(masks).cpu()
        _check_silhouettes(silhouettes, target)
    views = zip(prediction.split(1), target.split(1), silhouettes.split(1), strict=True)
    on_step = progress_hook("measuring")
    rows: dict[str, list[float]] = {}
    for number, view in enumerate(views, start=1):
        for name, value in measure_views(*view).items():
            rows.setdefault(MEASURES[name].label.replace("\N{MINUS SIGN}", "-"), []).append(float(value))
        on_step(number, len(target), None)
    difference = image_from_rgb((prediction - target).abs())
    return table(rows), image_from_rgb(plot(rows)), difference


def table(rows: dict[str, list[float]]) -> str:
    """Measures by label, one value a view -> lines of aligned columns, the mean last."""
    views = len(next(iter(rows.values())))
    lines = [["view", *rows]]
    lines += [[str(view), *(f"{values[view]:.3f}" for values in rows.values())] for view in range(views)]
    lines.append(["mean", *(f"{_mean(values):.3f}" for values in rows.values())])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def plot(rows: dict[str, list[float]]) -> Tensor:
    """Measures by label -> (1, 3, H, W), a panel a measure: a bar a view, a line at the mean."""
    width, height = _PANEL
    lines = -(-len(rows) // _COLUMNS)
    sheet = Image.new("RGB", (width * min(len(rows), _COLUMNS), height * lines), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (label, values) in enumerate(rows.items()):
        _panel(draw, place % _COLUMNS * width, place // _COLUMNS * height, label, values)
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1)[None].float() / 255


def _panel(draw: ImageDraw.ImageDraw, left: int, top: int, label: str, values: list[float]) -> None:
    width, height = _PANEL
    x0, y0, x1, y1 = left + 34, top + 24, left + width - 10, top + height - 20
    highest = max([*values, 1e-9])
    mean, font = _mean(values), ImageFont.load_default()
    draw.text((left + 8, top + 6), f"{label}: mean {mean:.3f}", fill=_INK, font=font)
    draw.text((left + 4, y0 - 4), f"{highest:.3g}", fill=_INK, font=font)
    draw.text((left + 22, y1 - 8), "0", fill=_INK, font=font)
    draw.line((x0, y1, x1, y1), fill=_FAINT)
    step = (x1 - x0) / len(values)
    for view, value in enumerate(values):
        bar = (x0 + (view + 0.15) * step, y1 - max(value, 0) / highest * (y1 - y0), x0 + (view + 0.85) * step, y1)
        draw.rectangle(bar, fill=_BAR)
        if len(values) <= 12:
            draw.text((x0 + (view + 0.5) * step - 3, y1 + 3), str(view), fill=_INK, font=font)
    level = y1 - max(mean, 0) / highest * (y1 - y0)
    draw.line((x0, level, x1, level), fill=_MEAN, width=2)


def _of_size(prediction: Tensor, truth: Tensor) -> Tensor:
    """The pictures at the truth's size; their number and shape must agree."""
    if len(prediction) != len(truth):
        raise InputError(
            f"images and truth must be as many pictures, got {len(prediction)} and {len(truth)}; "
            "use the truth's cameras for both"
        )
    (height, width), wanted = prediction.shape[-2:], truth.shape[-2:]
    if abs(height * wanted[1] - width * wanted[0]) > 0.02 * width * wanted[0]:
        raise InputError(
            f"images and truth must have the same shape, got {width} x {height} and {wanted[1]} x {wanted[0]}; "
            "cut them alike"
        )
    if prediction.shape[-2:] == wanted:
        return prediction
    return interpolate(prediction, size=tuple(wanted), mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)


def _check_silhouettes(silhouettes: Tensor, truth: Tensor) -> None:
    """One mask a true view, of its size."""
    (count, _, height, width), wanted = silhouettes.shape, (len(truth), *truth.shape[-2:])
    if (count, height, width) != wanted:
        raise InputError(
            f"masks must be {wanted[0]} of {wanted[2]} x {wanted[1]} pixels, one true silhouette a view, got "
            f"{count} of {width} x {height}; take them from where the truth comes from"
        )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
