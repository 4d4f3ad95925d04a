"""A field fitted to renders of a known coloured shape: renderer, gradients and mesh exporter, no diffusion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize

from upfusion_core.geometry import camera_rays, random_cameras  # noqa: F401
from upfusion_core.types import Cameras

SIDES = torch.tensor(
    [[0.85, 0.1, 0.1], [0.1, 0.65, 0.75], [0.1, 0.6, 0.2], [0.65, 0.1, 0.6], [0.1, 0.2, 0.8], [0.9, 0.75, 0.1]]
)  # +X red, -X cyan, +Y green, -Y magenta, +Z blue, -Z yellow


@dataclass(frozen=True)
class Part:
    """A box or an ellipsoid; half sizes along the axes. A side's colour is blended by the squares of its normal."""

    kind: Literal["box", "ellipsoid"]
    center: tuple[float, float, float]
    half: tuple[float, float, float]


# not symmetric about any plane: a body, a tower on its +X side, a ball at -X in front, a foot low behind
PARTS = (
    Part("ellipsoid", (0.0, -0.05, 0.0), (0.15, 0.07, 0.09)),
    Part("box", (0.07, 0.05, -0.01), (0.035, 0.09, 0.04)),
    Part("ellipsoid", (-0.08, 0.02, 0.05), (0.05, 0.06, 0.05)),
    Part("ellipsoid", (-0.05, -0.07, -0.09), (0.04, 0.04, 0.06)),
)


def trace(cameras: Cameras, size: int, supersample: int = 1) -> tuple[Tensor, Tensor]:
    """Closed-form pictures on white (N, 3, S, S) and masks (N, 1, S, S), each pixel the mean of supersample² rays."""
    rays = camera_rays(cameras, size * supersample, size * supersample)
    origins, directions = rays.origins.reshape(-1, 3), rays.directions.reshape(-1, 3)
    nearest = torch.full((len(origins),), torch.inf)
    colors = torch.ones(len(origins), 3)
    for part in PARTS:
        distance, normals = (_hit_box if part.kind == "box" else _hit_ellipsoid)(part, origins, directions)
        closer = distance < nearest
        nearest = torch.where(closer, distance, nearest)
        colors = torch.where(closer[:, None], side_colors(normals), colors)
    shape = (len(cameras), size * supersample, size * supersample)
    rgb = colors.reshape(*shape, 3).permute(0, 3, 1, 2)
    mask = nearest.isfinite().float().reshape(*shape)[:, None]
    return avg_pool2d(rgb, supersample), avg_pool2d(mask, supersample)


def side_colors(normals: Tensor) -> Tensor:
    """(P, 3) unit normals -> (P, 3) colours, e.g. (0, 1, 0) -> green."""
    shares = torch.stack([normals.clamp(min=0), normals.clamp(max=0)], dim=-1).square()  # (P, 3, 2)
    return shares.flatten(1) @ SIDES


def _hit_box(part: Part, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    center, half = torch.tensor(part.center), torch.tensor(part.half)
    first, second = (center - half - origins) / directions, (center + half - origins) / directions
    entry, axis = torch.minimum(first, second).max(-1)
    leave = torch.maximum(first, second).amin(-1)
    normals = torch.zeros_like(directions).scatter(1, axis[:, None], -directions.gather(1, axis[:, None]).sign())
    return torch.where(leave > entry, entry, torch.inf), normals


def _hit_ellipsoid(part: Part, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    center, half = torch.tensor(part.center), torch.tensor(part.half)
    o, d = (origins - center) / half, directions / half
    a, b, c = (d * d).sum(-1), (o * d).sum(-1), (o * o).sum(-1) - 1
    square = b * b - a * c
    distance = (-b - square.clamp(min=0).sqrt()) / a
    normals = normalize((o + d * distance[:, None]) / half, dim=-1)
    return torch.where(square > 0, distance, torch.inf), normals


def inside(points: Tensor, but: Part | None = None) -> Tensor:
    """Whether points lie strictly inside any part except `but`."""
    result = torch.zeros(len(points), dtype=torch.bool)
    for part in PARTS:
        if part is but:
            continue
        scaled = (points - torch.tensor(part.center)) / torch.tensor(part.half)
        result |= (scaled.square().sum(-1) < 1) if part.kind == "ellipsoid" else (scaled.abs().amax(-1) < 1)
    return result


def surface(count: int, generator: torch.Generator) -> Tensor:
    """Points spread evenly over the union's surface."""
    clouds = []
    for part in PARTS:
        half = torch.tensor(part.half)
        if (
            part.kind == "ellipsoid"
        ):  # evenly on the sphere, then kept in proportion to how much the ellipsoid stretches
            unit = normalize(torch.randn(count, 3, generator=generator), dim=-1)
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
