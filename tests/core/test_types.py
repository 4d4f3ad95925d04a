"""What flows between the stages: shapes, ranges and types are checked where a value is made."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from refusals import refused
from torch import Tensor

from upfusion_core import Cameras, InputViews, NovelViews, RenderedViews, SceneEncoding, ViewConditioning, orbit_cameras

CAMERA, PAIR = orbit_cameras(0), orbit_cameras([0, 90])


def make_views(count: int = 2, **changes: Tensor) -> InputViews:
    good = {"rgb": torch.rand(count, 3, 4, 4), "mask": torch.ones(count, 1, 4, 4), "focal": torch.full((count, 2), 4.5)}
    return InputViews(**(good | changes))


def make_cameras(**changes: Tensor) -> Cameras:
    good = {"camera_to_world": torch.eye(4)[None], "focal": torch.ones(1, 2), "principal": torch.zeros(1, 2)}
    return Cameras(**(good | changes))


def make_conditioning(**changes: object) -> ViewConditioning:
    good = {
        "hint": torch.ones(2, 9, 4, 4),
        "ray_maps": [torch.ones(2, 6, 4, 4), torch.ones(2, 6, 2, 2)],
        "tokens": torch.ones(5, 3),
        "cameras": PAIR,
        "text": torch.ones(7, 3),
        "unconditional_text": torch.full((7, 3), 2.0),
    }
    return ViewConditioning(**(good | changes))


@pytest.mark.parametrize(
    ("make", "changes", "words"),
    [
        (make_views, {"rgb": torch.rand(2, 4, 4, 3)}, r"InputViews.rgb must be \(V, 3, S, S\).*; photos go through"),
        (make_views, {"rgb": torch.rand(2, 3, 4, 6)}, r"InputViews.rgb must be \(V, 3, S, S\), got \(2, 3, 4, 6\)"),
        (make_views, {"rgb": torch.ones(2, 3, 0, 0), "mask": torch.ones(2, 1, 0, 0)}, "must hold pixels"),
        (make_views, {"rgb": torch.full((2, 3, 4, 4), 255.0)}, "divide 8-bit photos by 255"),
        (make_views, {"rgb": torch.full((2, 3, 4, 4), torch.nan)}, "finite"),
        (make_views, {"rgb": torch.ones(2, 3, 4, 4, dtype=torch.uint8)}, "must be floating point, got torch.uint8"),
        (make_views, {"mask": torch.ones(1, 1, 4, 4)}, "InputViews.mask"),
        (make_views, {"mask": torch.full((2, 1, 4, 4), 7.0)}, r"InputViews.mask must be in \[0, 1\], got \[7, 7\]"),
        (make_views, {"mask": torch.full((2, 1, 4, 4), -3.0)}, r"InputViews.mask must be in \[0, 1\]"),
        (make_views, {"focal": torch.ones(2)}, "InputViews.focal"),
        (make_views, {"focal": torch.ones(2, 2, dtype=torch.int64)}, "floating point above 0, got 1 as torch.int64"),
        (make_views, {"focal": torch.full((2, 2), -4.5)}, "InputViews.focal must be floating point above 0, got -4.5"),
        (make_views, {"count": 7}, "1 to 6 photos, got 7"),
        (make_cameras, {"camera_to_world": torch.eye(4)[None] * 1e20}, r"within \+-1e\+09, got 1e\+20; check its unit"),
        (make_cameras, {"camera_to_world": torch.eye(4, dtype=torch.float64)[None] * 1e300}, "must be finite"),
        (make_cameras, {"camera_to_world": torch.zeros(1, 4, 4)}, "must be rigid"),
        (make_cameras, {"focal": torch.full((1, 2), 1e-4)}, "at least 0.001"),
        (make_cameras, {"focal": torch.full((1, 2), -1.0)}, "above 0 and at least 0.001, got -1"),
        (make_cameras, {"focal": torch.full((1, 2), 1e7)}, "within"),
        (make_cameras, {"principal": torch.full((1, 2), 1e5)}, "within"),
        (Cameras.concatenate, {"parts": []}, "got none"),
        (Cameras.concatenate, {"parts": [1]}, "each of parts must be Cameras, got int"),
        (Cameras.concatenate, {"parts": 5}, "parts must be Iterable, got int"),
        (make_conditioning, {"cameras": None}, "cameras must be Cameras"),
        (make_conditioning, {"cameras": CAMERA}, "hint must be"),
        (make_conditioning, {"hint": torch.full((2, 9, 4, 4), torch.inf)}, "hint must be finite"),
        (make_conditioning, {"ray_maps": 3}, "ray_maps must be Sequence"),
        (make_conditioning, {"tokens": None}, "tokens must be a tensor"),
        (make_conditioning, {"tokens": torch.ones(3)}, r"tokens must be \(2, N, C\), got \(3,\)"),
        (make_conditioning, {"tokens": torch.ones(0, 3)}, r"tokens must hold numbers, got \(0, 3\)"),
        (make_conditioning, {"tokens": torch.ones(3, 5, 3)}, r"tokens must be \(2, N, C\)"),
        (make_conditioning, {"text": torch.ones(3)}, r"text must be \(2, N, C\), got \(3,\)"),
        (make_conditioning, {"text": torch.ones(5, 3)}, "must be of one length"),
        (make_conditioning, {"text": torch.ones(0, 3)}, "text must hold numbers"),
    ],
)
def test_values_that_cannot_be_made(make: Callable[..., object], changes: dict[str, object], words: str) -> None:
    refused(words, make, **changes)


def test_scenes_and_pictures_that_cannot_be_made() -> None:
    tokens, views = torch.ones(2, 3), make_views()
    refused("reference must be Cameras, got NoneType; use orbit_cameras", SceneEncoding, tokens, None)
    refused("views must be InputViews", SceneEncoding, tokens, CAMERA, 3)
    refused("model_id must be str", SceneEncoding, tokens, CAMERA, None, 3)
    refused("must be finite", SceneEncoding, tokens / 0, CAMERA)
    refused(r"must hold tokens, got \(0, 8\)", SceneEncoding, torch.ones(0, 8), CAMERA)
    refused(r"rgb must be \(1, 3, S, S\), got \(2, 3, 4, 4\); one picture a camera", NovelViews, views.rgb, CAMERA)
    refused("divide 8-bit pictures by 255", NovelViews, views.rgb * 255, PAIR)
    refused("floating point, got torch.uint8", NovelViews, views.rgb.byte(), PAIR)
    refused(r"NovelViews.rgb must be in \[0, 1\]", NovelViews, -views.rgb, PAIR)
    refused(r"opacity must be in \[0, 1\], got \[2, 2", RenderedViews, views.rgb, views.mask * 2, views.mask)
    refused(r"RenderedViews\.depth must be finite", RenderedViews, views.rgb, views.mask, views.mask / 0)


def test_cameras_of_a_generator_are_all_taken() -> None:
    cameras = orbit_cameras([0, 30, 60])
    assert torch.equal(Cameras.concatenate(iter(cameras)).camera_to_world, cameras.camera_to_world)


def test_the_null_condition_is_zeros_and_the_empty_prompt() -> None:
    null = make_conditioning().unconditional()
    assert float(null.hint.abs().sum() + null.tokens.abs().sum() + sum(m.abs().sum() for m in null.ray_maps)) == 0
    assert float(null.text.mean()) == 2.0
    assert len(null) == 2


def test_a_slice_keeps_what_all_cameras_share() -> None:
    part = make_conditioning()[slice(1, 2)]
    assert part.hint.shape == (1, 9, 4, 4)
    assert part.tokens.shape == (5, 3)
    assert len(part.cameras) == 1
    assert [tuple(ray_map.shape) for ray_map in part.ray_maps] == [(1, 6, 4, 4), (1, 6, 2, 2)]


def test_views_go_to_a_device() -> None:
    assert make_views().to("cpu").rgb.shape == (2, 3, 4, 4)
    assert len(make_views()) == 2
