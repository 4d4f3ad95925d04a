"""Making cameras: look-at, orbits, random cameras on a sphere band, matrices of other programs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..support.checks import check_choice, check_count, check_finite, check_range, check_shape, check_type
from ..support.errors import InputError
from ..types import REFERENCE_FOCAL, Cameras

REFERENCE_ELEVATION_DEGREES = 22.5  # at which the release assumes photo 1; nobody measured it
BAND_ELEVATION_DEGREES = (-7.5, 52.5)  # of the cameras that the release distils from
Numbers = float | Sequence[float] | Tensor


def focal_from_fov(fov_degrees: float) -> float:
    """Focal length in NDC units of a full field of view, e.g. 90 degrees -> 1.0, 25.06 degrees -> 4.5."""
    check_range("fov_degrees", fov_degrees, 0.1, 179.0)
    return 1.0 / math.tan(math.radians(fov_degrees) / 2)


def fov_from_focal(focal: float) -> float:
    """Full field of view in degrees of a focal length in NDC units, e.g. 1.0 -> 90, 4.5 -> 25.06."""
    check_range("focal", focal, 1e-3)
    return math.degrees(2 * math.atan(1.0 / focal))


def look_at(
    centers: Tensor,
    target: Tensor | Sequence[float] = (0.0, 0.0, 0.0),
    up: Tensor | Sequence[float] = (0.0, 1.0, 0.0),
    *,
    focal: Numbers = REFERENCE_FOCAL,
) -> Cameras:
    """Cameras at `centers` (N, 3) that look at `target`, (3,) or (N, 3); `up` points up in the picture.

    focal: NDC focal length, one number or N. InputError where a centre lies on its target or `up` in the line of sight.
    """
    check_shape("centers", centers, ("N", 3))
    centers = numbers("centers", centers)
    backward = centers - _vectors("target", target, centers)
    distance = backward.norm(dim=-1)
    if (distance < 1e-6).any():
        raise InputError("a camera must stand away from what it looks at, got distance 0; move its centre")
    if (distance > 1e9).any():
        most = f"{float(distance.max()):.3g}"
        raise InputError(f"a camera must stand nearer than 1e9 to what it looks at, got {most}; check its unit")
    backward = normalize(backward, dim=-1)
    up = normalize(_vectors("up", up, centers).expand_as(backward), dim=-1)
    right = torch.linalg.cross(up, backward)
    if (right.norm(dim=-1) < 1e-5).any():
        raise InputError("`up` must not run along the line of sight; choose another up vector for this camera")
    right = normalize(right, dim=-1)
    above = normalize(torch.linalg.cross(backward, right), dim=-1)
    return _with_focal(torch.stack([right, above, backward, centers], dim=-1), focal)


def orbit_cameras(
    azimuth_degrees: Numbers,
    elevation_degrees: Numbers = REFERENCE_ELEVATION_DEGREES,
    distance: Numbers = 1.0,
    *,
    focal: Numbers = REFERENCE_FOCAL,
) -> Cameras:
    """Cameras on a turntable about the origin, looking at it, +Y up (the release's formula).

    Args:
        azimuth_degrees: 0 on +Z, where photo 1 stands, growing towards +X; a number or a sequence, as all are.
        elevation_degrees: above the horizon, strictly between -90 and 90.
        distance: in units of photo 1's distance.
        focal: NDC focal length; the released networks know only 4.5.
    """
    given = {"azimuth_degrees": azimuth_degrees, "elevation_degrees": elevation_degrees, "distance": distance}
    found = {name: numbers(name, value).reshape(-1) for name, value in given.items()}
    sizes = {len(values) for values in found.values()} - {1}
    if len(sizes) > 1 or 0 in sizes:
        counts = ", ".join(f"{len(values)} {name}" for name, values in found.items())
        raise InputError(f"orbit sequences must have the same length or be single numbers, got {counts}")
    azimuth, elevation, radius = torch.broadcast_tensors(*found.values())
    if (elevation.abs() >= 90).any():
        worst = float(elevation.abs().max())
        raise InputError(f"elevation_degrees must be between -90 and 90 (ends excluded), got {worst}; take 89")
    if (radius <= 0).any():
        raise InputError(f"distance must be above 0, got {float(radius.min())}")
    a, e = torch.deg2rad(azimuth), torch.deg2rad(elevation)
    ground = radius * e.cos()
    centers = torch.stack([ground * a.sin(), radius * e.sin(), ground * a.cos()], dim=-1)
    return look_at(centers, focal=focal)


def sphere_directions(count: int) -> Tensor:
    """(count, 3) unit vectors spread evenly over a sphere, from above to below, each a golden angle further round."""
    number = torch.arange(count, dtype=torch.float32)
    up = 1 - (2 * number + 1) / count
    turn, across = math.pi * (3 - math.sqrt(5)) * number, (1 - up.square()).sqrt()
    return torch.stack([across * turn.sin(), up, across * turn.cos()], dim=-1)


def reference_camera(elevation_degrees: float = REFERENCE_ELEVATION_DEGREES, focal: float = REFERENCE_FOCAL) -> Cameras:
    """Photo 1's camera: azimuth 0, distance 1, at the elevation it is taken to have."""
    return orbit_cameras(0.0, elevation_degrees, 1.0, focal=focal)


def networks_reference(photo: Cameras) -> Cameras:
    """Photo 1's camera as the networks take it: it looks at the object, with their lens, along the same line.

    It stands where the object fills their picture as it fills the photo's square; so far is their unit of length.
    """
    center, up, focal = photo.centers, photo.camera_to_world[:, :3, 1], photo.focal.mean(dim=1)
    distance = center.norm(dim=1)
    aside = (photo.camera_to_world[:, :3, 2] - center / distance[:, None]).abs().max()
    if max(float(aside), float(photo.principal.abs().max()), float((photo.focal - REFERENCE_FOCAL).abs().max())) < 1e-5:
        return photo
    return look_at(center * (REFERENCE_FOCAL / focal)[:, None], up=up)


def reference_distance(reference: Cameras) -> float:
    """How far photo 1's camera stands, as the networks take it: their unit of length, 1 but where another is known."""
    distance = float(reference.centers[0].norm())
    return 1.0 if abs(distance - 1) < 1e-4 else distance


def random_cameras(
    count: int,
    *,
    generator: torch.Generator,
    azimuth_degrees: tuple[float, float] = (0.0, 360.0),
    elevation_degrees: tuple[float, float] = BAND_ELEVATION_DEGREES,
    distance: tuple[float, float] = (1.0, 1.0),
    focal: float = REFERENCE_FOCAL,
) -> Cameras:
    """`count` cameras with azimuth, elevation and distance drawn uniformly from ranges, by default the release's."""
    check_count("count", count, 1, 10**6)
    check_type("generator", generator, torch.Generator, "such as torch.Generator().manual_seed(0)")
    draws = torch.rand(3, count, generator=generator, device=generator.device, dtype=torch.float32).cpu()
    named = {"azimuth_degrees": azimuth_degrees, "elevation_degrees": elevation_degrees, "distance": distance}
    values = []
    for draw, (name, ends) in zip(draws, named.items(), strict=True):
        check_shape(name, numbers(name, ends), (2,), "the lowest and the highest value")
        low, high = ends
        values.append(low + (high - low) * draw)
    return orbit_cameras(*values, focal=focal)


def cameras_from_matrices(
    matrices: Tensor,
    *,
    focal: Numbers = REFERENCE_FOCAL,
    principal: Tensor | None = None,
    axes: Literal["gltf", "opencv", "pytorch3d"] = "gltf",
) -> Cameras:
    """Cameras from camera-to-world matrices of another program.

    Args:
        matrices: (N, 4, 4) or (N, 3, 4) camera-to-world, columns = camera axes in the world, then the centre.
        focal: NDC focal length (1 / tan(fov / 2)), one number, N numbers or (N, 2).
        principal: (N, 2) in NDC, centred unless given.
        axes: camera axes of the matrices: "gltf" (right, up, backward; Blender and OpenGL too), "opencv" (right, down,
            forward) or "pytorch3d" (left, up, forward).
    """
    check_choice("axes", axes, ("gltf", "opencv", "pytorch3d"))
    check_type("matrices", matrices, Tensor)
    if matrices.ndim != 3 or matrices.shape[1:] not in ((3, 4), (4, 4)):
        raise InputError(f"matrices must be (N, 4, 4) or (N, 3, 4) camera-to-world, got {tuple(matrices.shape)}")
    signs = {"gltf": (1, 1, 1), "opencv": (1, -1, -1), "pytorch3d": (-1, 1, -1)}[axes]
    turned = matrices.to(torch.float32, copy=True)
    turned[:, :3, :3] *= torch.tensor(signs, dtype=torch.float32, device=matrices.device)
    return _with_focal(turned, focal, principal)


def _with_focal(rows: Tensor, focal: Numbers, principal: Tensor | None = None) -> Cameras:
    """Cameras of (N, 3, 4) or (N, 4, 4) matrices; their last row is as it must be unless given."""
    count = len(rows)
    matrices = torch.eye(4, device=rows.device, dtype=torch.float32).repeat(count, 1, 1)
    matrices[:, : rows.shape[1]] = rows
    value = numbers("focal", focal).to(rows.device)
    value = value[:, None] if value.ndim == 1 else value
    if value.ndim and not (value.ndim == 2 and value.shape[0] in (1, count) and value.shape[1] in (1, 2)):
        wanted = "focal must be one number or one a camera"
        raise InputError(f"{wanted}, got {tuple(value.shape)} for {count} cameras; give one number")
    focals = value.expand(count, 2).clone()
    return Cameras(matrices, focals, torch.zeros_like(focals) if principal is None else principal)


def _vectors(name: str, value: Tensor | Sequence[float], like: Tensor) -> Tensor:
    """(3,) or (N, 3) numbers on the device of `like`, which is (N, 3)."""
    vectors = numbers(name, value).to(like.device)
    if vectors.shape not in ((3,), like.shape):
        raise InputError(f"{name} must be (3,) or ({len(like)}, 3), got {tuple(vectors.shape)}; one vector a camera")
    return vectors


def numbers(name: str, value: Numbers) -> Tensor:
    """Finite float32 numbers, in whatever form they come."""
    if isinstance(value, bool):
        raise InputError(f"{name} must be numbers, got {value}; give a number, a list or a tensor")
    elif isinstance(value, np.ndarray):
        value = value.tolist()  # torch takes no negative strides, foreign byte orders and objects
    try:
        found = torch.as_tensor(value, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(f"{name} must be numbers, got {value!r:.60}; give a number, a list or a tensor") from error
    check_finite(name, found)
    return found


@dataclass(frozen=True, eq=False)
class Similarity:
    """x -> scale · rotation · x + translation, on world points."""

    scale: float
    rotation: Tensor  # (3, 3), determinant 1
    translation: Tensor  # (3,) in scene units

    @classmethod
    def from_angles(
        cls, yaw: float = 0, pitch: float = 0, roll: float = 0, *, scale: float = 1, shift: Sequence[float] = (0, 0, 0)
    ) -> Similarity:
        """Turned about +Z by roll, then about +X by pitch, then about +Y by yaw, in degrees; the identity by 0."""
        angles = [math.radians(angle) for angle in (yaw, pitch, roll)]
        return cls.from_parameters(torch.tensor([*angles, math.log(scale), *shift], dtype=torch.float32))

    @classmethod
    def from_parameters(cls, parameters: Tensor) -> Similarity:
        """(7,) yaw, pitch, roll in radians, logarithm of the scale, shift; in the order of `from_angles`."""
        from scipy.spatial.transform import Rotation  # at the first use: ComfyUI's start does not wait for it

        turn = torch.tensor(Rotation.from_euler("YXZ", parameters[:3].tolist()).as_matrix(), dtype=torch.float32)
        return cls(float(parameters[3].double().exp()), turn, parameters[4:].float())

    def apply(self, points: Tensor) -> Tensor:
        """(..., 3) points of the object -> where they come to lie."""
        return self.scale * points @ self.rotation.to(points).T + self.translation.to(points)

    def after(self, first: Similarity) -> Similarity:
        """One that does what `first` and then this one do."""
        shift = self.apply(first.translation)
        return Similarity(self.scale * first.scale, self.rotation.to(shift) @ first.rotation.to(shift), shift)

    def move(self, cameras: Cameras) -> Cameras:
        """Cameras that see the object as `cameras` see it once this similarity has been applied to it."""
        rotation, translation = self.rotation.to(cameras.device).float(), self.translation.to(cameras.device).float()
        matrices = cameras.camera_to_world.clone()
        matrices[:, :3, :3] = rotation.T @ matrices[:, :3, :3]
        matrices[:, :3, 3] = (matrices[:, :3, 3] - translation) @ rotation / self.scale
        return Cameras(matrices, cameras.focal, cameras.principal)


def quaternion_rotation(x: Tensor, y: Tensor, z: Tensor, w: Tensor) -> Tensor:
    """(...,) components of unit quaternions, w the real part -> (..., 3, 3)."""
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w),
        2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w),
        2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    turns: Tensor = torch.stack(rows, dim=-1).unflatten(-1, (3, 3))
    return turns
