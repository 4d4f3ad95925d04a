import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from plain_objects import BALL, COLOR, Part, pictures, thing
from torch import Tensor

from upfusion_core.geometry import camera_rays, orbit_cameras
from upfusion_core.procedural import Objects, ProceduralObjects, draw_objects, render_views, signed_distance, true_mesh
from upfusion_core.procedural import render as render_module
from upfusion_core.procedural.primitives import Tables
from upfusion_core.procedural.render import SUPERSAMPLING, trace_rays
from upfusion_core.procedural.shapes import BLEND, BODY, BOX, CUT, ELLIPSOID, FRUSTUM, INTERSECT, Light
from upfusion_core.surface.rasterise import rasterise
from upfusion_core.surface.reading import Surface

FRONT, BACK = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[[0.0, 0.0, -1.0]]])


def traced(objects: Objects, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """rgb (B, R, 3) over white, opacity and depth (B, R, 1) of rays (B, R, 3) from origins (B, 3)."""
    seen = trace_rays(Tables(objects), torch.arange(len(objects)), origins, directions)
    seen = seen.unflatten(1, directions.shape[:2]).permute(1, 2, 0)
    return seen[..., :3] + (1 - seen[..., 3:4]), seen[..., 3:4], seen[..., 4:]


def test_a_ball_and_its_light_by_hand() -> None:
    seen = pictures(thing(Part(BALL)), orbit_cameras(0.0, 0.0), 65, SUPERSAMPLING)
    rgb, opacity, depth = seen.rgb[0], seen.opacity[0, 0], seen.depth[0, 0]
    assert float(depth[32, 32]) == pytest.approx(0.8, abs=1e-4)
    # the silhouette of radius tan(asin 0.2) · 4.5 in NDC
    radius = math.tan(math.asin(0.2)) * 4.5
    assert float(opacity.mean()) == pytest.approx(math.pi * radius**2 / 4, rel=2e-3)
    assert torch.equal(rgb[:, 0, 0], torch.ones(3))
    assert float(depth[0, 0]) == 0
    assert torch.allclose(rgb[:, 32, 32], COLOR, atol=1e-5)
    assert rgb[0][(opacity > 0.3) & (opacity < 0.7)].min() > 0.55  # half white
    beside = Light(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([0.4]), torch.ones(1, 3))
    lit = replace(thing(Part(BALL)), light=beside)
    rgb = pictures(lit, orbit_cameras(0.0, 0.0), 33, SUPERSAMPLING).rgb[0, :, 16]
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
    _, _, depth = traced(thing(Part(BALL, second, joint)), torch.tensor([[x, 0.0, 1.0]]), BACK)
    assert float(depth) == pytest.approx(expected, abs=5e-4)


def test_the_nearest_part_wins_and_absent_parts_are_not_there() -> None:
    red = torch.tensor([1.0, 0.0, 0.0])
    inside, ahead = (Part((BOX, (0.0, 0.0, z), (0.05, 0.05, 0.05, 0.0)), color=red) for z in (0.1, 0.17))
    _, _, depth = traced(thing(inside, Part(BALL)), FRONT, BACK)
    assert float(depth) == pytest.approx(0.8, abs=1e-4)  # the ball reaches beyond the box
    both = thing(ahead, Part(BALL))
    assert [float(part.sum()) for part in traced(both, FRONT, -BACK)] == [3, 0, 0]  # nothing to see is white
    rgb, _, depth = traced(both, FRONT, BACK)
    assert float(depth) == pytest.approx(0.78, abs=1e-4)
    assert torch.allclose(rgb[0, 0], red)
    rgb, _, _ = traced(replace(both, role=torch.tensor([[-1, BODY]])), FRONT, BACK)
    assert torch.allclose(rgb[0, 0], COLOR)


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
    hit, stepped = opacity[..., 0] > 0, distance.abs() < 2e-4
    assert (hit != stepped).float().mean() < 0.004  # grazing rays
    off = (t - depth[..., 0]).abs()[hit & stepped]
    assert off.median() < 2e-4
    assert (off > 2e-3).float().mean() < 0.01


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    objects, _ = draw_objects("train", range(12))
    cameras = orbit_cameras([0.0, 120.0], 15.0)
    matrices, focal = cameras.camera_to_world.expand(12, 2, 4, 4), cameras.focal.expand(12, 2, 2)
    together = render_views(objects, matrices, focal, 16)
    monkeypatch.setitem(render_module._CHUNK_RAYS, "cpu", 1024)
    chunked = render_views(objects, matrices, focal, 16)
    for whole, cut in zip(together, chunked, strict=True):
        assert torch.allclose(whole, cut, atol=1e-5)


@pytest.mark.parametrize(("index", "version"), [(0, 1), (3, 1), (4, 1), (11, 1), (0, 2), (1, 2)])
def test_meshes_are_closed_and_match_depth(index: int, version: int) -> None:
    batch = ProceduralObjects("test", version=version).batch([index], views=2, size=24)
    mesh = true_mesh(batch.objects, 96)
    assert mesh.is_watertight
    assert mesh.volume > 0  # triangles wind outwards
    assert np.linalg.norm(mesh.vertices, axis=1).max() < (0.2 if version == 1 else 0.217)
    colors, vertices = (torch.tensor(each).float() for each in (mesh.visual.vertex_colors[:, :3] / 255, mesh.vertices))
    faces, untextured = torch.tensor(mesh.faces), torch.full((len(mesh.faces),), -1)
    surface = Surface(vertices, faces, colors, torch.zeros(len(vertices), 2), (), untextured)
    pictures = rasterise(surface, batch.cameras(0), 24, supersampling=2)
    # cells of 0.0044 round off edges and may lose walls thinner than themselves
    assert (pictures.opacity - batch.mask[0]).abs().mean() < 0.01
    whole = (batch.mask[0] == 1) & (pictures.opacity == 1)
    off = (pictures.depth - batch.depth[0]).abs()[whole]
    assert off.median() < 4e-4
    assert (off > 0.01).float().mean() < 0.06  # pixels across an edge
    # without light the mesh is as bright as the object or brighter
    assert (pictures.rgb - batch.rgb[0]).mean() > -0.02


def test_a_ball_and_a_cut_by_hand() -> None:
    ball = (ELLIPSOID, (0.0, 0.0, 0.0), (0.15, 0.15, 0.15, 0.0))
    mesh = true_mesh(thing(Part(ball, color=torch.tensor([0.2, 0.4, 0.8]))), 64)
    assert mesh.volume == pytest.approx(4 / 3 * math.pi * 0.15**3, rel=5e-3)
    assert mesh.area == pytest.approx(4 * math.pi * 0.15**2, rel=1e-2)
    assert (np.asarray(mesh.visual.vertex_colors)[:, :3] == [51, 102, 204]).all()
    box, hole = ((BOX, (0.0, 0.0, 0.0), (half, half, half, 0.0)) for half in (0.1, 0.05))
    points = torch.tensor([[[0.0, 0, 0], [0.07, 0, 0], [0.2, 0, 0], [0.1, 0.1, 0.1]]])
    distances = signed_distance(thing(Part(box, hole, CUT)), points)[0]
    assert torch.allclose(distances, torch.tensor([0.05, -0.02, 0.1, 0.0]), atol=1e-6)
