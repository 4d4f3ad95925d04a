"""Meshes from a field: time and peak memory against resolution, and against the size of the texture.

    python benchmarks/meshing.py [--field FIELD.safetensors] [--resolutions 128 256 512] [--textures 1024]
                                 [--faces 50000] [--threads 2] [--device cpu] [--out results.json]

Each case runs in a process of its own, so that its peak is its own: the anonymous memory (RssAnon, without what is
mapped from files) is read every few milliseconds, and given beside what the process held before the extraction. Time
is of the wall clock and of the processor, the latter undisturbed by other programs. Without --field the field is a
formula, a knobbly body of about the size of an object; it costs less a point than a learned field, and the memory is
the same.
Meshes with textures are reduced to --faces first if the optional package is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parent))

from measuring import Peak, alone, write_json

from upfusion_core.field.radiance import load_field
from upfusion_core.surface.extract import extract_mesh


class Formula:
    """A ball with knobs of growing fineness and a coloured pattern."""

    def __init__(self, device: str) -> None:
        self.aabb = torch.tensor([[-0.3] * 3, [0.3] * 3], device=device)

    def density(self, points: Tensor) -> Tensor:
        knobs = 0.01 * torch.sin(points * 40).prod(-1) + 0.004 * torch.sin(points * 110).prod(-1)
        return 400 * torch.sigmoid((0.2 + knobs - points.norm(dim=-1)) / 0.003)

    def color(self, points: Tensor) -> Tensor:
        return 0.5 + 0.4 * torch.sin(points * 60)


def measure(case: dict[str, Any], pipe: Any) -> None:  # noqa: ANN401 - multiprocessing's connection
    torch.set_num_threads(case["threads"])
    device = case["device"]
    field = load_field(case["field"], device=device).field if case["field"] else Formula(device)
    stages: dict[int, float] = {}
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    with Peak() as peak:
        started, worked = time.perf_counter(), time.process_time()

        def on_step(step: int, total: int, preview: Callable[[], Tensor] | None) -> None:
            stages[step] = round(time.process_time() - worked, 2)

        options = {"texture_size": case["texture"], "faces": case["faces"], "on_step": on_step}
        mesh = extract_mesh(field, case["resolution"], **options)
        wall, processor = time.perf_counter() - started, time.process_time() - worked
    pipe.send(
        {
            "resolution": case["resolution"],
            "texture": case["texture"],
            "faces": len(mesh.faces),
            "seconds": round(wall, 2),
            "processor_seconds": round(processor, 2),
            "before_mb": round(peak.before / 1e6),
            "peak_mb": round(peak.most / 1e6),
            "gpu_peak_mb": round(torch.cuda.max_memory_allocated() / 1e6) if device.startswith("cuda") else 0,
            "processor_seconds_at_step": stages,
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--field", type=Path)
    parser.add_argument("--resolutions", type=int, nargs="*", default=[128, 256, 512])
    parser.add_argument("--textures", type=int, nargs="*", default=[1024, 2048, 4096])
    parser.add_argument("--texture-resolution", type=int, default=128)
    parser.add_argument("--faces", type=int, default=50_000)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    reducing = importlib.util.find_spec("fast_simplification") is not None
    common = {"field": options.field, "threads": options.threads, "device": options.device}
    cases = [{"resolution": size, "texture": None, "faces": None} for size in options.resolutions]
    cases += [
        {"resolution": options.texture_resolution, "texture": size, "faces": options.faces if reducing else None}
        for size in options.textures
    ]
    print("resolution  texture    faces  seconds  processor  peak MB (before)", flush=True)
    found = []
    for case in cases:
        result = alone(measure, common | case)
        found.append(result)
        print(
            f"{result['resolution']:10d}  {result['texture'] or '-':>7}  {result['faces']:7d}  {result['seconds']:7.1f}"
            f"  {result['processor_seconds']:9.1f}  {result['peak_mb']:7d} ({result['before_mb']})",
            flush=True,
        )
        record = {"torch": torch.__version__, "threads": options.threads, "device": options.device}
        record |= {"field": str(options.field) if options.field else "formula", "cases": found}
        write_json(options.out, record)


if __name__ == "__main__":
    main()
