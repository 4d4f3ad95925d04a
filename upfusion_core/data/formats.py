"""A folder of any known format, or shards -> its reader, for callers that are given a path and nothing more."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, get_args

from ..support.checks import check_choice
from ..support.errors import InputError
from ..support.files import existing_file, existing_folder, subfolders
from ..surface.reading import MESH_SUFFIXES
from .co3d import Co3D
from .examples import MultiViewDataset
from .meshes import MeshRendering, MeshSource, MeshViews, mesh_folder
from .renders import ObjaverseRenders, ShapeNetSRN
from .shards import INDEX_NAME, UNFINISHED_NAME, ShardedViews, is_index, tar_files


def gso(root: str | os.PathLike[str], rendering: MeshRendering | None = None) -> MeshViews:
    """All scans below a folder of Google Scanned Objects, +Z up turned to +Y up, in the order of their names.

    One distribution has `<Name>/meshes/model.obj` and `<Name>/materials/textures/texture.png`, though its material
    names the picture beside the OBJ; the other is flat: `<Name>/model.obj` and `<Name>/texture.png`. Metres become
    our units by `rendering.radius`. Folders without model or texture are counted in `skipped`.

    Raises:
        InputError: there is no such folder, or it holds no scans.
    """
    root = existing_folder(root)
    sources: list[MeshSource] = []
    skipped: list[tuple[str, str]] = []
    for folder in subfolders(root):
        model = existing_file(folder / "meshes" / "model.obj", folder / "model.obj")
        if model is None:
            skipped.append((folder.name, "it has neither meshes/model.obj nor model.obj"))
            continue
        beside = model.parent / "texture.png"
        texture = existing_file(folder / "materials" / "textures" / "texture.png", beside)
        if texture is None:
            skipped.append((folder.name, "its texture.png is missing"))
            continue
        sources.append(MeshSource(folder.name, model, "z", texture))
    if not sources:
        raise InputError(
            f"{root} must hold folders with model.obj and texture.png, got none ({len(skipped)} skipped); "
            "choose the folder that holds the objects' folders"
        )
    return MeshViews(sources, rendering or MeshRendering(), skipped)


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
