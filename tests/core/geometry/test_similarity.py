import pytest
import torch
from soft_object import SoftObject

from upfusion_core import orbit_cameras
from upfusion_core.geometry.cameras import Similarity


def test_similarities_by_hand() -> None:
    quarter = Similarity.from_angles(90, scale=2.0, shift=(0.0, 1.0, 0.0))  # about +Y: +Z comes to +X
    turned = quarter.apply(torch.tensor([[0.0, 0, 1], [0, 3, 0]]))
    torch.testing.assert_close(turned, torch.tensor([[2.0, 1, 0], [0, 7, 0]]))
    assert float(quarter.rotation.trace()) == pytest.approx(1, abs=1e-6)  # 1 + 2 cos 90 degrees
    tilt = Similarity.from_angles(0, 90)  # about +X: +Y comes to +Z
    torch.testing.assert_close(tilt.apply(torch.tensor([[0.0, 1, 0]])), torch.tensor([[0.0, 0, 1]]))
    roll = Similarity.from_angles(0, 0, 90)  # about +Z: +X comes to +Y
    torch.testing.assert_close(roll.apply(torch.tensor([[1.0, 0, 0]])), torch.tensor([[0.0, 1, 0]]))
    points = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Similarity.from_angles().apply(points), points)
    moved = Similarity.from_angles(30).move(orbit_cameras([50], 20))
    torch.testing.assert_close(moved.camera_to_world, orbit_cameras([20], 20).camera_to_world, atol=1e-6, rtol=0)
    larger = Similarity.from_angles(scale=2.0).move(orbit_cameras([50], 20))
    torch.testing.assert_close(larger.centers, orbit_cameras([50], 20, 0.5).centers)


@pytest.mark.parametrize("angles", [(5, -4, 3), (-25, 15, 8), (33, -18, -5)])
def test_moving_cameras_is_moving_the_object(angles: tuple[float, float, float]) -> None:
    known = Similarity.from_angles(*angles, scale=0.85, shift=(0.03, 0.02, -0.03))
    cameras = orbit_cameras([0, 60, 140, 250], [10, 30, 20, 0])
    torch.testing.assert_close(SoftObject()(known.move(cameras), 32), SoftObject(known)(cameras, 32), atol=2e-5, rtol=0)
