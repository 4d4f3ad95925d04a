"""Photos on a mesh: what each texel takes, worked out by hand on flat squares, and a whole object seen all round."""

import math
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import torch
from refusals import refused
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn.functional import grid_sample, normalize

from upfusion_core import Cameras, MeshAsset, look_at, orbit_cameras, project_photos
from upfusion_core.surface.rasterise import rasterise
from upfusion_core.surface.reading import Surface, read_surface

GRAY = 0.5


def square(depth: float = 0.0, side: float = 0.2) -> tuple[Tensor, Tensor]:
    """Corners and faces of a square at z = depth that looks along +Z."""
    corners = torch.tensor([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) * side + torch.tensor([0, 0, depth])
    return corners, torch.tensor([[0, 1, 2], [0, 2, 3]])


def mesh(*squares: tuple[Tensor, Tensor]) -> MeshAsset:
    """Grey squares; the first one's texture is the left half, the second's the right one."""
    vertices = torch.cat([corners for corners, _ in squares])
    faces = torch.cat([faces + 4 * index for index, (_, faces) in enumerate(squares)])
    share = 1 / len(squares)
    unit = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]]) * torch.tensor([share, 1.0])
    uvs = torch.cat([unit + torch.tensor([share * index, 0]) for index in range(len(squares))])
    return MeshAsset(vertices, faces, torch.full_like(vertices, GRAY), uvs, torch.full((3, 1, 1), GRAY))


def front(x: float = 0.0, focal: float = 4.0) -> Cameras:
    """A camera 1 before the origin; with focal 4 a square of .2 fills 80 % of its picture."""
    return look_at(torch.tensor([[x, 0.0, 1.0]]), (x, 0.0, 0.0), focal=focal)


def ramp() -> Tensor:
    """(3, 64, 64): red grows to the right, green downwards, blue is even."""
    along = (torch.arange(64) + 0.5) / 64
    return torch.stack([along.expand(64, 64), along[:, None].expand(64, 64), torch.full((64, 64), 0.5)])


def test_a_square_takes_the_photo_and_keeps_its_uvs() -> None:
    """Texel (u, v from the top) of the square lies at 0.1 + 0.8·(u, v) of the photo."""
    texture = project_photos(mesh(square()), [(ramp() * 255).round().byte()], front(), size=64).texture
    torch.testing.assert_close(texture[:, 8:-8, 8:-8], (0.1 + 0.8 * ramp())[:, 8:-8, 8:-8], atol=0.01, rtol=0)
    bare = replace(mesh(square()), texture=None)
    painted = project_photos(bare, [ramp()], front(), size=64)
    assert painted.uvs is bare.uvs
    assert torch.equal(painted.texture, project_photos(mesh(square()), [ramp()], front(), size=64).texture)


def test_what_is_hidden_and_exposures() -> None:
    """A red photo of two squares, one behind the other: the far one, as large, is hidden from the front."""
    red = torch.tensor([0.9, 0.1, 0.1])[:, None, None].expand(3, 64, 64)
    texture = project_photos(mesh(square(0.1), square(-0.1, 0.15)), [red], front(), size=64).texture
    near, far = texture[:, 32, 16], texture[:, 32, 48]
    assert near[0] - near[1] > 0.7
    assert far[0] - far[1] < 0.5  # levelled to the red photo, not painted with it
    # Two photos of one square, the second 0.8 as bright: the texture has one brightness, that of neither alone
    photos, cameras = [ramp() * 0.5 + 0.4, ramp() * 0.4 + 0.32], Cameras.concatenate([front(-0.01), front(0.01)])
    row = project_photos(mesh(square()), photos, cameras, size=64).texture[2, 32, 10:-10]
    assert float(row.max() - row.min()) < 0.01
    assert 0.8 * 0.65 < float(row.mean()) < 0.65


def test_photos_that_contradict_each_other_leave_the_mesh_as_it_is() -> None:
    """Half of the square is red in one photo and blue in the other, and grey in the mesh; the rest is grey in all."""
    cameras, photos = Cameras.concatenate([front(), front()]), [torch.full((3, 64, 64), GRAY) for _ in range(2)]
    photos[0][:, :24] = torch.tensor([0.95, 0.05, 0.05])[:, None, None]
    photos[1][:, :24] = torch.tensor([0.05, 0.05, 0.95])[:, None, None]
    texture = project_photos(mesh(square()), photos, cameras, size=64).texture
    assert float((texture[:, 8, 20:44] - GRAY).abs().max()) < 0.15


def textured_ball() -> tuple[Surface, MeshAsset]:
    """A ball with a pattern in its vertices' colours, and the same in grey."""
    import trimesh

    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.2)
    vertices, faces = torch.tensor(ball.vertices, dtype=torch.float32), torch.tensor(ball.faces, dtype=torch.int64)
    colors = 0.5 + 0.4 * torch.stack([(vertices[:, axis] * 60).sin() for axis in range(3)], dim=-1)
    surface = Surface(vertices, faces, colors, torch.zeros(len(vertices), 2), (), torch.full((len(faces),), -1))
    return surface, MeshAsset(vertices, faces, torch.full_like(vertices, GRAY))


def test_a_ball_seen_all_round_shows_its_own_pattern(tmp_path: Path) -> None:
    """Unwrapped, painted from six photos, and seen from between them; texture and seams stay near the truth."""
    surface, gray = textured_ball()
    cameras = orbit_cameras([0.0, 90, 180, 270, 45, 225], [0.0, 0, 0, 0, 70, -70])
    seen, on_step = rasterise(surface, cameras, 128), Mock()
    made = project_photos(gray, list(seen.rgb), cameras, masks=list(seen.opacity[:, 0]), size=256, on_step=on_step)
    assert on_step.call_args.args[0] == 100
    made.save(tmp_path / "painted.glb")
    between = orbit_cameras([45.0, 135, 225, 315], 0.0)
    truth, found = (rasterise(each, between, 96) for each in (surface, read_surface(tmp_path / "painted.glb")))
    error = ((truth.rgb - found.rgb).square() * truth.opacity).sum() / (3 * truth.opacity.sum())
    assert -10 * error.log10() > 32


def turned(cameras: Cameras, degrees: float) -> Cameras:
    """All but the first turned about the origin, each about an axis of its own."""
    axes = normalize(torch.randn(len(cameras), 3, generator=torch.Generator().manual_seed(7)), dim=1)
    axes[0] = 0
    matrices = torch.eye(4).repeat(len(cameras), 1, 1)
    matrices[:, :3, :3] = torch.from_numpy(Rotation.from_rotvec(axes * math.radians(degrees)).as_matrix())
    return replace(cameras, camera_to_world=matrices @ cameras.camera_to_world)


def test_photos_from_elsewhere_than_their_cameras_say_do_no_harm() -> None:
    """The mesh knows the coarse colours, the photos the fine ones too: they help while they fit, then the mesh wins."""
    surface, gray = textured_ball()
    coarse = 0.5 + 0.25 * (surface.vertices * 30).sin()
    surface = replace(surface, colors=coarse + 0.12 * (surface.vertices * 150 + 1).sin())
    cameras = orbit_cameras([0.0, 60, 120, 180, 240, 300, 30], [10.0, -20, 30, 0, 20, -30, 70])
    seen, corners = rasterise(surface, cameras, 96), gray.vertices
    towards = torch.atan2(corners[:, 0], corners[:, 2]) / (2 * torch.pi) + 0.5
    flat = torch.stack([towards, corners[:, 1] * 2.4 + 0.5], dim=-1)  # one chart, and no faces where it is torn
    whole = gray.faces[towards[gray.faces].amax(1) - towards[gray.faces].amin(1) < 0.5]
    own = MeshAsset(corners, whole, coarse, flat, coarse.mean(0)[:, None, None])
    place = torch.stack([2 * flat[:, 0] - 1, 1 - 2 * flat[:, 1]], dim=-1)

    def error(shown: Tensor) -> float:
        """Mean squared error at the vertices that lie away from the tear."""
        return float((shown - surface.colors)[(place.abs() < 0.95).all(-1)].square().mean())

    for degrees, most in ((2.0, 0.5), (5.0, 10**0.01), (9.0, 10**0.01)):  # 0.1 dB
        photos, masks = list(seen.rgb), list(seen.opacity[:, 0])
        texture = project_photos(own, photos, turned(cameras, degrees), masks=masks, size=256).texture
        found = grid_sample(texture[None], place[None, None], align_corners=False)[0, :, 0].T
        assert error(found) < most * error(coarse)


def test_what_cannot_be_projected_is_refused() -> None:
    photo, away = torch.zeros(3, 16, 16), look_at(torch.tensor([[0.0, 0, 1]]), (0.0, 0, 5))
    gray = mesh(square())
    refused("each of 1 cameras, got 2", project_photos, gray, [photo, photo], front(), size=64)
    refused("masks must be one for each of 1 cameras, got 0", project_photos, gray, [photo], front(), masks=[], size=64)
    refused("none of them does", project_photos, gray, [photo], away, size=64)
    refused(r"in \[0, 1\]", project_photos, gray, [photo + 2], front(), size=64)
    large = torch.zeros(1, 1, 1, dtype=torch.uint8).expand(3, 15_000, 20_000)
    refused("at most 250 megapixels", project_photos, gray, [large], front(), size=64)
