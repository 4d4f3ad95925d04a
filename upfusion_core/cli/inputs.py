"""What a run reads: photos, masks, a list of cameras, the model. All of it is checked before anything is written."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..geometry import cameras_from_matrices, orbit_cameras
from ..pipeline.prepare import prepare_views
from ..support.checks import check_count
from ..support.devices import resolve_device
from ..support.errors import InputError
from ..support.json_text import read_json, shown
from ..types import REFERENCE_FOCAL, Cameras, InputViews
from .settings import OrbitSettings, SamplingSettings, SceneSettings, Sources

if TYPE_CHECKING:
    from ..pipeline.upfusion import UpFusion

MAX_CAMERAS = 10_000
"""In one list, or in one orbit."""

_ORBIT_KEYS = {"azimuth_degrees", "elevation_degrees", "distance"}
_MATRIX_KEYS = {"camera_to_world", "focal"}
_ESTIMATE_KEYS = {"accepted", "score"}
"""Beside the cameras that were estimated for photos; not read."""


@dataclass(frozen=True)
class Photos:
    """Photos on the disk that are known to be readable.

    sources: where they are.
    checksums: of the contents of photos, masks and camera list.
    remove_background: as in prepare_views.
    """

    sources: Sources
    checksums: dict[str, list[str]]
    remove_background: bool
    views: InputViews

    def prepared(self, size: int) -> InputViews:
        """The photos at the model's image size."""
        if self.views.rgb.shape[-1] == size:
            return self.views
        return _prepare(self.sources, size, self.remove_background)


def read_photos(sources: Sources, settings: SceneSettings) -> Photos:
    """Decodes and checks the photos at the released image size, which is nearly always the one that is wanted."""
    views = _prepare(sources, 256, settings.remove_background)
    checksums = {
        "photos": [_checksum(path) for path in sources.photos],
        "masks": [_checksum(path) for path in sources.masks],
        "cameras": [_checksum(sources.cameras)] if sources.cameras else [],
    }
    return Photos(sources, checksums, settings.remove_background, views)


def chosen_cameras(settings: OrbitSettings, photo_elevation: float, path: Path | None) -> Cameras:
    """The cameras of a file, or else of an orbit that begins above photo 1's azimuth."""
    if path is not None:
        return read_cameras(path, photo_elevation)
    check_count("the number of views", settings.count, 1, MAX_CAMERAS)
    azimuths = [360.0 * index / settings.count for index in range(settings.count)]
    elevation = photo_elevation if settings.elevation is None else settings.elevation
    return orbit_cameras(azimuths, elevation, settings.distance)


def read_cameras(path: Path, photo_elevation: float) -> Cameras:
    """Cameras from a JSON list.

    An entry is {"azimuth_degrees": 90, "elevation_degrees": 10, "distance": 1}, where the last two may be left out
    (photo 1's elevation, and 1), or {"camera_to_world": 4 rows of 4 numbers, "focal": 4.5} in glTF's axes, focal in
    NDC units.
    """
    entries = read_json(path)
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_CAMERAS:
        raise InputError(
            f"{path} must hold a JSON list of cameras, 1 to {MAX_CAMERAS}, got {shown(entries, 40)}; see --help"
        )
    labels = [f"{path}, camera {index}" for index in range(len(entries))]
    pairs = zip(entries, labels, strict=True)
    return Cameras.concatenate([_named_camera(entry, label, photo_elevation) for entry, label in pairs])


def load_model(settings: SceneSettings, device: str) -> UpFusion:
    """The model on the device and in the precision that were asked for."""
    from ..models.stable_diffusion import tokenize  # seconds of imports, which wrong photos need not wait for
    from ..pipeline.sampling import make_scheduler
    from ..pipeline.upfusion import UpFusion

    if isinstance(settings, SamplingSettings):
        sampler = settings.view_sampler()
        make_scheduler(sampler["scheduler"], sampler["steps"])  # refused before gigabytes are read
        if settings.prompt:
            tokenize(settings.prompt)
    dtype = None if settings.dtype == "auto" else getattr(torch, settings.dtype)
    assert settings.model is not None, "with_stored sees to it"
    return UpFusion.load(settings.model, device=resolve_device(device), dtype=dtype)


def _prepare(sources: Sources, size: int, remove_background: bool) -> InputViews:
    masks = list(sources.masks) or None
    return prepare_views(list(sources.photos), masks, size=size, remove_background=remove_background)


def _checksum(path: Path) -> str:
    try:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
        return digest.hexdigest()
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        why = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{str(path)!r:.200} cannot be read ({why}); check the path") from error


def _named_camera(entry: Any, label: str, photo_elevation: float) -> Cameras:  # noqa: ANN401 - any JSON
    """The camera of an entry; whatever is wrong with it names its file and number."""
    try:
        return _camera(entry, label, photo_elevation)
    except InputError as error:
        if str(error).startswith(label):
            raise
        raise InputError(f"{label}: {error}") from error


def _camera(entry: Any, label: str, photo_elevation: float) -> Cameras:  # noqa: ANN401 - any JSON
    keys = entry.keys() - _ESTIMATE_KEYS if isinstance(entry, dict) else set()
    if keys and keys <= _ORBIT_KEYS and "azimuth_degrees" in keys:
        numbers = {"elevation_degrees": photo_elevation, "distance": 1.0, **{name: entry[name] for name in keys}}
        return orbit_cameras(**{name: _number(value, f"{label}, {name}") for name, value in numbers.items()})
    if "camera_to_world" in keys and keys <= _MATRIX_KEYS:
        rows = entry["camera_to_world"]
        if not isinstance(rows, list) or len(rows) != 4 or any(not isinstance(r, list) or len(r) != 4 for r in rows):
            raise InputError(
                f"{label}: camera_to_world must be 4 rows of 4 numbers, got {shown(rows, 40)}; correct it there"
            )
        matrix = torch.tensor([[_number(value, f"{label}, camera_to_world") for value in row] for row in rows])
        return cameras_from_matrices(
            matrix[None], focal=_number(entry.get("focal", REFERENCE_FOCAL), f"{label}, focal")
        )
    raise InputError(
        f'{label} must be {{"azimuth_degrees", "elevation_degrees", "distance"}} or {{"camera_to_world", "focal"}}, '
        f"got {shown(entry)}; correct it there"
    )


def _number(value: Any, label: str) -> float:  # noqa: ANN401 - any JSON
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
        raise InputError(f"{label} must be a finite number, got {shown(value, 40)}; correct it there")
    return float(value)
