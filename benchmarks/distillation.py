"""Whole distillations: time, network evaluations and peak memory of each preset, from photos to a mesh.

    python benchmarks/distillation.py [--weights mini] [--presets draft fast reference] [--photos 3] [--object 0]
                                      [--iterations N] [--texture 1024] [--device cpu] [--dtype float32] [--threads 1]
                                      [--glb FOLDER] [--out results.json]

Each preset runs in a process of its own: RssAnon, the memory without what is mapped from files, is read every few
milliseconds, and on a GPU torch's own peak beside it. The photos are of a procedural object. An evaluation is one pass
of the UNet over one view; guidance takes two a step. The mesh has 256 samples along the object's longest side and a
texture; with --glb it is written. `total` is from the photos to the file, without loading the weights.

--iterations shortens the reference, which takes hours on a CPU, to so many iterations spread over its schedule; its
time is then extrapolated from theirs, its evaluations are counted in its plan, and the table says so.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parent))

from measuring import Peak, alone, machine, procedural_photos, timed, write_json

from upfusion_core import DistillConfig, UpFusion
from upfusion_core.config import PRESETS, ReferenceSchedule
from upfusion_core.models.checkpoint import recommended_guidance

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
RESOLUTION = 256


@dataclass(frozen=True)
class Case:
    """One preset on one object. iterations: of the reference, None for all."""

    weights: str
    preset: str
    number: int
    photos: int
    iterations: int | None
    texture: int
    device: str
    dtype: str
    threads: int
    glb: Path | None


class EvaluationCounter:
    """Counts passes of the UNet over single views, e.g. 8 for a guided step of 4 cameras."""

    def __init__(self, model: UpFusion) -> None:
        self.count = 0
        model.unet.register_forward_pre_hook(self._note)

    def _note(self, _: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        self.count += len(inputs[0])


def configured(case: Case) -> DistillConfig:
    config = DistillConfig.named(case.preset, guidance=recommended_guidance(case.weights))
    if case.preset != "reference" or case.iterations is None:
        return config
    schedule: ReferenceSchedule = config.schedule
    share = case.iterations / schedule.iterations
    shortened = replace(schedule, iterations=case.iterations, bootstrap=round(schedule.bootstrap * share))
    return replace(config, schedule=shortened)


def reference_evaluations(schedule: ReferenceSchedule) -> float:
    """Expected passes of the UNet: the mean index of each iteration, under guidance.

    Example: the release's schedule takes 300 · 26.5 + 2700 · 14.5 = 47,100 steps, 94,200 passes.
    """
    first = schedule.bootstrap * (schedule.bootstrap_index + schedule.highest_index) / 2
    rest = (schedule.iterations - schedule.bootstrap) * (schedule.lowest_index + schedule.highest_index) / 2
    return 2 * (first + rest)


def run(case: Case, pipe: Any) -> None:  # noqa: ANN401 - multiprocessing's connection
    torch.set_num_threads(case.threads)
    warnings.simplefilter("ignore")  # of weights without a text encoder
    device = torch.device(case.device)
    photos = procedural_photos(case.number, case.photos)
    model = UpFusion.load(case.weights, device=device, dtype=DTYPES[case.dtype])
    counter = EvaluationCounter(model)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with Peak() as peak:
        started = time.perf_counter()
        scene = model.encode(photos)
        generator = torch.Generator().manual_seed(case.number)
        field, distilling = timed(lambda: model.distill(scene, configured(case), generator=generator), device)
        evaluations = counter.count
        mesh, meshing = timed(lambda: field.extract_mesh(RESOLUTION, texture_size=case.texture), device)
        if case.glb:
            mesh.save(case.glb / f"{case.preset}-{case.number}.glb")
        total = time.perf_counter() - started
    scale = 1.0
    if case.preset == "reference" and case.iterations is not None:
        whole = reference_evaluations(ReferenceSchedule())
        scale, evaluations = whole / max(evaluations, 1), round(whole)
    pipe.send(
        {
            "preset": case.preset,
            "extrapolated_from_iterations": case.iterations if scale != 1 else None,
            "evaluations": evaluations,
            "distil_seconds": distilling.wall * scale,
            "distil_processor_seconds": distilling.processor * scale,
            "mesh_seconds": meshing.wall,
            "mesh_processor_seconds": meshing.processor,
            "total_seconds": total + distilling.wall * (scale - 1),
            "faces": len(mesh.faces),
            "before_megabytes": peak.before / 1e6,
            "peak_megabytes": peak.most / 1e6,
            "gpu_peak_megabytes": torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else None,
        }
    )


def print_table(result: dict[str, Any]) -> None:
    print(
        f"{result['device']}, {result['threads']} threads, torch {result['torch']}; {result['photos']} photos, "
        f"{result['weights']}, {result['dtype']}"
    )
    print(
        f"{'preset':12}{'evaluations':>12}{'distil s':>10}{'processor':>11}{'mesh s':>8}{'total s':>9}"
        f"{'peak MB (before)':>18}{'GPU MB':>8}"
    )
    for row in result["presets"]:
        shortened = row["extrapolated_from_iterations"]
        memory = f"{row['peak_megabytes']:.0f} ({row['before_megabytes']:.0f})"
        gpu = "-" if row["gpu_peak_megabytes"] is None else f"{row['gpu_peak_megabytes']:.0f}"
        print(
            f"{row['preset']:12}{row['evaluations']:12d}{row['distil_seconds']:10.1f}"
            f"{row['distil_processor_seconds']:11.1f}{row['mesh_seconds']:8.1f}{row['total_seconds']:9.1f}"
            f"{memory:>18}{gpu:>8}{f'  extrapolated from {shortened} iterations' if shortened else ''}"
        )


def parsed(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="mini")
    parser.add_argument(
        "--presets", nargs="+", choices=PRESETS, default=[name for name in PRESETS if name != "reference"]
    )
    parser.add_argument("--photos", type=int, default=3)
    parser.add_argument("--object", type=int, default=0)
    parser.add_argument("--iterations", type=int, help="of the reference, the rest extrapolated")
    parser.add_argument("--texture", type=int, default=1024)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--glb", type=Path, help="folder for the meshes")
    parser.add_argument("--out", type=Path, help="where to write the result as JSON")
    return parser.parse_args(words)


def main() -> None:
    options = parsed()
    if options.glb:
        options.glb.mkdir(parents=True, exist_ok=True)
    common = {"weights": options.weights, "number": options.object, "photos": options.photos}
    common |= {"texture": options.texture, "device": options.device, "dtype": options.dtype}
    common |= {"iterations": options.iterations, "threads": options.threads, "glb": options.glb}
    found = [alone(run, Case(preset=preset, **common)) for preset in options.presets]
    result = machine(options.device) | {name: common[name] for name in ("weights", "photos", "dtype", "threads")}
    result["presets"] = found
    print_table(result)
    write_json(options.out, result)


if __name__ == "__main__":
    main()
