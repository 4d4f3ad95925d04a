"""Surfaces of predictions: how near they are to the true ones, and `BakedField`, by which a field is looked at quickly.

Chamfer distance and F-scores are measured between points sampled on both, as they are or aligned. Equal surfaces are
therefore not at distance 0 but at about half the points' spacing: with 100,000 points on a ball, 0.3 % of its box.
"""

from __future__ import annotations

from itertools import product

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
from ..geometry.similarity import Similarity
from ..support.errors import InputError
from ..surface.mesh import MeshAsset
from ..surface.reading import Surface
from ..types import Cameras

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
    density, rgb = (torch.cat([part.float() for part in values]) for values in zip(*parts, strict=True))
    return density.reshape(count, count, count), rgb.reshape(count, count, count, 3)


QUERY_POINTS = 20_000
"""Points whose nearest neighbours are looked for: far from a surface every look-up is long, and the mean of so many
distances is known to better than 1 % of their spread."""

START_YAW_DEGREES = (-40.0, -20.0, 0.0, 20.0, 40.0)
START_PITCH_DEGREES = (-20.0, 0.0, 20.0)
SEARCH_POINTS = 1_000
SEARCH_ROUNDS = 12
FINAL_POINTS = 10_000
FINAL_ROUNDS = 30


def compare_meshes(
    mesh: trimesh.Trimesh, truth: trimesh.Trimesh, *, start: Similarity | None = None, samples: int, seed: int
) -> dict[str, float]:
    """`point_scores` of a mesh as it is and, with the ending "_similarity", after `align_points` from `start` on.

    Args:
        mesh, truth: surfaces in the same units, open or closed.
        start: e.g. the similarity that `align_views` found with pictures.
        samples: points on each surface; distances are taken from at most QUERY_POINTS of them.
        seed: of the points; the same seed gives the same scores.
    """
    ours = sample_surface(mesh, samples, seed=seed, name="mesh")
    theirs = sample_surface(truth, samples, seed=seed + 1, name="truth")
    box = float(np.ptp(truth.bounds, axis=0).max())
    aligned = align_points(ours, theirs, start or Similarity.identity()).apply(ours)
    scores = point_scores(aligned, theirs, box)
    return point_scores(ours, theirs, box) | {f"{name}_similarity": value for name, value in scores.items()}


def point_scores(ours: Tensor, theirs: Tensor, box: float) -> dict[str, float]:
    """Chamfer distance and F-scores of points (P, 3) on a surface against points (Q, 3) on the true one.

    "chamfer" is a fraction of `box`, the longest side of the true surface's bounding box; "f_score_1" and "f_score_2"
    are the F-scores in [0, 1] at 1 % and 2 % of it.
    """
    there = nearest_distances(_spread(ours, QUERY_POINTS), theirs)
    back = nearest_distances(_spread(theirs, QUERY_POINTS), ours)
    return {
        "chamfer": chamfer_distance(there, back) / box,
        "f_score_1": f_score(there, back, 0.01 * box),
        "f_score_2": f_score(there, back, 0.02 * box),
    }


def as_trimesh(surface: MeshAsset | Surface) -> trimesh.Trimesh:
    """The triangles alone."""
    return trimesh.Trimesh(surface.vertices.numpy(force=True), surface.faces.numpy(force=True), process=False)


def sample_surface(mesh: trimesh.Trimesh, count: int, *, seed: int = 0, name: str = "mesh") -> Tensor:
    """(count, 3) float32 points spread evenly over the mesh's surface, by chance.

    Raises:
        InputError: the mesh has no area.
    """
    if not len(mesh.faces) or not mesh.area > 0:
        raise InputError(f"{name} must have a surface, got {len(mesh.faces)} faces without area; check how it was made")
    points, _ = trimesh.sample.sample_surface(mesh, count, seed=seed)
    return torch.from_numpy(np.asarray(points, dtype=np.float32))


def chamfer_distance(there: np.ndarray, back: np.ndarray) -> float:
    """Nearest distances both ways -> their mean, averaged over both ways. Symmetric.

    Example: points 0 and 1 on a line against the point 0: (0 + 1) / 2 one way, 0 back, hence 0.25.
    """
    return float(there.mean() + back.mean()) / 2


def f_score(there: np.ndarray, back: np.ndarray, threshold: float) -> float:
    """Nearest distances both ways -> harmonic mean of the shares that are within `threshold`."""
    precision, recall = float((there <= threshold).mean()), float((back <= threshold).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def nearest_distances(source: Tensor, target: Tensor) -> np.ndarray:
    """(P, 3) and (Q, 3) points -> (P,) distances from each source point to the nearest target point."""
    ours, theirs = (points.double().numpy() for points in (source, target))
    distances: np.ndarray = KDTree(theirs).query(ours)[0]
    return distances


def align_points(source: Tensor, target: Tensor, start: Similarity) -> Similarity:
    """The similarity that brings (P, 3) points onto (Q, 3) points: iterated closest points, with scale.

    Nearest neighbours are taken both ways, because those of the source alone are matched best by shrinking it. Begins
    at `start` and, with the centres brought together, at turns of up to 40 degrees of yaw and 20 of pitch. Of all ends
    the one with the smallest Chamfer distance counts, or `start` where none is better. Deterministic.
    """

    def apart(similarity: Similarity, ours: Tensor, theirs: Tensor) -> float:
        moved = similarity.apply(ours)
        return chamfer_distance(nearest_distances(moved, theirs), nearest_distances(theirs, moved))

    few = _spread(source, SEARCH_POINTS), _spread(target, SEARCH_POINTS)
    more = _spread(source, FINAL_POINTS), _spread(target, FINAL_POINTS)
    begun = [start]
    for yaw, pitch in product(START_YAW_DEGREES, START_PITCH_DEGREES):
        turn = Similarity.from_angles(yaw, pitch)
        begun.append(Similarity(1.0, turn.rotation, few[1].mean(0) - turn.apply(few[0]).mean(0)))
    ends = [_closest_points(*few, similarity, SEARCH_ROUNDS) for similarity in begun]
    best = _closest_points(*more, min(ends, key=lambda similarity: apart(similarity, *few)), FINAL_ROUNDS)
    return best if apart(best, *more) < apart(start, *more) else start


def _closest_points(source: Tensor, target: Tensor, start: Similarity, rounds: int) -> Similarity:
    """Rounds of matching every point with its nearest one and solving for the similarity; ends when nothing moves."""
    source = source.double()
    ours, theirs, found = source.numpy(), target.double().numpy(), start
    tree = KDTree(theirs)
    for _ in range(rounds):
        moved = found.apply(source).numpy()
        ahead, back = tree.query(moved)[1], KDTree(moved).query(theirs)[1]
        matrix, _, _ = procrustes(
            np.concatenate([ours, ours[back]]), np.concatenate([theirs[ahead], theirs]), reflection=False, scale=True
        )
        scale = float(np.cbrt(np.linalg.det(matrix[:3, :3])))
        turned = torch.from_numpy(matrix[:3, :3] / scale)
        found = Similarity(scale, turned, torch.from_numpy(matrix[:3, 3].copy()))
        if np.abs(found.apply(source).numpy() - moved).max() < 1e-7 * np.ptp(theirs, axis=0).max():
            break
    return Similarity(found.scale, found.rotation.float(), found.translation.float())


def _spread(points: Tensor, count: int) -> Tensor:
    """At most `count` of the points, evenly by index, as samples are in no order."""
    return points[torch.linspace(0, len(points) - 1, min(count, len(points))).round().long()]
