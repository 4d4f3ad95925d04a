"""Co3Dv2: handheld videos of real objects, with cameras and masks from structure from motion."""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..geometry import cameras_from_matrices
from ..support.checks import check_choice, check_range
from ..support.errors import InputError, UpFusionError
from ..support.files import existing_folder, inside, read_regular, reading
from ..types import Cameras
from .recorded import FRAME_MARGIN, Frame, RecordedViews
from .views import PosedViews, meeting_point

ABSURD_TRANSLATION = 1e5
"""|sum(T)| above which structure from motion has failed."""


@dataclass(frozen=True)
class FrameRecord:
    """number: frame_number, 0-based, not always the file's. image, mask: paths below the root. size: (H, W).

    is_absurd: whether `|sum(T)| > 1e5`, which condemns the whole sequence.
    """

    number: int
    image: str
    mask: str
    size: tuple[int, int]
    is_absurd: bool


def parse_frame(record: dict[str, Any]) -> tuple[FrameRecord, Cameras]:
    """An annotation -> its files, and the camera (one, in the sequence's world, of the whole picture).

    PyTorch3D's convention: x_cam = x_world R + T for row vectors, camera axes left, up, forward. Thus the columns of R
    are the camera's axes in the world, and its centre is -R T. NDC run from border to border in x and in y
    ("ndc_norm_image_bounds", or no key), or are PyTorch3D's, in which half the shorter side is 1 ("ndc_isotropic").

    Raises:
        InputError: it has no viewpoint or no mask, or lacks what a frame must have.
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
        frame = FrameRecord(
            number=int(record["frame_number"]),
            image=str(record["image"]["path"]),
            mask=str(record["mask"]["path"]),
            size=(height, width),
            is_absurd=not float(translation.sum().abs()) <= ABSURD_TRANSLATION,  # NaN included
        )
    if frame.is_absurd:
        translation = torch.zeros(3, dtype=torch.float64)  # never used; NaN would be refused in a camera
    pose = torch.cat([rotation, -(rotation @ translation)[:, None]], dim=1)
    return frame, cameras_from_matrices(pose[None], focal=focal, principal=principal, axes="pytorch3d")


HELD_OUT = (
    *("ball", "book", "couch", "frisbee", "hotdog"),
    *("kite", "remote", "sandwich", "skateboard", "suitcase"),
)
"""The ten categories that are customarily kept from training; the other 41 are trained on."""

_LARGEST_TEXT = 1_000_000_000
"""Bytes of JSON, unpacked: about 1 kB a frame, and the largest categories have some 400,000 frames. Python needs
several times as much."""


@dataclass(frozen=True, eq=False)
class _Sequence:
    """name: category/sequence. frames: usable ones, by number. cameras: theirs, of whole pictures. center: (3,)."""

    name: str
    frames: list[FrameRecord]
    cameras: Cameras
    center: Tensor


@dataclass(frozen=True)
class EvalBatch:
    """One entry of an eval_batches file, as numbers into the data set: `read(index, [*sources, target])`."""

    index: int
    target: int
    sources: tuple[int, ...]


class Co3D(RecordedViews):
    """`ROOT/<category>/{frame_annotations.jgz, sequence_annotations.jgz, set_lists/, eval_batches/, <sequence>/…}`.

    Every view is cropped to the square about its mask's box, `margin` times as large, on white. Nothing says which way
    is up: view 0 becomes our reference camera, and the object's centre is where the optical axes of all usable frames
    of its sequence meet. Left out and counted in `skipped`: categories whose annotations cannot be read; sequences
    with an absurd camera (`|sum(T)| > 1e5`), of too low quality, whose axes do not meet, or without usable frames;
    frames without viewpoint or mask.

    Args:
        root: the folder that holds the categories' folders.
        categories: which of them to read; all that have annotations unless given. See `HELD_OUT`.
        size: side of the views in pixels.
        margin: see `RecordedViews`.
        set_list: only the frames of `set_lists/set_lists_<set_list>.json`, e.g. "fewview_dev"; all unless given.
        subset: which of its three lists.
        min_quality: sequences with a lower viewpoint_quality_score, or none, are left out; None keeps all.
        mask_threshold: probability at and above which a pixel is object, customarily 0.4 to 0.5.

    Raises:
        InputError: there is no such folder, or it holds no annotated category.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        categories: Sequence[str] | None = None,
        *,
        size: int = 256,
        margin: float | None = FRAME_MARGIN,
        set_list: str | None = None,
        subset: Literal["train", "val", "test"] = "train",
        min_quality: float | None = None,
        mask_threshold: float = 0.4,
    ) -> None:
        super().__init__(size, margin)
        check_choice("subset", subset, ("train", "val", "test"))
        check_range("mask_threshold", mask_threshold, 0.0, 1.0)
        self._root, self._threshold = existing_folder(root), mask_threshold
        self._sequences: list[_Sequence] = []
        if categories is None:
            categories = sorted(path.parent.name for path in self._root.glob("*/frame_annotations.jgz"))
        if not categories:
            raise InputError(f"{root} must hold folders with frame_annotations.jgz, got none; check the path")
        for category in categories:
            try:
                self._add_category(category, set_list, subset, min_quality)
            except InputError as error:
                self.skipped.append((category, str(error)))

    def __len__(self) -> int:
        return len(self._sequences)

    def name(self, index: int) -> str:
        """category/sequence of object `index`."""
        return self._sequences[index].name

    def view_count(self, index: int) -> int:
        """How many of its frames have a viewpoint and a mask."""
        return len(self._sequences[index].frames)

    def batches(self, category: str, set_list: str) -> list[EvalBatch]:
        """The fixed evaluation of `eval_batches/eval_batches_<set_list>.json`: the first entry of each is the target.

        Open the data set without `set_list`, so that all frames are there; batches with frames that are not are left
        out and counted in `skipped`.

        Raises:
            InputError: the file cannot be read.
        """
        places = {
            (sequence.name, record.number): (index, view)
            for index, sequence in enumerate(self._sequences)
            for view, record in enumerate(sequence.frames)
        }
        path = self._root / category / "eval_batches" / f"eval_batches_{set_list}.json"
        result = []
        for number, batch in enumerate(_json(path)):
            try:
                found = [places[f"{category}/{sequence}", int(frame)] for sequence, frame, *_ in batch]
                (index,) = {index for index, _ in found}
            except (KeyError, TypeError, ValueError):
                self.skipped.append((f"{category} {set_list} batch {number}", "it names frames that are not usable"))
                continue
            target, *sources = (view for _, view in found)
            result.append(EvalBatch(index, target, tuple(sources)))
        return result

    def read_batch(self, batch: EvalBatch) -> PosedViews:
        """The sources of a batch, the first as reference, and then its target; raises like `read`."""
        return self.read(batch.index, [*batch.sources, batch.target])

    def _add_category(self, category: str, set_list: str | None, subset: str, min_quality: float | None) -> None:
        folder = self._root / category
        records = _json(folder / "frame_annotations.jgz")
        listed, quality = None, {}
        if set_list is not None:
            listed = _listed(folder / "set_lists" / f"set_lists_{set_list}.json", subset)
        if min_quality is not None:
            path = folder / "sequence_annotations.jgz"
            with reading(path.name, "fetch it again", what="one sequence an entry"):
                quality = {entry["sequence_name"]: entry.get("viewpoint_quality_score") for entry in _json(path)}
        sequences: dict[str, list[dict[str, Any]]] = {}
        for record in records:
            sequence = record.get("sequence_name") if isinstance(record, dict) else None
            if not isinstance(sequence, str) or not sequence.isprintable():
                self.skipped.append((category, "a frame annotation names no sequence"))
            else:
                sequences.setdefault(sequence, []).append(record)
        for sequence, frames in sequences.items():
            name = f"{category}/{sequence}"
            score = quality.get(sequence)
            try:
                if min_quality is not None and not (isinstance(score, int | float) and score >= min_quality):
                    raise InputError(f"its viewpoint_quality_score must be at least {min_quality}, got {score}")
                wanted = None if listed is None else listed.get(sequence, set())
                if wanted is None or wanted:
                    self._sequences.append(self._sequence(name, frames, wanted))
            except UpFusionError as error:
                self.skipped.append((name, str(error)))

    def _sequence(self, name: str, records: list[dict[str, Any]], wanted: set[int] | None) -> _Sequence:
        """A sequence's usable frames, those wanted only; its centre is that of all usable ones."""
        usable: list[tuple[FrameRecord, Cameras]] = []
        for record in records:
            try:
                usable.append(parse_frame(record))
            except InputError as error:
                self.skipped.append((f"{name} frame {record.get('frame_number')}", str(error)))
        if not usable:
            raise InputError(f"it must have frames with viewpoint and mask, got none of {len(records)}")
        frames, cameras = zip(*sorted(usable, key=lambda pair: pair[0].number), strict=True)
        absurd = [frame.number for frame in frames if frame.is_absurd]
        if absurd:
            raise InputError(f"frame {absurd[0]} has an absurd camera, |sum(T)| above 1e5; leave the sequence out")
        center = meeting_point(Cameras.concatenate([camera for _, camera in usable]))
        chosen = [place for place, frame in enumerate(frames) if wanted is None or frame.number in wanted]
        if not chosen:
            raise InputError(f"it must have usable frames among the {len(wanted or ())} that are listed, got none")
        seen = Cameras.concatenate([cameras[place] for place in chosen])
        return _Sequence(name, [frames[place] for place in chosen], seen, center)

    def _frame(self, index: int, view: int) -> Frame:
        sequence = self._sequences[index]
        record = sequence.frames[view]
        image, mask = inside(self._root, record.image), inside(self._root, record.mask)
        return Frame(sequence.cameras[view], image, mask, record.size, self._threshold)

    def _world(self, index: int) -> tuple[Tensor, Tensor | None]:
        return self._sequences[index].center, None


def _json(path: Path, kind: type = list) -> Any:  # noqa: ANN401 - whatever the file holds
    """The list, or other `kind`, in a JSON file, gzipped where the name says so."""
    with reading(path.name, "fetch it again"):
        data = read_regular(path, _LARGEST_TEXT)
        if path.suffix == ".jgz":
            with gzip.open(io.BytesIO(data)) as stream:
                data = stream.read(_LARGEST_TEXT + 1)
        if len(data) > _LARGEST_TEXT:
            raise InputError(f"{path.name} unpacks to more than {_LARGEST_TEXT:,} bytes; fetch it again")
        # not parse_json: a NaN condemns its own frame or sequence, not the whole category
        content = json.loads(data)
    if not isinstance(content, kind):
        raise InputError(f"{path.name} must hold a {kind.__name__}, got {type(content).__name__}; fetch it again")
    return content


def _listed(path: Path, subset: str) -> dict[str, set[int]]:
    """Frame numbers by sequence of one list of a set_lists file."""
    result: dict[str, set[int]] = {}
    with reading(path.name, "fetch it again", what=f"lists of sequence, frame number and path under {subset!r}"):
        for sequence, number, *_ in _json(path, dict)[subset]:
            result.setdefault(sequence, set()).add(int(number))
    return result
