"""Rays a second: rendering a field at growing resolution, and fitting it with growing numbers of rays.

    python benchmarks/rendering.py [--field FIELD.safetensors] [--sizes 32 64 128 256] [--rays 512 1024 2048 4096]
                                   [--repeats 3] [--device cpu] [--threads 1] [--out results.json]

Rendering takes the release's 128 + 128 samples a ray, once at every sample (`all`) and once where an occupancy grid
says that something may be seen (`occupied`: empty space and what lies behind the surface are skipped). Fitting steps
take random rays of 16 views with FitConfig's own samples, occupancy included. Without --field the field is one of the
draft's shape, fitted for 150 steps to views of the first procedural test object.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parent))

from measuring import Times, machine, median_times, write_json

from upfusion_core import orbit_cameras
from upfusion_core.config import FieldConfig, FitConfig, RaySampling
from upfusion_core.field.fitting import FieldFitter
from upfusion_core.field.radiance import RadianceField, load_field
from upfusion_core.field.rendering import OccupancyGrid, render_views
from upfusion_core.procedural import ProceduralBatch, ProceduralObjects

VIEWS, VIEW_SIZE, FITTED = 16, 64, 150
ROUNDS = 8  # of the occupancy grid's updates, which look at drawn points


def make_fitter(field: RadianceField, batch: ProceduralBatch, config: FitConfig) -> FieldFitter:
    views = {"mask": batch.mask[0], "config": config, "generator": torch.Generator().manual_seed(0)}
    return FieldFitter(field, batch.cameras(0), batch.rgb[0], **views)


def fitted_field(batch: ProceduralBatch, device: torch.device) -> RadianceField:
    field = RadianceField(FieldConfig.small()).to(device)
    fitter = make_fitter(field, batch, FitConfig(iterations=FITTED))
    while not fitter.done:
        fitter.step()
    return field


def occupancy_of(field: RadianceField) -> OccupancyGrid:
    grid, generator = OccupancyGrid(field.aabb, FitConfig().occupancy_cells), torch.Generator().manual_seed(0)
    for _ in range(ROUNDS):
        grid.update(field.density, generator=generator)
    return grid


def row(work: str, way: str, size: int, rays: int, taken: Times) -> dict[str, Any]:
    return {
        "work": work,
        "way": way,
        "size": size,
        "rays": rays,
        "seconds": taken.wall,
        "processor_seconds": taken.processor,
        "rays_a_second": rays / taken.wall,
        "rays_a_processor_second": rays / taken.processor,
    }


@torch.no_grad()
def rendering_rows(field: RadianceField, options: argparse.Namespace) -> list[dict[str, Any]]:
    grid, camera, rows = occupancy_of(field), orbit_cameras(30.0), []
    for size in options.sizes:
        for way, visible in (("all", None), ("occupied", grid)):

            def work(size: int = size, visible: OccupancyGrid | None = visible) -> object:
                return render_views(field, field.aabb, camera, size, sampling=RaySampling(), visible=visible)

            rows.append(row("render", way, size, size * size, median_times(work, options.repeats, options.device)))
    return rows


def fitting_rows(field: RadianceField, batch: ProceduralBatch, options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for rays in options.rays:
        samples = FitConfig().sampling.uniform + FitConfig().sampling.importance
        config = replace(FitConfig(), rays=rays, points=rays * samples, iterations=10_000)
        fitter = make_fitter(field, batch, config)
        rows.append(row("fit", "occupied", 0, rays, median_times(fitter.step, options.repeats, options.device)))
    return rows


def measure(options: argparse.Namespace) -> dict[str, Any]:
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    batch = ProceduralObjects("test", size=VIEW_SIZE).batch([0], views=VIEWS)
    field = load_field(options.field, device=device).field if options.field else fitted_field(batch, device)
    rows = rendering_rows(field, options) + fitting_rows(field, batch, options)
    named = str(options.field) if options.field else f"draft, {FITTED} steps"
    return {**machine(device), "field": named, "backend": str(field.backend), "repeats": options.repeats, "rows": rows}


def print_table(result: dict[str, Any]) -> None:
    print(f"{result['device']}, {result['threads']} threads, torch {result['torch']}; grid by {result['backend']}")
    print(
        f"{'work':8}{'way':10}{'size':>6}{'rays':>8}{'seconds':>10}{'processor':>11}{'rays/s':>11}"
        f"{'rays/s of proc.':>17}"
    )
    for entry in result["rows"]:
        print(
            f"{entry['work']:8}{entry['way']:10}{entry['size'] or '-':>6}{entry['rays']:8d}{entry['seconds']:10.3f}"
            f"{entry['processor_seconds']:11.3f}{entry['rays_a_second']:11.0f}{entry['rays_a_processor_second']:17.0f}"
        )


def parsed(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--field", type=Path)
    parser.add_argument("--sizes", type=int, nargs="*", default=[32, 64, 128, 256])
    parser.add_argument("--rays", type=int, nargs="*", default=[512, 1024, 2048, 4096])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="torch's own number unless given")
    parser.add_argument("--out", type=Path, help="where to write the result as JSON")
    return parser.parse_args(words)


def main() -> None:
    options = parsed()
    result = measure(options)
    print_table(result)
    write_json(options.out, result)


if __name__ == "__main__":
    main()
