"""Estimated cameras of procedural objects' photos against the true ones, and what using them brings.

    python benchmarks/photo_cameras.py [--model mini] [--split test] [--objects 40] [--photos 3] [--fields 12] [--out F]

Objects, photos and targets are those of `upfusion evaluate` (seed 0). Each photo's camera but the first's is estimated;
the error is the angle between its true and its estimated rotation in photo 1's frame. For the first --fields objects a
draft field is fitted twice to UpSRT's predictions and photo 1, with and without the accepted photos as further targets,
and measured on views that are no photos. The table gives mean ± standard error over objects of paired differences.

Long runs may be cut into pieces: --start says at which object, and `--merge A.json B.json` prints the table of several.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parent))

from measuring import write_json

from upfusion_core import Cameras, SceneEncoding, UpFusion, random_cameras
from upfusion_core.config import EvaluationConfig, FieldConfig, FitConfig
from upfusion_core.evaluation.metrics import measure_views
from upfusion_core.evaluation.protocol import EvaluatedObject, draw_object
from upfusion_core.evaluation.report import paired_difference
from upfusion_core.field.fitting import FieldFitter
from upfusion_core.field.radiance import RadianceField
from upfusion_core.pipeline.photos import estimate_mask
from upfusion_core.pipeline.pose import estimate_photo_cameras
from upfusion_core.procedural import ProceduralObjects
from upfusion_core.types import REFERENCE_FOCAL, PhotoCameras

PREDICTED = 32
PHOTO_WEIGHT = 6.0
"""How many predicted views a photo counts as much as."""
FIT = replace(FitConfig(iterations=150), points=2**13)


def rotation_error(estimated: Cameras, true: Cameras) -> torch.Tensor:
    """(N,) angles in degrees between the rotations."""
    traces = (estimated.camera_to_world[:, :3, :3] * true.camera_to_world[:, :3, :3]).sum((1, 2))
    return torch.rad2deg(torch.acos(((traces - 1) / 2).clamp(-1, 1)))


def fitted_psnr(model: UpFusion, scene: SceneEncoding, found: PhotoCameras, chosen: list[int], item: Any) -> float:  # noqa: ANN401
    """Mean box PSNR on the targets of a field fitted to predictions and to the photos `chosen` at their cameras."""
    band = random_cameras(PREDICTED, generator=torch.Generator().manual_seed(1))
    rgb = torch.cat([model.predict(scene, band, model.image_size, pixel_centers=True), scene.views.rgb[chosen]])
    mask = torch.stack([estimate_mask(picture) for picture in rgb])
    cameras = Cameras.concatenate([band, found.cameras[torch.tensor(chosen)]])
    weights = torch.ones_like(rgb[:, :1])
    weights[PREDICTED:] = PHOTO_WEIGHT
    config = FieldConfig.small().no_finer_than(2 / REFERENCE_FOCAL / model.image_size)
    field = RadianceField(config, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(2)
    fitter = FieldFitter(field, cameras, rgb, mask=mask, weights=weights, config=FIT, generator=generator)
    while not fitter.done:
        fitter.step()
    with torch.no_grad():
        seen = field.render(item.cameras, item.truth.shape[-1]).rgb
    return float(measure_views(seen, item.truth, item.mask)["box_psnr"].mean())


def one_object(model: UpFusion, item: EvaluatedObject, photos: int, fit: bool) -> dict[str, Any]:
    """Errors, scores and acceptance of an object's photos but the first, and the PSNR of both fields."""
    scene = model.encode(item.given(photos), reference_elevation_degrees=item.elevation_degrees)
    started = time.process_time()
    found = estimate_photo_cameras(model, scene)
    row: dict[str, Any] = {"object": item.index, "seconds": time.process_time() - started}
    true = item.views.cameras[torch.tensor(item.photos[:photos])]
    row["error"] = rotation_error(found.cameras, true)[1:].tolist()
    row["score"], row["accepted"] = found.score[1:].tolist(), found.accepted[1:].tolist()
    if fit:
        used = [index for index in range(photos) if found.accepted[index]]
        row["without"] = fitted_psnr(model, scene, found, [0], item)
        row["with"] = row["without"] if used == [0] else fitted_psnr(model, scene, found, used, item)
    return row


def summary(rows: list[dict[str, Any]]) -> dict[str, float | str]:
    """The figures of the table."""
    error = torch.tensor([value for row in rows for value in row["error"]])
    accepted = torch.tensor([value for row in rows for value in row["accepted"]])
    figures: dict[str, float | str] = {"objects": len(rows), "photos": len(error)}
    figures["accepted, share"] = float(accepted.float().mean())
    for name, some in (("accepted", error[accepted]), ("all", error)):
        if len(some):
            for place in (25, 50, 75, 90):
                figures[f"{name}: error, percentile {place} (degrees)"] = float(some.quantile(place / 100))
            figures[f"{name}: share off by more than 30 degrees"] = float((some > 30).float().mean())
    figures["processor seconds an object"] = sum(row["seconds"] for row in rows) / len(rows)
    fitted = [row for row in rows if "with" in row]
    if len(fitted) > 1:
        without, with_photos = [row["without"] for row in fitted], [row["with"] for row in fitted]
        gain = paired_difference(without, with_photos)
        figures["fields"] = gain["objects"]
        figures["box PSNR without (dB)"] = sum(without) / len(without)
        figures["box PSNR with (dB)"] = sum(with_photos) / len(with_photos)
        figures["gain (dB)"] = f"{gain['mean']:+.3f} ± {gain['stderr']:.3f}"
    return figures


def report(rows: list[dict[str, Any]]) -> None:
    """Prints the table."""
    figures = summary(rows)
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name:{width}}  {value:.3f}" if isinstance(value, float) else f"{name:{width}}  {value}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mini")
    parser.add_argument("--split", default="test")
    parser.add_argument("--objects", type=int, default=40)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--photos", type=int, default=3)
    parser.add_argument("--fields", type=int, default=12)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--merge", type=Path, nargs="+")
    options = parser.parse_args()
    if options.merge:
        report([row for path in options.merge for row in json.loads(path.read_text(encoding="utf-8"))["rows"]])
        return
    model = UpFusion.load(options.model)
    data = ProceduralObjects(options.split, size=model.image_size)
    config = EvaluationConfig(photos=(options.photos,), views=8)
    rows: list[dict[str, Any]] = []
    for place, index in enumerate(range(options.start, options.start + options.objects)):
        rows.append(one_object(model, draw_object(data, index, config), options.photos, place < options.fields))
        content = {"model": model.model_id, "split": options.split, "summary": summary(rows), "rows": rows}
        write_json(options.out, content)
    report(rows)


if __name__ == "__main__":
    main()
