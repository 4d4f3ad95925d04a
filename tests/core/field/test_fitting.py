import io
import math
from dataclasses import replace

import pytest
import torch
import trimesh
from analytic_fields import solid
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize

from upfusion_core import Cameras, MeshAsset, RadianceField, orbit_cameras
from upfusion_core.config import FieldConfig, FitConfig, GridConfig, RaySampling
from upfusion_core.field.fitting import FieldFitter, distortion_loss, fit_losses
from upfusion_core.field.rendering import RenderedRays
from upfusion_core.geometry import camera_rays, random_cameras
from upfusion_core.support.errors import FieldError

CAMERAS = orbit_cameras([0, 120, 240])
AXIS = torch.linspace(-1, 1, 10)
MASK = (AXIS[:, None] ** 2 + AXIS**2 < 0.3).float().expand(3, 1, 10, 10)
RGB = 1 - MASK * torch.tensor([0.1, 0.9, 0.9])[:, None, None]  # a red disc that covers the middle of each picture
TINY = FieldConfig(grid=GridConfig(levels=2, coarsest=4, finest=16, table_size=4096), hidden=16, half_extent=0.3)
QUICK = FitConfig(
    iterations=12, rays=64, sampling=RaySampling(12, 4), grid_lr=3e-2, mlp_lr=5e-3, occupancy_cells=8,
    occupancy_every=5, distortion_weight=0.01, final_lr=0.1, edge_share=0.0,
)  # fmt: skip


def _fitter(
    seed: int = 0, rgb: Tensor = RGB, mask: Tensor | None = MASK, weights: Tensor | None = None, **changes: int
) -> FieldFitter:
    """A fit of the same field for all seeds."""
    field, generator = RadianceField(TINY), torch.Generator().manual_seed(seed)
    config = replace(QUICK, **changes)
    return FieldFitter(field, CAMERAS, rgb, mask=mask, weights=weights, config=config, generator=generator)


def _same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


def _fitted(fitter: FieldFitter) -> dict[str, Tensor]:
    while not fitter.done:
        fitter.step()
    return fitter.field.state_dict()


def test_losses_by_hand() -> None:
    weights, target = torch.tensor([1.0, 3.0, 0.0]), torch.zeros(3, 3)
    opacity, depth = (torch.tensor(values, requires_grad=True) for values in ([0.5, 1.0, 0.0], [2.0, 4.0, 7.0]))
    rgb = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0.5], [1, 1, 1]])
    seen = RenderedRays(rgb, opacity, depth, torch.tensor([[1.0, 2.0]] * 3), torch.zeros(3, 2), torch.full((3, 2), 0.5))
    losses = fit_losses(seen, target, torch.tensor([1.0, 0.0, 0.0]), weights)
    expected = {"color": (1 / 3 + 3 * 0.25) / 3, "opacity": 3.25 / 3, "distortion": 0.5, "depth": 5 / 3, "crisp": 1 / 3}
    assert {name: float(value.detach()) for name, value in losses.items()} == pytest.approx(expected)
    losses["depth"].backward(retain_graph=True)
    assert not opacity.grad.any()  # it moves light, and makes nothing more or less opaque
    losses["crisp"].backward()
    assert opacity.grad.tolist() == pytest.approx([0.0, -4 / 3, 4 / 3])  # towards the nearer of all and nothing
    assert "opacity" not in fit_losses(seen, target, None, weights)
    generator = torch.Generator().manual_seed(0)
    weights, lengths = torch.rand(2, 3, 9, generator=generator)
    distances = torch.rand(3, 9, generator=generator).sort(dim=-1).values
    gap = (distances[:, :, None] - distances[:, None]).abs()
    expected = (weights[:, :, None] * weights[:, None] * gap).sum((1, 2)) + (weights**2 * lengths).sum(-1) / 3
    torch.testing.assert_close(distortion_loss(weights, distances, lengths), expected)
    torch.autograd.gradcheck(distortion_loss, (weights.double().requires_grad_(), distances.double(), lengths.double()))


def test_the_same_seed_gives_the_same_field_resumed_or_with_silenced_pictures() -> None:
    field = _fitted(_fitter())
    torch.rand(1)  # the global generator must not matter
    assert _same(field, _fitted(_fitter()))
    assert not _same(field, _fitted(_fitter(seed=1)))
    part, file = _fitter(), io.BytesIO()
    for _ in range(7):
        part.step()
    torch.save(part.state_dict(), file)
    file.seek(0)
    resumed = _fitter(seed=9)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.iteration == 7
    assert _same(field, _fitted(resumed))
    counts = torch.tensor([1.0, 0, 1])[:, None, None, None]
    fits = [_fitter(rgb=rgb, mask=None, weights=counts.expand_as(MASK)) for rgb in (RGB, RGB * counts)]
    assert _same(*map(_fitted, fits))


@pytest.mark.parametrize("occupancy_cells", [0, 16])
def test_a_diverged_fit_says_so(occupancy_cells: int) -> None:
    fitter = _fitter(occupancy_cells=occupancy_cells)
    torch.nn.init.constant_(fitter.field.mlp[-1].bias, float("nan"))
    with pytest.raises(FieldError, match="learning rates"):
        fitter.step()


# What follows fits a field to renders of a known coloured shape: renderer, gradients and mesh exporter, no diffusion.
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


def surface(per_area: float) -> Tensor:
    """Points spread evenly, `per_area` to a square unit, over the surface of the union."""
    clouds = []
    for number, (center, half) in enumerate(zip(CENTERS, HALVES, strict=True)):
        ellipsoid = trimesh.creation.icosphere(5).apply_scale(half.tolist()).apply_translation(center.tolist())
        places = trimesh.sample.sample_surface(ellipsoid, round(per_area * ellipsoid.area), seed=number)[0]
        points = torch.tensor(places, dtype=torch.float32)
        reach = ((points[:, None] - CENTERS) / HALVES).norm(dim=-1)
        reach[:, number] = 1.0
        clouds.append(points[(reach >= 1).all(1)])
    return torch.cat(clouds)


Fit = tuple[RadianceField, float]  # and the PSNR that views from elsewhere reach at least, in dB
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
    _fitted(FieldFitter(field, cameras, rgb, mask=mask, config=config, generator=generator))
    return field, least


@pytest.fixture(scope="module")
def mesh(fit: Fit) -> MeshAsset:
    return fit[0].extract_mesh(round(2 * fit[0].config.half_extent / 0.00625))


def test_unseen_views(fit: Fit) -> None:
    cameras = random_cameras(2, generator=torch.Generator().manual_seed(7), elevation_degrees=(-30.0, 50.0))
    # like with like: in truth and render, a pixel is the mean of the same 2×2 rays
    truth, mask = trace(cameras, 48, supersample=2)
    with torch.no_grad():
        render = fit[0].render(cameras, 96, sampling=RaySampling(40, 16))
    error = (avg_pool2d(render.rgb, 2) - truth).square()
    values = []
    for picture, silhouette in zip(error, mask[:, 0] > 0, strict=True):
        rows, columns = (silhouette.any(axis).nonzero() for axis in (1, 0))
        box = picture[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        values.append(-10 * math.log10(float(box.mean())))
    assert sum(values) / len(values) >= fit[1], values
    assert float((avg_pool2d(render.opacity, 2) - mask).abs().mean()) < 0.01


def test_surface_the_right_way_up(mesh: MeshAsset) -> None:
    truth = surface(100_000)
    points = trimesh.sample.sample_surface(solid(mesh.vertices, mesh.faces), 20_000, seed=0)[0]
    diagonal = float((truth.amax(0) - truth.amin(0)).norm())
    there = cKDTree(truth.numpy()).query(points)[0].mean()
    back = cKDTree(points).query(truth.numpy()[::4])[0].mean()
    assert (there + back) / 2 <= 0.01 * diagonal
    # the shape has no symmetry: turned or mirrored, at least one of its six extents would be off
    for end in (torch.amin, torch.amax):
        torch.testing.assert_close(end(mesh.vertices, 0), end(truth, 0), atol=0.01, rtol=0)
    top = mesh.vertices[mesh.vertices[:, 1].argmax()]
    torch.testing.assert_close(top[[0, 2]], torch.tensor([0.07, -0.01]), atol=0.05, rtol=0)  # the tower


def test_every_side_has_its_colour(mesh: MeshAsset) -> None:
    normals = torch.tensor(solid(mesh.vertices, mesh.faces).vertex_normals.copy(), dtype=torch.float32)
    for side, color in enumerate(SIDES):
        facing = normals[:, side // 2] * (1 - 2 * (side % 2)) > 0.98
        assert facing.sum() > 50
        assert (mesh.vertex_colors[facing] - color).abs().mean(0).amax() < 0.15, side
