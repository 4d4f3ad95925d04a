"""The rasteriser against closed forms: spheres, planes, triangles, textures."""

import math

import pytest
import torch
import trimesh

from upfusion_core.geometry import camera_rays, look_at, orbit_cameras
from upfusion_core.surface.rasterise import rasterise
from upfusion_core.surface.reading import Surface
from upfusion_core.types import Cameras


def plain(vertices: list[list[float]], faces: list[list[int]], colors: list[list[float]] | None = None) -> Surface:
    count = len(vertices)
    shown = torch.zeros(count, 3) if colors is None else torch.tensor(colors)
    none = torch.full((len(faces),), -1)
    return Surface(torch.tensor(vertices), torch.tensor(faces), shown, torch.zeros(count, 2), (), none)


def quad(texture: torch.Tensor, corners: list[list[float]]) -> Surface:
    """Corners: bottom left, bottom right, top right, top left of the texture."""
    uvs = torch.tensor([[0.0, 0], [1.0, 0], [1.0, 1], [0.0, 1]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    return Surface(torch.tensor(corners), faces, torch.ones(4, 3), uvs, (texture,), torch.zeros(2).long())


def facing() -> Cameras:
    """At (0, 0, 1), looking along -Z with a field of view of 90 degrees: the plane z = 0 spans [-1, 1]²."""
    return orbit_cameras(0.0, 0.0, focal=1.0)


SQUARE = [[-1.0, -1, 0], [1.0, -1, 0], [1.0, 1, 0], [-1.0, 1, 0]]


def test_sphere_has_the_silhouette_and_depth_of_the_closed_form() -> None:
    radius, cameras = 0.2, orbit_cameras([0.0, 130.0], [22.5, -40.0], [1.0, 1.3])
    ball = trimesh.creation.icosphere(subdivisions=5, radius=radius)
    seen = rasterise(plain(ball.vertices.tolist(), ball.faces.tolist()), cameras, 96, supersampling=3)
    rays = camera_rays(cameras, 96, 96)
    along = -(rays.origins * rays.directions).sum(dim=-1)
    nearest = (rays.origins.square().sum(dim=-1) - along.square()).clamp_min(0).sqrt()
    for view, distance in enumerate([1.0, 1.3]):
        across = 4.5 * radius / math.sqrt(distance**2 - radius**2)  # the silhouette's radius in NDC
        assert float(seen.opacity[view].mean()) == pytest.approx(math.pi * across**2 / 4, rel=3e-3)
    assert (seen.opacity[:, 0][nearest < 0.95 * radius] == 1).all()
    assert (seen.opacity[:, 0][nearest > 1.03 * radius] == 0).all()
    depth = along - (radius**2 - nearest.square()).clamp_min(0).sqrt()
    # pixels near the rim average a curved depth; 0.9 of the radius keeps the error of that below a thousandth
    assert (seen.depth[:, 0] - depth)[nearest < 0.9 * radius].abs().max() < 1e-3
    assert (seen.depth[seen.opacity == 0] == 0).all()
    assert torch.allclose(seen.rgb, 1 - seen.opacity.expand(-1, 3, -1, -1), atol=1e-6)


def test_triangles_cover_the_samples_inside_and_leave_no_gap() -> None:
    corners = torch.tensor([[-0.73, -0.41, 0], [0.64, -0.85, 0], [0.11, 0.77, 0]])
    size = 33
    seen = rasterise(plain(corners.tolist(), [[0, 1, 2]]), facing(), size, supersampling=1)
    axis = torch.linspace(-1 + 1 / size, 1 - 1 / size, size)
    y, x = torch.meshgrid(-axis, axis, indexing="ij")  # pixel centres on the plane z = 0, top left first
    expected = torch.ones(size, size, dtype=torch.bool)
    for (x1, y1, _), (x2, y2, _) in zip(corners, corners.roll(-1, 0), strict=True):
        expected &= (x2 - x1) * (y - y1) - (y2 - y1) * (x - x1) >= 0
    assert 100 < expected.sum() < 600
    assert torch.equal(seen.opacity[0, 0] == 1, expected)
    turns = torch.linspace(0, 2 * math.pi, 14)[:-1].tolist()
    fan = [[0.0, 0, 0]] + [[0.9 * math.cos(turn), 0.9 * math.sin(turn), 0] for turn in turns]
    faces = [[0, 1 + i, 1 + (i + 1) % 13] if i % 2 else [0, 1 + (i + 1) % 13, 1 + i] for i in range(13)]
    seen = rasterise(plain(fan, faces), facing(), 64, supersampling=1)
    axis = torch.linspace(-1 + 1 / 64, 1 - 1 / 64, 64)
    radius = (axis[:, None].square() + axis.square()).sqrt()
    assert (seen.opacity[0, 0][radius < 0.9 * math.cos(math.pi / 13)] == 1).all()


def test_texels_land_where_they_belong() -> None:
    """Top row of the texture red, green; bottom row blue, black: upright and not mirrored."""
    texture = torch.tensor([[[1.0, 0], [0, 0]], [[0.0, 1], [0, 0]], [[0.0, 0], [1, 0]]])
    seen = rasterise(quad(texture, SQUARE), facing(), 4, supersampling=1)
    # Pixel centres lie at u = 1/8, 3/8, …; texel centres at 1/4 and 3/4. So a pixel takes 1/4 of the other texel: at
    # the rim from its repeated neighbour, in the middle from the one beside it.
    first = torch.tensor([0.75, 0.75, 0.25, 0.25])
    expected = [torch.outer(first, first), torch.outer(first, 1 - first), torch.outer(1 - first, first)]
    assert torch.allclose(seen.rgb[0], torch.stack(expected), atol=1e-6)


def test_textures_are_perspective_correct() -> None:
    """A board that leans away: each pixel shows the colour of the point that its ray meets."""
    ramp = (torch.arange(64) + 0.5) / 64
    texture = torch.stack([ramp.expand(64, 64), ramp.flip(0)[:, None].expand(64, 64), torch.zeros(64, 64)])
    corners = [[-0.5, -0.5, 0.3], [0.5, -0.5, 0.3], [0.5, 0.5, -0.9], [-0.5, 0.5, -0.9]]
    camera = look_at(torch.tensor([[0.3, 0.2, 1.5]]), focal=2.0)
    seen = rasterise(quad(texture, corners), camera, 80, supersampling=1)
    rays = camera_rays(camera, 80, 80)
    normal = torch.tensor([0.0, 1.2, 1.0])
    reach = (normal @ torch.tensor(corners[0]) - rays.origins @ normal) / (rays.directions @ normal)
    points = rays.origins + reach[..., None] * rays.directions
    u, v = points[0, ..., 0] + 0.5, points[0, ..., 1] + 0.5
    inside = (u > 0.02) & (u < 0.98) & (v > 0.02) & (v < 0.98)  # the texture's rim blends with its repetition
    assert inside.sum() > 500
    assert (seen.rgb[0, 0] - u)[inside].abs().max() < 1e-4
    assert (seen.rgb[0, 1] - v)[inside].abs().max() < 1e-4
    assert (seen.depth[0, 0] - reach[0])[inside].abs().max() < 1e-5


def test_the_nearer_surface_hides_the_farther_and_vertex_colours_blend() -> None:
    far = [[x, y, -1.0] for x, y in ((-4.0, -4.0), (4.0, -4.0), (0.0, 8.0))]
    near = (torch.tensor(SQUARE) * 0.5).tolist()
    colors = [[0.0, 0, 1]] * 3 + [[0.0, 0, 0], [1.0, 0, 0], [1.0, 0, 0], [0.0, 0, 0]]
    for faces in ([[0, 1, 2], [3, 4, 5], [3, 5, 6]], [[3, 5, 6], [3, 4, 5], [0, 1, 2]]):
        seen = rasterise(plain(far + near, faces, colors), facing(), 16, supersampling=2)
        red, _, blue = seen.rgb[0, :, 4:12, 4:12]
        assert (blue == 0).all()
        assert torch.allclose(red, ((torch.arange(8) + 0.5) / 8).expand(8, 8), atol=1e-6)
        assert torch.allclose(seen.rgb[0, :, 0, 0], torch.tensor([0.0, 0, 1]))
        samples = torch.tensor([29.0, 31.0]).square() / 32**2  # of the corner pixel, squared NDC
        distances = 2 * (1 + samples[:, None] + samples).sqrt()
        assert float(seen.depth[0, 0, 0, 0]) == pytest.approx(float(distances.mean()), rel=1e-6)


def test_the_principal_point_and_what_is_not_seen() -> None:
    camera = facing()
    moved = Cameras(camera.camera_to_world, camera.focal, torch.tensor([[0.5, -0.25]]))  # left, down
    small = (torch.tensor(SQUARE) * 0.1).tolist()
    seen = rasterise(plain(small, [[0, 1, 2], [0, 2, 3]]), moved, 40)
    rows, columns = seen.opacity[0, 0].nonzero().unbind(1)
    assert float(columns.float().mean()) + 0.5 == pytest.approx(10)
    assert float(rows.float().mean()) + 0.5 == pytest.approx(25)
    behind = [[-1.0, -1, 2], [1.0, -1, 2], [0.0, 1, 2]]
    reaching = [[-1.0, -1, 2], [1.0, -1, 0], [0.0, 1, 0]]
    beside = [[5.0, -1, 0], [7.0, -1, 0], [6.0, 1, 0]]
    edge_on = [[0.0, -1, 0], [0.0, 1, 0], [0.0, 0, -1]]
    for corners in (behind, reaching, beside, edge_on):
        seen = rasterise(plain(corners, [[0, 1, 2]]), facing(), 8)
        assert seen.rgb.min() == 1 - seen.opacity.max() == 1
