"""Pictures with known cameras as data sets that other programs train on: nerfstudio's transforms.json and COLMAP."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..geometry.lenses import Lens
from ..support.checks import check_choice
from ..support.files import replacing
from ..support.images import to_8bit, unit_range
from ..types import Cameras
from .camera_files import OPENCV_AXES

SCENE_FORMATS = ("nerfstudio", "colmap")

_Z_UP = torch.tensor([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]], dtype=torch.float64)
"""Our world (+Y up) -> nerfstudio's and Blender's (+Z up)."""


@dataclass(frozen=True, eq=False)
class PosedPicture:
    """One picture of a data set. name: without suffix; rgb: (3, H, W), uint8 or in [0, 1]; mask: (H, W) in [0, 1]."""

    name: str
    rgb: Tensor
    camera: Cameras
    mask: Tensor | None = None

    @property
    def pixels(self) -> tuple[float, float, float, float]:
        """Focal lengths and centre in pixels, (0, 0) the corner of the top left one."""
        lens = Lens.of_camera(self.camera, (self.rgb.shape[2], self.rgb.shape[1]))
        return (*lens.focal, *lens.center)


def export_scene(
    pictures: Sequence[PosedPicture], folder: Path, form: str, points: Tensor, colors: Tensor
) -> list[Path]:
    """Writes a folder that nerfstudio or COLMAP's users (Gaussian trainers among them) read; gives its files.

    Pictures go to images/ as PNG, masks to masks/. The world is ours, for nerfstudio turned to +Z up.

    Args:
        form: one of SCENE_FORMATS.
        points, colors: (P, 3) of the object's surface, for programs that start from sparse points; colours in [0, 1].
    """
    check_choice("the format", form, SCENE_FORMATS)
    files = []
    for picture in pictures:
        pixels = to_8bit(unit_range(picture.rgb).permute(1, 2, 0))
        files.append(_save(folder / "images" / f"{picture.name}.png", pixels))
        if picture.mask is not None:
            files.append(_save(folder / "masks" / f"{picture.name}.png", to_8bit(picture.mask)))
    if form == "nerfstudio":
        frames = []
        for picture in pictures:
            names, (height, width) = ("fl_x", "fl_y", "cx", "cy"), picture.rgb.shape[1:]
            matrix = (_Z_UP @ picture.camera.camera_to_world[0].double()).tolist()
            frame = {"file_path": f"images/{picture.name}.png", **dict(zip(names, picture.pixels, strict=True))}
            frame |= {"w": width, "h": height, "transform_matrix": matrix}
            frames.append(frame if picture.mask is None else {**frame, "mask_path": f"masks/{picture.name}.png"})
        scene = {"camera_model": "OPENCV", "ply_file_path": "points.ply", "frames": frames}
        kinds = {"float": ("x", "y", "z"), "uchar": ("red", "green", "blue")}
        properties = [f"property {kind} {name}" for kind, names in kinds.items() for name in names]
        head = ["ply", "format ascii 1.0", f"element vertex {len(points)}", *properties, "end_header"]
        pairs = zip((points.double() @ _Z_UP[:3, :3].T).tolist(), to_8bit(colors).tolist(), strict=True)
        rows = [f"{x:.7g} {y:.7g} {z:.7g} {r} {g} {b}" for (x, y, z), (r, g, b) in pairs]
        texts = {"transforms.json": json.dumps(scene, indent=1), "points.ply": "\n".join([*head, *rows, ""])}
    else:
        parts = zip(("cameras.txt", "images.txt", "points3D.txt"), _colmap(pictures, points, colors), strict=True)
        texts = {f"sparse/0/{name}": text for name, text in parts}
    for name, text in texts.items():
        with replacing(folder / name) as partial:
            partial.write_text(text, encoding="utf-8")
        files.append(folder / name)
    return files


def _save(path: Path, pixels: np.ndarray) -> Path:
    with replacing(path) as partial:
        Image.fromarray(pixels).save(partial)
    return path


def _colmap(pictures: Sequence[PosedPicture], points: Tensor, colors: Tensor) -> tuple[str, str, str]:
    """cameras.txt, images.txt and points3D.txt; a point's track names the pictures that it lies in front of."""
    from trimesh.transformations import quaternion_from_matrix  # late: nodes take the names above before they run

    cameras, images = [], []
    tracks: list[list[str]] = [[] for _ in range(len(points))]
    for number, picture in enumerate(pictures, 1):
        height, width = picture.rgb.shape[1:]
        lens = picture.pixels
        cameras.append(f"{number} PINHOLE {width} {height} " + " ".join(f"{value:.12g}" for value in lens))
        inverse = torch.linalg.inv(picture.camera.camera_to_world[0].double() @ OPENCV_AXES)
        local = points.double() @ inverse[:3, :3].T + inverse[:3, 3]
        place = local[:, :2] / local[:, 2:].clamp_min(1e-9) * torch.tensor(lens[:2]) + torch.tensor(lens[2:])
        inside = (local[:, 2] > 0) & (place >= 0).all(-1) & (place < torch.tensor([width, height])).all(-1)
        seen = inside.nonzero()[:, 0].tolist()
        for index, point in enumerate(seen):
            tracks[point] += [str(number), str(index)]
        pose = [*quaternion_from_matrix(inverse.numpy()), *inverse[:3, 3].tolist()]
        images.append(f"{number} " + " ".join(f"{value:.12g}" for value in pose) + f" {number} {picture.name}.png")
        shown = zip(place[seen].tolist(), seen, strict=True)
        images.append(" ".join(f"{x:.6f} {y:.6f} {point + 1}" for (x, y), point in shown))
    rows = []
    for point, (place, color) in enumerate(zip(points.tolist(), to_8bit(colors).tolist(), strict=True)):
        numbers = " ".join(f"{value:.9g}" for value in place)
        rows.append(" ".join([str(point + 1), numbers, *map(str, color), "0", *tracks[point]]))
    return tuple("\n".join([*lines, ""]) for lines in (cameras, images, rows))  # type: ignore[return-value]
