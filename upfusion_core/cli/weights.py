"""`upfusion convert` and `upfusion info`."""

from __future__ import annotations

import json
from dataclasses import asdict

import torch

from ..config.options import Convert, Info
from ..models.checkpoint import describe, weights_path
from ..models.convert import convert
from ..support.files import check_target
from .console import answer, duration, progress
from .run import RECORD_NAME, locked, recorded_files, refuse_existing


def run_convert(command: Convert, given: frozenset[str]) -> None:
    """Folder <-> merged file; the record is run.json in a new folder, and stands beside a merged file."""
    destination = command.destination
    merged = destination.suffix == ".safetensors"
    record_path = destination.with_name(destination.name + ".run.json") if merged else destination / RECORD_NAME
    check_target(record_path)
    with locked(destination.parent, destination.name):
        origin = weights_path(command.source)
        targets = [path for path in (destination, record_path) if not path.is_dir() or any(path.iterdir())]
        refuse_existing(*targets, source=origin, force=command.force)
        sources = {"weights": str(origin.absolute())}
        with recorded_files(record_path, "convert", {"dtype": command.dtype}, sources) as record:
            dtype = getattr(torch, command.dtype) if command.dtype else None
            with progress(f"Converting {origin.name}") as on_step:
                files = convert(origin, destination, dtype=dtype, on_step=on_step)
            record.files = [str(path) for path in files]
    took, size = duration(sum(record.timings_seconds.values())), sum(path.stat().st_size for path in files)
    answer(f"Wrote {destination} ({_bytes(size)}) in {took}; record in {record_path}")


def run_info(command: Info, given: frozenset[str]) -> None:
    """Prints what a checkpoint holds, and writes the record with it if asked to."""
    weights, output = command.weights, command.output
    if output is not None:
        check_target(output)
        refuse_existing(output, source=weights_path(weights), force=command.force)
    content = describe(weights)
    if output is not None:
        with recorded_files(output, "info", {}, {"weights": str(weights_path(weights).absolute())}) as record:
            record.note(checkpoint=asdict(content))
    size, width = content.config.image_size, max(len(name) for name in content.parts)
    answer(f"{content.path}: {content.layout}, pictures of {size} x {size} pixels")
    for name, part in content.parts.items():
        answer(
            f"  {name:{width}}  {part.tensors:5d} tensors  {part.parameters / 1e6:9.2f} M parameters  "
            f"{_bytes(part.bytes):>9}  {', '.join(part.dtypes)}"
        )
    answer(f"  text: {content.text}")
    for name, value in content.facts.items():
        fact = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        answer(f"  {name.replace('_', ' ')}: {fact}")
    if output is not None:
        answer(f"Wrote {output}")


def _bytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"
