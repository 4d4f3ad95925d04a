"""`upfusion mesh`, `upfusion convert` and `upfusion info`: files, with a record beside them."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..config.options import Convert, Export, Info, Mesh, Surface
from ..data.scene_export import PosedPicture, export_scene
from ..field.radiance import RadianceField, load_field
from ..models.checkpoint import open_checkpoint, weights_path
from ..models.convert import convert
from ..pipeline.given_views import given_photos
from ..pipeline.masks import estimate_mask
from ..pipeline.photo_cameras import load_photo_cameras
from ..pipeline.photos import prepare_views
from ..support.devices import existing_device
from ..support.errors import InputError, OutputError
from ..support.files import check_target, made_folder, replacing, write_json
from ..support.images import load_png
from ..surface.mesh import TEXTURED, MeshAsset, Splats, mesh_names
from .console import answer, duration, progress
from .inputs import read_cameras
from .run import RECORD_NAME, Record, locked, new_record, read_record, recorded


def run_mesh(command: Mesh, given: frozenset[str]) -> None:
    output, surface = command.output, command.surface
    size = texture_size(surface, output.suffix[1:].lower())
    if command.splats and output.suffix.lower() != ".ply":
        raise OutputError(f"--splats are written as .ply, got {output.name}; name it so")
    check_target(output)
    record_path = output.with_name(output.name + ".run.json")
    targets = [*map(output.with_name, mesh_names(output.name, textured=size is not None)), record_path]
    for path in targets:
        check_target(path)
    with _writing(output, targets, record_path, command, field=command.field) as record:
        field = load_field(command.field, device=existing_device(command.device)).field
        if command.splats:
            with progress("Laying splats") as on_step:
                splats = Splats.of(field, surface.resolution, on_step)
            with replacing(output) as partial:
                partial.write_bytes(splats.ply())
            record.files, made = [str(output)], f"{len(splats.positions)} splats"
        else:
            mesh = extracted(field, surface, size)
            record.files = [str(path) for path in mesh.save(output, size_mm=surface.size_mm, up=surface.up)]
            record.note(mesh={"vertices": len(mesh.vertices), "faces": len(mesh.faces)})
            made = f"{len(mesh.faces)} faces"
    answer(f"Wrote {output} ({made}) in {duration(record.seconds)}; record in {record_path}")


def texture_size(surface: Surface, *formats: str) -> int | None:
    """Side of the mesh's texture, if one of the formats holds any."""
    return surface.texture_size or None if set(formats) & set(TEXTURED) else None


def extracted(field: RadianceField, surface: Surface, size: int | None) -> MeshAsset:
    with progress("Extracting the mesh") as on_step:
        return field.extract_mesh(
            surface.resolution, surface.threshold, texture_size=size, faces=surface.faces, on_step=on_step
        )


def run_export(command: Export, given: frozenset[str]) -> None:
    """Photos whose cameras the run accepts, its views, and points of its field's surface."""
    record, output = read_record(command.run / RECORD_NAME), command.output or command.run / command.form
    if record.command not in ("reconstruct", "demo") or not (command.run / "field.safetensors").is_file():
        raise InputError(f"{command.run} must be a finished reconstruction, it is of {record.command}; name another")
    if os.path.exists(output) and (not output.is_dir() or any(output.iterdir())):
        raise OutputError(f"{output} exists already; choose another folder")
    pictures = []
    if record.command == "reconstruct":
        photos, masks = ([Path(path) for path in record.sources[name]] for name in ("photos", "masks"))
        known = load_photo_cameras(command.run / "photo_cameras.json", photos)
        find = {name: record.settings[name] for name in ("remove_background", "any_background")}
        views = prepare_views(photos, list(masks) or None, cameras=known, **find)
        assert views.cameras is not None, "they were given"
        shown = given_photos(views, views.cameras)
        for index, (rgb, mask) in enumerate(zip(shown.rgb, shown.masks or (), strict=True)):
            pictures.append(PosedPicture(f"photo_{index + 1}", rgb, shown.cameras[index], mask))
    if (command.run / "views.json").is_file():
        for index, camera in enumerate(read_cameras(command.run / "views.json", 0.0)):
            rgb = load_png(command.run / f"views/{index:03d}.png")
            pictures.append(PosedPicture(f"view_{index:03d}", rgb, camera, estimate_mask(rgb)[0]))
    mesh = load_field(command.run / "field.safetensors").field.extract_mesh(96)
    chosen = slice(None, None, max(1, len(mesh.vertices) // 20_000))
    with made_folder(output):
        files = export_scene(pictures, output, command.form, mesh.vertices[chosen], mesh.vertex_colors[chosen])
    answer(f"Wrote {len(pictures)} pictures with cameras, {len(files)} files, into {output}")


def run_convert(command: Convert, given: frozenset[str]) -> None:
    destination, origin = command.destination, weights_path(command.source)
    merged = destination.suffix == ".safetensors"
    run_path = destination.with_name(destination.name + ".run.json") if merged else destination / RECORD_NAME
    targets = [path for path in (destination, run_path) if not path.is_dir() or any(path.iterdir())]
    with (
        _writing(destination, targets, run_path, command, weights=origin) as record,
        progress(f"Converting {origin.name}") as on_step,
    ):
        dtype = getattr(torch, command.dtype) if command.dtype else None
        files = convert(origin, destination, dtype=dtype, on_step=on_step)
        record.files = [str(path) for path in files]
    size = _bytes(sum(path.stat().st_size for path in files))
    answer(f"Wrote {destination} ({size}) in {duration(record.seconds)}; record in {run_path}")


def run_info(command: Info, given: frozenset[str]) -> None:
    weights, output = command.weights, command.output
    kept: Any = nullcontext()
    if output is not None:
        kept = _writing(output, [output], output, command, weights=weights_path(weights))
    with kept as record:
        content = open_checkpoint(weights)
        parts, text = content.parts(), content.text()
        if record is not None:
            told = {"path": str(content.path), "layout": content.layout, "config": asdict(content.config)}
            told |= {"parts": {name: asdict(part) for name, part in parts.items()}, "text": text}
            record.note(checkpoint={**told, "facts": content.facts})
    size, width = content.config.image_size, max(map(len, parts))
    answer(f"{content.path}: {content.layout}, pictures of {size} x {size} pixels")
    for name, part in parts.items():
        counts = f"{part.tensors:5d} tensors  {part.parameters / 1e6:9.2f} M parameters"
        answer(f"  {name:{width}}  {counts}  {_bytes(part.bytes):>9}  {', '.join(part.dtypes)}")
    answer(f"  text: {text}")
    for name, value in content.facts.items():
        fact = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        answer(f"  {name.replace('_', ' ')}: {fact}")
    if output is not None:
        answer(f"Wrote {output}")


def _bytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


@contextmanager
def _writing(
    output: Path, targets: Sequence[Path], record_path: Path, command: Mesh | Convert | Info, **sources: Path
) -> Iterator[Record]:
    """Holds `output` for a command that makes no folder, and writes the record when the block ends, which enters files.

    OutputError if one of the targets is a source, or is there already and --force is not given.
    """
    check_target(record_path)
    with locked(output.parent, output.name):
        for path in filter(os.path.exists, targets):
            if any(os.path.exists(source) and os.path.samefile(path, source) for source in sources.values()):
                raise OutputError(f"{path} is the source itself; choose another name")
            if not command.force:
                raise OutputError(f"{path} exists already; choose another name, or --force to replace it")
        read = {name: str(source.absolute()) for name, source in sources.items()}
        record = new_record(type(command).__name__.lower(), recorded(command, "settings"), read, {})
        start = time.monotonic()
        yield record
        record.status, record.stages = "finished", [record.command]
        record.timings_seconds = {record.command: round(time.monotonic() - start, 3)}
        write_json(record_path, record.model_dump())
