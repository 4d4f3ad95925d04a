"""Fits of pictures with known cameras: which rays are drawn, what silhouettes leave, and that the object comes back."""

from dataclasses import replace

import pytest
import torch
from refusals import refused
from torch import Tensor
from torch.nn.functional import interpolate

from upfusion_core import Cameras, GivenViews, NovelViews, PhotoCameras, RadianceField, orbit_cameras, prepare_views
from upfusion_core.config import FieldConfig, FitConfig, GridConfig, RaySampling
from upfusion_core.field.fitting import FieldFitter
from upfusion_core.geometry import camera_rays
from upfusion_core.pipeline.given_views import fit_views, fitted_pictures, given_photos, visual_hull

CAMERAS = orbit_cameras([0.0, 90.0, 180.0, 270.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 85.0, -85.0])
RADIUS = 0.12
QUICK = FitConfig(iterations=100, rays=512, points=2**11, sampling=RaySampling(24, 8))


def ball(camera: Cameras, height: int, width: int) -> tuple[Tensor, Tensor]:
    """A ball about the origin, red where x > 0 and blue elsewhere: uint8 (3, H, W) on white, and its mask (H, W)."""
    rays = camera_rays(camera, height, width)
    origins, directions = rays.origins[0], rays.directions[0]
    along = -(origins * directions).sum(-1)
    aside = origins.square().sum(-1) - along.square()
    inside = aside < RADIUS**2
    x = (origins + directions * (along - (RADIUS**2 - aside).clamp_min(0).sqrt())[..., None])[..., 0]
    red = torch.tensor([220, 30, 30], dtype=torch.uint8)
    colors = torch.where((x > 0)[..., None], red, red.flip(0)).where(inside[..., None], 255)
    return colors.permute(2, 0, 1), inside.byte() * 255


def given(sizes: list[tuple[int, int]], cameras: Cameras = CAMERAS) -> GivenViews:
    pictures = [ball(camera, *size) for camera, size in zip(cameras, sizes, strict=False)]
    return GivenViews([rgb for rgb, _ in pictures], cameras[: len(sizes)], [mask for _, mask in pictures])


def distances() -> Tensor:
    """Of the cells' centres from the origin."""
    axis = ((torch.arange(32) + 0.5) / 32 * 2 - 1) * 0.2
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).norm(dim=0)


def fitter(views: GivenViews, grid: GridConfig, config: FitConfig = QUICK) -> FieldFitter:
    field = RadianceField(FieldConfig(grid=grid, hidden=4))
    random = torch.Generator().manual_seed(0)
    return FieldFitter(field, **vars(fitted_pictures(views)), config=config, generator=random)


def test_pictures_of_any_size() -> None:
    views, grid = given([(4, 6), (10, 3)]), GridConfig(levels=1, coarsest=2, finest=2, table_size=32)
    fit, rays = fitter(views, grid), [camera_rays(CAMERAS[0], 4, 6), camera_rays(CAMERAS[1], 10, 3)]
    found = fit._rays(torch.arange(24 + 30))
    for name in ("origins", "directions"):
        wanted = torch.cat([getattr(each, name).reshape(-1, 3) for each in rays])
        torch.testing.assert_close(getattr(found, name), wanted, atol=1e-6, rtol=0)
    assert fit._rgb[24:].T.reshape(3, 10, 3).equal(views.rgb[1])
    fit = fitter(given([(4, 4), (40, 40)]), grid)
    fit.rays, fit._edges = 4000, fit._edges[:0]
    small = float((fit._pixels(fit._drawn_numbers(False, [])[0]) < 16).float().mean())
    assert 0.45 < small < 0.55


def test_silhouettes_leave_the_ball_and_little_more() -> None:
    hull = visual_hull(fitted_pictures(given([(48, 48)] * 6)), 0.2, 32)
    likely, hull, distance = hull == 1, hull > 0, distances()
    assert likely[distance < RADIUS * 0.95].all()
    assert not likely[distance > RADIUS * 1.1].any()  # where three cylinders meet outside of the ball
    assert hull[distance < RADIUS].all()
    assert not hull[distance > RADIUS * 3**0.5 + 0.02].any()  # a cube about the ball, and a cell and a half
    assert float(hull.sum()) < 2 * float((distance < RADIUS).sum())


def test_silhouettes_of_a_ring_leave_the_top_of_the_ball() -> None:
    """From the sides alone its places lie farther from the pictures' middles than others, and are surface yet."""
    views, distance = given([(48, 48)] * 4, orbit_cameras([0.0, 90.0, 180.0, 270.0])), distances()
    likely = visual_hull(fitted_pictures(views), 0.2, 32) == 1
    assert likely[distance < RADIUS * 0.9].float().mean() > 0.995
    assert not likely[distance > RADIUS * 1.25].any()


def test_fine_levels_wait_for_coarse_ones() -> None:
    grid = GridConfig(levels=4, features=1, coarsest=2, finest=16, table_size=8192)
    fit = fitter(given([(16, 16)] * 3), grid, replace(QUICK, iterations=5, rays=64, coarse_share=0.5))
    table, moved = fit.field.grid.table.detach(), []
    for _ in range(3):
        before = table.clone()
        fit.step()
        moved.append([bool(rows.any()) for rows in (table - before).split(grid.rows)])
    assert moved == [[True, True, False, False], [True, True, True, False], [True] * 4]  # of 0, 1/4, 1/2 of all steps


def test_a_ball_comes_back_at_the_pictures_own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upfusion_core.pipeline.given_views.CELLS", 32)
    views, steps = given([(64, 64), (48, 64), (64, 48), (32, 32), (64, 64), (64, 64)]), []
    field = fit_views(views, config=QUICK, on_step=lambda *step: steps.append(step[:2]))
    assert steps == [(number + 1, 100) for number in range(100)]
    assert RADIUS < field.config.half_extent < 1.3 * RADIUS
    assert field.config.grid.finest == round(2 * field.config.half_extent * 4.5 * 64 / 2)  # one cell a pixel
    camera = orbit_cameras(40.0, 20.0)
    rgb, mask = ball(camera, 32, 32)
    seen = field.render(camera, 32, sampling=RaySampling(48, 16))
    assert float((seen.opacity[0, 0] - mask / 255).abs().mean()) < 0.06
    assert float((seen.rgb[0] - rgb / 255).abs().mean()) < 0.1
    redder = seen.rgb[0, 0, 16] - seen.rgb[0, 2, 16]
    assert redder[21] > 0.2 > -0.2 > redder[9]
    further = fit_views(views, field=field, config=replace(QUICK, iterations=2))
    assert not further.grid.table.equal(field.grid.table)


def test_what_is_fitted_and_what_is_refused() -> None:
    rgb, mask = ball(CAMERAS[0], 32, 32)
    wide = interpolate(rgb[None].float(), (32, 4096))[0].byte()
    assert fitted_pictures(GivenViews([wide], CAMERAS[:1])).rgb[0].shape == (3, 16, 2048)
    green = rgb.where(mask > 0, torch.tensor([0, 200, 0], dtype=torch.uint8)[:, None, None])
    assert fitted_pictures(GivenViews([green], CAMERAS[:1], [mask])).rgb[0].equal(rgb)
    novel = fitted_pictures(NovelViews(rgb[None] / 255, CAMERAS[:1]))
    assert novel.mask[0].shape == (1, 32, 32)
    rgb, mask = ball(CAMERAS[0], 16, 16)
    corner = torch.zeros_like(mask)
    corner[:3, :3] = 255
    for make, sentence in (
        (lambda: GivenViews([rgb, rgb], CAMERAS[:1]), "one for each of 1 cameras, got 2"),
        (lambda: GivenViews([rgb], CAMERAS[:1], [mask[:4]]), "must be"),
        (lambda: GivenViews([rgb * 1.0], CAMERAS[:1]), r"in \[0, 1\]"),
        (lambda: GivenViews([rgb], CAMERAS[:1], weights=torch.tensor([-1.0])), "0 or more"),
        (lambda: fit_views(GivenViews([rgb] * 2, CAMERAS[:2], [corner, corner.flip(0)]), config=QUICK), "silhouettes"),
    ):
        refused(sentence, make)
    views = prepare_views(1 - torch.eye(16).expand(3, 16, 16), size=16)
    found = PhotoCameras(CAMERAS[:1], torch.tensor([False]), torch.zeros(1))
    refused("whose camera is accepted is needed, got none", given_photos, views, found)
