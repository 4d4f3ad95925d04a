"""The picture sheet: a row an object, photos | truth | what each stage made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import interpolate, pad

from ..checks import check_shape
from ..errors import InputError

TITLES = {
    "nearest": "nearest photo",
    "predict": "prediction",
    "sample": "2D sample",
    "field": "3D field",
}
"""Columns by stage."""

LEAST_SIDE = 96
"""Pictures smaller than this are shown enlarged, so that the titles fit."""

_HEAD = 14


def object_row(photos: Tensor, truth: Tensor, stages: Mapping[str, Tensor]) -> Tensor:
    """(P, 3, S, S) photos, (3, S, S) truth of the first target and (N, 3, S, S) of each stage -> one (3, S', W) row.

    Each picture has a grey frame; small ones are enlarged by a whole number.
    """
    check_shape("photos", photos, ("P", 3, "S", "S"))
    pictures = torch.cat([photos, truth[None], *(views[:1] for views in stages.values())]).float().cpu().clamp(0, 1)
    enlarged = -(-LEAST_SIDE // pictures.shape[-1])
    pictures = interpolate(pictures, scale_factor=enlarged, mode="nearest")
    return pad(pictures, (1, 1, 1, 1), value=0.8).permute(1, 2, 0, 3).flatten(2)


def stacked(rows: Sequence[Tensor], photos: int, stages: Sequence[str]) -> Tensor:
    """Rows of `object_row`, each (3, S', W) -> one (3, H, W) sheet with the columns' titles above."""
    if not rows:
        raise InputError("expected at least one row of pictures, got none; evaluate at least one object")
    body = torch.cat(list(rows), dim=1)
    columns = [f"photo {number}" for number in range(1, photos + 1)]
    columns += ["truth", *(TITLES.get(stage, stage) for stage in stages)]
    width = body.shape[-1]
    head = Image.new("RGB", (width, _HEAD), "white")
    draw = ImageDraw.Draw(head)
    for place, title in enumerate(columns):
        draw.text((place * width / len(columns) + 2, 1), title, fill="black")
    titles = torch.from_numpy(np.array(head)).permute(2, 0, 1).float() / 255
    return torch.cat([titles, body], dim=1)
