"""A coloured triangle mesh, and how a radiance field becomes one."""

from __future__ import annotations

import importlib.util
import os
import warnings
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import trimesh
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from skimage import measure
from torch import Tensor

from ..support.checks import check_count, check_finite, check_range, check_shape
from ..support.errors import FieldError, InputError, MissingPackageError
from ..support.memory import Chunk
from ..types import OnProgress, OnStep
from .atlas import require_xatlas, unwrap
from .level import (
    SPREAD,
    agreeing_level,
    clear,
    large_parts,
    lattice_shape,
    sample_density,
    sample_heights,
    surface_level,
)
from .texture import SurfaceColor, bake

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


if TYPE_CHECKING:
    from ..field.radiance import RadianceField

SEARCH_RESOLUTION = 96
"""Cells along the box when looking for where the object is, before its own box is sampled finely."""

LEVEL_RESOLUTION = 64
"""Samples along the longest side of the object's box when looking for the density of its surface."""

CRISP_SHARE = 0.01
"""Of equally good silhouettes, that of matter of which this share of the longest side stops half of the light."""

POINTS, CPU_POINTS = 2**17, 2**14
"""Points that a field is asked for at a time. A CPU keeps fewer in its caches, and Cancel waits for a call's end."""

PINHOLE = 0.025
"""Openings narrower than this share of the object's longest side do not lead anywhere: see `volume.clear`."""

FULL_SHARE = 0.95
"""A field that is dense on more than this share of its box's sides fills the box."""


@dataclass(frozen=True, eq=False)
class MeshAsset:
    """A triangle mesh in world axes (+Y up, +Z towards photo 1) and scene units.

    vertices: (P, 3) float32. faces: (F, 3) int64, counter-clockwise seen from outside.
    vertex_colors: (P, 3) in [0, 1], sRGB.
    uvs: (P, 2) in [0, 1] with v = 0 at the bottom, as in OBJ (glTF has it at the top; `save` turns it), and texture:
    (3, H, W) in [0, 1], sRGB, first row at the top; both or neither.
    normals: (P, 3) unit vectors, outward; None leaves them to be made from the faces.
    """

    vertices: Tensor
    faces: Tensor
    vertex_colors: Tensor
    uvs: Tensor | None = None
    texture: Tensor | None = None
    normals: Tensor | None = None

    def __post_init__(self) -> None:
        check_shape("MeshAsset.vertices", self.vertices, ("P", 3))
        check_shape("MeshAsset.faces", self.faces, ("F", 3), "triangles only")
        count = len(self.vertices)
        check_shape("MeshAsset.vertex_colors", self.vertex_colors, (count, 3), "one colour a vertex")
        if not count or not len(self.faces):
            raise InputError(f"a mesh needs vertices and faces, got {count} and {len(self.faces)}; extract it again")
        if self.faces.dtype != torch.int64:
            raise InputError(f"MeshAsset.faces must be int64, got {self.faces.dtype}; call .long() on them")
        first, last = int(self.faces.min()), int(self.faces.max())
        if first < 0 or last >= count:
            got = first if first < 0 else last
            raise InputError(f"MeshAsset.faces must number vertices 0 to {count - 1}, got {got}")
        if (self.uvs is None) != (self.texture is None):
            raise InputError("MeshAsset.uvs and texture go together, got one of them; give both or neither")
        values = {"vertices": self.vertices, "vertex_colors": self.vertex_colors}
        if self.uvs is not None and self.texture is not None:
            check_shape("MeshAsset.uvs", self.uvs, (count, 2), "one (u, v) a vertex")
            check_shape("MeshAsset.texture", self.texture, (3, "H", "W"))
            values |= {"uvs": self.uvs, "texture": self.texture}
        if self.normals is not None:
            check_shape("MeshAsset.normals", self.normals, (count, 3), "one normal a vertex")
            values |= {"normals": self.normals}
        for name, value in values.items():
            check_finite(f"MeshAsset.{name}", value)
            if not value.is_floating_point() or not value.numel():
                raise InputError(
                    f"MeshAsset.{name} must hold floating-point numbers, got {tuple(value.shape)} {value.dtype}; "
                    "call .float() on it"
                )
            value = value.float()  # as files have it
            check_finite(f"MeshAsset.{name} in float32", value)
            object.__setattr__(self, name, value)
            if name not in ("vertices", "normals") and (value.min() < 0 or value.max() > 1):
                low, high = float(value.min()), float(value.max())
                raise InputError(f"MeshAsset.{name} must be in [0, 1], got [{low:.3g}, {high:.3g}]; clamp it")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes `.glb`, `.obj`, `.ply` or `.stl`, chosen by the suffix; see `export.save_mesh`."""
        from .export import save_mesh

        save_mesh(self, path)


@torch.no_grad()
def extract_mesh(
    field: RadianceField,
    resolution: int = 256,
    threshold: float | None = None,
    *,
    texture_size: int | None = None,
    faces: int | None = None,
    keep: float = 0.05,
    chunk: int | None = None,
    on_step: OnStep | None = None,
) -> MeshAsset:
    """The surface of a field: closed, outside faces counter-clockwise, coloured by looks along its normals.

    The object's own box is found first on a coarse lattice, so that `resolution` is spent on the object. Density is
    sampled there from coarse to fine, cut at `threshold` by marching cubes in slabs, and closed where the field's box
    ends. Floaters are removed; hollows that nobody can see from outside, and pinholes that lead into them, are filled.

    With a texture, vertices are doubled where the atlas is cut; their places and normals stay the same, so that the
    surface is closed once they are merged.

    Args:
        field: anything with `density`, `color` and `aabb`.
        resolution: samples along the longest side of the object's box, 8 to 1024.
        threshold: density of the surface, per scene unit; None chooses it so that the mesh's silhouettes agree with
            the field's opacity (see `level.agreeing_level`).
        texture_size: side in pixels of a baked texture, 64 to 8192; None colours the vertices instead.
        faces: most triangles the mesh may have, at least 16; None keeps all.
        keep: pieces with less than this share of the largest one's volume are removed as floaters.
        chunk: points the field is asked for at a time, fewer where memory does not suffice; POINTS unless given, or
            CPU_POINTS on a CPU.
        on_step: called with (step, 100, None), step growing from 0 to 100; raising from it cancels.

    Raises:
        FieldError: nothing is dense enough, the field fills its box, or its density is not finite.
        MissingPackageError: `texture_size` or `faces` needs a package that is not installed.
    """
    check_count("resolution", resolution, 8, 1024)
    check_range("keep", keep, 0.0, 1.0)
    if threshold is not None:
        check_range("threshold", threshold, 1e-6)
    if texture_size is not None:
        check_count("texture_size", texture_size, 64, 8192)
        require_xatlas()
    if faces is not None:
        check_count("faces", faces, 16)
        require_decimation()
    progress = _Progress(on_step, texture_size is not None)
    points = Chunk(chunk or (CPU_POINTS if field.aabb.device.type == "cpu" else POINTS), "point")
    low, high = _object_box(field, threshold, keep, points, progress.stage("search"))
    report = progress.stage("level")
    level = threshold if threshold is not None else _chosen_level(field, low, high, points, report)
    spacing = float((high - low).max()) / (resolution - 1)
    volume = sample_heights(field, low, high, spacing, level, chunk=points, report=progress.stage("density"))
    if not (volume.heights > 0).any():
        raise FieldError(_nothing_above(level))
    clear(volume, keep, PINHOLE)
    vertices, triangles = march(volume.heights, report=progress.stage("triangles"))
    del volume
    vertices, triangles = large_pieces(low.cpu() + vertices * spacing, triangles, keep)
    progress.stage("faces")(0.0)
    if faces is not None and len(triangles) > faces:
        vertices, triangles = decimate(vertices, triangles, faces)
    normals = smooth_normals(vertices, triangles)
    unit = max(spacing, float((high - low).max()) / 256)
    look = SurfaceColor(field, unit, points, oblique=texture_size is not None)
    colors = look.colors(vertices, normals, progress.stage("colors"))
    mesh = MeshAsset(vertices, triangles, colors, normals=normals)
    if texture_size is not None:
        mesh = _textured(mesh, look, texture_size, progress)
    progress.finish()
    return mesh


def _textured(mesh: MeshAsset, look: SurfaceColor, size: int, progress: _Progress) -> MeshAsset:
    """The mesh with an atlas and a texture instead of shared vertices."""
    atlas = unwrap(mesh.vertices, mesh.faces, size, report=progress.stage("atlas"))
    assert mesh.normals is not None, "extract_mesh gives it some"
    vertices, normals = mesh.vertices[atlas.source], mesh.normals[atlas.source]
    texture = bake(look, vertices, normals, atlas.faces, atlas.uvs, size, report=progress.stage("texture"))
    return MeshAsset(vertices, atlas.faces, mesh.vertex_colors[atlas.source], atlas.uvs, texture, normals)


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


class _Progress:
    """Turns the shares of stages into steps from 0 to 100 that never go back."""

    WEIGHTS: ClassVar[dict[str, float]] = {
        "search": 4, "level": 4, "density": 40, "triangles": 10, "faces": 6, "colors": 6, "atlas": 30, "texture": 40
    }  # fmt: skip

    def __init__(self, on_step: OnStep | None, with_texture: bool) -> None:
        names = [name for name in self.WEIGHTS if with_texture or name not in ("atlas", "texture")]
        self.on_step = on_step
        self.total = sum(self.WEIGHTS[name] for name in names)
        self.before = dict(zip(names, accumulate((self.WEIGHTS[name] for name in names), initial=0.0), strict=False))
        self._tell(0)

    def stage(self, name: str) -> OnProgress:
        """What the stage is to call with the share of it that is done."""
        return lambda share: self._tell(int(100 * (self.before[name] + share * self.WEIGHTS[name]) / self.total))

    def finish(self) -> None:
        """The last step."""
        self._tell(100)

    def _tell(self, step: int) -> None:
        if self.on_step is not None:
            self.on_step(min(step, 100), 100, None)


def _object_box(
    field: RadianceField, threshold: float | None, keep: float, chunk: Chunk, report: OnProgress
) -> tuple[Tensor, Tensor]:
    """Lowest and highest corner (3,) of what is dense, with a margin, within the field's box."""
    low, high = field.aabb
    spacing = float((high - low).max()) / SEARCH_RESOLUTION
    x, y, z = (int(size) for size in ((high - low) / spacing).ceil().long())
    volume = sample_density(field, low + spacing / 2, spacing, (x, y, z), chunk, report)
    level = threshold if threshold is not None else surface_level(volume, spacing)
    if threshold is not None and float(volume.max()) < 1e-3 * threshold:
        raise FieldError(_nothing_above(threshold))
    if _shell(volume > level).float().mean() > FULL_SHARE:
        raise FieldError(_full(level))
    # thin parts may pass between the samples of the search: accept less than the level, and leave a margin
    dense = torch.from_numpy(large_parts((volume > level / 4).numpy(), keep)).nonzero()
    if not len(dense):
        raise FieldError(_nothing_above(level))
    corner = dense.amin(0).to(low), dense.amax(0).to(low)
    margin = 2.5 * spacing
    least = torch.maximum(low + (corner[0] + 0.5) * spacing - margin, low)
    most = torch.minimum(low + (corner[1] + 0.5) * spacing + margin, high)
    return least, most


def _chosen_level(field: RadianceField, low: Tensor, high: Tensor, chunk: Chunk, report: OnProgress) -> float:
    spacing = float((high - low).max()) / (LEVEL_RESOLUTION - 1)
    volume = sample_density(field, low, spacing, lattice_shape(low, high, spacing), chunk, report)
    return agreeing_level(field, low, high, surface_level(volume, spacing, CRISP_SHARE), chunk)


def _shell(dense: Tensor) -> Tensor:
    """The outermost samples of (X, Y, Z), in a row."""
    return torch.cat(
        [part.reshape(-1) for axis in range(3) for part in (dense.select(axis, 0), dense.select(axis, -1))]
    )


def _nothing_above(level: float) -> str:
    return (
        f"no density above {level:.4g} per scene unit was found, so there is no surface; "
        "give a lower threshold, or leave it to be chosen"
    )


def _full(level: float) -> str:
    return (
        f"the field fills its box: almost all of the box's sides are denser than {level:.4g} per scene unit, so no "
        "surface parts inside from outside; fit it longer, with masks or photos on white, or give a higher threshold"
    )
