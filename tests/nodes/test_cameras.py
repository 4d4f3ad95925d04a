"""Cameras by numbers, held against positions worked out by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch


def test_a_full_circle_has_no_view_twice(run_node: Callable) -> None:
    (cameras,) = run_node("UpFusionOrbitCameras", count=4, elevation_from=0.0, elevation_to=0.0, distance=2.0)
    expected = torch.tensor([[0.0, 0, 2], [2, 0, 0], [0, 0, -2], [-2, 0, 0]])  # azimuth grows from +Z to +X
    torch.testing.assert_close(cameras.centers, expected, atol=1e-6, rtol=0)


def test_an_arc_reaches_both_ends(run_node: Callable) -> None:
    ranges = {"azimuth_from": -90.0, "azimuth_to": 90.0, "elevation_from": 0.0, "elevation_to": 60.0}
    (cameras,) = run_node("UpFusionOrbitCameras", count=3, **ranges)
    half, height = 0.75**0.5, 0.5  # cosine and sine of 30 degrees
    expected = torch.tensor([[-1.0, 0, 0], [0, height, half], [0.5, half, 0]])
    torch.testing.assert_close(cameras.centers, expected, atol=1e-6, rtol=0)


def test_cameras_are_put_after_those_connected(run_node: Callable) -> None:
    (first,) = run_node("UpFusionCamera", azimuth=0.0, elevation=0.0)
    (both,) = run_node("UpFusionCamera", azimuth=90.0, elevation=0.0, cameras=first)
    torch.testing.assert_close(both.centers, torch.tensor([[0.0, 0, 1], [1, 0, 0]]), atol=1e-6, rtol=0)
    assert len(first) == 1  # the connected value is another node's cached output


def test_zoom_multiplies_the_trained_focal_length(run_node: Callable) -> None:
    (cameras,) = run_node("UpFusionCamera", zoom=2.0)
    torch.testing.assert_close(cameras.focal, torch.full((1, 2), 9.0))
    (plain,) = run_node("UpFusionOrbitCameras", count=1)
    torch.testing.assert_close(plain.focal, torch.full((1, 2), 4.5))


@pytest.mark.parametrize("node_id", ["UpFusionCamera", "UpFusionOrbitCameras"])
def test_a_bad_number_gets_a_sentence(run_node: Callable, node_id: str) -> None:
    with pytest.raises(ValueError, match=r"distance must be between 0\.25 and 4\.0, got 0\.0"):
        run_node(node_id, distance=0.0)
