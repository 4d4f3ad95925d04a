"""Time of a guided denoising step: ours, and the released code's on the same weights, inputs and machine.

    python benchmarks/guided_step.py WEIGHTS [--photos 6] [--batch 1] [--turns 5] [--device cpu] [--dtype float32]
                                     [--channels-last] [--compile] [--record] [--threads 1] [--profile]
                                     [--out results.json]

WEIGHTS is a folder of weights. The photos are pictures of a procedural object, --batch cameras stand round it. Where
environment variables name its checkouts (see released_code.py), the released networks and sampler take turns with ours
in one process, so that a busy machine slows both alike. Given is the median of --turns, of the wall clock and of the
processor's time, which other programs disturb less. Ours prepares what is constant over the steps once: that time
stands on a line of its own.

Under guidance the release gives its attention no rays; here ours does without them too (`zero_attention_rays`), so that
both predict the same noise: the largest difference is given beside the largest value. Ours computes in --dtype, the
released code in float32, the only precision that its networks are made in.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parent))

import released_code
from measuring import machine, procedural_photos, timed, write_json

from upfusion_core import UpFusion, ViewConditioning, orbit_cameras

GUIDANCE = 9.0
TIMESTEP = 481
WARMUPS = 2
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
AZIMUTH_DEGREES, ELEVATION_DEGREES = 30.0, 22.5

Step = Callable[[], Tensor]


@dataclass(frozen=True, eq=False)
class Inputs:
    """What both predict from: the same conditions, text included, and latents (Q, 4, s, s), on the device."""

    cond: ViewConditioning
    latents: Tensor


def make_inputs(model: UpFusion, photos: int, cameras: int) -> Inputs:
    """Photos of the first test object, encoded by our networks, and noise."""
    scene = model.encode(procedural_photos(0, photos, model.image_size))
    azimuths = [AZIMUTH_DEGREES + 360 * index / cameras for index in range(cameras)]
    cond = model.condition(scene, orbit_cameras(azimuths, ELEVATION_DEGREES), zero_attention_rays=True)
    shape = (cameras, *model.prior.latent_shape)
    return Inputs(cond, torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(model.device))


def quicken(model: UpFusion, options: argparse.Namespace) -> None:
    """What may be switched on for our networks."""
    for network in (model.controlnet, model.unet):
        if options.channels_last:
            network.to(memory_format=torch.channels_last)
        if options.compile:
            network.compile()
    if options.record:
        model.prior.capture_graphs()


def our_step(model: UpFusion, inputs: Inputs) -> Step:
    prepared = model.prepare(inputs.cond, GUIDANCE)
    return lambda: model.predict_noise(inputs.latents, TIMESTEP, prepared, GUIDANCE)


def released_step(weights: Path, inputs: Inputs, device: torch.device) -> Step:
    """The released sampler's step up to its guided noise: both halves in one batch."""
    import reference

    diffusion = reference.build_diffusion(reference.read_weights(weights / "upfusion2d.pt"))
    for network in (diffusion.control_model, diffusion.model.diffusion_model):
        network.requires_grad_(False).to(device)
    cond, count = inputs.cond, len(inputs.latents)
    camera = reference.query_camera(AZIMUTH_DEGREES, ELEVATION_DEGREES, 1.0)

    def half(text: Tensor, scale: float, camera: object) -> dict[str, Any]:
        return {
            "c_crossattn": [text.to(device, torch.float32).expand(count, -1, -1)],
            "hint": cond.hint.to(device) * scale,
            "slt": cond.tokens.to(device, torch.float32).expand(count, -1, -1) * scale,
            "query_cameras": [camera] * count,
        }

    both = half(cond.text, 1.0, camera), half(cond.unconditional_text, 0.0, None)
    timesteps = torch.full((count,), TIMESTEP, device=device)

    def step() -> Tensor:
        return reference.guided(*reference.sampler_noise(diffusion, inputs.latents, timesteps, both).chunk(2))

    return step


def take_turns(steps: dict[str, Step], turns: int, device: torch.device) -> dict[str, Any]:
    """Every step once in each turn; medians of both clocks, each time, and how ours compares."""
    walls: dict[str, list[float]] = {name: [] for name in steps}
    processors: dict[str, list[float]] = {name: [] for name in steps}
    results = {}
    for turn in range(WARMUPS + turns):
        for name, step in steps.items():
            results[name], taken = timed(step, device)
            if turn >= WARMUPS:
                walls[name].append(taken.wall)
                processors[name].append(taken.processor)
    found: dict[str, Any] = {
        name: {
            "seconds": median(walls[name]),
            "processor_seconds": median(processors[name]),
            "seconds_each": walls[name],
            "processor_seconds_each": processors[name],
        }
        for name in steps
    }
    if "released" in steps:
        ours, released = results["ours"].float(), results["released"].float()
        found["ours_over_released"] = found["ours"]["seconds"] / found["released"]["seconds"]
        found["ours_over_released_processor"] = (
            found["ours"]["processor_seconds"] / found["released"]["processor_seconds"]
        )
        found["largest_difference"] = float((ours - released).abs().max() / released.abs().max())
    return found


def profiled(step: Step, name: str) -> None:
    """Prints the operators that the step spends its time in."""
    with torch.profiler.profile(record_shapes=True) as profile:
        step()
    print(f"--- {name}")
    print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=25))
    print(profile.key_averages(group_by_input_shape=True).table(sort_by="self_cpu_time_total", row_limit=45))


@torch.inference_mode()
def measure(options: argparse.Namespace) -> dict[str, Any]:
    device = torch.device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = True
    model = UpFusion.load(options.weights, device=device, dtype=DTYPES[options.dtype])
    inputs = make_inputs(model, options.photos, options.batch)
    quicken(model, options)
    our_step(model, inputs)  # the first call pages weights in
    ours, preparing = timed(lambda: our_step(model, inputs), device)
    steps = {"ours": ours}
    if released_code.available() and not options.ours_only:
        steps = {"released": released_step(options.weights, inputs, device), "ours": ours}
    if options.profile:
        for name, step in steps.items():
            step()
            profiled(step, name)
    result = take_turns(steps, options.turns, device)
    return {
        **machine(device),
        "dtype_of_ours": options.dtype,
        "photos": options.photos,
        "cameras": options.batch,
        "channels_last": options.channels_last,
        "compile": options.compile,
        "record": options.record,
        "turns": options.turns,
        "seconds_to_prepare_constants": preparing.wall,
        "processor_seconds_to_prepare_constants": preparing.processor,
        **result,
    }


def print_table(result: dict[str, Any]) -> None:
    print(
        f"{result['device']}, {result['threads']} threads, torch {result['torch']}; {result['photos']} photos, "
        f"{result['cameras']} cameras, ours in {result['dtype_of_ours']}; median of {result['turns']}"
    )
    print(f"{'step':10}{'seconds':>10}{'processor':>11}")
    for name in ("released", "ours"):
        if name in result:
            print(f"{name:10}{result[name]['seconds']:10.4f}{result[name]['processor_seconds']:11.4f}")
    if "ours_over_released" in result:
        ratios = result["ours_over_released"], result["ours_over_released_processor"]
        print(f"{'ratio':10}{ratios[0]:10.3f}{ratios[1]:11.3f}")
        print(f"largest difference over largest value: {result['largest_difference']:.2e}")
    else:
        print("the released code was not measured: its checkouts are not named, see released_code.py")
    once = result["processor_seconds_to_prepare_constants"]
    print(f"constants of the steps prepared once in {once:.2f} s of the processor")


def parsed(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("--photos", type=int, default=6)
    parser.add_argument("--batch", type=int, default=1, help="cameras at a time")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true", help="torch.compile for our networks")
    parser.add_argument("--record", action="store_true", help="replay our kernels as a CUDA graph")
    parser.add_argument("--threads", type=int, help="torch's own number unless given")
    parser.add_argument("--profile", action="store_true", help="print where the time goes before it is measured")
    parser.add_argument("--ours-only", action="store_true")
    parser.add_argument("--out", type=Path, help="where to write the result as JSON")
    return parser.parse_args(words)


def main() -> None:
    options = parsed()
    result = measure(options)
    print_table(result)
    write_json(options.out, result)


if __name__ == "__main__":
    main()
