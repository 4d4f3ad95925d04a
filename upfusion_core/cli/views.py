"""`upfusion views` and `upfusion predict`: photos -> pictures from other cameras, in a run's folder."""

import importlib.util
import json
from contextlib import suppress
from pathlib import Path
from subprocess import CalledProcessError

import imageio.v3 as imageio
import numpy as np
import torch
from torch import Tensor

from ..config.options import Networks, Predict, Sampler, Views
from ..data.camera_files import written_cameras
from ..geometry import orbit_cameras
from ..geometry.cameras import networks_reference, reference_distance
from ..pipeline.upfusion import UpFusion
from ..support.errors import InputError, MissingPackageError
from ..support.images import contact_sheet, load_png, save_png, to_8bit
from ..types import Cameras, PhotoCameras, SceneEncoding
from .console import duration, progress, say
from .inputs import PreparedPhotos, load_model, opened, read_cameras
from .run import Run


def run_views(command: Views | Predict, given: frozenset[str]) -> None:
    """Pictures by the diffusion model or, of Predict, the transformer's own colours; all together, and as a film."""
    with opened(command, given) as (run, command, photos):
        if command.orbit.video == "mp4" and not run.already_finished:
            rule, advice = "writing MP4 needs the package imageio-ffmpeg, which is not installed", "choose --video gif"
            if importlib.util.find_spec("imageio_ffmpeg") is None:
                raise MissingPackageError(f'{rule}; run: pip install "imageio[ffmpeg]", or {advice}')
            try:  # it comes without its program for some systems, and takes another's path untried
                importlib.import_module("imageio_ffmpeg").get_ffmpeg_version()
            except (OSError, RuntimeError, CalledProcessError) as error:
                rule = f"writing MP4 needs the program ffmpeg, which does not run ({str(error).strip()[:200]})"
                raise MissingPackageError(f"{rule}; install it, name it in IMAGEIO_FFMPEG_EXE, or {advice}") from error
        orbit, elevation = command.orbit, command.photo_elevation
        assert elevation is not None, "see opened"
        known, unit = photos(256).cameras, 1.0
        if known is not None:
            elevation = float(known.angles_degrees()[0, 1])
            unit = reference_distance(networks_reference(known.cameras[0]))
        height = elevation if orbit.elevation is None else orbit.elevation
        cameras = orbit_of(orbit.count, height, orbit.distance * unit)
        if orbit.cameras is not None:
            cameras = read_cameras(orbit.cameras, elevation)
        if not run.already_finished:
            sampler = command.sampler if isinstance(command, Views) else None
            model, scene = encoded(run, command.networks, sampler, photos, elevation)
            if isinstance(command, Views):
                sample_views(run, model, scene, cameras, command.sampler)
            else:
                with run.stage("views"), progress(f"Predicting {len(cameras)} views") as on_step:
                    for index, camera in enumerate(cameras):
                        write_png(run, f"views/{index:03d}.png", model.predict(scene, camera, size=command.size)[0])
                        on_step(index + 1, len(cameras), None)
            rgb = saved_pictures(run, "views", len(cameras))
            write_png(run, "views.png", contact_sheet(rgb))
            if orbit.video != "none" and len(rgb) > 1:
                with run.writing(f"turntable.{orbit.video}") as path:
                    save_video(path, rgb)
        answer = f"{len(cameras)} views in {run.folder / 'views'} ({duration(run.record.seconds)})"
        run.tell(answer, "views.png", "turntable.gif", "turntable.mp4")


run_predict = run_views


def orbit_of(count: int, elevation_degrees: float, distance: float = 1.0) -> Cameras:
    """Cameras(count) all round the object; the first has photo 1's azimuth."""
    return orbit_cameras([360.0 * index / count for index in range(count)], elevation_degrees, distance)


def write_png(run: Run, name: str, rgb: Tensor, *, keep: bool = True) -> None:
    with run.writing(name, keep=keep) as path:
        save_png(path, rgb)


def saved_pictures(run: Run, folder: str, count: int) -> Tensor:
    """(count, 3, S, S) of the saved folder/000.png and so on."""
    return torch.stack([load_png(run.folder / f"{folder}/{index:03d}.png") for index in range(count)])


def encoded(
    run: Run, networks: Networks, sampler: Sampler | None, photos: PreparedPhotos, photo_elevation: float
) -> tuple[UpFusion, SceneEncoding]:
    """Begins the run; the model, and the scene of the photos, which are saved as the model gets to see them."""
    model = load_model(networks, sampler)
    run.begin()
    views = photos(model.image_size)
    if not run.finished("photos"):
        with run.stage("photos"):
            for index, rgb in enumerate(views.rgb):
                write_png(run, f"inputs/{index + 1:03d}.png", rgb, keep=False)
            write_png(run, "photos.png", contact_sheet(views.rgb, columns=len(views)), keep=False)
    if left_out := {number: reason for number, reason in enumerate(views.left_out, 1) if reason}:
        run.note(left_out=left_out)
        say("\n".join(f"Photo {each} is for cameras, fit and texture only: {left_out[each]}" for each in left_out))
    say("Encoding the photos ...")
    scene = model.encode(views, reference_elevation_degrees=photo_elevation)
    run.check_model(model)
    write_photo_cameras(run, scene, views.cameras)
    return model, scene


def write_photo_cameras(run: Run, scene: SceneEncoding, found: PhotoCameras | None) -> None:
    """photo_cameras.json in the run's folder; where nobody looked for the others', that of photo 1."""
    assert scene.views is not None, "encoded keeps them"
    assert scene.views.sources is not None, "they come from prepare_views"
    if found is None:
        count = len(scene.views)
        first = torch.arange(count) == 0
        found = PhotoCameras(Cameras.concatenate([scene.reference] * count), first, first.float())
    run.note(cameras_accepted=int(found.accepted.sum()))
    with run.writing("photo_cameras.json", keep=False) as path:
        path.write_text(json.dumps(written_cameras(found, scene.views.sources), indent=2) + "\n", encoding="utf-8")


def sample_views(run: Run, model: UpFusion, scene: SceneEncoding, cameras: Cameras, sampler: Sampler) -> None:
    """views/NNN.png by the diffusion model; what an earlier attempt saved is left as it is, if it is whole."""
    names = [f"views/{index:03d}.png" for index in range(len(cameras))]
    missing = []
    for index, name in enumerate(names):
        with suppress(InputError):  # it has been damaged since
            if run.has(name) and load_png(run.folder / name).shape == (3, model.image_size, model.image_size):
                continue
        missing.append(index)
    if run.finished("views") and not missing:
        return
    run.note(view_sampler=sampler.of_views())
    rows = [{"camera_to_world": view.camera_to_world[0].tolist(), "focal": float(view.focal[0, 0])} for view in cameras]
    with run.writing("views.json", keep=False) as path:  # as --cameras reads them
        path.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    options = {**sampler.of_views(), "prompt": sampler.prompt, "batch_size": sampler.batch_size}
    with run.stage("views"), progress(f"Sampling {len(missing)} views") as on_step:
        for first in range(0, len(missing), sampler.batch_size):
            chosen = missing[first : first + sampler.batch_size]

            def within(step: int, total: int, preview: object, before: int = first, here: int = len(chosen)) -> None:
                on_step(before * total + here * step, len(missing) * total, None)

            seeds = [sampler.seed + index for index in chosen]
            novel = model.sample(scene, cameras[torch.tensor(chosen)], **options, seeds=seeds, on_step=within)
            for index, rgb in zip(chosen, novel.rgb, strict=True):
                write_png(run, names[index], rgb)


def save_video(path: Path, rgb: Tensor, fps: int = 12) -> None:
    """(Q, 3, H, W) in [0, 1] -> a GIF that repeats for ever, or an MP4, by the suffix of `path`."""
    height, width = rgb.shape[-2:]
    frames = to_8bit(rgb.permute(0, 2, 3, 1))
    if path.suffix == ".gif":
        # made in memory: on a full disk the writer would try again when it is let go of, and complain to the user
        path.write_bytes(imageio.imwrite("<bytes>", frames, extension=".gif", duration=1000 / fps, loop=0))
    else:  # made even, as the encoder halves the resolution of colours
        frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), constant_values=255)
        imageio.imwrite(path, frames, extension=".mp4", fps=fps, macro_block_size=2)
