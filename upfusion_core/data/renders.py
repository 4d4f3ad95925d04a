"""Rendered objects: Objaverse in Zero-1-to-3's layout, and ShapeNet-SRN."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..config import from_value
from ..geometry import cameras_from_matrices, focal_from_fov
from ..support.checks import check_choice, check_count
from ..support.errors import InputError
from ..support.files import existing_folder, inside, read_json, read_regular, reading, subfolders
from .recorded import Frame, RecordedViews
from .views import decoded_array

_LARGEST_TEXT = 100_000
"""Bytes of a pose or of intrinsics, which are 16 numbers or fewer."""


class ShapeNetSRN(RecordedViews):
    """`ROOT/<id>/{rgb/000000.png, pose/000000.txt, intrinsics.txt}`, on white, the object about the origin.

    Poses: 16 numbers, camera-to-world, OpenCV's axes. intrinsics.txt: first line "f cx cy 0.", last line "H W", the
    resolution that these are given for, in pixels from the corner. A view without either of its files is noted in
    `skipped`; an object without views or intrinsics is left out and noted.

    Args:
        root: the folder of one split of one class.
        size: side of the views in pixels.
        margin: see `RecordedViews`.
        up: the axis that is up in the files' world: "z", Blender's, unless told.

    Raises:
        InputError: there is no such folder.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        size: int = 128,
        margin: float | None = None,
        up: Literal["y", "z"] = "z",
    ) -> None:
        super().__init__(size, margin)
        check_choice("up", up, ("y", "z"))
        self._up = torch.tensor([0.0, 1.0, 0.0] if up == "y" else [0.0, 0.0, 1.0])
        self._folders: list[Path] = []
        self._stems: list[list[str]] = []
        for folder in subfolders(existing_folder(root)):
            stems = self._complete(folder)
            if not (folder / "intrinsics.txt").is_file():
                self.skipped.append((folder.name, "its intrinsics.txt is missing"))
            elif not stems:
                self.skipped.append((folder.name, "it has no view with both rgb and pose"))
            else:
                self._folders.append(folder)
                self._stems.append(stems)

    def __len__(self) -> int:
        return len(self._folders)

    def name(self, index: int) -> str:
        """The id of object `index`."""
        return self._folders[index].name

    def view_count(self, index: int) -> int:
        """How many views have both of their files."""
        return len(self._stems[index])

    def _complete(self, folder: Path) -> list[str]:
        """Stems of the views that have a picture and a pose."""
        pictures = {path.stem for path in folder.glob("rgb/*.png")}
        poses = {path.stem for path in folder.glob("pose/*.txt")}
        for stem in sorted(pictures ^ poses):
            kind = "pose" if stem in pictures else "picture"
            self.skipped.append((f"{folder.name} view {stem}", f"its {kind} is missing"))
        return sorted(pictures & poses)

    def _frame(self, index: int, view: int) -> Frame:
        folder, stem = self._folders[index], self._stems[index][view]
        path = folder / "intrinsics.txt"
        values = _numbers(path, lambda found: len(found) >= 6, "f, cx, cy in its first line and H, W in its last")
        (focal, x, y), (height, width) = values[:3], values[-2:]
        if min(focal, height, width) <= 0:
            got = f"got {focal}, {height} x {width}"
            raise InputError(f"{path.name} must hold a focal length and a size above 0, {got}; fetch it again")
        size = torch.tensor([[width, height]])
        principal = 1 - 2 * torch.tensor([[x, y]]) / size
        matrix = _numbers(folder / "pose" / f"{stem}.txt", lambda values: len(values) == 16, "16 numbers")
        pose = torch.tensor(matrix, dtype=torch.float64).reshape(1, 4, 4)
        camera = cameras_from_matrices(pose, focal=2 * focal / size, principal=principal, axes="opencv")
        return Frame(camera, folder / "rgb" / f"{stem}.png")

    def _world(self, index: int) -> tuple[Tensor, Tensor | None]:
        return torch.zeros(3), self._up


def _numbers(path: Path, fits: Callable[[list[float]], bool], expected: str) -> list[float]:
    with reading(path.name, "fetch it again", what=expected):
        values = [float(word) for word in read_regular(path, _LARGEST_TEXT).decode("utf-8").split()]
    if not fits(values):
        raise InputError(f"{path.name} must hold {expected}, got {len(values)} numbers; fetch it again")
    return values


FOV_DEGREES = 49.13
"""Full field of view of the published renders."""

_LARGEST_NPY = 1_000_000
"""Bytes; 12 numbers and a header have 224."""


class ObjaverseRenders(RecordedViews):
    """`ROOT/valid_paths.json` lists ids; `ROOT/<id>/` holds 000.png, 000.npy, 001.png, …, 12 views unless told.

    PNG: RGBA on a transparent background. NPY: 3×4 [R|t], world -> camera with Blender's axes (x right, y up, looking
    along -z), the world's +Z up, the object about its origin; fov 49.13 degrees. +Z becomes +Y.
    Folders that lack any of the views are left out and counted in `skipped`.

    Args:
        root: the folder with valid_paths.json.
        size: side of the views in pixels.
        margin: see `RecordedViews`; whole pictures unless told, so that all views share one focal length.
        views: how many views a complete folder has.
        fov_degrees: full field of view of the renders.

    Raises:
        InputError: there is no such folder, or its list cannot be read.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        size: int = 256,
        margin: float | None = None,
        views: int = 12,
        fov_degrees: float = FOV_DEGREES,
    ) -> None:
        super().__init__(size, margin)
        check_count("views", views, 1, 1000)
        self._root, self._views = existing_folder(root), views
        self._focal = focal_from_fov(fov_degrees)
        self._names: list[str] = []
        for name in from_value(list[str], read_json(self._root / "valid_paths.json"), "valid_paths.json"):
            missing = self._missing(name)
            if missing:
                self.skipped.append((name, missing))
            else:
                self._names.append(name)

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        """The id of object `index`."""
        return self._names[index]

    def view_count(self, index: int) -> int:
        """The same for all objects."""
        return self._views

    def _missing(self, name: str) -> str:
        """What keeps a folder from being read, or an empty string."""
        try:
            folder = inside(self._root, name)
        except InputError as error:
            return str(error)
        if not os.path.isdir(folder):  # unlike pathlib's, also false for names that no folder can have
            return "its folder is missing"
        present = {entry.name for entry in os.scandir(folder)}
        complete = sum(f"{view:03d}.png" in present and f"{view:03d}.npy" in present for view in range(self._views))
        return "" if complete == self._views else f"it has {complete} of {self._views} views"

    def _frame(self, index: int, view: int) -> Frame:
        stem = self._root / self._names[index] / f"{view:03d}"
        path = stem.with_suffix(".npy")
        with reading(path.name, "render it again"):
            content = read_regular(path, _LARGEST_NPY)
        matrix = torch.from_numpy(decoded_array(content, (3, 4), path.name).astype(np.float64))
        rotation, translation = matrix[:, :3].T, matrix[:, 3:]  # to camera -> to world
        pose = torch.cat([rotation, -(rotation @ translation)], dim=1)
        return Frame(cameras_from_matrices(pose[None], focal=self._focal), stem.with_suffix(".png"))

    def _world(self, index: int) -> tuple[Tensor, Tensor | None]:
        return torch.zeros(3), torch.tensor([0.0, 0.0, 1.0])
