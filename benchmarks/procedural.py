"""Procedural objects: how fast they are made, and how they look beside scans.

    python benchmarks/procedural.py [--device cpu] [--threads 2] [--objects 256] [--seconds 5] [--out results.json]
    python benchmarks/procedural.py --scans FOLDER [-o sheet.png] [--objects 256] [--out results.json]

The first line measures objects drawn a second and views rendered a second, by the generator's version, size and
samples. Drawing always happens on one thread of the CPU, in batches of 64 and 1024. Rendering takes objects of the
training split that were drawn before (`ProceduralObjects.look`), two new views of each, one of them a photo: once all
of the split's, once only those without smooth unions and tori, which are hit in closed form. Each figure is the best of
the rounds that fit into --seconds, so that a busy machine disturbs it less; the median stands beside it.

The second compares silhouettes and colours of both versions, clean views of the validation split, with those of a
folder of scans or any other data set: 10, 50 and 90 % of the views lie below the figures. Elongation is the ratio of
the principal standard deviations of a mask; luminance and saturation are means over an object's pixels, contrast the
standard deviation of their luminance. -o draws 60 objects of version 2: 24 as photo 1 shows them, 36 in clean views.
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
from PIL import Image
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parent))

from measuring import write_json

from upfusion_core.data import open_dataset
from upfusion_core.procedural import VERSIONS, Objects, ProceduralObjects, draw_objects
from upfusion_core.procedural.shapes import BLEND, TORUS

VIEWS = 2
LOOKED_AT = 64  # pixels a side of the views whose silhouettes and colours are compared


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


def measures(rgb: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """(N, 3, S, S) pictures on white and (N, 1, S, S) masks -> (N,) of each measure; a view shows a whole pixel."""
    whole = mask.flatten(1).amax(1) > 0.95
    rgb, mask = rgb[whole], mask[whole, 0].double()
    weight = mask / mask.sum((1, 2), keepdim=True)
    axis = torch.arange(mask.shape[-1], dtype=torch.float64)
    x, y = (axis - (weight * axis).sum((1, 2))[:, None])[:, None], axis[:, None]
    y = y - (weight * y).sum((1, 2), keepdim=True)
    xx, yy, xy = ((weight * product).sum((1, 2)) for product in (x * x, y * y, x * y))
    half, gap = (xx + yy) / 2, ((xx - yy).square() / 4 + xy.square()).sqrt()
    inside = (mask > 0.95).double()
    inside = inside / inside.sum((1, 2), keepdim=True)
    luminance = (rgb.double() * torch.tensor([0.2126, 0.7152, 0.0722])[:, None, None]).sum(1)
    mean = (inside * luminance).sum((1, 2))
    most, least = rgb.double().amax(1), rgb.double().amin(1)
    return {
        "share of the picture": mask.mean((1, 2)),
        "elongation": ((half + gap) / (half - gap).clamp_min(1 / 12)).sqrt(),  # no view is thinner than a pixel
        "luminance": mean,
        "saturation": (inside * (most - least) / most.clamp_min(1e-6)).sum((1, 2)),
        "contrast": (inside * (luminance - mean[:, None, None]).square()).sum((1, 2)).sqrt(),
    }


def compared(scans: Path | None, objects: int) -> dict[str, dict[str, list[float]]]:
    """Percentiles of each measure of both versions, and of the scans."""
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for version in VERSIONS:
        data = ProceduralObjects("validation", version=version)
        batches = (data.batch(range(first, min(first + 64, objects)), views=6, size=LOOKED_AT)
                   for first in range(0, objects, 64))  # fmt: skip
        seen[f"version {version}"] = [(batch.rgb.flatten(0, 1), batch.mask.flatten(0, 1)) for batch in batches]
    if scans is not None:
        examples = open_dataset(scans, size=LOOKED_AT)
        seen["scans"] = [(example.rgb, example.mask) for example in (examples[i] for i in range(len(examples)))]
    points = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    found = {name: measures(*map(torch.cat, zip(*parts, strict=True))) for name, parts in seen.items()}
    return {name: {measure: torch.quantile(values, points).tolist() for measure, values in rows.items()}
            for name, rows in found.items()}  # fmt: skip


def draw_sheet(path: Path, size: int = 128, columns: int = 12) -> None:
    """60 objects of version 2, each another: 24 as photo 1 shows them, 36 in clean views."""
    data = ProceduralObjects("validation", size=size, version=2)
    pictures = torch.cat([data.batch(range(24), views=1, photos=[0]).rgb, data.batch(range(24, 60), views=1).rgb])
    rows = [torch.cat(list(row[:, 0]), dim=2) for row in pictures.split(columns)]
    sheet = (torch.cat(rows, dim=1).permute(1, 2, 0) * 255).round().byte()
    Image.fromarray(sheet.numpy()).save(path)


def show_comparison(found: dict[str, dict[str, list[float]]]) -> None:
    for measure in next(iter(found.values())):
        print(f"{measure}, 10/50/90 %")
        for name, rows in found.items():
            shown = " ".join(f"{value:7.3f}" for value in rows[measure])
            beside = zip(rows[measure], found["scans"][measure], strict=True) if "scans" in found else ()
            off = " ".join(f"{100 * (value / scan - 1):+5.0f} %" for value, scan in beside)
            print(f"  {name:10} {shown}   {off if name != 'scans' else ''}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--objects", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--scans", type=Path, help="compare both versions with the objects of this folder")
    parser.add_argument("-o", "--sheet", type=Path, help="draw objects of version 2 into this PNG")
    options = parser.parse_args()
    if options.scans is not None or options.sheet is not None:
        torch.set_num_threads(options.threads)
        compare = compared(options.scans, options.objects)
        show_comparison(compare)
        write_json(options.out, compare)
        if options.sheet is not None:
            draw_sheet(options.sheet)
        return
    results: dict[str, object] = {"device": options.device, "threads": options.threads, "torch": torch.__version__}
    torch.set_num_threads(1)
    for version, count in itertools.product(VERSIONS, (64, 1024)):
        draw = partial(draw_objects, "train", range(count), version=version)
        rate = rates(draw, count, options.seconds, "cpu")
        results[f"objects/s drawn, version {version}, {count} at once"] = rate
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    for version in VERSIONS:
        data = ProceduralObjects("train", version=version)
        every = data.objects(range(options.objects))
        for kind, objects in (("all", every), ("closed form", closed_form(every))):
            pool = objects.to(options.device)
            for size, samples in itertools.product((32, 64), (1, 2)):
                look = partial(data.look, pool, views=VIEWS, size=size, generator=generator, supersampling=samples)
                rate = rates(partial(look, photos=[0]), VIEWS * len(pool), options.seconds, options.device)
                results[f"views/s, version {version}, {kind}, {size} px, {samples}x{samples} samples"] = rate
    width = max(map(len, results))
    for name, value in results.items():
        shown = f"{value['best']:10.0f}  (median {value['median']:.0f})" if isinstance(value, dict) else f"{value:>10}"
        print(f"{name:{width}}  {shown}")
    write_json(options.out, results)


if __name__ == "__main__":
    main()
