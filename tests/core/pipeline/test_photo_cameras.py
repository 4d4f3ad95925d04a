import math
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from refusals import refused
from soft_object import SoftObject

from upfusion_core import Cameras, PhotoCameras, PhotoSearch, SceneEncoding, UpFusion, orbit_cameras
from upfusion_core.pipeline.pose import estimate_photo_cameras, match_photo, ring_differences

SEARCH = PhotoSearch()


def angle_degrees(first: Cameras, second: Cameras) -> float:
    turn = first.camera_to_world[0, :3, :3].T @ second.camera_to_world[0, :3, :3]
    return math.degrees(math.acos(float(((turn.trace() - 1) / 2).clamp(-1, 1))))


@pytest.mark.parametrize(("azimuth", "elevation"), [(101.0, 5.0), (187.0, 38.0), (352.0, 22.0)])
def test_cameras_of_a_known_object_are_found(azimuth: float, elevation: float) -> None:
    true = orbit_cameras(azimuth, elevation, 1.02)
    match = match_photo(SoftObject(), SoftObject()(true, 32)[0], SEARCH, focal=4.5)
    assert angle_degrees(match.camera, true) < 4
    assert match.accepted
    assert match.difference < 0.01


def test_what_is_not_accepted() -> None:
    class Column(SoftObject):
        def __init__(self) -> None:
            super().__init__()
            self.points = torch.tensor([[0.0, -0.06, 0.0], [0.0, 0.0, 0.0], [0.0, 0.07, 0.0]])
            self.sizes, self.colors = self.sizes[:3], self.colors[:3]

    match = match_photo(Column(), Column()(orbit_cameras(75.0, 20.0), 32)[0], SEARCH, focal=4.5)
    assert match.score < 0.3
    assert not match.accepted
    other = SoftObject()
    other.colors, other.points = other.colors.flip(0), 1.5 * other.points[:, [1, 2, 0]]
    match = match_photo(SoftObject(), other(orbit_cameras(75.0, 20.0), 32)[0], SEARCH, focal=4.5)
    assert not match.accepted
    black = match_photo(SoftObject(), torch.zeros(3, 32, 32), SEARCH, focal=4.5)
    assert not black.accepted
    assert black.difference > SEARCH.largest_difference


def test_turntables_and_angles_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    ring = torch.rand(3, 24, 3, 5, 5, generator=generator)
    others = torch.stack([torch.rand(3, 24, 3, 5, 5, generator=generator), ring.roll(-7, dims=1)])
    found = ring_differences(ring, others)
    assert found.shape == (2, 24)
    assert int(found.flatten().argmin()) == 24 + 7
    turned = others[0].roll(4, dims=1)  # by hand: the other frame's azimuth j - 4 stands beside ours j
    by_hand = (ring - turned).square().sum() / (1 - ring).square().sum()
    torch.testing.assert_close(found[0, 4], by_hand, rtol=1e-4, atol=1e-5)
    assert float(found[1, 7]) < 1e-5
    cameras = orbit_cameras([0.0, 90.0, 350.0], [22.5, -10.0, 0.0])
    found = PhotoCameras(cameras, torch.tensor([True, True, False]), torch.tensor([1.0, 0.9, 0.2]))
    expected = torch.tensor([[0.0, 22.5], [90.0, -10.0], [350.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(found.angles_degrees(), expected, atol=1e-4, rtol=0)


SMALL = PhotoSearch(azimuths=6, elevations_degrees=(0.0, 30.0), ring_elevations_degrees=(15.0,), steps=2)


def test_photo_1_is_known_and_the_others_are_reported(model: UpFusion, scene: SceneEncoding, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    hook = {"on_step": lambda step, total, _: steps.append((step, total))}
    found = estimate_photo_cameras(model, scene, search=SMALL, **hook)
    assert list(dict.fromkeys(steps)) == [(0, 2), (1, 2), (2, 2)]
    assert steps.count((0, 2)) > 4  # so that a host can cancel in between
    assert torch.equal(found.cameras.camera_to_world[0], scene.reference.camera_to_world[0])
    assert bool(found.accepted[0])
    assert bool(((found.score >= 0) & (found.score <= 1)).all())
    with torch.inference_mode():
        again = estimate_photo_cameras(model, scene, search=SMALL)
    assert torch.equal(again.cameras.camera_to_world, found.cameras.camera_to_world)


def test_one_photo_needs_no_search_and_the_hook_cancels(model: UpFusion, scene: SceneEncoding) -> None:
    views = scene.views
    alone = model.encode(type(views)(views.rgb[:1], views.mask[:1], views.focal[:1]))
    assert estimate_photo_cameras(model, alone).accepted.tolist() == [True]
    with pytest.raises(InterruptedError):
        estimate_photo_cameras(model, scene, search=SMALL, on_step=Mock(side_effect=InterruptedError))


def test_bad_input_gets_a_sentence(model: UpFusion, scene: SceneEncoding) -> None:
    refused("scene must be SceneEncoding, got NoneType; make it with encode", estimate_photo_cameras, model, None)
    refused("must hold its photos", estimate_photo_cameras, model, replace(scene, views=None))
    refused("encoded by another model", estimate_photo_cameras, model, replace(scene, model_id="other"))
    both = torch.tensor([True, True])
    refused(r"PhotoCameras.score must be \(2\)", PhotoCameras, orbit_cameras([0.0, 10.0]), both, torch.ones(3))
