import math

import pytest
import torch
from analytic_fields import AnalyticField, ball
from refusals import refused
from torch import Tensor

from upfusion_core.config import RaySampling
from upfusion_core.field import rendering
from upfusion_core.field.rendering import FieldFunction, OccupancyGrid, render_rays, render_views
from upfusion_core.geometry import orbit_cameras
from upfusion_core.types import Rays

BOX = torch.tensor([[-0.5] * 3, [0.5] * 3])
RED = torch.tensor([1.0, 0.0, 0.0])


def _fog(density: Tensor, color: Tensor = RED) -> FieldFunction:
    return lambda points: (density.expand(points.shape[:-1]), color.expand(points.shape))


def _ball() -> AnalyticField:
    return AnalyticField(ball(0.15, softness=0.005))


def _rays(*pairs: tuple[list[float], list[float]]) -> Rays:
    return Rays(*(torch.tensor(ends) for ends in zip(*pairs, strict=True)))


def test_boxes_samples_and_weights_by_hand() -> None:
    rays = _rays(
        ([0.0, 0, 2], [0.0, 0, -1]),  # straight through
        ([0.0, 0, 0], [0.0, 0, -1]),  # from inside: near
        ([0.0, 0, 2], [0.0, 0, 1]),  # away from it
        ([0.6, 0, 2], [0.0, 0, -1]),  # past it, along its side
        ([0.5, 0, 2], [0.0, 0, -1]),  # in the plane of a side
        ([1.0, 1, 0.2], [-math.sqrt(0.5), -math.sqrt(0.5), 0.0]),
    )
    near, far, hit = rendering.intersect_box(rays, BOX, near=0.05)
    assert hit.tolist()[:4] == [True, True, False, False]
    torch.testing.assert_close(near[[0, 1, 2, 3, 5]], torch.tensor([1.5, 0.05, 0, 0, math.sqrt(0.5)]))
    torch.testing.assert_close(far[[0, 1, 2, 3, 5]], torch.tensor([2.5, 0.5, 0, 0, math.sqrt(4.5)]))
    near, far = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 3.0])
    assert rendering.stratified_distances(near, far, 2).tolist() == [[0.25, 0.75], [1.5, 2.5]]
    drawn = rendering.stratified_distances(near, far, 4, torch.Generator().manual_seed(0))
    part = ((drawn - near[:, None]) / (far - near)[:, None] * 4).floor()
    assert part.tolist() == [[0, 1, 2, 3]] * 2
    assert rendering.interval_edges(torch.tensor([[0.25, 0.75]]), near[:1], far[:1]).tolist() == [[0.0, 0.5, 1.0]]
    half = math.log(2)
    density, lengths = torch.tensor([1.0, 1.0, 2.0, 0.0]), torch.tensor([half, half, half, 1.0])
    torch.testing.assert_close(rendering.weights_from_density(density, lengths), torch.tensor([0.5, 0.25, 0.1875, 0.0]))
    assert rendering.weights_from_density(torch.tensor([0.0, 1e9, 1e9]), torch.ones(3)).tolist() == [0.0, 1.0, 0.0]
    # beside a wall's optical depth of 1e6, float32 has steps of 0.06, to which fog before it must not be rounded
    fog = torch.linspace(0.01, 0.3, 30)
    density = torch.stack([fog, torch.full((30,), 1e6), torch.full((30,), torch.inf)], dim=-1)
    weights = rendering.weights_from_density(density, torch.ones(30, 3))
    torch.testing.assert_close(weights[:, 1], torch.exp(-fog))
    torch.testing.assert_close(weights.sum(-1), torch.ones(30))
    assert rendering.sum_before(torch.tensor([1.0, 2.0, 3.0])).tolist() == [0, 1, 3]


@pytest.mark.parametrize("sampling", [RaySampling(8, 0), RaySampling(8, 8), RaySampling(1, 0)])
@pytest.mark.parametrize("seed", [None, 0])
def test_a_homogeneous_medium_is_exact(sampling: RaySampling, seed: int | None) -> None:
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    rays = _rays(([0.0, 0, 2], [0.0, 0, -1]), ([0.6, 0, 2], [0.0, 0, -1]))
    seen = render_rays(_fog(torch.tensor(0.7)), rays, BOX, sampling=sampling, generator=generator, background=1.0)
    opacity = 1 - math.exp(-0.7)
    torch.testing.assert_close(seen.opacity, torch.tensor([opacity, 0.0]))
    torch.testing.assert_close(seen.rgb, torch.tensor([[1, 1 - opacity, 1 - opacity], [1, 1, 1]]))
    assert seen.depth[1] == 0


def test_importance_samples() -> None:
    by_hand = torch.tensor([[0.0, 1, 2, 3]])
    found = rendering.importance_distances(by_hand, torch.tensor([[0.0, 1.0, 0.0]]), 2)
    torch.testing.assert_close(found, torch.tensor([[1.25, 1.75]]), atol=1e-3, rtol=0)
    found = rendering.importance_distances(by_hand, torch.zeros(1, 3), 3)
    torch.testing.assert_close(found, torch.tensor([[0.5, 1.5, 2.5]]))
    edges = torch.linspace(0, 1, 65).expand(1, -1)
    middles = (edges[:, 1:] + edges[:, :-1]) / 2
    weights = torch.exp(-((middles - 0.3) ** 2) / (2 * 0.05**2)).requires_grad_()
    found = rendering.importance_distances(edges, weights, 4000, torch.Generator().manual_seed(0))
    assert not found.requires_grad
    assert abs(float(found.mean()) - 0.3) < 1e-3
    assert abs(float(found.std()) - 0.05) < 1e-3

    def wall(points: Tensor) -> tuple[Tensor, Tensor]:
        return 400 * ((points[..., 2] - 0.1).abs() < 0.02).float(), RED.expand(points.shape)

    rays = _rays(([0.0, 0, 2], [0.0, 0, -1]))
    depths = [render_rays(wall, rays, BOX, sampling=RaySampling(64, fine)).depth for fine in (0, 64)]
    even, fine = (abs(float(depth) - (1.9 - 0.02 + 1 / 400)) for depth in depths)
    assert fine < min(0.001, even / 2)


def test_pictures_are_the_same_in_any_chunks() -> None:
    cameras, sampling = orbit_cameras([0, 70]), RaySampling(16, 8)
    whole, parts = (render_views(_ball(), BOX, cameras, (6, 9), sampling=sampling, chunk=chunk) for chunk in (10**6, 7))
    assert whole.rgb.shape == (2, 3, 6, 9)
    torch.testing.assert_close(vars(whole), vars(parts), atol=1e-6, rtol=1e-6)
    field = _ball()
    render_views(field, BOX, cameras[0], (20, 30), sampling=RaySampling(1, 0))  # on a CPU, unless told
    assert field.asked == [256, 256, 88]
    refused("chunk must be", render_views, field, BOX, cameras, 4, chunk=0)
    refused("size must be", render_views, field, BOX, cameras, (4, 0))


def test_a_ball_looks_as_it_should() -> None:
    views = render_views(_ball(), BOX, orbit_cameras([0, 90], 0), 33, sampling=RaySampling(64, 32))
    assert views.opacity[0, 0, 16, 16] > 0.999
    assert views.opacity[0, 0, 0, 0] < 1e-3
    torch.testing.assert_close(views.depth[:, 0, 16, 16], torch.tensor([0.85, 0.85]), atol=0.01, rtol=0)
    torch.testing.assert_close(views.rgb[0, :, 0, 0], torch.ones(3), atol=1e-3, rtol=0)
    # the front is +Z for photo 1 and +X from azimuth 90; left in the picture of photo 1 is -X
    torch.testing.assert_close(views.rgb[0, :, 16, 16], torch.tensor([0.5, 0.5, 0.65]), atol=0.02, rtol=0)
    torch.testing.assert_close(views.rgb[1, :, 16, 16], torch.tensor([0.65, 0.5, 0.5]), atol=0.02, rtol=0)
    assert views.rgb[0, 0, 16, 8] < 0.5 < views.rgb[0, 0, 16, 24]
    assert views.rgb[0, 1, 24, 16] < 0.5 < views.rgb[0, 1, 8, 16]


def test_background_colours() -> None:
    fog, past = _fog(torch.ones(1)), _rays(([0.6, 0, 2], [0.0, 0, -1]))
    assert render_rays(fog, past, BOX, background=0.25).rgb.tolist() == [[0.25] * 3]
    assert render_rays(fog, past, BOX, background=RED).rgb.tolist() == [[1, 0, 0]]
    refused(r"background must be in \[0, 1\]", render_views, _ball(), BOX, orbit_cameras(0), 2, background=255)


def test_gradients_reach_density_and_colour() -> None:
    density = torch.tensor([3.0], requires_grad=True)
    color = torch.tensor([0.2, 0.4, 0.6], requires_grad=True)
    rays, sampling = _rays(([0.0, 0, 2], [0.0, 0, -1])), RaySampling(4, 4)
    seen = render_rays(_fog(density, color), rays, BOX, sampling=sampling, background=0.0)
    seen.rgb[0, 0].backward()
    # rgb = c·(1 - exp(-density)) over a path of 1
    torch.testing.assert_close(density.grad, torch.tensor([0.2 * math.exp(-3)]))
    torch.testing.assert_close(color.grad, torch.tensor([1 - math.exp(-3), 0, 0]))


def _corner(points: Tensor) -> Tensor:
    """Dense in the one cell of 8³ that reaches from (-1, -1, 0.75) to (-0.75, -0.75, 1)."""
    return 5.0 * ((points[:, 0] < -0.75) & (points[:, 1] < -0.75) & (points[:, 2] > 0.75)).float()


def test_cells_neighbours_and_memory_by_hand() -> None:
    grid = OccupancyGrid(2 * BOX, 8)
    points = torch.tensor([[-0.9, -0.9, 0.9], [-0.6, -0.6, 0.6], [-0.4, -0.9, 0.9], [0.9, -0.9, -0.9], [-2, -2, 2.0]])
    alone = points[:, None], torch.ones(5, 1)  # each as the only sample of its ray
    assert grid(*alone).all()  # nothing is known yet
    grid.update(_corner)
    assert grid(*alone)[:, 0].tolist() == [True, True, False, False, True]
    assert (int(grid.occupied.sum()), int(grid.density.count_nonzero())) == (8, 1)
    for expected in (2.5, 1.25, 0.625, 0.3125):
        grid.update(lambda points: torch.zeros(len(points)))
        assert float(grid.density.max()) == expected
        assert bool(grid.occupied.any()) == (expected > 0.5)
    grid.update(lambda points: points[:, 0] * float("nan"))
    assert grid.occupied.all()  # a broken field is not hidden


def test_what_is_hidden_and_where_is_looked() -> None:
    grid = OccupancyGrid(2 * BOX, 8)
    grid.update(lambda points: 10.0 * (points[:, 0] > 0).float())  # 4 of 8 cells; the first of them may be half full
    ray = torch.stack([torch.linspace(-0.9375, 0.9375, 16), torch.zeros(16), torch.zeros(16)], dim=-1)[None]
    for length, expected in ((0.125, 16), (2.0, 11)):
        # from x = 0.25 on each sample takes 10·length of depth; 7 hides what follows; x < -0.25 is empty
        seen = grid(ray, torch.full((1, 16), length))[0]
        assert seen.nonzero().flatten().tolist() == list(range(6, expected))
    seen: list[Tensor] = []
    grid = OccupancyGrid(2 * BOX, 4)
    grid.update(lambda points: seen.append(points) or points[:, 0], generator=torch.Generator().manual_seed(0))
    axis = torch.arange(4)
    assert torch.equal(((seen[0] + 1) * 2).floor().long(), torch.cartesian_prod(axis, axis, axis))
    assert seen[0].frac().unique().numel() > 100
