"""`upfusion mesh`: a saved field -> a mesh, e.g. again with other settings than a reconstruction's."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

from ..field.radiance import RadianceField, load_field
from ..support.devices import resolve_device
from ..support.files import check_target, write_json
from ..surface.extract import require_packages
from ..surface.mesh import MeshAsset, mesh_names, save_mesh
from .console import answer, duration, progress
from .run import finished_record, locked_file, new_record, refuse_existing


@dataclass(frozen=True, kw_only=True)
class MeshOptions:
    """How a field becomes a mesh; the names of ReconstructSettings, with the same meaning."""

    resolution: int
    threshold: float | None
    texture_size: int
    faces: int | None


def extracted(field: RadianceField, options: MeshOptions) -> MeshAsset:
    """The mesh, with a bar; texture_size 0 colours its vertices."""
    with progress("Extracting the mesh") as advance:
        return field.extract_mesh(
            options.resolution,
            options.threshold,
            texture_size=options.texture_size or None,
            faces=options.faces,
            on_step=lambda step, total, preview: advance(step / total),
        )


def run_mesh(source: Path, output: Path, options: MeshOptions, *, device: str, force: bool) -> None:
    """Writes the mesh, and its record beside it."""
    check_target(output)
    with locked_file(output):
        _mesh(source, output, options, device=device, force=force)


def _mesh(source: Path, output: Path, options: MeshOptions, *, device: str, force: bool) -> None:
    record_path = output.with_name(output.name + ".run.json")
    names = mesh_names(output.name, textured=options.texture_size > 0)
    targets = [*(output.with_name(name) for name in names), record_path]
    for path in targets:
        check_target(path)
    refuse_existing(*targets, source=source, force=force)
    require_packages(texture=options.texture_size > 0, faces=options.faces is not None)
    record = new_record("mesh", asdict(options), {"field": str(source.absolute())}, {})
    start = time.monotonic()
    field = load_field(source, device=resolve_device(device)).field
    mesh = extracted(field, options)
    files = save_mesh(mesh, output)
    seconds = time.monotonic() - start
    record = finished_record(record, "mesh", seconds, files)
    write_json(record_path, record | {"mesh": {"vertices": len(mesh.vertices), "faces": len(mesh.faces)}})
    answer(f"Wrote {output} ({len(mesh.faces)} faces) in {duration(seconds)}; record in {record_path}")
