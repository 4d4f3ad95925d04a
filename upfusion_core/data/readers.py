"""Recorded objects: Co3Dv2's videos, Objaverse as Zero-1-to-3 rendered it, and ShapeNet-SRN."""

from __future__ import annotations

import gzip
import io
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config.base import from_value
from ..geometry import cameras_from_matrices, focal_from_fov
from ..support.checks import check_choice
from ..support.errors import InputError, UpFusionError
from ..support.files import existing_folder, inside, read_json, read_regular, reading, subfolders
from ..types import Cameras
from .recorded import FRAME_MARGIN, Frame, RecordedViews
from .views import decoded_array, meeting_point

Z_UP = torch.tensor([0.0, 0.0, 1.0])
"""Of Blender's world, in which the renders were made."""

_LARGEST_ANNOTATIONS = 1_000_000_000
"""Bytes of JSON, unpacked: about 1 kB a frame, and the largest categories have some 400,000 frames. Python needs
several times as much."""


class AbsurdCameraError(InputError):
    """A frame's `|sum(T)|` is above 1e5, or no number: structure from motion has failed for the whole sequence."""


@dataclass(frozen=True)
class FrameRecord:
    """number: frame_number, 0-based, not always the file's. image, mask: paths below the root. size: (H, W)."""

    number: int
    image: str
    mask: str
    size: tuple[int, int]


def parse_frame(record: dict[str, Any]) -> tuple[FrameRecord, Cameras]:
    """An annotation of Co3Dv2 -> its files, and the camera (one, in the sequence's world, of the whole picture).

    PyTorch3D's convention: x_cam = x_world R + T for row vectors, camera axes left, up, forward. Thus the columns of R
    are the camera's axes in the world, and its centre is -R T. NDC run from border to border in x and in y
    ("ndc_norm_image_bounds", or no key), or are PyTorch3D's, in which half the shorter side is 1 ("ndc_isotropic").

    Raises:
        AbsurdCameraError: see there. InputError: it has no viewpoint or no mask, or lacks what a frame must have.
    """
    for name in ("viewpoint", "mask"):
        if record.get(name) is None:
            raise InputError(f"it has no {name}")
    with reading("its annotation", "leave it out", what="complete"):
        viewpoint, (height, width) = record["viewpoint"], map(int, record["image"]["size"])
        rotation, translation, focal, principal = (
            torch.tensor(viewpoint[name], dtype=torch.float64).reshape(shape)
            for name, shape in (("R", (3, 3)), ("T", (3,)), ("focal_length", (1, 2)), ("principal_point", (1, 2)))
        )
        kind = viewpoint.get("intrinsics_format") or "ndc_norm_image_bounds"
        check_choice("its intrinsics_format", kind, ("ndc_isotropic", "ndc_norm_image_bounds"))
        if kind == "ndc_isotropic":
            scale = min(height, width) / torch.tensor([[width, height]], dtype=torch.float64)
            focal, principal = focal * scale, principal * scale
        image, mask = str(record["image"]["path"]), str(record["mask"]["path"])
        frame = FrameRecord(int(record["frame_number"]), image, mask, (height, width))
    if not float(translation.sum().abs()) <= 1e5:  # NaN included
        raise AbsurdCameraError(
            f"frame {frame.number} has an absurd camera, |sum(T)| above 1e5; leave the sequence out"
        )
    pose = torch.cat([rotation, -(rotation @ translation)[:, None]], dim=1)
    return frame, cameras_from_matrices(pose[None], focal=focal, principal=principal, axes="pytorch3d")


@dataclass(frozen=True, eq=False)
class _Sequence:
    """frames: usable ones, by number. cameras: theirs, of whole pictures. center: (3,), where their axes meet."""

    frames: list[FrameRecord]
    cameras: Cameras
    center: Tensor


class Co3D(RecordedViews):
    """`ROOT/<category>/{frame_annotations.jgz, <sequence>/…}`: handheld videos of real objects.

    Every view is cropped to the square about its mask's box, `margin` times as large, on white. Nothing says which way
    is up: view 0 becomes our reference camera, and the object's centre is where the optical axes of all usable frames
    of its sequence meet. Left out and counted in `skipped`: categories whose annotations cannot be read; sequences
    with an absurd camera, whose axes do not meet, or without usable frames; frames without viewpoint or mask.

    Raises:
        InputError: there is no such folder, or it holds no annotated category.
    """

    def __init__(self, root: str | os.PathLike[str], *, size: int = 256, margin: float | None = FRAME_MARGIN) -> None:
        super().__init__(size, margin)
        self._root = existing_folder(root)
        self._sequences: list[_Sequence] = []
        categories = sorted(path.parent for path in self._root.glob("*/frame_annotations.jgz"))
        if not categories:
            raise InputError(f"{root} must hold folders with frame_annotations.jgz, got none; check the path")
        for category in categories:
            sequences: dict[str, list[dict[str, Any]]] = {}
            try:
                for record in _annotations(category / "frame_annotations.jgz"):
                    sequence = record.get("sequence_name") if isinstance(record, dict) else None
                    if not isinstance(sequence, str) or not sequence.isprintable():
                        self.skipped.append((category.name, "a frame annotation names no sequence"))
                    else:
                        sequences.setdefault(f"{category.name}/{sequence}", []).append(record)
            except InputError as error:
                self.skipped.append((category.name, str(error)))
            for name, records in sequences.items():
                try:
                    self._sequences.append(self._sequence(name, records))
                    self.names.append(name)
                except UpFusionError as error:
                    self.skipped.append((name, str(error)))

    def view_count(self, index: int) -> int:
        """How many of its frames have a viewpoint and a mask."""
        return len(self._sequences[index].frames)

    def _sequence(self, name: str, records: list[dict[str, Any]]) -> _Sequence:
        usable: list[tuple[FrameRecord, Cameras]] = []
        for record in records:
            try:
                usable.append(parse_frame(record))
            except AbsurdCameraError:
                raise
            except InputError as error:
                self.skipped.append((f"{name} frame {record.get('frame_number')}", str(error)))
        if not usable:
            raise InputError(f"it must have frames with viewpoint and mask, got none of {len(records)}")
        center = meeting_point(Cameras.concatenate([camera for _, camera in usable]))
        frames, cameras = zip(*sorted(usable, key=lambda pair: pair[0].number), strict=True)
        return _Sequence(list(frames), Cameras.concatenate(cameras), center)

    def _frame(self, index: int, view: int) -> Frame:
        sequence = self._sequences[index]
        record = sequence.frames[view]
        image, mask = inside(self._root, record.image), inside(self._root, record.mask)
        return Frame(sequence.cameras[view], image, mask, record.size)

    def _world(self, index: int) -> tuple[Tensor, Tensor | None]:
        return self._sequences[index].center, None


def _annotations(path: Path) -> list[Any]:
    """The list in a gzipped JSON file."""
    with reading(path.name, "fetch it again"):
        with gzip.open(io.BytesIO(read_regular(path, _LARGEST_ANNOTATIONS))) as stream:
            data = stream.read(_LARGEST_ANNOTATIONS + 1)
        if len(data) > _LARGEST_ANNOTATIONS:
            raise InputError(f"{path.name} unpacks to more than {_LARGEST_ANNOTATIONS:,} bytes; fetch it again")
        # not json_text.parse_json: a NaN condemns its own frame or sequence, not the whole category
        content = json.loads(data)
    if not isinstance(content, list):
        raise InputError(f"{path.name} must hold a list, got {type(content).__name__}; fetch it again")
    return content


class ShapeNetSRN(RecordedViews):
    """`ROOT/<id>/{rgb/000000.png, pose/000000.txt, intrinsics.txt}`, on white, the object about the origin, +Z up.

    ROOT is the folder of one split of one class. Poses: 16 numbers, camera-to-world, OpenCV's axes. intrinsics.txt:
    first line "f cx cy 0.", last line "H W", the resolution that these are given for, in pixels from the corner. A view
    without either of its files is noted in `skipped`; an object without views or intrinsics is left out and noted.

    Raises:
        InputError: there is no such folder.
    """

    def __init__(self, root: str | os.PathLike[str], *, size: int = 128, margin: float | None = None) -> None:
        super().__init__(size, margin)
        self._root = existing_folder(root)
        self._stems: list[list[str]] = []
        for folder in subfolders(self._root):
            pictures = {path.stem for path in folder.glob("rgb/*.png")}
            poses = {path.stem for path in folder.glob("pose/*.txt")}
            for stem in sorted(pictures ^ poses):
                kind = "pose" if stem in pictures else "picture"
                self.skipped.append((f"{folder.name} view {stem}", f"its {kind} is missing"))
            if not (folder / "intrinsics.txt").is_file():
                self.skipped.append((folder.name, "its intrinsics.txt is missing"))
            elif not pictures & poses:
                self.skipped.append((folder.name, "it has no view with both rgb and pose"))
            else:
                self.names.append(folder.name)
                self._stems.append(sorted(pictures & poses))

    def view_count(self, index: int) -> int:
        """How many views have both of their files."""
        return len(self._stems[index])

    def _frame(self, index: int, view: int) -> Frame:
        folder, stem = self._root / self.names[index], self._stems[index][view]
        values = _numbers(folder / "intrinsics.txt", "f, cx, cy in its first line and H, W in its last", 6)
        (focal, x, y), (height, width) = values[:3], values[-2:]
        if min(focal, height, width) <= 0:
            got = f"got {focal}, {height} x {width}"
            raise InputError(f"intrinsics.txt must hold a focal length and a size above 0, {got}; fetch it again")
        size = torch.tensor([[width, height]])
        principal = 1 - 2 * torch.tensor([[x, y]]) / size
        matrix = _numbers(folder / "pose" / f"{stem}.txt", "16 numbers", 16, 16)
        pose = torch.tensor(matrix, dtype=torch.float64).reshape(1, 4, 4)
        camera = cameras_from_matrices(pose, focal=2 * focal / size, principal=principal, axes="opencv")
        return Frame(camera, folder / "rgb" / f"{stem}.png")

    def _world(self, index: int) -> tuple[Tensor, Tensor | None]:
        return torch.zeros(3), Z_UP


def _numbers(path: Path, expected: str, least: int, most: float = math.inf) -> list[float]:
    """All numbers in a small text file, of which there must be `least` to `most`; `expected` says it in words."""
    with reading(path.name, "fetch it again", what=expected):
        values = [float(word) for word in read_regular(path, 100_000).decode("utf-8").split()]
    if not least <= len(values) <= most:
        raise InputError(f"{path.name} must hold {expected}, got {len(values)} numbers; fetch it again")
    return values


class ObjaverseRenders(RecordedViews):
    """`ROOT/valid_paths.json` lists ids; `ROOT/<id>/` holds 000.png, 000.npy, 001.png, …, 12 views in all.

    PNG: RGBA on a transparent background. NPY: 3×4 [R|t], world -> camera with Blender's axes (x right, y up, looking
    along -z), the world's +Z up, the object about its origin; fov 49.13 degrees. +Z becomes +Y. Pictures are whole
    unless `margin` is given, so that all views share one focal length. Folders that lack any of the views are left out
    and counted in `skipped`.

    Raises:
        InputError: there is no such folder, or its list cannot be read.
    """

    FOV_DEGREES = 49.13
    VIEWS = 12

    def __init__(self, root: str | os.PathLike[str], *, size: int = 256, margin: float | None = None) -> None:
        super().__init__(size, margin)
        self._root = existing_folder(root)
        for name in from_value(list[str], read_json(self._root / "valid_paths.json"), "valid_paths.json"):
            missing = self._missing(name)
            if missing:
                self.skipped.append((name, missing))
            else:
                self.names.append(name)

    def view_count(self, index: int) -> int:
        """The same for all objects."""
        return self.VIEWS

    def _missing(self, name: str) -> str:
        """What keeps a folder from being read, or an empty string."""
        try:
            folder = inside(self._root, name)
        except InputError as error:
            return str(error)
        if not os.path.isdir(folder):  # unlike pathlib's, also false for names that no folder can have
            return "its folder is missing"
        present = {entry.name for entry in os.scandir(folder)}
        complete = sum(f"{view:03d}.png" in present and f"{view:03d}.npy" in present for view in range(self.VIEWS))
        return "" if complete == self.VIEWS else f"it has {complete} of {self.VIEWS} views"

    def _frame(self, index: int, view: int) -> Frame:
        stem = self._root / self.names[index] / f"{view:03d}"
        path = stem.with_suffix(".npy")
        with reading(path.name, "render it again"):
            content = read_regular(path, 1_000_000)
        matrix = torch.from_numpy(decoded_array(content, (3, 4), path.name).astype(np.float64))
        rotation, translation = matrix[:, :3].T, matrix[:, 3:]  # to camera -> to world
        pose = torch.cat([rotation, -(rotation @ translation)], dim=1)
        camera = cameras_from_matrices(pose[None], focal=focal_from_fov(self.FOV_DEGREES))
        return Frame(camera, stem.with_suffix(".png"))

    def _world(self, index: int) -> tuple[Tensor, Tensor | None]:
        return torch.zeros(3), Z_UP
