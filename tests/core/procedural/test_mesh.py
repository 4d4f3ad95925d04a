"""True meshes: closed, of known size, and where the renderer's depth says."""

import math

import numpy as np
import pytest
import torch

from upfusion_core.procedural import ProceduralObjects, draw_objects, signed_distance, true_mesh
from upfusion_core.procedural.shapes import BOX, CUT, ELLIPSOID
from upfusion_core.surface.rasterise import rasterise
from upfusion_core.surface.reading import Surface


@pytest.mark.parametrize(("index", "version"), [(0, 1), (3, 1), (4, 1), (11, 1), (0, 2), (1, 2)])
def test_meshes_are_closed_and_match_depth(index: int, version: int) -> None:
    batch = ProceduralObjects("test", version=version).batch([index], views=2, size=24)
    mesh = true_mesh(batch.objects, 96)
    assert mesh.is_watertight
    assert mesh.volume > 0  # triangles wind outwards
    assert np.linalg.norm(mesh.vertices, axis=1).max() < (0.2 if version == 1 else 0.217)
    colors = torch.tensor(np.asarray(mesh.visual.vertex_colors)[:, :3] / 255, dtype=torch.float32)
    vertices = torch.tensor(np.asarray(mesh.vertices), dtype=torch.float32)
    faces = torch.tensor(np.asarray(mesh.faces), dtype=torch.int64)
    none = torch.full((len(faces),), -1)
    surface = Surface(vertices, faces, colors, torch.zeros(len(vertices), 2), (), none)
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
    objects, _ = draw_objects("train", [0])
    objects = objects.first_parts(1)
    objects.first.kind[0, 0], objects.joint[0, 0] = ELLIPSOID, 0
    objects.first.center[0, 0] = 0
    objects.first.size[0, 0] = torch.tensor([0.15, 0.15, 0.15, 0.0])
    objects.coats.pattern[0, 0, 0], objects.label[0, 0] = 0, 0
    objects.coats.colors[0, 0, 0, 0] = torch.tensor([0.2, 0.4, 0.8])
    mesh = true_mesh(objects, 64)
    assert mesh.volume == pytest.approx(4 / 3 * math.pi * 0.15**3, rel=5e-3)
    assert mesh.area == pytest.approx(4 * math.pi * 0.15**2, rel=1e-2)
    assert (np.asarray(mesh.visual.vertex_colors)[:, :3] == [51, 102, 204]).all()
    objects, _ = draw_objects("train", [0])
    objects = objects.first_parts(1)
    for primitives, kind, size in ((objects.first, BOX, 0.1), (objects.second, BOX, 0.05)):
        primitives.kind[0, 0], primitives.center[0, 0] = kind, 0
        primitives.rotation[0, 0] = torch.eye(3)
        primitives.size[0, 0] = size
    objects.joint[0, 0] = CUT
    points = torch.tensor([[[0.0, 0, 0], [0.07, 0, 0], [0.2, 0, 0], [0.1, 0.1, 0.1]]])
    assert torch.allclose(signed_distance(objects, points)[0], torch.tensor([0.05, -0.02, 0.1, 0.0]), atol=1e-6)
