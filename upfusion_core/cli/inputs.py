"""What a run is given: options, photos, cameras, the model. All of it is checked before anything is written."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..config.models import MAX_PHOTOS, MAX_VIEWS
from ..config.options import Demo, Networks, Photos, Predict, Reconstruct, Sampler, Views
from ..geometry.cameras import REFERENCE_ELEVATION_DEGREES, cameras_from_matrices, orbit_cameras
from ..models.checkpoint import recommended_guidance
from ..models.stable_diffusion import tokenize
from ..pipeline import sampling
from ..pipeline.examples import example_views
from ..pipeline.frames import Looked, choose_pictures, choose_views, film_frames, photo_files
from ..pipeline.photo_cameras import load_photo_cameras
from ..pipeline.photos import prepare_views
from ..pipeline.pose import estimate_elevation
from ..pipeline.upfusion import UpFusion
from ..support.devices import existing_device
from ..support.errors import InputError
from ..support.files import BUNDLED_NAME, json_number, read_json, reading, replacing, shown
from ..support.images import contact_sheet, save_png
from ..types import REFERENCE_FOCAL, Cameras, InputViews
from .console import bar, say
from .run import Run, plan, settled_run

Command = TypeVar("Command", bound="Demo | Reconstruct | Views | Predict")
PreparedPhotos = Callable[[int], InputViews]  # the photos at the model's image size

MAX_CAMERAS = 10_000  # in one list
MASKED = "_mask"  # in a folder cup_mask.png is the mask of cup.jpg
FILMS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi")
_ORBIT_KEYS = {"azimuth_degrees", "elevation_degrees", "distance"}
_MATRIX_KEYS = {"camera_to_world", "focal"}
_ESTIMATE_KEYS = {"accepted", "score"}  # beside the cameras that were estimated for photos; not read


@contextmanager
def opened(command: Command, given: frozenset[str]) -> Iterator[tuple[Run, Command, PreparedPhotos]]:
    """The run's folder held, the command's options settled, its photos checked; nothing is written yet."""
    with settled_run(command, given) as (run, command):
        model = command.networks.model or BUNDLED_NAME
        command = replace(command, networks=replace(command.networks, model=model))
        if not isinstance(command, Predict) and command.sampler.guidance is None:
            command = replace(command, sampler=replace(command.sampler, guidance=recommended_guidance(model)))
        looked: list[Looked] = []
        if isinstance(command, Demo):
            photos = Photos(example_views(command.object, command.photos).paths)
        else:
            photos, looked = of_folder_or_film(command.photos, run.folder)
            command = replace(command, photos=photos)
        masks, known = list(photos.masks) or None, None
        height = REFERENCE_ELEVATION_DEGREES if isinstance(command, Demo) else command.photo_elevation
        if photos.photo_cameras is not None:
            height = REFERENCE_ELEVATION_DEGREES if height is None else height  # if cameras know no up
            known = load_photo_cameras(photos.photo_cameras, photos.photos, masks, elevation_degrees=height)
        find: dict[str, Any] = {name: getattr(photos, name) for name in ("remove_background", "any_background")}
        held: dict[int, InputViews] = {}  # of one size at a time: they carry the photos' own pixels

        def prepared(size: int) -> InputViews:
            if size not in held:
                held.clear()
                views = prepare_views(list(photos.photos), masks, size=size, cameras=known, **find)
                held[size] = choose_views(views, photos.network_photos)
            return held[size]

        views = prepared(256)  # the released size, which is nearly always the one wanted
        if height is None and (height := estimate_elevation(views)) is not None:
            say(f"Photo 1 looks down by {height:.0f} degrees, as all silhouettes tell; --photo-elevation overrules it")
        if not isinstance(command, Demo):
            command = replace(command, photo_elevation=REFERENCE_ELEVATION_DEGREES if height is None else height)
        cameras = command.orbit.cameras if isinstance(command, Views | Predict) else None
        files = {"photos": photos.photos, "masks": photos.masks, "cameras": (cameras,) if cameras else ()}
        inputs: dict[str, Any] = {kind: [] for kind in files}
        for kind, path in ((kind, path) for kind, paths in files.items() for path in paths):
            with reading(path, "check the path"):
                inputs[kind].append(hashlib.sha256(path.read_bytes()).hexdigest())
        if known is not None:
            matrices = known.cameras.camera_to_world.numpy().tobytes()
            told = repr((known.lenses, known.refused)).encode()
            inputs["photo_cameras"] = hashlib.sha256(matrices + told).hexdigest()
            for note in known.notes:
                say(note)
        plan(run, command, inputs)
        if looked:
            run.record.note(choice={str(one.source): one.reason or "taken" for one in looked})
        yield run, command, prepared
        if looked and not run.already_finished:
            shown = [one.shown if not one.reason else 0.7 + 0.3 * one.shown for one in looked]  # paler where left out
            with run.writing("choice.png", keep=False) as path:
                save_png(path, contact_sheet(torch.stack(shown)))
            run.tell(f"{len(photos.photos)} of {len(looked)} pictures taken; run.json says why", "choice.png")


def of_folder_or_film(photos: Photos, output: Path) -> tuple[Photos, list[Looked]]:
    """In place of a folder the pictures in it, by name, with their masks; in place of a film frames, written beside
    `output`, that are sharp and show the most sides; of too many pictures likewise. And all that was looked at."""
    first = photos.photos[0] if len(photos.photos) == 1 else Path()
    film = first if first.suffix.lower() in FILMS else None
    if film is None and (len(photos.photos) != 1 or not first.is_dir()):
        return photos, []
    files = [] if film else photo_files([first])
    masks = {path.stem.removesuffix(MASKED): path for path in files if path.stem.endswith(MASKED)}
    files = [path for path in files if not path.stem.endswith(MASKED)]
    if masks and masks.keys() != {path.stem for path in files}:
        wanted = f"{first} must hold photos, and masks ({MASKED}) of none or of each"
        raise InputError(f"{wanted}, got {len(files)} and {len(masks)}; add or remove some")
    kept, looked, most = list[Any](files), list[Looked](), MAX_PHOTOS if film else MAX_VIEWS
    if film or len(files) > most:
        with bar(f"Looking at {first.name}") as show:
            looked = choose_pictures(files, most, film, on_progress=partial(show, first.name))
        kept = [one.source for one in looked if not one.reason]
    if film is not None:
        folder = output.absolute().with_name(f"{output.absolute().name}-frames")
        for number, rgb in film_frames(film, kept):
            with replacing(folder / f"{number:06d}.png") as path:
                save_png(path, rgb / 255)
        kept = [folder / f"{number:06d}.png" for number in kept]
    masked = tuple(masks[path.stem] for path in kept) if masks else photos.masks
    return replace(photos, photos=tuple(kept), masks=masked), looked if len(kept) < len(looked) else []


def load_model(networks: Networks, sampler: Sampler | None = None) -> UpFusion:
    """The model on the device and in the precision that were asked for; what the sampler cannot do is said before."""
    if sampler is not None:
        views = sampler.of_views()
        sampling.make_scheduler(views["scheduler"], views["steps"])  # refused before gigabytes are read
        if sampler.prompt:
            tokenize(sampler.prompt)
    dtype = None if networks.dtype == "auto" else getattr(torch, networks.dtype)
    return loaded(networks.model or BUNDLED_NAME, existing_device(networks.device), dtype)


@lru_cache(1)  # for the next one of many objects
def loaded(model: str, device: torch.device, dtype: torch.dtype | None) -> UpFusion:
    return UpFusion.load(model, device=device, dtype=dtype)


def read_cameras(path: Path, photo_elevation: float) -> Cameras:
    """Cameras from a JSON list of {"azimuth_degrees": 90, "elevation_degrees": 10, "distance": 1}, where the last two
    may be left out (photo 1's elevation, and 1), or {"camera_to_world": 4 rows of 4 numbers, "focal": NDC units}.
    """
    entries = read_json(path)
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_CAMERAS:
        wanted = f"{path} must hold a JSON list of cameras, 1 to {MAX_CAMERAS}"
        raise InputError(f"{wanted}, got {shown(entries, 40)}; see --help")
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
        numbers = {"elevation_degrees": photo_elevation, **{name: json_number(entry[name], name) for name in keys}}
        return orbit_cameras(**numbers)
    if "camera_to_world" in keys and keys <= _MATRIX_KEYS:
        rows, focal = entry["camera_to_world"], json_number(entry.get("focal", REFERENCE_FOCAL), "focal")
        if not isinstance(rows, list) or len(rows) != 4 or any(not isinstance(r, list) or len(r) != 4 for r in rows):
            raise InputError(f"camera_to_world must be 4 rows of 4 numbers, got {shown(rows, 40)}; correct it there")
        matrix = torch.tensor([[json_number(value, "camera_to_world") for value in row] for row in rows])
        return cameras_from_matrices(matrix[None], focal=focal)
    kinds = '{"azimuth_degrees", "elevation_degrees", "distance"} or {"camera_to_world", "focal"}'
    raise InputError(f"an entry must be {kinds}, got {shown(entry)}; correct it there")
