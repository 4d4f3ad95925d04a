"""Any set of cameras -> our world: the object at the origin, view 0's camera at distance 1, looking at the origin."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import check_shape
from ..errors import InputError
from ..geometry import cameras_from_matrices, reference_camera
from ..types import Cameras

_PARALLEL = 1e-6
"""Mean squared sine of the angles between the axes and their common direction, below which they meet nowhere."""


@dataclass(frozen=True, eq=False)
class Placement:
    """How a source's world moved into ours: x' = scale · rotation (x - origin), column vectors.

    rotation: (3, 3). origin: (3,), in the source's world. scale: our units a unit of the source. All float64.
    """

    rotation: Tensor
    origin: Tensor
    scale: float

    def points(self, points: Tensor) -> Tensor:
        """(..., 3) points of the source's world -> (..., 3) in ours, float32."""
        return (self.scale * (points.double() - self.origin) @ self.rotation.T).float()

    def cameras(self, cameras: Cameras) -> Cameras:
        """Cameras of the source's world -> the same cameras in ours; pictures of them do not change."""
        matrices = cameras.camera_to_world.double().clone()
        matrices[:, :3, 3] = self.scale * (matrices[:, :3, 3] - self.origin) @ self.rotation.T
        matrices[:, :3, :3] = self.rotation @ matrices[:, :3, :3]
        return cameras_from_matrices(matrices, focal=cameras.focal, principal=cameras.principal)

    def after(self, first: Placement) -> Placement:
        """One similarity that does what `first` and then this one do."""
        moved = first.origin + first.rotation.T @ self.origin / first.scale
        return Placement(self.rotation @ first.rotation, moved, self.scale * first.scale)


def meeting_point(cameras: Cameras) -> Tensor:
    """(3,) float64: the point with the least sum of squared distances to the cameras' optical axes.

    Raises:
        InputError: the axes are parallel (a single camera's are), so that they meet nowhere.
    """
    matrices = cameras.camera_to_world.double()
    axes, centers = matrices[:, :3, 2], matrices[:, :3, 3]
    # Distance to an axis is |(I - a a^T)(p - c)|; setting the derivative of the sum of squares to 0 is linear in p.
    across = torch.eye(3, dtype=torch.float64) - axes[:, :, None] * axes[:, None, :]
    if torch.linalg.eigvalsh(across.mean(dim=0))[0] < _PARALLEL:
        raise InputError(
            f"the optical axes of {len(cameras)} cameras must meet near the object, but they are parallel; "
            "give the object's centre, or views from different directions"
        )
    center: Tensor = torch.linalg.solve(across.sum(dim=0), (across @ centers[:, :, None]).sum(dim=0))[:, 0]
    return center


def normalise(cameras: Cameras, *, center: Tensor | None = None, up: Tensor | None = None) -> tuple[Cameras, Placement]:
    """Moves cameras rigidly, and scales their world, so that view 0 is the reference camera of our world.

    Origin: the point of view 0's optical axis that lies nearest to `center`. Networks take the reference to look at
    the origin exactly (`geometry.to_reference_frame` refuses more than 1e-3); where view 0's axis misses the centre,
    the origin gives way, so every camera stays true to its picture and none is turned or warped.
    Scale: view 0's camera stands at distance 1.
    Up: with a true `up` it becomes +Y, and the world is turned about it until view 0 stands at azimuth 0, at whatever
    elevation and roll it has; straight above or below the object, the top of its picture points to -Z or +Z. Without
    one (Co3D) nothing says where up is, and view 0 becomes `geometry.reference_camera()`: azimuth 0, elevation 22.5
    degrees, no roll; +Y is then that camera's idea of up.

    Args:
        cameras: N >= 1 cameras, view 0 the reference.
        center: (3,) the object's place if it is known; else the `meeting_point` of all axes.
        up: (3,) the direction that is up in the cameras' world, of any length; None if it is unknown.

    Returns:
        The cameras in our world, and the similarity that took them there.

    Raises:
        InputError: no cameras, parallel axes, a centre that is not in front of view 0, or an `up` of length 0.
    """
    if not len(cameras):
        raise InputError("expected at least one camera to normalise, got none; read some views first")
    first = cameras.camera_to_world[0].double().cpu()
    center = meeting_point(cameras.to("cpu")) if center is None else torch.as_tensor(center).double()
    check_shape("center", center, (3,))
    backward, stand = first[:3, 2], first[:3, 3]
    distance = float((stand - center) @ backward)
    if not distance > 1e-6:
        raise InputError(
            f"the object must lie in front of view 0, but its centre is {-distance:.3g} ahead of that camera; "
            "check the axes of the cameras"
        )
    origin = stand - distance * backward
    rotation = _upright(first, up) if up is not None else _as_reference(first)
    similarity = Placement(rotation, origin, 1 / distance)
    return similarity.cameras(cameras.to("cpu")), similarity


def _as_reference(first: Tensor) -> Tensor:
    """(3, 3) that turns view 0 into the reference camera."""
    reference = reference_camera().camera_to_world[0, :3, :3].double()
    return _nearest_rotation(reference @ first[:3, :3].T)


def _upright(first: Tensor, up: Tensor) -> Tensor:
    """(3, 3) with rows x, y, z of our world: y is up, z the horizontal direction from the object to view 0."""
    up = torch.as_tensor(up).double()
    check_shape("up", up, (3,))
    if not up.norm() > 1e-9:
        raise InputError("`up` must be a direction, got a vector of length 0; leave it out if up is unknown")
    y = up / up.norm()
    backward, above = first[:3, 2], first[:3, 1]
    ahead = backward - (backward @ y) * y
    if ahead.norm() < 1e-4:  # straight above or below: the picture's own up decides
        ahead = above * (-1.0 if backward @ y > 0 else 1.0)
        ahead = ahead - (ahead @ y) * y
    z = ahead / ahead.norm()
    return torch.stack([torch.linalg.cross(y, z), y, z])


def _nearest_rotation(matrix: Tensor) -> Tensor:
    """The rotation nearest to a matrix that is one up to rounding."""
    left, _, right = torch.linalg.svd(matrix)
    rotation: Tensor = left @ right
    return rotation
