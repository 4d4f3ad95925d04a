"""The colours of a surface: an atlas of flat charts (xatlas), and what a look at each of its texels sees of a field."""

import functools
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ..field.radiance import RadianceField
from ..field.rendering import weights_from_density
from ..support.devices import Chunk
from ..types import OnProgress
from .rasterise import runs, sample_range

PIECE = 1500  # faces that are cut into charts at a time: the time for a piece grows faster than its size
PADDING = 4  # texels between charts, in an atlas of PACKED or less
PACKED = 1024  # side of the largest square that charts are arranged in; larger textures use the same arrangement
PATIENCE = 0.1  # seconds between two looks at whether xatlas is to be waited for any longer


def unwrap(vertices: Tensor, faces: Tensor, size: int, report: OnProgress) -> tuple[Tensor, Tensor, Tensor]:
    """An atlas of size² texels: source (Q,), the vertex that each new one copies, faces (F, 3), uvs (Q, 2)."""
    import xatlas

    places, triangles = vertices.numpy().astype(np.float32), faces.numpy()
    centers = places[triangles].mean(1)
    large, pieces = [np.arange(len(centers))], []
    while large:  # numbers of faces, halved across their longest side until they are few
        piece = large.pop()
        if len(piece) <= PIECE:
            pieces.append(piece)
            continue
        axis = np.ptp(centers[piece], axis=0).argmax()
        order = piece[np.argsort(centers[piece, axis], kind="stable")]
        large += [order[: len(order) // 2], order[len(order) // 2 :]]
    sources, corners, flat = [], np.empty_like(triangles), []
    count, right = 0, 0.0
    for number, piece in enumerate(pieces):
        used, local = np.unique(triangles[piece], return_inverse=True)
        a, b, c = places[triangles[piece]].astype(np.float64).swapaxes(0, 1)
        density = 256 / max(np.sqrt(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2), 1e-20)
        atlas = xatlas.Atlas()
        atlas.add_mesh(places[used], local.reshape(-1, 3).astype(np.uint32))
        _generate(atlas, functools.partial(report, 0.8 * number / len(pieces)), texels_per_unit=density, padding=1)
        source, local, uvs = atlas.get_mesh(0)
        uvs = (uvs * np.array([atlas.width, atlas.height]) / density).astype(np.float32)  # in the mesh's own unit
        flat.append(uvs + np.array([right, 0], np.float32))  # side by side: equal coordinates would join their charts
        corners[piece] = local.astype(np.uint32) + count
        sources.append(used[source])
        count, right = count + len(source), right + 1.25 * float(uvs[:, 0].max())
    atlas = xatlas.Atlas()
    atlas.add_uv_mesh(np.concatenate(flat), corners.astype(np.uint32))  # as one: the order of several is up to threads
    _generate(atlas, functools.partial(report, 0.8), resolution=min(size, PACKED), padding=PADDING)
    again, corners, uvs = atlas.get_mesh(0)
    extent, border = np.array([atlas.width, atlas.height], dtype=np.float32), PADDING / 2
    uvs = (uvs * extent + border) / (extent.max() + 2 * border)  # viewers repeat at the border
    report(1.0)
    source = np.concatenate(sources)[again]
    return torch.from_numpy(source), torch.from_numpy(corners.astype(np.int64)), torch.from_numpy(uvs)


def _generate(atlas: Any, waiting: Callable[[], None], **packing: float) -> None:  # noqa: ANN401
    """Charts and their arrangement, with these options of xatlas's packing."""
    import xatlas

    options = xatlas.PackOptions()
    for name, value in packing.items():
        setattr(options, name, value)
    options.bilinear = True
    _attended(lambda: atlas.generate(xatlas.ChartOptions(), options), waiting)


def _attended(work: Callable[[], None], waiting: Callable[[], None]) -> None:
    """Does `work`, which holds no lock of Python's, and calls `waiting` meanwhile, which may raise."""
    failed: list[BaseException] = []

    def worker() -> None:
        try:
            work()
        except BaseException as error:  # raised again where it was waited for
            failed.append(error)

    thread = threading.Thread(target=worker, daemon=True)
    thread.start()
    while thread.is_alive():
        waiting()
        thread.join(PATIENCE)
    if failed:
        raise failed[0]


EDGES = (-0.5, 0.25, 1.0, 2.0, 3.5)  # of the parts of a look into the surface, at 0, in units; a crisp one is the first
TILT_DEGREES, TILTED = 50.0, 3  # besides straight down, it is looked at from so far off its normal, from so many sides
TEXELS = 2**19  # whose colours are asked for at a time
STRIP = 2**21  # texels that get the nearest covered one's colour at a time
MARGIN = 32  # rows beyond them where that is looked for


@dataclass(frozen=True)
class SurfaceColor:
    """A field, looked at from just outside of a surface along its inward normal."""

    field: RadianceField
    unit: float  # about the distance of the samples that the surface came from, in scene units
    chunk: Chunk  # points the field is asked for at a time
    oblique: bool = False  # whether it is looked at from beside the normal too, as most cameras see it

    def colors(self, points: Tensor, normals: Tensor, report: OnProgress = lambda share: None) -> Tensor:
        """(P, 3) points with outward normals -> (P, 3) sRGB: parts count by the light they stop, looks by cosine."""
        edges, weights = self._numbers
        depths, lengths = (edges[1:] + edges[:-1]) / 2, edges.diff()
        # all that is asked about goes to a GPU at once, and its colours come back at once
        places = torch.cat([points, normals], dim=-1).to(edges.device)

        def look(part: slice) -> Tensor:
            middles, outward = places[part].split(3, dim=-1)
            directions = view_directions(outward, len(weights) - 1)
            along = (middles[:, None, None] - directions[:, :, None] * depths[:, None]).flatten(0, 1)
            stopped = weights_from_density(self.field.density(along).float(), lengths) + 1e-9
            seen = (stopped[..., None] * self.field.color(along).float()).sum(1) / stopped.sum(1, keepdim=True)
            mixed: Tensor = (seen.unflatten(0, directions.shape[:2]) * weights[:, None]).sum(1)
            return mixed

        found, done = [], 0
        for colors in self.chunk.map(look, len(points), each=len(depths) * len(weights)):
            found.append(colors)
            done += len(colors)
            report(done / len(points))
        return torch.cat(found).cpu().clamp(0, 1) if found else torch.empty(0, 3, dtype=torch.float32)

    @functools.cached_property
    def _numbers(self) -> tuple[Tensor, Tensor]:
        """On the field's device, EDGES in scene units and the weights of the looks."""
        weights = torch.tensor([1.0] + [math.cos(math.radians(TILT_DEGREES))] * (TILTED if self.oblique else 0))
        numbers = torch.cat([torch.tensor(EDGES) * self.unit, weights / weights.sum()]).to(self.field.aabb)
        return numbers[: len(EDGES)], numbers[len(EDGES) :]


def view_directions(normals: Tensor, tilted: int) -> Tensor:
    """(P, 3) unit normals -> (P, 1 + tilted, 3) unit vectors: the normal, then those tilted off it to all sides."""
    across = torch.zeros_like(normals).scatter_(1, normals.abs().argmin(1, keepdim=True), 1.0)
    right = torch.nn.functional.normalize(torch.linalg.cross(normals, across), dim=-1)
    sides = torch.stack([right, torch.linalg.cross(normals, right)], dim=1)
    turns = 2 * math.pi * torch.arange(tilted, dtype=torch.float32, device=normals.device) / max(tilted, 1)
    aside = torch.stack([turns.cos(), turns.sin()], dim=-1) @ sides
    tilt = math.radians(TILT_DEGREES)
    return torch.cat([normals[:, None], math.cos(tilt) * normals[:, None] + math.sin(tilt) * aside], dim=1)


def bake(
    look: SurfaceColor, vertices: Tensor, normals: Tensor, faces: Tensor, uvs: Tensor, size: int, report: OnProgress
) -> Tensor:
    """(3, size, size) texture: each texel the colour of the surface at its centre, or, uncovered, its neighbour's."""
    texture = torch.zeros(3, size * size, dtype=torch.float32)
    covered = torch.zeros(size * size, dtype=torch.bool)
    screen = torch.stack([uvs[:, 0], 1 - uvs[:, 1]], dim=-1).double() * size
    share = 0.0

    def looked(_: float) -> None:
        report(share)

    for face, texel, weights in texels(screen[faces], size, TEXELS):
        corners, shares = faces[face], weights.float()[..., None]
        points = (vertices[corners] * shares).sum(1)
        upward = torch.nn.functional.normalize((normals[corners] * shares).sum(1), dim=-1)
        texture[:, texel] = look.colors(points, upward, looked).T
        covered[texel] = True
        share = 0.95 * (int(face[-1]) + 1) / len(faces)
    dilate(texture.reshape(3, size, size), covered.reshape(size, size), looked)
    return texture.reshape(3, size, size)


def texels(triangles: Tensor, size: int, most: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The texels whose centres lie in triangles (F, 3, 2): face and texel (M,), weights (M, 3), `most` at a time."""
    top, height = sample_range(triangles[..., 1].amin(1), triangles[..., 1].amax(1), size)
    for group in _pieces(height, most):
        face, row = runs(top[group], height[group])
        face += group.start
        here = triangles[face]
        there = here.roll(-1, dims=1)
        share = ((row + 0.5)[:, None] - here[..., 1]) / (there[..., 1] - here[..., 1])  # of sides, where rows cross
        crossing = here[..., 0] + share * (there[..., 0] - here[..., 0])
        crosses = (share >= 0) & (share <= 1)
        left, right = (torch.where(crosses, crossing, nowhere) for nowhere in (torch.inf, -torch.inf))
        first, count = sample_range(left.amin(1), right.amax(1), size)
        face, row, first, count = (values[count > 0] for values in (face, row, first, count))
        for part in _pieces(count, most):
            span, column = runs(first[part], count[part])
            span += part.start
            point = torch.stack([column + 0.5, row[span] + 0.5], dim=-1)
            a, b, c = triangles[face[span]].unbind(1)
            across, along, to = b - a, c - a, point - a
            area = across[:, 0] * along[:, 1] - across[:, 1] * along[:, 0]
            second = (to[:, 0] * along[:, 1] - to[:, 1] * along[:, 0]) / area
            third = (across[:, 0] * to[:, 1] - across[:, 1] * to[:, 0]) / area
            weights = torch.stack([1 - second - third, second, third], dim=-1).nan_to_num(1.0, 1.0, 1.0).clamp(min=0)
            yield face[span], row[span] * size + column, weights / weights.sum(1, keepdim=True)


def _pieces(counts: Tensor, most: int) -> Iterator[slice]:
    """Slices that cover (N,) counts in order, each of `most` together or of one."""
    ends, begin = counts.cumsum(0), 0
    while begin < len(counts):
        before = int(ends[begin - 1]) if begin else 0
        stop = max(begin + 1, int(torch.searchsorted(ends, before + most, right=True)))
        yield slice(begin, stop)
        begin = stop


def dilate(texture: Tensor, covered: Tensor, report: OnProgress) -> None:
    """Gives texels of (3, H, W), 0 where not `covered` (H, W), the nearest covered one's colour, strip by strip."""
    height, width = covered.shape
    mean = texture.sum((1, 2)) / covered.sum().clamp_min(1)  # for those that have none near
    rows = max(STRIP // width, MARGIN)
    for top in range(0, height, rows):
        first, last = max(top - MARGIN, 0), min(top + rows + MARGIN, height)
        inner = slice(top - first, min(top + rows, height) - first)
        near, strip = texture[:, first:last], texture[:, top : top + rows]
        known = covered[first:last].numpy()
        if known.any():
            row, column = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
            strip.copy_(near[:, torch.from_numpy(row[inner]).long(), torch.from_numpy(column[inner]).long()])
        else:
            strip.copy_(mean[:, None, None].expand_as(strip))
        report(top / height)
