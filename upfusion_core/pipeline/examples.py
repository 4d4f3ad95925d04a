"""The photos that come with the package: objects that nothing was trained on, with further views to compare with."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import MAX_PHOTOS
from ..geometry import cameras_from_matrices
from ..geometry.lenses import KnownCameras
from ..support.checks import check_count
from ..support.errors import InputError
from ..support.files import bundled_path
from ..support.images import load_png
from ..types import Cameras, InputViews
from .photos import prepare_views


@dataclass(frozen=True, eq=False)
class ExampleViews:
    """Photos of one object, and true views of it that are no photos.

    photos: (V, 3, S, S) in [0, 1] on white, the reference first. masks: (V, 1, S, S) in [0, 1], 1 on the object.
    truth: (T, 3, S, S), truth_masks: (T, 1, S, S), cameras: Cameras(T): what is seen all round the object.
    photo_cameras: Cameras(V); the model is not told them.
    paths: of the photos' files, (V,); large: the same at 512 pixels, of the demo's object only.
    name: the object's: generator version, split and index.
    """

    photos: Tensor
    masks: Tensor
    truth: Tensor
    truth_masks: Tensor
    cameras: Cameras
    photo_cameras: Cameras
    paths: tuple[Path, ...]
    name: str
    large: tuple[Path, ...] = ()

    def prepared(self, size: int) -> InputViews:
        """The photos at a model's size, without masks, as framed ones: cropped, they would not fit the truth."""
        return prepare_views(list(self.photos), size=size)

    def posed(self, size: int) -> InputViews:
        """The same with their true cameras, and with the larger photos' own pixels where there are any."""
        files = self.large or self.paths
        sides = [(width, height) for _, height, width in (load_png(path).shape for path in files)]
        return prepare_views(list(files), size=size, cameras=KnownCameras.of_photos(self.photo_cameras, sides))


def example_count() -> int:
    """How many objects come with the package; their numbers are 0 to one less."""
    return len(_bundled("about.json")["objects"])


def example_views(number: int = 0, photos: int = 3) -> ExampleViews:
    """An object that comes with the package, with some of its six photos.

    Raises InputError: there is no such object, or not so many photos, or the package lacks its files.
    """
    names = _bundled("about.json")["objects"]
    check_count("number", number, 0, len(names) - 1)
    check_count("photos", photos, 1, MAX_PHOTOS)
    cameras, shown, masks = [], [], []
    seen = {"photo": _bundled(f"{number}/photos.json")[:photos], "truth": _bundled(f"{number}/truth.json")}
    for kind, entries in seen.items():
        matrices = torch.tensor([entry["camera_to_world"] for entry in entries])
        cameras.append(cameras_from_matrices(matrices, focal=[entry["focal"] for entry in entries]))
        files = [f"{number}/{kind}_{place + 1}" for place in range(len(entries))]
        shown.append(torch.stack([_bundled(f"{name}.png") for name in files]))
        masks.append(torch.stack([_bundled(f"{name}_mask.png") for name in files]))
    folder = bundled_path("examples") / str(number)
    paths, large = (tuple(folder / f"{kind}_{place + 1}.png" for place in range(photos)) for kind in ("photo", "large"))
    large = large if large[0].is_file() else ()
    return ExampleViews(shown[0], masks[0], shown[1], masks[1], cameras[1], cameras[0], paths, names[number], large)


def _bundled(name: str) -> Any:  # noqa: ANN401 - (3, S, S) or, of a mask, (1, S, S) in [0, 1]; or whatever the JSON holds
    path = bundled_path("examples") / name
    try:
        if path.suffix == ".json":
            return json.loads(path.read_text(encoding="utf-8"))
        return load_png(path, "L" if name.endswith("_mask.png") else "RGB")
    except (OSError, InputError) as error:
        wanted = f"{path} must have come with the package, but is not whole ({error})"
        raise InputError(f"{wanted}; install it again") from error
