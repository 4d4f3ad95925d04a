from __future__ import annotations

import math

import pytest
import torch
import trimesh
from torch import Tensor

from upfusion_core.errors import FieldError, InputError
from upfusion_core.field.level import surface_level
from upfusion_core.field.mesh import MeshAsset, extract_mesh
from upfusion_core.field.radiance import RadianceField


class _Analytic:
    """A field given by formulas: density of points, and colour = place."""

    def __init__(self, density, extent: float = 0.5) -> None:  # noqa: ANN001
        self.density = density
        self.aabb = torch.tensor([[-extent] * 3, [extent] * 3])

    def color(self, points: Tensor) -> Tensor:
        return (points + 0.5).clamp(0, 1)


def _ball(radius: float = 0.2, peak: float = 200.0, center: tuple[float, ...] = (0.0, 0, 0)):  # noqa: ANN202
    middle = torch.tensor(center)
    return lambda points: peak * torch.sigmoid((radius - (points - middle).norm(dim=-1)) / 0.004)


def _trimesh(mesh: MeshAsset) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)


def test_a_ball() -> None:
    mesh = extract_mesh(_Analytic(_ball(peak=40.0, center=(0.05, 0.1, -0.1))), 64)
    solid = _trimesh(mesh)
    assert solid.is_watertight
    assert solid.is_winding_consistent
    assert solid.volume == pytest.approx(4 / 3 * math.pi * 0.2**3, rel=0.05)
    radius = (mesh.vertices - torch.tensor([0.05, 0.1, -0.1])).norm(dim=-1)
    assert abs(float(radius.mean()) - 0.2) < 0.003
    assert float(radius.std()) < 5e-4
    torch.testing.assert_close(mesh.vertex_colors, mesh.vertices + 0.5, atol=0.02, rtol=0)


def test_a_given_threshold_is_where_the_surface_stands() -> None:
    for level in (20.0, 100.0, 180.0):
        mesh = extract_mesh(_Analytic(_ball()), 64, level)
        expected = 0.2 - 0.004 * math.log(level / (200 - level))
        assert abs(float(mesh.vertices.norm(dim=-1).mean()) - expected) < 1e-3  # samples lie 0.007 apart


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_the_level_follows_the_scale_of_the_density(scale: float) -> None:
    mesh = extract_mesh(_Analytic(_ball(peak=200 * scale)), 64)
    assert abs(float(mesh.vertices.norm(dim=-1).mean()) - 0.2) < 0.02
    crisp = extract_mesh(_Analytic(lambda points: 50 * scale * (points.norm(dim=-1) < 0.2).float()), 64)
    assert abs(float(crisp.vertices.norm(dim=-1).mean()) - 0.2) < 0.004  # a sample apart is 0.007


def test_level_by_hand() -> None:
    block = torch.zeros(12, 12, 12)
    block[3:9, 3:9, 3:9] = 40.0
    assert surface_level(block, 0.1) == pytest.approx(math.log(2) / 0.12)  # half of the light within 0.12 of 1.2
    assert surface_level(block / 10, 0.1) == pytest.approx(2.0)
    thin_fog = block / 40 * 0.1  # loses 6 % in all
    assert surface_level(thin_fog, 0.1) == pytest.approx(0.05)


def test_floaters_go_and_companions_stay() -> None:
    def balls(points: Tensor) -> Tensor:
        parts = [_ball(0.2), _ball(0.03, center=(0.4, 0.4, 0.4)), _ball(0.12, center=(-0.35, -0.35, -0.35))]
        return torch.stack([part(points) for part in parts]).amax(0)

    assert len(_trimesh(extract_mesh(_Analytic(balls), 64)).split()) == 2
    assert len(_trimesh(extract_mesh(_Analytic(balls), 64, keep=0.0)).split()) == 3
    assert len(_trimesh(extract_mesh(_Analytic(balls), 64, keep=1.0)).split()) == 1


def test_hollows_are_filled() -> None:
    def shell(points: Tensor) -> Tensor:
        return _ball(0.2, 500.0)(points) - _ball(0.15, 500.0)(points)

    def pierced(points: Tensor) -> Tensor:
        return shell(points) * (points[..., :2].norm(dim=-1) > 0.003)

    for density in (shell, pierced):
        mesh = extract_mesh(_Analytic(density), 96)
        assert float(mesh.vertices.norm(dim=-1).min()) > 0.18
        assert _trimesh(mesh).is_watertight


def test_what_leaves_the_box_is_closed_there() -> None:
    mesh = extract_mesh(_Analytic(_ball(0.3), extent=0.25), 48)
    solid = _trimesh(mesh)
    assert solid.is_watertight
    assert float(mesh.vertices.abs().max()) < 0.27
    assert solid.volume > 0.9 * (0.5**3 - 8 * 0.02)


def test_an_empty_field_is_an_error() -> None:
    with pytest.raises(FieldError, match="the field is empty"):
        extract_mesh(_Analytic(lambda points: torch.full(points.shape[:-1], 1e-4)), 32)
    with pytest.raises(FieldError, match="lower threshold"):
        extract_mesh(_Analytic(_ball(peak=10.0)), 32, 50.0)
    field = RadianceField()
    torch.nn.init.constant_(field.mlp[-1].bias, -30.0)
    with pytest.raises(FieldError, match="the field is empty"):
        field.extract_mesh(32)


def test_a_field_of_nan_is_an_error() -> None:
    with pytest.raises(FieldError, match="not finite"):
        extract_mesh(_Analytic(lambda points: points[..., 0] / 0), 32)


def test_bad_arguments_are_refused() -> None:
    for arguments in ({"resolution": 4}, {"threshold": -1.0}, {"keep": 2.0}):
        with pytest.raises(InputError, match=next(iter(arguments))):
            extract_mesh(_Analytic(_ball()), **arguments)


def _triangle(**changes: Tensor | None) -> MeshAsset:
    values = {"vertices": torch.eye(3), "faces": torch.tensor([[0, 1, 2]]), "vertex_colors": torch.full((3, 3), 0.5)}
    return MeshAsset(**(values | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vertices": torch.zeros(3, 2)}, "vertices must be"),
        ({"vertices": torch.full((3, 3), float("nan"))}, "vertices must be finite"),
        ({"faces": torch.zeros(0, 3, dtype=torch.int64)}, "needs vertices and faces"),
        ({"faces": torch.zeros(1, 3)}, "int64"),
        ({"faces": torch.tensor([[0, 1, 3]])}, "number vertices 0 to 2, got 3"),
        ({"vertex_colors": torch.zeros(2, 3)}, "one colour a vertex"),
        ({"vertex_colors": torch.full((3, 3), 128.0)}, "in \\[0, 1\\]"),
        ({"uvs": torch.zeros(3, 2)}, "go together"),
        ({"uvs": torch.zeros(2, 2), "texture": torch.zeros(3, 4, 4)}, "one \\(u, v\\) a vertex"),
        ({"uvs": torch.zeros(3, 2), "texture": torch.zeros(4, 4, 3)}, "texture must be"),
    ],
)
def test_bad_meshes_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _triangle(**changes)
