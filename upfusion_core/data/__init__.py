"""Posed multi-view examples: readers of data sets and shards, meshes rendered on the fly, and what opens any of them.

A new format is its reader, a line in `DATA_FORMATS` (before "meshes", which takes any folder with a mesh), and a test.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..support.errors import InputError
from ..support.files import existing_folder, located, subfolders

if TYPE_CHECKING:
    from .views import MultiViewDataset


class Format(NamedTuple):
    """What people call it; "module.name" of its reader, called with path and `size`; whether a folder is one."""

    title: str
    reader: str
    fits: Callable[[Path], bool]


def _has(root: Path, *names: str) -> bool:
    """Whether some folder in the root holds all of these."""
    return any(all((folder / name).exists() for name in names) for folder in subfolders(root))


def _holds_meshes(root: Path) -> bool:
    from ..surface.reading import MESH_SUFFIXES

    return any(path.suffix.lower() in MESH_SUFFIXES for path in root.rglob("*"))


_SCANS = (("meshes/model.obj", "materials/textures"), ("model.obj", "texture.png"))
# by the name that `--kind` takes, in the order in which folders are tried, after shards with an index
DATA_FORMATS: dict[str, Format] = {
    "co3d": Format("Co3Dv2", "recorded.Co3D", lambda root: any(root.glob("*/frame_annotations.jgz"))),
    "objaverse": Format(
        "Objaverse renders", "recorded.ObjaverseRenders", lambda root: (root / "valid_paths.json").is_file()
    ),
    "gso": Format("GSO", "meshes.gso", lambda root: any(_has(root, *names) for names in _SCANS)),
    "shapenet_srn": Format("ShapeNet-SRN", "recorded.ShapeNetSRN", lambda root: _has(root, "intrinsics.txt", "pose")),
    "meshes": Format("meshes", "meshes.mesh_folder", _holds_meshes),
    "shards": Format("shards of `upfusion pack`", "shards.ShardedViews", lambda root: any(root.glob("[!.]*.tar"))),
}


def open_dataset(root: str | os.PathLike[str], *, size: int, kind: str | None = None) -> "MultiViewDataset":
    """The data set in a folder, or shards in a .tar or at an address of fsspec; its views have `size` pixels a side.

    `kind` is a name in DATA_FORMATS, recognised by its files unless given. InputError if there is no such folder, or it
    is of no known format.
    """
    from ..support.checks import check_choice
    from .shards import FORMAT, INDEX_NAME, UNFINISHED_NAME, ShardedViews

    path, index = located(root), b""
    if not isinstance(path, Path):
        return ShardedViews(path, size=size)
    if kind in (None, "shards") and path.suffix == ".tar" and path.is_file():
        kind = "shards"
    else:
        existing_folder(path)
    if (path / INDEX_NAME).is_file():  # a pipe would never end
        with suppress(OSError), (path / INDEX_NAME).open("rb") as file:
            index = file.read(1000)  # ours, damaged or not, or somebody else's
    if kind is None and ((path / UNFINISHED_NAME).is_file() or FORMAT.encode() in index):
        kind = "shards"
    if kind is None:
        kind = next((name for name, known in DATA_FORMATS.items() if known.fits(path)), None)
    if kind is None:
        titles = [known.title for known in DATA_FORMATS.values()]
        wanted = f"a folder of {', '.join(titles[:-2])} or {titles[-2]}, or {titles[-1]}"
        raise InputError(f"{root} must be {wanted}, got none of them; choose the folder of the objects' folders")
    check_choice("kind", kind, tuple(DATA_FORMATS))
    module, name = DATA_FORMATS[kind].reader.split(".")
    dataset: MultiViewDataset = getattr(import_module(f".{module}", __name__), name)(path, size=size)
    return dataset
