import math

import numpy as np
import pytest
import torch
from golden_files import golden, golden_cameras, worst
from refusals import refused

from upfusion_core import Cameras, geometry


def test_lenses_and_orbits_by_hand() -> None:
    assert geometry.focal_from_fov(90.0) == pytest.approx(1.0)
    assert geometry.fov_from_focal(4.5) == pytest.approx(25.0576, abs=1e-4)
    assert geometry.focal_from_fov(geometry.fov_from_focal(2.3)) == pytest.approx(2.3)
    expected = torch.eye(4)
    expected[2, 3] = 2  # photo 1 of a level orbit looks along -Z
    assert worst(geometry.orbit_cameras(0.0, 0.0, 2.0).camera_to_world[0], expected) == 0
    camera = geometry.orbit_cameras(90.0, 0.0)
    assert worst(camera.centers[0], torch.tensor([1.0, 0, 0])) < 1e-6
    assert worst(camera.camera_to_world[0, :3, 0], torch.tensor([0.0, 0, -1])) < 1e-6  # right
    assert worst(camera.camera_to_world[0, :3, 2], torch.tensor([1.0, 0, 0])) < 1e-6  # backward
    center = geometry.orbit_cameras(0.0, 30.0, 2.0).centers[0]
    assert worst(center, torch.tensor([0.0, 1.0, math.sqrt(3)])) < 1e-6
    assert worst(geometry.reference_camera(30.0).centers[0], center / 2) < 1e-6
    cameras = geometry.orbit_cameras([0, 90, 180], 10.0, [1.0, 2.0, 3.0])  # sequences broadcast
    assert worst(cameras.centers.norm(dim=-1), torch.tensor([1.0, 2.0, 3.0])) < 1e-6
    joined = Cameras.concatenate([cameras[2], cameras[0:2]])
    assert worst(joined.centers, cameras.centers[[2, 0, 1]]) == 0
    assert [len(part) for part in (cameras[-1], list(cameras))] == [1, 3]
    pair = geometry.orbit_cameras([0.0, 90.0]).camera_to_world
    for degrees in (np.array([90.0, 0.0])[::-1], np.array([0, 90], ">i4"), np.array([0.0, 90.0], dtype=object)):
        assert torch.equal(geometry.orbit_cameras(degrees).camera_to_world, pair)  # arrays of any memory layout


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
    forward = -cameras.camera_to_world[:, :3, 2]
    offsets = torch.nn.functional.normalize(target - cameras.centers, dim=-1)
    assert worst(forward, offsets) < 1e-6
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
    ours = geometry.orbit_cameras(40.0, 10.0)
    theirs = ours.camera_to_world.clone()
    theirs[:, :3, :3] *= torch.tensor(signs, dtype=torch.float32)
    principal = torch.tensor([[0.1, -0.2]])
    for matrices in (theirs, theirs[:, :3]):
        back = geometry.cameras_from_matrices(matrices, focal=2.0, principal=principal, axes=axes)
        assert worst(back.camera_to_world, ours.camera_to_world) == 0
        assert back.focal.tolist() == [[2.0, 2.0]]
        assert torch.equal(back.principal, principal)


EYE, GENERATOR = torch.eye(4)[None], torch.Generator()


def test_bad_cameras_get_a_sentence() -> None:
    for words, make in (
        ("elevation_degrees", lambda: geometry.orbit_cameras(0.0, 90.0)),
        ("distance", lambda: geometry.orbit_cameras(0.0, 0.0, 0.0)),
        ("finite", lambda: geometry.orbit_cameras(float("nan"))),
        ("same length", lambda: geometry.orbit_cameras([0, 1, 2], [0, 1])),
        ("focal must be one number", lambda: geometry.orbit_cameras([0, 10], focal=[3.0, 4.0, 5.0])),
        ("whole number", lambda: geometry.random_cameras(2.5, generator=GENERATOR)),
        ("distance 0", lambda: geometry.look_at(torch.zeros(1, 3))),
        ("line of sight", lambda: geometry.look_at(torch.tensor([[0.0, 1, 0]]))),
        ("fov_degrees", lambda: geometry.focal_from_fov(200.0)),
        ("camera-to-world", lambda: geometry.cameras_from_matrices(torch.eye(3)[None])),
        ("axes", lambda: geometry.cameras_from_matrices(EYE, axes="blender")),
        ("rigid", lambda: geometry.cameras_from_matrices(torch.diag(torch.tensor([-1.0, 1, 1, 1]))[None])),
        ("focal", lambda: geometry.cameras_from_matrices(EYE, focal=-1.0)),
        ("nearer than 1e9", lambda: geometry.look_at(torch.tensor([[0.0, 0, 3e38]]))),
        (r"target must be \(3,\) or \(2, 3\), got \(2,\)", lambda: geometry.look_at(torch.ones(2, 3), target=(0, 0))),
        ("up must be finite", lambda: geometry.look_at(torch.ones(2, 3), up=(0, torch.nan, 0))),
        ("up must be numbers, got 'y'", lambda: geometry.look_at(torch.ones(2, 3), up="y")),
        ("count must be between 1 and 1000000", lambda: geometry.random_cameras(10**7, generator=GENERATOR)),
        ("generator must be Generator, got int", lambda: geometry.random_cameras(1, generator=3)),
        (r"distance must be \(2\)", lambda: geometry.random_cameras(1, generator=GENERATOR, distance=(1, 2, 3))),
        ("matrices must be a tensor, got list", lambda: geometry.cameras_from_matrices([[1.0]])),
        ("azimuth_degrees must be numbers", lambda: geometry.orbit_cameras([[1], [2, 3]])),
        ("azimuth_degrees must be numbers", lambda: geometry.orbit_cameras(True)),
        ("azimuth_degrees must be numbers", lambda: geometry.orbit_cameras(np.array([1 + 2j]))),
    ):
        refused(words, make)
