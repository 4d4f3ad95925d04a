"""Distillation: from a diffusion model that paints any view to one radiance field (paper section 3.3)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..checks import check_shape, check_type
from ..errors import InputError
from ..field.radiance import RadianceField
from ..pictures import resize_pictures
from ..types import Cameras, NovelViews, OnStep, SceneEncoding
from .distill_config import DistillConfig, DraftSchedule, FastSchedule, ReferenceSchedule
from .distill_draft import distill_draft, ring_cameras
from .distill_fast import distill_fast
from .distill_reference import distill_reference
from .distill_run import Run, band_cameras, spread_cameras
from .distill_state import run_fingerprint
from .novel_views import check_text
from .photo_cameras import PhotoCameras

if TYPE_CHECKING:
    from .stages import Stages

__all__ = ["DistillConfig", "DraftSchedule", "FastSchedule", "ReferenceSchedule", "distill", "distill_cameras"]


def distill(
    model: Stages,
    scene: SceneEncoding,
    config: DistillConfig | None = None,
    *,
    generator: torch.Generator | None = None,
    on_step: OnStep | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
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
    if generator is not None:
        check_type("generator", generator, torch.Generator, "such as torch.Generator().manual_seed(0)")
    if views is not None:
        check_type("views", views, NovelViews, "such as those that sample gives")
    if photo_cameras is not None:
        _check_photo_cameras(photo_cameras, scene)
    if checkpoint is not None and not isinstance(checkpoint, str | os.PathLike):
        raise InputError(f"checkpoint must be a path, got {checkpoint!r:.40}; give the name of a file")
    if prompt is not None and text_embeddings is not None:
        raise InputError("give a prompt or text_embeddings, not both")
    text = text_embeddings if text_embeddings is not None else model.text_embeddings(prompt)
    text = check_text(text, model.config.diffusion.context_dim)
    seed = generator.initial_seed() if generator is not None else 0
    with torch.inference_mode(False), torch.enable_grad():  # hosts may call from inference mode
        views = None if views is None else _checked(views, model.image_size)
        run = Run(
            model=model,
            scene=replace(scene, tokens=scene.tokens.detach().clone(), reference=_detached(scene.reference)),
            config=config,
            text=(text[0].detach().clone(), text[1].detach().clone()),
            seed=seed,
            on_step=on_step,
            path=None if checkpoint is None else Path(checkpoint),
            fingerprint=run_fingerprint(scene, config, seed, text, views, photo_cameras),
            views=views,
            photo_cameras=(
                None if photo_cameras is None else replace(photo_cameras, cameras=_detached(photo_cameras.cameras))
            ),
        )
        runs = {DraftSchedule: distill_draft, FastSchedule: distill_fast, ReferenceSchedule: distill_reference}
        field = runs[type(config.schedule)](run)
    return field.requires_grad_(False).eval()


def distill_cameras(scene: SceneEncoding, config: DistillConfig, seed: int) -> Cameras:
    """The cameras that `distill` fits the field to, e.g. to be saved with it: photo 1's first."""
    schedule = config.schedule
    if isinstance(schedule, DraftSchedule):
        band = band_cameras(scene.reference, schedule.predicted_cameras, seed)
        return Cameras.concatenate([band, ring_cameras(schedule.sampled_cameras)])
    if isinstance(schedule, FastSchedule):
        return spread_cameras(scene.reference, schedule.cameras)
    return band_cameras(scene.reference, schedule.cameras, seed)


def _check_photo_cameras(photo_cameras: PhotoCameras, scene: SceneEncoding) -> None:
    check_type("photo_cameras", photo_cameras, PhotoCameras, "such as those of estimate_photo_cameras")
    photos = 0 if scene.views is None else len(scene.views)
    if len(photo_cameras) != photos:
        raise InputError(
            f"photo_cameras must hold one camera for each of the scene's {photos} photos, got {len(photo_cameras)}; "
            "estimate them for this scene, or leave them out"
        )


def _checked(views: NovelViews, size: int) -> NovelViews:
    """The pictures at the model's size, apart from the caller's tensors."""
    check_shape("views.rgb", views.rgb, (len(views.cameras), 3, "S", "S"), "one square picture a camera")
    if not len(views.cameras):
        raise InputError("views must hold one picture or more, got 0; leave them out to begin from predictions")
    rgb = views.rgb.detach().float().cpu().clone()
    return NovelViews(resize_pictures(rgb, size), _detached(views.cameras).to("cpu"))


def _detached(cameras: Cameras) -> Cameras:
    """The cameras outside of autograd, whose graph of them would be walked only once."""
    return Cameras(cameras.camera_to_world.detach(), cameras.focal.detach(), cameras.principal.detach())
