import math
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import trimesh
from analytic_fields import AnalyticField, ball, solid, torus
from skimage import measure
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize

from upfusion_core import MeshAsset, orbit_cameras
from upfusion_core.config import RaySampling
from upfusion_core.evaluation.metrics import mask_iou
from upfusion_core.field.rendering import render_views
from upfusion_core.support.devices import Chunk
from upfusion_core.support.errors import FieldError
from upfusion_core.surface import extract
from upfusion_core.surface.extract import agreeing_level, best_level, decimate, extract_mesh, surface_level
from upfusion_core.surface.rasterise import rasterise
from upfusion_core.surface.reading import read_surface


def _solid(mesh: MeshAsset) -> trimesh.Trimesh:
    return solid(mesh.vertices, mesh.faces)


def test_a_ball_and_a_torus() -> None:
    mesh = extract_mesh(AnalyticField(ball(peak=40.0, center=(0.05, 0.1, -0.1))), 64)
    assert _solid(mesh).volume == pytest.approx(4 / 3 * math.pi * 0.2**3, rel=0.05)
    radius = (mesh.vertices - torch.tensor([0.05, 0.1, -0.1])).norm(dim=-1)
    assert abs(float(radius.mean()) - 0.2) < 0.004  # samples lie 0.0065 apart
    assert float(radius.std()) < 5e-4
    torch.testing.assert_close(mesh.vertex_colors, mesh.vertices + 0.5, atol=0.02, rtol=0)
    mesh = extract_mesh(AnalyticField(torus(softness=0.008)), 72, 150.0)
    found = _solid(mesh)
    assert found.euler_number == 0
    assert found.volume == pytest.approx(2 * math.pi**2 * 0.18 * 0.07**2, rel=0.02)
    assert found.area == pytest.approx(4 * math.pi**2 * 0.18 * 0.07, rel=0.02)
    ring = normalize(mesh.vertices * torch.tensor([1.0, 0, 1]), dim=-1)
    outward = normalize(mesh.vertices - 0.18 * ring, dim=-1)
    assert float((mesh.normals * outward).sum(-1).min()) > 0.97


def test_the_level_is_the_given_one_or_follows_the_scale_of_the_density() -> None:
    def radius(density: Callable[[Tensor], Tensor], threshold: float | None = None) -> float:
        return float(extract_mesh(AnalyticField(density), 64, threshold).vertices.norm(dim=-1).mean())

    for height in (20.0, 100.0, 180.0):
        expected = 0.2 - 0.004 * math.log(height / (200 - height))
        assert abs(radius(ball(), height) - expected) < 1e-3  # samples lie 0.007 apart
    for scale in (0.1, 10.0):
        assert abs(radius(ball(peak=200 * scale)) - 0.2) < 0.02
        assert abs(radius(ball(peak=50 * scale, softness=1e-6)) - 0.2) < 0.004  # a sample apart is 0.007


def test_fields_without_a_surface() -> None:
    for density, threshold, message in (
        (lambda points: torch.full(points.shape[:-1], 1e-4), None, "the field is empty"),
        (ball(peak=10.0), 50.0, "lower threshold"),
        (lambda points: points[..., 0] / 0, None, "not finite"),
        (lambda points: 50 + points[..., 0], None, "fills its box"),
        (lambda points: ball()(points) + 1, 0.5, r"fills its box.*higher threshold"),
    ):
        with pytest.raises(FieldError, match=message):
            extract_mesh(AnalyticField(density), 32, threshold)


def test_skipping_what_is_empty_or_full_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    field = AnalyticField(ball(0.35, peak=5000.0))
    options = {"low": field.aabb[0], "high": field.aabb[1], "spacing": 1 / 71, "level": 50.0}
    options |= {"chunk": Chunk(2**17, "point"), "report": lambda share: None}
    whole, asked = extract.sample_heights(field, **options), sum(field.asked)
    field.asked.clear()
    monkeypatch.setattr(extract, "COARSE", 24)
    sparse = extract.sample_heights(field, **options)
    assert whole.shape == sparse.shape == (72, 72, 72)
    # what is skipped is farther from the level than heights tell: the same, not only on the same side
    torch.testing.assert_close(whole, sparse, atol=1e-3, rtol=0)
    assert sum(field.asked) < 0.6 * asked


def test_floaters_and_borders() -> None:
    def balls(points: Tensor) -> Tensor:
        parts = [ball(0.2), ball(0.03, center=(0.4, 0.4, 0.4)), ball(0.12, center=(-0.35, -0.35, -0.35))]
        return torch.stack([part(points) for part in parts]).amax(0)

    for keep, count in ((0.05, 2), (0.0, 3), (1.0, 1)):
        assert _solid(extract_mesh(AnalyticField(balls), 48, 100.0, keep=keep)).body_count == count
    mesh = extract_mesh(AnalyticField(ball(0.3), extent=0.25), 48, 100.0)
    assert float(mesh.vertices.abs().max()) < 0.27
    assert _solid(mesh).volume > 0.9 * (0.5**3 - 8 * 0.02)


@pytest.mark.parametrize("cleared", [extract.CLEARED, 40])
def test_a_hollow_with_a_pinhole_is_filled(monkeypatch: pytest.MonkeyPatch, cleared: int) -> None:
    """And a floater goes, also where a volume is looked through in cells of several samples."""

    def density(points: Tensor) -> Tensor:
        shell = ball(0.2, 500.0)(points) - ball(0.12, 500.0)(points)
        pierced = shell * (points[..., :2].norm(dim=-1) > 0.003)
        return torch.maximum(pierced, ball(0.03, center=(0.3, 0.3, 0.3))(points))

    monkeypatch.setattr(extract, "CLEARED", cleared)
    mesh = _solid(extract_mesh(AnalyticField(density), 96, 100.0))
    assert mesh.body_count == 1
    radius = 0.2 + 0.004 * math.log((500 - 100) / 100)  # where the density is 100
    assert mesh.volume == pytest.approx(4 / 3 * math.pi * radius**3, rel=0.03)


def test_steps_grow_to_the_end_and_raising_cancels() -> None:
    steps, field = [], AnalyticField(ball())
    mesh = extract_mesh(field, 24, texture_size=64, on_step=lambda step, total, preview: steps.append((step, total)))
    assert mesh.texture.shape == (3, 64, 64)
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == ((0, 100), (100, 100))
    for calls in (1, 8, 15):
        with pytest.raises(KeyboardInterrupt):
            extract_mesh(field, 24, texture_size=64, on_step=Mock(side_effect=[None] * calls + [KeyboardInterrupt]))


@pytest.mark.parametrize("texture_size", [None, 512])
def test_a_saved_mesh_looks_like_its_field(tmp_path: Path, texture_size: int | None) -> None:
    """Read back and rasterised, against the field's own renders: the right way up, the right colours."""
    density, stripes = torus(peak=1500.0, softness=0.002), lambda points: 0.5 + 0.4 * torch.sin(points * 25)
    field = AnalyticField(density, color=stripes)
    extract_mesh(field, 64, texture_size=texture_size).save(tmp_path / "mesh.glb")
    cameras = orbit_cameras([30.0, 200.0], [25.0, -40.0])
    seen = rasterise(read_surface(tmp_path / "mesh.glb"), cameras, 64, supersampling=2)
    rays = render_views(field, field.aabb, cameras, 128, sampling=RaySampling(64, 32))
    truth, opacity = avg_pool2d(rays.rgb, 2), avg_pool2d(rays.opacity, 2)
    inside = ((seen.opacity > 0.99) & (opacity > 0.99)).expand_as(truth)
    error = (seen.rgb - truth)[inside].square().mean()
    assert -10 * math.log10(float(error)) > 28
    assert float(mask_iou(seen.opacity, opacity).min()) > 0.97


@pytest.mark.parametrize("budget", [2000, 500, 120])
def test_a_torus_of_fewer_triangles_stays_a_torus(budget: int) -> None:
    mesh = extract_mesh(AnalyticField(torus()), 48, 150.0, faces=budget)
    found = _solid(mesh)
    assert 0.8 * budget <= len(mesh.faces) <= budget
    assert found.euler_number == 0
    assert found.volume == pytest.approx(2 * math.pi**2 * 0.18 * 0.07**2, rel=0.15 if budget < 500 else 0.08)
    # colours and normals belong to the new vertices
    torch.testing.assert_close(mesh.vertex_colors, mesh.vertices + 0.5, atol=0.03, rtol=0)
    assert float((mesh.normals.norm(dim=-1) - 1).abs().max()) < 1e-4
    first, second = extract_mesh(AnalyticField(ball()), 16), extract_mesh(AnalyticField(ball()), 16, faces=10**6)
    assert torch.equal(first.vertices[first.faces], second.vertices[second.faces])  # a budget that is met


def test_decimation(monkeypatch: pytest.MonkeyPatch) -> None:
    sphere = trimesh.creation.icosphere(2)  # 320 faces
    vertices, faces = torch.tensor(sphere.vertices, dtype=torch.float32), torch.tensor(sphere.faces)
    bowl = faces[vertices[faces][..., 1].mean(1) < 0.3]
    assert len(decimate(vertices, bowl, 150)[1]) <= 150
    smaller = {size: trimesh.Trimesh(sphere.vertices, sphere.faces[:size]) for size in (0, 100, 250, 200, 260)}
    for sizes, budget, expected in (((250, 200, 260), 150, 200), ((0, 250, 100), 150, 100), ((0,), 150, 320)):
        results = iter([smaller[size] for size in (*sizes, *sizes[-1:] * 7)])
        monkeypatch.setattr(trimesh.Trimesh, "simplify_quadric_decimation", lambda *_, it=results, **__: next(it))
        words = "no longer closed" if expected <= budget else f"150 faces; it has {expected}"
        with pytest.warns(UserWarning, match=words):
            found = decimate(vertices, faces, budget)[1]
        assert len(found) == expected


def test_level_by_hand() -> None:
    block = torch.zeros(12, 12, 12)
    block[3:9, 3:9, 3:9] = 40.0
    assert surface_level(block, 0.1) == pytest.approx(math.log(2) / 0.12)  # half of the light within 0.12 of 1.2
    assert surface_level(block / 10, 0.1) == pytest.approx(2.0)
    thin_fog = block / 40 * 0.1  # loses 6 % in all
    assert surface_level(thin_fog, 0.1) == pytest.approx(0.05)
    opacity, peak = torch.tensor([0.1, 1.0, 0.9]), torch.tensor([5.0, 100.0, 50.0])
    assert best_level(opacity, peak, 20.0) == pytest.approx(20.0)  # all of 5…50 agree equally
    assert best_level(opacity, peak, 2.0) == pytest.approx(5.0)
    assert best_level(opacity, peak, 80.0) == pytest.approx(50.0, rel=2e-3)


def test_a_soft_ball_in_a_haze_gets_the_outline_of_its_renders() -> None:
    """Half of the light is lost on the rays that pass at about 0.2; a haze of 10 % opacity is round it."""
    field = AnalyticField(lambda points: ball(0.2, 60.0, softness=0.02)(points) + 0.1)
    box, chunk = (torch.full((3,), -0.35), torch.full((3,), 0.35)), Chunk(2**17, "point")
    for first in (0.05, 3.0, 50.0):  # in the haze, fitting, far inside
        found = agreeing_level(field, *box, first, chunk)
        radius = 0.2 - 0.02 * math.log(found / (60 - found))
        assert 0.19 < radius < 0.27, (first, found, radius)
    assert agreeing_level(field, *box, 3.0, chunk) == pytest.approx(3.0)


def _heights(signed: Tensor) -> Tensor:
    """A solid where `signed` (in samples) is above 0, as heights."""
    return extract.height_of((signed * 0.7).exp(), 1.0).half()


def _triangles(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(F, 9), each triangle turned so that its least corner leads, in ascending order."""
    corners = np.round(vertices[faces].astype(np.float64), 3)
    lead = (corners @ [1e8, 1e4, 1.0]).argmin(1)
    turned = np.stack([corners[np.arange(len(faces)), (lead + step) % 3] for step in range(3)], axis=1).reshape(-1, 9)
    return turned[np.lexsort(turned.T)]


X, Y, Z = torch.meshgrid(*[torch.arange(20) - 9.5] * 3, indexing="ij")
TORUS = _heights(2.3 - torch.hypot(torch.hypot(X, Z) - 6.0, Y))
APART = torch.cat([TORUS, torch.full((9, 20, 20), -extract.SPREAD).half(), TORUS])
ROUGH = _heights(torch.randn(9, 9, 9, generator=torch.Generator().manual_seed(3)))


@pytest.mark.parametrize("slab", [1, 3, 7, 100])
@pytest.mark.parametrize("heights", [TORUS, APART, ROUGH], ids=["torus", "apart", "rough"])
def test_slabs_are_the_whole(heights: Tensor, slab: int) -> None:
    vertices, faces = extract.march(heights, slab=slab)
    padded = np.pad(heights.float().numpy(), 1, constant_values=-extract.SPREAD)
    whole, whole_faces, _, _ = measure.marching_cubes(padded, 0.0, gradient_direction="ascent")
    assert len(vertices) == len(whole)
    ours = _triangles(vertices.numpy(), faces.numpy())
    np.testing.assert_allclose(ours, _triangles(whole - 1, whole_faces), atol=2e-3)
    assert solid(vertices, faces).volume > 0
