"""How cost grows with the number of photos, cameras, pixels and rays: a table, the growth's power, and a plot.

    python benchmarks/scaling.py [--weights mini] [--repeats 3] [--device cpu] [--threads 1]
                                 [--out results.json] [--plot scaling.png]

Each line of the table is one piece of work at growing sizes. The power is the slope of time against size on logarithmic
axes, from the first to the last size: 1 is linear, less has a share that does not grow. `expected` says what it should
be at most: photos see each other in the encoder (2 in the limit), surfaces of a volume grow with its square (2) and the
coarse look through it with its cube, everything else is linear. Times are of the processor on a CPU, of the wall clock
on a GPU; medians of --repeats. The field of `rays` and `resolution` is as it is before any fitting, a soft blob.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parent))

from measuring import machine, median_times, procedural_photos, write_json
from meshing import Formula

from upfusion_core import UpFusion, orbit_cameras
from upfusion_core.config import FieldConfig, RaySampling
from upfusion_core.field.radiance import RadianceField
from upfusion_core.field.rendering import render_rays
from upfusion_core.geometry import camera_rays
from upfusion_core.surface.extract import extract_mesh
from upfusion_core.types import Rays

GUIDANCE = 2.0
TOLERANCE = 0.15
"""What a measured power may be above the expected one on a machine that others use too."""


@dataclass(frozen=True, eq=False)
class Growth:
    """One piece of work at growing sizes. make: size -> the work. expected: the most that the power may be."""

    name: str
    against: str
    sizes: tuple[int, ...]
    expected: float
    make: Callable[[int], Callable[[], object]]


def growths(model: UpFusion) -> list[Growth]:
    scene = model.encode(procedural_photos(0, 3))

    def encoding(count: int) -> Callable[[], object]:
        photos = procedural_photos(0, count)
        return lambda: model.encode(photos)

    def stepping(photos: int) -> Callable[[], object]:
        seen = model.encode(procedural_photos(0, photos))
        return guided_step(model, seen, 4)

    def conditioning(count: int) -> Callable[[], object]:
        cameras = ring(count)
        return lambda: model.condition(scene, cameras)

    return [
        Growth("encode", "photos", (1, 2, 3, 4, 5, 6), 2.0, encoding),
        Growth("guided step of 4 cameras", "photos", (1, 2, 3, 4, 5, 6), 1.0, stepping),
        Growth("condition", "cameras", (4, 8, 16, 32, 64), 1.0, conditioning),
        Growth("guided step", "cameras", (1, 2, 4, 8, 16), 1.0, lambda count: guided_step(model, scene, count)),
        Growth(
            "predict, 8 cameras", "pixels", (32**2, 64**2, 96**2), 1.0, lambda pixels: predicting(model, scene, pixels)
        ),
        Growth("render a draft's field", "rays", (256, 512, 1024, 2048), 1.0, lambda rays: rendering(model, rays)),
        Growth("mesh of a formula", "resolution", (64, 128, 256), 3.0, meshing),
    ]


def ring(count: int) -> Any:  # noqa: ANN401 - Cameras
    return orbit_cameras([360 * index / count for index in range(count)])


def guided_step(model: UpFusion, scene: Any, count: int) -> Callable[[], object]:  # noqa: ANN401 - SceneEncoding
    prepared = model.prepare(model.condition(scene, ring(count)), GUIDANCE)
    latents = torch.randn(count, *model.prior.latent_shape, generator=torch.Generator().manual_seed(0))
    return lambda: model.predict_noise(latents, 481, prepared, GUIDANCE)


def predicting(model: UpFusion, scene: Any, pixels: int) -> Callable[[], object]:  # noqa: ANN401 - SceneEncoding
    cameras, size = ring(8), math.isqrt(pixels)
    return lambda: model.predict(scene, cameras, size)


def rendering(model: UpFusion, rays: int) -> Callable[[], object]:
    field = RadianceField(FieldConfig.small()).to(model.device)
    seen = camera_rays(orbit_cameras(30.0).to(model.device), 64, 64)
    chosen = torch.linspace(0, 64 * 64 - 1, rays).long().to(model.device)
    given = Rays(seen.origins.reshape(-1, 3)[chosen], seen.directions.reshape(-1, 3)[chosen])
    return lambda: render_rays(field, given, field.aabb, sampling=RaySampling(64, 32))


def meshing(resolution: int) -> Callable[[], object]:
    field = Formula("cpu")
    return lambda: extract_mesh(field, resolution)


def power(sizes: tuple[int, ...], seconds: list[float]) -> float:
    """Slope from the first to the last point on logarithmic axes, e.g. 4 times the time at twice the size -> 2."""
    return math.log(seconds[-1] / seconds[0]) / math.log(sizes[-1] / sizes[0])


@torch.no_grad()
def measure(options: argparse.Namespace) -> dict[str, Any]:
    if options.threads:
        torch.set_num_threads(options.threads)
    model = UpFusion.load(options.weights, device=options.device)
    on_gpu = torch.device(options.device).type == "cuda"
    rows = []
    for growth in growths(model):
        times = [median_times(growth.make(size), options.repeats, options.device) for size in growth.sizes]
        seconds = [taken.wall if on_gpu else taken.processor for taken in times]
        found = power(growth.sizes, seconds)
        rows.append(
            {
                "work": growth.name,
                "against": growth.against,
                "sizes": list(growth.sizes),
                "seconds": seconds,
                "power": found,
                "expected": growth.expected,
                "kept": found <= growth.expected + TOLERANCE,
            }
        )
        print_row(rows[-1])
    return {**machine(options.device), "weights": options.weights, "repeats": options.repeats, "rows": rows}


def print_row(row: dict[str, Any]) -> None:
    times = "  ".join(f"{size}: {taken:.3f}" for size, taken in zip(row["sizes"], row["seconds"], strict=True))
    verdict = "" if row["kept"] else "  MORE THAN EXPECTED"
    print(
        f"{row['work']:26}{row['against']:12}{row['power']:6.2f} (at most {row['expected']:.0f}){verdict}   {times}",
        flush=True,
    )


def plot(result: dict[str, Any], path: Path) -> None:
    """Time against size, one panel a row, with the expected power through the first point."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = result["rows"]
    figure, axes = pyplot.subplots(2, -(-len(rows) // 2), figsize=(14, 6), squeeze=False)
    for panel, row in zip(axes.flat, rows, strict=False):
        sizes, seconds = row["sizes"], row["seconds"]
        line = [seconds[0] * (size / sizes[0]) ** row["expected"] for size in sizes]
        panel.loglog(sizes, line, "--", color="gray", label=f"power {row['expected']:.0f}")
        panel.loglog(sizes, seconds, "o-", label=f"measured, {row['power']:.2f}")
        panel.set(title=row["work"], xlabel=row["against"], ylabel="seconds")
        panel.set_xticks(sizes, [str(size) for size in sizes])
        panel.set_xticks([], minor=True)
        panel.legend(fontsize=8)
    for panel in axes.flat[len(rows) :]:
        panel.set_axis_off()
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def parsed(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="mini")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="torch's own number unless given")
    parser.add_argument("--out", type=Path, help="where to write the result as JSON")
    parser.add_argument("--plot", type=Path, help="where to write the plot as PNG; needs matplotlib")
    return parser.parse_args(words)


def main() -> None:
    options = parsed()
    result = measure(options)
    write_json(options.out, result)
    if options.plot:
        plot(result, options.plot)


if __name__ == "__main__":
    main()
