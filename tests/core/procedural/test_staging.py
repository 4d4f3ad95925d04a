"""Version 2: stretched things against things of that shape, photos by hand, clean targets, whole in every picture."""

from dataclasses import replace

import pytest
import torch
from plain_objects import Part, thing
from torch import Tensor
from torch.nn.functional import max_pool2d

from upfusion_core.geometry import camera_rays, orbit_cameras, project
from upfusion_core.procedural import Objects, ProceduralObjects, draw_objects, render_views, signed_distance, staging
from upfusion_core.procedural.shapes import BOX, ELLIPSOID, Staging
from upfusion_core.procedural.sketch import about
from upfusion_core.types import Cameras

SHIFT = torch.tensor([[0.02, -0.01, 0.03]])


def primitive(kind: int, size: tuple[float, float, float]) -> Objects:
    """One plain part under the light of object 0."""
    return replace(thing(Part((kind, (0.0, 0.0, 0.0), (*size, 0.0)))), light=draw_objects("train", [0])[0].light)


def staging_of(inward: Tensor | None = None, shift: Tensor = SHIFT, *fills: list[float]) -> Staging:
    inward = torch.eye(3)[None] if inward is None else inward
    return Staging(inward, shift, shift, torch.tensor([0.16]), torch.tensor(fills).view(1, -1, 6))


def seen(objects: Objects) -> tuple[Tensor, ...]:
    cameras = orbit_cameras([20.0, 200.0], 0.0)
    return render_views(objects, cameras.camera_to_world[None], cameras.focal[None], 33)


@pytest.mark.parametrize("kind", [ELLIPSOID, BOX])
def test_a_stretched_thing_is_the_thing_of_that_shape(kind: int) -> None:
    """Colours, and so normals, masks and depths, also where it is turned after being stretched, and moved."""
    turn, wanted = about("z", 0.7) @ about("y", 0.4), primitive(kind, (0.15, 0.06, 0.03))
    placed = wanted.first.turned(turn)
    wanted = replace(wanted, first=replace(placed, center=placed.center + SHIFT[:, None]))
    inward = torch.linalg.inv(turn @ torch.diag(torch.tensor([1.5, 0.6, 0.3])))
    found = replace(primitive(kind, (0.1, 0.1, 0.1)), staging=staging_of(inward))
    for ours, theirs in zip(seen(found), seen(wanted), strict=True):
        assert (ours - theirs).abs().mean() < 1e-5
        assert ((ours - theirs).abs() > 1e-3).float().mean() < 2e-3  # samples on an edge


def test_further_lights_add_to_the_first() -> None:
    """The front of a box faces +Z: all of the light from there reaches it, and none from behind."""
    box, lights = primitive(BOX, (0.1, 0.1, 0.1)), ([0.0, 0, 1, 0.1, 0.2, 0], [0.0, 0, -1, 1, 1, 1])
    both = (replace(box, staging=staging_of(None, torch.zeros(1, 3), *fills)) for fills in ((), lights))
    plain, lit = (seen(each)[0][0, 0, :, 16, 16] for each in both)
    assert torch.allclose(lit - plain, box.coats.colors[0, 0, 0, 0] * torch.tensor([0.1, 0.2, 0.0]), atol=1e-5)


def test_things_are_whole_in_every_view_and_seen_where_they_are() -> None:
    batch = ProceduralObjects("train", version=2).batch(range(64), views=3, size=24, supersampling=1)
    _, wider, _ = render_views(batch.objects, batch.camera_to_world, batch.focal * 0.75, 32)  # 4 more pixels all round
    wider[..., 4:-4, 4:-4] = 0
    assert (wider.amax((2, 3, 4)) > 0.3).float().mean() < 0.01
    assert (batch.mask.mean((2, 3, 4)) > 0.002).all()
    assert ((batch.rgb * batch.mask).amax((2, 3, 4)) > 0.04).all()  # nothing is black all over
    cameras = Cameras(*(x.flatten(0, 1) for x in (batch.camera_to_world, batch.focal, 0 * batch.focal)))
    rays = camera_rays(cameras, 24, 24)
    points = rays.origins + batch.depth.flatten(0, 1)[:, 0, ..., None] * rays.directions
    distances = signed_distance(batch.objects, points.reshape(64, -1, 3)).view(batch.mask.shape)
    assert (distances[batch.mask > 0].abs() < 1e-3).float().mean() > 0.995
    of = batch.objects.staging
    assert of is not None
    assert (of.radius + of.middle.norm(dim=-1) <= staging.FRAME_RADIUS + 1e-6).all()
    assert of.radius.min() < 0.155 < 0.21 < of.radius.max()
    assert 0.01 < of.middle.norm(dim=-1).max() <= 2 * staging.OFF_CENTER / 4.5
    assert torch.linalg.cond(of.inward).quantile(0.8) > 2.5


def test_photos_of_a_ball_fill_their_frames_by_hand() -> None:
    """A ball of radius r at distance d is seen with the radius r·f / sqrt(d² - r²); 1 is the frame's border."""
    cameras = orbit_cameras([0.0, 50.0, 100.0], 22.5)
    draws = torch.rand(1, 3, staging.PHOTO_COLUMNS, generator=torch.Generator().manual_seed(0))
    taken = staging.photographing(cameras.camera_to_world[None], staging_of(shift=SHIFT / 2), draws, 1)
    true = Cameras(*(x[0] for x in taken))
    distance, focal = true.centers.norm(dim=-1), true.focal[:, 0]
    assert ((focal > staging.FOCALS[0]) & (focal < staging.FOCALS[1])).all()
    assert torch.equal(true.camera_to_world[:, :3, :3], cameras.camera_to_world[:, :3, :3])
    # photo 1 keeps the world's middle, and the ball that its nominal camera just holds
    held = float(staging.FRAME_RADIUS * focal[0] / (distance[0].square() - staging.FRAME_RADIUS**2).sqrt())
    assert held == pytest.approx(1, abs=1e-5)
    assert torch.equal(true.principal[0], torch.zeros(2))
    for place in (1, 2):  # the others have the object's middle where they want it
        at, away = project(SHIFT[0] / 2, true[place])
        assert torch.allclose(at, true.principal[place], atol=1e-5)
        assert 0 < at.abs().max() <= 2 * staging.OFF_CENTER
        assert 0.6 < 0.16 * focal[place] / (away.square() - 0.16**2).sqrt() + at.abs().max() < 1.001


def test_photos_are_cut_out_or_greyish_and_other_views_clean() -> None:
    data = ProceduralObjects("test", version=2)
    clean, taken = (data.batch(range(40), views=3, size=24, photos=photos) for photos in ([], [0, 2]))
    assert torch.equal(clean.rgb[:, 1], taken.rgb[:, 1])
    assert torch.equal(clean.camera_to_world, taken.camera_to_world)
    assert ((clean.rgb[:, 0] - taken.rgb[:, 0]).abs().mean((1, 2, 3)) > 1e-3).float().mean() > 0.9
    corners = taken.rgb[:, [0, 2], :, 0, 0].flatten(0, 1)
    cut = (corners == 1).all(1)
    assert 20 < cut.sum() < 60
    assert (corners[~cut] >= staging.WHITES[0]).all()
    several = data.look(data.objects([4, 1]), views=3, size=8, references=2, generator=torch.Generator().manual_seed(3))
    assert (several.elevation_degrees == 22.5).tolist() == [[True, True, False]] * 2
    assert (several.example(0).name, taken.names[0]) == ("procedural-2", "procedural-2-test-0")
    # by hand: more than a pixel off the object is white, more than a pixel inside is untouched
    rgb, mask = torch.ones(1, 2, 3, 9, 9), torch.zeros(1, 2, 1, 9, 9)
    rgb[..., 2:7, 2:7], mask[..., 2:7, 2:7] = 0.25, 1
    draws = torch.rand(1, 2, staging.PHOTO_COLUMNS, generator=torch.Generator().manual_seed(1))
    draws[0, :, 4] = torch.tensor([0.2, 0.8])
    photo, ragged = staging.developed(rgb, mask, draws)
    wide, narrow = (max_pool2d(each, 3, 1, 1)[0, 0] for each in (mask[0, :1], 1 - mask[0, :1]))
    assert (photo[0, 0][:, wide == 0] == 1).all()
    assert torch.allclose(photo[0, 0][:, narrow == 0], torch.tensor(0.25))
    assert not torch.equal(ragged[0, 0], mask[0, 0])
    assert torch.equal(ragged[0, 1], mask[0, 1])
