"""`upfusion views` and `upfusion predict`: photos -> pictures from other cameras."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import imageio.v3 as imageio
import numpy as np
import torch
from torch import Tensor

from ..config.options import Predict, Sampler, Views
from ..geometry import orbit_cameras
from ..support.checks import check_shape
from ..support.errors import InputError, MissingPackageError
from ..support.images import contact_sheet, load_png, save_png, to_8bit
from ..types import Cameras, InputViews, SceneEncoding
from .console import duration, progress, say
from .inputs import load_model, opened, read_cameras
from .run import Run

if TYPE_CHECKING:
    from ..pipeline.upfusion import UpFusion

FRAMES_PER_SECOND = 12


def run_views(command: Views, given: frozenset[str]) -> None:
    """Views by the diffusion model, as PNGs, contact sheet and film."""
    _run("views", command, given)


def run_predict(command: Predict, given: frozenset[str]) -> None:
    """Views by the transformer's own colours, as PNGs, contact sheet and film."""
    _run("predict", command, given)


def _run(name: str, command: Views | Predict, given: frozenset[str]) -> None:
    check_video(command.orbit.video)
    with opened(name, command, given, lambda command: command.photos) as (run, command, photos):
        orbit, elevation = command.orbit, command.photo_elevation
        if orbit.cameras is None:
            azimuths = [360.0 * index / orbit.count for index in range(orbit.count)]  # the first above photo 1's
            cameras = orbit_cameras(azimuths, elevation if orbit.elevation is None else orbit.elevation, orbit.distance)
        else:
            cameras = read_cameras(orbit.cameras, elevation)
        if not run.already_finished:
            model = load_model(command.networks, command.sampler if isinstance(command, Views) else None)
            run.begin()
            views = photos.prepared(model.image_size)
            save_photos(run, views)
            scene = encode(run, model, views, elevation)
            if isinstance(command, Views):
                sample_views(run, model, scene, cameras, command.sampler)
            else:
                _predict(run, model, scene, cameras, command.size)
            rgb = saved_views(run, len(cameras))
            with run.writing("views.png") as path:
                save_png(path, contact_sheet(rgb))
            if orbit.video != "none" and len(rgb) > 1:
                with run.writing(f"turntable.{orbit.video}") as path:
                    save_video(path, rgb)
        run.tell(f"{len(cameras)} views in {run.folder / 'views'} ({duration(run.seconds)})")
        run.tell_files("views.png", "turntable.gif", "turntable.mp4")


def _predict(run: Run, model: UpFusion, scene: SceneEncoding, cameras: Cameras, size: int) -> None:
    with run.stage("views"), progress(f"Predicting {len(cameras)} views") as on_step:
        for index, camera in enumerate(cameras):
            rgb = model.predict(scene, camera, size=size)[0]
            with run.writing(view_name(index)) as path:
                save_png(path, rgb)
            on_step(index + 1, len(cameras), None)


def save_photos(run: Run, views: InputViews) -> None:
    """inputs/NNN.png and photos.png: what the model gets to see."""
    if run.finished("photos"):
        return
    with run.stage("photos", keep=False):
        for index, rgb in enumerate(views.rgb):
            with run.writing(f"inputs/{index + 1:03d}.png", keep=False) as path:
                save_png(path, rgb)
        with run.writing("photos.png", keep=False) as path:
            save_png(path, contact_sheet(views.rgb, columns=len(views)))


def encode(run: Run, model: UpFusion, views: InputViews, photo_elevation: float) -> SceneEncoding:
    """The scene; refuses weights that a continued run was not begun with."""
    say("Encoding the photos ...")
    scene = model.encode(views, reference_elevation_degrees=photo_elevation)
    run.check_model(scene.model_id)
    run.note(device=f"{model.device}, {str(model.dtype).removeprefix('torch.')}")
    return scene


def view_name(index: int) -> str:
    """Path of a view's picture in the run's folder."""
    return f"views/{index:03d}.png"


def sample_views(run: Run, model: UpFusion, scene: SceneEncoding, cameras: Cameras, sampler: Sampler) -> None:
    """views/NNN.png by the diffusion model, those that an earlier attempt saved left as they are, if they are whole."""
    missing = [index for index in range(len(cameras)) if not _is_saved(run, view_name(index), model.image_size)]
    if run.finished("views") and not missing:
        return
    sampling = sampler.of_views()
    run.note(view_sampler=sampling)
    with run.stage("views"), progress(f"Sampling {len(missing)} views") as on_step:
        for first in range(0, len(missing), sampler.batch_size):
            chosen = missing[first : first + sampler.batch_size]

            def within(
                step: int,
                total: int,
                preview: Callable[[], Tensor] | None,
                before: int = first,
                here: int = len(chosen),
            ) -> None:
                on_step(before * total + here * step, len(missing) * total, preview)

            novel = model.sample(
                scene,
                cameras[torch.tensor(chosen)],
                **sampling,
                prompt=sampler.prompt,
                seeds=[sampler.seed + index for index in chosen],
                batch_size=sampler.batch_size,
                on_step=within,
            )
            for index, rgb in zip(chosen, novel.rgb, strict=True):
                with run.writing(view_name(index)) as path:
                    save_png(path, rgb)


def _is_saved(run: Run, name: str, size: int) -> bool:
    """Whether an earlier attempt has written the picture `name`, and nothing has damaged it since."""
    if not run.has(name):
        return False
    try:
        return load_png(run.folder / name).shape == (3, size, size)
    except InputError:
        return False


def saved_views(run: Run, count: int) -> Tensor:
    """(Q, 3, S, S) of the saved pictures."""
    return torch.stack([load_png(run.folder / view_name(index)) for index in range(count)])


def check_video(kind: str) -> None:
    """Raises MissingPackageError if MP4 is wanted and its encoder is not installed."""
    if kind == "mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise MissingPackageError(
            "writing MP4 needs the package imageio-ffmpeg, which is not installed; "
            'run: pip install "imageio[ffmpeg]", or choose --video gif'
        )


def save_video(path: Path, rgb: Tensor, frames_per_second: int = FRAMES_PER_SECOND) -> None:
    """(Q, 3, H, W) in [0, 1] -> a GIF that repeats for ever, or an MP4, by the suffix of `path`."""
    check_shape("rgb", rgb, ("Q", 3, "H", "W"))
    height, width = rgb.shape[-2:]
    frames = to_8bit(rgb.permute(0, 2, 3, 1))
    if path.suffix == ".gif":
        # made in memory: on a full disk the writer would try again when it is let go of, and complain to the user
        duration_ms = 1000 / frames_per_second
        path.write_bytes(imageio.imwrite("<bytes>", frames, extension=".gif", duration=duration_ms, loop=0))
        return
    check_video("mp4")
    # made even, as the encoder halves the resolution of colours
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), constant_values=255)
    imageio.imwrite(path, frames, extension=".mp4", fps=frames_per_second, macro_block_size=2)
