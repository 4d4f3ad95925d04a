"""A radiance field becomes a mesh: where its surface is, triangles, fewer of them, colours or a texture."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from itertools import accumulate

import numpy as np
import torch
import trimesh
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from skimage import measure
from torch import Tensor

from ..field.radiance import RadianceField
from ..support.checks import check_count, check_range
from ..support.devices import Chunk
from ..support.errors import FieldError, MissingPackageError
from ..types import OnProgress, OnStep
from .level import SPREAD, chosen_level, clear, large_parts, sample_density, sample_heights, surface_level
from .mesh import MeshAsset
from .texture import SurfaceColor, bake, unwrap

SEARCH_RESOLUTION = 96  # cells along the field's box when looking for the object's own box
PINHOLE = 0.025  # openings narrower than this share of the object's longest side lead nowhere: see `level.clear`
FULL_SHARE = 0.95  # a field that is dense on more than this share of its box's sides fills the box
SLAB = 24  # layers of cells that are turned into triangles at a time

# points that a field is asked for at a time: a CPU keeps fewer in its caches, and Cancel waits for a call's end
POINTS, CPU_POINTS = 2**17, 2**14

# parts of the work, in order, and about how long each takes; the last two with a texture only
_STAGES = {
    "search": 4, "level": 4, "density": 40, "triangles": 10, "faces": 6, "colors": 6, "atlas": 30, "texture": 40
}  # fmt: skip

# aggression of the collapses and share of the budget, tried in turn until the decimated mesh is closed
_ATTEMPTS = ((7, 1.0), (5, 1.0), (7, 0.97), (6, 0.94), (4, 1.0), (7, 0.9), (5, 0.85))


@torch.no_grad()
def extract_mesh(
    field: RadianceField,
    resolution: int = 256,
    threshold: float | None = None,
    *,
    texture_size: int | None = None,
    faces: int | None = None,
    keep: float = 0.05,
    on_step: OnStep | None = None,
) -> MeshAsset:
    """The surface of a field: closed, outside faces counter-clockwise, coloured by looks along its normals.

    The object's own box is found first on a coarse lattice, so that `resolution` is spent on the object. Density is
    sampled there from coarse to fine, cut at `threshold` by marching cubes, and closed where the field's box ends.
    Floaters are removed; hollows that nobody can see from outside, and pinholes into them, are filled. With a texture,
    vertices are doubled where the atlas is cut; once they are merged the surface is closed.

    Args:
        field: anything with `density`, `color` and `aabb`.
        resolution, threshold, texture_size, faces, keep, on_step: as in `RadianceField.extract_mesh`, which also says
            what is raised.
    """
    check_count("resolution", resolution, 8, 1024)
    check_range("keep", keep, 0.0, 1.0)
    if threshold is not None:
        check_range("threshold", threshold, 1e-6)
    if texture_size is not None:
        check_count("texture_size", texture_size, 64, 8192)
    if faces is not None:
        check_count("faces", faces, 16)
    require_packages(texture=texture_size is not None, faces=faces is not None)
    stage = _stages(on_step, texture_size is not None)
    points = Chunk(CPU_POINTS if field.aabb.device.type == "cpu" else POINTS, "point")
    low, high = _object_box(field, threshold, keep, points, stage("search"))
    level = threshold if threshold is not None else chosen_level(field, low, high, points, stage("level"))
    spacing = float((high - low).max()) / (resolution - 1)
    volume = sample_heights(field, low, high, spacing, level, points, stage("density"))
    if not (volume > 0).any():
        raise FieldError(_nothing_above(level))
    clear(volume, keep, PINHOLE)
    vertices, triangles = march(volume, report=stage("triangles"))
    del volume
    vertices, triangles = large_pieces(low.cpu() + vertices * spacing, triangles, keep)
    stage("faces")(0.0)
    if faces is not None and len(triangles) > faces:
        vertices, triangles = decimate(vertices, triangles, faces)
    normals = smooth_normals(vertices, triangles)
    unit = max(spacing, float((high - low).max()) / 256)
    look = SurfaceColor(field, unit, points, oblique=texture_size is not None)
    colors = look.colors(vertices, normals, stage("colors"))
    uvs = texture = None
    if texture_size is not None:
        source, triangles, uvs = unwrap(vertices, triangles, texture_size, stage("atlas"))
        vertices, normals, colors = (values[source] for values in (vertices, normals, colors))
        texture = bake(look, vertices, normals, triangles, uvs, texture_size, stage("texture"))
    stage("texture" if texture_size is not None else "colors")(1.0)
    return MeshAsset(vertices, triangles, colors, uvs, texture, normals)


def require_packages(*, texture: bool, faces: bool) -> None:
    """Raises MissingPackageError unless the packages for a texture, or for a limit on the faces, are installed."""
    for wanted, package, purpose, instead in (
        (texture, "xatlas", "a texture", "leave the texture out to colour the vertices"),
        (faces, "fast-simplification", "a limit on the number of faces", "leave the limit out"),
    ):
        if wanted and importlib.util.find_spec(package.replace("-", "_")) is None:
            raise MissingPackageError(
                f"{purpose} needs the package {package}, which is not installed; "
                f"install it by pip install {package}, or {instead}"
            )


def _stages(on_step: OnStep | None, textured: bool) -> Callable[[str], OnProgress]:
    """What each stage is to call with the share of it that is done: steps from 0 to 100 that never go back."""
    weights = dict(list(_STAGES.items())[: None if textured else -2])
    before = dict(zip(weights, accumulate(weights.values(), initial=0), strict=False))

    def tell(name: str, share: float) -> None:
        if on_step is not None:
            step = int(100 * (before[name] + share * weights[name]) / sum(weights.values()))
            on_step(min(step, 100), 100, None)

    tell("search", 0.0)
    return lambda name: lambda share: tell(name, share)


def _object_box(
    field: RadianceField, threshold: float | None, keep: float, chunk: Chunk, report: OnProgress
) -> tuple[Tensor, Tensor]:
    """Lowest and highest corner (3,) of what is dense, with a margin, within the field's box."""
    low, high = field.aabb
    spacing = float((high - low).max()) / SEARCH_RESOLUTION
    shape = ((high - low) / spacing).ceil().long().tolist()
    volume = sample_density(field, low + spacing / 2, spacing, shape, chunk, report)
    level = threshold if threshold is not None else surface_level(volume, spacing)
    sides = [(volume > level).select(axis, end).reshape(-1) for axis in range(3) for end in (0, -1)]
    if torch.cat(sides).float().mean() > FULL_SHARE:
        raise FieldError(
            f"the field fills its box: almost all of the box's sides are denser than {level:.4g} per scene unit, so no "
            "surface parts inside from outside; fit it longer, with masks or photos on white, or give a higher "
            "threshold"
        )
    # thin parts may pass between the samples of the search: accept less than the level, and leave a margin
    dense = torch.from_numpy(large_parts((volume > level / 4).numpy(), keep)).nonzero()
    if not len(dense):
        raise FieldError(_nothing_above(level))
    least, most = (low + (corner.to(low) + 0.5) * spacing for corner in (dense.amin(0), dense.amax(0)))
    margin = 2.5 * spacing
    return torch.maximum(least - margin, low), torch.minimum(most + margin, high)


def _nothing_above(level: float) -> str:
    return (
        f"no density above {level:.4g} per scene unit was found, so there is no surface; "
        "give a lower threshold, or leave it to be chosen"
    )


def march(heights: Tensor, *, slab: int = SLAB, report: OnProgress = lambda share: None) -> tuple[Tensor, Tensor]:
    """The surface where heights (X, Y, Z), never 0, change sign -> vertices (P, 3) in samples, faces (F, 3) outward.

    It is closed where the volume ends, half a sample or less outside of it. The number of layers of cells in a `slab`
    changes the memory needed and the order of vertices, not the surface: a vertex in the layer of samples that two
    slabs share belongs to the same edge of the lattice in both, by which its two copies are made one.
    """
    depth, height, width = heights.shape
    cells = depth + 1  # with one layer of nothing before and behind
    vertices, faces = [], []
    count = 0
    edges = numbers = np.empty(0, np.int64)
    for first in range(0, cells, slab):
        end = min(first + slab, cells)
        block = np.full((end - first + 1, height + 2, width + 2), -SPREAD, np.float32)  # nothing round the samples
        begin, stop = max(first - 1, 0), min(end, depth)
        block[begin - first + 1 : stop - first + 1, 1:-1, 1:-1] = heights[begin:stop].numpy()
        if not (block.max() > 0 > block.min()):
            edges = numbers = np.empty(0, np.int64)
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
        report(end / cells)
    return torch.from_numpy(np.concatenate(vertices)), torch.from_numpy(np.concatenate(faces))


def _edges(points: np.ndarray) -> np.ndarray:
    """(N, 3) vertices in one layer -> (N,) a number for the edge of the lattice that each lies on."""
    whole = np.floor(points[:, 1:]).astype(np.int64)
    y, z = (2 * whole + (points[:, 1:] != whole)).T  # odd between samples, even on one
    return np.asarray(y * 2**20 + z)


def large_pieces(vertices: Tensor, faces: Tensor, keep: float) -> tuple[Tensor, Tensor]:
    """The mesh without pieces of less than `keep` of the largest one's volume, and without hollows.

    Pieces are what edges hold together; a hollow is one whose faces look inwards.
    """
    links = torch.cat([faces[:, :2], faces[:, 1:]]).numpy()
    graph = coo_matrix((np.ones(len(links), np.int8), links.T), shape=(len(vertices), len(vertices)))
    count, piece = connected_components(graph, directed=False)
    corners = vertices.double()[faces]
    signed = (corners[:, 0] * torch.linalg.cross(corners[:, 1], corners[:, 2])).sum(1)
    of_face = torch.from_numpy(piece).long()[faces[:, 0]]
    volumes = torch.zeros(count, dtype=torch.float64).index_add_(0, of_face, signed)
    stays = volumes >= max(keep, 1e-9) * volumes.max()
    faces = faces[stays[of_face]]
    used, faces = faces.unique(return_inverse=True)
    return vertices[used], faces


def decimate(vertices: Tensor, faces: Tensor, budget: int) -> tuple[Tensor, Tensor]:
    """Vertices (P, 3) and faces (F, 3) -> those of a mesh with at most `budget` faces.

    A closed, consistently wound surface stays so: a collapse may pinch the surface where parts nearly touch, and then
    another order of collapses is tried. Should all of them pinch it, the first is returned with a warning.
    """
    solid = trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False)
    closed = solid.is_watertight and solid.is_winding_consistent
    found = None
    for aggression, share in _ATTEMPTS:
        small = solid.simplify_quadric_decimation(face_count=max(4, int(budget * share)), aggression=aggression)
        small = trimesh.Trimesh(small.vertices, small.faces, process=False)
        if len(small.faces) > budget:
            continue
        found = found or small
        if not closed or (small.is_watertight and small.is_winding_consistent and small.volume > 0):
            found = small
            break
    else:
        if found is None:
            warnings.warn(f"the mesh could not be brought below {len(faces)} faces; it keeps them all", stacklevel=2)
            return vertices, faces
        message = f"with {len(found.faces)} faces the mesh is no longer closed everywhere; allow it more"
        warnings.warn(message, stacklevel=2)
    return torch.tensor(found.vertices, dtype=torch.float32), torch.tensor(found.faces, dtype=torch.int64)


def smooth_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """(P, 3) unit normals: the mean of the faces round each vertex, weighted by area; +Y where they cancel out."""
    corners = vertices[faces]
    across = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    across = across / across.norm(dim=-1).amax().clamp(min=1e-30)  # squares of tiny areas would vanish in float32
    normals = torch.zeros_like(vertices)
    for corner in range(3):
        normals.index_add_(0, faces[:, corner], across)
    length = normals.norm(dim=-1, keepdim=True)
    return torch.where(length > 1e-12, normals / length.clamp(min=1e-12), normals.new_tensor([0.0, 1.0, 0.0]))
