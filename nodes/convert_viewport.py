"""LOAD3D_CAMERA, the camera of ComfyUI's 3D viewer, and the library's cameras. Axes are the same on both sides.

A viewport is square here: its vertical field of view counts, whatever its aspect.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from ..upfusion_core import InputError, cameras_from_matrices, focal_from_fov, fov_from_focal, look_at

if TYPE_CHECKING:
    from ..upfusion_core import Cameras

_FAR = 1e30
"""Numbers of a viewport are smaller, so that their squares are finite."""


def camera_from_load3d(info: Mapping[str, Any], units: float) -> Cameras:
    """LOAD3D_CAMERA -> one camera with the viewport's position, rotation and lens.

    Args:
        info: position, target, zoom, cameraType, vertical fov in degrees; without a quaternion it looks at its target.
        units: lengths of the viewport that make one of ours.
    """
    _check_camera_info(info)
    if info.get("cameraType", "perspective") != "perspective":
        raise InputError(
            f"the viewport's camera must be a perspective one, got {info['cameraType']!r}; switch it in the viewer"
        )
    if info.get("fov") is None:
        raise InputError("the viewport tells no field of view (fov); use its direction only, or a newer viewer")
    fov, zoom = _number(info, "fov"), _number(info, "zoom", 1.0)
    if not (0.1 <= fov <= 179 and zoom > 0):
        raise InputError(
            f"the viewport's field of view must be between 0.1 and 179 degrees and its zoom above 0, got {fov} "
            f"and {zoom}; set them in the viewer"
        )
    focal = zoom * focal_from_fov(fov)
    position, rotation = viewport_pose(info)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3], matrix[:3, 3] = rotation, position / units
    return cameras_from_matrices(matrix[None].float(), focal=focal)


def viewport_pose(info: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """LOAD3D_CAMERA -> position (3,) in its own lengths, rotation (3, 3) of columns right, up, backward; float64."""
    position = _vector(info, "position", "xyz")
    if info.get("quaternion"):
        quaternion = _vector(info, "quaternion", "xyzw")
        if not quaternion.norm() > 1e-6:
            raise InputError("the viewport's quaternion must not be 0, got (0, 0, 0, 0); turn the camera once")
        return position, torch.from_numpy(Rotation.from_quat(quaternion.numpy()).as_matrix())
    target = _vector(info, "target", "xyz")
    return position, look_at(position[None], target).camera_to_world[0, :3, :3].double()


def load3d_from_camera(camera: Cameras, units: float) -> dict[str, Any]:
    """One camera -> LOAD3D_CAMERA, which shows the same in a square viewport.

    The target is the point of the camera's axis nearest to the object, or one unit ahead where that lies behind.
    """
    focal, principal = camera.focal[0].double(), camera.principal[0]
    if not torch.isclose(focal[0], focal[1], rtol=1e-5) or principal.abs().max() > 1e-5:
        raise InputError(
            "a viewport's camera has one focal length and looks through its picture's middle, got focal "
            f"{focal.tolist()} and principal point {principal.tolist()}; use cameras that were made here"
        )
    matrix = camera.camera_to_world[0].double().cpu()
    position, backward = matrix[:3, 3] * units, matrix[:3, 2]
    ahead = float(position @ backward)
    target = position - backward * (ahead if ahead > 1e-6 else units)
    x, y, z, w = Rotation.from_matrix(matrix[:3, :3].numpy()).as_quat().tolist()
    return {
        "position": dict(zip("xyz", position.tolist(), strict=True)),
        "target": dict(zip("xyz", target.tolist(), strict=True)),
        "quaternion": {"x": x, "y": y, "z": z, "w": w},
        "zoom": 1.0,
        "cameraType": "perspective",
        "fov": fov_from_focal(float(focal[1])),
        "aspect": 1.0,
    }


def camera_from_direction(info: Mapping[str, Any], distance: float, focal: float) -> Cameras:
    """One camera that looks at the object from the viewport's direction, upright as the viewport's is.

    The direction is that from the viewport's target to its camera.
    """
    _check_camera_info(info)
    position, rotation = viewport_pose(info)
    direction = position - _vector(info, "target", "xyz")
    if not direction.norm() > 1e-6:
        raise InputError(
            "the viewport's camera must stand away from its target, got distance 0; zoom out in the viewer"
        )
    center = (direction / direction.norm() * distance).float()
    return look_at(center[None], up=rotation[:, 1].float(), focal=focal)


def _check_camera_info(info: object) -> None:
    if not isinstance(info, Mapping):
        raise InputError(
            f"camera_info must be a camera of the 3D viewer, got {type(info).__name__}; let the viewer show something, "
            "then run again"
        )


def _vector(info: Mapping[str, Any], name: str, axes: str) -> Tensor:
    """(len(axes),) float64."""
    part = info.get(name)
    if not isinstance(part, Mapping):
        raise InputError(f"a viewport's camera needs its {name}, got {part!r:.60}; connect a camera of the 3D viewer")
    return torch.tensor([_number(part, axis, owner=f"{name}.") for axis in axes], dtype=torch.float64)


def _number(part: Mapping[str, Any], name: str, default: float | None = None, owner: str = "") -> float:
    value = part.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _FAR:
        raise InputError(
            f"a viewport's camera needs a number as {owner}{name}, got {value!r:.40}; connect a camera of the 3D viewer"
        )
    return float(value)
