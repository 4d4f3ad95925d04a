"""Meshes of many objects, each from a field that a preset distilled from 3 photos: are they closed, whole and true?

    python benchmarks/meshes.py FIELDS [--weights mini] [--preset draft] [--objects 20] [--photos 3] [--resolution 256]
                                [--texture 1024] [--faces 50000] [--threads 2] [--out results.json]

The objects are the first of the procedural test split, which nothing is trained on. FIELDS is a folder: fields are read
from it, and those that are missing distilled and written there. Of each object
  closed    every edge of the mesh has two faces, before the number of faces is reduced
  whole     share of the volume that is in the largest connected piece
  round     PSNR in dB, inside the silhouette of both, of the textured mesh of at most --faces faces, saved as GLB, read
            again by trimesh and rendered from 8 of the field's cameras, against the field's own render
  warnings  what trimesh or anything else warned of while the file was read
and time and peak of anonymous memory of the mesh without texture (`geometry`) and with, each in a process of its own.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import trimesh
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parent))

from measuring import Peak, alone, machine, procedural_photos, timed, write_json

from upfusion_core import Cameras, DistillConfig, UpFusion, orbit_cameras
from upfusion_core.config import RaySampling
from upfusion_core.field.radiance import RadianceField, load_field
from upfusion_core.models.checkpoint import recommended_guidance
from upfusion_core.pipeline.distill import distill_cameras
from upfusion_core.surface.extract import extract_mesh
from upfusion_core.surface.mesh import MeshAsset
from upfusion_core.surface.rasterise import rasterise
from upfusion_core.surface.reading import read_surface

PICTURE_SIZE, LOOKS = 96, 8
SAMPLING = RaySampling(uniform=96, importance=64)
OPAQUE = 0.5
BOUNDS = {"closed": 0.9, "whole": 0.95, "round": 28.0, "seconds": 20.0, "megabytes": 1500}


@dataclass(frozen=True)
class Case:
    """One object's field and what is to be made of it. texture, faces: None for the geometry alone."""

    field: Path
    resolution: int
    texture: int | None
    faces: int | None
    threads: int


def distilled(index: int, path: Path, model: UpFusion, options: argparse.Namespace) -> float:
    """Distils object `index` and writes its field; seconds of the processor."""
    scene = model.encode(procedural_photos(index, options.photos))
    config = DistillConfig.named(options.preset, guidance=recommended_guidance(options.weights))
    field, taken = timed(lambda: model.distill(scene, config, generator=torch.Generator().manual_seed(index)))
    settings = {
        "preset": options.preset,
        "object": index,
        "photos": options.photos,
        "processor_seconds": taken.processor,
    }
    field.save(path, cameras=distill_cameras(scene, config, index), settings=settings)
    return taken.processor


def examine(case: Case, pipe: Any) -> None:  # noqa: ANN401 - multiprocessing's connection
    torch.set_num_threads(case.threads)
    stored = load_field(case.field)
    with Peak() as peak:
        options = {"texture_size": case.texture, "faces": case.faces}
        mesh, taken = timed(lambda: extract_mesh(stored.field, case.resolution, **options))
    found: dict[str, Any] = {
        "faces": len(mesh.faces),
        "seconds": round(taken.wall, 2),
        "processor_seconds": round(taken.processor, 2),
        "peak_megabytes": round(peak.most / 1e6),
    }
    if case.texture is None:
        found |= solidity(mesh)
    else:
        cameras = stored.cameras if stored.cameras is not None else orbit_cameras(0.0)
        chosen = torch.linspace(0, len(cameras) - 1, LOOKS).long()
        found |= round_trip(mesh, stored.field, cameras[chosen])
    pipe.send(found)


def solidity(mesh: MeshAsset) -> dict[str, Any]:
    """Whether the surface is closed, and how its volume is spread over connected pieces."""
    solid = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
    volumes = [abs(float(piece.volume)) for piece in solid.split(only_watertight=False)]
    return {
        "closed": bool(solid.is_watertight and solid.is_winding_consistent),
        "pieces": len(volumes),
        "whole": max(volumes) / sum(volumes),
    }


def round_trip(mesh: MeshAsset, field: RadianceField, cameras: Cameras) -> dict[str, Any]:
    """The saved mesh rendered against the field, and what reading it was warned of."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        path = Path(folder) / "object.glb"
        mesh.save(path)
        trimesh.load(path)
        surface = read_surface(path)
    with torch.no_grad():
        seen = field.render(cameras, PICTURE_SIZE, sampling=SAMPLING)
    shown = rasterise(surface, cameras, PICTURE_SIZE)
    both = ((seen.opacity > OPAQUE) & (shown.opacity > OPAQUE)).float()
    overlap = both.sum() / ((seen.opacity > OPAQUE) | (shown.opacity > OPAQUE)).sum()
    return {
        "round": psnr((shown.rgb - seen.rgb).square(), both),
        "round_each": [psnr((shown.rgb - seen.rgb)[view : view + 1].square(), both[view]) for view in range(LOOKS)],
        "silhouettes": float(overlap),
        "warnings": [str(entry.message) for entry in caught],
    }


def psnr(squares: Tensor, inside: Tensor) -> float:
    """Decibels of squared errors (N, 3, H, W) where inside (N, 1, H, W) is 1."""
    return -10 * math.log10(max(float((squares * inside).sum() / (3 * inside.sum())), 1e-10))


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How many objects keep each bound, and the worst values."""
    return {
        "objects": len(rows),
        "closed": sum(row["geometry"]["closed"] for row in rows),
        "whole_enough": sum(row["geometry"]["whole"] >= BOUNDS["whole"] for row in rows),
        "round_enough": sum(row["textured"]["round"] >= BOUNDS["round"] for row in rows),
        "without_warning": sum(not row["textured"]["warnings"] for row in rows),
        "least_whole": min(row["geometry"]["whole"] for row in rows),
        "mean_round": sum(row["textured"]["round"] for row in rows) / len(rows),
        "least_round": min(row["textured"]["round"] for row in rows),
        "most_processor_seconds": max(row["geometry"]["processor_seconds"] for row in rows),
        "most_megabytes": max(row["geometry"]["peak_megabytes"] for row in rows),
    }


def measure(options: argparse.Namespace, report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    options.fields.mkdir(parents=True, exist_ok=True)
    model, rows = None, []
    for index in range(options.first, options.first + options.objects):
        path = options.fields / f"{options.preset}-{index}.safetensors"
        if not path.is_file():
            model = model or UpFusion.load(options.weights, device="cpu")
            print(f"object {index}: distilled in {distilled(index, path, model, options):.0f} s of the processor")
        if options.distill_only:
            continue
        geometry = alone(examine, Case(path, options.resolution, None, None, options.threads))
        textured = alone(examine, Case(path, options.resolution, options.texture, options.faces, options.threads))
        rows.append({"object": index, "geometry": geometry, "textured": textured})
        report(rows[-1])
    record = machine() | {"threads": options.threads, "preset": options.preset}
    record |= {"resolution": options.resolution, "texture": options.texture, "faces": options.faces}
    return record | {"bounds": BOUNDS, "objects": rows, "summary": summary(rows) if rows else None}


COLUMNS = "object  closed  pieces   whole    faces  seconds  processor  peak MB  round dB  silhouettes  textured s"
HEADER = f"{COLUMNS}  warnings"


def print_row(row: dict[str, Any]) -> None:
    geometry, textured = row["geometry"], row["textured"]
    print(
        f"{row['object']:6d}  {'yes' if geometry['closed'] else 'no':>6}  {geometry['pieces']:6d}  "
        f"{geometry['whole']:6.3f}  {geometry['faces']:7d}  {geometry['seconds']:7.1f}  "
        f"{geometry['processor_seconds']:9.1f}  {geometry['peak_megabytes']:7d}  {textured['round']:8.2f}  "
        f"{textured['silhouettes']:11.3f}  {textured['processor_seconds']:10.1f}  {len(textured['warnings']):8d}",
        flush=True,
    )


def parsed(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fields", type=Path)
    parser.add_argument("--weights", default="mini")
    parser.add_argument("--preset", default="draft")
    parser.add_argument("--first", type=int, default=0, help="number of the first object")
    parser.add_argument("--objects", type=int, default=20)
    parser.add_argument("--photos", type=int, default=3)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--texture", type=int, default=1024)
    parser.add_argument("--faces", type=int, default=50_000)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--distill-only", action="store_true", help="make the missing fields and stop")
    parser.add_argument("--out", type=Path)
    return parser.parse_args(words)


def main() -> None:
    options = parsed()
    if not options.distill_only:
        print(HEADER, flush=True)
    result = measure(options, print_row)
    if result["summary"]:
        for name, value in result["summary"].items():
            print(f"{name:24}{value:10.3f}" if isinstance(value, float) else f"{name:24}{value:10d}")
    write_json(options.out, result)


if __name__ == "__main__":
    main()
