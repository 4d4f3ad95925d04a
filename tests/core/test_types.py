from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from upfusion_core import Cameras, InputViews, NovelViews, RenderedViews, SceneEncoding, ViewConditioning, orbit_cameras
from upfusion_core.support.errors import InputError


def make_views(count: int = 2, size: int = 4) -> InputViews:
    return InputViews(torch.rand(count, 3, size, size), torch.ones(count, 1, size, size), torch.full((count, 2), 4.5))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda views: replace(views, mask=views.mask * 7), r"InputViews.mask must be in \[0, 1\], got \[7, 7\]"),
        (lambda views: replace(views, mask=views.mask * -3), r"InputViews.mask must be in \[0, 1\]"),
        (lambda views: replace(views, focal=-views.focal), "InputViews.focal must be above 0, got -4.5"),
        (lambda views: NovelViews(views.rgb * 255, orbit_cameras([0, 90])), "divide 8-bit pictures by 255"),
        (lambda views: NovelViews(views.rgb.byte(), orbit_cameras([0, 90])), "floating point, got torch.uint8"),
        (lambda views: NovelViews(-views.rgb, orbit_cameras([0, 90])), r"NovelViews.rgb must be in \[0, 1\]"),
        (
            lambda views: RenderedViews(views.rgb, views.mask * 2, views.mask),
            r"opacity must be in \[0, 1\], got \[2, 2",
        ),
        (lambda views: SceneEncoding(torch.ones(0, 8), orbit_cameras(0)), r"must hold tokens, got \(0, 8\)"),
        (
            lambda views: replace(make_conditioning(), tokens=torch.ones(0, 3)),
            r"tokens must hold numbers, got \(0, 3\)",
        ),
        (lambda views: replace(make_conditioning(), tokens=torch.ones(3, 5, 3)), r"tokens must be \(2, N, C\)"),
        (lambda views: replace(make_conditioning(), text=torch.ones(5, 3)), "must be of one length"),
        (lambda views: replace(make_conditioning(), text=torch.ones(0, 3)), "text must hold numbers"),
        (lambda views: Cameras.concatenate([1]), "each of parts must be Cameras, got int"),
        (lambda views: Cameras.concatenate(5), "parts must be Iterable, got int"),
    ],
)
def test_values_out_of_range_are_refused(make, words: str) -> None:  # noqa: ANN001
    with pytest.raises(InputError, match=words):
        make(make_views())


def test_cameras_of_a_generator_are_all_taken() -> None:
    cameras = orbit_cameras([0, 30, 60])
    assert torch.equal(Cameras.concatenate(iter(cameras)).camera_to_world, cameras.camera_to_world)


def make_conditioning() -> ViewConditioning:
    return ViewConditioning(
        hint=torch.ones(2, 9, 4, 4),
        ray_maps=[torch.ones(2, 6, 4, 4), torch.ones(2, 6, 2, 2)],
        tokens=torch.ones(5, 3),
        cameras=orbit_cameras([0, 90]),
        text=torch.ones(7, 3),
        unconditional_text=torch.full((7, 3), 2.0),
    )


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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rgb": torch.rand(2, 4, 4, 3)}, "InputViews.rgb must be"),
        ({"rgb": torch.rand(2, 3, 4, 6), "mask": torch.ones(2, 1, 4, 6)}, "square"),
        ({"rgb": torch.full((2, 3, 4, 4), 255.0)}, "divide 8-bit photos by 255"),
        ({"rgb": torch.full((2, 3, 4, 4), float("nan"))}, "finite"),
        ({"mask": torch.ones(1, 1, 4, 4)}, "InputViews.mask"),
        ({"focal": torch.ones(2)}, "InputViews.focal"),
        ({"focal": torch.ones(2, 2, dtype=torch.int64)}, "floating point, got torch.int64"),
    ],
)
def test_bad_views_get_a_sentence(change: dict[str, torch.Tensor], words: str) -> None:
    views = make_views()
    with pytest.raises(InputError, match=words):
        InputViews(**({"rgb": views.rgb, "mask": views.mask, "focal": views.focal} | change))


def test_seven_photos_are_too_many() -> None:
    with pytest.raises(InputError, match="1 to 6 photos, got 7"):
        make_views(7)


def test_conditions_of_another_number_of_cameras_are_refused() -> None:
    with pytest.raises(InputError, match="hint"):
        ViewConditioning(
            torch.ones(1, 9, 4, 4), (), torch.ones(5, 3), orbit_cameras([0, 90]), torch.ones(7, 3), torch.ones(7, 3)
        )
    with pytest.raises(InputError, match="tokens"):
        ViewConditioning(
            torch.ones(1, 9, 4, 4), (), torch.ones(3), orbit_cameras(0.0), torch.ones(7, 3), torch.ones(7, 3)
        )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"camera_to_world": torch.eye(4)[None] * 1e20}, "within \\+-1e\\+09, got 1e\\+20; check its unit"),
        ({"camera_to_world": torch.eye(4, dtype=torch.float64)[None] * 1e300}, "must be finite"),
        ({"camera_to_world": torch.zeros(1, 4, 4)}, "must be rigid"),
        ({"focal": torch.full((1, 2), 1e-4)}, "at least 0.001"),
        ({"focal": torch.full((1, 2), -1.0)}, "above 0, got -1"),
        ({"focal": torch.full((1, 2), 1e7)}, "within"),
        ({"principal": torch.full((1, 2), 1e5)}, "within"),
    ],
)
def test_cameras_that_are_none(changes: dict[str, torch.Tensor], words: str) -> None:
    good = {"camera_to_world": torch.eye(4)[None], "focal": torch.ones(1, 2), "principal": torch.zeros(1, 2)}
    Cameras(**good)
    with pytest.raises(InputError, match=words):
        Cameras(**(good | changes))
    with pytest.raises(InputError, match="got none"):
        Cameras.concatenate([])


@pytest.mark.parametrize(
    ("rgb", "words"),
    [
        (torch.ones(1, 3, 8, 8, dtype=torch.uint8), "must be floating point, got torch.uint8"),
        (torch.ones(1, 3, 0, 0), "must hold pixels"),
    ],
)
def test_photos_that_are_none(rgb: torch.Tensor, words: str) -> None:
    with pytest.raises(InputError, match=words):
        InputViews(rgb, torch.ones(1, 1, *rgb.shape[2:]), torch.ones(1, 2))


def test_scenes_conditions_and_pictures_of_other_types() -> None:
    camera, tokens = orbit_cameras(0), torch.ones(2, 3)
    for values, words in (
        ((tokens, None), "reference must be Cameras, got NoneType; use orbit_cameras"),
        ((tokens, camera, 3), "views must be InputViews"),
        ((tokens, camera, None, 3), "model_id must be str"),
        ((tokens / 0, camera), "must be finite"),
    ):
        with pytest.raises(InputError, match=words):
            SceneEncoding(*values)
    hint, maps = torch.ones(1, 9, 4, 4), (torch.ones(1, 6, 4, 4),)
    for values, words in (
        ((hint, maps, tokens, None), "cameras must be Cameras"),
        ((hint, 3, tokens, camera), "ray_maps must be Sequence"),
        ((hint, maps, tokens, camera, torch.ones(3)), r"text must be \(1, N, C\), got \(3,\)"),
        ((hint / 0, maps, tokens, camera), "hint must be finite"),
        ((hint, maps, torch.ones(3), camera), r"tokens must be \(1, N, C\), got \(3,\)"),
    ):
        with pytest.raises(InputError, match=words):
            ViewConditioning(*values)
    with pytest.raises(InputError, match=r"rgb must be \(1, 3, S, S\), got \(2, 3, 4, 4\); one picture a camera"):
        NovelViews(torch.ones(2, 3, 4, 4), camera)
    with pytest.raises(InputError, match=r"RenderedViews\.depth must be finite"):
        RenderedViews(torch.ones(1, 3, 2, 2), torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2) / 0)
