"""`upfusion reconstruct`: photos -> views -> radiance field -> mesh; `upfusion demo`: the same beside the truth."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import Tensor

from ..config import DistillConfig, FastSchedule, RaySampling, ReferenceSchedule
from ..config.options import Demo, Reconstruct, Sampler, Surface
from ..field.radiance import RadianceField, load_field
from ..field.rendering import OccupancyGrid, render_views
from ..geometry.cameras import reference_distance
from ..models.perceptual import load_lpips
from ..pipeline.distill import distill_cameras
from ..pipeline.examples import example_views
from ..pipeline.given_views import given_photos
from ..pipeline.photo_cameras import load_photo_cameras
from ..pipeline.pose import estimate_photo_cameras, photo_sheet
from ..pipeline.sampling import make_scheduler
from ..pipeline.upfusion import UpFusion
from ..support.devices import existing_device
from ..support.images import contact_sheet, labelled_sheet
from ..surface.mesh import MeshAsset, mesh_files
from ..surface.projection import project_photos
from ..surface.rasterise import rasterise
from ..surface.reading import Surface as Seen
from ..types import Cameras, GivenViews, InputViews, OnStep, SceneEncoding
from .console import duration, progress, say
from .files import extracted, texture_size
from .inputs import opened
from .run import Run
from .views import encoded, orbit_of, sample_views, save_video, saved_pictures, write_photo_cameras, write_png

FIELD_NAME = "field.safetensors"
TURNTABLE_FRAMES, ELEVATION_DEGREES = 32, 22.5
TURNTABLE_SAMPLING = RaySampling(uniform=128, importance=64)  # fewer miss thin surfaces, which shows as rings
PREDICTION_SIZE, SHEET_SIZE, DEMO_TURNTABLE_SIZE, DEMO_PREVIEW_EVERY = 64, 128, 96, 50
DEMO_SURFACE, DEMO_TEXTURE = Surface(resolution=128, texture_size=0), Surface(128, texture_size=1024, faces=20_000)


def run_reconstruct(command: Reconstruct, given: frozenset[str]) -> None:
    """Everything, in the run's folder; finished stages of a continued run are left as they are."""
    with opened(command, given) as (run, command, photos):
        config = distill_config(command)
        if not run.already_finished:
            field, size = finished_field(run, command.networks.device), 256
            if field is None:
                assert command.photo_elevation is not None, "see opened"
                model, scene = encoded(run, command.networks, command.sampler, photos, command.photo_elevation)
                size = model.image_size
                if command.views:
                    cameras = orbit_of(command.views, command.photo_elevation)
                    sample_views(run, model, scene, cameras, command.sampler)
                    write_png(run, "views.png", contact_sheet(saved_pictures(run, "views", command.views)))
                field = fit_field(run, model, scene, config, command.sampler, command.preview_every)
            save_turntable(run, field, command.turntable_size)
            views, asked = photos(size), command.photo_texture
            if asked is None:
                asked = views.cameras is not None and views.cameras.given
            save_mesh(run, field, command.surface, command.formats, views if asked else None)
        done = f"Reconstruction in {run.folder} ({duration(run.record.seconds)})"
        meshes = ("mesh.glb", "mesh.obj", "mesh.ply", "mesh.stl")
        run.tell(done, *meshes, "turntable.gif", "views.png", "photos.png", "photo_cameras.png", FIELD_NAME)
        if backend := getattr(run.record, "grid_backend", None):
            run.tell(f"  field computed by {backend}")


def distill_config(command: Reconstruct) -> DistillConfig:
    """The preset with what the command line changes in it."""
    weights = command.perceptual_weights
    if weights is not None:
        load_lpips(weights)  # what is wrong with them is said before anything is made
    config = sampled_by(DistillConfig.named(command.preset), command.sampler)
    perceptual, path = command.perceptual or config.perceptual, None if weights is None else str(weights.absolute())
    return replace(config, perceptual=perceptual, perceptual_weights=path, checkpoint_every=command.checkpoint_every)


def sampled_by(config: DistillConfig, sampler: Sampler) -> DistillConfig:
    """The preset with the command line's sampler where that says something."""
    schedule = config.schedule
    if not isinstance(schedule, ReferenceSchedule):  # the reference's steps belong to its table of noise
        steps, scheduler = sampler.steps or schedule.steps, sampler.scheduler or schedule.scheduler
        schedule = replace(schedule, steps=steps, scheduler=scheduler)
        make_scheduler(schedule.scheduler, schedule.steps)  # one that cannot take so many steps is refused here
    guidance = config.guidance if sampler.guidance is None else sampler.guidance
    return replace(config, schedule=schedule, guidance=guidance, batch_size=sampler.batch_size)


def finished_field(run: Run, device: str) -> RadianceField | None:
    """The field that an earlier attempt finished, if it did."""
    if not (run.resumed and FIELD_NAME in run.record.files):
        return None
    field = load_field(run.folder / FIELD_NAME, device=existing_device(device)).field
    run.begin()
    return field


def fit_field(
    run: Run, model: UpFusion, scene: SceneEncoding, config: DistillConfig, sampler: Sampler, preview_every: int
) -> RadianceField:
    """field.safetensors, and preview.png on the way; goes on from the checkpoint of an earlier attempt."""
    saved = run.temporary("field.checkpoint")
    run.note(distillation=config.to_dict())
    with run.stage("field"), progress(f"Fitting the field ({config.preset})") as advance:

        def on_step(step: int, total: int, preview: Callable[[], Tensor] | None) -> None:
            advance(step, total, preview)
            if preview is not None and preview_every and step % preview_every == 0:
                write_png(run, "preview.png", preview(), keep=False)

        schedule, found = config.schedule, None
        if isinstance(schedule, FastSchedule) and schedule.all_photos and scene.views is not None:
            found = estimate_photo_cameras(model, scene)
            write_photo_cameras(run, scene, found)
            if found.sought or not found.given:
                say(found.report())
        generator, prompt = torch.Generator().manual_seed(sampler.seed), sampler.prompt
        field = model.distill(
            scene, config, generator=generator, prompt=prompt, photo_cameras=found, checkpoint=saved, on_step=on_step
        )
        if found is not None and scene.views is not None:
            seen = rendered(field, found.cameras, SHEET_SIZE, lambda *_: None)
            write_png(run, "photo_cameras.png", photo_sheet(scene.views.rgb, seen, found, SHEET_SIZE), keep=False)
        with run.writing(FIELD_NAME) as path:  # the last one, as with it this stage is not done again
            field.save(path, cameras=distill_cameras(scene, config, sampler.seed), settings=run.record.settings)
    run.note(grid_backend=str(field.backend))
    saved.unlink(missing_ok=True)
    return field


def save_turntable(run: Run, field: RadianceField, size: int) -> None:
    if run.finished("turntable"):
        return
    with run.stage("turntable"), progress("Rendering the turntable") as on_step:
        saved = load_field(run.folder / FIELD_NAME).cameras  # photo 1's first: they stand as far as the networks' do
        distance = 1.0 if saved is None else reference_distance(saved)
        frames = rendered(field, orbit_of(TURNTABLE_FRAMES, ELEVATION_DEGREES, distance), size, on_step)
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


def save_mesh(
    run: Run, field: RadianceField, surface: Surface, formats: tuple[str, ...], views: InputViews | None = None
) -> None:
    """The mesh in its formats, its texture of the own pixels of `views` where these are given."""
    if run.finished("mesh"):
        return
    with run.stage("mesh"):
        size = texture_size(surface, *formats)
        mesh = extracted(field, surface, size)
        if views is not None and views.sources is not None and size:
            known = load_photo_cameras(run.folder / "photo_cameras.json", [source.name for source in views.sources])
            photos = given_photos(views, known.of_squares(views.sources))
            mesh = painted(mesh, photos, size)
        for kind in dict.fromkeys(formats):
            files = mesh_files(mesh, f"mesh.{kind}", size_mm=surface.size_mm, up=surface.up)
            with ExitStack() as stack:  # renamed in reverse order: the mesh that names the others comes last
                for name, content in reversed(files.items()):
                    stack.enter_context(run.writing(name)).write_bytes(content)
        run.note(mesh={"vertices": len(mesh.vertices), "faces": len(mesh.faces)})


def run_demo(command: Demo, given: frozenset[str]) -> None:
    """Everything, in the run's folder; finished stages of a continued run are left as they are."""
    start = time.monotonic()
    with opened(command, given) as (run, command, photos):
        example = example_views(command.object, command.photos)
        cameras, sampler = example.cameras, command.sampler
        if not run.already_finished:
            field = finished_field(run, command.networks.device)
            if field is None:
                config = sampled_by(DistillConfig.fast(), sampler)
                model, scene = encoded(run, command.networks, sampler, photos, ELEVATION_DEGREES)
                run.note(example=example.name)
                if not run.finished("prediction"):
                    rgb = model.predict(scene, cameras, size=PREDICTION_SIZE, pixel_centers=True)
                    with run.stage("prediction"):
                        for index, picture in enumerate(rgb):
                            write_png(run, f"predictions/{index:03d}.png", picture, keep=False)
                        write_png(run, "truth.png", contact_sheet(example.truth), keep=False)
                        write_png(run, "prediction.png", contact_sheet(rgb), keep=False)
                    say(f"First picture after {duration(time.monotonic() - start)}: {run.folder / 'prediction.png'}")
                sample_views(run, model, scene, cameras, sampler)
                write_png(run, "views.png", contact_sheet(saved_pictures(run, "views", len(cameras))))
                field = fit_field(run, model, scene, config, sampler, DEMO_PREVIEW_EVERY)
            if not run.finished("sheet"):
                with run.stage("sheet"), progress("Rendering the contact sheet") as on_step:
                    columns = {"photos": example.photos, "truth": example.truth}
                    for title, folder in (("prediction", "predictions"), ("2D samples", "views")):
                        columns[title] = saved_pictures(run, folder, len(cameras))
                    columns["3D field"] = rendered(field, cameras, SHEET_SIZE, on_step)
                    rows = [f"view {index + 1}" for index in range(len(cameras))]
                    write_png(run, "sheet.png", labelled_sheet(columns, rows, SHEET_SIZE))
            save_turntable(run, field, DEMO_TURNTABLE_SIZE)
            save_mesh(run, field, DEMO_SURFACE, ("glb",))
            if example.large and not run.finished("mesh_photos"):
                with run.stage("mesh_photos"):  # with the pixels of the larger photos, and a picture of both meshes
                    views = example.posed(256)
                    assert views.cameras is not None, "they were given"
                    size = DEMO_TEXTURE.texture_size
                    mesh = extracted(field, DEMO_TEXTURE, size)
                    meshes, shown = (mesh, painted(mesh, given_photos(views, views.cameras), size)), []
                    for each in meshes:
                        assert each.uvs is not None, "it has a texture"
                        assert each.texture is not None, "it has a texture"
                        colors, first = torch.ones_like(each.vertices), torch.zeros(len(each.faces), dtype=torch.int64)
                        seen = Seen(each.vertices, each.faces, colors, each.uvs, (each.texture,), first)
                        shown.append(rasterise(seen, cameras, SHEET_SIZE).rgb)
                    write_png(run, "mesh_photos.png", contact_sheet(torch.cat(shown), columns=len(cameras)))
                    with run.writing("mesh_photos.glb") as path:
                        path.write_bytes(mesh_files(meshes[1], "mesh_photos.glb")["mesh_photos.glb"])
        files = ("sheet.png", "prediction.png", "views.png", "turntable.gif", "mesh.glb", "mesh_photos.glb", FIELD_NAME)
        run.tell(f"Demo in {run.folder} ({duration(run.record.seconds)})", *files)


def painted(mesh: MeshAsset, photos: GivenViews, size: int) -> MeshAsset:
    with progress("Painting the photos") as on_step:
        return project_photos(mesh, photos.rgb, photos.cameras, masks=photos.masks, size=size, on_step=on_step)
