import math
from dataclasses import replace

import pytest
import torch

from upfusion_core import InputViews, MeshAsset, PhotoCameras, orbit_cameras, register_mesh
from upfusion_core.geometry.cameras import Similarity
from upfusion_core.surface import registration
from upfusion_core.surface.rasterise import rasterise
from upfusion_core.surface.reading import Surface

CAMERAS = orbit_cameras([0.0, 70.0], [20.0, 5.0])
QUICK = replace(
    registration.MESHES, yaw_degrees=(0.0, 120.0, 240.0), starts=1, coarse_size=24, coarse_steps=8, fine_size=48,
    fine_steps=8,
)  # fmt: skip


def wedge() -> MeshAsset:
    """A box of 24 x 12 x 36 hundredths of photo 1's distance, one of whose edges is cut, each corner of its colour."""
    corners = torch.tensor([[x, y, z] for x in (-0.12, 0.12) for y in (-0.06, 0.06) for z in (-0.18, 0.18)])
    corners[7, 1] = 0.0
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = torch.tensor([triangle for a, b, c, d in quads for triangle in ((a, b, c), (a, c, d))])
    return MeshAsset(corners, faces, 0.2 + 0.6 * (corners > 0).float())


def photos(mesh: MeshAsset, count: int) -> tuple[InputViews, PhotoCameras]:
    bare = torch.zeros(len(mesh.vertices), 2), (), torch.full((len(mesh.faces),), -1)
    seen = rasterise(Surface(mesh.vertices, mesh.faces, mesh.vertex_colors, *bare), CAMERAS[:count], 64)
    views = InputViews(seen.rgb, seen.opacity.clamp(0, 1), CAMERAS.focal[:count])
    return views, PhotoCameras(CAMERAS[:count], torch.ones(count, dtype=torch.bool), torch.ones(count))


@pytest.mark.parametrize("count", [1, 2])
def test_a_moved_mesh_comes_back(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(registration, "MESHES", QUICK)
    monkeypatch.setattr(registration, "SAMPLES", {24: 4, 48: 3})
    mesh = wedge()
    views, cameras = photos(mesh, count)
    moved = Similarity.from_angles(-25.0, 3.0, scale=7.0, shift=(0.3, -2.0, 5.0))
    found = register_mesh(replace(mesh, vertices=moved.apply(mesh.vertices)), views, cameras)
    left = found.similarity.rotation @ moved.rotation
    assert math.degrees(math.acos(min(1.0, float(left.trace() - 1) / 2))) < 3
    assert found.similarity.scale * 7 == pytest.approx(1, abs=0.02)
    assert float((found.mesh.vertices - mesh.vertices).abs().max()) < 0.02 * 0.36
    assert found.overlap > 0.95
    assert found.report().startswith("turned by 2")


def test_photo_1_alone_tells_and_a_bad_fit_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flat strip is no wedge; with no cameras the first photo counts, from the usual place."""
    monkeypatch.setattr(registration, "MESHES", replace(QUICK, coarse_steps=2, fine_steps=2, starts=1))
    views, _ = photos(wedge(), 2)
    strip = torch.tensor([[-1.0, 0, 0], [1, 0, 0], [1, 0.05, 0], [-1, 0.05, 0]])
    mesh = MeshAsset(strip, torch.tensor([[0, 1, 2], [0, 2, 3]]), torch.full((4, 3), 0.5))
    found = register_mesh(mesh, views)
    assert found.overlap < 0.9
    assert found.report().endswith("look at it")
