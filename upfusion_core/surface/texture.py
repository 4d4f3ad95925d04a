"""What a look at a surface sees of a field, at its vertices or at each texel of a texture."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from scipy import ndimage
from torch import Tensor

from ..field.rendering import weights_from_density
from ..support.memory import Chunk
from ..types import OnProgress

if TYPE_CHECKING:
    from ..field.radiance import RadianceField

EDGES = (-0.5, 0.25, 1.0, 2.0, 3.5)
"""Ends of the parts of a look into the surface, in units; 0 is the surface. A crisp one stops light in the first."""

TILT_DEGREES, TILTED = 50.0, 3
"""Besides straight down, the surface is looked at from this far off its normal, from so many sides."""

FACES = 2**14
"""Faces that are spread over their texels at a time."""

STRIP, MARGIN = 2**21, 32
"""Texels that get the nearest covered one's colour at a time, and rows beyond them where that is looked for."""


@dataclass(frozen=True)
class SurfaceColor:
    """A field, looked at from just outside of a surface along its inward normal.

    unit: about the distance of the samples that the surface came from, in scene units.
    chunk: points the field is asked for at a time; it halves where memory does not suffice.
    oblique: whether it is looked at from beside the normal too, as most cameras see it; four times the work.
    """

    field: RadianceField
    unit: float
    chunk: Chunk
    oblique: bool = False

    def colors(self, points: Tensor, normals: Tensor, report: OnProgress = lambda share: None) -> Tensor:
        """(P, 3) points with outward normals -> (P, 3) colours, sRGB.

        A look's is the mean over its parts, weighted by the light that each part stops, as a render weighs them: fog
        before the surface counts by what it hides, what lies deep by what is left. Where hardly any light is stopped,
        the densest parts count. Looks count by the cosine of their tilt.
        """
        edges = torch.tensor(EDGES, dtype=torch.float32) * self.unit
        depths, lengths = (edges[1:] + edges[:-1]) / 2, edges.diff()
        device = self.field.aabb.device
        tilted = TILTED if self.oblique else 0
        weights = torch.tensor([1.0] + [math.cos(math.radians(TILT_DEGREES))] * tilted, dtype=torch.float32)
        weights /= weights.sum()

        def look(part: slice) -> Tensor:
            directions = view_directions(normals[part], tilted)
            along = points[part, None, None] - directions[:, :, None] * depths[:, None]
            seen = self._seen(along.flatten(0, 1).to(device), lengths.to(device)).cpu()
            mixed: Tensor = (seen.unflatten(0, directions.shape[:2]) * weights[:, None]).sum(1)
            return mixed

        found = torch.empty(len(points), 3, dtype=torch.float32)
        done = 0
        for colors in self.chunk.map(look, len(points), each=len(depths) * len(weights)):
            found[done : done + len(colors)] = colors
            done += len(colors)
            report(done / len(points))
        return found.clamp(0, 1)

    def _seen(self, points: Tensor, lengths: Tensor) -> Tensor:
        """(P, S, 3) along looks -> (P, 3)."""
        weights = weights_from_density(self.field.density(points).float(), lengths) + 1e-9
        return (weights[..., None] * self.field.color(points).float()).sum(1) / weights.sum(1, keepdim=True)


def view_directions(normals: Tensor, tilted: int) -> Tensor:
    """(P, 3) unit normals -> (P, 1 + tilted, 3) unit vectors: the normal, then those tilted off it to all sides."""
    across = torch.zeros_like(normals).scatter_(1, normals.abs().argmin(1, keepdim=True), 1.0)
    right = torch.nn.functional.normalize(torch.linalg.cross(normals, across), dim=-1)
    sides = torch.stack([right, torch.linalg.cross(normals, right)], dim=1)
    turns = 2 * math.pi * torch.arange(tilted, dtype=torch.float32) / max(tilted, 1)
    aside = torch.stack([turns.cos(), turns.sin()], dim=-1) @ sides
    tilt = math.radians(TILT_DEGREES)
    return torch.cat([normals[:, None], math.cos(tilt) * normals[:, None] + math.sin(tilt) * aside], dim=1)


def bake(
    look: SurfaceColor,
    vertices: Tensor,
    normals: Tensor,
    faces: Tensor,
    uvs: Tensor,
    size: int,
    *,
    report: OnProgress = lambda share: None,
) -> Tensor:
    """(3, size, size) texture: each texel the colour of the surface at its centre, first row at the top.

    Texels that no face covers take the nearest covered one's colour, so that neither bilinear sampling at a chart's
    border nor smaller mip levels show a seam; in large textures, those far from all faces take the mean colour.

    Args:
        vertices, normals, uvs: (P, 3), (P, 3) and (P, 2), v = 0 at the bottom; faces: (F, 3).
    """
    texture = torch.zeros(3, size * size, dtype=torch.float32)
    covered = torch.zeros(size * size, dtype=torch.bool)
    screen = torch.stack([uvs[:, 0], 1 - uvs[:, 1]], dim=-1).double() * size
    share = 0.0

    def looked(_: float) -> None:
        report(share)

    for start in range(0, len(faces), FACES):
        group = faces[start : start + FACES]
        for face, texel, weights in texels(screen[group], size, look.chunk.size):
            corners, shares = group[face], weights.float()[..., None]
            points = (vertices[corners] * shares).sum(1)
            upward = torch.nn.functional.normalize((normals[corners] * shares).sum(1), dim=-1)
            texture[:, texel] = look.colors(points, upward, looked).T
            covered[texel] = True
            share = 0.95 * (start + int(face[-1]) + 1) / len(faces)
    _dilate(texture.reshape(3, size, size), covered.reshape(size, size), looked)
    return texture.reshape(3, size, size)


def texels(triangles: Tensor, size: int, most: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Which texels' centres lie in triangles (F, 3, 2), in texels: face (M,), texel (M,), barycentric weights (M, 3).

    A row of a triangle is one span of texels; spans are spread into texels at most about `most` at a time.
    """
    face, row, first, count = _spans(triangles, size)
    ends = count.cumsum(0)
    begin = 0
    while begin < len(face):
        before = int(ends[begin - 1]) if begin else 0
        stop = max(begin + 1, int(torch.searchsorted(ends, before + most, right=True)))
        spans = torch.arange(begin, stop).repeat_interleave(count[begin:stop])
        column = torch.arange(len(spans)) - (ends - count)[spans] + before + first[spans]
        centers = torch.stack([column + 0.5, row[spans] + 0.5], dim=-1)
        yield face[spans], row[spans] * size + column, _barycentric(triangles[face[spans]], centers)
        begin = stop


def _spans(triangles: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The rows of texel centres that cross triangles (F, 3, 2): face, row, first column, number of columns > 0."""
    top = (triangles[..., 1].amin(1) - 0.5).ceil().clamp(0, size).long()
    rows = ((triangles[..., 1].amax(1) - 0.5).floor().clamp(-1, size - 1).long() + 1 - top).clamp(min=0)
    face = torch.arange(len(triangles)).repeat_interleave(rows)
    row = torch.arange(len(face)) - (rows.cumsum(0) - rows)[face] + top[face]
    here = triangles[face]
    there = here.roll(-1, dims=1)
    height = (row + 0.5)[:, None]
    share = (height - here[..., 1]) / (there[..., 1] - here[..., 1])  # of each side, where the row crosses it
    crossing = here[..., 0] + share * (there[..., 0] - here[..., 0])
    crosses = (share >= 0) & (share <= 1)
    first = (torch.where(crosses, crossing, torch.inf).amin(1) - 0.5).ceil().clamp(0, size)
    last = (torch.where(crosses, crossing, -torch.inf).amax(1) - 0.5).floor().clamp(-1, size - 1)
    some = last >= first
    return face[some], row[some], first[some].long(), (last - first + 1)[some].long()


def _barycentric(triangles: Tensor, points: Tensor) -> Tensor:
    """(M, 3, 2) triangles and a point (M, 2) in each -> (M, 3) weights of the corners, not negative, sum 1."""
    a, b, c = triangles.unbind(1)
    across, along, to = b - a, c - a, points - a
    area = across[:, 0] * along[:, 1] - across[:, 1] * along[:, 0]
    second = (to[:, 0] * along[:, 1] - to[:, 1] * along[:, 0]) / area
    third = (across[:, 0] * to[:, 1] - across[:, 1] * to[:, 0]) / area
    weights = torch.stack([1 - second - third, second, third], dim=-1).nan_to_num(1.0, 1.0, 1.0).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)


def _dilate(texture: Tensor, covered: Tensor, report: OnProgress) -> None:
    """Gives texels of (3, H, W) that are not `covered` (H, W) the nearest covered one's colour, strip by strip."""
    height, width = covered.shape
    mean = functools.cache(lambda: torch.stack([channel[covered].mean() for channel in texture]).nan_to_num())
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
            strip.copy_(mean()[:, None, None].expand_as(strip))
        report(top / height)
