"""`upfusion demo`: photos that come with the package -> everything the model makes of them, beside the truth."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..pipeline.examples import ExampleViews, example_views
from ..support.images import contact_sheet, load_png, save_png
from . import inputs
from .console import duration, progress, say
from .inputs import Photos
from .pictures import labelled_sheet
from .reconstruct import FIELD_NAME, distill_config, finished_field, fit_field, rendered, save_mesh, save_turntable
from .run import Run
from .settings import Conduct, DemoSettings, Sources
from .stages import encode, opened, sample_views, save_photos, saved_views

if TYPE_CHECKING:
    from ..field.radiance import RadianceField

PREDICTION_SIZE = 64
SHEET_SIZE = 128


def run_demo(settings: DemoSettings, conduct: Conduct) -> None:
    """Everything, in the run's folder; finished stages of a continued run are left as they are."""
    start = time.monotonic()
    with opened("demo", settings, _sources, conduct) as (run, settings, photos):
        example = example_views(settings.object, settings.photos)
        if not run.already_finished:
            field = _field(run, settings, photos, conduct, example, start)
            _save_sheet(run, field, example)
            save_turntable(run, field, settings.turntable_size)
            save_mesh(run, field, settings)
        _report(run)


def _sources(settings: DemoSettings) -> Sources:
    return Sources(photos=example_views(settings.object, settings.photos).paths)


def _field(
    run: Run, settings: DemoSettings, photos: Photos, conduct: Conduct, example: ExampleViews, start: float
) -> RadianceField:
    """All that the model makes, the field last; the field alone where an earlier attempt finished it."""
    field = finished_field(run, conduct.device)
    if field is not None:
        run.begin()
        return field
    config = distill_config(settings, conduct)
    model = inputs.load_model(settings, conduct.device)
    run.begin()
    run.note(example=example.name)
    views = photos.prepared(model.image_size)
    save_photos(run, views)
    scene = encode(run, model, views, settings)
    if not run.finished("prediction"):
        rgb = model.predict(scene, example.cameras, size=PREDICTION_SIZE, pixel_centers=True)
        _save_prediction(run, rgb, example, start)
    sample_views(run, model, scene, example.cameras, settings)
    with run.writing("views.png") as path:
        save_png(path, contact_sheet(saved_views(run, len(example.cameras))))
    return fit_field(run, model, scene, settings, conduct, config)


def _save_prediction(run: Run, rgb: Tensor, example: ExampleViews, start: float) -> None:
    """truth.png, prediction.png and predictions/NNN.png."""
    with run.stage("prediction", keep=False):
        for index, picture in enumerate(rgb):
            with run.writing(_prediction_name(index), keep=False) as path:
                save_png(path, picture)
        for name, pictures in (("truth.png", example.truth), ("prediction.png", rgb)):
            with run.writing(name, keep=False) as path:
                save_png(path, contact_sheet(pictures))
    say(f"First picture after {duration(time.monotonic() - start)}: {run.folder / 'prediction.png'}")


def _save_sheet(run: Run, field: RadianceField, example: ExampleViews) -> None:
    """sheet.png: what goes in, what is true, and what each stage made, a row a camera."""
    if run.finished("sheet"):
        return
    count = len(example.cameras)
    with run.stage("sheet"), progress("Rendering the contact sheet") as advance:
        columns = {
            "photos": example.photos,
            "truth": example.truth,
            "prediction": torch.stack([load_png(run.folder / _prediction_name(index)) for index in range(count)]),
            "2D samples": saved_views(run, count),
            "3D field": rendered(field, example.cameras, SHEET_SIZE, advance),
        }
        rows = [f"view {number}" for number in range(1, count + 1)]
        with run.writing("sheet.png") as path:
            save_png(path, labelled_sheet(columns, rows, SHEET_SIZE))


def _prediction_name(index: int) -> str:
    return f"predictions/{index:03d}.png"


def _report(run: Run) -> None:
    run.tell(f"Demo in {run.folder} ({duration(run.seconds)})")
    for name in ("sheet.png", "prediction.png", "views.png", "turntable.gif", "mesh.glb", "truth.png", FIELD_NAME):
        if run.has(name):
            run.tell(f"  {run.folder / name}")
