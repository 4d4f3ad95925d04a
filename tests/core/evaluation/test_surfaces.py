import math

import numpy as np
import pytest
import torch
import trimesh
from analytic_fields import AnalyticField
from refusals import refused
from torch import Tensor
from torch.nn.functional import avg_pool2d

from upfusion_core import MeshAsset, orbit_cameras
from upfusion_core.config import RaySampling
from upfusion_core.evaluation import metrics
from upfusion_core.evaluation.protocol import BakedField
from upfusion_core.field.rendering import render_views
from upfusion_core.geometry.cameras import Similarity

SAMPLES = 60_000
NOWHERE = Similarity.from_angles()


def _grid(shift: float = 0.0) -> Tensor:
    return torch.cartesian_prod(torch.arange(5.0) + shift, torch.arange(5.0), torch.arange(5.0))


def _jug() -> trimesh.Trimesh:
    """A lopsided thing: a body, a handle on one side, a spout on another."""
    body = trimesh.creation.cylinder(radius=0.1, height=0.25, sections=48)
    handle = trimesh.creation.box((0.12, 0.02, 0.15))
    handle.apply_translation((0.13, 0, 0.01))
    spout = trimesh.creation.cone(radius=0.04, height=0.15, sections=24)
    spout.apply_transform(trimesh.transformations.rotation_matrix(math.radians(70), (1, 0, 0)))
    spout.apply_translation((0, -0.08, 0.05))
    return trimesh.util.concatenate([body, handle, spout])


def _ball(radius: float) -> trimesh.Trimesh:
    return trimesh.creation.icosphere(subdivisions=5, radius=radius)


def _points(mesh: trimesh.Trimesh) -> Tensor:
    return torch.as_tensor(mesh.vertices.copy(), dtype=torch.float32)


def _error(found: Similarity, known: Similarity, points: Tensor) -> float:
    """Largest distance between where the two bring the points."""
    return float((found.apply(points) - known.apply(points)).norm(dim=1).max())


def _box(mesh: trimesh.Trimesh) -> float:
    return float(np.ptp(mesh.bounds, axis=0).max())


def _raw(mesh: trimesh.Trimesh, truth: trimesh.Trimesh, *, samples: int = SAMPLES, seed: int = 0) -> dict[str, float]:
    """The scores of a mesh as it is."""
    points = metrics.sample_surface(mesh, samples, seed=seed), metrics.sample_surface(truth, samples, seed=seed + 1)
    return metrics.point_scores(*points, _box(truth))


def test_scores_by_hand() -> None:
    """Nearest points .15 and .05 away both ways, in a box of 10: half is within 1 %, all within 2 %."""
    ours, theirs = torch.tensor([[0.0, 0, 0], [5, 0, 0]]), torch.tensor([[0.0, 0.15, 0], [5, 0.05, 0]])
    wanted = {"chamfer": 0.01, "f_score_1": 0.5, "f_score_2": 1.0}
    assert metrics.point_scores(ours, theirs, 10.0) == pytest.approx(wanted)
    assert metrics._spread(torch.arange(10.0), 4).tolist() == [0, 3, 6, 9]


def chamfer(first: Tensor, second: Tensor) -> float:
    return metrics.chamfer_distance(metrics.nearest_distances(first, second), metrics.nearest_distances(second, first))


def test_distances_by_hand_and_by_brute_force() -> None:
    line = torch.tensor([[0.0, 0, 0], [1, 0, 0]])
    assert chamfer(line, line[:1]) == pytest.approx(0.25)
    assert chamfer(line[:1], line) == pytest.approx(0.25)
    assert chamfer(_grid(), _grid()) == 0
    assert chamfer(_grid(), _grid(0.3)) == pytest.approx(0.3)
    # shifted by one: 4/5 of the points meet another, the last layer is 1 away
    assert chamfer(_grid(), _grid(1.0)) == pytest.approx(0.2)
    assert score(_grid(), _grid(), 0.0) == 1
    assert score(_grid(), _grid(0.3), 0.2) == 0
    assert score(_grid(), _grid(0.3), 0.31) == 1
    assert score(_grid(), _grid(1.0), 0.5) == pytest.approx(0.8)
    # precision 1/2, recall 1: harmonic mean 2/3
    assert score(line, line[:1], 0.1) == pytest.approx(2 / 3)
    assert score(line[:1], line, 0.1) == pytest.approx(2 / 3)
    first, second = (torch.rand(count, 3, generator=torch.Generator().manual_seed(count)) for count in (70, 90))
    distances = torch.cdist(first.double(), second.double())
    there, back = distances.amin(1), distances.amin(0)
    assert chamfer(first, second) == pytest.approx(float(there.mean() + back.mean()) / 2, abs=1e-9)
    precision, recall = (float((part <= 0.1).double().mean()) for part in (there, back))
    assert score(first, second, 0.1) == pytest.approx(2 * precision * recall / (precision + recall))


def score(first: Tensor, second: Tensor, threshold: float) -> float:
    near, far = metrics.nearest_distances(first, second), metrics.nearest_distances(second, first)
    return metrics.f_score(near, far, threshold)


def test_spheres_and_samples_of_a_surface() -> None:
    inner, outer = _ball(0.95), _ball(1.0)
    asset = MeshAsset(_points(inner), torch.as_tensor(inner.faces.copy()), torch.zeros(len(inner.vertices), 3))
    mesh, dense = metrics.as_trimesh(asset), 100_000
    plain, scores = _raw(mesh, outer, samples=dense), metrics.compare_meshes(mesh, outer, samples=dense, seed=0)
    assert scores["chamfer"] == pytest.approx(0.05 / 2, rel=0.03)  # the box is 2 wide
    assert list(scores) == [*plain, *(f"{name}_similarity" for name in plain)]
    assert plain.items() <= scores.items()
    assert set(plain) <= set(metrics.MEASURES)
    nearer = _raw(_ball(0.97), outer, samples=dense)  # 1.5 % of the box away
    assert nearer["f_score_1"] == 0
    assert nearer["f_score_2"] == 1
    points = metrics.sample_surface(trimesh.creation.box((2, 2, 2)), 6000, seed=1)
    torch.testing.assert_close(points.abs().amax(1), torch.ones(6000))
    top = float((points[:, 2] > 0.999).float().mean())
    assert top == pytest.approx(1 / 6, abs=0.02)
    assert torch.equal(points, metrics.sample_surface(trimesh.creation.box((2, 2, 2)), 6000, seed=1))


@pytest.mark.parametrize(
    "known",
    [
        Similarity.from_angles(4, 3, -2, scale=1.03, shift=(0.01, 0.0, -0.01)),
        Similarity.from_angles(-25, 12, 10, scale=0.8, shift=(0.05, 0.03, 0.02)),
        Similarity.from_angles(35, -18, 5, scale=1.25, shift=(-0.05, 0.08, 0.0)),
    ],
)
def test_a_known_similarity_is_found(known: Similarity) -> None:
    truth = trimesh.Trimesh(known.apply(_points(_jug())).numpy(), _jug().faces, process=False)
    ours, theirs = metrics.sample_surface(_jug(), SAMPLES), metrics.sample_surface(truth, SAMPLES, seed=1)
    found = metrics.align_points(ours, theirs, NOWHERE)
    # different points are sampled on both: their spacing is 0.004, the object is 0.3 long
    assert _error(found, known, _points(_jug())) < 0.002
    ways = (ours, found.apply(ours), known.apply(ours))
    raw, aligned, given = (metrics.point_scores(points, theirs, _box(truth)) for points in ways)
    assert aligned["f_score_1"] > 0.99
    assert aligned["chamfer"] < min(raw["chamfer"], 0.005)
    assert given["chamfer"] == pytest.approx(aligned["chamfer"], rel=0.1)


def test_points_that_correspond_half_of_them_and_none() -> None:
    points = metrics.sample_surface(_jug(), 2000)
    known = Similarity.from_angles(10, 5, 3, scale=1.1, shift=(0.02, 0.0, 0.01))
    found = metrics.align_points(points, known.apply(points), NOWHERE)
    assert _error(found, known, points) < 1e-5
    same = metrics.align_points(points, points, NOWHERE)
    assert torch.equal(same.rotation, torch.eye(3))
    # one-way nearest neighbours of a half ball would be matched best by a smaller one
    whole = metrics.sample_surface(_ball(1.0), 4000)
    found = metrics.align_points(whole[whole[:, 2] > 0], whole, NOWHERE)
    assert found.scale > 0.9
    flat = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0, 1, 2]], process=False)
    few = {"samples": 100, "seed": 0}
    refused("mesh must have a surface, got 1 faces", metrics.compare_meshes, flat, _jug(), **few)
    refused("truth must have a surface, got 0 faces", metrics.compare_meshes, _jug(), trimesh.Trimesh(), **few)


CAMERAS = orbit_cameras([10, 120], [30, -5])


def _field(density: float) -> AnalyticField:
    """A solid ball beside the middle of its box, whose colours run with the place."""

    def solid(points: Tensor) -> Tensor:
        return density * ((points - torch.tensor([0.05, 0.0, -0.03])).norm(dim=-1) < 0.08)

    return AnalyticField(solid, 0.3, lambda points: (0.5 + 3 * points).clamp(0, 1))


@pytest.mark.parametrize("size", [16, 32])
def test_small_pictures_are_nearly_the_field_s_own(size: int) -> None:
    ball = _field(2000.0)
    baked = BakedField(ball)
    assert (baked.aabb[1] - baked.aabb[0]).max() < 0.25  # only the ball's own box
    ball.asked.clear()
    seen = baked.render(CAMERAS, size)
    assert not ball.asked
    assert seen.shape == (2, 4, size, size)
    true = render_views(ball, ball.aabb, CAMERAS, 4 * size, sampling=RaySampling(200, 0))
    true = avg_pool2d(torch.cat([true.rgb, true.opacity], dim=1), 4)
    assert metrics.psnr(seen[:, :3].clamp(0, 1), true[:, :3].clamp(0, 1)).min() > 28
    areas = seen[:, 3].sum((1, 2)) / true[:, 3].sum((1, 2))
    assert areas.tolist() == pytest.approx([1, 1], abs=0.05)


def test_nothing_is_white() -> None:
    seen = BakedField(_field(0.0)).render(CAMERAS, 8)
    assert torch.equal(seen[:, :3], torch.ones(2, 3, 8, 8))
    assert seen[:, 3].abs().max() == 0
