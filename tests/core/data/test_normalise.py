"""Any cameras -> our world: by hand, and that pictures do not change."""

import pytest
import torch
from refusals import refused

from upfusion_core.data.views import meeting_point, normalise
from upfusion_core.geometry import camera_rays, look_at, orbit_cameras, project, reference_camera, to_reference_frame
from upfusion_core.types import Cameras


def somewhere(count: int = 5, miss: float = 0.0) -> tuple[Cameras, torch.Tensor]:
    """Cameras about a point away from the origin, 3 to 4 units off, with axes that miss it by up to `miss`."""
    generator = torch.Generator().manual_seed(1)
    target = torch.tensor([5.0, -2.0, 1.0])
    away = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    offsets = miss * torch.randn(count, 3, generator=generator)
    centers = target + away * torch.linspace(3, 4, count)[:, None]
    return look_at(centers, target + offsets, (0.1, 0.2, 1.0), focal=2.0), target


def test_axes_meet_where_they_come_nearest() -> None:
    for centers, targets, point in (
        ([[4.0, 2, 0], [1.0, 2, 7]], [[1.0, 2, 0]] * 2, [1.0, 2, 0]),  # they cross there
        ([[4.0, 0, 0], [0.0, 1, 4]], [[0.0, 0, 0], [0.0, 1, 0]], [0, 0.5, 0]),  # along x at height 0, along z at 1
    ):
        found = meeting_point(look_at(torch.tensor(centers), torch.tensor(targets)))
        assert torch.allclose(found, torch.tensor(point, dtype=torch.float64), atol=1e-6)


def test_with_up_only_the_azimuth_is_turned() -> None:
    cameras = orbit_cameras([70.0, 100.0, 10.0], [40.0, -5.0, 10.0], [2.0, 3.0, 2.0])
    moved, _ = normalise(cameras, up=torch.tensor([0.0, 5.0, 0.0]))
    expected = orbit_cameras([0.0, 30.0, -60.0], [40.0, -5.0, 10.0], [1.0, 1.5, 1.0])
    assert torch.allclose(moved.camera_to_world, expected.camera_to_world, atol=1e-5)
    # and z up becomes y up
    cameras = look_at(torch.tensor([[0.0, -2, 0], [2.0, 0, 0]]), up=(0.0, 0.0, 1.0))
    moved, similarity = normalise(cameras, up=torch.tensor([0.0, 0, 1]))
    assert torch.allclose(moved.camera_to_world, orbit_cameras([0.0, 90.0], 0.0).camera_to_world, atol=1e-6)
    assert torch.allclose(similarity.apply(torch.tensor([0.0, 0, 1])), torch.tensor([0.0, 0.5, 0]), atol=1e-6)


@pytest.mark.parametrize("height", [2.0, -2.0])
def test_straight_above_or_below_the_picture_decides(height: float) -> None:
    cameras = look_at(torch.tensor([[0.0, height, 0]]), up=(1.0, 0.0, 0.0))
    moved, _ = normalise(cameras, center=torch.zeros(3), up=torch.tensor([0.0, 1, 0]))
    side = 1.0 if height > 0 else -1.0
    axes = torch.tensor([[1.0, 0, 0], [0, 0, -side], [0, side, 0]])  # right, up, backward
    assert torch.allclose(moved.camera_to_world[0, :3, :3].T, axes, atol=1e-6)


@pytest.mark.parametrize("up", [None, (0.0, 0.0, 1.0)])
def test_pictures_stay_and_the_reference_looks_at_the_origin_though_axes_miss(up: tuple | None) -> None:
    cameras, target = somewhere(miss=0.3)
    moved, similarity = normalise(cameras, up=None if up is None else torch.tensor(up))
    points = target + torch.tensor([[0.1, 0.2, 0.3], [-0.3, 0.1, 0.0], [0.0, -0.2, 0.2]])
    for before, after in zip(cameras, moved, strict=True):
        assert torch.allclose(project(points, before)[0], project(similarity.apply(points), after)[0], atol=1e-5)
    assert float(moved.centers[0].norm()) == pytest.approx(1, abs=1e-6)
    to_reference_frame(camera_rays(moved, 2, 2), moved[0])  # refuses a reference that looks elsewhere
    missed = similarity.apply(meeting_point(cameras)).float()
    axis = moved.camera_to_world[0, :3, 2]
    assert float(missed @ axis) == pytest.approx(0, abs=1e-5)  # the origin is the foot of the perpendicular


def test_similarities_chain_and_what_is_refused() -> None:
    cameras, target = somewhere()
    moved, first = normalise(cameras)  # without `up` view 0 becomes the reference camera
    assert torch.allclose(moved.camera_to_world[0], reference_camera().camera_to_world[0], atol=1e-5)
    assert torch.allclose(first.apply(target).float(), torch.zeros(3), atol=1e-5)
    assert first.scale == pytest.approx(1 / 3, rel=1e-5)
    again, second = normalise(moved[torch.tensor([2, 0, 1])], center=torch.zeros(3))
    both = second.after(first)
    points = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(both.apply(points), second.apply(first.apply(points)), atol=1e-5)
    assert torch.allclose(both.apply(cameras.centers[2]), again.centers[0], atol=1e-5)
    turned = both.rotation.float() @ cameras.camera_to_world[2, :3, :3]
    assert torch.allclose(turned, again.camera_to_world[0, :3, :3], atol=1e-5)
    parallel = look_at(torch.tensor([[0.0, 0, 3], [1.0, 0, 3]]), torch.tensor([[0.0, 0, 0], [1.0, 0, 0]]))
    refused("parallel", normalise, parallel)
    refused("in front of view 0", normalise, parallel, center=torch.tensor([0.0, 0, 4]))
