from __future__ import annotations

import math

import pytest
import torch
from soft_object import SoftObject

from upfusion_core import Cameras, orbit_cameras
from upfusion_core.pipeline.photo_cameras import PhotoSearch
from upfusion_core.pipeline.photo_matching import match_photo, ring_differences

SEARCH = PhotoSearch()


def angle_degrees(first: Cameras, second: Cameras) -> float:
    turn = first.camera_to_world[0, :3, :3].T @ second.camera_to_world[0, :3, :3]
    return math.degrees(math.acos(float(((turn.trace() - 1) / 2).clamp(-1, 1))))


@pytest.mark.parametrize(("azimuth", "elevation"), [(101.0, 5.0), (187.0, 38.0), (352.0, 22.0)])
def test_cameras_of_a_known_object_are_found(azimuth: float, elevation: float) -> None:
    true = orbit_cameras(azimuth, elevation, 1.02)
    match = match_photo(SoftObject(), SoftObject()(true, 32)[0], SEARCH, focal=4.5)
    assert angle_degrees(match.camera, true) < 4
    assert match.accepted
    assert match.difference < 0.01


def test_a_round_object_leaves_its_azimuth_open() -> None:
    class Column(SoftObject):
        def __init__(self) -> None:
            super().__init__()
            self.points = torch.tensor([[0.0, -0.06, 0.0], [0.0, 0.0, 0.0], [0.0, 0.07, 0.0]])
            self.sizes, self.colors = self.sizes[:3], self.colors[:3]

    match = match_photo(Column(), Column()(orbit_cameras(75.0, 20.0), 32)[0], SEARCH, focal=4.5)
    assert match.score < 0.3
    assert not match.accepted


def test_turntables_turned_against_each_other_agree_at_the_turn() -> None:
    generator = torch.Generator().manual_seed(0)
    ring = torch.rand(3, 24, 3, 5, 5, generator=generator)
    others = torch.stack([torch.rand(3, 24, 3, 5, 5, generator=generator), ring.roll(-7, dims=1)])
    found = ring_differences(ring, others)
    assert found.shape == (2, 24)
    assert int(found.flatten().argmin()) == 24 + 7
    turned = others[0].roll(4, dims=1)  # by hand: the other frame's azimuth j - 4 stands beside ours j
    torch.testing.assert_close(
        found[0, 4], (ring - turned).square().sum() / (1 - ring).square().sum(), rtol=1e-4, atol=1e-5
    )
    assert float(found[1, 7]) < 1e-5


def test_a_photo_of_another_object_is_not_accepted() -> None:
    other = SoftObject()
    other.colors = 1 - other.colors
    other.points = other.points[:, [1, 2, 0]]
    match = match_photo(SoftObject(), other(orbit_cameras(75.0, 20.0), 32)[0], SEARCH, focal=4.5)
    assert not match.accepted
    black = match_photo(SoftObject(), torch.zeros(3, 32, 32), SEARCH, focal=4.5)
    assert not black.accepted
    assert black.difference > SEARCH.largest_difference
