"""The photos that come with the package: objects that nothing was trained on, with further views to compare with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import MAX_PHOTOS
from ..geometry import cameras_from_matrices
from ..support.checks import check_count
from ..support.errors import InputError
from ..support.files import bundled_path
from ..support.images import load_png
from ..types import Cameras, InputViews
from .photos import prepare_views

FOLDER = "examples"


@dataclass(frozen=True, eq=False)
class ExampleViews:
    """Photos of one object, and true views of it that are no photos.

    photos: (V, 3, S, S) in [0, 1] on white, the reference first. masks: (V, 1, S, S) in [0, 1], 1 on the object.
    truth: (T, 3, S, S), truth_masks: (T, 1, S, S), cameras: Cameras(T): what is seen all round the object.
    photo_cameras: Cameras(V); the model is not told them.
    paths: of the photos' files, (V,). name: the object's: generator version, split and index.
    """

    photos: Tensor
    masks: Tensor
    truth: Tensor
    truth_masks: Tensor
    cameras: Cameras
    photo_cameras: Cameras
    paths: tuple[Path, ...]
    name: str

    def prepared(self, size: int) -> InputViews:
        """The photos as a model with pictures of `size` pixels gets them.

        They come without their masks, as photos that are framed already: cropped, they would not fit the truth.
        """
        return prepare_views(list(self.photos), size=size)


def example_count() -> int:
    """How many objects come with the package; their numbers are 0 to one less.

    Raises:
        InputError: the package lacks its files.
    """
    return len(_about()["objects"])


def example_views(number: int = 0, photos: int = 3) -> ExampleViews:
    """An object that comes with the package, drawn by its index from seeds that nothing was trained on.

    Args:
        number: which object.
        photos: how many of its six photos.

    Raises:
        InputError: there is no such object, or not so many photos.
    """
    names = _about()["objects"]
    check_count("number", number, 0, len(names) - 1)
    check_count("photos", photos, 1, MAX_PHOTOS)
    folder = bundled_path(FOLDER) / str(number)
    photo_cameras, cameras = _cameras(folder / "photos.json")[:photos], _cameras(folder / "truth.json")
    paths = tuple(folder / f"photo_{place}.png" for place in range(1, photos + 1))
    truths = [folder / f"truth_{place}.png" for place in range(1, len(cameras) + 1)]
    return ExampleViews(
        photos=torch.stack([_picture(path, "RGB") for path in paths]),
        masks=torch.stack([_picture(path, "L") for path in paths]),
        truth=torch.stack([_picture(path, "RGB") for path in truths]),
        truth_masks=torch.stack([_picture(path, "L") for path in truths]),
        cameras=cameras,
        photo_cameras=photo_cameras,
        paths=paths,
        name=names[number],
    )


def _about() -> dict[str, list[str]]:
    return _read(bundled_path(FOLDER) / "about.json")  # type: ignore[no-any-return]


def _cameras(path: Path) -> Cameras:
    entries = _read(path)
    matrices = torch.tensor([entry["camera_to_world"] for entry in entries])
    return cameras_from_matrices(matrices, focal=[entry["focal"] for entry in entries])


def _read(path: Path) -> Any:  # noqa: ANN401 - whatever the JSON holds
    with _complete(path):
        return json.loads(path.read_text(encoding="utf-8"))


def _picture(path: Path, mode: str) -> Tensor:
    """(3, S, S) in [0, 1], or (1, S, S) of its mask with mode "L"."""
    path = path if mode == "RGB" else path.with_name(f"{path.stem}_mask.png")
    with _complete(path):
        return load_png(path, mode)


@contextmanager
def _complete(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, InputError) as error:
        raise InputError(
            f"{path} must have come with the package, but cannot be read ({error}); install it again"
        ) from error
