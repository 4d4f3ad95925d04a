"""Surfaces of predictions: how near they are to the true ones, and `BakedField`, by which a field is looked at quickly.

Chamfer distance and F-scores are measured between points sampled on both, as they are or aligned. Equal surfaces are
therefore not at distance 0 but at about half the points' spacing: with 100,000 points on a ball, 0.3 % of its box.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

import numpy as np
import torch
import trimesh
from scipy.spatial import KDTree
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample
from trimesh.registration import procrustes

from ..config import RaySampling
from ..field.radiance import RadianceField
from ..field.rendering import render_views
from ..support.checks import check_count, check_finite, check_shape
from ..support.errors import InputError
from ..surface.mesh import MeshAsset
from ..types import Cameras
from .spatial import Similarity

SAMPLING = RaySampling(uniform=48, importance=0)
_COARSE, _FINE = 40, 64
"""Cells along each side of the field's box, where the object is looked for, and of the object's own box."""
_OPAQUE = 1.0
"""Optical depth of a cell at which it counts as solid; more would make surfaces swell between the grid's points."""
_EMPTY = 0.02
"""Optical depth of a coarse cell below which nothing is there."""
_CHUNK = 1 << 16


class BakedField:
    """Density and colour between the points of a grid over the object's box; nothing outside of it."""

    @torch.no_grad()
    def __init__(self, field: RadianceField) -> None:
        low, high = field.aabb.unbind(0)
        density, _ = _values(field, low, high, _COARSE)
        cell = (high - low) / _COARSE
        there = (density * cell.max() > _EMPTY).nonzero()
        if len(there):  # a cell more on each side, because only its middle was looked at
            first, last = there.amin(0), there.amax(0) + 1
            low, high = torch.maximum(low + (first - 1) * cell, low), torch.minimum(low + (last + 1) * cell, high)
        self.aabb = torch.stack([low, high])
        density, rgb = _values(field, low, high, _FINE)
        density = density.clamp(max=float(_OPAQUE * _FINE / (high - low).max()))
        # (1, 4, z, y, x), as grid_sample wants it; colours count as much as there is of them
        volume = torch.cat([density[..., None], density[..., None] * rgb], dim=-1)
        self.volume = volume.permute(3, 2, 1, 0)[None].contiguous()

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """(..., 3) world points -> density (...,) and rgb (..., 3); trilinear."""
        low, high = self.aabb
        place = ((points.reshape(1, -1, 1, 1, 3) - low) / (high - low)) * 2 - 1
        found = grid_sample(self.volume, place, mode="bilinear", padding_mode="zeros", align_corners=False)
        found = found.reshape(4, -1).T.reshape(*points.shape[:-1], 4)
        return found[..., 0], found[..., 1:] / found[..., :1].clamp(min=1e-6)

    def render(self, cameras: Cameras, size: int) -> Tensor:
        """(Q, 4, size, size) colours on white, and opacity; each pixel the mean of 2 x 2 rays."""
        seen = render_views(self, self.aabb, cameras, 2 * size, sampling=SAMPLING, chunk=_CHUNK)
        return avg_pool2d(torch.cat([seen.rgb, seen.opacity], dim=1), 2)


def _values(field: RadianceField, low: Tensor, high: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Density (x, y, z) and rgb (x, y, z, 3) in the middles of count³ cells."""
    place = (torch.arange(count, device=low.device) + 0.5) / count
    grid = torch.stack(torch.meshgrid(place, place, place, indexing="ij"), dim=-1).reshape(-1, 3)
    parts = [field(low + (high - low) * some) for some in grid.split(_CHUNK)]
    density, rgb = (torch.cat([part[index].float() for part in parts]) for index in (0, 1))
    return density.reshape(count, count, count), rgb.reshape(count, count, count, 3)


Mesh: TypeAlias = MeshAsset | trimesh.Trimesh

QUERY_POINTS = 20_000
"""Points whose nearest neighbours are looked for: far from a surface every look-up is long, and the mean of so many
distances is known to better than 1 % of their spread."""

START_YAW_DEGREES = (-40.0, -20.0, 0.0, 20.0, 40.0)
START_PITCH_DEGREES = (-20.0, 0.0, 20.0)
SEARCH_POINTS = 1_000
SEARCH_ROUNDS = 12
FINAL_POINTS = 10_000
FINAL_ROUNDS = 30


@dataclass(frozen=True)
class MeshScores:
    """A mesh against its truth.

    chamfer: mean distance to the other surface, averaged over both ways, as a fraction of the box: the longest side of
    the true mesh's bounding box.
    f_score_1, f_score_2: F-scores in [0, 1] at 1 % and 2 % of the box.
    similarity: what was applied to the mesh before it was measured.
    """

    chamfer: float
    f_score_1: float
    f_score_2: float
    similarity: Similarity

    def __iter__(self) -> Iterator[tuple[str, float]]:
        """Pairs of measure name, as in metrics.MEASURES, and value."""
        return ((name, getattr(self, name)) for name in ("chamfer", "f_score_1", "f_score_2"))


def compare_meshes(
    mesh: Mesh,
    truth: Mesh,
    *,
    similarity: Similarity | None = None,
    align: bool = False,
    samples: int = 100_000,
    seed: int = 0,
) -> MeshScores:
    """Chamfer distance and F-scores of a mesh.

    Args:
        mesh, truth: surfaces in the same units, open or closed.
        similarity: applied to `mesh` first, e.g. the one that `align_views` found with pictures.
        align: look for the similarity that brings the surfaces together, from there on; see `align_points`.
        samples: points on each surface; distances are taken from at most QUERY_POINTS of them.
        seed: of the points; the same seed gives the same scores.
    """
    check_count("samples", samples, 100, 10_000_000)
    ours = sample_surface(mesh, samples, seed=seed, name="mesh")
    theirs = sample_surface(truth, samples, seed=seed + 1, name="truth")
    similarity = similarity or Similarity.identity()
    if align:
        similarity = align_points(ours, theirs, start=similarity)
    ours = similarity.apply(ours)
    box = float(np.ptp(_trimesh(truth).bounds, axis=0).max())
    there = nearest_distances(_spread(ours, QUERY_POINTS), theirs)
    back = nearest_distances(_spread(theirs, QUERY_POINTS), ours)
    one, two = (f_score(there, back, share * box) for share in (0.01, 0.02))
    return MeshScores(_chamfer(there, back) / box, one, two, similarity)


def sample_surface(mesh: Mesh, count: int, *, seed: int = 0, name: str = "mesh") -> Tensor:
    """(count, 3) float32 points spread evenly over the mesh's surface, by chance.

    Raises:
        InputError: the mesh has no area.
    """
    check_count("count", count, 1)
    surface = _trimesh(mesh)
    if not len(surface.faces) or not surface.area > 0:
        raise InputError(
            f"{name} must have a surface, got {len(surface.faces)} faces without area; check how it was made"
        )
    points, _ = trimesh.sample.sample_surface(surface, count, seed=seed)
    return torch.from_numpy(np.asarray(points, dtype=np.float32))


def chamfer_distance(first: Tensor, second: Tensor) -> float:
    """(P, 3) and (Q, 3) points -> the mean distance to the nearest other point, averaged over both ways. Symmetric.

    Example: points 0 and 1 on a line against the point 0: (0 + 1) / 2 one way, 0 back, hence 0.25.
    """
    return _chamfer(nearest_distances(first, second), nearest_distances(second, first))


def _chamfer(there: np.ndarray, back: np.ndarray) -> float:
    return float(there.mean() + back.mean()) / 2


def f_score(there: np.ndarray, back: np.ndarray, threshold: float) -> float:
    """Nearest distances both ways -> harmonic mean of the shares that are within `threshold`."""
    precision, recall = float((there <= threshold).mean()), float((back <= threshold).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def nearest_distances(source: Tensor, target: Tensor) -> np.ndarray:
    """(P, 3) and (Q, 3) points -> (P,) distances from each source point to the nearest target point."""
    for name, points in (("source", source), ("target", target)):
        check_shape(f"{name} points", points, ("P", 3))
        check_finite(f"{name} points", points)
        if not len(points):
            raise InputError(f"expected at least one {name} point, got 0; sample the surface first")
    ours, theirs = (points.detach().cpu().double().numpy() for points in (source, target))
    distances: np.ndarray = KDTree(theirs).query(ours)[0]
    return distances


def align_points(source: Tensor, target: Tensor, *, start: Similarity | None = None) -> Similarity:
    """The similarity that brings (P, 3) points onto (Q, 3) points: iterated closest points, with scale.

    Nearest neighbours are taken both ways, because those of the source alone are matched best by shrinking it. Begins
    at `start` and, with the centres brought together, at turns of up to 40 degrees of yaw and 20 of pitch. Of all ends
    the one with the smallest Chamfer distance counts, or `start` where none is better. Deterministic.
    """
    start = start or Similarity.identity()
    few = _spread(source, SEARCH_POINTS), _spread(target, SEARCH_POINTS)
    more = _spread(source, FINAL_POINTS), _spread(target, FINAL_POINTS)
    begun = [start]
    for yaw, pitch in product(START_YAW_DEGREES, START_PITCH_DEGREES):
        turn = Similarity.from_angles(yaw, pitch)
        begun.append(Similarity(1.0, turn.rotation, few[1].mean(0) - turn.apply(few[0]).mean(0)))
    ends = [_closest_points(*few, similarity, SEARCH_ROUNDS) for similarity in begun]
    best = min(ends, key=lambda similarity: chamfer_distance(similarity.apply(few[0]), few[1]))
    best = _closest_points(*more, best, FINAL_ROUNDS)
    before, after = (chamfer_distance(similarity.apply(more[0]), more[1]) for similarity in (start, best))
    return best if after < before else start


def _closest_points(source: Tensor, target: Tensor, start: Similarity, rounds: int) -> Similarity:
    """Rounds of matching every point with its nearest one and solving for the similarity; ends when nothing moves."""
    ours, theirs = source.double().numpy(), target.double().numpy()
    tree = KDTree(theirs)
    found = start
    for _ in range(rounds):
        moved = found.apply(source.double()).numpy()
        ahead, back = tree.query(moved)[1], KDTree(moved).query(theirs)[1]
        matrix, _, _ = procrustes(
            np.concatenate([ours, ours[back]]), np.concatenate([theirs[ahead], theirs]), reflection=False, scale=True
        )
        scale = float(np.cbrt(np.linalg.det(matrix[:3, :3])))
        turned = torch.from_numpy(matrix[:3, :3] / scale)
        found = Similarity(scale, turned, torch.from_numpy(matrix[:3, 3].copy()))
        if np.abs(found.apply(source.double()).numpy() - moved).max() < 1e-7 * np.ptp(theirs, axis=0).max():
            break
    return Similarity(found.scale, found.rotation.float(), found.translation.float())


def _spread(points: Tensor, count: int) -> Tensor:
    """At most `count` of the points, evenly by index: samples are in no order."""
    chosen = torch.linspace(0, len(points) - 1, min(count, len(points))).round().long()
    return points.float().cpu()[chosen]


def _trimesh(mesh: Mesh) -> trimesh.Trimesh:
    if isinstance(mesh, trimesh.Trimesh):
        return mesh
    return trimesh.Trimesh(mesh.vertices.detach().cpu().numpy(), mesh.faces.cpu().numpy(), process=False)
