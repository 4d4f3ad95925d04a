"""The node that measures: pictures against their truth, as a table, a plot and differences."""

from __future__ import annotations

from statistics import fmean

import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import interpolate

from ..upfusion_core import InputError
from . import inputs
from .convert import image_from_rgb, planes_for, rgb_from_image
from .host import progress_hook
from .sockets import checked

_PANEL = (240, 170)
_COLUMNS = 4
_BAR, _MEAN, _INK, _FAINT = "#4878a8", "#d0602c", "#30343a", "#c8ccd2"


class UpFusionCompareViews(io.ComfyNode):
    """Measures how close pictures are to their truth, view by view: PSNR, SSIM, both inside the object's box,
    silhouettes, sharpness and a perceptual distance, as text and as a plot, and where they differ."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        images = "The pictures to judge, on white; they are resized to the truth's size."
        truth = "What they should look like, as many pictures in the same order."
        masks = "1 on the object in the truth; taken from what is not white there when left open."
        takes = [
            io.Image.Input("images", tooltip=images),
            io.Image.Input("truth", tooltip=truth),
            io.Mask.Input("masks", optional=True, tooltip=masks),
        ]
        gives = [
            io.String.Output("measures", tooltip="A table: a line a view, then the mean."),
            io.Image.Output("plot", tooltip="A panel a measure: a bar a view, and the mean as a line."),
            io.Image.Output("difference", tooltip="Absolute difference, 0 black; one picture a view."),
        ]
        aliases = ["psnr", "ssim", "metrics", "evaluation", "difference", "image compare"]
        return inputs.schema(cls, "UpFusion Compare Views", "evaluate", takes, gives, aliases, is_output_node=True)

    @classmethod
    @checked
    def execute(cls, images: Tensor, truth: Tensor, masks: Tensor | None = None) -> io.NodeOutput:
        """Measures every view on its own."""
        from ..upfusion_core import MEASURES, measure_views

        target = rgb_from_image(truth).cpu()
        prediction = _of_size(rgb_from_image(images).cpu(), target)
        silhouettes = planes_for(target, masks)
        on_step = progress_hook("measuring")
        rows: dict[str, list[float]] = {}
        for view in range(len(target)):
            one = slice(view, view + 1)
            for name, value in measure_views(prediction[one], target[one], silhouettes[one]).items():
                rows.setdefault(MEASURES[name].label.replace("\N{MINUS SIGN}", "-"), []).append(float(value))
            on_step(view + 1, len(target), None)
        text = _table(rows)
        difference = image_from_rgb((prediction - target).abs())
        return io.NodeOutput(text, image_from_rgb(_plot(rows)), difference, ui={"text": (text,)})


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


def _table(rows: dict[str, list[float]]) -> str:
    """Measures by label, one value a view -> lines of aligned columns, the mean last."""
    columns = [["view", *map(str, range(len(next(iter(rows.values()))))), "mean"]]
    columns += [[label, *(f"{value:.3f}" for value in (*values, fmean(values)))] for label, values in rows.items()]
    widths = [max(map(len, column)) for column in columns]
    lines = zip(*columns, strict=True)
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def _plot(rows: dict[str, list[float]]) -> Tensor:
    """Measures by label -> (1, 3, H, W), a panel a measure: a bar a view, a line at the mean."""
    width, height = _PANEL
    lines = -(-len(rows) // _COLUMNS)
    sheet = Image.new("RGB", (width * min(len(rows), _COLUMNS), height * lines), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for place, (label, values) in enumerate(rows.items()):
        left, top = place % _COLUMNS * width, place // _COLUMNS * height
        x0, y0, x1, y1 = left + 34, top + 24, left + width - 10, top + height - 20
        highest, mean = max([*values, 1e-9]), fmean(values)
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
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1)[None].float() / 255
