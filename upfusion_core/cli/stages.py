"""Stages that several commands share: saving the photos, encoding, sampling views, films."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..models.checkpoint import recommended_guidance
from ..support.errors import InputError
from ..support.images import contact_sheet, load_png, save_png
from ..types import Cameras, InputViews, SceneEncoding
from .console import progress, say
from .inputs import Photos, read_photos
from .pictures import save_video
from .run import Run, open_run
from .settings import (
    DEFAULT_MODEL,
    DEFAULT_MODEL_NOTE,
    Conduct,
    SamplingSettings,
    SceneSettings,
    Settings,
    Sources,
    settings_json,
    with_stored,
)

if TYPE_CHECKING:
    from ..pipeline.upfusion import UpFusion


@contextmanager
def opened(
    command: str, settings: Settings, sources: Sources | Callable[[Settings], Sources], conduct: Conduct
) -> Iterator[tuple[Run, Settings, Photos]]:
    """The run's folder held, its settings settled, its photos checked; nothing is written yet.

    Args:
        sources: what is read, or how that follows from the settled settings.
    """
    with open_run(conduct.output, command, resume=conduct.resume, force=conduct.force) as run:
        if settings.model is None and not run.resumed:
            say(DEFAULT_MODEL_NOTE)
        stored = run.stored
        settings = with_stored(settings, stored.settings if stored else {}, conduct.explicit)
        if isinstance(settings, SamplingSettings) and settings.guidance is None:
            settings = replace(settings, guidance=recommended_guidance(settings.model or DEFAULT_MODEL))
        before = stored.sources if stored else {}
        chosen = sources.or_stored(before) if isinstance(sources, Sources) else sources(settings)
        photos = read_photos(chosen, settings)
        run.plan(settings_json(settings), photos.sources.as_json(), photos.checksums)
        if run.already_finished:
            run.begin()
        yield run, settings, photos


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


def encode(run: Run, model: UpFusion, views: InputViews, settings: SceneSettings) -> SceneEncoding:
    """The scene; refuses weights that a continued run was not begun with."""
    say("Encoding the photos ...")
    scene = model.encode(views, reference_elevation_degrees=settings.photo_elevation)
    run.check_model(scene.model_id)
    run.note(device=f"{model.device}, {str(model.dtype).removeprefix('torch.')}")
    return scene


def view_name(index: int) -> str:
    """Path of a view's picture in the run's folder."""
    return f"views/{index:03d}.png"


def sample_views(run: Run, model: UpFusion, scene: SceneEncoding, cameras: Cameras, settings: SamplingSettings) -> None:
    """views/NNN.png by the diffusion model, those that an earlier attempt saved left as they are, if they are whole."""
    missing = [index for index in range(len(cameras)) if not _is_saved(run, view_name(index), model.image_size)]
    if run.finished("views") and not missing:
        return
    sampler = settings.view_sampler()
    run.note(view_sampler=sampler)
    with run.stage("views"), progress(f"Sampling {len(missing)} views") as advance:
        for first in range(0, len(missing), settings.batch_size):
            chosen = missing[first : first + settings.batch_size]

            def on_step(
                step: int,
                total: int,
                preview: Callable[[], Tensor] | None,
                before: int = first,
                here: int = len(chosen),
            ) -> None:
                advance((before + here * step / total) / len(missing))

            novel = model.sample(
                scene,
                cameras[torch.tensor(chosen)],
                **sampler,
                prompt=settings.prompt,
                seeds=[settings.seed + index for index in chosen],
                batch_size=settings.batch_size,
                on_step=on_step,
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


def save_sheet_and_film(run: Run, rgb: Tensor, video: str) -> None:
    """views.png, and turntable.gif or .mp4 where there is more than one view."""
    with run.writing("views.png") as path:
        save_png(path, contact_sheet(rgb))
    if video != "none" and len(rgb) > 1:
        with run.writing(f"turntable.{video}") as path:
            save_video(path, rgb)
