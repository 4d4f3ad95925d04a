import math

import pytest
import torch

from upfusion_core import Cameras, RenderedViews, orbit_cameras
from upfusion_core.evaluation import metrics
from upfusion_core.evaluation.metrics import reprojection_consistency
from upfusion_core.geometry import camera_rays, project

BALLS = ((torch.tensor([0.0, 0, 0]), 0.12), (torch.tensor([0.0, 0.02, 0.15]), 0.05))


def _rendered(cameras: Cameras, size: int, balls=BALLS) -> RenderedViews:  # noqa: ANN001
    """Opaque balls whose colour is a smooth function of the place: exact depths."""
    rays = camera_rays(cameras, size, size)
    depth = torch.full(rays.origins.shape[:-1], math.inf)
    for center, radius in balls:
        offset = rays.origins - center
        along = (offset * rays.directions).sum(-1)
        inside = along**2 - offset.square().sum(-1) + radius**2
        depth = torch.where(inside > 0, torch.minimum(depth, -along - inside.clamp(min=0).sqrt()), depth)
    hit = depth.isfinite()
    depth = torch.where(hit, depth, 0.0)
    points = rays.origins + rays.directions * depth[..., None]
    rgb = torch.where(hit[..., None], 0.5 + 0.3 * (8 * points).sin(), 1.0).permute(0, 3, 1, 2)
    return RenderedViews(rgb, hit[:, None].float(), depth[:, None])


def test_neighbours_agree_and_opposite_views_share_nothing() -> None:
    cameras = orbit_cameras([0, 15, 30, 60], [10, 20, 15, 0])
    field = _rendered(cameras, 96)
    difference, pixels = reprojection_consistency(field.rgb, field, cameras, [(0, 1), (1, 2), (2, 3)])
    assert (pixels > 2000).all()
    assert (difference < 0.003).all()  # bilinear lookup, most of it near the outlines
    cameras = orbit_cameras([0, 180, 10], [0, 0, 0])
    field = _rendered(cameras, 32, BALLS[:1])
    difference, pixels = reprojection_consistency(field.rgb, field, cameras, [(0, 1)])
    assert (pixels.tolist(), math.isnan(difference[0])) == ([0], True)


def test_a_mistake_in_a_picture_is_found_where_it_is_seen() -> None:
    """Nearest neighbours by brute force: every lifted pixel that both views see, one at a time."""
    cameras = orbit_cameras([0, 25], [10, 10])
    field = _rendered(cameras, 48)
    generator = torch.Generator().manual_seed(0)
    rgb = torch.rand(2, 3, 1, 1, generator=generator).expand(2, 3, 48, 48)  # flat: no interpolation
    difference, pixels = reprojection_consistency(rgb, field, cameras, [(0, 1)])
    assert float(difference[0]) == pytest.approx(float((rgb[0] - rgb[1]).abs().mean()), rel=1e-5)
    rays, count = camera_rays(cameras, 48, 48), 0
    for source, target in ((0, 1), (1, 0)):
        points = rays.origins[source] + rays.directions[source] * field.depth[source, 0, ..., None]
        for point in points[field.opacity[source, 0] > 0.9]:
            place, distance = project(point, cameras[target])
            column, row = ((1 - place) * 24).floor().long().tolist()
            if abs(float(field.depth[target, 0, row, column]) - float(distance)) < 0.02 * float(distance):
                count += 1
    assert 0.85 * count < int(pixels[0]) <= count  # pixels at outlines are left out as well


def test_what_is_hidden_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen from the front a black ball hides the middle of a white one, which is seen from the side."""
    cameras = orbit_cameras([0, 50], [0, 0])
    field, alone = _rendered(cameras, 64), _rendered(cameras, 64, BALLS[:1])
    front = (field.depth < alone.depth - 1e-3) | (field.opacity > alone.opacity)
    rgb = torch.where(front, 0.0, 1.0).expand(2, 3, 64, 64)
    honest, _ = reprojection_consistency(rgb, field, cameras, [(0, 1)])
    monkeypatch.setattr(metrics, "TOLERANCE", 1.0)
    careless, _ = reprojection_consistency(rgb, field, cameras, [(0, 1)])
    assert float(honest) < 0.02  # the black ball's outline, where colours mix
    assert float(careless) > 0.1
