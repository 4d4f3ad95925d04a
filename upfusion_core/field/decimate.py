"""Fewer triangles, by collapsing the edges that change the surface least (quadric error metric)."""

from __future__ import annotations

import importlib.util
import warnings

import numpy as np
import torch
import trimesh
from torch import Tensor

from ..errors import MissingPackageError

_ATTEMPTS = ((7, 1.0), (5, 1.0), (7, 0.97), (6, 0.94), (4, 1.0), (7, 0.9), (5, 0.85))
"""Aggression of the collapses and share of the budget, tried in turn until the result is closed."""


def require_decimation() -> None:
    """Raises MissingPackageError unless the optional package is installed."""
    if importlib.util.find_spec("fast_simplification") is None:
        raise MissingPackageError(
            "a limit on the number of faces needs the package fast-simplification, which is not installed; "
            "install it by pip install fast-simplification, or leave the limit out"
        )


def decimate(vertices: Tensor, faces: Tensor, budget: int) -> tuple[Tensor, Tensor]:
    """Vertices (P, 3) and faces (F, 3) -> those of a mesh with at most `budget` faces.

    A closed, consistently wound surface stays so: a collapse may pinch the surface where parts nearly touch, and then
    another order of collapses is tried. Should all of them pinch it, the first is returned with a warning.
    """
    require_decimation()
    solid = _solid(vertices.numpy(), faces.numpy())
    closed = solid.is_watertight and solid.is_winding_consistent
    found = None
    for aggression, share in _ATTEMPTS:
        small = solid.simplify_quadric_decimation(face_count=max(4, int(budget * share)), aggression=aggression)
        if len(small.faces) > budget:
            continue
        small = _solid(small.vertices, small.faces)
        found = found or small
        if not closed or (small.is_watertight and small.is_winding_consistent and small.volume > 0):
            return _tensors(small)
    if found is None:
        warnings.warn(f"the mesh could not be brought below {len(faces)} faces; it keeps them all", stacklevel=2)
        return vertices, faces
    warnings.warn(f"with {len(found.faces)} faces the mesh is no longer closed everywhere; allow it more", stacklevel=2)
    return _tensors(found)


def _solid(vertices: np.ndarray, faces: np.ndarray) -> trimesh.Trimesh:
    return trimesh.Trimesh(vertices, faces, process=False)


def _tensors(solid: trimesh.Trimesh) -> tuple[Tensor, Tensor]:
    vertices = torch.from_numpy(np.array(solid.vertices, dtype=np.float32))
    return vertices, torch.from_numpy(np.array(solid.faces, dtype=np.int64))
