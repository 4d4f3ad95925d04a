"""A coloured triangle mesh, and how a radiance field becomes one."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from skimage import measure
from torch import Tensor
from torch.nn.functional import max_pool3d, normalize

from ..checks import check_finite, check_range, check_shape
from ..errors import FieldError, InputError
from ..types import OnStep

if TYPE_CHECKING:
    from .radiance import RadianceField

SEARCH_RESOLUTION = 96
"""Cells along the box when looking for where the object is, before its own box is sampled finely."""

PINHOLE = 0.025
"""Openings narrower than this share of the object's longest side do not lead anywhere: see `_filled`."""

EMPTY = (
    "the field is empty: no ray loses more than 1 % of its light in it, so there is no surface; "
    "fit it longer, or check that its photos show an object that stands out from the background"
)


@dataclass(frozen=True, eq=False)
class MeshAsset:
    """A triangle mesh in world axes (+Y up, +Z towards photo 1) and scene units.

    vertices: (P, 3) float32. faces: (F, 3) int64, counter-clockwise seen from outside.
    vertex_colors: (P, 3) in [0, 1], sRGB.
    uvs: (P, 2) in [0, 1] with v = 0 at the bottom, and texture: (3, H, W) in [0, 1], sRGB; both or neither.
    """

    vertices: Tensor
    faces: Tensor
    vertex_colors: Tensor
    uvs: Tensor | None = None
    texture: Tensor | None = None

    def __post_init__(self) -> None:
        check_shape("MeshAsset.vertices", self.vertices, ("P", 3))
        check_shape("MeshAsset.faces", self.faces, ("F", 3), "triangles only")
        count = len(self.vertices)
        check_shape("MeshAsset.vertex_colors", self.vertex_colors, (count, 3), "one colour a vertex")
        if not count or not len(self.faces):
            raise InputError(f"a mesh needs vertices and faces, got {count} and {len(self.faces)}; extract it again")
        if self.faces.dtype != torch.int64:
            raise InputError(f"MeshAsset.faces must be int64, got {self.faces.dtype}; call .long() on them")
        if self.faces.min() < 0 or self.faces.max() >= count:
            raise InputError(f"MeshAsset.faces must number vertices 0 to {count - 1}, got {int(self.faces.max())}")
        if (self.uvs is None) != (self.texture is None):
            raise InputError("MeshAsset.uvs and texture go together, got one of them; give both or neither")
        values = {"vertices": self.vertices, "vertex_colors": self.vertex_colors}
        if self.uvs is not None and self.texture is not None:
            check_shape("MeshAsset.uvs", self.uvs, (count, 2), "one (u, v) a vertex")
            check_shape("MeshAsset.texture", self.texture, (3, "H", "W"))
            values |= {"uvs": self.uvs, "texture": self.texture}
        for name, value in values.items():
            check_finite(f"MeshAsset.{name}", value)
            if name != "vertices" and value.numel() and (value.min() < 0 or value.max() > 1):
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
    chunk: int = 2**17,
    on_step: OnStep | None = None,
) -> MeshAsset:
    """The surface of a field: closed, outside faces counter-clockwise, coloured from just below the surface.

    The object's own box is found first on a coarse grid, so that `resolution` is spent on the object. Density is
    sampled there, cut at `threshold` by marching cubes, and closed where the field's box ends. Hollows that nobody can
    see from outside, and pinholes that lead into them, are filled.

    Args:
        field: anything with `density`, `color` and `aabb`.
        resolution: samples along the longest side of the object's box.
        threshold: density of the surface, per scene unit; `surface_level` chooses it unless given.
        texture_size: side in pixels of a baked texture; None colours the vertices instead.
        faces: most triangles the mesh may have; None keeps all.
        keep: pieces with less than this share of the largest one's volume are removed as floaters.
        chunk: points the field is asked for at a time.
        on_step: called with (step, total, None); raising from it cancels.

    Raises:
        FieldError: nothing is dense enough, or the density is not finite.
    """
    check_range("resolution", resolution, 8, 2048)
    check_range("keep", keep, 0.0, 1.0)
    if texture_size is not None or faces is not None:
        raise InputError("this version cannot bake textures or reduce faces yet; leave texture_size and faces at None")
    step = on_step or (lambda step, total, preview: None)
    step(0, 2, None)
    if threshold is not None:
        check_range("threshold", threshold, 1e-6)
    low, high = _object_box(field, threshold, keep, chunk)
    spacing = float((high - low).max()) / (resolution - 1)
    shape = [int(size) for size in ((high - low) / spacing).ceil().long() + 1]
    volume = _sample_density(field, low, spacing, shape, chunk)
    level = threshold if threshold is not None else surface_level(volume, spacing)
    solid = _large_parts((volume > level).numpy(), keep)
    if not solid.any():
        raise FieldError(_nothing_above(level, float(volume.max())))
    solid = _filled(solid, max(1, round(PINHOLE / 2 * resolution)))
    vertices, triangles = _march(volume, level, solid)
    step(1, 2, None)
    vertices = low.cpu() + vertices * spacing
    colors = _colors_below(field, vertices, triangles, spacing, chunk)
    step(2, 2, None)
    return MeshAsset(vertices, triangles, colors)


def surface_level(volume: Tensor, spacing: float) -> float:
    """The density at which a surface stands, from where light stops: (X, Y, Z) density of an object's box -> a level.

    Two bounds, and the lower one counts:
    - Matter is solid if a tenth of the box's longest side of it stops half of the light. Fitted fields grow
      exponentially inwards: ten times denser ones have nearly the same contour here, and it lies outside the pits
      that higher levels cut into a surface.
    - A fog may be thinner than that everywhere. Rays along both directions of the three axes cross the volume; where a
      ray has lost half of its light, a render shows the surface; half of the median density there is the bound.
      If no ray loses half, half of the optical depth of the most opaque ray takes its place.

    Raises:
        FieldError: no ray loses 1 % of its light.
    """
    depths = volume * spacing
    total = max(float(depths.sum(axis).max()) for axis in range(3))
    if total < 0.01:
        raise FieldError(EMPTY)
    half = min(math.log(2.0), total / 2)
    found = []
    for axis in range(3):
        for direction in (depths, depths.flip(axis)):
            passed = direction.cumsum(axis)
            first = (passed < half).sum(axis, keepdim=True)  # samples before the one in which half is lost
            stops = first < volume.shape[axis]
            value = direction.gather(axis, first.clamp(max=volume.shape[axis] - 1))
            found.append(value[stops])
    fog = float(torch.cat(found).median()) / spacing / 2
    return min(fog, math.log(2.0) / (0.1 * spacing * max(volume.shape)))


def _object_box(field: RadianceField, threshold: float | None, keep: float, chunk: int) -> tuple[Tensor, Tensor]:
    """Lowest and highest corner (3,) of what is dense, with a margin, within the field's box."""
    low, high = field.aabb
    spacing = float((high - low).max()) / SEARCH_RESOLUTION
    shape = [int(size) for size in ((high - low) / spacing).ceil().long()]
    volume = _sample_density(field, low + spacing / 2, spacing, shape, chunk)
    level = threshold if threshold is not None else surface_level(volume, spacing)
    # thin parts may pass between the samples of the search: accept less than the level, and leave a margin
    dense = torch.from_numpy(_large_parts((volume > level / 4).numpy(), keep)).nonzero()
    if not len(dense):
        raise FieldError(_nothing_above(level, float(volume.max())))
    corner = dense.amin(0).to(low), dense.amax(0).to(low)
    margin = 2.5 * spacing
    least = torch.maximum(low + (corner[0] + 0.5) * spacing - margin, low)
    most = torch.minimum(low + (corner[1] + 0.5) * spacing + margin, high)
    return least, most


def _sample_density(field: RadianceField, low: Tensor, spacing: float, shape: list[int], chunk: int) -> Tensor:
    """(X, Y, Z) density on the CPU at low + spacing·(i, j, k), asked for in slabs of x."""
    axes = [low[axis] + spacing * torch.arange(size, device=low.device) for axis, size in enumerate(shape)]
    across = torch.stack(torch.meshgrid(axes[1], axes[2], indexing="ij"), dim=-1)
    volume = torch.empty(shape)
    for index, x in enumerate(axes[0]):
        points = torch.cat([x.expand(*across.shape[:2], 1), across], dim=-1).reshape(-1, 3)
        values = torch.cat([field.density(part) for part in points.split(chunk)])
        volume[index] = values.reshape(shape[1:]).cpu()
    if not torch.isfinite(volume).all():
        raise FieldError(
            "the field's density is not finite (NaN or infinite), so it has no surface; "
            "its fit has diverged: lower the learning rates, or go back to an earlier checkpoint"
        )
    return volume


def _large_parts(dense: np.ndarray, keep: float) -> np.ndarray:
    """(X, Y, Z) bool without the pieces that have less than `keep` of the largest one's volume."""
    labels, count = measure.label(dense, connectivity=1, return_num=True)
    if not count:
        return dense
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return (sizes >= max(keep * sizes.max(), 1))[labels] & dense


def _filled(solid: np.ndarray, reach: int) -> np.ndarray:
    """(X, Y, Z) bool with hollows and narrow pits filled: all that a cube of 2·reach + 1 samples cannot enter.

    A fit never sees the inside of an opaque object and leaves it as it happens to be; pinholes of a sample or two then
    lead into it, through which the surface would turn inside out.
    """
    margin = reach + 1  # so that all that lies outside is one piece, which holds the first sample
    padded = np.pad(solid, margin)
    free = measure.label(~_dilated(padded, reach), connectivity=1)
    outside = _dilated(free == free[0, 0, 0], reach)
    inner = (slice(margin, -margin),) * 3
    return ~outside[inner] | solid


def _dilated(mask: np.ndarray, reach: int) -> np.ndarray:
    """(X, Y, Z) bool grown by a cube of 2·reach + 1 samples."""
    grown = torch.from_numpy(mask)[None].to(torch.float32)
    for axis in range(3):  # a cube is three bars
        size, padding = [1, 1, 1], [0, 0, 0]
        size[axis], padding[axis] = 2 * reach + 1, reach
        grown = max_pool3d(grown, size, stride=1, padding=padding)
    return grown[0].numpy() > 0


def _march(volume: Tensor, level: float, solid: np.ndarray) -> tuple[Tensor, Tensor]:
    """Vertices (P, 3) in samples of the volume and outward faces (F, 3) of the surface round `solid`."""
    # log density is what the MLP gives and is nearly straight across a surface; beyond ±2 of the level it says nothing
    height = (volume.clamp(min=1e-12) / level).log().clamp(-2.0, 2.0).numpy()
    height = np.where(solid, np.maximum(height, 1e-3), np.minimum(height, -1e-3))
    filled = solid & (volume.numpy() <= level)
    height[filled] = 2.0
    height = np.pad(height, 1, constant_values=-2.0)
    vertices, faces, _, _ = measure.marching_cubes(height, 0.0, allow_degenerate=False)
    points = torch.from_numpy(np.ascontiguousarray(vertices, dtype=np.float32)) - 1
    triangles = torch.from_numpy(np.ascontiguousarray(faces, dtype=np.int64))
    corners = points[triangles]
    volume_signed = (corners[:, 0] * torch.linalg.cross(corners[:, 1], corners[:, 2])).sum()
    return points, triangles if volume_signed > 0 else triangles.flip(1)


def _colors_below(field: RadianceField, vertices: Tensor, faces: Tensor, spacing: float, chunk: int) -> Tensor:
    """(P, 3) colours of what a look along each vertex's normal sees: three samples below it, the densest most."""
    corners = vertices[faces]
    across = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = torch.zeros_like(vertices)
    for corner in range(3):
        normals.index_add_(0, faces[:, corner], across)
    normals = normalize(normals, dim=-1)
    device = field.aabb.device
    parts = []
    for point, normal in zip(vertices.split(chunk), normals.split(chunk), strict=True):
        depths = spacing * torch.tensor([0.25, 0.75, 1.25])
        below = (point[:, None] - normal[:, None] * depths[:, None]).to(device)
        weights = field.density(below) + 1e-6
        parts.append(((weights[..., None] * field.color(below)).sum(1) / weights.sum(1, keepdim=True)).cpu())
    return torch.cat(parts).clamp(0, 1)


def _nothing_above(level: float, highest: float) -> str:
    return (
        f"no density above {level:.4g} per scene unit, the highest found is {highest:.4g}, so there is no surface; "
        "give a lower threshold, or leave it to be chosen"
    )
