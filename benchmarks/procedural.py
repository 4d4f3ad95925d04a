"""Speed of procedural objects: objects drawn a second, views rendered a second, by size and samples.

    python benchmarks/procedural.py [--device cpu] [--threads 2] [--objects 256] [--seconds 5] [--out results.json]

Drawing always happens on one thread of the CPU, in batches of 64 and 1024. Rendering takes objects of the training
split that were drawn before (`ProceduralObjects.look`), two new views of each: once all of the split's, once only those
without smooth unions and tori, which are hit in closed form. Each figure is the best of the rounds that fit into
--seconds, so that a busy machine disturbs it less; the median stands beside it.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parent))

from measuring import write_json

from upfusion_core.procedural import Objects, ProceduralObjects, draw_objects
from upfusion_core.procedural.shapes import BLEND, TORUS

VIEWS = 2


def rates(work: Callable[[], object], amount: int, seconds: float, device: str) -> dict[str, float]:
    """Best and median of amount / time over repeated calls, the first of which does not count."""
    work()
    found, end = [], time.perf_counter() + seconds
    while not found or time.perf_counter() < end:
        started = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        found.append(amount / (time.perf_counter() - started))
    return {"best": max(found), "median": statistics.median(found)}


def closed_form(objects: Objects) -> Objects:
    stepped = objects.present & ((objects.joint == BLEND) | (objects.first.kind == TORUS))
    return objects[~stepped.any(1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--objects", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results: dict[str, object] = {"device": options.device, "threads": options.threads, "torch": torch.__version__}
    torch.set_num_threads(1)
    for count in (64, 1024):
        rate = rates(lambda count=count: draw_objects("train", range(count)), count, options.seconds, "cpu")
        results[f"objects/s drawn, {count} at once"] = rate
    torch.set_num_threads(options.threads)
    data = ProceduralObjects("train")
    every = data.objects(range(options.objects))
    generator = torch.Generator().manual_seed(0)
    for kind, objects in (("all", every), ("closed form", closed_form(every))):
        pool = objects.to(options.device)
        for size, samples in itertools.product((32, 64), (1, 2)):
            work = partial(data.look, pool, views=VIEWS, size=size, generator=generator, supersampling=samples)
            rate = rates(work, VIEWS * len(pool), options.seconds, options.device)
            results[f"views/s, {kind}, {size} px, {samples}x{samples} samples"] = rate
    width = max(map(len, results))
    for name, value in results.items():
        shown = f"{value['best']:10.0f}  (median {value['median']:.0f})" if isinstance(value, dict) else f"{value:>10}"
        print(f"{name:{width}}  {shown}")
    write_json(options.out, results)


if __name__ == "__main__":
    main()
