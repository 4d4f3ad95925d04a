"""Atlas and baked texture: what each texel shows, that nothing overlaps, and that no border bleeds."""

import math
from unittest.mock import Mock

import pytest
import torch
from analytic_fields import AnalyticField, ball
from torch import Tensor

from upfusion_core.support.devices import Chunk
from upfusion_core.surface import texture as texture_module
from upfusion_core.surface.extract import extract_mesh
from upfusion_core.surface.texture import TILT_DEGREES, TILTED, SurfaceColor, bake, texels, unwrap, view_directions

SQUARE = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
SQUARE_FACES = torch.tensor([[0, 1, 2], [0, 2, 3]])
UPWARD = torch.tensor([[0.0, 0, 1]]).expand(4, 3)


def _covered(triangles: Tensor, size: int, most: int = 10**6) -> tuple[Tensor, ...]:
    return tuple(map(torch.cat, zip(*texels(triangles, size, most), strict=True)))


def test_texels_by_hand() -> None:
    _, texel, weights = _covered(torch.tensor([[[0.0, 0], [4, 0], [0, 4]]], dtype=torch.float64), 5)
    # centres (x + ½, y + ½) with x + y + 1 <= 4
    assert sorted(texel.tolist()) == [0, 1, 2, 3, 5, 6, 7, 10, 11, 15]
    torch.testing.assert_close(weights.sum(1), torch.ones(10, dtype=torch.float64))
    torch.testing.assert_close(weights[texel == 0][0], torch.tensor([0.75, 0.125, 0.125], dtype=torch.float64))


@pytest.mark.parametrize("most", [1, 7, 10**6])
def test_texels_against_brute_force(most: int) -> None:
    triangles = torch.rand(40, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 24
    face, texel, weights = _covered(triangles, 24, most)
    row, column = torch.meshgrid(torch.arange(24), torch.arange(24), indexing="ij")
    centers = torch.stack([column, row], dim=-1).reshape(1, -1, 2) + 0.5
    a, b, c = triangles[:, None].unbind(2)

    def side(first: Tensor, second: Tensor) -> Tensor:
        along, to = second - first, centers - first
        return along[..., 0] * to[..., 1] - along[..., 1] * to[..., 0]

    sides = torch.stack([side(a, b), side(b, c), side(c, a)])
    inside = (sides > 0).all(0) | (sides < 0).all(0)
    assert set(zip(face.tolist(), texel.tolist(), strict=True)) == {tuple(pair) for pair in inside.nonzero().tolist()}
    torch.testing.assert_close((weights[..., None] * triangles[face]).sum(1), centers[0, texel].double())


def test_a_square_is_baked_the_right_way_up() -> None:
    field = AnalyticField(lambda points: 1e4 * (points[..., 2] < 0), 2.0, color=lambda points: points.clamp(0, 1))
    uvs = SQUARE[:, :2] * 0.5 + 0.25  # v up, the square in the middle
    look = SurfaceColor(field, 0.01, Chunk(1000, "point"))
    texture = bake(look, SQUARE, UPWARD, SQUARE_FACES, uvs, 16, lambda share: None)
    corners = texture[:2, [4, 11], [4, 11]].T  # top left, bottom right
    torch.testing.assert_close(corners, torch.tensor([[1 / 16, 15 / 16], [15 / 16, 1 / 16]]), atol=1e-5, rtol=0)
    # what no face covers has the colour of the nearest texel that one covers
    assert torch.equal(texture[:, 0, 0], texture[:, 4, 4])


def test_what_a_surface_shows_through_fog_and_softness() -> None:
    red, green, chunk = torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]), Chunk(100, "point")
    # a dense red body under thin green fog: the look is red, though most of its parts lie in the fog
    field = AnalyticField(
        lambda points: torch.where(points[..., 2] < 0, 2000.0, 1.0),
        color=lambda points: torch.where(points[..., 2:] < 0, red, green),
    )
    seen = SurfaceColor(field, 0.005, chunk).colors(SQUARE * 0.1, UPWARD)
    torch.testing.assert_close(seen, red.expand(4, 3), atol=0.02, rtol=0)
    # density 100 below z = 0, red to 0.01 deep and green below: 1/e of the light gets to the green
    field = AnalyticField(
        lambda points: 100.0 * (points[..., 2] < 0),
        color=lambda points: torch.where(points[..., 2:] > -0.01, red, green),
    )
    seen = SurfaceColor(field, 0.01, chunk).colors(SQUARE[:1], UPWARD[:1])[0]
    assert float(seen[1]) == pytest.approx(math.exp(-1), abs=0.15)
    assert float(seen.sum()) == pytest.approx(1.0, abs=1e-4)
    oblique = SurfaceColor(field, 0.01, chunk, oblique=True).colors(SQUARE[:1], UPWARD[:1])[0]
    tilt = math.cos(math.radians(TILT_DEGREES))  # the way to the green is longer, and counts less
    expected = (math.exp(-1) + TILTED * tilt * math.exp(-1 / tilt)) / (1 + TILTED * tilt)
    assert float(oblique[1]) == pytest.approx(expected, abs=0.05)


def test_ways_outward_by_hand() -> None:
    normals = torch.nn.functional.normalize(torch.tensor([[0.0, 0, 1], [1, -2, 0.5], [0, -1, 0]]), dim=-1)
    ways = view_directions(normals, 3)
    assert torch.equal(ways[:, 0], normals)
    torch.testing.assert_close(ways.norm(dim=-1), torch.ones(3, 4))
    cosines = (ways[:, 1:] * normals[:, None]).sum(-1)
    torch.testing.assert_close(cosines, torch.full((3, 3), math.cos(math.radians(TILT_DEGREES))))
    torch.testing.assert_close(ways[:, 1:].mean(1), normals * math.cos(math.radians(TILT_DEGREES)), atol=1e-6, rtol=0)
    assert torch.equal(view_directions(normals, 0), normals[:, None])


def test_what_no_face_covers_takes_the_nearest_colour_strip_by_strip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texture_module, "STRIP", 100)
    monkeypatch.setattr(texture_module, "MARGIN", 6)  # 6 rows at a time
    generator = torch.Generator().manual_seed(4)
    covered = torch.rand(40, 20, generator=generator) < 0.15
    covered[15:] = False
    texture = torch.rand(3, 40, 20, generator=generator) * covered
    places, found, report = covered.nonzero().double(), texture.clone(), Mock()
    texture_module.dilate(found, covered, report)
    assert report.call_count == 7
    assert torch.equal(found[:, covered], texture[:, covered])
    for row, column in ((~covered[:15]).nonzero()).tolist():
        distances = (places - torch.tensor([row, column])).norm(dim=1)
        nearest = places[distances == distances.min()].long()  # several may be as near
        assert any(torch.equal(found[:, row, column], texture[:, y, x]) for y, x in nearest.tolist())
    torch.testing.assert_close(found[:, 25:], texture[:, covered].mean(1)[:, None, None].expand(3, 15, 20))


def test_charts_do_not_overlap_and_keep_every_face(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texture_module, "PIECE", 300)  # several pieces
    mesh = extract_mesh(AnalyticField(ball(0.2)), 24)
    source, faces, uvs = unwrap(mesh.vertices, mesh.faces, 256, lambda share: None)
    assert torch.equal(source[faces], mesh.faces)  # same corners, same order
    again = unwrap(mesh.vertices, mesh.faces, 256, lambda share: None)
    assert all(map(torch.equal, again, (source, faces, uvs)))  # whatever order xatlas's threads end in
    assert 0 < float(uvs.min()) < float(uvs.max()) < 1
    triangles = uvs[faces].double() * 512
    _, texel, weights = _covered(triangles, 512)
    strictly = weights.amin(1) > 1e-6
    assert len(texel[strictly].unique()) == int(strictly.sum())
    across, along = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    area = (across[:, 0] * along[:, 1] - across[:, 1] * along[:, 0]).abs() / 2
    assert float(area.sum()) > 0.3 * 512**2  # space is not wasted
    corners = mesh.vertices[mesh.faces].double()
    true = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=-1) / 2
    scale = (area / true).sqrt()
    large = true > true.median()
    assert float(scale[large].max() / scale[large].min()) < 2  # texels of about one size
