import math

import pytest
import torch
from golden_files import golden, golden_cameras, worst
from refusals import refused
from soft_object import SoftObject

from upfusion_core import Cameras, geometry, orbit_cameras
from upfusion_core.geometry.cameras import Similarity


def test_lenses_and_orbits_by_hand() -> None:
    assert geometry.focal_from_fov(90.0) == pytest.approx(1.0)
    assert geometry.fov_from_focal(4.5) == pytest.approx(25.0576, abs=1e-4)
    expected = torch.eye(4)
    expected[2, 3] = 2  # photo 1 of a level orbit looks along -Z
    assert worst(orbit_cameras(0.0, 0.0, 2.0).camera_to_world[0], expected) == 0
    right, _, backward, center = orbit_cameras(90.0, 0.0).camera_to_world[0, :3].unbind(-1)
    assert worst(right, torch.tensor([0.0, 0, -1])) < 1e-6
    assert worst(torch.stack([backward, center]), torch.tensor([[1.0, 0, 0]] * 2)) < 1e-6
    center = orbit_cameras(0.0, 30.0, 2.0).centers[0]
    assert worst(center, torch.tensor([0.0, 1.0, math.sqrt(3)])) < 1e-6
    assert worst(geometry.reference_camera(30.0).centers[0], center / 2) < 1e-6
    cameras = orbit_cameras([0, 90, 180], 10.0, [1.0, 2.0, 3.0])  # sequences broadcast
    assert worst(cameras.centers.norm(dim=-1), torch.tensor([1.0, 2.0, 3.0])) < 1e-6
    joined = Cameras.concatenate([cameras[2], cameras[0:2]])
    assert worst(joined.centers, cameras.centers[[2, 0, 1]]) == 0
    assert [len(part) for part in (cameras[-1], list(cameras))] == [1, 3]


def test_centers_targets_and_directions() -> None:
    directions = geometry.sphere_directions(200)
    assert worst(directions.norm(dim=-1), torch.ones(200)) < 1e-6
    assert worst(directions.mean(0), torch.zeros(3)) < 0.01
    nearest = (directions @ directions.T - 2 * torch.eye(200)).amax(1).acos()
    assert 0.8 < float(nearest.min() / nearest.max()) <= 1  # an even spread: no two much nearer than others
    # the golden centres are in photo 1's frame: distance from it is what both frames share
    ours = (golden_cameras().centers - golden_cameras()[0].centers).norm(dim=-1)
    theirs = (golden("cameras")["centers"] - torch.tensor([0.0, 0, -1])).norm(dim=-1)
    assert worst(ours, theirs) < 1e-6
    target = torch.tensor([0.3, -0.2, 0.1])
    cameras = geometry.look_at(torch.tensor([[1.0, 2, 3], [-2, 0.5, 1]]), target)
    backward = torch.nn.functional.normalize(cameras.centers - target, dim=-1)
    assert worst(cameras.camera_to_world[:, :3, 2], backward) < 1e-6
    assert (cameras.camera_to_world[:, 1, 1] > 0).all()  # up points up


def test_random_cameras_stay_in_the_band_and_follow_the_seed() -> None:
    def draw(seed: int) -> Cameras:
        return geometry.random_cameras(500, generator=torch.Generator().manual_seed(seed), distance=(0.5, 1.5))

    cameras = draw(1)
    elevation = torch.rad2deg(torch.asin(cameras.centers[:, 1] / cameras.centers.norm(dim=-1)))
    assert -7.6 < float(elevation.min()) < -6
    assert 51 < float(elevation.max()) < 52.6
    assert float(cameras.centers.norm(dim=-1).min()) >= 0.5
    assert worst(draw(1).centers, cameras.centers) == 0
    assert worst(draw(2).centers, cameras.centers) > 0.1


@pytest.mark.parametrize(("axes", "signs"), [("gltf", (1, 1, 1)), ("opencv", (1, -1, -1)), ("pytorch3d", (-1, 1, -1))])
def test_matrices_of_other_programs(axes: str, signs: tuple[int, int, int]) -> None:
    ours = orbit_cameras(40.0, 10.0)
    theirs = ours.camera_to_world.clone()
    theirs[:, :3, :3] *= torch.tensor(signs, dtype=torch.float32)
    principal = torch.tensor([[0.1, -0.2]])
    for matrices in (theirs, theirs[:, :3]):
        back = geometry.cameras_from_matrices(matrices, focal=2.0, principal=principal, axes=axes)
        assert worst(back.camera_to_world, ours.camera_to_world) == 0
        assert back.focal.tolist() == [[2.0, 2.0]]
        assert torch.equal(back.principal, principal)


def test_bad_cameras_get_a_sentence() -> None:
    for words, make in (
        ("elevation_degrees", lambda: orbit_cameras(0.0, 90.0)),
        ("distance", lambda: orbit_cameras(0.0, 0.0, 0.0)),
        ("finite", lambda: orbit_cameras(float("nan"))),
        ("same length", lambda: orbit_cameras([0, 1, 2], [0, 1])),
        ("focal must be one number", lambda: orbit_cameras([0, 10], focal=[3.0, 4.0, 5.0])),
        ("distance 0", lambda: geometry.look_at(torch.zeros(1, 3))),
        ("line of sight", lambda: geometry.look_at(torch.tensor([[0.0, 1, 0]]))),
        ("fov_degrees", lambda: geometry.focal_from_fov(200.0)),
        ("camera-to-world", lambda: geometry.cameras_from_matrices(torch.eye(3)[None])),
        ("axes", lambda: geometry.cameras_from_matrices(torch.eye(4)[None], axes="blender")),
        ("rigid", lambda: geometry.cameras_from_matrices(torch.diag(torch.tensor([-1.0, 1, 1, 1]))[None])),
        ("focal", lambda: geometry.cameras_from_matrices(torch.eye(4)[None], focal=-1.0)),
        ("nearer than 1e9", lambda: geometry.look_at(torch.tensor([[0.0, 0, 3e38]]))),
        ("azimuth_degrees must be numbers", lambda: orbit_cameras([[1], [2, 3]])),
    ):
        refused(words, make)


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


def test_moving_cameras_is_moving_the_object() -> None:
    known = Similarity.from_angles(33, -18, -5, scale=0.85, shift=(0.03, 0.02, -0.03))
    cameras = orbit_cameras([0, 60, 140, 250], [10, 30, 20, 0])
    torch.testing.assert_close(SoftObject()(known.move(cameras), 32), SoftObject(known)(cameras, 32), atol=2e-5, rtol=0)
