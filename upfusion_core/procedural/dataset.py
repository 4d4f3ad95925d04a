"""Procedural objects as a data set: endless batches for training, the same examples every time for evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import trimesh
from skimage.measure import marching_cubes
from torch import Tensor

from ..data.views import PosedViews
from ..geometry.cameras import BAND_ELEVATION_DEGREES, REFERENCE_ELEVATION_DEGREES, orbit_cameras
from ..support.checks import check_choice, check_count, check_range, check_shape
from ..support.errors import InputError
from ..types import REFERENCE_FOCAL, Cameras
from .primitives import Tables
from .recipe import draw_objects
from .render import SUPERSAMPLING, albedo, part_distance, render_views
from .shapes import GENERATOR_VERSION, SPLITS, Objects
from .sketch import LARGEST_RADIUS, framed

HALF_BOX = 0.21  # the cube ±HALF_BOX holds every object, whose radius is at most 0.2
_CHUNK_POINTS = 1 << 18
_MOST_VIEWS = 64  # that an object has when no generator draws them: the same ones every time


def signed_distance(objects: Objects, points: Tensor) -> Tensor:
    """(B, M) signed distances of world points (B, M, 3) to the objects, negative inside.

    The zero set and the sign are exact. Outside, the value is at most the true distance but for ellipsoids, whose
    value is of first order; inside of several parts it is the deepest part's.
    """
    check_shape("points", points, (len(objects), "M", 3), "M points an object")
    count, amount, _ = points.shape
    tables, parts = Tables.of(objects), objects.role.shape[1]
    flat = points.reshape(-1, 3).T
    owner = torch.arange(count, device=points.device).repeat_interleave(amount, output_size=count * amount)
    result = torch.full((count * amount,), torch.inf, device=points.device)
    for part in range(parts):
        result = torch.minimum(result, part_distance(tables, owner * parts + part, flat))
    return result.view(count, amount)


def true_mesh(objects: Objects, resolution: int = 128) -> trimesh.Trimesh:
    """The surface of one object as a closed triangle mesh in its world, with vertex colours without light.

    Marching cubes on `resolution` cells along each axis of the cube ±0.21: a cell is 0.42 / resolution, and features
    thinner than a cell may be lost. Walls inside of a union are not part of it.
    """
    if len(objects) != 1:
        raise InputError(f"true_mesh takes one object, got {len(objects)}; index the batch, e.g. objects[0]")
    check_count("resolution", resolution, 8)
    axis = torch.linspace(-HALF_BOX, HALF_BOX, resolution + 1, device=objects.device)
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)
    values = torch.cat([signed_distance(objects, chunk[None])[0] for chunk in grid.split(_CHUNK_POINTS)])
    volume = values.view(len(axis), len(axis), len(axis)).cpu().numpy()
    cell = 2 * HALF_BOX / resolution
    vertices, faces, _, _ = marching_cubes(volume, 0.0, spacing=(cell, cell, cell))
    mesh = trimesh.Trimesh(vertices - HALF_BOX, faces, process=True)
    mesh.fix_normals()
    colors = albedo(objects, torch.tensor(np.asarray(mesh.vertices), dtype=torch.float32, device=objects.device))
    mesh.visual.vertex_colors = (colors.cpu().numpy() * 255).round().astype(np.uint8)
    return mesh


@dataclass(frozen=True, eq=False)
class ProceduralBatch:
    """V views of each of B objects, all on one device, each in its own world (see `ProceduralObjects`).

    rgb: (B, V, 3, S, S) in [0, 1] on white. mask: (B, V, 1, S, S), share of the pixel that the object covers.
    depth: (B, V, 1, S, S) along the ray, mean over the covered samples, 0 off the object.
    camera_to_world: (B, V, 4, 4). focal: (B, V, 2). elevation_degrees: (B, V); view 0's is the reference's.
    objects: the B objects in the same worlds, for rays (`render_rays`) and meshes (`true_mesh`).
    names: one an object, or none where the objects came without.
    """

    rgb: Tensor
    mask: Tensor
    depth: Tensor
    camera_to_world: Tensor
    focal: Tensor
    elevation_degrees: Tensor
    objects: Objects
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rgb)

    def cameras(self, index: int) -> Cameras:
        return Cameras(self.camera_to_world[index], self.focal[index], torch.zeros_like(self.focal[index]))

    def example(self, index: int) -> PosedViews:
        """Object `index` in the form of all readers."""
        name = self.names[index] if self.names else f"procedural-{GENERATOR_VERSION}"
        return PosedViews(self.rgb[index], self.mask[index], self.cameras(index), name, depth=self.depth[index])


class ProceduralObjects:
    """Textured solids made on the fly; object i of a split is a pure function of (GENERATOR_VERSION, split, i).

    View 0 is the reference: the object, with its light, is turned about +Y so that view 0's camera has azimuth 0. All
    cameras are at distance 1 with focal 4.5, azimuths uniform in [0, 360), elevations in [-7.5, 52.5] degrees.

    split: "train", "validation", "test", or "held_out" (a combination of parts on even indices and a pattern on odd
    ones that no other split has). size, views: pixels and number of views, at most 64, of single examples. objects: how
    many of the split's there are to be; None for all (2^31 in "train"). max_parts: keeps only the first parts of each
    object (a curriculum). reference_elevation_degrees: view 0's; None draws it from the band like the others'.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        size: int = 64,
        views: int = 32,
        objects: int | None = None,
        max_parts: int | None = None,
        reference_elevation_degrees: float | None = REFERENCE_ELEVATION_DEGREES,
    ) -> None:
        check_choice("split", split, tuple(SPLITS))
        check_count("size", size, 1)
        check_count("views", views, 1, _MOST_VIEWS)
        check_count("objects", SPLITS[split].objects if objects is None else objects, 1, SPLITS[split].objects)
        check_count("max_parts", 1 if max_parts is None else max_parts, 1)
        if reference_elevation_degrees is not None:
            check_range("reference_elevation_degrees", reference_elevation_degrees, -89.0, 89.0)
        self.split, self.size, self.views, self.max_parts = split, size, views, max_parts
        self.reference_elevation_degrees = reference_elevation_degrees
        self.skipped: list[tuple[str, str]] = []
        self._objects = SPLITS[split].objects if objects is None else objects

    def __len__(self) -> int:
        return self._objects

    def objects(self, indices: Sequence[int] | Tensor) -> Objects:
        """The objects as they are drawn, on the CPU, azimuth 0 where their recipe has its front.

        They are small (about 7 kB each): a trainer may keep many on its device, index them, and `look` at them.
        """
        return self._drawn(indices)[0]

    def _drawn(self, indices: Sequence[int] | Tensor, extra: int = 0) -> tuple[Objects, Tensor]:
        objects, draws = draw_objects(self.split, indices, extra=extra)
        if self.max_parts is not None:
            radius = torch.full((len(objects),), LARGEST_RADIUS)
            objects = framed(objects.first_parts(self.max_parts), radius)
        return objects, draws

    def names(self, indices: Sequence[int] | Tensor) -> tuple[str, ...]:
        return tuple(f"procedural-{GENERATOR_VERSION}-{self.split}-{int(index)}" for index in indices)

    def batch(
        self,
        indices: Sequence[int] | Tensor,
        *,
        views: int = 8,
        size: int | None = None,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
        supersampling: int = SUPERSAMPLING,
    ) -> ProceduralBatch:
        """`views` views of each object, made on `device`, `size` pixels a side: the data set's own unless given.

        The generator draws the cameras; without one each object has its own fixed ones, at most 64, the first the same
        whatever `views` is. Pixels are means of supersampling² samples.
        """
        check_count("views", views, 1, float("inf") if generator is not None else _MOST_VIEWS)
        names, shape = self.names(indices), (len(indices), views, 2)
        objects, draws = self._drawn(indices, extra=0 if generator is not None else 2 * views)
        if generator is not None:
            draws = torch.rand(shape, generator=generator, device=generator.device)
        draws = draws.view(shape).to(device)
        return self._seen(objects.to(device), draws, size or self.size, names, supersampling)

    def look(
        self,
        objects: Objects,
        *,
        views: int,
        generator: torch.Generator,
        size: int | None = None,
        supersampling: int = SUPERSAMPLING,
    ) -> ProceduralBatch:
        """`views` new views of objects that were drawn before, on their device; the generator may be on any.

        Example: `pool = data.objects(range(10_000)).to(device)`, then in each step
        `data.look(pool[torch.randint(10_000, (256,), device=device)], views=8, generator=generator)`.
        """
        check_count("views", views, 1)
        draws = torch.rand(len(objects), views, 2, generator=generator, device=generator.device).to(objects.device)
        return self._seen(objects, draws, size or self.size, (), supersampling)

    def _seen(
        self, objects: Objects, draws: Tensor, size: int, names: tuple[str, ...], supersampling: int
    ) -> ProceduralBatch:
        """The views whose cameras follow from uniform numbers (B, V, 2), on the objects' device."""
        count, views, _ = draws.shape
        low, high = BAND_ELEVATION_DEGREES
        azimuth, elevation = 360 * draws[..., 0], low + (high - low) * draws[..., 1]
        if self.reference_elevation_degrees is not None:
            reference = torch.full_like(elevation[:, :1], self.reference_elevation_degrees)
            elevation = torch.cat([reference, elevation[:, 1:]], dim=1)
        objects = objects.turned(-azimuth[:, 0])
        distance = torch.ones_like(azimuth).flatten()  # a tensor, so that all of them are on the objects' device
        turns = (azimuth - azimuth[:, :1]).flatten()
        cameras = orbit_cameras(turns, elevation.flatten(), distance, focal=REFERENCE_FOCAL)
        matrices = cameras.camera_to_world.unflatten(0, (count, views))
        focal = cameras.focal.unflatten(0, (count, views))
        seen = render_views(objects, matrices, focal, size, supersampling=supersampling)
        return ProceduralBatch(seen.rgb, seen.opacity, seen.depth, matrices, focal, elevation, objects, names)

    def __getitem__(self, index: int) -> PosedViews:
        return self.read(index)

    def view_count(self, index: int) -> int:
        range(len(self))[index]  # raises IndexError, so that iteration ends
        return self.views

    def read(self, index: int, views: Sequence[int] | None = None) -> PosedViews:
        """Object `index` with some of its fixed views, the first of them the reference; None means all."""
        index = range(len(self))[index]
        example = self.batch([index], views=self.views).example(0)
        return example if views is None else example.chosen(views)

    def draw(self, index: int, count: int, generator: torch.Generator) -> PosedViews:
        """Object `index` seen by `count` cameras that the generator draws anew."""
        return self.batch([range(len(self))[index]], views=count, generator=generator).example(0)
