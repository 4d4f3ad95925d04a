"""Fewer triangles: within the budget, closed where the input was, close to the surface."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import trimesh
from analytic_fields import AnalyticField, ball, torus

from upfusion_core.surface.extract import decimate, extract_mesh
from upfusion_core.surface.mesh import MeshAsset

pytest.importorskip("fast_simplification")


def _solid(mesh: MeshAsset) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)


@pytest.mark.parametrize("budget", [2000, 500, 120])
def test_a_torus_stays_a_torus(budget: int) -> None:
    mesh = extract_mesh(AnalyticField(torus()), 48, 150.0, faces=budget)
    solid = _solid(mesh)
    assert 0.8 * budget <= len(mesh.faces) <= budget
    assert solid.is_watertight
    assert solid.is_winding_consistent
    assert solid.euler_number == 0
    assert solid.volume == pytest.approx(2 * math.pi**2 * 0.18 * 0.07**2, rel=0.15 if budget < 500 else 0.08)
    # colours and normals belong to the new vertices
    torch.testing.assert_close(mesh.vertex_colors, mesh.vertices + 0.5, atol=0.03, rtol=0)
    assert float((mesh.normals.norm(dim=-1) - 1).abs().max()) < 1e-4


def test_a_budget_that_is_met_changes_nothing() -> None:
    field = AnalyticField(ball())
    first, second = extract_mesh(field, 24), extract_mesh(field, 24, faces=10**6)
    assert torch.equal(first.vertices, second.vertices)
    assert torch.equal(first.faces, second.faces)


def test_it_is_deterministic_and_open_meshes_are_taken() -> None:
    ball_mesh = trimesh.creation.icosphere(3)
    vertices = torch.tensor(np.asarray(ball_mesh.vertices), dtype=torch.float32)
    faces = torch.tensor(np.asarray(ball_mesh.faces), dtype=torch.int64)
    bowl = faces[vertices[faces][..., 1].mean(1) < 0.3]
    first, second = decimate(vertices, bowl, 150), decimate(vertices, bowl, 150)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert len(first[1]) <= 150
