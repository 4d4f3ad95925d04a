import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from upfusion_core.procedural import primitives
from upfusion_core.procedural.shapes import BOX, ELLIPSOID, FRUSTUM, TORUS

BALL, PILL = (0.2, 0.2, 0.2, 0.0), (0.1, 0.2, 0.05, 0.0)
CRATE, TUBE = (0.1, 0.2, 0.3, 0.0), (0.1, 0.1, 0.2, 0.0)
RING = (0.15, 0.05, 0.0, math.pi)
CASES = [
    *[(ELLIPSOID, PILL), (BOX, PILL), (FRUSTUM, TUBE), (FRUSTUM, (0.15, 0.0, 0.05, 0.0))],
    *[(FRUSTUM, (0.02, 0.2, 0.03, 0.0)), (TORUS, (0.15, 0.03, 0.0, math.pi)), (TORUS, (0.15, 0.03, 0.0, 1.2))],
]
Numbers = tuple[float, ...]


def columns(row: Numbers) -> Tensor:
    return torch.tensor(row, dtype=torch.float32)[:, None]


def first_hit(kind: int, origins: Tensor, directions: Tensor, size: Numbers) -> Tensor:
    return primitives.first_hit(kind, origins, directions, columns(size).expand(4, origins.shape[1]))


@pytest.mark.parametrize(
    ("kind", "size", "origin", "direction", "expected"),
    [
        (ELLIPSOID, BALL, (0, 0, 1), (0, 0, -1), 0.8),
        (ELLIPSOID, CRATE, (0, 1, 0), (0, -1, 0), 0.8),
        (ELLIPSOID, BALL, (0.12, 0, 1), (0, 0, -1), 0.84),  # 0.16² + 0.12² = 0.2²
        (ELLIPSOID, BALL, (0.21, 0, 1), (0, 0, -1), math.inf),
        (BOX, CRATE, (0.05, 0.1, 1), (0, 0, -1), 0.7),
        (BOX, CRATE, (1, 0, 0), (-1, 0, 0), 0.9),
        (BOX, CRATE, (0.11, 0, 1), (0, 0, -1), math.inf),
        (FRUSTUM, TUBE, (0, 0.1, 1), (0, 0, -1), 0.9),  # a cylinder's side
        (FRUSTUM, TUBE, (0.05, 1, 0), (0, -1, 0), 0.8),  # its disc
        (FRUSTUM, TUBE, (0, 0.21, 1), (0, 0, -1), math.inf),
        (FRUSTUM, (0.2, 0.0, 0.2, 0.0), (0, 0, 1), (0, 0, -1), 0.9),  # a cone, radius 0.1 half way up
        (FRUSTUM, (0.2, 0.0, 0.2, 0.0), (0.05, 1, 0), (0, -1, 0), 0.9),  # straight down on its side, at y = 0.1
        (FRUSTUM, (0.0, 0.2, 0.2, 0.0), (0.05, -1, 0), (0, 1, 0), 0.9),
        (TORUS, RING, (1, 0, 0), (-1, 0, 0), 0.8),
        (TORUS, RING, (0, 0.15, 1), (0, 0, -1), 0.95),
        (TORUS, RING, (0, 0, 1), (0, 0, -1), math.inf),  # through the hole
        (TORUS, (0.15, 0.05, 0.0, 1.0), (-1, 0, 0), (1, 0, 0), 1.1),  # a section is open at -x
        (TORUS, (0.15, 0.05, 0.0, 1.0), (-0.15, 0, 1), (0, 0, -1), math.inf),
    ],
)
def test_hits_by_hand(kind: int, size: Numbers, origin: Numbers, direction: Numbers, expected: float) -> None:
    # as the renderer does, from the point of the ray that is nearest to the primitive
    start, heading = columns(origin), columns(direction)
    shift = -primitives.dot(start, heading)
    hit = float(first_hit(kind, start + shift * heading, heading, size) + shift)
    assert hit == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "size", "point", "distance"),
    [
        (ELLIPSOID, BALL, (0.3, 0, 0), 0.1),
        (BOX, CRATE, (0.4, 0.6, 0.1), 0.5),
        (BOX, CRATE, (0.06, 0, 0), -0.04),
        (FRUSTUM, TUBE, (0.13, 0.24, 0), 0.05),
        (FRUSTUM, TUBE, (0, -0.15, 0), -0.05),
        (FRUSTUM, (0.3, 0.0, 0.2, 0.0), (0.31, 0.12, 0), 0.2),  # (0.15, 0) on the side, then 0.2 · (0.8, 0.6)
        (TORUS, RING, (0, 0.15, 0.1), 0.05),
        (TORUS, RING, (0, 0, 0), 0.1),
        (TORUS, RING, (-0.25, 0, 0), 0.05),
        (TORUS, (0.2, 0.05, 0.0, math.pi / 2), (-0.1, 0.2, 0), 0.05),  # beyond the end at (0, 0.2)
    ],
)
def test_distances_by_hand(kind: int, size: Numbers, point: Numbers, distance: float) -> None:
    found = primitives.primitive_distance(torch.tensor([kind]), columns(point), columns(size))
    assert float(found) == pytest.approx(distance, abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "size", "point", "normal"),
    [
        (ELLIPSOID, BALL, (0.12, 0.16, 0), (0.6, 0.8, 0)),
        (ELLIPSOID, (0.1, 0.2, 0.2, 0.0), (0.06, 0.16, 0), (6 / 52**0.5, 4 / 52**0.5, 0)),  # (0.06/0.01, 0.16/0.04)
        (BOX, CRATE, (0.05, -0.2, 0.1), (0, -1, 0)),
        (FRUSTUM, TUBE, (0.06, 0.1, 0.08), (0.6, 0, 0.8)),
        (FRUSTUM, TUBE, (0.06, -0.2, 0.01), (0, -1, 0)),
        (FRUSTUM, (0.3, 0.0, 0.2, 0.0), (0.15, 0, 0), (0.8, 0.6, 0)),
        (TORUS, RING, (0, 0.1, 0), (0, -1, 0)),
        (TORUS, (0.2, 0.05, 0.0, math.pi / 2), (-0.05, -0.2, 0), (-1, 0, 0)),
    ],
)
def test_normals_by_hand(kind: int, size: Numbers, point: Numbers, normal: Numbers) -> None:
    found = primitives.primitive_normal(torch.tensor([kind]), columns(point), columns(size))
    assert torch.allclose(found, columns(normal), atol=1e-5)


@pytest.mark.parametrize(("kind", "size"), CASES)
def test_hits_agree_with_marching(kind: int, size: Numbers) -> None:
    def distance(points: Tensor) -> Tensor:
        return primitives.primitive_distance(torch.tensor(kind), points, columns(size).expand(4, points.shape[1]))

    generator = torch.Generator().manual_seed(kind)
    directions = normalize(torch.randn(3, 3000, generator=generator), dim=0)
    origins = torch.randn(3, 3000, generator=generator) * 0.08
    origins = origins - primitives.dot(origins, directions) * directions
    t = first_hit(kind, origins, directions, size)
    steps = torch.linspace(-0.5, 0.5, 501)
    inside = torch.stack([distance(origins + step * directions) < 0 for step in steps])
    hit, met = torch.isfinite(t), inside.any(0)
    # a march of 0.002 misses grazing rays, and a torus met at a grazing angle may take more steps than it is given
    assert (hit != met).float().mean() < 0.01
    off = (t - steps[inside.float().argmax(0)])[hit & met]
    assert off.max() < 1e-4
    assert (off < -0.0021).float().mean() < 0.01
    points = (origins + t * directions)[:, hit]
    assert distance(points).abs().max() < 4e-4
    slopes = [distance(points + step) - distance(points - step) for step in 1e-3 * torch.eye(3)[..., None]]
    normals = primitives.primitive_normal(torch.tensor(kind), points, columns(size))
    agreement = primitives.dot(normals, normalize(torch.stack(slopes), dim=0))
    assert agreement.quantile(0.05) > 0.999  # the rest lies on edges
