"""Version 2: stretched things against things of that shape, photos by hand, clean targets, whole in every picture."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from refusals import refused
from torch import Tensor
from torch.nn.functional import max_pool2d

from upfusion_core.geometry import camera_rays, orbit_cameras, project
from upfusion_core.procedural import Objects, ProceduralObjects, draw_objects, render_views, signed_distance
from upfusion_core.procedural.shapes import ALONE, BOX, ELLIPSOID, Staging
from upfusion_core.procedural.sketch import about
from upfusion_core.procedural.staging import FOCALS, FRAME_RADIUS, OFF_CENTER, PHOTO_COLUMNS, WHITES, Photographs
from upfusion_core.types import Cameras

VALUES = {"inward": torch.eye(3)[None], "shift": torch.zeros(1, 3), "radius": torch.tensor([0.2])}
DARK = torch.zeros(1, 2, 6)


def primitive(kind: int, size: tuple[float, float, float], turn: Tensor | None = None) -> Objects:
    """One plain part under the light of object 0."""
    objects, _ = draw_objects("train", [0])
    objects = objects.first_parts(1)
    objects.first.kind[0, 0], objects.joint[0, 0], objects.label[0, 0] = kind, ALONE, 0
    objects.first.center[0, 0], objects.coats.pattern[0, 0] = 0, 0
    objects.first.size[0, 0], objects.first.rotation[0, 0] = torch.tensor([*size, 0]), torch.eye(3)
    return objects if turn is None else replace(objects, first=objects.first.turned(turn))


def seen(objects: Objects) -> tuple[Tensor, Tensor, Tensor]:
    cameras = orbit_cameras([20.0, 200.0], [30.0, -5.0])
    return render_views(objects, cameras.camera_to_world[None], cameras.focal[None], 32)


@pytest.mark.parametrize("kind", [ELLIPSOID, BOX])
def test_a_stretched_thing_is_the_thing_of_that_shape(kind: int) -> None:
    """Colours, and so normals, masks and depths, also where it is turned after being stretched, and moved."""
    turn, shift = about("z", 0.7) @ about("y", 0.4), torch.tensor([[0.02, -0.01, 0.03]])
    wanted = primitive(kind, (0.15, 0.06, 0.03), turn)
    wanted = replace(wanted, first=replace(wanted.first, center=wanted.first.center + shift[:, None]))
    inward = torch.linalg.inv(turn @ torch.diag(torch.tensor([1.5, 0.6, 0.3])))
    found = replace(
        primitive(kind, (0.1, 0.1, 0.1)), staging=Staging(inward, shift, torch.tensor([0.17]), torch.zeros(1, 0, 6))
    )
    for ours, theirs in zip(seen(found), seen(wanted), strict=True):
        assert (ours - theirs).abs().mean() < 1e-5
        assert ((ours - theirs).abs() > 1e-3).float().mean() < 2e-3  # samples on an edge
    points = torch.tensor([[[0.02, -0.01, 0.03], [0.2, 0.1, 0.0], [0.03, 0.0, 0.03]]])
    distances, true = signed_distance(found, points), signed_distance(wanted, points)
    assert torch.equal(distances.sign(), true.sign())
    if kind == BOX:
        assert (distances.abs() <= true.abs() + 1e-6).all()


def test_further_lights_add_to_the_first() -> None:
    plain = primitive(BOX, (0.1, 0.1, 0.1))
    fills = torch.tensor([[[0.0, 0.0, 1.0, 0.1, 0.2, 0.0], [0.0, 0.0, -1.0, 1.0, 1.0, 1.0]]])
    camera = orbit_cameras(0.0, 0.0)
    rgb = [
        render_views(replace(plain, staging=Staging(**VALUES, fills=each)), camera.camera_to_world[None],
                     camera.focal[None], 9)[0][0, 0, :, 4, 4]
        for each in (DARK, fills)
    ]  # fmt: skip
    color = plain.coats.colors[0, 0, 0, 0]
    assert torch.allclose(
        rgb[1] - rgb[0], color * torch.tensor([0.1, 0.2, 0.0]), atol=1e-5
    )  # the front is away from -z


def test_what_is_seen_lies_on_the_surface() -> None:
    batch = ProceduralObjects("train", version=2).batch(range(24), views=3, size=24, supersampling=1)
    rays = camera_rays(
        Cameras(*(x.flatten(0, 1) for x in (batch.camera_to_world, batch.focal, batch.focal * 0))), 24, 24
    )
    points = rays.origins + batch.depth.flatten(0, 1)[:, 0, ..., None] * rays.directions
    distances = signed_distance(batch.objects, points.reshape(24, -1, 3))
    assert (distances.view(batch.mask.shape)[batch.mask > 0].abs() < 1e-3).float().mean() > 0.995


def silhouettes(version: int) -> Tensor:
    """(N,) elongations of 64 objects in two views each."""
    mask = ProceduralObjects("test", version=version).batch(range(64), views=2, size=24).mask[:, :, 0].flatten(0, 1)
    axis = torch.arange(24.0)
    points = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1).view(-1, 2)
    spreads = [torch.linalg.eigvalsh(torch.cov(points.T, aweights=one)) for one in mask.flatten(1)]
    return torch.stack([(values[1] / values[0].clamp_min(1e-3)).sqrt() for values in spreads])


def test_things_are_longer_and_whole_in_every_view() -> None:
    first, second = (torch.quantile(silhouettes(version), torch.tensor([0.5, 0.9])) for version in (1, 2))
    assert second[0] > first[0] + 0.2
    assert second[1] > 3.7 > first[1]
    data = ProceduralObjects("train", version=2)
    batch = data.batch(range(64), views=3, size=24, photos=[0])
    _, wider, _ = render_views(
        batch.objects, batch.camera_to_world, batch.focal * 0.8, 40
    )  # four more pixels all round
    wider[..., 4:-4, 4:-4] = 0
    assert (wider.amax((2, 3, 4)) > 0.3).float().mean() < 0.01
    assert (batch.mask.mean((2, 3, 4)) > 0.002).all()
    brightest = (batch.rgb * (batch.mask > 0.9)).amax((2, 3, 4))
    assert (brightest[batch.mask.amax((2, 3, 4)) > 0.9] > 0.04).all()  # nothing is black all over
    staging = batch.objects.staging
    assert staging is not None
    assert (staging.radius + staging.shift.norm(dim=-1) <= FRAME_RADIUS + 1e-6).all()
    assert staging.radius.min() < 0.155 < 0.21 < staging.radius.max()
    assert 0.01 < staging.shift.norm(dim=-1).max() <= 2 * OFF_CENTER / 4.5


def test_photos_of_a_ball_fill_their_frames_by_hand() -> None:
    """The ball that the nominal camera just holds: its rim is at NDC 1 for every focal length."""
    cameras = orbit_cameras([0.0, 50.0, 100.0], 22.5)
    draws = torch.rand(1, 3, PHOTO_COLUMNS, generator=torch.Generator().manual_seed(0))
    staging = Staging(VALUES["inward"], torch.tensor([[0.01, 0.005, -0.008]]), torch.tensor([0.16]), DARK)
    true = Cameras(*(x[0] for x in Photographs(staging, draws, 1).cameras(cameras.camera_to_world[None])))
    distance, focal = true.centers.norm(dim=-1), true.focal[:, 0]
    assert ((focal > FOCALS[0]) & (focal < FOCALS[1])).all()
    assert torch.equal(true.camera_to_world[:, :3, :3], cameras.camera_to_world[:, :3, :3])
    # photo 1 keeps the world's middle, and the ball's apparent radius r·f / sqrt(d² - r²)
    rim = FRAME_RADIUS * focal[0] / (distance[0].square() - FRAME_RADIUS**2).sqrt()
    assert float(rim) == pytest.approx(1, abs=1e-5)
    assert torch.equal(true.principal[0], torch.zeros(2))
    for place in (1, 2):  # the others have the object's middle where they want it
        at, away = project(staging.shift[0], true[place])
        assert torch.allclose(at, true.principal[place], atol=1e-5)
        assert 0 < at.abs().max() <= 2 * OFF_CENTER
        reach = 0.16 * focal[place] / (away.square() - 0.16**2).sqrt()
        assert 0.6 < reach + at.abs().max() < 1.001


def test_photos_are_cut_out_or_greyish_and_other_views_clean() -> None:
    data = ProceduralObjects("test", version=2)
    clean, taken = (data.batch(range(40), views=3, size=24, photos=photos) for photos in ([], [0, 2]))
    assert torch.equal(clean.rgb[:, 1], taken.rgb[:, 1])
    assert torch.equal(clean.camera_to_world, taken.camera_to_world)
    assert ((clean.rgb[:, 0] - taken.rgb[:, 0]).abs().mean((1, 2, 3)) > 1e-3).float().mean() > 0.9
    corners = taken.rgb[:, [0, 2], :, 0, 0].flatten(0, 1)
    cut = (corners == 1).all(1)
    assert 20 < cut.sum() < 60
    assert (corners[~cut] >= WHITES[0]).all()
    assert torch.equal(corners[:, 0], corners[:, 2])
    # by hand: what is more than a pixel off the object is white, what is more than a pixel inside untouched
    rgb, mask = torch.ones(1, 2, 3, 9, 9), torch.zeros(1, 2, 1, 9, 9)
    rgb[..., 2:7, 2:7], mask[..., 2:7, 2:7] = 0.25, 1
    draws = torch.rand(1, 2, PHOTO_COLUMNS, generator=torch.Generator().manual_seed(1))
    draws[0, :, 4] = torch.tensor([0.2, 0.8])
    photo, ragged = Photographs(Staging(**VALUES, fills=DARK), draws, 0).developed(rgb, mask)
    wide, narrow = (max_pool2d(each, 3, 1, 1)[0, 0] for each in (mask[0, :1], 1 - mask[0, :1]))
    assert torch.equal(photo[0, 0][:, wide == 0], torch.ones(3, int((wide == 0).sum())))
    assert torch.allclose(photo[0, 0][:, narrow == 0], torch.tensor(0.25))
    assert not torch.equal(ragged[0, 0], mask[0, 0])
    assert torch.equal(ragged[0, 1], mask[0, 1])
    assert torch.allclose(photo[0, 1][:, mask[0, 1, 0] == 1], torch.tensor(0.25))


def test_version_1_takes_no_photos_and_others_are_none() -> None:
    data = ProceduralObjects("train")
    plain, asked = (data.batch([1, 2], views=2, size=12, photos=photos) for photos in ([], [0, 1]))
    assert torch.equal(plain.rgb, asked.rgb)
    assert plain.objects.staging is None
    assert (plain.objects.version, plain.example(0).name) == (1, "procedural-1-train-1")
    refused("version must be", ProceduralObjects, "train", version=3)


def test_references_may_be_many_and_pools_agree_with_batches() -> None:
    data = ProceduralObjects("validation", size=12, version=2)
    made = {"views": 4, "size": 12, "photos": [0, 1, 3]}
    pool = data.objects(range(5))
    seen = data.look(pool[torch.tensor([4, 1])], **made, generator=torch.Generator().manual_seed(3))
    same = data.batch([4, 1], **made, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(seen.rgb, same.rgb, atol=1e-5)
    assert (seen.example(0).name, same.names[0]) == ("procedural-2", "procedural-2-validation-4")
    several = data.look(pool, **made, references=2, generator=torch.Generator().manual_seed(3))
    assert torch.equal(several.elevation_degrees[:, :2], torch.full((5, 2), 22.5))
    few = data.batch([9], views=2, photos=[0])
    assert torch.allclose(few.rgb, data.batch([9], views=3, photos=[0]).rgb[:, :2], atol=1e-5)
