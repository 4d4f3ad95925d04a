"""The whole way on a GPU that is not there: nothing lies in the wrong place, and the host waits no more than stated."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import phantom_cuda
import pytest
import torch
from phantom_cuda import State
from rule_weights import write_photos
from tiny_training import DRAFT, FIELD, FIT, TinySource, tiny_config
from torch import Tensor

from upfusion_core import DistillConfig, RadianceField, UpFusion, orbit_cameras, prepare_views
from upfusion_core.config import FastSchedule, FitConfig, PhotoSearch, RaySampling, ReferenceSchedule
from upfusion_core.field import fitting
from upfusion_core.field.fitting import FieldFitter
from upfusion_core.field.radiance import load_field
from upfusion_core.field.rendering import RenderedRays
from upfusion_core.pipeline.pose import estimate_photo_cameras
from upfusion_core.pipeline.sampling import SCHEDULERS
from upfusion_core.training.loop import Training, initial_networks

pytestmark = pytest.mark.phantom

FAST = FastSchedule(3, 16, 2, levels=(1.0, 0.5), steps=2, fit=replace(FIT, iterations=6))
REFERENCE = ReferenceSchedule(cameras=2, iterations=2, steps=4, highest_index=3, bootstrap=1, bootstrap_index=2,
                              sampling=RaySampling(8, 8))  # fmt: skip
PRESETS = {"draft": DRAFT, "fast": FAST, "reference": REFERENCE}
ENCODE, PREDICT, CONDITION, SAMPLE, STEP = 8, 77, 40, 90, 1  # times that the host waits for the device, at most
DISTILL, MESH, FIT_STEP, FIT_LAUNCHES, TRAINING_STEP = 2000, 40, 2, 400, 110
SEARCH = PhotoSearch(azimuths=6, elevations_degrees=(0.0, 30.0), samples=8, sweeps=3, refinements=2)


@pytest.fixture(params=["cuda", "mps"])
def state(request: pytest.FixtureRequest) -> Iterator[State]:
    with phantom_cuda.phantom(request.param) as state:
        yield state


def field_on(state: State) -> RadianceField:
    return RadianceField(FIELD, generator=torch.Generator().manual_seed(0)).to(state.device)


KINDS = pytest.mark.parametrize(
    ("kind", "dtype"), [("cuda", torch.float32), ("cuda", torch.float16), ("mps", torch.float16)]
)


@KINDS
def test_from_photos_to_views(tiny: Path, tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    views = prepare_views(write_photos(tmp_path, count=2, size=32))
    here = UpFusion.load(tiny, device="cpu", dtype=torch.float32)
    cameras, exact = orbit_cameras([0.0, 120.0]), dtype == torch.float32
    wanted = here.predict(here.encode(views), cameras, 16)
    with phantom_cuda.phantom(kind) as state:
        model = UpFusion.load(tiny, dtype=dtype)
        assert model.device == state.device
        with state.at_most(ENCODE):
            scene = model.encode(views)
        with state.at_most(PREDICT):
            predicted = model.predict(scene, cameras, 16)
        assert (predicted - wanted).abs().max() < (1e-4 if exact else 0.05)
        with state.at_most(CONDITION):
            assert model.condition(scene, cameras).hint.device == torch.device("cpu")
        counted = []
        for steps in (2, 4):
            state.reset()
            model.sample(scene, cameras, steps=steps, scheduler="dpm++")
            counted.append(state.waited)
        assert counted[1] - counted[0] <= 2 * STEP, state.waits
        assert len(estimate_photo_cameras(model, scene, search=SEARCH)) == 2


def test_no_scheduler_waits_more(tiny: Path, tmp_path: Path) -> None:
    with phantom_cuda.phantom() as state:
        model = UpFusion.load(tiny)
        scene = model.encode(prepare_views(write_photos(tmp_path, count=1, size=32)))
        for name in SCHEDULERS:
            with state.at_most(SAMPLE + 2 * STEP):
                assert torch.isfinite(model.sample(scene, orbit_cameras(0.0), steps=2, scheduler=name).rgb).all()


@pytest.mark.parametrize(
    ("preset", "kind", "dtype"),
    [("draft", "cuda", torch.float32), ("reference", "cuda", torch.float16)]
    + [("fast", *each) for each in KINDS.args[1]],
)
def test_from_a_scene_to_a_field(tiny: Path, tmp_path: Path, preset: str, kind: str, dtype: torch.dtype) -> None:
    config = DistillConfig.named(preset, schedule=PRESETS[preset], field=FIELD, checkpoint_every=1)

    def stop(step: int, total: int, preview: Any) -> None:  # noqa: ANN401
        if step == total - 1:
            assert torch.isfinite(preview()).all()
            raise KeyboardInterrupt

    with phantom_cuda.phantom(kind) as state:
        model = UpFusion.load(tiny, dtype=dtype)
        scene = model.encode(prepare_views(write_photos(tmp_path, count=1, size=32)))
        with state.at_most(DISTILL), pytest.raises(KeyboardInterrupt):
            model.distill(scene, config, on_step=stop, checkpoint=tmp_path / "state")
        field = model.distill(scene, config, checkpoint=tmp_path / "state")
        assert field.aabb.device == state.device
        assert torch.isfinite(field.render(orbit_cameras(30.0), 8).rgb).all()
        field.save(tmp_path / "field.safetensors")
        assert load_field(tmp_path / "field.safetensors", device=state.device).field.aabb.device == state.device


@pytest.mark.parametrize(("state", "textured"), [("cuda", False), ("cuda", True), ("mps", True)], indirect=["state"])
def test_from_a_field_to_a_mesh(state: State, textured: bool) -> None:
    field = field_on(state)
    state.reset()
    with state.at_most(MESH):
        mesh = field.extract_mesh(24, texture_size=64 if textured else None)
    assert len(mesh.faces) > 100


def fitter_on(state: State, config: FitConfig = FIT) -> FieldFitter:
    generator = torch.Generator().manual_seed(0)
    rgb = torch.rand(3, 3, 16, 16, generator=generator)
    options: dict[str, Any] = {"mask": (rgb[:, :1] > 0.3).float(), "weights": torch.ones(3, 1, 16, 16)}
    options |= {"hull": torch.arange(8.0)[:, None, None].expand(8, 8, 8) / 8, "config": config, "generator": generator}
    return FieldFitter(field_on(state), orbit_cameras([0, 120, 240]), rgb, **options)


def test_steps_of_a_fit(state: State) -> None:
    fitter = fitter_on(state, replace(FIT, iterations=9, sampling=RaySampling(8, 8)))
    fitter.step()  # in which constants go to the device
    for _ in range(2):
        with state.at_most(FIT_STEP, FIT_LAUNCHES if state.device.type == "cuda" else None):
            losses = fitter.step()
    assert all(value.device == state.device for value in losses.values())
    if state.device.type == "cuda":  # a step is held by a graph: replayed, it moves the field on
        drawn, _ = fitter._drawn_numbers(False, [1.0, 1.0, 0.1, 0.1, 0.1, 1.0, 0.1, 0.1])
        graph, before = phantom_cuda.Graph(), fitter.field.grid.table.detach().cpu().clone()
        with phantom_cuda.capture(graph):
            fitter.advance(drawn)
        once = fitter.field.grid.table.detach().cpu().clone()
        graph.replay()
        twice = fitter.field.grid.table.detach().cpu()
        assert (once - before).abs().max() > 0.01
        assert (twice - once).abs().max() > 0.01


FAULTS: dict[str, tuple[type[Exception], Callable[[RenderedRays], Tensor]]] = {
    "same device": (RuntimeError, lambda seen: (seen.opacity * torch.ones(len(seen.opacity))).mean()),
    "generator": (RuntimeError, lambda seen: seen.opacity.normal_(generator=torch.Generator()).sum()),
    "float64": (TypeError, lambda seen: seen.opacity.double().mean().float()),
    "_local_scalar_dense": (AssertionError, lambda seen: seen.opacity.mean() * seen.depth.amax().item()),
    "index by mask": (AssertionError, lambda seen: seen.opacity[seen.depth > 0].sum()),
}


@pytest.mark.parametrize("says", FAULTS)
def test_a_planted_fault_is_caught(says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    error, term = FAULTS[says]
    losses = fitting.fit_losses

    def faulty(seen: RenderedRays, *rest: Tensor) -> dict[str, Tensor]:
        return losses(seen, *rest) | {"crisp": term(seen)}

    with phantom_cuda.phantom() as state:
        fitter = fitter_on(state)
        fitter.step()  # in which the occupancy is looked at
        with state.at_most(FIT_STEP):
            fitter.step()
        waits = state.waited
        monkeypatch.setattr(fitting, "fit_losses", faulty)
        with pytest.raises(error, match=says), state.at_most(waits):
            fitter.step()


def test_what_apple_lacks_is_refused() -> None:
    with phantom_cuda.phantom("mps") as state:
        x = torch.ones(4, 4, device=state.device)
        calls: dict[str, Callable[[], Tensor]] = {
            "sparse": x.to_sparse,
            "grid_sampler": lambda: torch.grid_sampler(x[None, None], x[None, :, None, :2], 2, 0, False),
            "scatter_reduce": lambda: x.scatter_reduce(0, torch.zeros_like(x, dtype=torch.int64), x, "mean"),
            "float64": x.double,
        }
        for name, call in calls.items():
            with pytest.raises((NotImplementedError, TypeError), match=name):
                call()


@pytest.mark.parametrize("stage", ["autoencoder", "encoder", "diffusion"])
def test_a_step_of_training(state: State, tmp_path: Path, stage: str) -> None:
    config = tiny_config(stage)
    networks, text = initial_networks(config.model, seed=0)
    told: dict[str, Any] = {"device": state.device, "num_processes": 1, "process_index": 0, "is_main_process": True}
    told |= {"prepare_model": lambda model: model.to(state.device), "reduce": lambda values, _: values}
    accelerate: Any = SimpleNamespace(**told, backward=Tensor.backward)  # its own looks for real devices
    training = Training(config, accelerate, networks, text, tmp_path)
    with state.at_most(TRAINING_STEP):
        training.step(TinySource())
    training.save()
