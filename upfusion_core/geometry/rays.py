"""Rays of cameras and patches, their Plücker form, harmonics, and the one frame change towards the networks.

All is float32 whatever the precision of the networks: float16 harmonics put 0.08 into the set latents.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from ..support.errors import InputError
from ..types import REFERENCE_FOCAL, Cameras, Rays

NETWORK_AXES = (-1.0, 1.0, -1.0)  # turn our camera axes (right, up, backward) into the networks' (left, up, forward)


def camera_rays(cameras: Cameras, height: int, width: int, *, align_corners: bool = False) -> Rays:
    """(N, H, W, 3) rays through the centres of pixels, the first one top left.

    With `align_corners` the outer ones lie on the picture's border, as UpSRT is queried (golden: cameras.grid_ndc_xy).
    """

    def axis(size: int) -> Tensor:
        end = 1.0 if align_corners else 1 - 1 / size
        return torch.linspace(end, -end, size, device=cameras.device, dtype=torch.float32)

    grid = torch.stack(torch.meshgrid(axis(height), axis(width), indexing="ij")[::-1], dim=-1)  # (H, W, 2): x, y
    return point_rays(cameras, grid.expand(len(cameras), height, width, 2))


def patch_rays(rows: int, columns: int, device: torch.device | str = "cpu") -> Rays:
    """(rows·columns, 3) rays of a photo's patches in the networks' frame, the same for all: poses are unknown.

    Through the top-left corner of each patch, of a camera at the origin (golden: cameras.patch_rays_identity).
    """
    y, x = (torch.linspace(1, -1, size + 1, device=device, dtype=torch.float32)[:-1] for size in (rows, columns))
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1).reshape(-1, 2) / REFERENCE_FOCAL
    directions = pad(grid, (0, 1), value=1.0)
    return Rays(torch.zeros_like(directions), normalize(directions, dim=-1))


def point_rays(cameras: Cameras, points: Tensor) -> Rays:
    """(N, ..., 3) rays of N cameras through `points` (N, ..., 2), any places (x, y) of their pictures in NDC."""
    axes = (-1,) + (1,) * (points.ndim - 2)
    x, y = ((points - cameras.principal.reshape(*axes, 2)) / cameras.focal.reshape(*axes, 2)).unbind(-1)
    local = torch.stack([-x, y, torch.full_like(x, -1.0)], dim=-1)  # along the camera's axes, 1 deep
    directions = normalize(torch.einsum("nij,n...j->n...i", cameras.camera_to_world[:, :3, :3], local), dim=-1)
    return Rays(cameras.centers.reshape(*axes, 3).expand_as(directions), directions)


def project(points: Tensor, camera: Cameras) -> tuple[Tensor, Tensor]:
    """(..., 3) world points -> (..., 2) NDC places for one camera, and (...,) distances, negative behind it."""
    matrix = camera.camera_to_world[0]
    local = (points - matrix[:3, 3]) @ matrix[:3, :3]
    ahead = -local[..., 2:]
    divisor = torch.where(ahead.abs() < 1e-8, torch.full_like(ahead, 1e-8), ahead)
    flat = local[..., :2] * torch.tensor([-1.0, 1.0], device=local.device, dtype=torch.float32) / divisor
    return flat * camera.focal[0] + camera.principal[0], local.norm(dim=-1) * ahead[..., 0].sign()


def to_reference_frame(rays: Rays, reference: Cameras) -> Rays:
    """World rays (..., 3) -> the networks' frame: photo 1's PyTorch3D axes (x left, y up, z forward), object at 0.

    With R = [right, up, backward] of the reference camera, its centre c, `d0 = |c|` and A = diag(-1, 1, -1):
    o' = A(R^T (o - c)/d0 + (0, 0, 1)), d' = A R^T d. One reference, or one for each of N leading scenes.
    """
    matrices = reference.camera_to_world.to(rays.origins.device)
    axes = (-1,) + (1,) * (rays.origins.ndim - 2)  # references stand along the leading axis
    distance = _reference_distances(reference).to(matrices.device).reshape(*axes, 1)
    rotation, center = matrices[:, :3, :3].reshape(*axes, 3, 3), matrices[:, :3, 3].reshape(*axes, 3)
    flip = torch.tensor(NETWORK_AXES, device=matrices.device, dtype=torch.float32)
    ahead = torch.tensor([0.0, 0.0, 1.0], device=matrices.device, dtype=torch.float32)
    offsets = torch.einsum("...i,...ij->...j", rays.origins - center, rotation) / distance
    directions = torch.einsum("...i,...ij->...j", rays.directions, rotation) * flip
    return Rays((offsets + ahead) * flip, directions)


def reference_plucker(cameras: Cameras, reference: Cameras, size: int) -> Tensor:
    """(N, size, size, 6) Plücker forms, in the networks' frame, of each camera's rays with aligned corners.

    Those of `camera_rays` up to rounding, which f_14 makes visible: the release's order of operations, by row vectors,
    inverses and points unprojected to depth 1 (golden: upsrt.query_plucker). One reference, or one for each camera.
    """
    distance = _reference_distances(reference).cpu()
    views, first = (_world_to_camera(some.camera_to_world.cpu(), distance) for some in (cameras, reference))
    # networks' frame -> camera; the frame's origin lies ahead of photo 1's camera
    views = _translations(torch.tensor([[0.0, 0, 1]], dtype=torch.float32)) @ torch.linalg.inv(first) @ views
    back = torch.zeros_like(views)
    back[:, :3, :3], back[:, 3, 3] = views[:, :3, :3], 1
    back = _translations(-views[:, 3, :3]) @ torch.linalg.inv(back)
    axis = torch.linspace(1, -1, size, dtype=torch.float32)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij")[::-1], dim=-1).reshape(1, -1, 2)  # x, y
    points = torch.cat([grid, torch.ones_like(grid)], dim=-1).expand(len(cameras), -1, -1)
    projections = torch.zeros(len(cameras), 4, 4, dtype=torch.float32)  # camera axes -> (x, y, 1 / depth)
    projections[:, 0, 0], projections[:, 1, 1] = cameras.focal.cpu().unbind(-1)
    projections[:, 2, :2], projections[:, 2, 3], projections[:, 3, 2] = cameras.principal.cpu(), 1, 1
    points = points @ (torch.linalg.inv(projections) @ back)
    origins = back[:, None, 3, :3]
    rays = Rays(origins, normalize(points[..., :3] / points[..., 3:] - origins, dim=-1))
    grids: Tensor = plucker(rays).unflatten(1, (size, size))
    return grids.to(cameras.device)


def _reference_distances(reference: Cameras) -> Tensor:
    """(N,) distances of the reference cameras from the world's origin, at which they must look."""
    centers = reference.centers
    distances: Tensor = centers.norm(dim=-1)
    aside = (reference.camera_to_world[:, :3, 2] - centers / distances.clamp(min=1e-6)[:, None]).norm(dim=-1)
    if not len(reference) or (distances < 1e-6).any() or (aside > 1e-3).any():
        raise InputError("the reference camera must look at the world's origin from a distance; use orbit_cameras")
    return distances


def _world_to_camera(matrices: Tensor, unit: Tensor) -> Tensor:
    """(N, 4, 4) for row vectors, from the world, measured in `unit`, to cameras with the networks' axes."""
    rotation = matrices[:, :3, :3] * torch.tensor(NETWORK_AXES, dtype=torch.float32)
    result = _translations(-(matrices[:, None, :3, 3] @ rotation)[:, 0] / unit[:, None])
    result[:, :3, :3] = rotation
    return result


def _translations(offsets: Tensor) -> Tensor:
    """(N, 3) -> (N, 4, 4) for row vectors."""
    result = torch.eye(4, dtype=torch.float32).repeat(len(offsets), 1, 1)
    result[:, 3, :3] = offsets
    return result


def plucker(rays: Rays) -> Tensor:
    """(..., 3) rays -> (..., 6) Plücker form (d, o × d), float32, d normalised once more as the release does."""
    directions = normalize(rays.directions, dim=-1)
    origins = rays.origins.expand_as(directions)
    return torch.cat([directions, torch.linalg.cross(origins, directions)], dim=-1).float()


def harmonic_encoding(values: Tensor, num_freqs: int = 15, start_freq: int = -6) -> Tensor:
    """(..., D) -> (..., 2·num_freqs·D): sin(f_0 v), …, sin(f_n v), cos(f_0 v), …, cos(f_n v), f_k = pi·2^(start+k)."""
    exponents = torch.arange(start_freq, start_freq + num_freqs, device=values.device, dtype=torch.float32)
    angles = (values.float()[..., None, :] * (math.pi * 2.0**exponents)[:, None]).flatten(-2)  # (..., K·D)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
