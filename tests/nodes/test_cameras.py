"""Cameras by numbers, held against positions worked out by hand, and those of the 3D viewer, there and back."""

import math
from types import ModuleType
from typing import Any

import pytest
import torch
from scipy.spatial.transform import Rotation
from small_models import Run, close, refused

ORBIT, CAMERA = "UpFusionOrbitCameras", "UpFusionCamera"
FROM, TO = "UpFusionCameraFromLoad3D", "UpFusionCameraToLoad3D"


def test_orbits_are_full_circles_without_a_view_twice_or_arcs_with_both_ends(run_node: Run) -> None:
    (circle,) = run_node(ORBIT, count=4, elevation_from=0.0, elevation_to=0.0, distance=2.0)
    close(circle.centers, [[0, 0, 2], [2, 0, 0], [0, 0, -2], [-2, 0, 0]])  # azimuth grows from +Z to +X
    close(circle.focal, [[4.5, 4.5]] * 4)
    ranges = {"azimuth_from": -90.0, "azimuth_to": 90.0, "elevation_from": 0.0, "elevation_to": 60.0}
    (arc,) = run_node(ORBIT, count=3, **ranges, zoom=2.0)
    half = 0.75**0.5  # cosine of 30 degrees
    close(arc.centers, [[-1, 0, 0], [0, 0.5, half], [0.5, half, 0]])
    close(arc.focal, [[9.0, 9.0]] * 3)


def orbit_info(yaw: float, pitch: float, distance: float, fov: float = 30.0) -> dict[str, Any]:
    """What Create Camera Info makes of an orbit without roll, without the quaternion."""
    y, p = math.radians(yaw), math.radians(pitch)
    way = math.cos(p) * math.sin(y), math.sin(p), math.cos(p) * math.cos(y)
    position = dict(zip("xyz", (distance * part for part in way), strict=True))
    lens = {"zoom": 1, "cameraType": "perspective", "fov": fov}
    return {"position": position, "target": dict.fromkeys("xyz", 0), **lens}


def test_cameras_are_put_after_those_connected(run_node: Run) -> None:
    (first,) = run_node(CAMERA, azimuth=0.0, elevation=0.0)
    (both,) = run_node(CAMERA, azimuth=90.0, elevation=0.0, cameras=first)
    (also,) = run_node(FROM, camera_info=orbit_info(90, 0, 1.0), cameras=first)
    close(torch.stack([both.centers, also.centers]), [[[0, 0, 1], [1, 0, 0]]] * 2)
    assert len(first) == 1  # the connected value is another node's cached output


def test_an_orbit_of_the_viewer_is_our_orbit(run_node: Run, core: ModuleType) -> None:
    for yaw, pitch, distance in ((90, 0, 1.0), (35, 30, 2.0), (-130, -20, 0.5)):
        (camera,) = run_node(FROM, camera_info=orbit_info(yaw, pitch, distance, fov=90.0))
        close(camera.camera_to_world, core.orbit_cameras(yaw, pitch, distance).camera_to_world)
        close(camera.focal, [[1.0, 1.0]])  # 90 degrees
    # zoom multiplies the focal length, and units divide the position
    (camera,) = run_node(FROM, camera_info=orbit_info(0, 0, 10.0, fov=90.0) | {"zoom": 3.0}, units=5.0)
    close(camera.centers, [[0, 0, 2]])
    close(camera.focal, [[3.0, 3.0]])


@pytest.mark.comfyui
def test_create_camera_info_means_our_angles(run_node: Run, core: ModuleType) -> None:
    from comfy_extras.nodes_gaussian_splat import CreateCameraInfo

    for yaw, pitch in ((0.0, 0.0), (90.0, 22.5), (-35.0, 60.0)):
        mode = {"mode": "orbit", "yaw": yaw, "pitch": pitch, "distance": 3.0}
        (info,) = CreateCameraInfo.execute(mode, 0.0, 0.0, 0.0, 0.0, 35.0, zoom=2.0).args
        (camera,) = run_node(FROM, camera_info=info, units=3.0)
        expected = core.orbit_cameras(yaw, pitch, 1.0, focal=2 / math.tan(math.radians(17.5)))
        close(camera.camera_to_world, expected.camera_to_world, atol=1e-5)
        torch.testing.assert_close(camera.focal, expected.focal)


def test_the_direction_can_be_taken_alone(run_node: Run) -> None:
    info = orbit_info(90, 0, 8.0) | {"target": {"x": 0, "y": 2.5, "z": 0}, "cameraType": "orthographic"}
    info["position"]["y"] = 2.5
    del info["fov"]
    (camera,) = run_node(FROM, camera_info=info, take="direction", distance=1.25)
    close(camera.centers, [[1.25, 0, 0]])
    close(camera.focal, [[4.5, 4.5]])
    close(camera.camera_to_world[0, :3, 1], [0, 1, 0])


def test_the_viewport_shows_points_where_the_camera_does(run_node: Run) -> None:
    """Right, up and backward of it, as three.js does; of the default lens, of 25.0576 degrees, at the object."""
    (cameras,) = run_node(ORBIT, count=5, elevation_from=-30.0, elevation_to=60.0, distance=1.5)
    points = torch.tensor([[0.1, 0.2, -0.1], [-0.2, 0.0, 0.1], [0.0, 0.0, 0.0]], dtype=torch.float64)
    for index, matrix in enumerate(cameras.camera_to_world.double()):
        (info,) = run_node(TO, cameras=cameras, index=index)
        turn = Rotation.from_quat([info["quaternion"][axis] for axis in "xyzw"]).as_matrix()
        theirs = (points - points.new_tensor([info["position"][axis] for axis in "xyz"])) @ torch.from_numpy(turn)
        lens = info["zoom"] / math.tan(math.radians(info["fov"]) / 2)
        ours = (points - matrix[:3, 3]) @ matrix[:3, :3]
        close(theirs[:, :2] * lens / -theirs[:, 2:], ours[:, :2] * 4.5 / -ours[:, 2:])
        assert info["fov"] == pytest.approx(25.0576, abs=1e-3)
        assert max(abs(value) for value in info["target"].values()) < 1e-6


def test_both_ways_give_the_same_camera(run_node: Run, core: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    cameras = core.random_cameras(8, generator=generator, elevation_degrees=(-80, 80), distance=(0.5, 3.0), focal=2.0)
    rolled = core.look_at(torch.tensor([[1.0, 0.5, -0.3]]), target=(3.0, 0.2, 0.1), up=(0.3, -1.0, 0.5))  # looks away
    for camera in [*cameras, rolled]:
        (info,) = run_node(TO, cameras=camera, units=2.5)
        (back,) = run_node(FROM, camera_info=info, units=2.5)
        close(back.camera_to_world, camera.camera_to_world, atol=2e-6)
        torch.testing.assert_close(back.focal, camera.focal, atol=0, rtol=1e-5)
        position, target = (torch.tensor([info[name][axis] for axis in "xyz"]) for name in ("position", "target"))
        ahead = torch.nn.functional.normalize(target - position, dim=0)
        close(ahead, -camera.camera_to_world[0, :3, 2], atol=1e-5)


def test_what_is_unfit_gets_a_sentence(run_node: Run, core: ModuleType) -> None:
    for change, message in (
        ({"cameraType": "orthographic"}, "must be a perspective one, got 'orthographic'"),
        ({"fov": None}, "tells no field of view"),
        ({"zoom": 0}, "its zoom above 0"),
        ({"position": None}, "needs its position"),
        ({"position": {"x": 0, "y": "a", "z": 0}}, "needs a number as position.y, got 'a'"),
        ({"quaternion": {"x": 0, "y": 0, "z": 0, "w": 0}}, "must not be 0"),
    ):
        refused(message, run_node, FROM, camera_info=orbit_info(0, 0, 1.0) | change)
    refused("must be a camera of the 3D viewer, got NoneType", run_node, FROM, camera_info=None)
    cameras = core.orbit_cameras([0.0, 90.0])
    refused("index must be between 0 and 1, got 2", run_node, TO, cameras=cameras, index=2)
    shifted = core.Cameras(cameras.camera_to_world, cameras.focal, cameras.principal + 0.1)
    refused("one focal length and looks through its picture's middle", run_node, TO, cameras=shifted)
