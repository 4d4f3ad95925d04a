"""Cameras and rays: the one place where their conventions live."""

from .cameras import (
    cameras_from_matrices,
    focal_from_fov,
    fov_from_focal,
    look_at,
    orbit_cameras,
    random_cameras,
    reference_camera,
)
from .rays import (
    camera_rays,
    grid_rays,
    harmonic_encoding,
    patch_rays,
    plucker,
    point_rays,
    project,
    reference_plucker,
    to_reference_frame,
)

__all__ = [
    "camera_rays",
    "cameras_from_matrices",
    "focal_from_fov",
    "fov_from_focal",
    "grid_rays",
    "harmonic_encoding",
    "look_at",
    "orbit_cameras",
    "patch_rays",
    "plucker",
    "point_rays",
    "project",
    "random_cameras",
    "reference_camera",
    "reference_plucker",
    "to_reference_frame",
]
