"""The renderer: known pictures, joined parts, closed form against stepping, views that agree, batches, rays."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from upfusion_core.geometry import camera_rays, orbit_cameras
from upfusion_core.procedural import Objects, draw_objects, render_views, signed_distance
from upfusion_core.procedural import render as render_module
from upfusion_core.procedural.primitives import Tables
from upfusion_core.procedural.render import LIGHT_STRENGTH, trace_rays
from upfusion_core.procedural.shapes import (
    ALONE,
    BLEND,
    BODY,
    BOX,
    CUT,
    ELLIPSOID,
    FRUSTUM,
    INTERSECT,
    Coats,
    Light,
    Primitives,
    bounding_balls,
)
from upfusion_core.types import Cameras

Shape = tuple[int, tuple[float, ...], tuple[float, ...]]  # kind, centre, size
BALL: Shape = (ELLIPSOID, (0.0, 0.0, 0.0), (0.2, 0.2, 0.2, 0.0))
COLOR = torch.tensor([0.5, 0.25, 0.75])
FRONT, BACK = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[[0.0, 0.0, -1.0]]])


def thing(
    first: Shape, second: Shape = BALL, joint: int = ALONE, color: Tensor = COLOR, blend: float = 0.05
) -> Objects:
    """One plain part under light that is the same from everywhere, so that its colour is what is seen."""

    def primitives(kind: int, *places: tuple[float, ...]) -> Primitives:
        return Primitives(torch.tensor([[kind]]), torch.eye(3)[None, None], *(torch.tensor([[at]]) for at in places))

    none, axes = torch.zeros(1, 1, 3), torch.eye(3)[:2].expand(1, 1, 3, 2, 3)
    coats = Coats(none.long(), color.expand(1, 1, 3, 2, 3).clone(), axes, none + 1, none, none)
    light = Light(FRONT, torch.tensor([LIGHT_STRENGTH]), torch.ones(1, 3) / LIGHT_STRENGTH)
    joints, blends, roles = torch.tensor([[joint]]), torch.tensor([[blend]]), torch.tensor([[BODY]])
    return Objects(primitives(*first), primitives(*second), joints, blends, roles, coats, torch.zeros(1, 1, 4), light)


def views_of(cameras: Cameras, count: int = 1) -> tuple[Tensor, Tensor]:
    matrices, focal = cameras.camera_to_world, cameras.focal
    return matrices.expand(count, *matrices.shape), focal.expand(count, *focal.shape)


def traced(objects: Objects, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """rgb (B, R, 3) over white, opacity and depth (B, R, 1) of rays (B, R, 3) from origins (B, 3)."""
    seen = trace_rays(Tables(objects), torch.arange(len(objects)), origins, directions)
    seen = seen.unflatten(1, directions.shape[:2]).permute(1, 2, 0)
    return seen[..., :3] + (1 - seen[..., 3:4]), seen[..., 3:4], seen[..., 4:]


def test_a_ball_and_its_light_by_hand() -> None:
    rgb, opacity, depth = render_views(thing(BALL), *views_of(orbit_cameras(0.0, 0.0)), 65)
    assert rgb.shape == (1, 1, 3, 65, 65)
    assert float(depth[0, 0, 0, 32, 32]) == pytest.approx(0.8, abs=1e-4)
    # the silhouette of radius tan(asin 0.2) · 4.5 in NDC
    radius = math.tan(math.asin(0.2)) * 4.5
    assert float(opacity.mean()) == pytest.approx(math.pi * radius**2 / 4, rel=2e-3)
    assert torch.equal(rgb[0, 0, :, 0, 0], torch.ones(3))
    assert float(depth[0, 0, 0, 0, 0]) == 0
    assert torch.allclose(rgb[0, 0, :, 32, 32], COLOR, atol=1e-5)
    edge = rgb[0, 0, 0][(opacity[0, 0, 0] > 0.3) & (opacity[0, 0, 0] < 0.7)]
    assert edge.min() > 0.55  # half white
    lit = replace(thing(BALL), light=Light(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([0.4]), torch.ones(1, 3)))
    rgb = render_views(lit, *views_of(orbit_cameras(0.0, 0.0)), 33)[0][0, 0, :, 16]
    assert rgb[0, 27] > rgb[0, 16] > rgb[0, 5]
    # at the front n·l = 0: 0.4 + 0.72 · 0.5^1.5, times the colour
    assert torch.allclose(rgb[:, 16], COLOR * (0.4 + 0.72 * 0.5**1.5), atol=0.01)


@pytest.mark.parametrize(
    ("second", "joint", "x", "expected"),
    [
        ((FRUSTUM, (0.0, 0.0, 0.0), (0.05, 0.05, 0.3, 0.0)), CUT, 0.0, 0.8),  # the hole runs along y: not seen from z
        ((BOX, (0.0, 0.0, 0.2), (0.3, 0.3, 0.1, 0.0)), CUT, 0.0, 0.9),  # the front is cut off at z = 0.1
        ((BOX, (0.0, 0.0, 0.2), (0.05, 0.3, 0.1, 0.0)), CUT, 0.12, 0.84),  # beside the cut the ball is whole
        ((BOX, (0.0, 0.0, 0.0), (0.3, 0.3, 0.4, 0.0)), CUT, 0.0, 0.0),
        ((BOX, (0.0, 0.0, -0.2), (0.3, 0.3, 0.1, 0.0)), INTERSECT, 0.0, 1.1),
        ((BOX, (0.3, 0.0, 0.0), (0.2, 0.3, 0.3, 0.0)), INTERSECT, 0.0, 0.0),
        ((ELLIPSOID, (0.0, 0.0, 0.1), (0.2, 0.2, 0.2, 0.0)), BLEND, 0.0, 0.7),  # far enough from both to be the ball
    ],
)
def test_joined_hits_by_hand(second: tuple, joint: int, x: float, expected: float) -> None:
    solid = thing(BALL, second, joint, blend=0.0)
    origins = torch.tensor([[x, 0.0, 1.0]])
    _, _, depth = traced(solid, origins, BACK)
    assert float(depth) == pytest.approx(expected, abs=5e-4)


def test_the_nearest_part_wins_and_absent_parts_are_not_there() -> None:
    near, far = thing((BOX, (0.0, 0.0, 0.1), (0.05, 0.05, 0.05, 0.0)), color=torch.tensor([1.0, 0.0, 0.0])), thing(BALL)
    both = _side_by_side(near, far)
    _, _, depth = traced(both, FRONT, BACK)
    assert float(depth) == pytest.approx(0.8, abs=1e-4)  # the ball reaches beyond the box
    assert [float(part.sum()) for part in traced(both, FRONT, -BACK)] == [3, 0, 0]  # nothing to see is white
    moved = replace(both, first=replace(both.first, center=both.first.center + torch.tensor([0.0, 0.0, 0.07])))
    moved.first.center[0, 1] = 0
    rgb, _, depth = traced(moved, FRONT, BACK)
    assert float(depth) == pytest.approx(0.78, abs=1e-4)
    assert torch.allclose(rgb[0, 0], torch.tensor([1.0, 0.0, 0.0]))
    gone = replace(moved, role=torch.tensor([[-1, BODY]]))
    rgb, _, _ = traced(gone, FRONT, BACK)
    assert torch.allclose(rgb[0, 0], COLOR)


def _side_by_side(one: Objects, two: Objects) -> Objects:
    def merged(a: Any, b: Any) -> Any:  # noqa: ANN401
        if a is None or isinstance(a, Tensor | Light):
            return torch.cat([a, b], dim=1) if isinstance(a, Tensor) else a
        return type(a)(*(merged(getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__))

    return merged(one, two)


@pytest.mark.parametrize("split", ["train", "test"])
def test_closed_form_agrees_with_stepping(split: str) -> None:
    """Every pixel's depth against sphere tracing of the whole object's signed distance."""
    objects, _ = draw_objects(split, range(12))
    rays = camera_rays(orbit_cameras(40.0, 20.0), 20, 20)
    origins, directions = (part.reshape(1, -1, 3).expand(12, -1, -1) for part in (rays.origins, rays.directions))
    _, opacity, depth = traced(objects, origins[:, 0], directions)
    t = torch.full(depth.shape[:2], 0.75)
    for _ in range(120):
        distance = signed_distance(objects, origins + t[..., None] * directions)
        t = t + 0.7 * distance.clamp_max(0.05)
    stepped = distance.abs() < 2e-4
    hit = opacity[..., 0] > 0
    assert (hit != stepped).float().mean() < 0.004  # grazing rays
    both = hit & stepped
    off = (t - depth[..., 0]).abs()[both]
    assert off.median() < 2e-4
    assert (off > 2e-3).float().mean() < 0.01


def test_batches_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    objects, _ = draw_objects("train", range(12))
    matrices, focal = views_of(orbit_cameras([0.0, 120.0], 15.0), 12)
    together = render_views(objects, matrices, focal, 16)
    monkeypatch.setitem(render_module._CHUNK_RAYS, "cpu", 1024)
    chunked = render_views(objects, matrices, focal, 16)
    alone = [render_views(objects[i], matrices[i : i + 1], focal[i : i + 1], 16) for i in range(12)]
    for whole, cut, single in zip(together, chunked, zip(*alone, strict=True), strict=True):
        assert torch.allclose(whole, cut, atol=1e-5)
        assert torch.allclose(whole, torch.cat(single), atol=1e-5)


def test_balls_hold_their_parts() -> None:
    objects, _ = draw_objects("train", range(200))
    center, radius = bounding_balls(objects)
    present = objects.present
    assert (radius[present] > 0).all()
    assert (radius[~present] == -1).all()
    blended = present & (objects.joint == BLEND)
    for primitives in (objects.first, objects.second):
        gap = (primitives.center - center).norm(dim=-1)[blended]
        own = primitives.size[..., :3].amax(-1)[blended]
        assert (gap + own <= radius[blended] + 1e-5).all()
