"""The fast schedule: its cameras, its rounds, what counts how much, and what it asks of the networks."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from rule_weights import write_photos
from torch import Tensor

from upfusion_core import DistillConfig, SceneEncoding, UpFusion, orbit_cameras, prepare_views
from upfusion_core.config import FastSchedule, FieldConfig, FitConfig, GridConfig, RaySampling
from upfusion_core.geometry import reference_camera
from upfusion_core.pipeline import rounds
from upfusion_core.pipeline.pose import PhotoCameras
from upfusion_core.pipeline.rounds import Targets, agreement, spread_cameras
from upfusion_core.pipeline.sampling import repaint_steps
from upfusion_core.support.errors import InputError
from upfusion_core.support.images import resize_pictures

FIELD = FieldConfig(grid=GridConfig(levels=2, coarsest=4, finest=16, table_size=2**10), hidden=8, half_extent=0.3)
FIT = dataclasses.replace(FitConfig(iterations=8), rays=64, occupancy_cells=8, sampling=RaySampling(8, 0))
SCHEDULE = FastSchedule(
    cameras=4, predicted_size=16, predicted_iterations=3, levels=(1.0, 0.5), steps=4, all_photos=False, fit=FIT
)


def test_agreement_by_hand() -> None:
    painted, seen = torch.zeros(1, 3, 1, 3), torch.zeros(1, 3, 1, 3)
    seen[0, :, 0, 1] = 0.2  # root mean square difference 0.2, the scale: one half
    seen[0, 0, 0, 2] = 0.6  # in one channel of three: 0.04 / (0.04 + 0.12)
    assert agreement(painted, seen, 0.2).flatten().tolist() == pytest.approx([1.0, 0.5, 0.25])


def test_cameras_are_spread_over_the_band() -> None:
    first = reference_camera(10.0)
    cameras = spread_cameras(first, 33)
    assert len(cameras) == 33
    assert torch.equal(cameras[0].camera_to_world, first.camera_to_world)
    centers = cameras.centers[1:].double()
    assert centers.norm(dim=-1).sub(1).abs().max() < 1e-5
    elevations = torch.rad2deg(centers[:, 1].asin())
    assert -7.5 < float(elevations.min()) < 0
    assert 45 < float(elevations.max()) < 52.5
    angles = torch.rad2deg((centers @ centers.T).clamp(-1, 1).acos()).fill_diagonal_(180)
    # a band of 2 pi (sin 52.5° + sin 7.5°) over 32 cameras: 25 degrees apart if they stood on squares
    assert math.sqrt(2 * math.pi * 0.924 / 32) == pytest.approx(math.radians(24.4), abs=0.01)
    assert float(angles.min(dim=1).values.min()) > 12
    assert float(angles.min(dim=1).values.max()) < 36
    assert len(spread_cameras(first, 1)) == 1


def test_when_the_rounds_are_painted() -> None:
    schedule = FastSchedule(predicted_iterations=200, levels=(1.0, 0.7, 0.45, 0.25), fit=FitConfig(iterations=700))
    assert schedule.ends == (200, 325, 450, 575, 700)
    assert [repaint_steps(level, 10) for level in schedule.levels] == [10, 7, 4, 2]


def test_schedules_that_make_no_sense() -> None:
    for message, changes in (
        ("levels", {"levels": ()}),
        ("levels", {"levels": (0.5, 0.0)}),
        ("predicted_iterations", {"predicted_iterations": 700}),
        ("fit.iterations", {"fit": FitConfig(iterations=3), "predicted_iterations": 1}),
        (r"guided\[1\]", {"guided": (0.6, 0.4)}),
        ("cameras", {"cameras": 0}),
        ("agreement", {"agreement": -1.0}),
    ):
        with pytest.raises(InputError, match=message):
            FastSchedule(**changes)


@pytest.fixture(scope="module")
def scene(model: UpFusion, tmp_path_factory: pytest.TempPathFactory) -> SceneEncoding:
    return model.encode(prepare_views(write_photos(tmp_path_factory.mktemp("photos"), count=3)))


def network_evaluations(model: UpFusion, scene: SceneEncoding, config: DistillConfig) -> int:
    counted = 0

    def count(_: object, arguments: tuple[Tensor, ...]) -> None:
        nonlocal counted
        counted += len(arguments[0])

    handle = model.unet.register_forward_pre_hook(count)
    model.distill(scene, config, torch.Generator().manual_seed(3))
    handle.remove()
    return counted


def test_network_evaluations(model: UpFusion, scene: SceneEncoding) -> None:
    """4 cameras, 4 + 2 steps, twice each where there is guidance: those of the released schedule are 94,200."""
    config = DistillConfig(schedule=SCHEDULE, field=FIELD)
    assert network_evaluations(model, scene, config) == 4 * (4 + 2) * 2
    # timesteps 801, 601, 401, 201, then 401, 201: those below 600 are guided
    middle = dataclasses.replace(SCHEDULE, guided=(0.2, 0.6))
    assert network_evaluations(model, scene, dataclasses.replace(config, schedule=middle)) == 4 * (6 + 4)
    plan = FastSchedule()
    most = plan.cameras * 2 * sum(repaint_steps(level, plan.steps) for level in plan.levels)
    assert most <= 94_200 / 20


def test_painted_views_become_targets(model: UpFusion, scene: SceneEncoding, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each round gets the renders of the field as it is, and the field goes towards what is painted of them."""
    seen, levels = [], []

    def black(
        prior: object, cond: object, *, pictures: Tensor, level: float, seeds: tuple[int, ...], **_: object
    ) -> Tensor:
        seen.append(float(pictures.mean()))
        levels.append(level)
        assert len(set(seeds)) == 1
        return torch.zeros_like(pictures)

    monkeypatch.setattr(rounds, "sample_views", black)
    schedule = dataclasses.replace(
        SCHEDULE, agreement=0.0, photo_weight=0.0, fit=dataclasses.replace(FIT, iterations=63)
    )
    field = model.distill(scene, DistillConfig(schedule=schedule, field=FIELD), torch.Generator().manual_seed(3))
    assert levels == [1.0, 0.5]
    assert seen[1] < seen[0] - 0.02
    assert float(field.render(orbit_cameras([0.0, 90.0]), 16).rgb.mean()) < seen[1]


def test_photos_are_targets_where_their_cameras_are_known(
    model: UpFusion, scene: SceneEncoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    cameras = orbit_cameras([0.0, 90.0, 200.0])
    estimated = PhotoCameras(cameras, torch.tensor([True, False, True]), torch.tensor([1.0, 0.1, 0.9]))
    monkeypatch.setattr(rounds, "estimate_photo_cameras", lambda *_, **__: estimated)
    fitted: list[Targets] = []
    original = rounds.FieldFitter.set_views

    def recording(self: object, cameras: object, rgb: Tensor, **options: Tensor) -> None:
        fitted.append(Targets(cameras, rgb, options["mask"], options["weights"]))
        original(self, cameras, rgb, **options)

    monkeypatch.setattr(rounds.FieldFitter, "set_views", recording)
    schedule = dataclasses.replace(SCHEDULE, levels=(0.5,), photo_weight=2.5, all_photos=True)
    config = DistillConfig(schedule=schedule, field=FIELD)
    model.distill(scene, config, torch.Generator().manual_seed(3))
    first, second = fitted
    assert len(first.cameras) == 4  # predictions alone
    assert len(second.cameras) == 4 + 2
    assert torch.equal(second.cameras.camera_to_world[5], cameras.camera_to_world[2])
    size = model.image_size
    photos = resize_pictures(scene.views.rgb, size)
    assert torch.equal(second.rgb[4:], photos[[0, 2]])
    assert torch.equal(second.weights[4:], torch.full((2, 1, size, size), 2.5))
    fitted.clear()
    given = PhotoCameras(cameras, torch.tensor([True, True, False]), torch.tensor([1.0, 1.0, 0.0]))
    model.distill(scene, config, torch.Generator().manual_seed(3), photo_cameras=given)
    assert torch.equal(fitted[1].cameras.camera_to_world[4:], cameras.camera_to_world[:2])
    fitted.clear()
    model.distill(scene, dataclasses.replace(config, schedule=dataclasses.replace(schedule, all_photos=False)))
    assert len(fitted[1].cameras) == 4 + 1
    assert torch.equal(fitted[1].cameras.camera_to_world[4], scene.reference.camera_to_world[0])
    fitted.clear()
    model.distill(dataclasses.replace(scene, views=None), config)
    assert len(fitted[1].cameras) == 4
    with pytest.raises(InputError, match="one camera for each of the scene's 0 photos, got 3"):
        model.distill(dataclasses.replace(scene, views=None), config, photo_cameras=given)


def test_the_search_for_the_photos_cameras_can_be_cancelled(model: UpFusion, scene: SceneEncoding) -> None:
    config = DistillConfig(schedule=dataclasses.replace(SCHEDULE, all_photos=True), field=FIELD)
    asked: list[tuple[int, int]] = []

    def stop(step: int, total: int, preview: object) -> None:
        asked.append((step, total))
        assert preview is None, "the fit has not begun"
        if len(asked) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.distill(scene, config, on_step=stop)
    assert asked == [(0, 4 + 2 + FIT.iterations)] * 3
