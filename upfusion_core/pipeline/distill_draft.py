"""The draft schedule: predictions of UpSRT first, then a few sampled views, both fitted by random rays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..field.fitting import FieldFitter, FitConfig
from ..field.radiance import RadianceField
from ..geometry import orbit_cameras
from ..types import Cameras
from .distill_config import DraftSchedule
from .distill_run import FIT_STREAM, Run, band_cameras
from .distill_targets import made_targets

_ELEVATIONS_DEGREES = (22.5, 0.0, 45.0, 10.0)


def distill_draft(run: Run) -> RadianceField:
    """Runs or resumes the schedule; the state names the stage it was saved in."""
    plan = run.config.schedule
    assert isinstance(plan, DraftSchedule)
    field = run.new_field()
    state = run.load() or {"stage": "predicted", "fit": None, "sampled": None}
    per_batch = -(-plan.sampled_cameras // run.config.batch_size)
    total = plan.predicted_fit.iterations + per_batch * plan.steps + plan.sampled_fit.iterations
    if state["stage"] == "predicted":
        cameras = band_cameras(run.scene.reference, plan.predicted_cameras, run.seed)
        rgb = run.model.predict(run.scene, cameras, plan.predicted_size, pixel_centers=True)
        _fit(run, field, cameras, rgb, plan.predicted_fit, state, first=0, total=total)
    cameras = ring_cameras(plan.sampled_cameras)
    if state["stage"] == "sampling":
        field.load_state_dict(state["field"])
    if state["sampled"] is None:
        state |= {"stage": "sampling", "fit": None, "field": field.state_dict()}
        run.save(state)
        state["sampled"] = _sample(run, cameras, state, plan, total)
        state |= {"stage": "sampled", "start": state.pop("field")}
        run.save(state)
    field.load_state_dict(state["start"])
    first = total - plan.sampled_fit.iterations
    _fit(run, field, cameras, state["sampled"], plan.sampled_fit, state, first=first, total=total)
    return field


def ring_cameras(count: int) -> Cameras:
    """Cameras all round, the first at azimuth 0, at elevations that take turns."""
    azimuths = [360.0 * index / count for index in range(count)]
    return orbit_cameras(azimuths, [_ELEVATIONS_DEGREES[index % 4] for index in range(count)])


def _fit(
    run: Run,
    field: RadianceField,
    cameras: Cameras,
    rgb: Tensor,
    config: FitConfig,
    state: dict[str, Any],
    *,
    first: int,
    total: int,
) -> None:
    """Fits the field to views on white, and to those that the caller gave."""
    targets = made_targets(run, cameras, rgb)
    fitter = FieldFitter(field, **vars(targets), config=config, generator=run.generator(FIT_STREAM))
    if state["fit"] is not None:
        fitter.load_state_dict(state["fit"])

    def snapshot() -> dict[str, Any]:
        return state | {"fit": fitter.state_dict()}

    run.fit(fitter, snapshot, end=config.iterations, first=first, total=total)


def _sample(run: Run, cameras: Cameras, state: dict[str, Any], plan: DraftSchedule, total: int) -> Tensor:
    first = plan.predicted_fit.iterations

    def on_step(step: int, _: int, preview: Callable[[], Tensor] | None) -> None:
        run.report(min(first + step, total), total, preview, lambda: state)

    return run.model.sample(
        run.scene,
        cameras,
        steps=plan.steps,
        guidance=run.config.guidance,
        scheduler=plan.scheduler,
        seeds=[run.seed + index for index in range(len(cameras))],
        text_embeddings=run.text,
        batch_size=run.config.batch_size,
        on_step=on_step,
    ).rgb
