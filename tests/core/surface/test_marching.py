"""The slabs' surface against skimage on the whole volume, and against volumes and areas known in closed form."""

import math

import numpy as np
import pytest
import torch
from analytic_fields import solid
from skimage import measure
from torch import Tensor

from upfusion_core.surface.extract import SPREAD, height_of, large_pieces, march


def _heights(signed: Tensor) -> Tensor:
    """A solid where `signed` (in samples) is above 0, as heights."""
    return height_of((signed * 0.7).exp(), 1.0).half()


def _grid(size: int) -> Tensor:
    axis = torch.arange(size) - (size - 1) / 2
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)


def _ball(size: int, radius: float) -> Tensor:
    return _heights(radius - _grid(size).norm(dim=-1))


def _torus(size: int, ring: float, tube: float) -> Tensor:
    x, y, z = _grid(size).unbind(-1)
    return _heights(tube - torch.hypot(torch.hypot(x, z) - ring, y))


def _triangles(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(F, 9), each triangle turned so that its least corner leads, in ascending order."""
    corners = np.round(vertices[faces].astype(np.float64), 3)
    lead = (corners @ [1e8, 1e4, 1.0]).argmin(1)
    turned = np.stack([corners[np.arange(len(faces)), (lead + step) % 3] for step in range(3)], axis=1).reshape(-1, 9)
    return turned[np.lexsort(turned.T)]


ROUGH = _heights(torch.randn(9, 9, 9, generator=torch.Generator().manual_seed(3)))


@pytest.mark.parametrize("slab", [1, 3, 7, 100])
@pytest.mark.parametrize("heights", [_ball(14, 5.2), _torus(20, 6.0, 2.3), ROUGH], ids=["ball", "torus", "rough"])
def test_slabs_are_the_whole(heights: Tensor, slab: int) -> None:
    vertices, faces = march(heights, slab=slab)
    padded = np.pad(heights.float().numpy(), 1, constant_values=-SPREAD)
    whole, whole_faces, _, _ = measure.marching_cubes(padded, 0.0, gradient_direction="ascent")
    assert len(vertices) == len(whole)
    ours = _triangles(vertices.numpy(), faces.numpy())
    np.testing.assert_allclose(ours, _triangles(whole - 1, whole_faces), atol=2e-3)
    assert solid(vertices, faces).volume > 0


def test_floaters_and_hollows() -> None:
    apart = torch.cat([_ball(12, 4.0), torch.full((9, 12, 12), -SPREAD).half(), _ball(12, 3.0)])
    assert solid(*march(apart, slab=5)).body_count == 2
    radius = _grid(30).norm(dim=-1)
    shell = torch.minimum(13.0 - radius, radius - 6.0)
    speck = 1.6 - (_grid(30) - torch.tensor([13.0, 13, 13])).norm(dim=-1)
    told: list[float] = []
    vertices, faces = march(_heights(torch.maximum(shell, speck)), slab=9, report=told.append)
    assert told[-1] == 1.0
    assert solid(vertices, faces).body_count == 3
    kept = solid(*large_pieces(vertices, faces, 0.05))
    assert kept.body_count == 1
    assert kept.volume == pytest.approx(4 / 3 * math.pi * 13**3, rel=0.02)
    assert solid(*large_pieces(vertices, faces, 0.0)).body_count == 2
