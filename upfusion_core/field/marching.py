"""From heights to triangles: marching cubes in slabs whose seams are welded."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from skimage import measure
from torch import Tensor

from ..types import OnProgress
from .volume import SPREAD

SLAB = 24
"""Layers of cells that are turned into triangles at a time."""


def march(heights: Tensor, *, slab: int = SLAB, report: OnProgress = lambda share: None) -> tuple[Tensor, Tensor]:
    """The surface where heights (X, Y, Z) change sign -> vertices (P, 3) in samples, faces (F, 3) outward.

    Heights are not 0 anywhere. The surface is closed where the volume ends, half a sample or less outside of it.
    Slabs share the layer of samples between them. A vertex in that layer belongs to the same edge of the lattice in
    both, by which the two copies are found and made one: the surface is that of the whole volume at once.

    Args:
        slab: layers of cells at a time; changes the memory needed and the order of vertices, not the surface.
    """
    cells = heights.shape[0] + 1  # with one layer of nothing before and behind
    vertices, faces = [], []
    count = 0
    edges, numbers = np.empty(0, np.int64), np.empty(0, np.int64)
    for first in range(0, cells, slab):
        block = _block(heights, first, min(first + slab, cells))
        if not (block.max() > 0 > block.min()):
            edges, numbers = np.empty(0, np.int64), np.empty(0, np.int64)
            continue
        points, triangles, _, _ = measure.marching_cubes(block, 0.0, gradient_direction="ascent")
        own = np.full(len(points), -1, np.int64)
        shared = np.flatnonzero(points[:, 0] == 0)
        if first and len(shared):
            own[shared] = numbers[np.searchsorted(edges, _edges(points[shared]))]
        new = own < 0
        own[new] = count + np.arange(np.count_nonzero(new))
        count += int(np.count_nonzero(new))
        last = np.flatnonzero(points[:, 0] == block.shape[0] - 1)
        keys = _edges(points[last])
        order = np.argsort(keys)
        edges, numbers = keys[order], own[last][order]
        vertices.append(points[new] + np.array([first - 1, -1, -1], np.float32))
        faces.append(own[triangles])
        report((first + slab) / cells if first + slab < cells else 1.0)
    return torch.from_numpy(np.concatenate(vertices)), torch.from_numpy(np.concatenate(faces))


def large_pieces(vertices: Tensor, faces: Tensor, keep: float) -> tuple[Tensor, Tensor]:
    """The mesh without pieces of less than `keep` of the largest one's volume, and without hollows.

    Pieces are what edges hold together; a hollow is one whose faces look inwards.
    """
    links = torch.cat([faces[:, :2], faces[:, 1:]]).numpy()
    shape = (len(vertices), len(vertices))
    graph = coo_matrix((np.ones(len(links), np.int8), (links[:, 0], links[:, 1])), shape=shape)
    count, piece = connected_components(graph, directed=False)
    corners = vertices.double()[faces]
    signed = (corners[:, 0] * torch.linalg.cross(corners[:, 1], corners[:, 2])).sum(1)
    of_face = torch.from_numpy(piece).long()[faces[:, 0]]
    volumes = torch.zeros(count, dtype=torch.float64).index_add_(0, of_face, signed)
    stays = volumes >= max(keep, 1e-9) * volumes.max()
    faces = faces[stays[of_face]]
    used, faces = faces.unique(return_inverse=True)
    return vertices[used], faces


def _block(heights: Tensor, first: int, end: int) -> np.ndarray:
    """Layers first…end of heights with a sample of nothing round them: (end - first + 1, Y + 2, Z + 2) float32."""
    _, y, z = heights.shape
    block = np.full((end - first + 1, y + 2, z + 2), -SPREAD, np.float32)
    begin, stop = max(first - 1, 0), min(end, heights.shape[0])
    block[begin - first + 1 : stop - first + 1, 1:-1, 1:-1] = heights[begin:stop].numpy()
    return block


def _edges(points: np.ndarray) -> np.ndarray:
    """(N, 3) vertices in one layer -> (N,) a number for the edge of the lattice that each lies on."""
    whole = np.floor(points[:, 1:]).astype(np.int64)
    y, z = (2 * whole + (points[:, 1:] != whole)).T  # odd between samples, even on one
    numbers: np.ndarray = y * 2**20 + z
    return numbers
