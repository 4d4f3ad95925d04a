"""Cameras: those that look the wrong way, stand on their target, are mirrored, or are none at all."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from odd_values import numbers, odd_tensors, or_junk, refused_or_finite
from torch import Tensor

from upfusion_core import Cameras, cameras_from_matrices, orbit_cameras
from upfusion_core.geometry import camera_rays, reference_plucker
from upfusion_core.geometry.cameras import reference_camera


@st.composite
def matrices(draw: st.DrawFn) -> Tensor:
    """(N, 4, 4) poses, good ones and such as are mirrored, scaled, sheared, far away or full of NaN."""
    pose = orbit_cameras([0.0, 120.0], 20.0, 1.5).camera_to_world
    pose[:, :3, :3] *= draw(st.sampled_from((1.0, 1.0, 1.0005, -1.0, 2.0, 0.0, 1e-20, 1e20)))
    changed = {"good": pose[:0], "mirrored": pose[:, :, 0], "far": pose[:, :3, 3], "sheared": pose[:, 0, 1]}
    changed |= {"bottom": pose[:, 3], "away": pose[:, :3, ::2]}
    changed[draw(st.sampled_from(list(changed)))].mul_(draw(st.sampled_from((-1.0, 0.0, 1.5, 1e6, 3e38, torch.nan))))
    return pose


def every_use_is_finite(cameras: Cameras | None) -> None:
    """Rays of accepted cameras are unit vectors, and their Plücker forms are numbers."""
    if cameras is None or not len(cameras):
        return
    rays = camera_rays(cameras, 3, 2)
    assert torch.allclose(rays.directions.norm(dim=-1), torch.ones(len(cameras), 3, 2), atol=1e-4)
    refused_or_finite(reference_plucker, cameras, reference_camera(), 4)
    refused_or_finite(reference_plucker, reference_camera(), cameras[0], 4)


@given(
    or_junk(matrices(), odd_tensors((2, 4, 4), (1, 4, 4), low=-1)),
    or_junk(torch.full((2, 2), 4.5), odd_tensors((2, 2), low=-1, high=5)),
    or_junk(torch.zeros(2, 2), odd_tensors((2, 2), low=-1)),
)
def test_cameras(pose: object, focal: object, principal: object) -> None:
    every_use_is_finite(refused_or_finite(Cameras, pose, focal, principal))


@given(
    or_junk(30.0, [0, 90, 180], odd_tensors((3,), low=-720, high=720), numbers()),
    or_junk(22.5, [-89.9999, 0, 89.9999], [90], odd_tensors((3,), low=-90, high=90), numbers()),
    or_junk(1.0, 1e-30, 1e30, [1, 2, 3], odd_tensors((3,), high=3), numbers()),
    or_junk(4.5, numbers()),
)
def test_orbit_cameras(azimuth: object, elevation: object, distance: object, focal: object) -> None:
    every_use_is_finite(refused_or_finite(orbit_cameras, azimuth, elevation, distance, focal=focal))


@given(
    or_junk(matrices(), odd_tensors((2, 4, 4), (2, 3, 4), low=-1)),
    or_junk(4.5, [4.5, 2.0], odd_tensors((2,), (2, 2), high=5), numbers()),
    or_junk(None, torch.zeros(2, 2), odd_tensors((2, 2), low=-1)),
    or_junk("gltf", "opencv", "pytorch3d", "blender"),
)
def test_cameras_from_matrices(pose: object, focal: object, principal: object, axes: object) -> None:
    every_use_is_finite(refused_or_finite(cameras_from_matrices, pose, focal=focal, principal=principal, axes=axes))
