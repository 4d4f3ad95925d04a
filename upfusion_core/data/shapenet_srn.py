"""ShapeNet renders of Scene Representation Networks (cars, chairs)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..checks import check_choice
from ..errors import InputError
from ..files import read_regular
from ..geometry import cameras_from_matrices
from .folders import existing_folder, subfolders
from .framing import Frame
from .recorded import RecordedViews

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
        focal, principal = _intrinsics(folder / "intrinsics.txt")
        matrix = _numbers(folder / "pose" / f"{stem}.txt", lambda values: len(values) == 16, "16 numbers")
        pose = torch.tensor(matrix, dtype=torch.float64).reshape(1, 4, 4)
        camera = cameras_from_matrices(pose, focal=focal, principal=principal, axes="opencv")
        return Frame(camera, folder / "rgb" / f"{stem}.png")

    def _world(self, index: int) -> tuple[Tensor, Tensor | None]:
        return torch.zeros(3), self._up


def _intrinsics(path: Path) -> tuple[Tensor, Tensor]:
    """Focal length and principal point in NDC, (1, 2) each."""
    values = _numbers(path, lambda found: len(found) >= 6, "f, cx, cy in its first line and H, W in its last")
    focal, x, y = values[:3]
    height, width = values[-2:]
    if min(focal, height, width) <= 0:
        raise InputError(f"{path.name} must hold a focal length and a size above 0, got {focal}, {height} x {width}")
    size = torch.tensor([[width, height]])
    return 2 * focal / size, 1 - 2 * torch.tensor([[x, y]]) / size


def _numbers(path: Path, fits: Callable[[list[float]], bool], expected: str) -> list[float]:
    try:
        values = [float(word) for word in read_regular(path, _LARGEST_TEXT).decode("utf-8").split()]
    except (OSError, ValueError) as error:
        raise InputError(f"{path.name} must hold {expected}, but it cannot be read ({error})") from error
    if not fits(values):
        raise InputError(f"{path.name} must hold {expected}, got {len(values)} numbers; fetch it again")
    return values
