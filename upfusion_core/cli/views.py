"""`upfusion views` and `upfusion predict`: photos -> pictures from other cameras."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from ..support.images import save_png
from ..types import Cameras, SceneEncoding
from . import inputs
from .console import duration, progress
from .pictures import check_video
from .run import Run
from .settings import Conduct, PredictSettings, Sources, ViewsSettings
from .stages import encode, opened, sample_views, save_photos, save_sheet_and_film, saved_views, view_name

if TYPE_CHECKING:
    from ..pipeline.upfusion import UpFusion

_Settings = TypeVar("_Settings", ViewsSettings, PredictSettings)
_MakeViews = Callable[[Run, "UpFusion", SceneEncoding, Cameras, _Settings], None]


def run_views(settings: ViewsSettings, sources: Sources, conduct: Conduct) -> None:
    """Views by the diffusion model, as PNGs, contact sheet and film."""
    _run("views", settings, sources, conduct, sample_views)


def run_predict(settings: PredictSettings, sources: Sources, conduct: Conduct) -> None:
    """Views by the transformer's own colours, as PNGs, contact sheet and film."""
    _run("predict", settings, sources, conduct, _predict)


def _run(
    command: str, settings: _Settings, sources: Sources, conduct: Conduct, make_views: _MakeViews[_Settings]
) -> None:
    check_video(settings.video)
    with opened(command, settings, sources, conduct) as (run, settings, photos):
        cameras = inputs.chosen_cameras(settings, settings.photo_elevation, photos.sources.cameras)
        if not run.already_finished:
            model = inputs.load_model(settings, conduct.device)
            run.begin()
            views = photos.prepared(model.image_size)
            save_photos(run, views)
            scene = encode(run, model, views, settings)
            make_views(run, model, scene, cameras, settings)
            save_sheet_and_film(run, saved_views(run, len(cameras)), settings.video)
        _report(run, len(cameras))


def _predict(run: Run, model: UpFusion, scene: SceneEncoding, cameras: Cameras, settings: PredictSettings) -> None:
    with run.stage("views"), progress(f"Predicting {len(cameras)} views") as advance:
        for index, camera in enumerate(cameras):
            rgb = model.predict(scene, camera, size=settings.size)[0]
            with run.writing(view_name(index)) as path:
                save_png(path, rgb)
            advance((index + 1) / len(cameras))


def _report(run: Run, count: int) -> None:
    run.tell(f"{count} views in {run.folder / 'views'} ({duration(run.seconds)})")
    for name in ("views.png", "turntable.gif", "turntable.mp4"):
        if run.has(name):
            run.tell(f"  {run.folder / name}")
