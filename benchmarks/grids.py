"""Samples per second of the field's grid: torch, Triton and tinycudann, forward and forward with backward.

    python benchmarks/grids.py [--device cuda] [--backends torch,triton,tinycudann] [--points 18,19,20,21,22]
                               [--indexing tiled,hashed] [--repeats 10] [--positions] [--out results.json]

Points are uniform in the box, the grid has the release's sizes (16 levels, 2 features, 16 to 2048 cells, 65536 rows),
float32. Backward goes to the table, as in fitting, and with --positions to the points too. Given is the median of the
repeats; backends take turns, so that a busy machine slows all alike. --points are exponents of 2; on a CPU 14 and 16
are taken unless told otherwise. A backend that is not installed, or cannot express the grid, is listed with the reason.
Before anything is timed, values and gradients are compared with those of torch at 4096 points.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parent))

from measuring import machine, timed, write_json

from upfusion_core.config import GridConfig
from upfusion_core.field.backends import choose_backend, grid_encoder
from upfusion_core.support.errors import UpFusionError

WARMUPS = 2
COMPARED = 4096


def inputs(config: GridConfig, count: int, device: torch.device, positions: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Points, table and a gradient of the result, drawn on the CPU so that they are the same everywhere."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(count, 3, generator=generator).to(device).requires_grad_(positions)
    table = torch.randn(sum(config.rows), config.features, generator=generator).to(device).requires_grad_()
    upstream = torch.randn(count, config.width, generator=generator).to(device)
    return points, table, upstream


def passes(
    name: str, config: GridConfig, points: Tensor, table: Tensor, upstream: Tensor
) -> dict[str, Callable[[], Any]]:
    """What is timed, by name."""
    encode = grid_encoder(name)
    wanted = [value for value in (table, points) if value.requires_grad]

    @torch.no_grad()
    def forward() -> Tensor:
        return encode(points, table, config)

    def both() -> tuple[Tensor, ...]:
        return torch.autograd.grad(encode(points, table, config), wanted, upstream)

    return {"forward": forward, "forward+backward": both}


def differences(name: str, config: GridConfig, device: torch.device, positions: bool) -> dict[str, float]:
    """Largest errors against torch, relative to the largest value."""
    given = inputs(config, COMPARED, device, positions)
    found, wanted = ([work() for work in passes(each, config, *given).values()] for each in (name, "torch"))
    pairs = {"values": (found[0], wanted[0]), "table": (found[1][0], wanted[1][0])}
    if positions:
        pairs["positions"] = (found[1][1], wanted[1][1])
    return {key: float((ours - theirs).abs().max() / theirs.abs().max()) for key, (ours, theirs) in pairs.items()}


def usable(name: str, config: GridConfig, device: torch.device, positions: bool) -> tuple[dict[str, float] | None, str]:
    """Errors of the backend, or None and why it cannot be measured."""
    try:
        choose_backend(name, device)
        return differences(name, config, device, positions), ""
    except UpFusionError as error:
        return None, str(error)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    device = torch.device(arguments.device)
    records, missing, errors = [], [], []
    for indexing in arguments.indexing:
        config = GridConfig(indexing=indexing)
        names = []
        for name in arguments.backends:
            found, reason = usable(name, config, device, arguments.positions)
            if found is None:
                missing.append({"backend": name, "indexing": indexing, "reason": reason})
            else:
                names.append(name)
                errors.append({"backend": name, "indexing": indexing, **found})
        for exponent in arguments.points:
            given = inputs(config, 2**exponent, device, arguments.positions)
            records += paces(names, config, given, arguments.repeats, device)
    return machine(device) | {
        "repeats": arguments.repeats,
        "backward_to_positions": arguments.positions,
        "auto": str(choose_backend("auto", device)),
        "missing": missing,
        "errors_relative_to_torch": errors,
        "times": records,
    }


def paces(
    names: list[str], config: GridConfig, given: tuple[Tensor, ...], repeats: int, device: torch.device
) -> list[dict[str, Any]]:
    """A record for each backend and pass: median seconds, samples a second, and how many times torch's pace that is."""
    works = {(name, part): work for name in names for part, work in passes(name, config, *given).items()}
    times: dict[tuple[str, str], list[float]] = {key: [] for key in works}
    for turn in range(WARMUPS + repeats):
        for key, work in works.items():
            taken = timed(work, device)[1]
            if turn >= WARMUPS:
                times[key].append(taken.wall)
    medians = {key: median(values) for key, values in times.items()}
    count = len(given[0])
    return [
        {
            "indexing": config.indexing,
            "points": count,
            "pass": part,
            "backend": name,
            "seconds": taken,
            "samples_a_second": count / taken,
            "times_torch": medians["torch", part] / taken if ("torch", part) in medians else None,
        }
        for (name, part), taken in medians.items()
    ]


def print_table(result: dict[str, Any]) -> None:
    print(f"{result['device']}, {result['threads']} threads, torch {result['torch']}; auto takes {result['auto']}")
    for entry in result["missing"]:
        print(f"not measured: {entry['backend']}, {entry['indexing']}: {entry['reason']}")
    for entry in result["errors_relative_to_torch"]:
        found = ", ".join(f"{key} {value:.1e}" for key, value in entry.items() if isinstance(value, float))
        print(f"largest errors of {entry['backend']}, {entry['indexing']}: {found}")
    print(f"{'grid':8}{'points':>10}  {'pass':18}{'backend':12}{'ms':>10}{'M samples/s':>13}{'x torch':>9}")
    for row in result["times"]:
        ratio = f"{row['times_torch']:9.2f}" if row["times_torch"] else ""
        print(
            f"{row['indexing']:8}{row['points']:10}  {row['pass']:18}{row['backend']:12}"
            f"{row['seconds'] * 1e3:10.2f}{row['samples_a_second'] / 1e6:13.2f}{ratio}"
        )


def words(text: str) -> list[str]:
    return text.split(",")


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def parsed(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--backends", type=words, default=["torch", "triton", "tinycudann"])
    parser.add_argument("--points", type=numbers, help="exponents of 2, e.g. 18,20,22")
    parser.add_argument("--indexing", type=words, default=["tiled", "hashed"])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--positions", action="store_true", help="backward to the points too")
    parser.add_argument("--out", type=Path, help="where to write the result as JSON")
    arguments = parser.parse_args(given)
    if arguments.points is None:
        arguments.points = [14, 16] if arguments.device == "cpu" else [18, 19, 20, 21, 22]
    return arguments


def main() -> None:
    arguments = parsed()
    result = measure(arguments)
    print_table(result)
    write_json(arguments.out, result)


if __name__ == "__main__":
    main()
