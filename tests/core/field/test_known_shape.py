"""A field fitted to renders of a known coloured shape: renderer, gradients and mesh exporter, no diffusion."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from upfusion_core.geometry import camera_rays, random_cameras  # noqa: F401
from upfusion_core.types import Cameras

GREEN, RED, BLUE, YELLOW, CYAN, MAGENTA, ORANGE, GREY = torch.tensor(
    [[0.1, 0.6, 0.2], [0.85, 0.1, 0.1], [0.1, 0.2, 0.8], [0.9, 0.8, 0.1],
     [0.1, 0.7, 0.8], [0.7, 0.1, 0.6], [0.95, 0.5, 0.1], [0.3, 0.3, 0.35]]
)  # fmt: skip
SIDES = torch.stack([RED, CYAN, GREEN, MAGENTA, BLUE, YELLOW])  # +X, -X, +Y, -Y, +Z, -Z


@dataclass(frozen=True)
class Part:
    """A box with a colour a side, or an ellipsoid of one colour; half sizes along the axes."""

    center: tuple[float, float, float]
    half: tuple[float, float, float]
    color: Tensor | None = None  # of an ellipsoid


# not symmetric about any plane: a body, a tower on its +X side, a ball in front at -X, a low foot behind
PARTS = (
    Part((0.0, -0.06, 0.0), (0.15, 0.06, 0.08)),
    Part((0.08, 0.07, -0.02), (0.04, 0.08, 0.04)),
    Part((-0.08, 0.04, 0.03), (0.06, 0.05, 0.04), ORANGE),
    Part((-0.04, -0.08, -0.10), (0.05, 0.025, 0.05), GREY),
)


def trace(cameras: Cameras, size: int, supersample: int = 3) -> tuple[Tensor, Tensor]:
    """Closed-form pictures on white (N, 3, S, S) and masks (N, 1, S, S), each pixel the mean of supersample² rays."""
    rays = camera_rays(cameras, size * supersample, size * supersample)
    origins, directions = rays.origins.reshape(-1, 3), rays.directions.reshape(-1, 3)
    nearest = torch.full((len(origins),), torch.inf)
    colors = torch.ones(len(origins), 3)
    for part in PARTS:
        distance, color = _hit_ellipsoid(part, origins, directions) if part.color is not None else _hit_box(
            part, origins, directions
        )
        closer = distance < nearest
        nearest = torch.where(closer, distance, nearest)
        colors = torch.where(closer[:, None], color, colors)
    shape = (len(cameras), size * supersample, size * supersample)
    rgb = colors.reshape(*shape, 3).permute(0, 3, 1, 2)
    mask = nearest.isfinite().float().reshape(*shape)[:, None]
    pool = torch.nn.functional.avg_pool2d
    return pool(rgb, supersample), pool(mask, supersample)


def _hit_box(part: Part, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    center, half = torch.tensor(part.center), torch.tensor(part.half)
    first, second = (center - half - origins) / directions, (center + half - origins) / directions
    entry, axis = torch.minimum(first, second).max(-1)
    leave = torch.maximum(first, second).amin(-1)
    negative = directions.gather(-1, axis[:, None])[:, 0] > 0  # entered through the side that faces -axis
    return torch.where(leave > entry, entry, torch.inf), SIDES[2 * axis + negative]


def _hit_ellipsoid(part: Part, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    center, half = torch.tensor(part.center), torch.tensor(part.half)
    o, d = (origins - center) / half, directions / half
    a, b, c = (d * d).sum(-1), (o * d).sum(-1), (o * o).sum(-1) - 1
    root = (b * b - a * c).clamp(min=0).sqrt()
    hit = b * b - a * c > 0
    return torch.where(hit, (-b - root) / a, torch.inf), part.color.expand(len(o), 3)


def inside(points: Tensor, but: Part | None = None) -> Tensor:
    """Whether points lie strictly inside any part except `but`."""
    result = torch.zeros(len(points), dtype=torch.bool)
    for part in PARTS:
        if part is but:
            continue
        scaled = (points - torch.tensor(part.center)) / torch.tensor(part.half)
        result |= (scaled.square().sum(-1) < 1) if part.color is not None else (scaled.abs().amax(-1) < 1)
    return result


def surface(count: int, generator: torch.Generator) -> Tensor:
    """Points spread evenly over the union's surface."""
    clouds = []
    for part in PARTS:
        half = torch.tensor(part.half)
        if part.color is not None:  # evenly on the sphere, then kept in proportion to how much the ellipsoid stretches
            unit = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
            stretch = half.prod() * (unit / half).norm(dim=-1)
            local = unit * half
            area = 4 * torch.pi * stretch.mean()
            keep = torch.rand(count, generator=generator) < stretch / stretch.max()
            local = local[keep]
        else:
            areas = torch.stack([half[1] * half[2], half[0] * half[2], half[0] * half[1]])
            axis = torch.multinomial(areas, count, replacement=True, generator=generator)
            local = torch.rand(count, 3, generator=generator) * 2 - 1
            local.scatter_(1, axis[:, None], local.gather(1, axis[:, None]).sign())
            local, area = local * half, 8 * areas.sum()
        number = min(int(count * area / 0.3), len(local))
        points = local[:number] + torch.tensor(part.center)
        clouds.append(points[~inside(points, but=part)])
    return torch.cat(clouds)
