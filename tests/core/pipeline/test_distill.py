"""Distillation by every schedule: cameras, rounds, what counts how much, and resuming to the bit."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import pytest
import tiny_training
import torch
from data_sets import disc
from golden_files import worst
from odd_values import assert_finite
from random_vgg import heads, vgg_weights
from refusals import raised, refused, unfit
from torch import Tensor
from torch.nn.modules.module import register_module_forward_pre_hook

from upfusion_core import DistillConfig, RadianceField, SceneEncoding, UpFusion, orbit_cameras
from upfusion_core.config import PRESETS, DraftSchedule, FastSchedule, FitConfig, RaySampling, ReferenceSchedule
from upfusion_core.field import fitting
from upfusion_core.geometry import reference_camera
from upfusion_core.pipeline import distill, reference
from upfusion_core.pipeline.distill import agreement, distill_cameras
from upfusion_core.pipeline.given_views import FittedPictures
from upfusion_core.pipeline.reference import loss_terms, reference_order, term_weights
from upfusion_core.pipeline.sampling import alphas_cumprod, repaint_steps
from upfusion_core.support.errors import FieldError
from upfusion_core.support.images import resize_pictures
from upfusion_core.types import GivenViews, NovelViews, PhotoCameras, Step

FIELD = replace(tiny_training.FIELD, blob_sigma=0.2)
FIT, LONGER = replace(tiny_training.FIT, iterations=6), replace(tiny_training.FIT, iterations=8)
SCHEDULE = FastSchedule(4, 16, predicted_iterations=3, levels=(1.0, 0.5), steps=4, all_photos=False, fit=LONGER)
SCHEDULES = {
    "draft": DraftSchedule(3, 16, FIT, sampled_cameras=2, sampled_fit=FIT, steps=2),
    "fast": replace(SCHEDULE, cameras=3, steps=2),
    "reference": ReferenceSchedule(
        3, 4, 4, bootstrap=2, lowest_index=1, bootstrap_index=2, highest_index=3, sampling=RaySampling(8, 4)
    ),
}


def tiny(preset: str, **changes: Any) -> DistillConfig:  # noqa: ANN401 - fields of DistillConfig
    small = {"schedule": SCHEDULES[preset], "field": FIELD, "checkpoint_every": 2}
    return DistillConfig.named(preset, **(small | changes))


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def same(a: RadianceField, b: RadianceField) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def stop_at(step: int) -> Mock:
    return Mock(side_effect=[None] * (step - 1) + [InterruptedError])  # whatever a host raises to cancel


stopped = partial(raised, InterruptedError, "^$")
Run = Callable[..., RadianceField]


@pytest.fixture
def run(model: UpFusion, scene: SceneEncoding) -> Run:
    """Distils the scene by a preset of these sizes, or another configuration."""

    def distilled(config: str | DistillConfig, seed: int = 3, **options: Any) -> RadianceField:  # noqa: ANN401
        config, given = tiny(config) if isinstance(config, str) else config, options.pop("scene", scene)
        return model.distill(given, config, seeded(seed), **options)

    return distilled


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.pt"


# a draft of these sizes has 6 + 2 + 6 steps: 3 is in the first fit, 7 in the sampling, 11 in the second fit;
# the fast schedule 3 of the fit, 2 of painting, 2 of the fit, 1 of painting and 3 of the fit
RESUMED = [("draft", 3), ("draft", 7), ("draft", 11), ("fast", 5), ("fast", 6), ("fast", 8), ("reference", 3)]


@pytest.mark.parametrize(("preset", "step"), RESUMED)
def test_resumed_it_ends_the_same(run: Run, path: Path, preset: str, step: int) -> None:
    whole = run(preset)
    stopped(run, preset, on_step=stop_at(step), checkpoint=path)
    assert same(whole, run(preset, checkpoint=path))
    assert same(whole, run(preset, on_step=stop_at(1), checkpoint=path))  # a finished state has no step left


@pytest.mark.parametrize(("preset", "asked"), [("fast", 1), ("fast", 6), ("reference", 3)])
def test_broken_off_within_a_step(run: Run, path: Path, preset: str, asked: int) -> None:
    """Hosts cancel between two questions to the field, too: random numbers of that step were drawn already."""
    whole, calls = run(preset), itertools.count(1)

    def cancel(module: torch.nn.Module, _: object) -> None:
        if isinstance(module, RadianceField) and next(calls) == asked:
            raise InterruptedError

    hook = register_module_forward_pre_hook(cancel)
    stopped(run, preset, checkpoint=path)
    hook.remove()
    assert same(whole, run(preset, checkpoint=path))


def test_painted_batches_and_found_cameras_are_kept(run: Run, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps of the fit, then three batches of two: a crash in the third leaves two of them."""
    search = Mock(side_effect=distill.estimate_photo_cameras)
    monkeypatch.setattr(distill, "estimate_photo_cameras", search)
    config, steps = tiny("fast", batch_size=1, schedule=replace(SCHEDULES["fast"], all_photos=True)), []
    whole = run(config)
    with pytest.raises(ZeroDivisionError):  # nothing is saved for it
        run(config, on_step=lambda step, *_: steps.append(step) or 1 / (8 - step), checkpoint=path)
    assert steps[-1] == 8
    assert len(torch.load(path, weights_only=True)["state"]["painted"]) == 2
    again = run(config, on_step=lambda step, *_: steps.append(step), checkpoint=path)
    assert steps[steps.index(8) + 1] == 8
    assert same(whole, again)
    assert search.call_count == 2


def test_steps_know_their_phase_and_what_is_left(run: Run) -> None:
    steps: list[tuple[Step, int]] = []
    config = tiny("fast", schedule=replace(SCHEDULE, all_photos=True))
    run(config, on_step=lambda step, total, _: steps.append((step, total)))
    phases = [phase for phase, _ in itertools.groupby(step.phase for step, _ in steps)]
    rounds = [f"round {number} of 2, {work}" for number in (1, 2) for work in ("painting", "fitting")]
    assert phases == ["estimating cameras", "predictions", *rounds]
    known = [(step, total) for step, total in steps if step.left]
    assert [sum(step.left.values()) for step, _ in known] == [total - step for step, total in known]
    painted = [step.left["painting"] for step, _ in known if step.kind == "painting"]
    assert painted == [5, 4, 3, 2, 1, 0]  # four views at a time: four steps of the first round, two of the second


@pytest.mark.parametrize("preset", PRESETS)
def test_steps(run: Run, preset: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is reported before it is saved: killed between the two, a run tells of it again, with its last preview."""
    events: list[object] = []

    def on_step(step: int, total: int, preview: object) -> None:
        events.append((step, total))
        if step in (1, total):
            picture = preview()
            assert picture.shape[0] == 3
            assert 0 <= float(picture.min()) <= float(picture.max()) <= 1

    monkeypatch.setattr(distill, "save_tensors", lambda *_: events.append("saved"))
    field = run(preset, on_step=on_step, checkpoint=path)
    seen = [event for event in events if event != "saved"]
    assert seen == [(step, len(seen)) for step in range(1, len(seen) + 1)]
    assert events[-2:] == [seen[-1], "saved"]
    assert not same(field, run(preset, seed=4))


@pytest.mark.parametrize("preset", PRESETS)
def test_views(run: Run, path: Path, monkeypatch: pytest.MonkeyPatch, preset: str) -> None:
    """Black views make it darker than white ones, on every way through the schedules, the same views the same field."""
    monkeypatch.setattr(distill, "FitConfig", lambda: FIT)
    black, seen = NovelViews(torch.zeros(2, 3, 32, 32), orbit_cameras([0.0, 90.0])), []
    field = run(preset, views=black, on_step=lambda step, total, _: seen.append((step, total)))
    assert seen == [(step, len(seen)) for step in range(1, len(seen) + 1)]
    margin = 0.002 if preset == "fast" else 0.01  # eight steps in all, twelve or more elsewhere
    lighter = run(preset, views=replace(black, rgb=1 - black.rgb))
    dark, light = (each.render(black.cameras, 8).rgb.mean() for each in (field, lighter))
    assert dark < light - margin
    stopped(run, preset, on_step=stop_at(8), checkpoint=path, views=black)
    with torch.inference_mode():
        assert same(field, run(preset, checkpoint=path, views=black))
    refused("belongs to a run with other photos", run, preset, checkpoint=path)


def test_silhouettes_bound_the_field(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of sampled views, which contradict each other, do not."""
    looked = Mock(wraps=distill.visual_hull)
    monkeypatch.setattr(distill, "CELLS", 32)
    monkeypatch.setattr(distill, "visual_hull", looked)
    rgb, cameras = torch.zeros(2, 3, 16, 16), orbit_cameras([0.0, 90.0])
    run("draft", views=NovelViews(rgb, cameras))
    assert looked.call_count == 0
    run("draft", views=GivenViews(list(rgb), cameras, [torch.ones(16, 16)] * 2))
    assert looked.call_count == 1


def test_photos_that_tell_more_are_fitted_alone(
    model: UpFusion, run: Run, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ball of radius 0.1 from three sides: the networks see it, or nothing; one photo tells too little."""

    def on_white(size: int, radius: float) -> Tensor:
        return torch.from_numpy(1 - disc(size, size, size / 2, size / 2, radius * size / 2)).float()

    monkeypatch.setattr(FitConfig, "views", lambda: FIT)
    phases: list[str] = []
    for sides, radius, alone in ((3, 0.45, False), (1, 0.0, False), (3, 0.0, True)):
        monkeypatch.setattr(
            model, "predict", lambda _, at, size, r=radius, **__: on_white(size, r).expand(len(at), 3, -1, -1)
        )
        cameras, photo = orbit_cameras([120.0 * side for side in range(sides)]), on_white(64, 0.45)
        views = GivenViews([photo.expand(3, -1, -1)] * sides, cameras, [1 - photo] * sides)
        phases.clear()
        field = run("draft", views=views, on_step=lambda step, *_: phases.append(step.phase))
        assert ("the photos alone" in phases) == alone
    assert phases == ["the photos alone"] * FIT.iterations
    stopped(run, "draft", views=views, on_step=stop_at(2), checkpoint=path)
    assert same(field, run("draft", views=views, checkpoint=path))


def test_states_of_others(run: Run, path: Path) -> None:
    stopped(run, "draft", on_step=stop_at(3), checkpoint=path)
    for changed in ({"seed": 4}, {"config": tiny("draft", guidance=2.0)}, {"prompt": ""}):
        refused("belongs to a run with other", run, **({"config": "draft", "checkpoint": path} | changed))
    path.write_bytes(b"junk")
    unfit("saved state of a distillation.*delete it", run, "draft", checkpoint=path)


@pytest.mark.parametrize("preset", PRESETS)
def test_after_an_infinite_gradient(run: Run, preset: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step 3 fails: the saved field is finite and has taken two steps; resumed, the run goes on from there."""
    failing = Mock(side_effect=map(torch.tensor, itertools.chain([True, True, False], itertools.repeat(True))))
    for module in (fitting, reference):
        monkeypatch.setattr(module, "finite_gradient", failing)
    said = r"at (step|iteration) 3.*\(color 0\.\d+, .*resume the last state"
    raised(FieldError, said, run, preset, checkpoint=path)
    state = torch.load(path, weights_only=True)["state"]
    state, steps = state.get("fit") or state, []
    assert state["iteration"] == 2
    assert_finite(state["field"])
    assert_finite(run(preset, on_step=lambda step, *_: steps.append(step), checkpoint=path))
    assert steps[0] == 3


def test_a_field_s_gradient_that_is_not_finite_is_not_taken() -> None:
    """The loss is finite, but its gradient would make the field NaN; field and optimiser stay as they were."""
    field, rgb = RadianceField(FIELD, generator=seeded()), torch.rand(2, 3, 8, 8, generator=seeded())
    fitter = fitting.FieldFitter(field, orbit_cameras([0.0, 90.0]), rgb, config=FIT, generator=seeded())
    field.mlp[0].weight.register_hook(lambda gradient: gradient * float("inf"))
    raised(FieldError, r"step 1 of the fit \(color", fitter.step)
    assert fitter.iteration == 0
    assert same(field, RadianceField(FIELD, generator=seeded()))


def test_presets_and_schedules() -> None:
    plan = FastSchedule(predicted_iterations=200, levels=(1.0, 0.7, 0.45, 0.25), fit=FitConfig(iterations=700))
    assert plan.ends == (200, 325, 450, 575, 700)
    assert [repaint_steps(level, 10) for level in plan.levels] == [10, 7, 4, 2]
    refused("perceptual_weights", DistillConfig.reference, perceptual="lpips")
    refused("the preset draft has no perceptual term", DistillConfig.draft, perceptual="dino")
    refused(r"guided\[1\]", FastSchedule, guided=(0.6, 0.4))


def test_cameras_and_order(scene: SceneEncoding) -> None:
    cameras = distill_cameras(scene, tiny("draft"), 3)
    released = distill_cameras(scene, DistillConfig.reference(), 0)
    assert (len(cameras), len(released)) == (3 + 2, 250)
    for first in (cameras[0], released[0]):
        assert worst(first.camera_to_world, scene.reference.camera_to_world) == 0
    scene = SceneEncoding(torch.ones(1, 1), reference_camera(10.0))
    cameras = distill_cameras(scene, tiny("fast", schedule=FastSchedule(cameras=33)), 3)
    assert torch.equal(cameras[0].camera_to_world, scene.reference.camera_to_world)
    centers = cameras.centers[1:].double()
    assert worst(centers.norm(dim=-1), torch.ones(32).double()) < 1e-5
    elevations = torch.rad2deg(centers[:, 1].asin())
    assert -7.5 < float(elevations.min()) < 0
    assert 45 < float(elevations.max()) < 52.5
    angles = torch.rad2deg((centers @ centers.T).clamp(-1, 1).acos()).fill_diagonal_(180)
    # a band of 2 pi (sin 52.5° + sin 7.5°) over 32 cameras: sqrt(2 pi 0.924 / 32) = 24.4 degrees apart on squares
    assert float(angles.min(dim=1).values.min()) > 12
    assert float(angles.min(dim=1).values.max()) < 36
    assert len(distill_cameras(scene, tiny("fast", schedule=FastSchedule(cameras=1)), 3)) == 1
    order, indices = reference_order(ReferenceSchedule(), seeded())
    assert sorted(order[:250].tolist()) == list(range(250))  # each once before any comes again
    assert set(indices[:300].tolist()) == {25, 26, 27, 28}
    assert (int(indices[300:].min()), int(indices[300:].max())) == (1, 28)


def test_terms_and_weights_by_hand() -> None:
    rgb, target = torch.full((1, 3, 2, 2), 0.5), torch.full((1, 3, 2, 2), 0.2)
    opacity = torch.full((1, 1, 2, 2), 0.3)
    terms = loss_terms(rgb, opacity, target, lambda a, b: (a - b).abs().mean())
    by_hand = {"color": 0.09, "silhouette": 0.1**0.5, "perceptual": 0.3}
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(by_hand)
    assert loss_terms(rgb, opacity, target, None).keys() == {"color", "silhouette"}
    schedule = ReferenceSchedule()
    assert term_weights(schedule, 299, 26) == {"color": 1.0, "perceptual": 0.1, "silhouette": 1e-3}
    alpha = float(alphas_cumprod()[1 + 33 * 7])
    assert term_weights(schedule, 300, 7)["color"] == pytest.approx(1 - alpha)
    painted, seen = torch.zeros(1, 3, 1, 3), torch.zeros(1, 3, 1, 3)
    seen[0, :, 0, 1] = 0.2  # root mean square difference 0.2, the scale: one half
    seen[0, 0, 0, 2] = 0.6  # in one channel of three: 0.04 / (0.04 + 0.12)
    assert agreement(painted, seen, 0.2).flatten().tolist() == pytest.approx([1.0, 0.5, 0.25])


def test_lpips_of_the_user_s_file_is_used(run: Run, tmp_path: Path) -> None:
    torch.save(vgg_weights() | heads(), tmp_path / "vgg16.pth")
    config = tiny("reference", perceptual="lpips", perceptual_weights=str(tmp_path / "vgg16.pth"))
    assert not same(run(config), run(tiny("reference", perceptual="none")))


def test_painted_views_become_targets(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each round gets the renders of the field as it is, and the field goes towards what is painted of them."""
    seen, told = [], []

    def black(_prior: object, _cond: object, *, pictures: Tensor, seeds: list[int], **options: Any) -> Tensor:  # noqa: ANN401
        seen.append(float(pictures.mean()))
        told.append((options["level"], options["guidance"], options["guidance_window"]))
        assert len(set(seeds)) == 1
        return torch.zeros_like(pictures)

    monkeypatch.setattr(distill, "sample_views", black)
    options = {"agreement": 0.0, "photo_weight": 0.0, "fit": replace(FIT, iterations=63), "guided": (0.2, 0.6)}
    field = run(tiny("fast", guidance=2.0, schedule=replace(SCHEDULE, **options)))
    assert told == [(1.0, 2.0, (0.2, 0.6)), (0.5, 2.0, (0.2, 0.6))]
    assert seen[1] < seen[0] - 0.02
    assert float(field.render(orbit_cameras([0.0, 90.0]), 16).rgb.mean()) < seen[1]


def test_photos_whose_cameras_are_known(
    model: UpFusion, run: Run, scene: SceneEncoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    cameras = orbit_cameras([0.0, 90.0, 200.0])
    estimated = PhotoCameras(cameras, torch.tensor([True, False, True]), torch.tensor([1.0, 0.1, 0.9]))
    monkeypatch.setattr(distill, "estimate_photo_cameras", lambda *_, **__: estimated)
    schedule = replace(SCHEDULE, levels=(0.5,), photo_weight=2.5, all_photos=True)
    original = fitting.FieldFitter.set_views

    def targets(**options: object) -> FittedPictures:
        with patch.object(fitting.FieldFitter, "set_views", autospec=True, side_effect=original) as told:
            run(options.pop("config", tiny("fast", schedule=schedule)), **options)
        first, second = (FittedPictures(*each.args[1:], **each.kwargs) for each in told.call_args_list)
        assert len(first.cameras) == 4  # predictions alone
        return second

    second, size = targets(), model.image_size
    assert len(second.cameras) == 4 + 2
    assert torch.equal(second.cameras.camera_to_world[5], cameras.camera_to_world[2])
    assert torch.equal(torch.stack(second.rgb[4:]), resize_pictures(scene.views.rgb, size)[[0, 2]])
    assert torch.equal(torch.stack(second.weights[4:]), torch.full((2, 1, size, size), 2.5))
    given = PhotoCameras(cameras, torch.tensor([True, True, False]), torch.tensor([1.0, 1.0, 0.0]))
    known = targets(photo_cameras=given)
    assert torch.equal(known.cameras.camera_to_world[4:], cameras.camera_to_world[:2])
    first_only = targets(config=tiny("fast", schedule=replace(schedule, all_photos=False)))
    assert len(first_only.cameras) == 4 + 1
    assert torch.equal(first_only.cameras.camera_to_world[4], scene.reference.camera_to_world[0])
    without = replace(scene, views=None)
    assert len(targets(scene=without).cameras) == 4
    refused("one camera for each of the scene's 0 photos, got 3", run, "fast", scene=without, photo_cameras=given)
