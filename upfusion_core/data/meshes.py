"""Meshes rendered on the fly as posed views: any folder of GLB, glTF, OBJ and PLY files, and Google Scanned Objects."""

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from ..geometry import random_cameras
from ..support.errors import InputError, UpFusionError
from ..support.files import existing_file, existing_folder, subfolders
from ..surface.rasterise import rasterise
from ..surface.reading import MESH_SUFFIXES, Surface, read_surface
from ..types import Cameras
from .views import UP, MultiViewDataset, PosedViews, checked_views, normalise, note

RADIUS = 0.2  # of the sphere about the object: at distance 1 and focal 4.5 it reaches 0.92 of the way to the border
_Z_UP = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])  # (x, y, z) -> (x, z, -y), which has +Y up


@dataclass(frozen=True)
class MeshSource:
    """One object's file; `z_up`: whether +Z points up in it, not +Y; `texture` is shown whatever the materials say."""

    name: str
    path: Path
    z_up: bool = False
    texture: Path | None = None

    def read(self) -> Surface:
        """The object with +Y up, centred, its farthest vertex at the sphere's radius. Raises InputError."""
        surface = read_surface(self.path, self.texture)
        return (surface.turned(_Z_UP) if self.z_up else surface).centered(RADIUS)


@dataclass(eq=False)
class MeshViews(MultiViewDataset):
    """Objects given as meshes, with depths; cameras stand all round, over the band, at distance 1.

    `read` renders the same cameras of an object every time, which follow from its name; `draw` new ones from the
    generator. size: pixels a side. views: how many an object has when it is read (not when it is drawn).
    """

    sources: Sequence[MeshSource]
    size: int = 256
    views: int = 24
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.sources)

    def view_count(self, index: int) -> int:
        return self.views

    def read(self, index: int, views: Sequence[int] | None = None) -> PosedViews:
        source = self.sources[index]
        chosen = checked_views(views, self.views, source.name)
        generator = torch.Generator().manual_seed(zlib.crc32(f"0 {source.name}".encode()))
        return self._rendered(source, random_cameras(self.views, generator=generator)[torch.tensor(chosen)])

    def draw(self, index: int, count: int, generator: torch.Generator) -> PosedViews:
        return self._rendered(self.sources[index], random_cameras(count, generator=generator))

    def surface(self, index: int, views: PosedViews) -> Surface:
        """The true surface of object `index` in the world of `views`, which were read from it."""
        assert views.placement is not None, "of views that were read from here"
        surface = self.sources[index].read()
        return replace(surface, vertices=views.placement.apply(surface.vertices.double()).float())

    def _rendered(self, source: MeshSource, cameras: Cameras) -> PosedViews:
        try:
            surface = source.read()
        except UpFusionError as error:
            note(self.skipped, source.name, str(error))
            raise
        seen = rasterise(surface, cameras, self.size)
        moved, placement = normalise(cameras, center=torch.zeros(3), up=UP)
        depth = seen.depth * placement.scale
        return PosedViews(seen.rgb, seen.opacity, moved, source.name, depth=depth, placement=placement)


def mesh_folder(root: str | os.PathLike[str], *, size: int = 256) -> MeshViews:
    """All GLB, glTF, OBJ and PLY files below a folder but hidden ones, +Y up, named by their paths, in their order."""
    root = existing_folder(root)
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in MESH_SUFFIXES and path.is_file())
    sources = [MeshSource(path.relative_to(root).as_posix(), path) for path in paths]
    sources = [source for source in sources if "/." not in f"/{source.name}"]
    if not sources:
        raise InputError(f"{root} must hold {', '.join(MESH_SUFFIXES)} files, got none; choose another folder")
    return MeshViews(sources, size)


def gso(root: str | os.PathLike[str], *, size: int = 256) -> MeshViews:
    """All scans below a folder of Google Scanned Objects, +Z up turned to +Y up, in the order of their names.

    One distribution has `<Name>/meshes/model.obj` and `<Name>/materials/textures/texture.png`, though its material
    names the picture beside the OBJ; the other is flat: `<Name>/model.obj` and `<Name>/texture.png`. Folders without
    model or texture are counted in `skipped`.
    """
    root = existing_folder(root)
    sources: list[MeshSource] = []
    skipped: list[tuple[str, str]] = []
    for folder in subfolders(root):
        model = existing_file(folder / "meshes/model.obj", folder / "model.obj")
        texture = model and existing_file(folder / "materials/textures/texture.png", model.parent / "texture.png")
        if model is None:
            skipped.append((folder.name, "it has neither meshes/model.obj nor model.obj"))
        elif texture is None:
            skipped.append((folder.name, "its texture.png is missing"))
        else:
            sources.append(MeshSource(folder.name, model, z_up=True, texture=texture))
    if not sources:
        wanted = f"folders with model.obj and texture.png, got none ({len(skipped)} skipped)"
        raise InputError(f"{root} must hold {wanted}; choose the folder that holds the objects' folders")
    return MeshViews(sources, size, skipped=skipped)
