from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from golden_files import worst
from random_vgg import heads, vgg_weights
from rule_weights import write_photos
from torch import Tensor

from upfusion_core import (
    DistillConfig,
    NovelViews,
    RadianceField,
    SceneEncoding,
    UpFusion,
    orbit_cameras,
    prepare_views,
)
from upfusion_core.config import (
    PRESETS,
    DraftSchedule,
    FastSchedule,
    FieldConfig,
    FitConfig,
    GridConfig,
    RaySampling,
    ReferenceSchedule,
)
from upfusion_core.field import fitting
from upfusion_core.field.fitting import FieldFitter
from upfusion_core.pipeline import distill as distill_module
from upfusion_core.pipeline import rounds
from upfusion_core.pipeline.distill import (
    distill_cameras,
    loss_terms,
    reference_order,
    term_weights,
)
from upfusion_core.pipeline.rounds import spread_cameras
from upfusion_core.pipeline.sampling import alphas_cumprod
from upfusion_core.support.errors import CheckpointError, FieldError, InputError, OutputError

FIELD = FieldConfig(grid=GridConfig(levels=2, coarsest=4, finest=16, table_size=2**10), hidden=8, half_extent=0.3)
FIT = dataclasses.replace(FitConfig(iterations=6), rays=64, occupancy_cells=8, sampling=RaySampling(8, 0))


def draft(**changes: object) -> DistillConfig:
    schedule = DraftSchedule(
        predicted_cameras=3, predicted_size=16, predicted_fit=FIT, sampled_cameras=2, sampled_fit=FIT, steps=2
    )
    return DistillConfig(schedule=schedule, field=FIELD, checkpoint_every=2, **changes)


def fast(**changes: object) -> DistillConfig:
    fit = dataclasses.replace(FIT, iterations=8)
    schedule = FastSchedule(
        cameras=3, predicted_size=16, predicted_iterations=3, levels=(1.0, 0.5), steps=2, all_photos=False, fit=fit
    )
    return DistillConfig(schedule=schedule, field=FIELD, checkpoint_every=2, **changes)


def reference(**changes: object) -> DistillConfig:
    schedule = ReferenceSchedule(
        cameras=3,
        iterations=4,
        bootstrap=2,
        steps=4,
        lowest_index=1,
        bootstrap_index=2,
        highest_index=3,
        sampling=RaySampling(8, 4),
    )
    return DistillConfig.reference(**({"schedule": schedule, "field": FIELD, "checkpoint_every": 2} | changes))


@pytest.fixture(scope="module")
def scene(model: UpFusion, tmp_path_factory: pytest.TempPathFactory) -> SceneEncoding:
    return model.encode(prepare_views(write_photos(tmp_path_factory.mktemp("photos"), count=2)))


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def same(a: RadianceField, b: RadianceField) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


class StopError(Exception):
    """What a host raises to cancel."""


def stop_at(step: int) -> object:
    def on_step(now: int, total: int, preview: object) -> None:
        if now == step:
            raise StopError

    return on_step


# a draft of these sizes has 6 + 2 + 6 steps: 3 is in the first fit, 7 in the sampling, 11 in the second fit;
# the fast schedule 3 of the fit, 2 of painting, 2 of the fit, 1 of painting and 3 of the fit
RESUMED = [(draft(), 3), (draft(), 7), (draft(), 11), (fast(), 5), (fast(), 6), (fast(), 8), (reference(), 3)]


@pytest.mark.parametrize(("config", "step"), RESUMED)
def test_a_resumed_run_ends_in_the_same_field(
    model: UpFusion, scene: SceneEncoding, tmp_path: Path, config: DistillConfig, step: int
) -> None:
    whole = model.distill(scene, config, seeded())
    with pytest.raises(StopError):
        model.distill(scene, config, seeded(), on_step=stop_at(step), checkpoint=tmp_path / "state.pt")
    resumed = model.distill(scene, config, seeded(), checkpoint=tmp_path / "state.pt")
    assert same(whole, resumed)
    again = model.distill(scene, config, seeded(), on_step=stop_at(1), checkpoint=tmp_path / "state.pt")
    assert same(whole, again)  # a finished state has no step left


@pytest.mark.parametrize("config", [draft(), fast(), reference()])
def test_progress_seeds_and_the_field_s_state(model: UpFusion, scene: SceneEncoding, config: DistillConfig) -> None:
    seen: list[tuple[int, int]] = []

    def on_step(step: int, total: int, preview: object) -> None:
        seen.append((step, total))
        picture = preview()
        assert picture.shape[0] == 3
        assert 0 <= float(picture.min()) <= float(picture.max()) <= 1

    field = model.distill(scene, config, seeded(), on_step=on_step)
    total = seen[0][1]
    assert seen == [(step, total) for step in range(1, total + 1)]
    assert not same(field, model.distill(scene, config, seeded(4)))
    assert not any(parameter.requires_grad for parameter in field.parameters())
    assert field.render(orbit_cameras(0.0), 8).rgb.shape == (1, 3, 8, 8)


@pytest.mark.parametrize("config", [draft(), fast(), reference()])
def test_given_views_are_fitted_too(
    model: UpFusion, scene: SceneEncoding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: DistillConfig
) -> None:
    """Black views make the field darker, on every way through the schedules, and the same views the same field."""
    monkeypatch.setattr(distill_module, "FitConfig", lambda: FIT)
    black = NovelViews(torch.zeros(2, 3, 32, 32), orbit_cameras([0.0, 90.0]))
    seen: list[tuple[int, int]] = []
    field = model.distill(
        scene, config, seeded(), views=black, on_step=lambda step, total, _: seen.append((step, total))
    )
    assert seen == [(step, seen[0][1]) for step in range(1, seen[0][1] + 1)]
    darkness = field.render(black.cameras, 8).rgb.mean()
    margin = 0.002 if config.preset == "fast" else 0.01  # eight steps in all, twelve or more elsewhere
    assert darkness < model.distill(scene, config, seeded()).render(black.cameras, 8).rgb.mean() - margin
    with pytest.raises(StopError):
        model.distill(scene, config, seeded(), stop_at(8), tmp_path / "state.pt", views=black)
    assert same(field, model.distill(scene, config, seeded(), checkpoint=tmp_path / "state.pt", views=black))
    with torch.inference_mode():
        assert same(field, model.distill(scene, config, seeded(), views=black))
    with pytest.raises(InputError, match="belongs to a run with other photos"):
        model.distill(scene, config, seeded(), checkpoint=tmp_path / "state.pt")
    graph = dataclasses.replace(black.cameras, focal=black.cameras.focal.clone().requires_grad_())
    shot = dataclasses.replace(scene.reference, focal=scene.reference.focal.clone().requires_grad_())
    traced = dataclasses.replace(scene, reference=shot)
    assert same(field, model.distill(traced, config, seeded(), views=NovelViews(black.rgb, graph)))


def test_given_views_that_do_not_fit_get_a_sentence(model: UpFusion, scene: SceneEncoding) -> None:
    for pictures, count, message in (
        (torch.zeros(2, 3, 32, 32), 3, r"rgb must be \(3, 3, S, S\)"),
        (torch.zeros(0, 3, 32, 32), 0, "one picture or more, got 0"),
        (torch.full((1, 3, 32, 32), torch.nan), 1, "must be finite"),
    ):
        cameras = orbit_cameras([0.0, 90.0, 180.0])[:count]
        with pytest.raises(InputError, match=message):
            model.distill(scene, draft(), views=NovelViews(pictures, cameras))


def test_a_state_belongs_to_its_run(model: UpFusion, scene: SceneEncoding, tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    with pytest.raises(StopError):
        model.distill(scene, draft(), seeded(), on_step=stop_at(3), checkpoint=path)
    for changed in ({"generator": seeded(4)}, {"config": draft(guidance=2.0)}, {"prompt": ""}):
        with pytest.raises(InputError, match="belongs to a run with other"):
            model.distill(scene, **({"config": draft(), "generator": seeded(), "checkpoint": path} | changed))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="delete it"):
        model.distill(scene, draft(), seeded(), checkpoint=path)
    torch.save({"a": 1}, path)
    with pytest.raises(CheckpointError, match="must be the saved state of a distillation, but is another kind"):
        model.distill(scene, draft(), seeded(), checkpoint=path)


def test_a_full_disk_is_reported_and_leaves_the_last_state(
    model: UpFusion, scene: SceneEncoding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.pt"
    with pytest.raises(StopError):
        model.distill(scene, draft(), seeded(), on_step=stop_at(2), checkpoint=path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")  # torch's words

    monkeypatch.setattr("torch.save", full)
    with pytest.raises(OutputError, match="disk is probably full"):
        model.distill(scene, draft(), seeded(), checkpoint=path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]


def test_junk_in_the_state_s_place_is_reported(model: UpFusion, scene: SceneEncoding, tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="delete it"):
        model.distill(scene, draft(), seeded(), checkpoint=tmp_path / "state.pt")


@pytest.mark.parametrize("config", [draft(), fast(), reference()], ids=["draft", "fast", "reference"])
def test_a_step_is_reported_before_it_is_saved(
    model: UpFusion, scene: SceneEncoding, config: DistillConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the two, a run tells of it again; the other way round, its last preview would never be shown."""
    events: list[int | str] = []
    totals = set()

    def on_step(step: int, total: int, preview: object) -> None:
        events.append(step)
        totals.add(total)

    monkeypatch.setattr(rounds, "save_tensors", lambda *_: events.append("saved"))
    model.distill(scene, config, seeded(), on_step=on_step, checkpoint=tmp_path / "state.pt")
    assert events[-2:] == [totals.pop(), "saved"]


def test_cameras_of_a_distillation(model: UpFusion, scene: SceneEncoding) -> None:
    cameras = distill_cameras(scene, draft(), 3)
    assert len(cameras) == 3 + 2
    assert worst(cameras[0].camera_to_world, scene.reference.camera_to_world) == 0
    assert worst(distill_cameras(scene, draft(), 3).centers, cameras.centers) == 0
    assert len(distill_cameras(scene, reference(), 3)) == 3
    assert worst(distill_cameras(scene, fast(), 3).centers, spread_cameras(scene.reference, 3).centers) == 0


def test_the_sampled_views_are_saved_at_once(model: UpFusion, scene: SceneEncoding, tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    config = dataclasses.replace(draft(), checkpoint_every=100)
    saved = []

    def on_step(step: int, total: int, preview: object) -> None:
        if step == 9:  # the first step of the second fit
            saved.append(torch.load(path, weights_only=True)["state"]["pictures"]["rgb"].shape)

    model.distill(scene, config, seeded(), on_step=on_step, checkpoint=path)
    assert saved == [(2, 3, 64, 64)]


def test_loss_terms_by_hand() -> None:
    rgb, target = torch.full((1, 3, 2, 2), 0.5), torch.full((1, 3, 2, 2), 0.2)
    opacity = torch.full((1, 1, 2, 2), 0.3)
    terms = loss_terms(rgb, opacity, target, lambda a, b: (a - b).abs().mean())
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(
        {"color": 0.09, "silhouette": 0.1**0.5, "perceptual": 0.3}
    )
    assert loss_terms(rgb, opacity, target, None).keys() == {"color", "silhouette"}


def test_term_weights_follow_the_noise_level_after_the_bootstrap() -> None:
    schedule = ReferenceSchedule()
    assert term_weights(schedule, 299, 26) == {"color": 1.0, "perceptual": 0.1, "silhouette": 1e-3}
    alpha = float(alphas_cumprod()[1 + 33 * 7])
    assert term_weights(schedule, 300, 7)["color"] == pytest.approx(1 - alpha)


def test_the_order_of_the_release(scene: SceneEncoding) -> None:
    cameras = distill_cameras(scene, DistillConfig.reference(), 0)
    assert len(cameras) == 250
    assert worst(cameras[0].camera_to_world, scene.reference.camera_to_world) == 0
    order, indices = reference_order(ReferenceSchedule(), seeded())
    assert sorted(order[:250].tolist()) == list(range(250))  # each once before any comes again
    assert set(indices[:300].tolist()) == {25, 26, 27, 28}
    assert (int(indices[300:].min()), int(indices[300:].max())) == (1, 28)
    assert len(order) == len(indices) == 3000


def test_configurations() -> None:
    assert DistillConfig() == DistillConfig.fast()
    assert [DistillConfig.named(name).preset for name in PRESETS] == list(PRESETS) == ["draft", "fast", "reference"]
    assert DistillConfig.reference().preset == "reference"
    assert DistillConfig.reference().perceptual == "dino"
    assert DistillConfig.reference(perceptual="none", guidance=2.0).to_dict()["guidance"] == 2.0
    with pytest.raises(InputError, match="perceptual_weights"):
        DistillConfig.reference(perceptual="lpips")
    with pytest.raises(InputError, match="the preset draft has no perceptual term"):
        DistillConfig.draft(perceptual="dino")
    with pytest.raises(InputError, match="sampled_cameras must be between 1 and 16"):
        DraftSchedule(sampled_cameras=17)
    with pytest.raises(InputError, match="noise indices"):
        ReferenceSchedule(lowest_index=0)


def test_a_loss_that_is_not_finite_stops_with_its_terms(
    model: UpFusion, scene: SceneEncoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(*_: object, **__: object) -> Tensor:
        return torch.full((1, 3, 64, 64), float("nan"))

    monkeypatch.setattr(model, "denoise_from", poisoned)
    with pytest.raises(FieldError, match=r"iteration 1 \(color nan"):
        model.distill(scene, reference(), seeded())


@pytest.mark.parametrize("config", [draft(), fast(), reference()], ids=["draft", "fast", "reference"])
def test_a_gradient_that_is_not_finite_leaves_the_state_before(
    model: UpFusion, scene: SceneEncoding, config: DistillConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 3 fails: the saved field is finite and has taken two steps; resumed, the run goes on from there."""
    path, steps, calls = tmp_path / "state.pt", [], []

    def failing(total: Tensor, parameters: object) -> bool:
        calls.append(float(total.detach()))
        return len(calls) != 3

    for module in (fitting, distill_module):
        monkeypatch.setattr(module, "finite_gradient", failing)
    with pytest.raises(FieldError, match=r"at (step|iteration) 3.*\(color 0\.\d+, .*resume the last state"):
        model.distill(scene, config, seeded(), checkpoint=path)
    state = torch.load(path, weights_only=True)["state"]
    state = state.get("fit") or state
    assert state["iteration"] == 2
    assert all(value.isfinite().all() for value in state["field"].values())
    field = model.distill(
        scene, config, seeded(), on_step=lambda step, total, preview: steps.append(step), checkpoint=path
    )
    assert steps[0] == 3
    assert all(value.isfinite().all() for value in field.state_dict().values())


def test_a_field_s_gradient_that_is_not_finite_is_not_taken(model: UpFusion, scene: SceneEncoding) -> None:
    """The loss is finite, but its gradient would make the field NaN; field and optimiser stay as they were."""
    field = RadianceField(FIELD)
    rgb = torch.rand(2, 3, 8, 8, generator=seeded())
    fitter = FieldFitter(field, orbit_cameras([0.0, 90.0]), rgb, config=FIT, generator=seeded())
    fitter.step()
    before = {name: value.clone() for name, value in field.state_dict().items()}
    handle = field.mlp[0].weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(FieldError, match=r"step 2 of the fit \(color"):
        fitter.step()
    assert fitter.iteration == 1
    assert all(torch.equal(value, before[name]) for name, value in field.state_dict().items())
    handle.remove()
    fitter.step()
    assert fitter.iteration == 2


def test_lpips_of_the_user_s_file_is_used(model: UpFusion, scene: SceneEncoding, tmp_path: Path) -> None:
    torch.save(vgg_weights() | heads(), tmp_path / "vgg16.pth")
    config = reference(perceptual="lpips", perceptual_weights=str(tmp_path / "vgg16.pth"))
    field = model.distill(scene, config, seeded())
    assert not same(field, model.distill(scene, reference(perceptual="none"), seeded()))
