from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
import trimesh
from torch import Tensor

from upfusion_core import MeshAsset
from upfusion_core.evaluation.metrics import MEASURES
from upfusion_core.evaluation.spatial import Similarity
from upfusion_core.evaluation.surfaces import (
    align_points,
    chamfer_distance,
    compare_meshes,
    f_score,
    nearest_distances,
    sample_surface,
)
from upfusion_core.support.errors import InputError


def _asset(mesh: trimesh.Trimesh) -> MeshAsset:
    vertices = torch.as_tensor(mesh.vertices.copy(), dtype=torch.float32)
    return MeshAsset(vertices, torch.as_tensor(mesh.faces.copy(), dtype=torch.int64), torch.zeros_like(vertices))


def _grid(shift: float = 0.0) -> Tensor:
    axis = torch.arange(5.0)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3) + torch.tensor(
        [shift, 0, 0]
    )


def _jug() -> trimesh.Trimesh:
    """A lopsided thing: a body, a handle on one side, a spout on another."""
    body = trimesh.creation.cylinder(radius=0.1, height=0.25, sections=48)
    handle = trimesh.creation.box((0.12, 0.02, 0.15))
    handle.apply_translation((0.13, 0, 0.01))
    spout = trimesh.creation.cone(radius=0.04, height=0.15, sections=24)
    spout.apply_transform(trimesh.transformations.rotation_matrix(math.radians(70), (1, 0, 0)))
    spout.apply_translation((0, -0.08, 0.05))
    return trimesh.util.concatenate([body, handle, spout])


def _moved(mesh: trimesh.Trimesh, similarity: Similarity) -> trimesh.Trimesh:
    points = similarity.apply(torch.as_tensor(mesh.vertices.copy(), dtype=torch.float32))
    return trimesh.Trimesh(points.numpy(), mesh.faces, process=False)


def _error(found: Similarity, known: Similarity, points: Tensor) -> float:
    """Largest distance between where the two bring the points."""
    return float((found.apply(points) - known.apply(points)).norm(dim=1).max())


def test_chamfer_by_hand() -> None:
    line = torch.tensor([[0.0, 0, 0], [1, 0, 0]])
    assert chamfer_distance(line, line[:1]) == pytest.approx(0.25)
    assert chamfer_distance(line[:1], line) == pytest.approx(0.25)
    assert chamfer_distance(_grid(), _grid()) == 0
    assert chamfer_distance(_grid(), _grid(0.3)) == pytest.approx(0.3)
    # shifted by one: 4/5 of the points meet another, the last layer is 1 away
    assert chamfer_distance(_grid(), _grid(1.0)) == pytest.approx(0.2)


def score(first: Tensor, second: Tensor, threshold: float) -> float:
    return f_score(nearest_distances(first, second), nearest_distances(second, first), threshold)


def test_f_score_by_hand() -> None:
    assert score(_grid(), _grid(), 0.0) == 1
    assert score(_grid(), _grid(0.3), 0.2) == 0
    assert score(_grid(), _grid(0.3), 0.31) == 1
    assert score(_grid(), _grid(1.0), 0.5) == pytest.approx(0.8)
    # precision 1/2, recall 1: harmonic mean 2/3
    line = torch.tensor([[0.0, 0, 0], [1, 0, 0]])
    assert score(line, line[:1], 0.1) == pytest.approx(2 / 3)
    assert score(line[:1], line, 0.1) == pytest.approx(2 / 3)


def test_nearest_points_by_brute_force() -> None:
    first, second = (torch.rand(count, 3, generator=torch.Generator().manual_seed(count)) for count in (70, 90))
    distances = torch.cdist(first.double(), second.double())
    there, back = distances.amin(1), distances.amin(0)
    assert chamfer_distance(first, second) == pytest.approx(float(there.mean() + back.mean()) / 2, abs=1e-9)
    precision, recall = (float((part <= 0.1).double().mean()) for part in (there, back))
    assert score(first, second, 0.1) == pytest.approx(2 * precision * recall / (precision + recall))


def test_spheres_one_in_the_other() -> None:
    inner, outer = (trimesh.creation.icosphere(subdivisions=5, radius=radius) for radius in (0.95, 1.0))
    scores = compare_meshes(_asset(inner), outer)
    assert scores.chamfer == pytest.approx(0.05 / 2, rel=0.03)  # the box is 2 wide
    assert scores.f_score_1 == 0
    assert scores.f_score_2 == 0
    nearer = compare_meshes(trimesh.creation.icosphere(subdivisions=5, radius=0.97), outer)  # 1.5 % of the box away
    assert nearer.f_score_1 == 0
    assert nearer.f_score_2 == 1
    mended = compare_meshes(inner, outer, align=True)
    assert mended.similarity.scale == pytest.approx(1 / 0.95, rel=1e-3)
    assert mended.f_score_1 > 0.999
    assert {name for name, _ in scores} <= set(MEASURES)
    assert dict(scores)["chamfer"] == scores.chamfer


def test_equal_surfaces_differ_by_the_spacing_of_points_alone() -> None:
    scores = compare_meshes(_jug(), _jug())
    assert scores.chamfer < 0.004
    assert scores.f_score_1 > 0.999
    assert compare_meshes(_jug(), _jug()).chamfer == scores.chamfer
    assert compare_meshes(_jug(), _jug(), seed=5).chamfer != scores.chamfer


def test_samples_lie_on_the_surface_evenly() -> None:
    points = sample_surface(trimesh.creation.box((2, 2, 2)), 6000, seed=1)
    assert points.shape == (6000, 3)
    assert points.dtype == torch.float32
    torch.testing.assert_close(points.abs().amax(1), torch.ones(6000))
    top = float((points[:, 2] > 0.999).float().mean())
    assert top == pytest.approx(1 / 6, abs=0.02)
    assert torch.equal(points, sample_surface(trimesh.creation.box((2, 2, 2)), 6000, seed=1))


@pytest.mark.parametrize(
    "known",
    [
        Similarity.from_angles(4, 3, -2, scale=1.03, translation=(0.01, 0.0, -0.01)),
        Similarity.from_angles(-25, 12, 10, scale=0.8, translation=(0.05, 0.03, 0.02)),
        Similarity.from_angles(35, -18, 5, scale=1.25, translation=(-0.05, 0.08, 0.0)),
    ],
)
def test_a_known_similarity_is_found(known: Similarity) -> None:
    truth = _moved(_jug(), known)
    raw = compare_meshes(_jug(), truth)
    aligned = compare_meshes(_jug(), truth, align=True)
    corners = torch.as_tensor(_jug().vertices.copy(), dtype=torch.float32)
    # different points are sampled on both: their spacing is 0.004, the object is 0.3 long
    assert _error(aligned.similarity, known, corners) < 0.002
    assert aligned.f_score_1 > 0.99
    assert aligned.chamfer < min(raw.chamfer, 0.005)
    given = compare_meshes(_jug(), truth, similarity=known)
    assert given.chamfer == pytest.approx(aligned.chamfer, rel=0.1)


def test_points_that_correspond_are_matched_exactly() -> None:
    points = sample_surface(_jug(), 2000)
    known = Similarity.from_angles(10, 5, 3, scale=1.1, translation=(0.02, 0.0, 0.01))
    found = align_points(points, known.apply(points))
    assert _error(found, known, points) < 1e-5
    same = align_points(points, points)
    assert same.scale == 1.0
    assert torch.equal(same.rotation, torch.eye(3))


def test_alignment_does_not_shrink_what_sees_only_half() -> None:
    """One-way nearest neighbours of a half ball would be matched best by a smaller one."""
    whole = sample_surface(trimesh.creation.icosphere(subdivisions=4, radius=1.0), 4000)
    found = align_points(whole[whole[:, 2] > 0], whole)
    assert found.scale > 0.9


def test_a_mesh_further_off_is_never_better() -> None:
    scores = [
        compare_meshes(_moved(_jug(), Similarity.from_angles(translation=(shift, 0.0, 0.0))), _jug(), samples=20_000)
        for shift in (0.0, 0.005, 0.01, 0.02)
    ]
    assert all(a.chamfer < b.chamfer for a, b in pairwise(scores))
    assert all(a.f_score_1 >= b.f_score_1 for a, b in pairwise(scores))
    assert all(score.f_score_1 <= score.f_score_2 for score in scores)


def test_refusals() -> None:
    flat = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0, 1, 2]], process=False)
    for refused, words in (
        (lambda: compare_meshes(flat, _jug()), "mesh must have a surface, got 1 faces"),
        (lambda: compare_meshes(_jug(), trimesh.Trimesh()), "truth must have a surface, got 0 faces"),
        (lambda: compare_meshes(_jug(), _jug(), samples=10), "samples must be"),
        (lambda: sample_surface(_jug(), 0), "count must be"),
        (lambda: compare_meshes(_jug(), _jug(), samples=128.5), r"samples must be a whole number, got 128\.5"),
        (lambda: sample_surface(_jug(), 8.0), r"count must be a whole number, got 8\.0"),
        (lambda: chamfer_distance(torch.zeros(3, 2), torch.zeros(3, 3)), "source points must be"),
        (lambda: chamfer_distance(torch.zeros(3, 3), torch.full((3, 3), math.nan)), "target points must be finite"),
        (lambda: chamfer_distance(torch.zeros(3, 3), torch.zeros(0, 3)), "at least one target point"),
    ):
        with pytest.raises(InputError, match=words):
            refused()
