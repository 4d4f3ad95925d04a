"""Coloured triangles -> pictures, masks and depths, by scanlines in pure torch: no OpenGL, any device.

Each triangle becomes one span a row of samples, each span its samples ("fragments"); the nearest fragment of a sample
wins and is coloured. Everything is float64 until the pictures, so that shared edges leave no gaps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ..support.checks import check_count
from ..types import Cameras, RenderedViews
from .reading import Surface

NEAR = 1e-3
"""Triangles with a vertex nearer to the camera's plane than this (in scene units) are left out, not clipped."""

_THINNEST = 1e-12
"""Doubled area in samples below which a triangle is seen from its edge."""


def rasterise(surface: Surface, cameras: Cameras, size: int, *, supersampling: int = 3) -> RenderedViews:
    """A surface seen by N cameras -> rgb (N, 3, size, size) on white, opacity and depth (N, 1, size, size).

    Unlit; both sides of a triangle are seen, all are opaque. Colours are averaged in sRGB over the samples of a pixel,
    opacity is the part of them that is covered, and depth, the distance from the camera along the ray in scene units,
    is the mean over those covered, 0 where there are none. Not differentiable.

    Args:
        surface: in the cameras' world, on their device.
        cameras: rays go through sample centres, as in `geometry.camera_rays`.
        size: pixels a side.
        supersampling: samples a pixel along each side, 1 or more.
    """
    check_count("size", size, 1, 4096)
    check_count("supersampling", supersampling, 1, 16)
    views = [_view(surface, cameras[index], size * supersampling) for index in range(len(cameras))]
    rgb, opacity, depth = (torch.stack(values) for values in zip(*views, strict=True))
    covered = avg_pool2d(opacity, supersampling)
    return RenderedViews(
        rgb=avg_pool2d(rgb, supersampling).float().clamp(0, 1),
        opacity=covered.float(),
        depth=(avg_pool2d(depth, supersampling) / covered.clamp_min(1e-9)).float(),
    )


@dataclass(frozen=True, eq=False)
class _Screen:
    """Triangles that may be seen. x, y, inverse: (T, 3) corners in samples from the top left, and 1 / depth.

    edges: (T, 3, 3), the rows of which give, times (x, y, 1), the screen's barycentric coordinates: 1 at a corner and
    0 on the opposite side. faces: (T,) their numbers.
    """

    x: Tensor
    y: Tensor
    inverse: Tensor
    edges: Tensor
    faces: Tensor


def _view(surface: Surface, camera: Cameras, samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """One view: rgb (3, s, s), covered (1, s, s), distance (1, s, s), float64, the latter 0 where nothing is."""
    device = surface.vertices.device
    rgb = torch.ones(3, samples * samples, dtype=torch.float64, device=device)
    covered, distance = torch.zeros(2, 1, samples * samples, dtype=torch.float64, device=device)
    screen = _project(surface, camera, samples)
    triangle, x, y = _fragments(screen, samples)
    a, b, c = torch.einsum("tij,ti->jt", screen.edges, screen.inverse)  # 1 / depth is linear on the screen
    inverse = a[triangle] * (x + 0.5) + b[triangle] * (y + 0.5) + c[triangle]
    keep = _nearest(inverse, triangle, y * samples + x, samples * samples)
    triangle, x, y, inverse = triangle[keep], x[keep], y[keep], inverse[keep]
    weights = torch.einsum("fij,fj->fi", screen.edges[triangle], _homogeneous(x, y))
    weights = weights * screen.inverse[triangle] / inverse[:, None]  # perspective-correct, summing to 1
    pixel = y * samples + x
    rgb[:, pixel] = _colors(surface, screen.faces[triangle], weights)
    covered[:, pixel] = 1
    distance[:, pixel] = _stretch(camera, x, y, samples) / inverse
    return tuple(values.unflatten(1, (samples, samples)) for values in (rgb, covered, distance))


def _project(surface: Surface, camera: Cameras, samples: int) -> _Screen:
    matrix = camera.camera_to_world[0].double()
    local = (surface.vertices.double() - matrix[:3, 3]) @ matrix[:3, :3]
    depth = -local[:, 2]
    ahead = depth.clamp_min(NEAR)
    ndc_x = camera.principal[0, 0] - camera.focal[0, 0] * local[:, 0] / ahead
    ndc_y = camera.principal[0, 1] + camera.focal[0, 1] * local[:, 1] / ahead
    x, y = ((1 - ndc_x) * samples / 2)[surface.faces], ((1 - ndc_y) * samples / 2)[surface.faces]
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (x[:, 2] - x[:, 0]) * (y[:, 1] - y[:, 0])
    seen = (depth[surface.faces] > NEAR).all(dim=1) & (area.abs() > _THINNEST)
    faces = seen.nonzero()[:, 0]
    x, y, area = x[faces], y[faces], area[faces]
    rows = []
    for first, second in ((1, 2), (2, 0), (0, 1)):  # the side opposite to corner 0, 1, 2
        x1, y1, x2, y2 = x[:, first], y[:, first], x[:, second], y[:, second]
        rows.append(torch.stack([y1 - y2, x2 - x1, x1 * y2 - x2 * y1], dim=-1) / area[:, None])
    return _Screen(x, y, 1 / depth[surface.faces[faces]], torch.stack(rows, dim=1), faces)


def _fragments(screen: _Screen, samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Every (triangle, x, y) whose sample centre lies in the triangle; (M,) each, int64."""
    top = _first_sample(screen.y.amin(dim=1), samples)
    triangle, y = _runs(top, _first_sample(screen.y.amax(dim=1), samples, after=True) - top)
    edges = screen.edges[triangle]  # (rows, 3, 3)
    rest = edges[..., 1] * (y + 0.5)[:, None] + edges[..., 2]
    slope = edges[..., 0]
    crossing = -rest / torch.where(slope == 0, 1, slope)
    # A side that rises to the right bounds the span on the left, one that falls on the right; a level one is bounded
    # by the row already.
    left = torch.where(slope > 0, crossing, -torch.inf).amax(dim=1)
    right = torch.where(slope < 0, crossing, torch.inf).amin(dim=1)
    start = _first_sample(left, samples)
    row, x = _runs(start, _first_sample(right, samples, after=True) - start)
    return triangle[row], x, y[row]


def _first_sample(position: Tensor, samples: int, *, after: bool = False) -> Tensor:
    """The first sample whose centre is at or after a position (strictly after it), within 0 to `samples`."""
    number = torch.floor(position - 0.5) + 1 if after else torch.ceil(position - 0.5)
    return number.clamp(0, samples).long()


def _runs(start: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Runs start, start + 1, … of `count` numbers each -> which run a number belongs to, and the number."""
    count = count.clamp_min(0)
    run = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
    before = count.cumsum(0) - count
    return run, torch.arange(len(run), device=count.device) - before[run] + start[run]


def _nearest(inverse: Tensor, triangle: Tensor, pixel: Tensor, pixels: int) -> Tensor:
    """Numbers of the fragments seen: the nearest of each pixel, of equal ones that of the first triangle."""
    best = torch.zeros(pixels, dtype=torch.float64, device=inverse.device)
    best.scatter_reduce_(0, pixel, inverse, "amax")
    nearest = (inverse == best[pixel]).nonzero()[:, 0]
    first = torch.full((pixels,), torch.iinfo(torch.int64).max, device=inverse.device)
    first.scatter_reduce_(0, pixel[nearest], triangle[nearest], "amin")
    return nearest[triangle[nearest] == first[pixel[nearest]]]


def _colors(surface: Surface, faces: Tensor, weights: Tensor) -> Tensor:
    """(3, M) colours of points on faces, given by their perspective-correct weights (M, 3)."""
    corners = surface.faces[faces]
    colors = torch.einsum("mi,mic->cm", weights, surface.colors[corners].double())
    uv = torch.einsum("mi,mic->mc", weights, surface.uvs[corners].double())
    shown = surface.face_texture[faces]
    for number, texture in enumerate(surface.textures):
        mine = (shown == number).nonzero()[:, 0]
        colors[:, mine] *= _bilinear(texture, uv[mine])
    return colors


def _bilinear(texture: Tensor, uv: Tensor) -> Tensor:
    """(3, H, W), (M, 2) -> (3, M): bilinear between texel centres, repeating, v = 0 at the bottom."""
    _, height, width = texture.shape
    column, row = uv[:, 0] * width - 0.5, (1 - uv[:, 1]) * height - 0.5
    x, y = column.floor(), row.floor()
    across, down = column - x, row - y
    x, y = x.long(), y.long()
    x0, x1, y0, y1 = x % width, (x + 1) % width, y % height, (y + 1) % height
    upper = texture[:, y0, x0] * (1 - across) + texture[:, y0, x1] * across
    lower = texture[:, y1, x0] * (1 - across) + texture[:, y1, x1] * across
    return upper * (1 - down) + lower * down


def _homogeneous(x: Tensor, y: Tensor) -> Tensor:
    """(M,) samples -> (M, 3): their centres and 1."""
    return torch.stack([x + 0.5, y + 0.5, torch.ones_like(x) + 0.0], dim=-1).double()


def _stretch(camera: Cameras, x: Tensor, y: Tensor, samples: int) -> Tensor:
    """(M,) distance along the ray for one unit of depth."""
    ndc = 1 - 2 * torch.stack([x + 0.5, y + 0.5], dim=-1).double() / samples
    offset = (ndc - camera.principal[0].double()) / camera.focal[0].double()
    return (1 + offset.square().sum(dim=-1)).sqrt()
