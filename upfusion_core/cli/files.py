"""`upfusion mesh`, `upfusion convert` and `upfusion info`: files, with a record beside them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from ..config.options import Convert, Info, Mesh, Surface
from ..field.radiance import RadianceField, load_field
from ..models.checkpoint import describe, weights_path
from ..models.convert import convert
from ..support.devices import existing_device
from ..support.errors import OutputError
from ..support.files import check_target, write_json
from ..surface.extract import require_packages
from ..surface.mesh import MeshAsset, mesh_names, save_mesh
from .console import answer, duration, progress
from .inputs import recorded
from .run import RECORD_NAME, Record, locked, new_record


def run_mesh(command: Mesh, given: frozenset[str]) -> None:
    output, surface = command.output, command.surface
    check_target(output)
    record_path = output.with_name(output.name + ".run.json")
    targets = [*map(output.with_name, mesh_names(output.name, textured=surface.texture_size > 0)), record_path]
    for path in targets:
        check_target(path)
    with locked(output.parent, output.name):
        _refuse_existing(targets, command.field, force=command.force)
        require_packages(texture=surface.texture_size > 0, faces=surface.faces is not None)
        begun = new_record("mesh", recorded(command, "settings"), recorded(command, "sources"), {})
        with _recorded(record_path, begun) as record:
            mesh = extracted(load_field(command.field, device=existing_device(command.device)).field, surface)
            record.files = [str(path) for path in save_mesh(mesh, output)]
            record.note(mesh={"vertices": len(mesh.vertices), "faces": len(mesh.faces)})
    answer(f"Wrote {output} ({len(mesh.faces)} faces) in {duration(record.seconds)}; record in {record_path}")


def extracted(field: RadianceField, surface: Surface) -> MeshAsset:
    """The mesh of a field."""
    with progress("Extracting the mesh") as on_step:
        size = surface.texture_size or None
        return field.extract_mesh(
            surface.resolution, surface.threshold, texture_size=size, faces=surface.faces, on_step=on_step
        )


def run_convert(command: Convert, given: frozenset[str]) -> None:
    """Folder <-> merged file; the record is run.json in a new folder, and stands beside a merged file."""
    destination, origin = command.destination, weights_path(command.source)
    merged = destination.suffix == ".safetensors"
    record_path = destination.with_name(destination.name + ".run.json") if merged else destination / RECORD_NAME
    check_target(record_path)
    with locked(destination.parent, destination.name):
        targets = [path for path in (destination, record_path) if not path.is_dir() or any(path.iterdir())]
        _refuse_existing(targets, origin, force=command.force)
        begun = new_record("convert", recorded(command, "settings"), {"weights": str(origin.absolute())}, {})
        with _recorded(record_path, begun) as record, progress(f"Converting {origin.name}") as on_step:
            dtype = getattr(torch, command.dtype) if command.dtype else None
            files = convert(origin, destination, dtype=dtype, on_step=on_step)
            record.files = [str(path) for path in files]
    size = _bytes(sum(path.stat().st_size for path in files))
    answer(f"Wrote {destination} ({size}) in {duration(record.seconds)}; record in {record_path}")


def run_info(command: Info, given: frozenset[str]) -> None:
    """Prints what a checkpoint holds, and writes the record with it if asked to."""
    weights, output = command.weights, command.output
    if output is not None:
        check_target(output)
        _refuse_existing([output], weights_path(weights), force=command.force)
    content = describe(weights)
    if output is not None:
        with _recorded(
            output, new_record("info", {}, {"weights": str(weights_path(weights).absolute())}, {})
        ) as record:
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


def _refuse_existing(paths: Sequence[Path], source: Path, *, force: bool) -> None:
    """Raises OutputError if something is at one of the paths and is not to be replaced, or is the source itself."""
    for path in filter(os.path.exists, paths):
        if os.path.exists(source) and os.path.samefile(path, source):
            raise OutputError(f"{path} is the source itself; choose another name")
        if not force:
            raise OutputError(f"{path} exists already; choose another name, or --force to replace it")


@contextmanager
def _recorded(path: Path, record: Record) -> Iterator[Record]:
    """Writes the record of a command that makes files and no folder when the block ends, which enters the files."""
    start = time.monotonic()
    yield record
    record.status, record.stages = "finished", [record.command]
    record.timings_seconds = {record.command: round(time.monotonic() - start, 3)}
    write_json(path, record.model_dump())
