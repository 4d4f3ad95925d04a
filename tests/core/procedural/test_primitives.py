"""Hits, distances and normals of primitives: by hand first, then against marching along their signed distances."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from upfusion_core.procedural import primitives
from upfusion_core.procedural.shapes import BOX, ELLIPSOID, FRUSTUM, TORUS

WHOLE = math.pi
CASES = [
    (ELLIPSOID, (0.1, 0.2, 0.05, 0.0)),
    (BOX, (0.1, 0.2, 0.05, 0.0)),
    (FRUSTUM, (0.1, 0.1, 0.2, 0.0)),
    (FRUSTUM, (0.15, 0.0, 0.05, 0.0)),
    (FRUSTUM, (0.02, 0.2, 0.03, 0.0)),
    (TORUS, (0.15, 0.03, 0.0, WHOLE)),
    (TORUS, (0.15, 0.03, 0.0, 1.2)),
]


def columns(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows).T.contiguous()


def first_hit(kind: int, origins: Tensor, directions: Tensor, size: tuple[float, ...]) -> Tensor:
    sizes = torch.tensor(size)[:, None].expand(4, origins.shape[1])
    if kind == TORUS:
        return primitives.torus_hit(origins, directions, sizes)
    interval = (primitives.ellipsoid_interval, primitives.box_interval, primitives.frustum_interval)[kind]
    return interval(origins, directions, sizes)[0]


@pytest.mark.parametrize(
    ("kind", "size", "origin", "direction", "expected"),
    [
        (ELLIPSOID, (0.2, 0.2, 0.2, 0.0), (0, 0, 1), (0, 0, -1), 0.8),
        (ELLIPSOID, (0.1, 0.2, 0.3, 0.0), (0, 1, 0), (0, -1, 0), 0.8),
        (ELLIPSOID, (0.2, 0.2, 0.2, 0.0), (0.12, 0, 1), (0, 0, -1), 0.84),  # 0.16² + 0.12² = 0.2²
        (ELLIPSOID, (0.2, 0.2, 0.2, 0.0), (0.21, 0, 1), (0, 0, -1), math.inf),
        (BOX, (0.1, 0.2, 0.3, 0.0), (0.05, 0.1, 1), (0, 0, -1), 0.7),
        (BOX, (0.1, 0.2, 0.3, 0.0), (1, 0, 0), (-1, 0, 0), 0.9),
        (BOX, (0.1, 0.2, 0.3, 0.0), (0.11, 0, 1), (0, 0, -1), math.inf),
        (FRUSTUM, (0.1, 0.1, 0.2, 0.0), (0, 0.1, 1), (0, 0, -1), 0.9),  # a cylinder's side
        (FRUSTUM, (0.1, 0.1, 0.2, 0.0), (0.05, 1, 0), (0, -1, 0), 0.8),  # its disc
        (FRUSTUM, (0.1, 0.1, 0.2, 0.0), (0, 0.21, 1), (0, 0, -1), math.inf),
        (FRUSTUM, (0.2, 0.0, 0.2, 0.0), (0, 0, 1), (0, 0, -1), 0.9),  # a cone, radius 0.1 half way up
        (FRUSTUM, (0.2, 0.0, 0.2, 0.0), (0.05, 1, 0), (0, -1, 0), 0.9),  # straight down on its side, at y = 0.1
        (FRUSTUM, (0.0, 0.2, 0.2, 0.0), (0.05, -1, 0), (0, 1, 0), 0.9),
        (TORUS, (0.15, 0.05, 0.0, WHOLE), (1, 0, 0), (-1, 0, 0), 0.8),
        (TORUS, (0.15, 0.05, 0.0, WHOLE), (0, 0.15, 1), (0, 0, -1), 0.95),
        (TORUS, (0.15, 0.05, 0.0, WHOLE), (0, 0, 1), (0, 0, -1), math.inf),  # through the hole
        (TORUS, (0.15, 0.05, 0.0, 1.0), (-1, 0, 0), (1, 0, 0), 1.1),  # a section is open at -x
        (TORUS, (0.15, 0.05, 0.0, 1.0), (-0.15, 0, 1), (0, 0, -1), math.inf),
    ],
)
def test_hits_by_hand(
    kind: int, size: tuple[float, ...], origin: tuple[float, ...], direction: tuple[float, ...], expected: float
) -> None:
    # as the renderer does, from the point of the ray that is nearest to the primitive
    start, heading = columns(tuple(map(float, origin))), columns(tuple(map(float, direction)))
    shift = -primitives.dot(start, heading)
    hit = float(first_hit(kind, start + shift * heading, heading, size) + shift)
    assert hit == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "size", "point", "distance"),
    [
        (ELLIPSOID, (0.2, 0.2, 0.2, 0.0), (0.3, 0, 0), 0.1),
        (BOX, (0.1, 0.2, 0.3, 0.0), (0.4, 0.6, 0.1), 0.5),
        (BOX, (0.1, 0.2, 0.3, 0.0), (0.06, 0, 0), -0.04),
        (FRUSTUM, (0.1, 0.1, 0.2, 0.0), (0.13, 0.24, 0), 0.05),
        (FRUSTUM, (0.1, 0.1, 0.2, 0.0), (0, -0.15, 0), -0.05),
        (FRUSTUM, (0.3, 0.0, 0.2, 0.0), (0.31, 0.12, 0), 0.2),  # (0.15, 0) on the side, then 0.2 · (0.8, 0.6)
        (TORUS, (0.15, 0.05, 0.0, WHOLE), (0, 0.15, 0.1), 0.05),
        (TORUS, (0.15, 0.05, 0.0, WHOLE), (0, 0, 0), 0.1),
        (TORUS, (0.15, 0.05, 0.0, WHOLE), (-0.25, 0, 0), 0.05),
        (TORUS, (0.2, 0.05, 0.0, math.pi / 2), (-0.1, 0.2, 0), 0.05),  # beyond the end at (0, 0.2)
    ],
)
def test_distances_by_hand(kind: int, size: tuple[float, ...], point: tuple[float, ...], distance: float) -> None:
    found = primitives.primitive_distance(torch.tensor([kind]), columns(tuple(map(float, point))), columns(size))
    assert float(found) == pytest.approx(distance, abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "size", "point", "normal"),
    [
        (ELLIPSOID, (0.2, 0.2, 0.2, 0.0), (0.12, 0.16, 0), (0.6, 0.8, 0)),
        (ELLIPSOID, (0.1, 0.2, 0.2, 0.0), (0.06, 0.16, 0), (6 / 52**0.5, 4 / 52**0.5, 0)),  # (0.06/0.01, 0.16/0.04)
        (BOX, (0.1, 0.2, 0.3, 0.0), (0.05, -0.2, 0.1), (0, -1, 0)),
        (FRUSTUM, (0.1, 0.1, 0.2, 0.0), (0.06, 0.1, 0.08), (0.6, 0, 0.8)),
        (FRUSTUM, (0.1, 0.1, 0.2, 0.0), (0.06, -0.2, 0.01), (0, -1, 0)),
        (FRUSTUM, (0.3, 0.0, 0.2, 0.0), (0.15, 0, 0), (0.8, 0.6, 0)),
        (TORUS, (0.15, 0.05, 0.0, WHOLE), (0, 0.1, 0), (0, -1, 0)),
        (TORUS, (0.2, 0.05, 0.0, math.pi / 2), (-0.05, -0.2, 0), (-1, 0, 0)),
    ],
)
def test_normals_by_hand(
    kind: int, size: tuple[float, ...], point: tuple[float, ...], normal: tuple[float, ...]
) -> None:
    found = primitives.primitive_normal(torch.tensor([kind]), columns(tuple(map(float, point))), columns(size))
    assert torch.allclose(found[:, 0], torch.tensor(normal, dtype=torch.float32), atol=1e-5)


@pytest.mark.parametrize(("kind", "size"), CASES)
def test_hits_agree_with_marching(kind: int, size: tuple[float, ...]) -> None:
    generator = torch.Generator().manual_seed(kind)
    count = 3000
    directions = normalize(torch.randn(3, count, generator=generator), dim=0)
    origins = torch.randn(3, count, generator=generator) * 0.08
    origins = origins - primitives.dot(origins, directions) * directions
    sizes, kinds = torch.tensor(size)[:, None].expand(4, count), torch.full((count,), kind)
    t = first_hit(kind, origins, directions, size)
    steps = torch.linspace(-0.5, 0.5, 501)
    inside = torch.stack([primitives.primitive_distance(kinds, origins + s * directions, sizes) < 0 for s in steps])
    marched = steps[inside.float().argmax(0)]
    hit, met = torch.isfinite(t), inside.any(0)
    # a march of 0.002 misses grazing rays, and a torus met at a grazing angle may take more steps than it is given
    assert (hit != met).float().mean() < 0.01
    both = hit & met
    off = (t - marched)[both]
    assert off.max() < 1e-4
    assert (off < -0.0021).float().mean() < 0.01
    points, normals_at = (origins + t * directions)[:, hit], kinds[hit]
    assert primitives.primitive_distance(normals_at, points, sizes[:, hit]).abs().max() < 4e-4
    normals = primitives.primitive_normal(normals_at, points, sizes[:, hit])
    step = 1e-3
    gradient = torch.stack(
        [
            primitives.primitive_distance(normals_at, points + step * torch.eye(3)[:, axis : axis + 1], sizes[:, hit])
            - primitives.primitive_distance(normals_at, points - step * torch.eye(3)[:, axis : axis + 1], sizes[:, hit])
            for axis in range(3)
        ]
    )
    agreement = primitives.dot(normals, normalize(gradient, dim=0))
    assert agreement.quantile(0.05) > 0.999  # the rest lies on edges


def test_mixed_kinds_agree_with_each_kind() -> None:
    generator = torch.Generator().manual_seed(1)
    kinds = torch.arange(300) % 3
    sizes = 0.05 + 0.1 * torch.rand(4, 300, generator=generator)
    points = 0.2 * torch.randn(3, 300, generator=generator)
    directions = normalize(-points, dim=0)
    near, far = primitives.convex_interval(kinds, points, directions, sizes)
    for kind, interval in enumerate(
        (primitives.ellipsoid_interval, primitives.box_interval, primitives.frustum_interval)
    ):
        chosen = kinds == kind
        expected = interval(points[:, chosen], directions[:, chosen], sizes[:, chosen])
        assert torch.equal(near[chosen], expected[0])
        assert torch.equal(far[chosen], expected[1])
    mixed = primitives.primitive_distance(kinds, points, sizes)
    assert torch.equal(mixed, primitives.convex_distance(kinds, points, sizes))
