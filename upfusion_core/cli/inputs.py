"""What a run reads: photos, masks, a list of cameras, the model. All of it is checked before anything is written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from ..config.options import Demo, Networks, Photos, Predict, Reconstruct, Sampler, Views
from ..geometry import cameras_from_matrices, orbit_cameras
from ..models.checkpoint import recommended_guidance
from ..pipeline.prepare import prepare_views
from ..support.devices import resolve_device
from ..support.errors import InputError
from ..support.files import BUNDLED_NAME, reading
from ..support.json_text import read_json, shown
from ..types import REFERENCE_FOCAL, Cameras, InputViews
from .flags import planned_run
from .run import Run

if TYPE_CHECKING:
    from ..pipeline.upfusion import UpFusion

Command = TypeVar("Command", bound="Demo | Reconstruct | Views | Predict")

MAX_CAMERAS = 10_000
"""In one list."""

_ORBIT_KEYS = {"azimuth_degrees", "elevation_degrees", "distance"}
_MATRIX_KEYS = {"camera_to_world", "focal"}
_ESTIMATE_KEYS = {"accepted", "score"}
"""Beside the cameras that were estimated for photos; not read."""


@dataclass(frozen=True, eq=False)
class ReadPhotos:
    """Photos that are known to be readable. views: at the released size, which is nearly always the one wanted."""

    photos: Photos
    views: InputViews

    def prepared(self, size: int) -> InputViews:
        """The photos at the model's image size."""
        return self.views if self.views.rgb.shape[-1] == size else _prepared(self.photos, size)


@contextmanager
def opened(
    name: str, command: Command, given: frozenset[str], photos_of: Callable[[Command], Photos]
) -> Iterator[tuple[Run, Command, ReadPhotos]]:
    """The run's folder held, the command's options settled, its photos checked; nothing is written yet.

    Args:
        given: names of the options that the command line gives.
        photos_of: the photos, which may follow from the settled options.
    """
    read: list[ReadPhotos] = []

    def completed(command: Command, run: Run) -> tuple[Command, dict[str, Any]]:
        model = command.networks.model or BUNDLED_NAME
        command = replace(command, networks=replace(command.networks, model=model))
        if not isinstance(command, Predict) and command.sampler.guidance is None:
            sampler = replace(command.sampler, guidance=recommended_guidance(model))
            command = replace(command, sampler=sampler)
        photos = photos_of(command)
        cameras = command.orbit.cameras if isinstance(command, Views | Predict) else None
        read.append(ReadPhotos(photos, _prepared(photos, 256)))
        files = {"photos": photos.photos, "masks": photos.masks, "cameras": (cameras,) if cameras else ()}
        return command, {kind: [checksum(path) for path in paths] for kind, paths in files.items()}

    with planned_run(name, command, given, completed) as (run, settled_command):
        yield run, settled_command, read[0]


def load_model(networks: Networks, sampler: Sampler | None = None) -> UpFusion:
    """The model on the device and in the precision that were asked for; what the sampler cannot do is said before."""
    from ..models.stable_diffusion import tokenize  # seconds of imports, which wrong photos need not wait for
    from ..pipeline.sampling import make_scheduler
    from ..pipeline.upfusion import UpFusion

    if sampler is not None:
        views = sampler.of_views()
        make_scheduler(views["scheduler"], views["steps"])  # refused before gigabytes are read
        if sampler.prompt:
            tokenize(sampler.prompt)
    dtype = None if networks.dtype == "auto" else getattr(torch, networks.dtype)
    return UpFusion.load(networks.model or BUNDLED_NAME, device=resolve_device(networks.device), dtype=dtype)


def _prepared(photos: Photos, size: int) -> InputViews:
    masks = list(photos.masks) or None
    return prepare_views(list(photos.photos), masks, size=size, remove_background=photos.remove_background)


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with reading(path, "check the path"), path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


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
    cameras = []
    for index, entry in enumerate(entries):
        label = f"{path}, camera {index}"
        try:
            cameras.append(_camera(entry, label, photo_elevation))
        except InputError as error:
            if str(error).startswith(label):
                raise
            raise InputError(f"{label}: {error}") from error
    return Cameras.concatenate(cameras)


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
