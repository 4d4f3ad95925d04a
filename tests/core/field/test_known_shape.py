"""A field fitted to renders of a known coloured shape: renderer, gradients and mesh exporter, no diffusion."""

import math
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
import trimesh
from analytic_fields import solid
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize

from upfusion_core import Cameras, MeshAsset, RadianceField
from upfusion_core.config import FieldConfig, FitConfig, RaySampling
from upfusion_core.field.fitting import FieldFitter
from upfusion_core.geometry import camera_rays, random_cameras

SIDES = torch.tensor(
    [[0.85, 0.1, 0.1], [0.1, 0.65, 0.75], [0.1, 0.6, 0.2], [0.65, 0.1, 0.6], [0.1, 0.2, 0.8], [0.9, 0.75, 0.1]]
)  # +X red, -X cyan, +Y green, -Y magenta, +Z blue, -Z yellow


# centres and half axes of ellipsoids, not symmetric about any plane: a body, a tower on its +X side, a ball at -X in
# front, a foot low behind
CENTERS = torch.tensor([[0.0, -0.05, 0.0], [0.07, 0.05, -0.01], [-0.08, 0.02, 0.05], [-0.05, -0.07, -0.09]])
HALVES = torch.tensor([[0.15, 0.07, 0.09], [0.04, 0.10, 0.045], [0.05, 0.06, 0.05], [0.04, 0.04, 0.06]])


def trace(cameras: Cameras, size: int, supersample: int = 1) -> tuple[Tensor, Tensor]:
    """Closed-form pictures on white (N, 3, S, S) and masks (N, 1, S, S), each pixel the mean of supersample² rays."""
    rays = camera_rays(cameras, size * supersample, size * supersample)
    nearest = torch.full(rays.directions.shape[:-1], torch.inf)
    colors = torch.ones_like(rays.directions)
    for center, half in zip(CENTERS, HALVES, strict=True):
        o, d = (rays.origins - center) / half, rays.directions / half
        a, b, c = (d * d).sum(-1), (o * d).sum(-1), (o * o).sum(-1) - 1
        square = b * b - a * c
        distance = torch.where(square > 0, (-b - square.clamp(min=0).sqrt()) / a, torch.inf)
        normals = normalize((o + d * distance.nan_to_num(posinf=0.0)[..., None]) / half, dim=-1)
        closer = distance < nearest
        nearest = torch.where(closer, distance, nearest)
        # a side's colour is blended by the squares of its normal
        shares = torch.stack([normals.clamp(min=0), normals.clamp(max=0)], dim=-1).square().flatten(-2)
        colors = torch.where(closer[..., None], shares @ SIDES, colors)
    mask = nearest.isfinite().float()[:, None]
    return avg_pool2d(colors.permute(0, 3, 1, 2), supersample), avg_pool2d(mask, supersample)


def surface(per_area: float, generator: torch.Generator) -> Tensor:
    """Points spread evenly, `per_area` to a square unit, over the surface of the union."""
    clouds = []
    for number, (center, half) in enumerate(zip(CENTERS, HALVES, strict=True)):
        # even on the sphere, then thinned by how little each place is stretched
        most = float(half.prod() / half.min())
        unit = normalize(torch.randn(round(per_area * 4 * math.pi * most), 3, generator=generator), dim=-1)
        stretch = half.prod() * (unit / half).norm(dim=-1)
        points = unit[torch.rand(len(unit), generator=generator) < stretch / most] * half + center
        reach = ((points[:, None] - CENTERS) / HALVES).norm(dim=-1)
        reach[:, number] = 1.0
        clouds.append(points[(reach >= 1).all(1)])
    return torch.cat(clouds)


class Fit(NamedTuple):
    field: RadianceField
    truth: Tensor
    """Points of the true surface."""
    psnr: float
    """What views from elsewhere reach at least, in dB."""


SHORT = replace(FieldConfig.small(), half_extent=0.2, blob_sigma=0.07)  # the shape fills that box
SHORT = replace(SHORT, grid=replace(SHORT.grid, levels=3, finest=48))


@pytest.fixture(scope="module", params=["short", pytest.param("long", marks=pytest.mark.slow)])
def fit(request: pytest.FixtureRequest) -> Fit:
    """A fit to views whose pixels have the colour of the ray through their centre; a long one takes a finer grid."""
    generator = torch.Generator().manual_seed(0)
    many, size, least = (48, 96, 26.0) if request.param == "short" else (64, 128, 30.0)
    cameras = random_cameras(many, generator=generator, elevation_degrees=(-40.0, 60.0))
    rgb, mask = trace(cameras, size)
    shape, config = FieldConfig.small().no_finer_than(0.6 / 96), FitConfig(300, sampling=RaySampling(32, 16))
    if request.param == "short":
        few = FitConfig(150, points=2**13, sampling=RaySampling(16, 8))
        shape, config = SHORT, replace(few, grid_lr=0.4, occupancy_cells=24)
    field = RadianceField(shape, generator=generator)
    fitter = FieldFitter(field, cameras, rgb, mask=mask, config=config, generator=generator)
    while not fitter.done:
        fitter.step()
    return Fit(field, surface(100_000, generator), least)


@pytest.fixture(scope="module")
def mesh(fit: Fit) -> MeshAsset:
    return fit.field.extract_mesh(round(2 * fit.field.config.half_extent / 0.00625))


def test_unseen_views(fit: Fit) -> None:
    cameras = random_cameras(2, generator=torch.Generator().manual_seed(7), elevation_degrees=(-30.0, 50.0))
    # like with like: in truth and render, a pixel is the mean of the same 2×2 rays
    truth, mask = trace(cameras, 48, supersample=2)
    with torch.no_grad():
        render = fit.field.render(cameras, 96, sampling=RaySampling(40, 16))
    error = (avg_pool2d(render.rgb, 2) - truth).square()
    values = []
    for picture, silhouette in zip(error, mask[:, 0] > 0, strict=True):
        rows, columns = (silhouette.any(axis).nonzero() for axis in (1, 0))
        box = picture[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        values.append(-10 * math.log10(float(box.mean())))
    assert sum(values) / len(values) >= fit.psnr, values
    assert float((avg_pool2d(render.opacity, 2) - mask).abs().mean()) < 0.01


def test_surface_the_right_way_up(fit: Fit, mesh: MeshAsset) -> None:
    points = trimesh.sample.sample_surface(solid(mesh.vertices, mesh.faces), 20_000, seed=0)[0]
    diagonal = float((fit.truth.amax(0) - fit.truth.amin(0)).norm())
    there = cKDTree(fit.truth.numpy()).query(points)[0].mean()
    back = cKDTree(points).query(fit.truth.numpy()[::4])[0].mean()
    assert (there + back) / 2 <= 0.01 * diagonal
    # the shape has no symmetry: turned or mirrored, at least one of its six extents would be off
    for end in (torch.amin, torch.amax):
        torch.testing.assert_close(end(mesh.vertices, 0), end(fit.truth, 0), atol=0.01, rtol=0)
    top = mesh.vertices[mesh.vertices[:, 1].argmax()]
    torch.testing.assert_close(top[[0, 2]], torch.tensor([0.07, -0.01]), atol=0.05, rtol=0)  # the tower


def test_every_side_has_its_colour(mesh: MeshAsset) -> None:
    normals = torch.tensor(solid(mesh.vertices, mesh.faces).vertex_normals.copy(), dtype=torch.float32)
    for side, color in enumerate(SIDES):
        facing = normals[:, side // 2] * (1 - 2 * (side % 2)) > 0.98
        assert facing.sum() > 50
        assert (mesh.vertex_colors[facing] - color).abs().mean(0).amax() < 0.15, side
