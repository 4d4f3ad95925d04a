"""Coloured triangles -> pictures, masks and depths, by scanlines in pure torch, in float64: shared edges leave no gaps.

Each triangle becomes a span a row of samples, each span its samples ("fragments"), of which the nearest is coloured,
and what is transparent before it laid over that.
"""

from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from ..support.images import linear_to_srgb, srgb_to_linear
from ..types import Cameras, RenderedViews
from .gltf import BLENDED, Sampler
from .reading import Surface

NEAR = 1e-3  # scene units; triangles with a vertex nearer to the camera's plane are left out, not clipped
_THINNEST = 1e-12  # doubled area in samples below which a triangle is seen from its edge
_SOLID = 1 - 1e-6  # alpha, but for rounding, of what lets no light through


def rasterise(surface: Surface, cameras: Cameras, size: int, *, supersampling: int = 3) -> RenderedViews:
    """A surface seen by N cameras in its world, unlit and from both sides, on white; not differentiable.

    Colours are means in sRGB over supersampling² samples a pixel, depths over those of them that are covered. What is
    transparent covers by its alpha.
    """
    views = [_view(surface, cameras[index], size * supersampling) for index in range(len(cameras))]
    rgb, opacity, depth = (torch.stack(values) for values in zip(*views, strict=True))
    covered = avg_pool2d(opacity, supersampling)
    rgb, depth = avg_pool2d(rgb, supersampling), avg_pool2d(depth, supersampling) / covered.clamp_min(1e-9)
    return RenderedViews(rgb=rgb.float().clamp(0, 1), opacity=covered.float(), depth=depth.float())


def _view(surface: Surface, camera: Cameras, samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """One view: rgb (3, s, s), covered (1, s, s), distance (1, s, s), float64, the latter 0 where nothing is."""
    matrix, focal, principal = camera.camera_to_world[0].double(), camera.focal[0], camera.principal[0]
    local = (surface.vertices.double() - matrix[:3, 3]) @ matrix[:3, :3]
    depth = -local[:, 2]
    ahead = depth.clamp_min(NEAR)
    ndc_x = principal[0] - focal[0] * local[:, 0] / ahead
    ndc_y = principal[1] + focal[1] * local[:, 1] / ahead
    # (T, 3) corners in samples from the top left, of the triangles that may be seen
    x, y = ((1 - ndc_x) * samples / 2)[surface.faces], ((1 - ndc_y) * samples / 2)[surface.faces]
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (x[:, 2] - x[:, 0]) * (y[:, 1] - y[:, 0])
    faces = ((depth[surface.faces] > NEAR).all(dim=1) & (area.abs() > _THINNEST)).nonzero()[:, 0]
    x, y, area, inverse = x[faces], y[faces], area[faces], 1 / depth[surface.faces[faces]]
    # (T, 3, 3), the rows of which give, times (x, y, 1), barycentric coordinates: 1 at a corner, 0 on its opposite side
    sides = []
    for first, second in ((1, 2), (2, 0), (0, 1)):
        x1, y1, x2, y2 = x[:, first], y[:, first], x[:, second], y[:, second]
        sides.append(torch.stack([y1 - y2, x2 - x1, x1 * y2 - x2 * y1], dim=-1) / area[:, None])
    edges = torch.stack(sides, dim=1)
    # every triangle, column and row (M,) of which the sample's centre lies in the triangle
    triangle, row = runs(*sample_range(y.amin(dim=1), y.amax(dim=1), samples))
    slope, rise, offset = edges[triangle].unbind(-1)  # (rows, 3)
    crossing = -(rise * (row + 0.5)[:, None] + offset) / torch.where(slope == 0, 1, slope)
    # a side that rises to the right bounds the span on the left, one that falls on the right; the row bounds level ones
    left = torch.where(slope > 0, crossing, -torch.inf).amax(dim=1)
    right = torch.where(slope < 0, crossing, torch.inf).amin(dim=1)
    span, column = runs(*sample_range(left, right, samples))
    triangle, row = triangle[span], row[span]
    a, b, c = torch.einsum("tij,ti->jt", edges, inverse)[:, triangle]  # 1 / depth is linear on the screen
    pixel, nearness = row * samples + column, a * (column + 0.5) + b * (row + 0.5) + c

    def look(fragments: Tensor) -> Tensor:
        """(5, N): colour, alpha and distance of some of the fragments."""
        mine, near = triangle[fragments], nearness[fragments]
        centers = torch.stack([column[fragments] + 0.5, row[fragments] + 0.5], dim=-1).double()
        flat = torch.einsum("fij,fj->fi", edges[mine], pad(centers, (0, 1), value=1.0))
        weights = flat * inverse[mine] / near[:, None]  # perspective-correct, summing to 1
        offset = (1 - 2 * centers / samples - principal.double()) / focal.double()
        distance = (1 + offset.square().sum(dim=-1, keepdim=True)).sqrt().T / near
        return torch.cat([_colors(surface, faces[mine], weights), distance])

    canvas = torch.tensor([1.0, 1, 1, 0, 0], dtype=torch.float64, device=x.device)[:, None].repeat(1, samples**2)
    solid = clear = torch.arange(len(pixel), device=x.device)
    if surface.face_cutoff is not None:
        seen = look(solid)
        solid, clear = (seen[3] == 1).nonzero()[:, 0], ((seen[3] > 0) & (seen[3] < 1)).nonzero()[:, 0]
    best = torch.zeros(samples * samples, dtype=torch.float64, device=x.device)
    best.scatter_reduce_(0, pixel[solid], nearness[solid], "amax")
    keep = solid[nearness[solid] == best[pixel[solid]]]
    lowest = torch.full((samples * samples,), torch.iinfo(torch.int64).max, device=x.device)
    lowest.scatter_reduce_(0, pixel[keep], triangle[keep], "amin")
    keep = keep[triangle[keep] == lowest[pixel[keep]]]  # of equally near ones the first triangle
    canvas[:, pixel[keep]] = look(keep) if surface.face_cutoff is None else seen[:, keep]
    if surface.face_cutoff is not None:
        clear = clear[nearness[clear] > best[pixel[clear]]]
        clear = clear[nearness[clear].argsort(descending=True, stable=True)]
        clear = clear[pixel[clear].argsort(stable=True)]  # pixel by pixel, the nearest first
        _lay_over(canvas, pixel[clear], seen[:, clear])
    canvas[:3] = linear_to_srgb(canvas[:3]) if surface.linear else canvas[:3]
    return tuple(values.unflatten(1, (samples, samples)) for values in canvas.split([3, 1, 1]))


def _lay_over(canvas: Tensor, pixel: Tensor, layers: Tensor) -> None:
    """Puts layers (5, N) that let light through over the canvas (5, P): those of a pixel together, nearest first."""
    passed = torch.log1p(-layers[3])
    pixels, counts = pixel.unique_consecutive(return_counts=True)
    through = passed.cumsum(0)
    before, last = through - passed, counts.cumsum(0) - 1
    start = before[last + 1 - counts]
    shares = layers[3] * (before - start.repeat_interleave(counts)).exp()
    canvas[:, pixels] *= (through[last] - start).exp()
    canvas.index_add_(1, pixel, torch.cat([layers[:3], torch.ones_like(layers[:1]), layers[4:]]) * shares)


def sample_range(low: Tensor, high: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    """Of a row of `samples`: the first whose centre is in [low, high], and how many are; int64, of any shape."""
    first = torch.ceil(low - 0.5).clamp(0, samples).long()
    return first, ((torch.floor(high - 0.5) + 1).clamp(0, samples).long() - first).clamp_min(0)


def runs(start: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Runs start, start + 1, … of `count` numbers each -> which run a number belongs to, and the number."""
    run = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
    before = count.cumsum(0) - count
    return run, torch.arange(len(run), device=count.device) - before[run] + start[run]


def _colors(surface: Surface, faces: Tensor, weights: Tensor) -> Tensor:
    """(4, M) colours, linear if the surface is, and alpha, of points on faces, from their weights (M, 3)."""
    decode = srgb_to_linear if surface.linear else torch.Tensor.double
    corners = surface.faces[faces]
    alphas = torch.ones(len(surface.vertices)) if surface.alphas is None else surface.alphas
    vertex = torch.cat([decode(surface.colors.double()), alphas[:, None].to(surface.colors).double()], dim=1)
    colors = torch.einsum("mi,mic->cm", weights, vertex[corners])
    uv = torch.einsum("mi,mic->mc", weights, surface.uvs[corners].double())
    shown = surface.face_texture[faces]
    samplers = surface.samplers or (Sampler(),) * len(surface.textures)
    for number, (texture, sampler) in enumerate(zip(surface.textures, samplers, strict=True)):
        mine = (shown == number).nonzero()[:, 0]
        channels, height, width = texture.shape
        column, row = uv[mine, 0] * width - 0.5, (1 - uv[mine, 1]) * height - 0.5  # in texels, from the top left
        if sampler.nearest:
            column, row = column.round(), row.round()
        x, y = column.floor(), row.floor()
        across, down = column - x, row - y
        found = torch.zeros(channels, len(mine), dtype=torch.float64, device=colors.device)
        for right, below in product((0, 1), (0, 1)):
            at = _inside(y + below, height, sampler.along), _inside(x + right, width, sampler.across)
            texels = torch.cat([decode(texture[(slice(3), *at)]), texture[(slice(3, None), *at)]])
            found += texels * (across if right else 1 - across) * (down if below else 1 - down)
        colors[:channels, mine] *= found
    if surface.face_cutoff is not None:
        cutoff, alpha = surface.face_cutoff[faces], colors[3]
        colors[3] = torch.where(cutoff == BLENDED, alpha.where(alpha < _SOLID, 1.0), (alpha >= cutoff).double())
    return colors


def _inside(texel: Tensor, size: int, wrap: str) -> Tensor:
    """The numbers, below `size`, of texels of a texture that goes on beyond its border."""
    texel = texel.long()
    if wrap == "clamp":
        return texel.clamp(0, size - 1)
    texel = texel % (2 * size if wrap == "mirror" else size)
    return torch.where(texel < size, texel, 2 * size - 1 - texel)
