"""A folder of any known format, or shards -> its reader, for callers that are given a path and nothing more.

A new format is its reader and a line in `FORMATS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ..support.errors import InputError
from ..support.files import existing_folder, subfolders

if TYPE_CHECKING:
    from .views import MultiViewDataset


@dataclass(frozen=True)
class Format:
    """One format of data sets.

    title: what people call it. reader: "module.name" in this package, called with the folder and `size`, pixels.
    fits: whether a folder is one, by files that only this format has; broken objects beside good ones do not matter.
    """

    title: str
    reader: str
    fits: Callable[[Path], bool]


def _has(root: Path, *names: str) -> bool:
    """Whether some folder in `root` holds all of these."""
    return any(all((folder / name).exists() for name in names) for folder in subfolders(root))


def _holds_meshes(root: Path) -> bool:
    from ..surface.reading import MESH_SUFFIXES

    return any(path.suffix.lower() in MESH_SUFFIXES for path in root.rglob("*"))


FORMATS: dict[str, Format] = {
    "co3d": Format("Co3Dv2", "co3d.Co3D", lambda root: any(root.glob("*/frame_annotations.jgz"))),
    "objaverse": Format(
        "Objaverse renders", "renders.ObjaverseRenders", lambda root: (root / "valid_paths.json").is_file()
    ),
    "gso": Format(
        "GSO",
        "meshes.gso",
        lambda root: _has(root, "meshes/model.obj", "materials/textures") or _has(root, "model.obj", "texture.png"),
    ),
    "shapenet_srn": Format("ShapeNet-SRN", "renders.ShapeNetSRN", lambda root: _has(root, "intrinsics.txt", "pose")),
    "meshes": Format("meshes", "meshes.mesh_folder", _holds_meshes),
    "shards": Format("shards of `upfusion pack`", "shards.ShardedViews", lambda root: any(root.glob("[!.]*.tar"))),
}
"""By the name that `--kind` takes, in the order in which folders are tried, after shards with an index."""

_TITLES = [known.title for known in FORMATS.values()]
FOLDERS = f"a folder of {', '.join(_TITLES[:-2])} or {_TITLES[-2]}, or {_TITLES[-1]}"
"""What `open_dataset` takes, in words."""


def open_dataset(root: str | os.PathLike[str], *, size: int, kind: str | None = None) -> MultiViewDataset:
    """The data set below a folder, with each reader's defaults; open the reader itself for its options.

    Args:
        root: the folder; of shards also a single .tar file.
        size: side of the views in pixels.
        kind: its format, a name in FORMATS; recognised by its files unless given.

    Raises:
        InputError: there is no such folder, or it is of no known format.
    """
    from ..support.checks import check_choice

    if kind in (None, "shards") and Path(root).suffix == ".tar" and Path(root).is_file():
        kind = "shards"
    else:
        root = existing_folder(root)
        kind = recognised_format(root) if kind is None else kind
    check_choice("kind", kind, tuple(FORMATS))
    module, name = FORMATS[kind].reader.split(".")
    dataset: MultiViewDataset = getattr(import_module(f".{module}", __package__), name)(root, size=size)
    return dataset


def recognised_format(root: str | os.PathLike[str]) -> str:
    """The format of a folder, a name in FORMATS.

    Raises:
        InputError: there is no such folder, or it is of no known format.
    """
    from .shards import INDEX_NAME, UNFINISHED_NAME, is_index

    root = existing_folder(root)
    if (root / UNFINISHED_NAME).is_file() or is_index(root / INDEX_NAME):
        return "shards"
    for name, known in FORMATS.items():
        if known.fits(root):
            return name
    raise InputError(f"{root} must be {FOLDERS}, got none of them; choose the folder that holds the objects' folders")
