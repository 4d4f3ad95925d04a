from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import trimesh
from analytic_fields import AnalyticField, ball, torus
from torch import Tensor
from torch.nn.functional import avg_pool2d

from upfusion_core.config import FieldConfig, RaySampling
from upfusion_core.field.radiance import RadianceField
from upfusion_core.field.rendering import render_views
from upfusion_core.geometry import orbit_cameras
from upfusion_core.support.devices import Chunk
from upfusion_core.support.errors import FieldError, InputError
from upfusion_core.surface import level
from upfusion_core.surface.extract import extract_mesh
from upfusion_core.surface.mesh import MeshAsset
from upfusion_core.surface.rasterise import rasterise
from upfusion_core.surface.reading import read_surface


def _trimesh(mesh: MeshAsset) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)


def test_a_ball() -> None:
    mesh = extract_mesh(AnalyticField(ball(peak=40.0, center=(0.05, 0.1, -0.1))), 64)
    solid = _trimesh(mesh)
    assert solid.is_watertight
    assert solid.is_winding_consistent
    assert solid.volume == pytest.approx(4 / 3 * math.pi * 0.2**3, rel=0.05)
    radius = (mesh.vertices - torch.tensor([0.05, 0.1, -0.1])).norm(dim=-1)
    assert abs(float(radius.mean()) - 0.2) < 0.004  # samples lie 0.0065 apart
    assert float(radius.std()) < 5e-4
    torch.testing.assert_close(mesh.vertex_colors, mesh.vertices + 0.5, atol=0.02, rtol=0)


def test_a_given_threshold_is_where_the_surface_stands() -> None:
    for height in (20.0, 100.0, 180.0):
        mesh = extract_mesh(AnalyticField(ball()), 64, height)
        expected = 0.2 - 0.004 * math.log(height / (200 - height))
        assert abs(float(mesh.vertices.norm(dim=-1).mean()) - expected) < 1e-3  # samples lie 0.007 apart


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_the_level_follows_the_scale_of_the_density(scale: float) -> None:
    mesh = extract_mesh(AnalyticField(ball(peak=200 * scale)), 64)
    assert abs(float(mesh.vertices.norm(dim=-1).mean()) - 0.2) < 0.02
    crisp = extract_mesh(AnalyticField(lambda points: 50 * scale * (points.norm(dim=-1) < 0.2).float()), 64)
    assert abs(float(crisp.vertices.norm(dim=-1).mean()) - 0.2) < 0.004  # a sample apart is 0.007


def test_floaters_go_and_companions_stay() -> None:
    def balls(points: Tensor) -> Tensor:
        parts = [ball(0.2), ball(0.03, center=(0.4, 0.4, 0.4)), ball(0.12, center=(-0.35, -0.35, -0.35))]
        return torch.stack([part(points) for part in parts]).amax(0)

    assert len(_trimesh(extract_mesh(AnalyticField(balls), 64)).split()) == 2
    assert len(_trimesh(extract_mesh(AnalyticField(balls), 64, keep=0.0)).split()) == 3
    assert len(_trimesh(extract_mesh(AnalyticField(balls), 64, keep=1.0)).split()) == 1


def test_hollows_are_filled() -> None:
    def shell(points: Tensor) -> Tensor:
        return ball(0.2, 500.0)(points) - ball(0.15, 500.0)(points)

    def pierced(points: Tensor) -> Tensor:
        return shell(points) * (points[..., :2].norm(dim=-1) > 0.003)

    for density in (shell, pierced):
        mesh = extract_mesh(AnalyticField(density), 96)
        assert float(mesh.vertices.norm(dim=-1).min()) > 0.18
        assert _trimesh(mesh).is_watertight


def test_what_leaves_the_box_is_closed_there() -> None:
    mesh = extract_mesh(AnalyticField(ball(0.3), extent=0.25), 48)
    solid = _trimesh(mesh)
    assert solid.is_watertight
    assert float(mesh.vertices.abs().max()) < 0.27
    assert solid.volume > 0.9 * (0.5**3 - 8 * 0.02)


def test_an_empty_field_is_an_error() -> None:
    with pytest.raises(FieldError, match="the field is empty"):
        extract_mesh(AnalyticField(lambda points: torch.full(points.shape[:-1], 1e-4)), 32)
    with pytest.raises(FieldError, match="lower threshold"):
        extract_mesh(AnalyticField(ball(peak=10.0)), 32, 50.0)
    field = RadianceField(FieldConfig.small())
    torch.nn.init.constant_(field.mlp[-1].bias, -30.0)
    with pytest.raises(FieldError, match="the field is empty"):
        field.extract_mesh(32)


def test_a_field_of_nan_is_an_error() -> None:
    with pytest.raises(FieldError, match="not finite"):
        extract_mesh(AnalyticField(lambda points: points[..., 0] / 0), 32)


def test_a_field_that_fills_its_box_is_an_error() -> None:
    with pytest.raises(FieldError, match="fills its box"):
        extract_mesh(AnalyticField(lambda points: 50 + points[..., 0]), 32)
    with pytest.raises(FieldError, match=r"fills its box.*higher threshold"):
        extract_mesh(AnalyticField(lambda points: ball()(points) + 1), 32, 0.5)


def test_skipping_what_is_empty_or_full_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    field = AnalyticField(ball(0.35, peak=5000.0))
    options = {"low": field.aabb[0], "high": field.aabb[1], "spacing": 1 / 71, "level": 50.0}
    options |= {"chunk": Chunk(2**17, "point"), "report": lambda share: None}
    whole, asked = level.sample_heights(field, **options), field.asked
    field.asked = 0
    monkeypatch.setattr(level, "COARSE", 24)
    sparse = level.sample_heights(field, **options)
    assert whole.shape == sparse.shape == (72, 72, 72)
    # what is skipped is farther from the level than heights tell: the same, not only on the same side
    torch.testing.assert_close(whole, sparse, atol=1e-3, rtol=0)
    assert field.asked < 0.6 * asked


def test_clearing_in_cells_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Floaters go and hollows are filled also where a volume is looked through in cells of several samples."""

    def density(points: Tensor) -> Tensor:
        shell = ball(0.2, 500.0)(points) - ball(0.12, 500.0)(points)
        pierced = shell * (points[..., :2].norm(dim=-1) > 0.003)
        return torch.maximum(pierced, ball(0.03, center=(0.3, 0.3, 0.3))(points))

    monkeypatch.setattr(level, "CLEARED", 40)
    solid = _trimesh(extract_mesh(AnalyticField(density), 96, 100.0))
    assert solid.is_watertight
    assert solid.body_count == 1
    radius = 0.2 + 0.004 * math.log((500 - 100) / 100)  # where the density is 100
    assert solid.volume == pytest.approx(4 / 3 * math.pi * radius**3, rel=0.03)


def test_known_volume_area_and_normals() -> None:
    mesh = extract_mesh(AnalyticField(torus(softness=0.008)), 72, 150.0)
    solid = _trimesh(mesh)
    assert solid.is_watertight
    assert solid.euler_number == 0
    assert solid.volume == pytest.approx(2 * math.pi**2 * 0.18 * 0.07**2, rel=0.02)
    assert solid.area == pytest.approx(4 * math.pi**2 * 0.18 * 0.07, rel=0.02)
    x, _, z = mesh.vertices.unbind(-1)
    ring = torch.stack([x, torch.zeros_like(x), z], dim=-1)
    outward = torch.nn.functional.normalize(mesh.vertices - 0.18 * torch.nn.functional.normalize(ring, dim=-1), dim=-1)
    assert float((mesh.normals * outward).sum(-1).min()) > 0.97


def test_steps_grow_to_the_end_and_raising_cancels() -> None:
    steps = []
    field = AnalyticField(ball())
    mesh = extract_mesh(field, 32, texture_size=64, on_step=lambda step, total, preview: steps.append((step, total)))
    assert mesh.texture.shape == (3, 64, 64)
    assert steps == sorted(steps)
    assert steps[0] == (0, 100)
    assert steps[-1] == (100, 100)
    assert len(set(steps)) > 20

    class StoppedError(Exception):
        pass

    for limit in (0, 30, 70, 99):

        def stop(step: int, total: int, preview: None, limit: int = limit) -> None:
            if step >= limit:
                raise StoppedError

        with pytest.raises(StoppedError):
            extract_mesh(field, 32, texture_size=64, on_step=stop)


def test_a_textured_mesh_is_the_same_surface() -> None:
    field = AnalyticField(ball())
    plain, textured = extract_mesh(field, 32), extract_mesh(field, 32, texture_size=128)
    torch.testing.assert_close(textured.vertices[textured.faces], plain.vertices[plain.faces])
    torch.testing.assert_close(textured.normals[textured.faces], plain.normals[plain.faces])
    solid = _trimesh(textured)
    solid.merge_vertices(merge_tex=True, merge_norm=True)
    assert solid.is_watertight


def _stripes(points: Tensor) -> Tensor:
    return 0.5 + 0.4 * torch.sin(points * 25)


@pytest.mark.parametrize("texture_size", [None, 512])
def test_a_saved_mesh_looks_like_its_field(tmp_path: Path, texture_size: int | None) -> None:
    """Read back and rasterised, against the field's own renders: the right way up, the right colours."""
    field = AnalyticField(torus(peak=1500.0, softness=0.002), color=_stripes)
    mesh = extract_mesh(field, 64, texture_size=texture_size)
    mesh.save(tmp_path / "mesh.glb")
    cameras = orbit_cameras([30.0, 200.0], [25.0, -40.0])
    seen = rasterise(read_surface(tmp_path / "mesh.glb"), cameras, 64, supersampling=2)
    rays = render_views(field, field.aabb, cameras, 128, sampling=RaySampling(64, 32))
    truth, opacity = avg_pool2d(rays.rgb, 2), avg_pool2d(rays.opacity, 2)
    inside = ((seen.opacity > 0.99) & (opacity > 0.99)).expand_as(truth)
    error = (seen.rgb - truth)[inside].square().mean()
    assert -10 * math.log10(float(error)) > 28
    met, solid = seen.opacity > 0.5, opacity > 0.5
    assert float((met & solid).sum() / (met | solid).sum()) > 0.97


def test_bad_arguments_are_refused() -> None:
    for arguments in (
        {"resolution": 4},
        {"resolution": 2000},
        {"threshold": -1.0},
        {"keep": 2.0},
        {"texture_size": 32},
        {"faces": 3},
    ):
        with pytest.raises(InputError, match=next(iter(arguments))):
            extract_mesh(AnalyticField(ball()), **arguments)


@pytest.mark.parametrize(("peak", "threshold"), [(20.0, 50.0), (0.01, 50.0)])
def test_a_threshold_that_nothing_reaches(peak: float, threshold: float) -> None:
    with pytest.raises(FieldError, match="no density above 50 per scene unit was found"):
        extract_mesh(AnalyticField(ball(peak=peak)), 32, threshold)
