"""`upfusion reconstruct`: photos -> novel views -> radiance field -> mesh; and `upfusion mesh`, the last step again."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..config import DistillConfig, FastSchedule, RaySampling, ReferenceSchedule
from ..config.commands import Mesh, Reconstruct, Sampler, Surface
from ..field.radiance import RadianceField, load_field
from ..field.rendering import OccupancyGrid, render_views
from ..geometry import orbit_cameras
from ..pipeline.pose import PhotoCameras, estimate_photo_cameras
from ..pipeline.sampling import make_scheduler
from ..support.devices import resolve_device
from ..support.errors import InputError
from ..support.files import check_target
from ..support.images import contact_sheet, save_png
from ..surface.extract import require_packages
from ..surface.mesh import MeshAsset, mesh_files, mesh_names
from ..surface.mesh import save_mesh as write_mesh
from ..types import Cameras, OnStep, SceneEncoding
from .console import answer, duration, progress
from .inputs import ReadPhotos, load_model, opened
from .options import recorded
from .run import Run, locked, recorded_files, refuse_existing
from .views import encode, sample_views, save_photos, save_video, saved_views

if TYPE_CHECKING:
    from ..pipeline.upfusion import UpFusion

FIELD_NAME = "field.safetensors"
CHECKPOINT_NAME = "field.checkpoint"
PREVIEW_NAME = "preview.png"
PHOTO_CAMERAS_NAME = "photo_cameras.json"
TURNTABLE_FRAMES = 32
TURNTABLE_ELEVATION_DEGREES = 22.5
TURNTABLE_SAMPLING = RaySampling(uniform=128, importance=64)  # fewer miss thin surfaces, which shows as rings


def run_reconstruct(command: Reconstruct, given: frozenset[str]) -> None:
    """Everything, in the run's folder; finished stages of a continued run are left as they are."""
    with opened("reconstruct", command, given, lambda command: command.photos) as (run, command, photos):
        config = distill_config(command)
        require_packages(texture=command.surface.texture_size > 0, faces=command.surface.faces is not None)
        if not run.already_finished:
            field = finished_field(run, command.networks.device)
            if field is None:
                field = _field(run, command, photos, config)
            else:
                run.begin()
            save_turntable(run, field, command.turntable_size)
            save_mesh(run, field, command.surface, command.formats)
        run.tell(f"Reconstruction in {run.folder} ({duration(run.seconds)})")
        meshes = (f"mesh.{kind}" for kind in ("glb", "obj", "ply", "stl"))
        run.tell_files(*meshes, "turntable.gif", "views.png", "photos.png", FIELD_NAME)
        backend = getattr(run.record, "grid_backend", None)
        if backend is not None:
            run.tell(f"  field computed by {backend}")


def distill_config(command: Reconstruct) -> DistillConfig:
    """The preset with what the command line changes in it."""
    weights = command.perceptual_weights
    if weights is not None and not weights.is_file():
        raise InputError(f"--perceptual-weights must be a file, but there is none at {weights}; check the path")
    config = sampled_by(DistillConfig.named(command.preset), command.sampler)
    return replace(
        config,
        perceptual=command.perceptual or config.perceptual,
        perceptual_weights=None if weights is None else str(weights.absolute()),
        checkpoint_every=command.checkpoint_every,
    )


def sampled_by(config: DistillConfig, sampler: Sampler) -> DistillConfig:
    """The preset with the command line's sampler where that says something."""
    schedule = config.schedule
    if not isinstance(schedule, ReferenceSchedule):  # the reference's steps belong to its table of noise
        steps, scheduler = sampler.steps or schedule.steps, sampler.scheduler or schedule.scheduler
        schedule = replace(schedule, steps=steps, scheduler=scheduler)
        make_scheduler(schedule.scheduler, schedule.steps)  # one that cannot take so many steps is refused here
    guidance = config.guidance if sampler.guidance is None else sampler.guidance
    return replace(config, schedule=schedule, guidance=guidance, batch_size=sampler.batch_size)


def _field(run: Run, command: Reconstruct, photos: ReadPhotos, config: DistillConfig) -> RadianceField:
    model = load_model(command.networks, command.sampler)
    run.begin()
    views = photos.prepared(model.image_size)
    save_photos(run, views)
    scene = encode(run, model, views, command.photo_elevation)
    if command.views:
        azimuths = [360.0 * index / command.views for index in range(command.views)]
        cameras = orbit_cameras(azimuths, command.photo_elevation)
        sample_views(run, model, scene, cameras, command.sampler)
        if not run.has("views.png"):
            with run.writing("views.png") as path:
                save_png(path, contact_sheet(saved_views(run, len(cameras))))
    settings = recorded(command, "settings")
    return fit_field(run, model, scene, config, command.sampler, settings, command.preview_every)


def finished_field(run: Run, device: str) -> RadianceField | None:
    """The field that an earlier attempt finished, or None."""
    if not (run.resumed and FIELD_NAME in run.record.files):
        return None
    return load_field(run.folder / FIELD_NAME, device=resolve_device(device)).field


def fit_field(
    run: Run,
    model: UpFusion,
    scene: SceneEncoding,
    config: DistillConfig,
    sampler: Sampler,
    settings: dict[str, Any],
    preview_every: int,
) -> RadianceField:
    """field.safetensors with `settings` in it, and preview.png on the way; goes on from the checkpoint of an earlier
    attempt."""
    from ..pipeline.distill import distill_cameras

    checkpoint = run.temporary(CHECKPOINT_NAME)
    run.note(distillation=config.to_dict())
    with run.stage("field"), progress(f"Fitting the field ({config.preset})") as advance:

        def on_step(step: int, total: int, preview: Callable[[], Tensor] | None) -> None:
            advance(step, total, preview)
            if preview is not None and preview_every and step % preview_every == 0:
                with run.writing(PREVIEW_NAME, keep=False) as path:
                    save_png(path, preview())

        field = model.distill(
            scene,
            config,
            generator=torch.Generator().manual_seed(sampler.seed),
            on_step=on_step,
            checkpoint=checkpoint,
            prompt=sampler.prompt,
            photo_cameras=_photo_cameras(run, model, scene, config),
        )
        with run.writing(FIELD_NAME) as path:
            field.save(path, cameras=distill_cameras(scene, config, sampler.seed), settings=settings)
    run.note(grid_backend=str(field.backend))
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
    with run.stage("turntable"), progress("Rendering the turntable") as on_step:
        frames = rendered(field, cameras, size, on_step)
        with run.writing("turntable.gif") as path:
            save_video(path, frames)


@torch.no_grad()
def rendered(field: RadianceField, cameras: Cameras, size: int, on_step: OnStep) -> Tensor:
    """(Q, 3, size, size) of the field on white, on the CPU."""
    occupied = OccupancyGrid(field.aabb, cells=64)
    occupied.update(field.density)
    frames = []
    for index, camera in enumerate(cameras):
        seen = render_views(field, field.aabb, camera, size, sampling=TURNTABLE_SAMPLING, visible=occupied)
        frames.append(seen.rgb.cpu())
        on_step(index + 1, len(cameras), None)
    return torch.cat(frames)


def save_mesh(run: Run, field: RadianceField, surface: Surface, formats: tuple[str, ...]) -> None:
    """mesh.glb, or whatever formats are asked for."""
    if run.finished("mesh"):
        return
    with run.stage("mesh"):
        mesh = _extracted(field, surface)
        for kind in dict.fromkeys(formats):
            with ExitStack() as stack:  # renamed in reverse order: the mesh that names the others comes last
                for name, content in reversed(mesh_files(mesh, f"mesh.{kind}").items()):
                    stack.enter_context(run.writing(name)).write_bytes(content)
        run.note(mesh={"vertices": len(mesh.vertices), "faces": len(mesh.faces)})


def _extracted(field: RadianceField, surface: Surface) -> MeshAsset:
    with progress("Extracting the mesh") as on_step:
        return field.extract_mesh(
            surface.resolution,
            surface.threshold,
            texture_size=surface.texture_size or None,
            faces=surface.faces,
            on_step=on_step,
        )


def run_mesh(command: Mesh, given: frozenset[str]) -> None:
    """Writes the mesh, and its record beside it."""
    output, surface = command.output, command.surface
    check_target(output)
    with locked(output.parent, output.name):
        record_path = output.with_name(output.name + ".run.json")
        names = mesh_names(output.name, textured=surface.texture_size > 0)
        targets = [*(output.with_name(name) for name in names), record_path]
        for path in targets:
            check_target(path)
        refuse_existing(*targets, source=command.field, force=command.force)
        require_packages(texture=surface.texture_size > 0, faces=surface.faces is not None)
        with recorded_files(record_path, "mesh", asdict(surface), recorded(command, "sources")) as record:
            field = load_field(command.field, device=resolve_device(command.device)).field
            mesh = _extracted(field, surface)
            record.files = [str(path) for path in write_mesh(mesh, output)]
            record.note(mesh={"vertices": len(mesh.vertices), "faces": len(mesh.faces)})
    took = duration(sum(record.timings_seconds.values()))
    answer(f"Wrote {output} ({len(mesh.faces)} faces) in {took}; record in {record_path}")
