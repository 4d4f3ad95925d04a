"""A folder of any known format, or shards -> its reader, for callers that are given a path and nothing more."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, get_args

from ..checks import check_choice
from ..errors import InputError
from .co3d import Co3D
from .examples import MultiViewDataset
from .folders import existing_folder, subfolders
from .gso import gso
from .meshes import MeshRendering, mesh_folder
from .objaverse import ObjaverseRenders
from .shapenet_srn import ShapeNetSRN
from .shards import ShardedViews
from .shards_index import INDEX_NAME, UNFINISHED_NAME, is_index, tar_files
from .surface import MESH_SUFFIXES

Format = Literal["co3d", "objaverse", "gso", "shapenet_srn", "meshes", "shards"]

FORMATS: tuple[Format, ...] = get_args(Format)


def open_dataset(root: str | os.PathLike[str], *, size: int, kind: Format | None = None) -> MultiViewDataset:
    """The data set below a folder, with each reader's defaults; open the reader itself for its options.

    Args:
        root: the folder; of shards also a single .tar file.
        size: side of the views in pixels.
        kind: its format; recognised by its files unless given.

    Raises:
        InputError: there is no such folder, or it is of no known format.
    """
    if Path(root).suffix == ".tar" and Path(root).is_file() and kind in (None, "shards"):
        return ShardedViews(root, size=size)
    root = existing_folder(root)
    kind = recognised_format(root) if kind is None else kind
    check_choice("kind", kind, FORMATS)
    if kind == "shards":
        return ShardedViews(root, size=size)
    if kind == "co3d":
        return Co3D(root, size=size)
    if kind == "objaverse":
        return ObjaverseRenders(root, size=size)
    if kind == "shapenet_srn":
        return ShapeNetSRN(root, size=size)
    return (gso if kind == "gso" else mesh_folder)(root, MeshRendering(size=size))


def recognised_format(root: str | os.PathLike[str]) -> Format:
    """The format of a folder by the files that only this format has; broken objects beside good ones do not matter.

    Raises:
        InputError: there is no such folder, or it is of no known format.
    """
    root = existing_folder(root)
    if (root / UNFINISHED_NAME).is_file() or is_index(root / INDEX_NAME):
        return "shards"
    if (root / "valid_paths.json").is_file():
        return "objaverse"
    if any(root.glob("*/frame_annotations.jgz")):
        return "co3d"
    folders = subfolders(root)
    if any((folder / "intrinsics.txt").is_file() and (folder / "pose").is_dir() for folder in folders):
        return "shapenet_srn"
    if any(_is_scan(folder) for folder in folders):
        return "gso"
    if any(path.suffix.lower() in MESH_SUFFIXES for path in root.rglob("*")):
        return "meshes"
    if tar_files(root):
        return "shards"
    raise InputError(
        f"{root} must be a data set of Co3Dv2, Objaverse renders, GSO, ShapeNet-SRN, meshes "
        f"({', '.join(MESH_SUFFIXES)}) or shards of `upfusion pack`, got none of them; choose the folder that holds "
        "the objects' folders"
    )


def _is_scan(folder: Path) -> bool:
    """Whether a folder is laid out as one of GSO's."""
    nested = (folder / "meshes" / "model.obj").is_file() and (folder / "materials" / "textures").is_dir()
    return nested or ((folder / "model.obj").is_file() and (folder / "texture.png").is_file())
