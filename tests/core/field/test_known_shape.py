"""A field fitted to renders of a known coloured shape: renderer, gradients and mesh exporter, no diffusion."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import pytest
import torch
import trimesh
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize

from upfusion_core.config import FieldConfig, FitConfig, RaySampling
from upfusion_core.field.fitting import FieldFitter
from upfusion_core.field.radiance import RadianceField
from upfusion_core.geometry import camera_rays, random_cameras
from upfusion_core.surface.mesh import MeshAsset
from upfusion_core.types import Cameras

SIDES = torch.tensor(
    [[0.85, 0.1, 0.1], [0.1, 0.65, 0.75], [0.1, 0.6, 0.2], [0.65, 0.1, 0.6], [0.1, 0.2, 0.8], [0.9, 0.75, 0.1]]
)  # +X red, -X cyan, +Y green, -Y magenta, +Z blue, -Z yellow


@dataclass(frozen=True)
class Part:
    """A box or an ellipsoid; half sizes along the axes. A side's colour is blended by the squares of its normal."""

    kind: Literal["box", "ellipsoid"]
    center: tuple[float, float, float]
    half: tuple[float, float, float]


# not symmetric about any plane: a body, a tower on its +X side, a ball at -X in front, a foot low behind
PARTS = (
    Part("ellipsoid", (0.0, -0.05, 0.0), (0.15, 0.07, 0.09)),
    Part("ellipsoid", (0.07, 0.05, -0.01), (0.04, 0.10, 0.045)),
    Part("ellipsoid", (-0.08, 0.02, 0.05), (0.05, 0.06, 0.05)),
    Part("ellipsoid", (-0.05, -0.07, -0.09), (0.04, 0.04, 0.06)),
)


def trace(cameras: Cameras, size: int, supersample: int = 1) -> tuple[Tensor, Tensor]:
    """Closed-form pictures on white (N, 3, S, S) and masks (N, 1, S, S), each pixel the mean of supersample² rays."""
    rays = camera_rays(cameras, size * supersample, size * supersample)
    origins, directions = rays.origins.reshape(-1, 3), rays.directions.reshape(-1, 3)
    nearest = torch.full((len(origins),), torch.inf)
    colors = torch.ones(len(origins), 3)
    for part in PARTS:
        distance, normals = (_hit_box if part.kind == "box" else _hit_ellipsoid)(part, origins, directions)
        closer = distance < nearest
        nearest = torch.where(closer, distance, nearest)
        colors = torch.where(closer[:, None], side_colors(normals), colors)
    shape = (len(cameras), size * supersample, size * supersample)
    rgb = colors.reshape(*shape, 3).permute(0, 3, 1, 2)
    mask = nearest.isfinite().float().reshape(*shape)[:, None]
    return avg_pool2d(rgb, supersample), avg_pool2d(mask, supersample)


def side_colors(normals: Tensor) -> Tensor:
    """(P, 3) unit normals -> (P, 3) colours, e.g. (0, 1, 0) -> green."""
    shares = torch.stack([normals.clamp(min=0), normals.clamp(max=0)], dim=-1).square()  # (P, 3, 2)
    return shares.flatten(1) @ SIDES


def _hit_box(part: Part, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    center, half = torch.tensor(part.center), torch.tensor(part.half)
    first, second = (center - half - origins) / directions, (center + half - origins) / directions
    entry, axis = torch.minimum(first, second).max(-1)
    leave = torch.maximum(first, second).amin(-1)
    normals = torch.zeros_like(directions).scatter(1, axis[:, None], -directions.gather(1, axis[:, None]).sign())
    return torch.where(leave > entry, entry, torch.inf), normals


def _hit_ellipsoid(part: Part, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    center, half = torch.tensor(part.center), torch.tensor(part.half)
    o, d = (origins - center) / half, directions / half
    a, b, c = (d * d).sum(-1), (o * d).sum(-1), (o * o).sum(-1) - 1
    square = b * b - a * c
    distance = (-b - square.clamp(min=0).sqrt()) / a
    normals = normalize((o + d * distance[:, None]) / half, dim=-1)
    return torch.where(square > 0, distance, torch.inf), normals


def inside(points: Tensor, but: Part | None = None) -> Tensor:
    """(P, 3) -> (P,) whether points lie strictly inside any part except `but`."""
    result = torch.zeros(len(points), dtype=torch.bool)
    for part in PARTS:
        scaled = (points - torch.tensor(part.center)) / torch.tensor(part.half)
        reach = scaled.abs().amax(-1) if part.kind == "box" else scaled.norm(dim=-1)
        if part is not but:
            result |= reach < 1
    return result


def surface(per_area: float, generator: torch.Generator) -> Tensor:
    """Points spread evenly, `per_area` to a square unit, over the surface of the union."""
    clouds = []
    for part in PARTS:
        half = torch.tensor(part.half)
        if part.kind == "box":
            areas = 8 * torch.stack([half[1] * half[2], half[0] * half[2], half[0] * half[1]])
            count = round(per_area * float(areas.sum()))
            axis = torch.multinomial(areas, count, replacement=True, generator=generator)[:, None]
            local = torch.rand(count, 3, generator=generator) * 2 - 1
            local = local.scatter(1, axis, local.gather(1, axis).sign()) * half
        else:  # even on the sphere, then thinned by how little each place is stretched
            most = float(half.prod() / half.min())
            unit = torch.randn(round(per_area * 4 * math.pi * most), 3, generator=generator)
            unit = normalize(unit, dim=-1)
            stretch = half.prod() * (unit / half).norm(dim=-1)
            local = unit[torch.rand(len(unit), generator=generator) < stretch / most] * half
        points = local + torch.tensor(part.center)
        clouds.append(points[~inside(points, but=part)])
    return torch.cat(clouds)


@dataclass(frozen=True)
class Fit:
    """What the tests below look at."""

    field: RadianceField
    mesh: MeshAsset
    truth: Tensor  # points of the true surface


@pytest.fixture(scope="module")
def fit() -> Fit:
    """A short fit to 64 views of 128 pixels, each pixel the colour of the ray through its centre."""
    generator = torch.Generator().manual_seed(0)
    cameras = random_cameras(64, generator=generator, elevation_degrees=(-40.0, 60.0))
    rgb, mask = trace(cameras, 128)
    field = RadianceField(FieldConfig.small().no_finer_than(0.6 / 96), generator=generator)
    config = FitConfig(iterations=300, points=2**14, sampling=RaySampling(32, 16))
    fitter = FieldFitter(field, cameras, rgb, mask=mask, config=config, generator=generator)
    while not fitter.done:
        fitter.step()
    return Fit(field, field.extract_mesh(96), surface(400_000, generator))


def test_unseen_views(fit: Fit) -> None:
    cameras = random_cameras(3, generator=torch.Generator().manual_seed(7), elevation_degrees=(-30.0, 50.0))
    # like with like: in truth and render, a pixel is the mean of the same 2×2 rays
    truth, mask = trace(cameras, 64, supersample=2)
    with torch.no_grad():
        render = fit.field.render(cameras, 128, sampling=RaySampling(80, 16))
    error = (avg_pool2d(render.rgb, 2) - truth).square()
    values = []
    for picture, silhouette in zip(error, mask[:, 0] > 0, strict=True):
        rows, columns = silhouette.any(1).nonzero(), silhouette.any(0).nonzero()
        box = picture[:, int(rows.min()) : int(rows.max()) + 1, int(columns.min()) : int(columns.max()) + 1]
        values.append(-10 * math.log10(float(box.mean())))
    assert sum(values) / len(values) >= 30, values
    assert float((avg_pool2d(render.opacity, 2) - mask).abs().mean()) < 0.01


def test_surface(fit: Fit) -> None:
    solid = trimesh.Trimesh(fit.mesh.vertices.numpy(), fit.mesh.faces.numpy(), process=False)
    assert solid.is_watertight
    assert solid.volume > 0
    points = trimesh.sample.sample_surface(solid, 50_000, seed=0)[0]
    diagonal = float((fit.truth.amax(0) - fit.truth.amin(0)).norm())
    there = cKDTree(fit.truth.numpy()).query(points)[0].mean()
    back = cKDTree(points).query(fit.truth.numpy()[::4])[0].mean()
    assert (there + back) / 2 <= 0.01 * diagonal


def test_right_way_up(fit: Fit) -> None:
    # the shape has no symmetry: turned or mirrored, at least one of its six extents would be off
    for found, true in zip(_extents(fit.mesh.vertices), _extents(fit.truth), strict=True):
        torch.testing.assert_close(found, true, atol=0.01, rtol=0)
    top = fit.mesh.vertices[fit.mesh.vertices[:, 1].argmax()]
    torch.testing.assert_close(top[[0, 2]], torch.tensor([0.07, -0.01]), atol=0.05, rtol=0)  # the tower


def test_every_side_has_its_colour(fit: Fit) -> None:
    solid = trimesh.Trimesh(fit.mesh.vertices.numpy(), fit.mesh.faces.numpy(), process=False)
    normals = torch.tensor(solid.vertex_normals.copy(), dtype=torch.float32)
    for side in range(6):
        towards = torch.zeros(3)
        towards[side // 2] = 1 - 2 * (side % 2)
        facing = normals @ towards > 0.98
        assert facing.sum() > 50
        difference = (fit.mesh.vertex_colors[facing] - SIDES[side]).abs().mean(0).amax()
        assert difference < 0.15, (side, float(difference))


def _extents(points: Tensor) -> tuple[Tensor, Tensor]:
    return points.amin(0), points.amax(0)
