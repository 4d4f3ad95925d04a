"""`upfusion reconstruct`: photos -> novel views -> radiance field -> mesh."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..config import DistillConfig, FastSchedule, RaySampling, ReferenceSchedule
from ..field.radiance import load_field
from ..field.rendering import OccupancyGrid, render_views
from ..geometry import orbit_cameras
from ..pipeline.pose import PhotoCameras, estimate_photo_cameras
from ..pipeline.sampling import make_scheduler
from ..support.devices import resolve_device
from ..support.errors import InputError
from ..support.images import contact_sheet, save_png
from ..surface.extract import require_packages
from ..surface.mesh import mesh_files
from ..types import Cameras, OnProgress, SceneEncoding
from . import inputs
from .console import duration, progress
from .inputs import Photos
from .mesh import MeshOptions, extracted
from .pictures import save_video
from .run import Run
from .settings import Conduct, ReconstructSettings, Sources, settings_json
from .stages import begin, encode, opened, sample_views, save_photos, saved_views

if TYPE_CHECKING:
    from ..field.radiance import RadianceField
    from ..pipeline.upfusion import UpFusion

FIELD_NAME = "field.safetensors"
CHECKPOINT_NAME = "field.checkpoint"
PREVIEW_NAME = "preview.png"
PHOTO_CAMERAS_NAME = "photo_cameras.json"
TURNTABLE_FRAMES = 32
TURNTABLE_ELEVATION_DEGREES = 22.5
TURNTABLE_SAMPLING = RaySampling(uniform=128, importance=64)  # fewer miss thin surfaces, which shows as rings


def run_reconstruct(settings: ReconstructSettings, sources: Sources, conduct: Conduct) -> None:
    """Everything, in the run's folder; finished stages of a continued run are left as they are."""
    with opened("reconstruct", settings, sources, conduct) as (run, settings, photos):
        config = distill_config(settings, conduct)
        require_packages(texture=settings.texture_size > 0, faces=settings.faces is not None)
        if not run.already_finished:
            field = _field(run, settings, photos, conduct, config)
            save_turntable(run, field, settings.turntable_size)
            save_mesh(run, field, settings)
        _report(run)


def distill_config(settings: ReconstructSettings, conduct: Conduct) -> DistillConfig:
    """The preset with what the command line changes in it."""
    weights = settings.perceptual_weights
    if weights is not None and not Path(weights).is_file():
        raise InputError(f"--perceptual-weights must be a file, but there is none at {weights}; check the path")
    config = DistillConfig.named(settings.preset)
    schedule = config.schedule
    if not isinstance(schedule, ReferenceSchedule):  # the reference's steps belong to its table of noise
        schedule = replace(
            schedule, steps=settings.steps or schedule.steps, scheduler=settings.scheduler or schedule.scheduler
        )
        make_scheduler(schedule.scheduler, schedule.steps)  # one that cannot take so many steps is refused here
    perceptual: Any = settings.perceptual or config.perceptual  # a text that the configuration checks
    return replace(
        config,
        schedule=schedule,
        perceptual=perceptual,
        perceptual_weights=weights,
        guidance=config.guidance if settings.guidance is None else settings.guidance,
        batch_size=settings.batch_size,
        checkpoint_every=conduct.checkpoint_every,
    )


def _field(
    run: Run, settings: ReconstructSettings, photos: Photos, conduct: Conduct, config: DistillConfig
) -> RadianceField:
    """The field that an earlier attempt finished, or a new one."""
    field = finished_field(run, conduct.device)
    if field is not None:
        begin(run, settings, photos)
        return field
    model = inputs.load_model(settings, conduct.device)
    begin(run, settings, photos)
    views = photos.prepared(model.image_size)
    save_photos(run, views)
    scene = encode(run, model, views, settings)
    if settings.views:
        _save_views(run, model, scene, settings)
    return fit_field(run, model, scene, settings, conduct, config)


def finished_field(run: Run, device: str) -> RadianceField | None:
    """The field that an earlier attempt finished, or None."""
    if not (run.resumed and FIELD_NAME in run.stored("files")):
        return None
    return load_field(run.folder / FIELD_NAME, device=resolve_device(device)).field


def _save_views(run: Run, model: UpFusion, scene: SceneEncoding, settings: ReconstructSettings) -> None:
    azimuths = [360.0 * index / settings.views for index in range(settings.views)]
    cameras = orbit_cameras(azimuths, settings.photo_elevation)
    sample_views(run, model, scene, cameras, settings)
    if not run.has("views.png"):
        with run.writing("views.png") as path:
            save_png(path, contact_sheet(saved_views(run, len(cameras))))


def fit_field(
    run: Run,
    model: UpFusion,
    scene: SceneEncoding,
    settings: ReconstructSettings,
    conduct: Conduct,
    config: DistillConfig,
) -> RadianceField:
    """field.safetensors, and preview.png on the way; goes on from the checkpoint of an earlier attempt."""
    from ..pipeline.distill import distill_cameras

    checkpoint = run.temporary(CHECKPOINT_NAME)
    run.note("distillation", config.to_dict())
    with run.stage("field"), progress(f"Fitting the field ({settings.preset})") as advance:

        def on_step(step: int, total: int, preview: Callable[[], Tensor] | None) -> None:
            advance(step / total)
            if preview is not None and conduct.preview_every and step % conduct.preview_every == 0:
                with run.writing(PREVIEW_NAME, keep=False) as path:
                    save_png(path, preview())

        generator = torch.Generator().manual_seed(settings.seed)
        field = model.distill(
            scene,
            config,
            generator=generator,
            on_step=on_step,
            checkpoint=checkpoint,
            prompt=settings.prompt,
            photo_cameras=_photo_cameras(run, model, scene, config),
        )
        with run.writing(FIELD_NAME) as path:
            cameras = distill_cameras(scene, config, settings.seed)
            field.save(path, cameras=cameras, settings=settings_json(settings))
    run.note("grid_backend", str(field.backend))
    run.discard(CHECKPOINT_NAME)
    return field


def _photo_cameras(run: Run, model: UpFusion, scene: SceneEncoding, config: DistillConfig) -> PhotoCameras | None:
    """Where the photos were taken from, also as photo_cameras.json, where the preset makes use of it."""
    if not isinstance(config.schedule, FastSchedule) or not config.schedule.all_photos or scene.views is None:
        return None
    found = estimate_photo_cameras(model, scene)
    if not run.has(PHOTO_CAMERAS_NAME):
        with run.writing(PHOTO_CAMERAS_NAME, keep=False) as path:
            path.write_text(json.dumps(found.to_list(), indent=2) + "\n", encoding="utf-8")
    return found


def save_turntable(run: Run, field: RadianceField, size: int) -> None:
    """turntable.gif: the field from all round."""
    if run.finished("turntable"):
        return
    cameras = orbit_cameras(
        [360.0 * index / TURNTABLE_FRAMES for index in range(TURNTABLE_FRAMES)], TURNTABLE_ELEVATION_DEGREES
    )
    with run.stage("turntable"), progress("Rendering the turntable") as advance:
        frames = rendered(field, cameras, size, advance)
        with run.writing("turntable.gif") as path:
            save_video(path, frames)


@torch.no_grad()
def rendered(field: RadianceField, cameras: Cameras, size: int, advance: OnProgress) -> Tensor:
    """(Q, 3, size, size) of the field on white, on the CPU."""
    occupied = OccupancyGrid(field.aabb, cells=64)
    occupied.update(field.density, decay=0.0)
    frames = []
    for index, camera in enumerate(cameras):
        seen = render_views(field, field.aabb, camera, size, sampling=TURNTABLE_SAMPLING, visible=occupied)
        frames.append(seen.rgb.cpu())
        advance((index + 1) / len(cameras))
    return torch.cat(frames)


def save_mesh(run: Run, field: RadianceField, settings: ReconstructSettings) -> None:
    """mesh.glb, or whatever formats are asked for."""
    if run.finished("mesh"):
        return
    options = MeshOptions(
        resolution=settings.resolution,
        threshold=settings.threshold,
        texture_size=settings.texture_size,
        faces=settings.faces,
    )
    with run.stage("mesh"):
        mesh = extracted(field, options)
        for kind in settings.formats:
            with ExitStack() as stack:  # renamed in reverse order: the mesh that names the others comes last
                for name, content in reversed(mesh_files(mesh, f"mesh.{kind}").items()):
                    stack.enter_context(run.writing(name)).write_bytes(content)
        run.note("mesh", {"vertices": len(mesh.vertices), "faces": len(mesh.faces)})


def _report(run: Run) -> None:
    run.tell(f"Reconstruction in {run.folder} ({duration(run.seconds)})")
    for name in (
        "mesh.glb",
        "mesh.obj",
        "mesh.ply",
        "mesh.stl",
        "turntable.gif",
        "views.png",
        "photos.png",
        FIELD_NAME,
    ):
        if run.has(name):
            run.tell(f"  {run.folder / name}")
    record = run.record or run.previous or {}
    if "grid_backend" in record:
        run.tell(f"  field computed by {record['grid_backend']}")
