"""Photos, masks and measured pictures: wrong shapes, ranges, kinds and memory layouts."""

from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from odd_values import numbers, odd_tensors, or_junk, refused_or_finite
from PIL import Image

from upfusion_core import measure_views, prepare_views

SIZE = 16


@st.composite
def photos(draw: st.DrawFn) -> object:
    """What a photo may be given as, and what it may not."""
    tensor = draw(odd_tensors((3, 12, 20), (4, 12, 20), (1, 12, 20), (3, 12, 2000), (3, 1, 1), (2, 3, 12, 20)))
    kind = draw(st.sampled_from(("tensor", "array", "image", "floats", "path")))
    if kind == "tensor":
        return tensor
    if kind == "path":
        return draw(st.sampled_from(("", "none.png", "a\0b.png", "x" * 5000, ".", Path("/dev/null"))))
    array = tensor.detach().float().numpy()
    if kind == "floats":
        return array
    pixels = (np.nan_to_num(np.moveaxis(array, 0, -1), posinf=0, neginf=0) * 255).clip(0, 255).astype(np.uint8)
    if kind == "array" or pixels.ndim != 3 or pixels.shape[-1] not in (3, 4) or not pixels.size:
        return pixels
    mode = draw(st.sampled_from(("RGB", "L", "CMYK", "P", "I", "F", "1", "YCbCr", "LA", "PA", "HSV", "LAB", "RGBA")))
    return Image.fromarray(pixels).convert("RGB").convert(mode if mode != "LAB" else "RGB")


@given(
    or_junk(photos(), st.lists(photos(), max_size=7)),
    or_junk(None, photos(), odd_tensors((12, 20), (1, 12, 20), (2, 1, 12, 20)), st.lists(photos(), max_size=3)),
    or_junk(SIZE, numbers()),
    or_junk(1.15, numbers()),
)
def test_prepare_views(images: object, masks: object, size: object, margin: object) -> None:
    views = refused_or_finite(prepare_views, images, masks, size=size, margin=margin)
    if views is not None:
        assert views.rgb.shape == (len(views), 3, size, size)
        assert float(views.rgb.min()) >= 0
        assert float(views.rgb.max()) <= 1
        assert float(views.mask.max()) >= 0.05


TRUTH, MASK = torch.full((2, 3, 16, 18), 0.5), torch.ones(2, 1, 16, 18)
PREDICTIONS = odd_tensors((2, 3, 16, 18), (2, 3, 4, 4), low=-0.1, high=1.1)


@given(
    or_junk(TRUTH, PREDICTIONS), or_junk(TRUTH, odd_tensors((2, 3, 16, 18), (2, 3, 4, 4))),
    or_junk(MASK, 0 * MASK, odd_tensors((2, 1, 16, 18))), or_junk(None, odd_tensors((2, 1, 16, 18))),
)  # fmt: skip
def test_measure_views(prediction: object, truth: object, mask: object, prediction_mask: object) -> None:
    refused_or_finite(measure_views, prediction, truth, mask, prediction_mask=prediction_mask)
