"""`upfusion convert` and `upfusion info`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models.checkpoint import CheckpointInfo, describe, weights_path
from ..models.convert import convert
from ..support.files import check_target
from .console import answer, duration, progress
from .run import RECORD_NAME, locked, recorded, refuse_existing


def run_convert(source: str, destination: Path, *, dtype: str | None, force: bool) -> None:
    """Folder <-> merged file; the record is run.json in a new folder, and stands beside a merged file."""
    merged = destination.suffix == ".safetensors"
    record_path = destination.with_name(destination.name + ".run.json") if merged else destination / RECORD_NAME
    check_target(record_path)
    with locked(destination.parent, destination.name):
        _convert(source, destination, record_path, dtype=dtype, force=force)


def _convert(source: str, destination: Path, record_path: Path, *, dtype: str | None, force: bool) -> None:
    origin = weights_path(source)
    targets = (path for path in (destination, record_path) if not _is_empty_folder(path))
    refuse_existing(*targets, source=origin, force=force)
    sources = {"weights": str(origin.absolute())}
    with (
        recorded(record_path, "convert", {"dtype": dtype}, sources) as record,
        progress(f"Converting {origin.name}") as advance,
    ):

        def on_step(step: int, total: int, preview: Callable[[], Tensor] | None) -> None:
            advance(step / total)

        files = convert(origin, destination, dtype=getattr(torch, dtype) if dtype else None, on_step=on_step)
        record.files = [str(path) for path in files]
    seconds = sum(record.timings_seconds.values())
    size = sum(path.stat().st_size for path in files)
    answer(f"Wrote {destination} ({_bytes(size)}) in {duration(seconds)}; record in {record_path}")


def run_info(weights: str, output: Path | None, *, force: bool) -> None:
    """Prints what a checkpoint holds, and writes the record with it if asked to."""
    if output is not None:
        check_target(output)
        refuse_existing(output, source=weights_path(weights), force=force)
    content = describe(weights)
    if output is not None:
        with recorded(output, "info", {}, {"weights": str(weights_path(weights).absolute())}) as record:
            record.note(checkpoint=asdict(content))
    for line in _lines(content):
        answer(line)
    if output is not None:
        answer(f"Wrote {output}")


def _lines(content: CheckpointInfo) -> list[str]:
    size = content.config.image_size
    lines = [f"{content.path}: {content.layout}, pictures of {size} x {size} pixels"]
    width = max(len(name) for name in content.parts)
    for name, part in content.parts.items():
        lines.append(
            f"  {name:{width}}  {part.tensors:5d} tensors  {part.parameters / 1e6:9.2f} M parameters  "
            f"{_bytes(part.bytes):>9}  {', '.join(part.dtypes)}"
        )
    facts = [f"  {name.replace('_', ' ')}: {_fact(value)}" for name, value in content.facts.items()]
    return [*lines, f"  text: {content.text}", *facts]


def _fact(value: Any) -> str:  # noqa: ANN401 - any JSON
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _bytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"
