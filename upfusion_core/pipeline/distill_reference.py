"""The reference schedule: each render is noised, denoised in earnest, and fitted (paper section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import FieldError
from ..field.fitting import FieldFitter, FitConfig, finite_gradient, not_finite
from ..field.radiance import RadianceField
from ..field.rendering import render_views
from ..models.perceptual import PerceptualDistance, dino_distance, load_lpips
from ..types import Cameras, RenderedViews
from .distill_config import DistillConfig, ReferenceSchedule
from .distill_run import FIT_STREAM, GIVEN_STREAM, ORDER_STREAM, Run, band_cameras
from .distill_targets import Targets
from .schedule import alphas_cumprod, ddim_timesteps


@dataclass(frozen=True, eq=False)
class Plan:
    """All that is drawn before the first iteration. order, indices: (iterations,) camera and noise index of each."""

    cameras: Cameras
    order: Tensor
    indices: Tensor


def color_term(rgb: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of the render against its denoised version."""
    return F.mse_loss(rgb, target)


def silhouette_term(opacity: Tensor) -> Tensor:
    """mean sqrt(opacity² + 0.01): prefers empty space."""
    return (opacity.square() + 0.01).sqrt().mean()


def loss_terms(
    rgb: Tensor, opacity: Tensor, target: Tensor, perceptual: PerceptualDistance | None
) -> dict[str, Tensor]:
    """The unweighted terms by name; without a perceptual distance there are two."""
    terms = {"color": color_term(rgb, target), "silhouette": silhouette_term(opacity)}
    if perceptual is not None:
        terms["perceptual"] = perceptual(rgb, target)
    return terms


def term_weights(schedule: ReferenceSchedule, iteration: int, index: int) -> dict[str, float]:
    """Weights of the terms: the colour's is 1 in the bootstrap, then 1 - a_t of the noise index."""
    alpha = float(alphas_cumprod()[ddim_timesteps(schedule.steps)[index]])
    return {
        "color": 1.0 if iteration < schedule.bootstrap else 1 - alpha,
        "perceptual": schedule.perceptual_weight,
        "silhouette": schedule.silhouette_weight,
    }


def make_plan(run: Run) -> Plan:
    """Cameras, the order they come in (shuffled anew when all were seen), and the noise indices."""
    schedule = _schedule(run)
    cameras, generator = band_cameras(run.scene.reference, schedule.cameras, run.seed), run.generator(ORDER_STREAM)
    rounds = -(-schedule.iterations // len(cameras))
    order = torch.cat([torch.randperm(len(cameras), generator=generator) for _ in range(rounds)])
    low = torch.full((schedule.iterations,), schedule.lowest_index)
    low[: schedule.bootstrap] = schedule.bootstrap_index
    draws = torch.rand(schedule.iterations, generator=generator)
    indices = low + (draws * (schedule.highest_index - low + 1)).long()
    return Plan(cameras, order[: schedule.iterations], indices)


def _schedule(run: Run) -> ReferenceSchedule:
    assert isinstance(run.config.schedule, ReferenceSchedule)
    return run.config.schedule


def make_perceptual(run: Run) -> PerceptualDistance | None:
    """The perceptual distance that the configuration asks for."""
    config: DistillConfig = run.config
    if config.perceptual == "lpips":
        assert config.perceptual_weights is not None, "DistillConfig asks for them"
        return load_lpips(config.perceptual_weights, run.model.device)
    if config.perceptual == "dino":
        return dino_distance(run.model.dino, run.model.config.upsrt.patches)
    return None


def distill_reference(run: Run) -> RadianceField:
    """Runs or resumes the schedule."""
    schedule = _schedule(run)
    plan, perceptual = make_plan(run), make_perceptual(run)
    cond = run.model.condition(run.scene, plan.cameras, text_embeddings=run.text)
    field, generator, start = run.new_field(), run.generator(FIT_STREAM), 0
    optimizer = torch.optim.Adam(
        [
            {"params": list(field.grid.parameters()), "lr": schedule.grid_lr},
            {"params": list(field.mlp.parameters()), "lr": schedule.mlp_lr},
        ]
    )
    given = None if run.views is None else FitConfig.draft()
    first = 0 if given is None else given.iterations
    total = first + schedule.iterations
    saved = run.load()
    if saved is not None:
        field.load_state_dict(saved["field"])
        optimizer.load_state_dict(saved["optimizer"])
        generator.set_state(saved["generator"])
        start = saved["iteration"]
    elif given is not None:
        _fit_given(run, field, given, total)

    def snapshot() -> dict[str, Any]:
        return {
            "field": field.state_dict(),
            "optimizer": optimizer.state_dict(),
            "generator": generator.get_state(),
            "iteration": iteration + 1,
        }

    for iteration in range(start, schedule.iterations):
        view = int(plan.order[iteration])
        index = int(plan.indices[iteration])
        rendered = _render(run, field, plan.cameras[view], generator)
        target = run.model.denoise_from(
            rendered.rgb.detach(),
            cond[slice(view, view + 1)],
            index,
            generator=generator,
            guidance=run.config.guidance,
            steps=schedule.steps,
        )
        terms = loss_terms(rendered.rgb, rendered.opacity, target, perceptual)
        try:
            _optimize(optimizer, terms, term_weights(schedule, iteration, index), iteration)
        except FieldError:
            run.save(snapshot() | {"iteration": iteration})
            raise
        run.report(first + iteration + 1, total, lambda: _preview(run, field), snapshot)
        if (iteration + 1) % run.config.checkpoint_every == 0 or iteration + 1 == schedule.iterations:
            run.save(snapshot())
    return field


def _fit_given(run: Run, field: RadianceField, config: FitConfig, total: int) -> None:
    """Starts the field from the caller's views; cancelled, it begins again."""
    views = run.views
    assert views is not None, "called only where there are some"
    targets = Targets.on_white(views.cameras, views.rgb)
    fitter = FieldFitter(field, **vars(targets), config=config, generator=run.generator(GIVEN_STREAM))
    while not fitter.done:
        fitter.step()
        if run.on_step is not None:
            run.on_step(fitter.iteration, total, fitter.preview)


def _render(run: Run, field: RadianceField, camera: Cameras, generator: torch.Generator) -> RenderedViews:
    """The view at half the image size, then doubled: upstream renders 128 x 128 for images of 256."""
    size = run.model.image_size // 2
    sampling = _schedule(run).sampling
    small = render_views(field, field.aabb, camera, size, sampling=sampling, generator=generator, chunk=size * size)
    rgb, opacity, depth = (
        F.interpolate(value, scale_factor=2, mode="bilinear", align_corners=False)
        for value in (small.rgb, small.opacity, small.depth)
    )
    return RenderedViews(rgb, opacity, depth)


def _optimize(
    optimizer: torch.optim.Optimizer, terms: dict[str, Tensor], weights: dict[str, float], iteration: int
) -> None:
    total: Any = sum(weights[name] * value for name, value in terms.items())
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    if not finite_gradient(total, optimizer.param_groups[-1]["params"]):
        raise FieldError(not_finite(f"iteration {iteration + 1}", terms))
    optimizer.step()


@torch.no_grad()
def _preview(run: Run, field: RadianceField) -> Tensor:
    """The field from photo 1."""
    return field.render(run.scene.reference, min(64, run.model.image_size)).rgb[0].cpu()
