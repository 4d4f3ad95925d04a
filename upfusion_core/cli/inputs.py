"""What a run is given: options, photos, cameras, the model. All of it is checked before anything is written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch

from ..config.base import built, flat, options_of
from ..config.options import Demo, Evaluate, Networks, Pack, Photos, Predict, Reconstruct, Sampler, Views
from ..geometry import cameras_from_matrices, orbit_cameras
from ..models.checkpoint import recommended_guidance
from ..pipeline.photos import prepare_views
from ..support.devices import existing_device
from ..support.errors import InputError
from ..support.files import BUNDLED_NAME, read_json, reading, shown
from ..types import REFERENCE_FOCAL, Cameras, InputViews
from .console import say
from .run import Run, open_run

if TYPE_CHECKING:
    from ..pipeline.upfusion import UpFusion

Kind = TypeVar("Kind")
InFolder = TypeVar("InFolder", bound="Demo | Reconstruct | Views | Predict | Evaluate | Pack")
Command = TypeVar("Command", bound="Demo | Reconstruct | Views | Predict")

NO_MODEL = f"no --model given, so this takes {BUNDLED_NAME}, the small model that comes with the package"

MAX_CAMERAS = 10_000
"""In one list."""

_ORBIT_KEYS = {"azimuth_degrees", "elevation_degrees", "distance"}
_MATRIX_KEYS = {"camera_to_world", "focal"}
_ESTIMATE_KEYS = {"accepted", "score"}
"""Beside the cameras that were estimated for photos; not read."""


def recorded(config: object, section: Literal["settings", "sources"]) -> dict[str, Any]:
    """What the record holds of a command's options in one of its sections."""
    known, values = options_of(type(config)), flat(config)
    return {name: option.written(values[name]) for name, option in known.items() if option.flag.section == section}


def settled(config: Kind, given: frozenset[str], run: Run) -> Kind:
    """The options of a continued run: those of its record, except what the command line gives; see Run.plan.

    An option that the record does not have, because it is newer, has its default there.
    """
    if run.stored is None:
        return config
    known, values = options_of(type(config)), flat(config)
    for name, option in known.items():
        if option.flag.section == "settings":
            run.stored.settings.setdefault(name, option.written(option.default))
    for name, value in (run.stored.settings | run.stored.sources).items():
        if name not in known:
            raise InputError(
                f"the run in {run.folder} has the option {name}, which this release does not know; continue it with "
                "the one that began it, or use --force to begin anew"
            )
        if name not in given:
            values[name] = known[name].read(value)
    return built(type(config), values)


@contextmanager
def planned_run(
    name: str,
    command: InFolder,
    given: frozenset[str],
    completed: Callable[[InFolder, Run], tuple[InFolder, dict[str, Any]]],
) -> Iterator[tuple[Run, InFolder]]:
    """The run's folder held, the command's options settled and planned; nothing is written yet.

    Args:
        given: names of the options that the command line gives.
        completed: the settled options with what follows from them, and checksums of what is read.
    """
    folder = command.folder
    with open_run(folder.output, name, resume=folder.resume, force=folder.force) as run:
        if not isinstance(command, Pack) and command.networks.model is None and not run.resumed:
            say(NO_MODEL)
        command, inputs = completed(settled(command, given, run), run)
        run.plan(recorded(command, "settings"), recorded(command, "sources"), inputs)
        if run.already_finished:
            run.begin()
        yield run, command


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
    return UpFusion.load(networks.model or BUNDLED_NAME, device=existing_device(networks.device), dtype=dtype)


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
        try:
            cameras.append(_camera(entry, photo_elevation))
        except InputError as error:
            raise InputError(f"{path}, camera {index}: {error}") from error
    return Cameras.concatenate(cameras)


def _camera(entry: Any, photo_elevation: float) -> Cameras:  # noqa: ANN401 - any JSON
    keys = entry.keys() - _ESTIMATE_KEYS if isinstance(entry, dict) else set()
    if keys and keys <= _ORBIT_KEYS and "azimuth_degrees" in keys:
        numbers = {"elevation_degrees": photo_elevation, **{name: _number(entry[name], name) for name in keys}}
        return orbit_cameras(**numbers)
    if "camera_to_world" in keys and keys <= _MATRIX_KEYS:
        rows, focal = entry["camera_to_world"], _number(entry.get("focal", REFERENCE_FOCAL), "focal")
        if not isinstance(rows, list) or len(rows) != 4 or any(not isinstance(r, list) or len(r) != 4 for r in rows):
            raise InputError(f"camera_to_world must be 4 rows of 4 numbers, got {shown(rows, 40)}; correct it there")
        matrix = torch.tensor([[_number(value, "camera_to_world") for value in row] for row in rows])
        return cameras_from_matrices(matrix[None], focal=focal)
    raise InputError(
        'an entry must be {"azimuth_degrees", "elevation_degrees", "distance"} or {"camera_to_world", "focal"}, '
        f"got {shown(entry)}; correct it there"
    )


def _number(value: Any, name: str) -> float:  # noqa: ANN401 - any JSON
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
        raise InputError(f"{name} must be a finite number, got {shown(value, 40)}; correct it there")
    return float(value)
