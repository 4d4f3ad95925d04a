"""Found cameras of photos against the true ones, and what using them brings.

    python benchmarks/photo_cameras.py [--objects 40] [--photos 6] [--fields 12] [--out F]   procedural objects
    python benchmarks/photo_cameras.py --scans FOLDER [--seeds 2] [--fields 0] [--out F]     meshes
    python benchmarks/photo_cameras.py --fields 0 --fast 20 [--scans FOLDER] [--out F]       `fast`, whole

Objects, photos and targets are those of `upfusion evaluate`, the photos of 256 pixels. Each photo's camera but the
first's is looked for; the error is the angle between its true and its found rotation in photo 1's frame. For the first
--fields objects a draft field is fitted twice to UpSRT's predictions and photo 1, with and without the accepted photos
as further targets, and measured on views that are no photos: mean ± standard error over objects of paired differences.
For the first --fast objects the preset `fast` is run twice, with all photos and with photo 1 alone; where no photo is
accepted the second is the first.

Each object gives a line; with --out they are kept in that file, a JSON object a line, and those that are there already
are not measured again. `--merge A.jsonl B.jsonl` prints the table of several. The last rows say how many photos are
right by the share of drawn answers that agree, of all and of the even and odd objects: what trust is calibrated by.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parent))

from upfusion_core import Cameras, SceneEncoding, UpFusion, random_cameras
from upfusion_core.config import DistillConfig, EvaluationConfig, FastSchedule, FieldConfig, FitConfig, PhotoSearch
from upfusion_core.data.meshes import mesh_folder
from upfusion_core.evaluation.metrics import measure_views
from upfusion_core.evaluation.protocol import EvaluatedObject, draw_object, evaluate_object
from upfusion_core.evaluation.report import paired_difference
from upfusion_core.field.fitting import FieldFitter
from upfusion_core.field.radiance import RadianceField
from upfusion_core.models.checkpoint import recommended_guidance
from upfusion_core.pipeline.photos import estimate_mask
from upfusion_core.pipeline.pose import estimate_elevation, estimate_photo_cameras
from upfusion_core.procedural import ProceduralObjects
from upfusion_core.types import REFERENCE_FOCAL, PhotoCameras

SIZE = 256  # pixels of the photos
PREDICTED = 32
PHOTO_WEIGHT = 6.0
"""How many predicted views a photo counts as much as."""
RIGHT = 15  # degrees
SHARES = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.01)
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


def fast_fields(model: UpFusion, item: EvaluatedObject, weights: str, photos: int, found: bool) -> dict[str, Any]:
    """Box PSNR and IoU of the fields of `fast`, with all photos and with the first alone."""
    row: dict[str, Any] = {}
    for name, every in (("fast alone", False), ("fast", True)):
        if every and not found:
            return row | {"fast": row["fast alone"]}
        schedule = replace(FastSchedule(), all_photos=every)
        distill = DistillConfig.fast(schedule=schedule, guidance=recommended_guidance(weights))
        config = EvaluationConfig(photos=(photos,), views=8, stages=("field",), alignment="picture", distill=distill)
        values = evaluate_object(model, item, config).values["field"][str(photos)]
        row[name] = {measure: round(fmean(values[measure]), 4) for measure in ("box_psnr", "iou")}
    return row


def one_object(
    model: UpFusion, item: EvaluatedObject, photos: int, fit: bool, known: int, elevation: bool
) -> dict[str, Any]:
    """Errors, scores and acceptance of an object's photos but the first `known`, and the PSNR of both fields."""
    true, views = item.views.cameras[torch.tensor(item.photos[:photos])], item.given(photos)
    if known > 1:
        given = torch.arange(photos) < known
        first = true[torch.arange(photos) * given]  # photo 1's in place of the others'
        sought = tuple(range(known, photos))
        views = replace(views, cameras=PhotoCameras(first, given, given.float(), given=True, sought=sought))
    scene = model.encode(views, reference_elevation_degrees=item.elevation_degrees)
    started, search = time.process_time(), PhotoSearch()
    found = estimate_photo_cameras(model, scene, search=replace(search, trusts=((0.0, 0.0), (1.0, 1.0))))
    row: dict[str, Any] = {"seconds": round(time.process_time() - started, 2)}
    shares = found.score
    score = torch.tensor(np.interp(shares.tolist(), *zip(*search.trusts, strict=True)))
    found = replace(found, score=score, accepted=score >= search.accept)
    row["error"] = [round(value, 2) for value in rotation_error(found.cameras, true)[known:].tolist()]
    row["share"] = [round(share, 3) for share in shares[known:].tolist()]
    row["accepted"] = found.accepted[known:].tolist()
    if elevation:
        row["elevation"] = [round(item.elevation_degrees, 1), estimate_elevation(views)]
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
            for degrees in (RIGHT, 30):
                figures[f"{name}: share off by more than {degrees} degrees"] = float((some > degrees).float().mean())
    figures["processor seconds an object"] = sum(row["seconds"] for row in rows) / len(rows)
    for title, part in (("all", rows), ("even", rows[::2]), ("odd", rows[1::2])):
        shares = torch.tensor([value for row in part for value in row.get("share", [])])
        right = torch.tensor([value <= RIGHT for row in part for value in row["error"] if "share" in row]).float()
        for low, high in pairwise(SHARES):
            if len(inside := right[(shares >= low) & (shares < high)] if len(shares) else shares):
                figures[f"right where {low:.2f} or more agree, {title}"] = (
                    f"{float(inside.mean()):.3f} of {len(inside)}"
                )
    fitted = [row for row in rows if "with" in row]
    if len(fitted) > 1:
        without, with_photos = [row["without"] for row in fitted], [row["with"] for row in fitted]
        gain = paired_difference(without, with_photos)
        figures["fields"] = gain["objects"]
        figures["box PSNR without (dB)"] = sum(without) / len(without)
        figures["box PSNR with (dB)"] = sum(with_photos) / len(with_photos)
        figures["gain (dB)"] = f"{gain['mean']:+.3f} ± {gain['stderr']:.3f}"
    if asked := [row["elevation"] for row in rows if "elevation" in row]:
        off = [abs(found - true) for true, found in asked if found is not None]
        figures["photo 1's elevation found"] = f"{len(off)} of {len(asked)}, off by {sorted(off)} degrees"
    fast = [row for row in rows if "fast" in row]
    for measure in ("box_psnr", "iou") if len(fast) > 1 else ():
        alone, every = ([row[name][measure] for row in fast] for name in ("fast alone", "fast"))
        gain, worst = paired_difference(alone, every), min(b - a for a, b in zip(alone, every, strict=True))
        told = f"{gain['mean']:+.3f} ± {gain['stderr']:.3f} over {len(fast)} objects, the worst {worst:+.3f}"
        figures[f"fast with all photos - with photo 1 alone, {measure}"] = told
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
    parser.add_argument("--scans", type=Path, help="folder of meshes, +Y up, in place of procedural objects")
    parser.add_argument("--split", default="test")
    parser.add_argument("--version", type=int, default=1, help="of the generator")
    parser.add_argument("--objects", type=int, default=40, help="at most")
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1, help="how often each object is photographed")
    parser.add_argument("--photos", type=int, default=6)
    parser.add_argument("--known", type=int, default=1, help="photos, from the first on, whose cameras are given")
    parser.add_argument("--elevation", action="store_true", help="photo 1's is looked for as well")
    parser.add_argument("--fields", type=int, default=12)
    parser.add_argument("--fast", type=int, default=0, help="objects, at most, for which `fast` is run twice")
    parser.add_argument("--out", type=Path, help="file that keeps the lines")
    parser.add_argument("--merge", type=Path, nargs="+")
    options = parser.parse_args()
    if options.merge:
        report([json.loads(line) for path in options.merge for line in path.read_text(encoding="utf-8").splitlines()])
        return
    model = UpFusion.load(options.model)
    procedural = ProceduralObjects(options.split, size=SIZE, version=options.version)
    data = mesh_folder(options.scans, size=SIZE) if options.scans else procedural
    known = options.out.read_text(encoding="utf-8").splitlines() if options.out and options.out.exists() else []
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        config = EvaluationConfig(photos=(options.photos,), views=8, seed=seed)
        for place, index in enumerate(range(options.start, min(options.start + options.objects, len(data)))):
            key = {"data": str(options.scans or (options.split, options.version)), "object": index, "seed": seed}
            key |= {"photos": options.photos, "fields": place < options.fields}
            key |= {"with fast": True} if place < options.fast else {}
            key |= {"known": options.known} if options.known > 1 else {}
            key |= {"with elevation": True} if options.elevation else {}
            row = next((line for line in map(json.loads, known) if key.items() <= line.items()), None)
            if row is None:
                item = draw_object(data, index, config)
                fit = place < options.fields
                row = key | one_object(model, item, options.photos, fit, options.known, options.elevation)
                if place < options.fast:
                    row |= fast_fields(model, item, options.model, options.photos, any(row["accepted"]))
                if options.out:
                    with options.out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
            rows.append(row)
            print(json.dumps(row), flush=True)
    report(rows)


if __name__ == "__main__":
    main()
