import math
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
from refusals import refused
from torch import Tensor

from upfusion_core import (
    Cameras,
    InputViews,
    PhotoCameras,
    PhotoSearch,
    SceneEncoding,
    UpFusion,
    orbit_cameras,
    prepare_views,
)
from upfusion_core.geometry import project
from upfusion_core.pipeline.frames import choose_views
from upfusion_core.pipeline.pose import (
    agreement,
    estimate_elevation,
    estimate_photo_cameras,
    outlines,
    pair_ranges,
    photo_sheet,
)

SEARCH = PhotoSearch(samples=64, sweeps=20, refinements=8)
AZIMUTHS, ELEVATIONS = (0.0, 62.0, 135.0, 178.0, 251.0, 310.0), (20.0, 5.0, 38.0, 12.0, 27.0, 45.0)
CHAIR = torch.tensor([[0, -0.1, 0], [0.1, 0.02, 0.03], [-0.06, 0.1, 0.08], [0.03, -0.04, -0.13], [-0.12, -0.06, 0.02]])
SIZES = torch.tensor([0.05, 0.03, 0.025, 0.035, 0.02])


def silhouettes(cameras: Cameras, points: Tensor, sizes: Tensor, side: int = 96) -> Tensor:
    """(V, 1, side, side) of balls, whose rims are ellipses that are nearly circles."""
    matrices = cameras.camera_to_world
    local = torch.einsum("vji,vpj->vpi", matrices[:, :3, :3], points - matrices[:, None, :3, 3])
    middles = torch.stack([local[..., 0], -local[..., 1]], -1) / -local[..., 2:] * cameras.focal[:, None]
    radii = cameras.focal[:, :1] * sizes / (local.square().sum(-1) - sizes**2).sqrt()
    axis = (torch.arange(side) + 0.5) / side * 2 - 1
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    apart = (grid[None, None] - middles[:, :, None, None]).norm(dim=-1) - radii[..., None, None]
    return (0.5 - apart.amin(1) * side / 2).clamp(0, 1)[:, None]


def scene_of(model: UpFusion, masks: Tensor, elevation: float = ELEVATIONS[0]) -> SceneEncoding:
    views = InputViews(1 - 0.5 * masks.expand(-1, 3, -1, -1), masks, torch.full((len(masks), 2), 4.5))
    return model.encode(views, reference_elevation_degrees=elevation)


def test_a_ball_is_seen_under_one_angle_by_hand() -> None:
    """A ball of radius .1 at distance 1 fills ± asin(.1) about every line that misses it."""
    cameras = orbit_cameras([0.0, 70.0], [10.0, 30.0])
    rim = torch.arange(0, 2 * math.pi, 0.01)
    ball = torch.stack([rim.cos() * math.tan(math.asin(0.1)), rim.sin() * math.tan(math.asin(0.1)), -(rim**0)], dim=-1)
    found = pair_ranges(ball, ball, (cameras.camera_to_world[:1], cameras.camera_to_world[1:]))
    middle = cameras.centers[0] + (cameras.centers[1] - cameras.centers[0]) / 2  # the line's nearest to the ball
    across = math.asin(0.1 / float(middle.norm()))
    torch.testing.assert_close(found, torch.tensor([[[-across, across]] * 2]), atol=1e-3, rtol=0)
    above = orbit_cameras(180.0, -8.0).camera_to_world
    assert bool(pair_ranges(ball, ball, (cameras.camera_to_world[:1], above)).isnan().all())  # the line runs through it
    told = agreement(torch.tensor([[0.0, 0.0], [0.3, 0.3], [math.nan, 0.0]]), 0.1, 0.3)
    torch.testing.assert_close(told, torch.tensor([2 * math.log(3), 2 * math.log(3 * 2 / 10), math.log(3)]))


def test_outlines_are_of_the_photo_s_own_pixels_whatever_the_networks_see() -> None:
    photo = torch.full((100, 160, 3), 255, dtype=torch.uint8)
    photo[30:70, 40:110] = 60
    views = prepare_views(photo.numpy(), size=16)
    (rays,), _ = outlines(views, orbit_cameras(0.0), torch.full((1, 2), math.nan))
    assert views.sources is not None
    left, top, right, bottom = views.sources[0].box
    places = (
        rays[:, :2] * torch.tensor([1, -1]) * 4.5 * (right - left) / 2 + torch.tensor([left + right, top + bottom]) / 2
    )
    corners = torch.tensor([[40.0, 30.0], [110.0, 70.0]])
    torch.testing.assert_close(torch.stack([places.amin(0), places.amax(0)]), corners, atol=0.6, rtol=0)


def test_cameras_are_found_by_silhouettes_and_those_that_lie_are_not(model: UpFusion) -> None:
    true = orbit_cameras(AZIMUTHS, ELEVATIONS)
    scene = scene_of(model, silhouettes(true, CHAIR, SIZES))
    found = estimate_photo_cameras(model, scene, search=SEARCH)
    traces = (found.cameras.camera_to_world[:, :3, :3] * true.camera_to_world[:, :3, :3]).sum((1, 2))
    assert float(torch.rad2deg(((traces - 1) / 2).clamp(-1, 1).acos()).max()) < 6
    assert int(found.accepted.sum()) >= 4
    assert photo_sheet(scene.views.rgb, scene.views.rgb, found, 32).shape[1] > 6 * 32
    with torch.inference_mode():
        again = estimate_photo_cameras(model, scene, search=SEARCH)
    assert torch.equal(again.cameras.camera_to_world, found.cameras.camera_to_world)
    near = scene_of(model, silhouettes(orbit_cameras([0.0] * 6, [20.0, 10, 15, 25, 30, 35]), CHAIR, SIZES))
    crowded = estimate_photo_cameras(model, near, search=SEARCH)  # at one place everything fits
    assert (int(crowded.accepted.sum()), "within 20 degrees" in crowded.reasons[3]) == (1, True)


def test_photo_1s_elevation_is_found_where_all_silhouettes_have_one_horizon(model: UpFusion) -> None:
    for elevation in (4.0, 38.0):
        masks = silhouettes(orbit_cameras(AZIMUTHS, (elevation, *ELEVATIONS[1:])), CHAIR, SIZES)
        assert estimate_elevation(scene_of(model, masks).views) == pytest.approx(elevation, abs=3.0)
    assert estimate_elevation(scene_of(model, masks[:2]).views) is None
    masks[3:] = masks[3:].flip(-2)  # of another object
    assert estimate_elevation(scene_of(model, masks).views) is None
    ball = silhouettes(orbit_cameras(AZIMUTHS, ELEVATIONS), CHAIR[:1] * 0, SIZES[:1])
    assert estimate_elevation(scene_of(model, ball).views) is None


def test_of_many_photos_six_are_seen_and_the_others_are_found_beside_photo_1(model: UpFusion) -> None:
    masks = silhouettes(orbit_cameras((*AZIMUTHS, 100.0, 200.0), (*ELEVATIONS, 15.0, 30.0)), CHAIR, SIZES)
    masks[2] = masks[2].roll(2, dims=1)  # a lens whose middle is 2 of 48 lower
    views = choose_views(scene_of(model, masks).views, [1, 2, 3, 4, 5, 6])
    scene = model.encode(views, reference_elevation_degrees=ELEVATIONS[0])
    found = estimate_photo_cameras(model, scene, search=SEARCH)
    middle, _ = project(torch.zeros(1, 3), found.cameras[2])  # its lens is turned to where the object is
    assert -2 / 48 < float(middle[0, 1]) < -1 / 96
    for places in ([0, 1, 2, 3, 4, 5], [0, 6, 7]):
        alone = scene_of(model, masks[places])
        assert len(places) < 6 or torch.equal(scene.tokens, alone.tokens)
        same = estimate_photo_cameras(model, alone, search=SEARCH)
        for place, camera, score in zip(places, same.cameras, same.score, strict=True):
            assert torch.equal(found.cameras[place].camera_to_world, camera.camera_to_world)
            assert found.score[place] == score


def test_others_are_found_beside_known_cameras_or_refused_where_these_do_not_fit(model: UpFusion) -> None:
    true = orbit_cameras(AZIMUTHS, ELEVATIONS, (1.0, 0.8, 1.2, 1.0, 1.0, 1.0), focal=3.6)
    true.camera_to_world[1, :3, :3] @= torch.linalg.matrix_exp(torch.tensor([[0, -0.4, 0], [0.4, 0, 0], [0, 0, 0]]))
    masks, given = silhouettes(true, CHAIR, SIZES), torch.arange(6) < 3
    for order, right in (([0, 1, 2, 0, 0, 0], True), ([0, 2, 1, 0, 0, 0], False)):
        known = PhotoCameras(true[torch.tensor(order)], given, given.float(), given=True, sought=(3, 4, 5))
        views = InputViews(1 - 0.5 * masks.expand(-1, 3, -1, -1), masks, torch.full((6, 2), 4.5), cameras=known)
        found = estimate_photo_cameras(model, model.encode(views), search=SEARCH)
        assert torch.equal(found.cameras[:3].camera_to_world, known.cameras[:3].camera_to_world)
        told = ["reference", "given", "given", *3 * ["found" if right else "refused"]]
        assert [found.status(index) for index in range(6)] == told
        traces = (found.cameras.camera_to_world[:, :3, :3] * true.camera_to_world[:, :3, :3]).sum((1, 2))
        assert not right or float(torch.rad2deg(((traces - 1) / 2).clamp(-1, 1).acos()).max()) < 6


UPRIGHT, CORNERS = torch.tensor([[0, -0.07, 0], [0, 0, 0], [0, 0.08, 0]]), torch.cartesian_prod(*3 * [SIZES[:2] - 0.04])
ALIKE = [(UPRIGHT[1:2], [0.12]), (UPRIGHT, [0.07, 0.06, 0.03]), (6 * CORNERS, [0.01] * 8)]  # a ball, a bottle, a cube


@pytest.mark.parametrize(("points", "sizes"), ALIKE)
def test_what_looks_alike_from_several_sides_is_refused(model: UpFusion, points: Tensor, sizes: list[float]) -> None:
    masks = silhouettes(orbit_cameras(AZIMUTHS, ELEVATIONS), points, torch.tensor(sizes))
    found = estimate_photo_cameras(model, scene_of(model, masks), search=SEARCH)
    assert found.accepted.tolist() == [True, *[False] * 5]
    assert all(found.reasons[1:])
    said = sum("looks alike from several sides: only its elevation" in reason for reason in found.reasons)
    assert said >= (0 if len(sizes) == 1 else 3), found.reasons  # a ball's elevation is not sure either


def test_angles_and_report_by_hand() -> None:
    cameras = orbit_cameras([0.0, 90.0, 350.0], [22.5, -10.0, 0.0])
    score = torch.tensor([1.0, 0.9, 0.2])
    found = PhotoCameras(cameras, score > 0.5, score, reasons=("", "", "it is black"))
    expected = torch.tensor([[0.0, 22.5], [90.0, -10.0], [350.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(found.angles_degrees(), expected, atol=1e-4, rtol=0)
    assert found.report().splitlines() == [
        "photo 1: azimuth 0.0, elevation 22.5 degrees, the reference",
        "photo 2: azimuth 90.0, elevation -10.0 degrees, found (trust 0.90)",
        "photo 3: azimuth 350.0, elevation 0.0 degrees, refused (trust 0.20: it is black)",
    ]


SMALL = PhotoSearch(azimuths=6, elevations_degrees=(0.0, 30.0), samples=8, sweeps=3, refinements=2)


def test_photo_1_is_known_and_steps_are_told(model: UpFusion, scene: SceneEncoding) -> None:
    told = Mock()
    found = estimate_photo_cameras(model, scene, search=SMALL, on_step=told)
    assert [step.args[:2] for step in told.call_args_list] == [(1, 3), (2, 3), (3, 3)]
    assert torch.equal(found.cameras.camera_to_world[0], scene.reference.camera_to_world[0])
    assert bool(found.accepted[0])
    assert bool(((found.score >= 0) & (found.score <= 1)).all())
    views = scene.views
    alone = model.encode(InputViews(views.rgb[:1], views.mask[:1], views.focal[:1]))
    assert estimate_photo_cameras(model, alone).accepted.tolist() == [True]


def test_what_is_refused(model: UpFusion, scene: SceneEncoding) -> None:
    masks = silhouettes(orbit_cameras(AZIMUTHS[:3], ELEVATIONS[:3]), CHAIR, SIZES)
    masks[1] = 0
    found = estimate_photo_cameras(model, scene_of(model, masks), search=SMALL)
    assert not found.accepted[1]
    refused("must hold its photos", estimate_photo_cameras, model, replace(scene, views=None))
