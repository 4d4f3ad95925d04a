"""Posed views: what they refuse, choosing among them, passing over broken ones."""

from __future__ import annotations

import pytest
import torch
from refusals import refused

from upfusion_core.data.views import Placement, PosedViews, StoredObject, StoredViews
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
    rgb, mask, cameras = good.rgb, good.mask, good.cameras
    refused("numbers from 0 to 2", good.chosen, [3])
    refused("numbers from 0 to 2", good.chosen, [])
    for words, *arguments in (
        ("normalise", rgb, mask, orbit_cameras([0.0, 1, 2], distance=2.0)),
        ("square", rgb[..., :3, :], mask, cameras),
        (r"mask must be \(3, 1, 4, 4\)", rgb, mask[:2], cameras),
        ("cameras must be", rgb, mask, cameras[:2]),
        (r"rgb must be in \[0, 1\]", rgb * 255, mask, cameras),
        ("mask must be finite", rgb, mask * torch.nan, cameras),
    ):
        refused(words, PosedViews, *arguments, "cup")
    refused("depth must be", PosedViews, rgb, mask, cameras, "deep", depth=rgb)


class Numbers(StoredViews):
    """One object whose views are white pictures, the third broken."""

    def __len__(self) -> int:
        return 1

    def _stored(self, index: int) -> StoredObject:
        def read(view: int) -> int:
            if view == 2:
                raise InputError("torn")
            return view

        def join(chosen: list[int], found: list[int]) -> PosedViews:
            assert chosen == found
            return views().chosen(chosen) if 1 in chosen else self.refuse()

        return StoredObject("cup", 3, read, join)

    def refuse(self) -> PosedViews:
        raise InputError("no second view")


def test_broken_views_are_passed_over_or_end_the_reading() -> None:
    dataset = Numbers()
    assert len(dataset[0]) == 2
    assert dataset.skipped == [("cup view 2", "torn")]
    refused("torn", dataset.read, 0, [1, 2])
    assert dataset.skipped == [("cup view 2", "torn")]
    refused("no second view", dataset.read, 0, [0])
    assert dataset.skipped[-1] == ("cup", "no second view")


def test_draws_follow_the_generator() -> None:
    dataset = Numbers()
    first, again = (dataset.draw(0, 3, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first.rgb, again.rgb)
    assert len(first) == 2  # others step in for the broken one where there are any
    refused("count must be", dataset.draw, 0, 0, torch.Generator())
