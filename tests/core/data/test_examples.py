"""Posed views: what they refuse, choosing among them, passing over broken ones."""

from __future__ import annotations

import pytest
import torch

from upfusion_core.data.examples import Placement, PosedViews, readable_views, shuffled_views
from upfusion_core.geometry import orbit_cameras
from upfusion_core.support.errors import InputError


def views(count: int = 3, upright: bool = True) -> PosedViews:
    cameras = orbit_cameras([0.0, 40.0, 90.0][:count], [22.5, 10.0, 5.0][:count], [1.0, 2.0, 0.5][:count])
    rgb = torch.arange(count).float()[:, None, None, None].expand(count, 3, 4, 4) / 10
    ones = torch.ones(count, 1, 4, 4)
    placement = Placement(torch.eye(3).double(), torch.zeros(3).double(), 3.0)
    return PosedViews(rgb, ones, cameras, "cup", upright, depth=ones, placement=placement)


def test_chosen_views_move_the_world_with_their_first() -> None:
    chosen = views().chosen([1, 0])
    assert len(chosen) == 2
    assert torch.allclose(chosen.rgb[:, 0, 0, 0], torch.tensor([0.1, 0.0]))
    expected = orbit_cameras([0.0, -40.0], [10.0, 22.5], [1.0, 0.5])
    assert torch.allclose(chosen.cameras.camera_to_world, expected.camera_to_world, atol=1e-5)
    assert torch.allclose(chosen.depth, torch.full((2, 1, 4, 4), 0.5))
    assert chosen.placement.scale == pytest.approx(1.5)


def test_chosen_views_without_a_true_up_start_at_the_assumed_elevation() -> None:
    chosen = views(upright=False).chosen([2])
    assert torch.allclose(chosen.cameras.camera_to_world, orbit_cameras(0.0).camera_to_world, atol=1e-5)


def test_refusals() -> None:
    good = views()
    with pytest.raises(InputError, match="numbers from 0 to 2"):
        good.chosen([3])
    with pytest.raises(InputError, match="numbers from 0 to 2"):
        good.chosen([])
    with pytest.raises(InputError, match="normalise"):
        PosedViews(good.rgb, good.mask, orbit_cameras([0.0, 1, 2], distance=2.0), "far")
    with pytest.raises(InputError, match="square"):
        PosedViews(good.rgb[..., :3], good.mask[..., :3], good.cameras, "narrow")
    with pytest.raises(InputError, match=r"mask must be \(3, 1, 4, 4\)"):
        PosedViews(good.rgb, good.mask[:2], good.cameras, "unmasked")
    with pytest.raises(InputError, match=r"depth must be"):
        PosedViews(good.rgb, good.mask, good.cameras, "deep", depth=good.rgb)
    with pytest.raises(InputError, match=r"cameras must be"):
        PosedViews(good.rgb, good.mask, good.cameras[:2], "blind")
    with pytest.raises(InputError, match=r"rgb must be in \[0, 1\]"):
        PosedViews(good.rgb * 255, good.mask, good.cameras, "eight bits")
    with pytest.raises(InputError, match=r"mask must be in \[0, 1\]"):
        PosedViews(good.rgb, good.mask * torch.nan, good.cameras, "not a number")


def test_shuffles_follow_the_generator() -> None:
    first, again = (shuffled_views(10, torch.Generator().manual_seed(7)) for _ in range(2))
    assert first == again
    assert sorted(first) == list(range(10))
    assert first != sorted(first)


def test_broken_views_are_passed_over_or_end_the_reading() -> None:
    def read(view: int) -> str:
        if view == 2:
            raise InputError("broken")
        return f"picture {view}"

    skipped: list[tuple[str, str]] = []
    found = readable_views([3, 2, 0, 1], 2, read, name="cup", skipped=skipped, whole=False)
    assert found == [(3, "picture 3"), (0, "picture 0")]
    assert skipped == [("cup view 2", "broken")]
    assert readable_views([2], 1, read, name="cup", skipped=skipped, whole=False) == []
    with pytest.raises(InputError, match="broken"):
        readable_views([3, 2], 2, read, name="cup", skipped=skipped, whole=True)
    assert skipped == [("cup view 2", "broken")]
