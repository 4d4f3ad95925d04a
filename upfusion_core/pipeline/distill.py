"""Distillation: from a diffusion model that makes any view to one radiance field (paper section 3.3).

Two schedules: rounds of making pictures and fitting the field to them by random rays (`draft` and `fast`), and the
release's own, in which every render is denoised in earnest and becomes the next target (`reference`).
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..config import DistillConfig, FitConfig, ReferenceSchedule
from ..field.fitting import finite_gradient, fit_views, not_finite
from ..field.radiance import RadianceField
from ..field.rendering import render_views
from ..models.perceptual import PerceptualDistance, dino_distance, load_lpips
from ..support.checks import check_shape, check_type
from ..support.errors import FieldError, InputError
from ..support.images import resize_pictures
from ..types import Cameras, NovelViews, OnStep, SceneEncoding
from .novel_views import ViewSynthesizer
from .pose import PhotoCameras
from .rounds import (
    FIT_STREAM,
    GIVEN_STREAM,
    ORDER_STREAM,
    Distillation,
    FitRounds,
    Targets,
    distill_cameras,
    stream_generator,
)
from .sampling import alphas_cumprod, ddim_timesteps, make_scheduler

__all__ = ["distill", "distill_cameras"]


def loss_terms(
    rgb: Tensor, opacity: Tensor, target: Tensor, perceptual: PerceptualDistance | None
) -> dict[str, Tensor]:
    """The unweighted terms of the release by name; without a perceptual distance there are two.

    color: mean squared error of the render against its denoised version. silhouette: mean sqrt(opacity² + 0.01), which
    prefers empty space.
    """
    terms = {"color": F.mse_loss(rgb, target), "silhouette": (opacity.square() + 0.01).sqrt().mean()}
    return terms if perceptual is None else terms | {"perceptual": perceptual(rgb, target)}


def term_weights(schedule: ReferenceSchedule, iteration: int, index: int) -> dict[str, float]:
    """Weights of the terms: the colour's is 1 in the bootstrap, then 1 - a_t of the noise index."""
    alpha = float(alphas_cumprod()[ddim_timesteps(schedule.steps)[index]])
    return {
        "color": 1.0 if iteration < schedule.bootstrap else 1 - alpha,
        "perceptual": schedule.perceptual_weight,
        "silhouette": schedule.silhouette_weight,
    }


def reference_order(schedule: ReferenceSchedule, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(iterations,) camera of each, shuffled anew when all were seen, and (iterations,) noise index of each."""
    laps = -(-schedule.iterations // schedule.cameras)
    order = torch.cat([torch.randperm(schedule.cameras, generator=generator) for _ in range(laps)])
    low = torch.full((schedule.iterations,), schedule.lowest_index)
    low[: schedule.bootstrap] = schedule.bootstrap_index
    draws = torch.rand(schedule.iterations, generator=generator)
    return order[: schedule.iterations], low + (draws * (schedule.highest_index - low + 1)).long()


class ReferenceFitter:
    """The release's optimisation, with the handles of a FieldFitter."""

    def __init__(self, job: Distillation, schedule: ReferenceSchedule) -> None:
        self.job, self.schedule = job, schedule
        config, model = job.config, job.model
        self.cameras = distill_cameras(job.scene, config, job.seed)
        self.order, self.indices = reference_order(schedule, stream_generator(job.seed, ORDER_STREAM))
        self.perceptual: PerceptualDistance | None = None
        if config.perceptual == "lpips":
            assert config.perceptual_weights is not None, "DistillConfig asks for them"
            self.perceptual = load_lpips(config.perceptual_weights, model.device)
        elif config.perceptual == "dino":
            self.perceptual = dino_distance(model.dino, model.config.upsrt.patches)
        self.cond = model.condition(job.scene, self.cameras, text_embeddings=job.text)
        self.field, self.generator, self.iteration = job.new_field(), stream_generator(job.seed, FIT_STREAM), 0
        rates = ((self.field.grid, schedule.grid_lr), (self.field.mlp, schedule.mlp_lr))
        self.optimizer = torch.optim.Adam([{"params": list(part.parameters()), "lr": rate} for part, rate in rates])

    @property
    def done(self) -> bool:
        """Whether all steps were taken."""
        return self.iteration >= self.schedule.iterations

    def state_dict(self) -> dict[str, Any]:
        """What a later call goes on from."""
        return {
            "field": self.field.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "iteration": self.iteration,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` gave."""
        self.field.load_state_dict(state["field"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.iteration = state["iteration"]

    def finish(self) -> RadianceField:
        """Takes the steps that are left, those of a fit to the caller's views before the others."""
        job, saved, views, hook = self.job, self.job.load(), self.job.views, self.job.on_step
        given = FitConfig()
        first = 0 if views is None else given.iterations
        total = first + self.schedule.iterations
        if saved is not None:
            self.load_state_dict(saved)
        elif views is not None:  # cancelled, it begins again
            fit_views(
                self.field,
                **vars(Targets.on_white(views.cameras, views.rgb)),
                config=given,
                generator=stream_generator(job.seed, GIVEN_STREAM),
                on_step=None if hook is None else lambda step, _, preview: hook(step, total, preview),
            )
        job.fit(self, self.state_dict, end=self.schedule.iterations, first=first, total=total)
        return self.field

    def step(self) -> None:
        """Renders a view at half the image size, doubles it as upstream does, and goes towards its denoised version."""
        view, index = int(self.order[self.iteration]), int(self.indices[self.iteration])
        field, schedule, size = self.field, self.schedule, self.job.model.image_size // 2
        small = render_views(
            field,
            field.aabb,
            self.cameras[view],
            size,
            sampling=schedule.sampling,
            generator=self.generator,
            chunk=size * size,
        )
        rgb, opacity = (
            F.interpolate(value, scale_factor=2, mode="bilinear", align_corners=False)
            for value in (small.rgb, small.opacity)
        )
        target = self.job.model.denoise_from(
            rgb.detach(),
            self.cond[slice(view, view + 1)],
            index,
            generator=self.generator,
            guidance=self.job.config.guidance,
            steps=schedule.steps,
        )
        terms = loss_terms(rgb, opacity, target, self.perceptual)
        weights = term_weights(schedule, self.iteration, index)
        loss: Any = sum(weights[name] * value for name, value in terms.items())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if not finite_gradient(loss, self.optimizer.param_groups[-1]["params"]):
            raise FieldError(not_finite(f"iteration {self.iteration + 1}", terms))
        self.optimizer.step()
        self.iteration += 1

    @torch.no_grad()
    def preview(self) -> Tensor:
        """The field from photo 1."""
        return self.field.render(self.job.scene.reference, min(64, self.job.model.image_size)).rgb[0].cpu()


def distill(
    model: ViewSynthesizer,
    scene: SceneEncoding,
    config: DistillConfig | None = None,
    generator: torch.Generator | None = None,
    on_step: OnStep | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    *,
    prompt: str | None = None,
    text_embeddings: tuple[Tensor, Tensor] | None = None,
    views: NovelViews | None = None,
    photo_cameras: PhotoCameras | None = None,
) -> RadianceField:
    """A radiance field of the scene's object, in evaluation mode, on the model's device.

    Args:
        config: DistillConfig.fast() unless given.
        generator: only its initial seed counts, so that a resumed run draws what an uninterrupted one draws.
        on_step: called after each step; the preview is the field as it is, seen from where photo 1 stands.
            Raising from it cancels; the state is saved first.
        checkpoint: file of the saved state, written every `config.checkpoint_every` steps and read if it exists:
            the run goes on from there and, on a CPU, ends in the same field to the bit.
        prompt, text_embeddings: as in UpFusion.condition.
        views: square pictures of the object on white that exist already, e.g. sampled ones. A draft and `fast`
            fit them beside their own views, the reference before its first iteration.
        photo_cameras: where the photos were taken from; `fast` takes the accepted photos for targets, and estimates
            their cameras unless they are given.

    Raises:
        InputError: the checkpoint belongs to another run. FieldError: the loss is no longer finite.
    """
    config = DistillConfig.fast() if config is None else config
    check_type("scene", scene, SceneEncoding, "make it with encode")
    check_type("config", config, DistillConfig, "such as DistillConfig.fast()")
    if not isinstance(config.schedule, ReferenceSchedule):
        make_scheduler(config.schedule.scheduler, config.schedule.steps)  # a wrong one is said before any fit
    if generator is not None:
        check_type("generator", generator, torch.Generator, "such as torch.Generator().manual_seed(0)")
    if checkpoint is not None and not isinstance(checkpoint, str | os.PathLike):
        raise InputError(f"checkpoint must be a path, got {checkpoint!r:.40}; give the name of a file")
    text = model.chosen_text(prompt, text_embeddings)
    with torch.inference_mode(False), torch.enable_grad():  # hosts may call from inference mode
        job = Distillation(
            model=model,
            scene=replace(scene, tokens=scene.tokens.detach().clone(), reference=_detached(scene.reference)),
            config=config,
            text=(text[0].detach().clone(), text[1].detach().clone()),
            seed=generator.initial_seed() if generator is not None else 0,
            on_step=on_step,
            path=None if checkpoint is None else Path(checkpoint),
            views=None if views is None else _checked(views, model.image_size),
            photo_cameras=None if photo_cameras is None else _checked_cameras(photo_cameras, scene),
        )
        plan = config.schedule
        fit = ReferenceFitter(job, plan) if isinstance(plan, ReferenceSchedule) else FitRounds(job, plan)
        field = fit.finish()
    return field.requires_grad_(False).eval()


def _checked(views: NovelViews, size: int) -> NovelViews:
    """The pictures at the model's size, apart from the caller's tensors."""
    check_type("views", views, NovelViews, "such as those that sample gives")
    check_shape("views.rgb", views.rgb, (len(views.cameras), 3, "S", "S"), "one square picture a camera")
    if not len(views.cameras):
        raise InputError("views must hold one picture or more, got 0; leave them out to begin from predictions")
    rgb = views.rgb.detach().float().cpu().clone()
    return NovelViews(resize_pictures(rgb, size), _detached(views.cameras).to("cpu"))


def _checked_cameras(photo_cameras: PhotoCameras, scene: SceneEncoding) -> PhotoCameras:
    check_type("photo_cameras", photo_cameras, PhotoCameras, "such as those of estimate_photo_cameras")
    photos = 0 if scene.views is None else len(scene.views)
    if len(photo_cameras) != photos:
        raise InputError(
            f"photo_cameras must hold one camera for each of the scene's {photos} photos, got {len(photo_cameras)}; "
            "estimate them for this scene, or leave them out"
        )
    return replace(photo_cameras, cameras=_detached(photo_cameras.cameras))


def _detached(cameras: Cameras) -> Cameras:
    """The cameras outside of autograd, whose graph of them would be walked only once."""
    return Cameras(cameras.camera_to_world.detach(), cameras.focal.detach(), cameras.principal.detach())
