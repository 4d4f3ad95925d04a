from __future__ import annotations

import pytest
import torch

from upfusion_core import InputViews, ViewConditioning, orbit_cameras
from upfusion_core.errors import InputError


def make_views(count: int = 2, size: int = 4) -> InputViews:
    return InputViews(torch.rand(count, 3, size, size), torch.ones(count, 1, size, size), torch.full((count, 2), 4.5))


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
