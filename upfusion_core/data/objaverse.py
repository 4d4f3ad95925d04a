"""Objaverse renders in Zero-1-to-3's layout."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..checks import check_count
from ..errors import InputError
from ..files import read_regular
from ..geometry import cameras_from_matrices, focal_from_fov
from ..json_text import read_json
from .arrays import decoded_array
from .folders import existing_folder, inside
from .framing import Frame
from .recorded import RecordedViews

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
        for name in _listed(self._root):
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
        matrix = _camera_to_world(stem.with_suffix(".npy"))
        return Frame(cameras_from_matrices(matrix[None], focal=self._focal), stem.with_suffix(".png"))

    def _world(self, index: int) -> tuple[Tensor, Tensor | None]:
        return torch.zeros(3), torch.tensor([0.0, 0.0, 1.0])


def _listed(root: Path) -> list[str]:
    path = root / "valid_paths.json"
    try:
        names = read_json(path)
    except InputError as error:
        reason = error.__cause__
        raise InputError(f"{path} must be a list of ids, but it cannot be read ({reason}); fetch it again") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path} must be a list of ids, got something else; fetch it again")
    return names


def _camera_to_world(path: Path) -> Tensor:
    """(3, 4) float64 from a file of world -> camera."""
    try:
        matrix = decoded_array(read_regular(path, _LARGEST_NPY))
    except (OSError, InputError) as error:
        raise InputError(f"{path.name} cannot be read as an array ({error}); render it again") from error
    if matrix.shape != (3, 4) or not np.issubdtype(matrix.dtype, np.floating) or not np.isfinite(matrix).all():
        raise InputError(f"{path.name} must hold 3 x 4 finite numbers, got {matrix.dtype} {matrix.shape}")
    rotation, translation = matrix[:, :3].astype(np.float64).T, matrix[:, 3].astype(np.float64)
    return torch.from_numpy(np.concatenate([rotation, -(rotation @ translation)[:, None]], axis=1))
