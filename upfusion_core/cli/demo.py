"""`upfusion demo`: photos that come with the package -> everything the model makes of them, beside the truth."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..config import DistillConfig
from ..config.commands import Demo, Photos, Surface
from ..field.radiance import RadianceField
from ..pipeline.examples import ExampleViews, example_views
from ..support.checks import check_shape
from ..support.images import contact_sheet, to_8bit
from .console import duration, progress, say
from .inputs import ReadPhotos, opened
from .reconstruct import FIELD_NAME, finished_field, fit_field, rendered, sampled_by, save_mesh, save_turntable
from .run import Run
from .views import encoded, sample_views, saved_pictures, write_png

PHOTO_ELEVATION_DEGREES = 22.5
PREDICTION_SIZE = 64
SHEET_SIZE = 128
PREVIEW_EVERY = 50
TURNTABLE_SIZE = 96
SURFACE = Surface(resolution=128, texture_size=0)


def run_demo(command: Demo, given: frozenset[str]) -> None:
    """Everything, in the run's folder; finished stages of a continued run are left as they are."""
    start = time.monotonic()

    def photos_of(command: Demo) -> Photos:
        return Photos(example_views(command.object, command.photos).paths)

    with opened("demo", command, given, photos_of) as (run, command, photos):
        example = example_views(command.object, command.photos)
        if not run.already_finished:
            field = finished_field(run, command.networks.device)
            if field is None:
                field = _field(run, command, photos, example, start)
            if not run.finished("sheet"):
                with run.stage("sheet"), progress("Rendering the contact sheet") as on_step:
                    columns = {
                        "photos": example.photos,
                        "truth": example.truth,
                        "prediction": saved_pictures(run, "predictions", len(example.cameras)),
                        "2D samples": saved_pictures(run, "views", len(example.cameras)),
                        "3D field": rendered(field, example.cameras, SHEET_SIZE, on_step),
                    }
                    rows = [f"view {number + 1}" for number in range(len(example.cameras))]
                    write_png(run, "sheet.png", labelled_sheet(columns, rows, SHEET_SIZE))
            save_turntable(run, field, TURNTABLE_SIZE)
            save_mesh(run, field, SURFACE, ("glb",))
        files = ("sheet.png", "prediction.png", "views.png", "turntable.gif", "mesh.glb", "truth.png", FIELD_NAME)
        run.tell(f"Demo in {run.folder} ({duration(run.record.seconds)})", *files)


def _field(run: Run, command: Demo, photos: ReadPhotos, example: ExampleViews, start: float) -> RadianceField:
    """All that the model makes, the field last."""
    config = sampled_by(DistillConfig.fast(), command.sampler)
    model, scene = encoded(run, command.networks, command.sampler, photos, PHOTO_ELEVATION_DEGREES)
    run.note(example=example.name)
    if not run.finished("prediction"):
        rgb = model.predict(scene, example.cameras, size=PREDICTION_SIZE, pixel_centers=True)
        with run.stage("prediction"):
            for index, picture in enumerate(rgb):
                write_png(run, f"predictions/{index:03d}.png", picture, keep=False)
            write_png(run, "truth.png", contact_sheet(example.truth), keep=False)
            write_png(run, "prediction.png", contact_sheet(rgb), keep=False)
        say(f"First picture after {duration(time.monotonic() - start)}: {run.folder / 'prediction.png'}")
    sample_views(run, model, scene, example.cameras, command.sampler)
    return fit_field(run, model, scene, config, command.sampler, PREVIEW_EVERY)


def labelled_sheet(columns: Mapping[str, Tensor], rows: Sequence[str], size: int) -> Tensor:
    """(3, H, W): a column of pictures under each title, beside the rows' labels.

    Args:
        columns: title -> (N, 3, S, S) in [0, 1], N at most the number of rows. size: of each shown, whatever S is.
    """
    font = ImageFont.load_default(max(10, size // 9))
    head, margin, gap = round(size / 5), round(size / 1.6), max(2, size // 32)
    width, height = margin + len(columns) * (size + gap), head + len(rows) * (size + gap)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for place, label in enumerate(rows):
        draw.text((gap, head + place * (size + gap) + size / 2), label, fill="black", font=font, anchor="lm")
    for place, (title, rgb) in enumerate(columns.items()):
        check_shape(title, rgb, ("N", 3, "S", "S"))
        left = margin + place * (size + gap)
        draw.text((left + size / 2, head / 2), title, fill="black", font=font, anchor="mm")
        for row, pixels in enumerate(to_8bit(rgb.permute(0, 2, 3, 1))):
            picture = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
            sheet.paste(picture, (left, head + row * (size + gap)))
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1).float() / 255
