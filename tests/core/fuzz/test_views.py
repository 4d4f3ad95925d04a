"""Photos, masks and what the stages hand on: wrong shapes, types, ranges, memory layouts and devices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from odd_values import JUNK, numbers, odd_tensors, or_junk, refused_or_finite
from PIL import Image

from upfusion_core import (
    InputViews,
    NovelViews,
    RenderedViews,
    SceneEncoding,
    ViewConditioning,
    estimate_mask,
    example_count,
    example_views,
    measure_views,
    orbit_cameras,
    prepare_views,
)

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


@given(or_junk(odd_tensors((3, 12, 20), (1, 4, 4), (3, 0, 5))))
def test_estimate_mask(rgb: object) -> None:
    mask = refused_or_finite(estimate_mask, rgb)
    assert mask is None or not mask.numel() or (float(mask.min()) >= 0 and float(mask.max()) <= 1)


VIEWS = (torch.ones(2, 3, 8, 8), torch.ones(2, 1, 8, 8), torch.full((2, 2), 4.5))


@given(
    or_junk(VIEWS[0], odd_tensors((2, 3, 8, 8), (1, 3, 8, 8), (7, 3, 8, 8), (2, 3, 8, 4), (2, 3, 0, 0))),
    or_junk(VIEWS[1], odd_tensors((2, 1, 8, 8), low=-1)),
    or_junk(VIEWS[2], odd_tensors((2, 2), low=-1, high=5)),
)
def test_input_views(rgb: object, mask: object, focal: object) -> None:
    views = refused_or_finite(InputViews, rgb, mask, focal)
    assert views is None or 1 <= len(views.to("cpu")) <= 6


@given(
    or_junk(torch.rand(6, 5), odd_tensors((6, 5), (0, 5))),
    or_junk(orbit_cameras(0), orbit_cameras([0, 90]), None),
    or_junk(None, InputViews(*VIEWS), torch.rand(2, 3, 8, 8)),
    or_junk(None, "id"),
)
def test_scene_encoding(tokens: object, reference: object, views: object, model_id: object) -> None:
    refused_or_finite(SceneEncoding, tokens, reference, views, model_id)


@given(
    or_junk(torch.rand(2, 11, 4, 4), odd_tensors((2, 11, 4, 4))),
    or_junk((torch.rand(2, 6, 4, 4),), (), st.tuples(odd_tensors((2, 6, 4, 4), (2, 5, 4, 4)))),
    or_junk(torch.rand(6, 5), odd_tensors((6, 5), (2, 6, 5), (5,))),
    or_junk(orbit_cameras([0, 90]), orbit_cameras(0)),
    or_junk(None, odd_tensors((7, 5), (2, 7, 5), (3, 7, 5), (5,))),
    or_junk(0, slice(0, 1)),
)
def test_view_conditioning(
    hint: object, ray_maps: object, tokens: object, cameras: object, text: object, index: object
) -> None:
    made = refused_or_finite(ViewConditioning, hint, ray_maps, tokens, cameras, text, text)
    if made is not None and isinstance(index, int | slice):
        assert len(made[:1]) == 1
        assert not made.unconditional().hint.any()


@given(or_junk(torch.rand(2, 3, 8, 8), odd_tensors((2, 3, 8, 8))), or_junk(orbit_cameras([0, 90]), orbit_cameras(0)))
def test_pictures_of_cameras(rgb: object, cameras: object) -> None:
    refused_or_finite(NovelViews, rgb, cameras)


@given(or_junk(torch.rand(2, 3, 8, 4), odd_tensors((2, 3, 8, 4))), or_junk(torch.rand(2, 1, 8, 4)))
def test_rendered_views(rgb: object, opacity: object) -> None:
    refused_or_finite(RenderedViews, rgb, opacity, opacity)


@given(or_junk(0, numbers()), or_junk(1, 6, 7, numbers()))
def test_example_views(number: object, count: object) -> None:
    assert example_count() > 0
    refused_or_finite(example_views, number, count)


@given(
    or_junk(torch.rand(2, 3, 16, 18), odd_tensors((2, 3, 16, 18), (2, 3, 4, 4), low=-0.1, high=1.1)),
    or_junk(torch.rand(2, 3, 16, 18), odd_tensors((2, 3, 16, 18), (2, 3, 4, 4))),
    or_junk(torch.ones(2, 1, 16, 18), torch.zeros(2, 1, 16, 18), odd_tensors((2, 1, 16, 18))),
    or_junk(None, odd_tensors((2, 1, 16, 18))),
)
def test_measure_views(prediction: object, truth: object, mask: object, prediction_mask: object) -> None:
    refused_or_finite(measure_views, prediction, truth, mask, prediction_mask=prediction_mask)


def test_junk_is_junk() -> None:
    assert all(refused_or_finite(prepare_views, value) is None for value in JUNK)
