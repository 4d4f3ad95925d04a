"""Files of cameras that other programs write -> named cameras in their own world: transforms.json, COLMAP, splats."""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..config.base import from_value
from ..geometry.cameras import quaternion_rotation
from ..geometry.lenses import MODELS, Lens
from ..support.errors import InputError
from ..support.files import json_number, read_json, reading, shown
from ..types import PhotoCameras, SourcePhoto

OPENCV_AXES = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
"""OpenCV's and COLMAP's camera axes (right, down, forward) <-> ours (right, up, backward)."""

_MOST = 100_000
"""Cameras in one file."""

_READ = (
    "read are transforms.json (nerfstudio, instant-ngp, Blender), COLMAP's sparse folders, cameras.json of splats and "
    "the photo_cameras.json of a run"
)


@dataclass(frozen=True, eq=False)
class FileCamera:
    """One camera of a file.

    name: the picture's, with slashes. camera_to_world: (4, 4) float64, our camera axes, the file's world; may hold NaN.
    lens: in pixels of the file's pictures; of pictures 1 wide where the file tells no size and no pixels.
    sized: whether the file tells the size; else it follows from the lens's centre, roughly, or is (1, 1).
    status: how a run that wrote it knew it, one of STATUSES.
    """

    name: str
    camera_to_world: Tensor
    lens: Lens
    sized: bool = True
    status: str = "given"


@dataclass(frozen=True, eq=False)
class CameraFile:
    """A file's cameras. up: of its world, where the format says it. ours: a run wrote it, in its field's frame."""

    path: Path
    cameras: tuple[FileCamera, ...]
    up: tuple[float, float, float] | None = None
    ours: bool = False


def read_camera_files(path: Path) -> list[CameraFile]:
    """A file or folder of cameras -> its worlds: one, or one a model where COLMAP made several.

    Raises InputError: it is none of the formats, damaged, or has an unknown lens; the sentence names file and entry.
    """

    def holds(folder: Path) -> bool:
        """Whether it is a model of COLMAP's."""
        pairs = [(folder / f"cameras.{kind}", folder / f"images.{kind}") for kind in ("bin", "txt")]
        return any(cameras.is_file() and images.is_file() for cameras, images in pairs)

    if path.is_dir():
        for parent in (path, path / "sparse", path / "colmap" / "sparse", path / "dense" / "sparse"):
            if holds(parent):
                return [_colmap(parent)]
            if numbered := [folder for folder in parent.glob("*") if folder.name.isdigit() and holds(folder)]:
                return [_colmap(folder) for folder in sorted(numbered, key=lambda folder: int(folder.name))]
        for name in ("transforms.json", "transforms_train.json", "cameras.json", "photo_cameras.json"):
            if (path / name).is_file():
                return read_camera_files(path / name)
        raise InputError(f"{path} must hold cameras, got none; {_READ}")
    if path.name in _COLMAP_NAMES:
        return [_colmap(path.parent)]
    content = read_json(path, finite=False)
    if isinstance(content, dict) and isinstance(content.get("frames"), list):
        return [CameraFile(path, tuple(_frames(content, path)), up=(0.0, 0.0, 1.0))]
    if isinstance(content, dict) and isinstance(content.get("photos"), list):
        found = [_own_camera(row, f"{path}, photo {index + 1}") for index, row in enumerate(content["photos"])]
        return [CameraFile(path, tuple(found), up=(0.0, 1.0, 0.0), ours=True)]
    if isinstance(content, list) and content and all(isinstance(row, dict) and "position" in row for row in content):
        return [CameraFile(path, tuple(_splat_camera(row, f"{path}, camera {i}") for i, row in enumerate(content)))]
    raise InputError(f'{path} is not a transforms.json (a list "frames"), got {shown(content, 60)}; {_READ}')


STATUSES = ("reference", "given", "found", "refused")


def written_cameras(cameras: PhotoCameras, sources: Sequence[SourcePhoto]) -> dict[str, Any]:
    """What photo_cameras.json holds: the cameras of whole photos, in the field's frame, and how they are known."""
    photos = []
    for index, (camera, source) in enumerate(zip(cameras.cameras, sources, strict=True)):
        left, top, right, bottom = source.box
        width, height = source.size
        whole = Lens.of_camera(camera, (right - left, bottom - top)).cut(-left, -top, width - left, height - top)
        focal, principal = whole.ndc
        status, reason = cameras.status(index), ""
        if status == "refused":
            reason = f"its camera is not sure enough (trust {float(cameras.score[index]):.2f})"
            reason += f": {cameras.reasons[index]}" if cameras.reasons else ""
        entry = {"file": source.name, "size": [width, height], "status": status}
        matrix = camera.camera_to_world[0].tolist()
        entry |= {"camera_to_world": matrix, "focal": focal, "principal": principal, "reason": reason}
        photos.append(entry if source.straightened is None else {**entry, "distortion": source.straightened})
    return {"photos": photos}


def _own_camera(row: Any, label: str) -> FileCamera:  # noqa: ANN401 - any JSON
    if not isinstance(row, dict) or not isinstance(row.get("file"), str) or row.get("status") not in STATUSES:
        wanted = f"{label} must have a file and a status ({', '.join(STATUSES)})"
        raise InputError(f"{wanted}, got {shown(row, 60)}; correct it there")
    pairs = []
    for name in ("size", "focal", "principal"):
        pair = from_value(tuple[float, float], row.get(name), f"{label}, {name}")
        pairs.append([json_number(value, f"{label}, {name}") for value in pair])  # which bounds them too
    (width, height), (fx, fy), (x, y) = pairs
    if min(width, height, fx, fy) <= 0:
        raise InputError(f"{label}, size and focal must be above 0, got {pairs[:2]}; correct it there")
    distortion = from_value(dict[str, Any] | None, row.get("distortion"), f"{label}, distortion") or {}
    pinhole = {"size": (width, height), "focal": (fx * width / 2, fy * height / 2)}
    pinhole["center"] = ((1 - x) * width / 2, (1 - y) * height / 2)
    lens: Lens = from_value(Lens, distortion | pinhole, f"{label}, distortion")
    matrix = _matrix(row.get("camera_to_world"), f"{label}, camera_to_world")
    return FileCamera(_slashed(row["file"]), matrix, lens, status=row["status"])


def _frames(content: dict[str, Any], path: Path) -> Iterator[FileCamera]:
    frames = content["frames"]
    if not 1 <= len(frames) <= _MOST:
        found = "no frames" if not frames else f"{len(frames)} frames"
        raise InputError(f"{path} must hold 1 to {_MOST} frames, it has {found}; was no photo placed?")
    for index, frame in enumerate(frames):
        label = f"{path}, frame {index}"
        if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
            raise InputError(f"{label} must have a file_path, got {shown(frame, 60)}; correct it there")
        label = f"{label} ({frame['file_path']})"
        matrix = _matrix(frame.get("transform_matrix"), f"{label}, transform_matrix")
        own = {name: value for name, value in frame.items() if value is not None}
        focal = {"fl_x", "fl_y", "camera_angle_x", "camera_angle_y"}
        if focal & own.keys():  # a focal length of its own stands above an angle at the top, and the other way round
            own = {**dict.fromkeys(focal & content.keys()), **own}
        yield FileCamera(_slashed(frame["file_path"]), matrix, *_lens({**content, **own}, label))


def _lens(values: Mapping[str, Any], label: str) -> tuple[Lens, bool]:
    """The lens of a frame, by focal lengths in pixels or angles of view, and whether the size is told."""
    names = ("w", "h", "cx", "cy", "fl_x", "fl_y", "camera_angle_x", "camera_angle_y")
    known = [name for name in (*names, "k1", "k2", "k3", "k4", "p1", "p2") if values.get(name) is not None]
    told = {name: json_number(values[name], f"{label}, {name}") for name in known}
    width, height = told.get("w", 0.0), told.get("h", 0.0)
    sized = width > 0 and height > 0
    if not sized and "fl_x" in told:
        if "cx" not in told:
            problem = f"{label} has fl_x in pixels but no size"
            raise InputError(f"{problem}; add w and h of the pictures that it was made from")
        width, height = 2 * told["cx"], 2 * told.get("cy", told["cx"])
    elif not sized:
        width = height = 1.0
    focal = {"x": told.get("fl_x", 0.0), "y": told.get("fl_y", told.get("fl_x", 0.0))}
    for axis, side in (("x", width), ("y", height)):
        angle = told.get(f"camera_angle_{axis}")
        if angle is None or focal[axis] or not (sized or axis == "x"):
            continue
        if not 0 < angle / 2 < 1.57:
            wanted = f"{label}, camera_angle_{axis} must be an angle of view in radians below 3.14"
            raise InputError(f"{wanted}, got {angle:.4g}; correct it there")
        focal[axis] = side / (2 * float(torch.tensor(angle / 2, dtype=torch.float64).tan()))
    focal = {"fx": focal["x"] or focal["y"], "fy": focal["y"] or focal["x"]}
    if not min(focal.values()) > 0:
        raise InputError(f"{label} must have a focal length (fl_x) or an angle of view (camera_angle_x), got none")
    model = "OPENCV_FISHEYE" if values.get("is_fisheye") else values.get("camera_model") or "OPENCV"
    parts = {name: value for name, value in told.items() if name in ("cx", "cy") or name[0] in "kp"}
    try:
        model = model if isinstance(model, str) else shown(model, 30)
        return Lens.of_model(model, (width, height), {**focal, **parts}), sized
    except InputError as error:
        raise InputError(f"{label}: {error}") from error


def _splat_camera(row: dict[str, Any], label: str) -> FileCamera:
    """An entry of cameras.json beside a Gaussian splat: columns of rotation are right, down, forward."""
    with reading(label, "correct it there", what="a camera with rotation (3 x 3) and position (3)"):
        joined = [[*line, place] for line, place in zip(row["rotation"], row["position"], strict=True)]
    names, name = ("width", "height", "fx", "fy"), row.get("img_name", row.get("id", ""))
    width, height, *focal = (json_number(row.get(key), f"{label}, {key}") for key in names)
    lens = Lens((width, height), (focal[0], focal[1]), (width / 2, height / 2))
    return FileCamera(_slashed(str(name)), _matrix(joined, label) @ OPENCV_AXES, lens)


_COLMAP_NAMES = ("cameras.txt", "images.txt", "cameras.bin", "images.bin")
_BY_NUMBER = (
    *("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE", "FULL_OPENCV", "FOV"),
    *("SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "THIN_PRISM_FISHEYE", "RAD_TAN_THIN_PRISM_FISHEYE"),
)  # COLMAP's models, in the order of the numbers that stand for them in its binary files
_NO_COLMAP = "export the model there again"


def _colmap(folder: Path) -> CameraFile:
    binary = (folder / "images.bin").is_file() and (folder / "cameras.bin").is_file()
    lenses, images = (_colmap_binary if binary else _colmap_text)(folder)
    found = []
    for numbers, camera, name in images:
        label = f"{folder}, image {name}"
        if camera not in lenses:
            raise InputError(f"{label} must have a camera, but there is no camera {camera}; {_NO_COLMAP}")
        model, size, parameters = lenses[camera]
        try:
            lens = Lens.of_model(model, size, dict(zip(MODELS.get(model, ()), parameters, strict=False)))
        except InputError as error:
            raise InputError(f"{label}: {error}") from error
        pose, matrix = torch.tensor(numbers, dtype=torch.float64), torch.eye(4, dtype=torch.float64)
        w, x, y, z = pose[:4] / pose[:4].norm().clamp_min(1e-12)
        matrix[:3, :3] = quaternion_rotation(x, y, z, w).T  # COLMAP's are world-to-camera
        matrix[:3, 3] = -matrix[:3, :3] @ pose[4:]
        found.append(FileCamera(_slashed(name), matrix @ OPENCV_AXES, lens))
    if not found:
        raise InputError(f"{folder} must hold images with cameras, got none; was no photo placed?")
    return CameraFile(folder, tuple(found))


Lenses = dict[int, tuple[str, tuple[float, float], Sequence[float]]]
Images = list[tuple[Sequence[float], int, str]]


def _colmap_text(folder: Path) -> tuple[Lenses, Images]:
    with reading(folder, _NO_COLMAP):
        lines = [line.split() for line in _lines(folder / "cameras.txt") if line.strip()]
        lenses: Lenses = {int(key): (kind, (float(w), float(h)), [*map(float, k)]) for key, kind, w, h, *k in lines}
        images: Images = []
        rows = iter(_lines(folder / "images.txt"))
        for row in rows:
            if row.strip():
                *numbers, camera, name = row.split(maxsplit=9)[1:]
                images.append(([float(value) for value in numbers], int(camera), name.strip()))
                next(rows, None)  # the line of points, which may be empty
    return lenses, images


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]


def _colmap_binary(folder: Path) -> tuple[Lenses, Images]:
    def numbers(file: BinaryIO, form: str) -> tuple[Any, ...]:
        return struct.unpack("<" + form, file.read(struct.calcsize("<" + form)))

    lenses: Lenses = {}
    images: Images = []
    with reading(folder, _NO_COLMAP), (folder / "cameras.bin").open("rb") as file:
        for _ in range(numbers(file, "Q")[0]):
            key, kind, width, height = numbers(file, "iiQQ")
            model = _BY_NUMBER[kind] if 0 <= kind < len(_BY_NUMBER) else f"number {kind}"
            lenses[key] = (model, (width, height), numbers(file, f"{len(MODELS.get(model, ()))}d"))
            if model not in MODELS:
                break  # its length is not known; the image that has it says so
    with reading(folder, _NO_COLMAP), (folder / "images.bin").open("rb") as file:
        for _ in range(numbers(file, "Q")[0]):
            _, *pose, camera = numbers(file, "i7di")
            name = b"".join(iter(lambda: numbers(file, "c")[0], b"\0"))
            images.append((pose, camera, name.decode("utf-8")))
            file.seek(24 * numbers(file, "Q")[0], 1)
    return lenses, images


def _slashed(name: str) -> str:
    return str(PurePosixPath(name.replace("\\", "/")))


def _matrix(rows: Any, label: str) -> Tensor:  # noqa: ANN401 - any JSON
    """3 or 4 rows of 4 numbers, NaN and infinity among them, as a (4, 4) matrix."""
    if isinstance(rows, list) and len(rows) in (3, 4) and all(isinstance(row, list) and len(row) == 4 for row in rows):
        full = torch.eye(4, dtype=torch.float64)
        for index, row in enumerate(rows[:3]):
            full[index] = torch.tensor([json_number(value, label, finite=False) for value in row], dtype=torch.float64)
        return full
    raise InputError(f"{label} must be 3 or 4 rows of 4 numbers, got {shown(rows, 60)}; correct it there")
