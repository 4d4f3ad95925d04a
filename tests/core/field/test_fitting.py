import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from analytic_fields import solid
from plain_objects import ellipsoid, pictures, thing
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn.functional import avg_pool2d

from upfusion_core import MeshAsset, RadianceField, orbit_cameras
from upfusion_core.config import FieldConfig, FitConfig, GridConfig, RaySampling
from upfusion_core.field.fitting import FieldFitter, distortion_loss, fit_losses
from upfusion_core.field.rendering import RenderedRays
from upfusion_core.geometry import random_cameras
from upfusion_core.procedural import true_mesh
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
SHAPE = thing(  # not symmetric about any plane
    ellipsoid((0.0, -0.05, 0.0), (0.15, 0.07, 0.09), torch.tensor([0.85, 0.1, 0.1])),
    ellipsoid((0.07, 0.05, -0.01), (0.04, 0.10, 0.045), torch.tensor([0.1, 0.6, 0.2])),  # a tower on the +X side
    ellipsoid((-0.08, 0.02, 0.05), (0.05, 0.06, 0.05), torch.tensor([0.1, 0.2, 0.8])),  # a ball at -X in front
    ellipsoid((-0.05, -0.07, -0.09), (0.04, 0.04, 0.06), torch.tensor([0.9, 0.75, 0.1])),  # a foot low behind
)
Fit = tuple[RadianceField, float]  # and the PSNR that views from elsewhere reach at least, in dB
SHORT = replace(FieldConfig.small(), half_extent=0.2, blob_sigma=0.07)  # the shape fills that box
SHORT = replace(SHORT, grid=replace(SHORT.grid, levels=3, finest=48))


@pytest.fixture(scope="module", params=["short", pytest.param("long", marks=pytest.mark.slow)])
def fit(request: pytest.FixtureRequest) -> Fit:
    """A fit to views whose pixels have the colour of the ray through their centre; a long one takes a finer grid."""
    generator = torch.Generator().manual_seed(0)
    many, size, least = (48, 96, 26.0) if request.param == "short" else (64, 128, 30.0)
    cameras = random_cameras(many, generator=generator, elevation_degrees=(-40.0, 60.0))
    truth = pictures(SHAPE, cameras, size)
    shape, config = FieldConfig.small().no_finer_than(0.6 / 96), FitConfig(300, sampling=RaySampling(32, 16))
    if request.param == "short":
        few = FitConfig(150, points=2**13, sampling=RaySampling(16, 8))
        shape, config = SHORT, replace(few, grid_lr=0.4, occupancy_cells=24)
    field = RadianceField(shape, generator=generator)
    _fitted(FieldFitter(field, cameras, truth.rgb, mask=truth.opacity, config=config, generator=generator))
    return field, least


@pytest.fixture(scope="module")
def mesh(fit: Fit) -> MeshAsset:
    return fit[0].extract_mesh(round(2 * fit[0].config.half_extent / 0.00625))


def test_unseen_views(fit: Fit) -> None:
    cameras = random_cameras(2, generator=torch.Generator().manual_seed(7), elevation_degrees=(-30.0, 50.0))
    # like with like: in truth and render, a pixel is the mean of the same 2×2 rays
    truth = pictures(SHAPE, cameras, 48, supersampling=2)
    with torch.no_grad():
        render = fit[0].render(cameras, 96, sampling=RaySampling(40, 16))
    error = (avg_pool2d(render.rgb, 2) - truth.rgb).square()
    values = []
    for picture, silhouette in zip(error, truth.opacity[:, 0] > 0, strict=True):
        rows, columns = (silhouette.any(axis).nonzero() for axis in (1, 0))
        box = picture[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        values.append(-10 * math.log10(float(box.mean())))
    assert sum(values) / len(values) >= fit[1], values
    assert float((avg_pool2d(render.opacity, 2) - truth.opacity).abs().mean()) < 0.01


def test_surface_and_its_colours_the_right_way_up(mesh: MeshAsset) -> None:
    true, found = true_mesh(SHAPE, 96), solid(mesh.vertices, mesh.faces)
    truth, points = (trimesh.sample.sample_surface(each, 20_000, seed=0)[0] for each in (true, found))
    there, back = (cKDTree(one).query(other)[0].mean() for one, other in ((truth, points), (points, truth)))
    assert (there + back) / 2 <= 0.01 * np.linalg.norm(true.extents)
    # the shape has no symmetry: turned or mirrored, at least one of its six extents would be off
    np.testing.assert_allclose(found.bounds, true.bounds, atol=0.01, rtol=0)
    top = mesh.vertices[mesh.vertices[:, 1].argmax()]
    torch.testing.assert_close(top[[0, 2]], torch.tensor([0.07, -0.01]), atol=0.05, rtol=0)  # the tower
    colors = true.visual.vertex_colors[cKDTree(true.vertices).query(mesh.vertices)[1], :3] / 255
    for color in np.unique(colors, axis=0):
        own = (colors == color).all(axis=1)
        assert own.sum() > 50
        assert np.abs(mesh.vertex_colors.numpy()[own] - color).mean(0).max() < 0.15, color
