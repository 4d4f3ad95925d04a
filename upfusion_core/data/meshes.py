"""Meshes rendered on the fly as posed views: any folder of GLB, OBJ and PLY files, and Google Scanned Objects."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from ..geometry import random_cameras
from ..geometry.cameras import BAND_ELEVATION_DEGREES
from ..support.checks import check_choice, check_count, check_range
from ..support.errors import InputError, UpFusionError
from ..support.files import existing_file, existing_folder, subfolders
from ..surface.rasterise import rasterise
from ..surface.reading import MESH_SUFFIXES, Surface, read_surface
from ..types import REFERENCE_FOCAL, Cameras
from .views import PosedViews, checked_views, normalise, note

_UP = torch.tensor([0.0, 1.0, 0.0])

_Z_UP = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
"""Turns a world with +Z up into one with +Y up: (x, y, z) -> (x, z, -y)."""


@dataclass(frozen=True)
class MeshRendering:
    """How meshes become views.

    size: pixels a side. radius: of the sphere about the object, in our units; 0.2 at focal 4.5 reaches 0.92 of the
    way from the middle to the border. views: how many an object has when it is read (not when it is drawn).
    seed: of those views. elevation_degrees, distance: ranges that cameras are drawn from; azimuths are all round.
    Distances are those to the object before view 0 is put at distance 1. focal: NDC. supersampling: see `rasterise`.
    """

    size: int = 256
    radius: float = 0.2
    views: int = 24
    seed: int = 0
    elevation_degrees: tuple[float, float] = BAND_ELEVATION_DEGREES
    distance: tuple[float, float] = (1.0, 1.0)
    focal: float = REFERENCE_FOCAL
    supersampling: int = 3

    def __post_init__(self) -> None:
        check_count("size", self.size, 1, 4096)
        check_range("radius", self.radius, 1e-3, 0.9)
        check_count("views", self.views, 1, 100_000)
        check_range("focal", self.focal, 1e-3)
        check_count("supersampling", self.supersampling, 1, 16)
        for name, low, high in (("elevation_degrees", -89.9, 89.9), ("distance", self.radius + 0.01, 1e3)):
            first, last = getattr(self, name)
            check_range(f"{name}[0]", first, low, high)
            check_range(f"{name}[1]", last, first, high)


@dataclass(frozen=True)
class MeshSource:
    """One object's file.

    name: unique in its data set. up: the file's axis that points up. texture: shown whatever the materials say.
    """

    name: str
    path: Path
    up: Literal["y", "z"] = "y"
    texture: Path | None = None

    def read(self, radius: float) -> Surface:
        """The object with +Y up, centred, its farthest vertex `radius` from the origin. Raises InputError."""
        surface = read_surface(self.path, self.texture)
        return (surface.turned(_Z_UP) if self.up == "z" else surface).centered(radius)


@dataclass(frozen=True, eq=False)
class MeshViews:
    """Objects given as meshes, a `MultiViewDataset` with depths.

    `read` renders the same `rendering.views` cameras of an object every time: they follow from the seed and the
    object's name, so that they stay when other files come or go. `draw` renders new cameras from the generator, dense
    over the band, which is what training wants: fixed cameras are memorised.
    """

    sources: Sequence[MeshSource]
    rendering: MeshRendering = field(default_factory=MeshRendering)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> PosedViews:
        """Object `index` with all its views; see `read`."""
        return self.read(index)

    def view_count(self, index: int) -> int:
        """How many views `read` gives of object `index`."""
        return self.rendering.views

    def read(self, index: int, views: Sequence[int] | None = None) -> PosedViews:
        """Object `index` with the chosen ones of its views in the given order, or all.

        Raises:
            InputError: its file cannot be read (then noted in `skipped`), or there are no such views.
            IndexError: there is no such object.
        """
        source = self.sources[index]
        chosen = checked_views(views, self.rendering.views, source.name)
        seed = zlib.crc32(f"{self.rendering.seed} {source.name}".encode())
        cameras = self._cameras(self.rendering.views, torch.Generator().manual_seed(seed))
        return self._rendered(source, cameras[torch.tensor(chosen)])

    def draw(self, index: int, count: int, generator: torch.Generator) -> PosedViews:
        """Object `index` seen by `count` new cameras from the generator; raises like `read`."""
        return self._rendered(self.sources[index], self._cameras(count, generator))

    def surface(self, index: int, views: PosedViews) -> Surface:
        """The true surface of object `index` in the world of `views`, which were read from it."""
        surface = self.sources[index].read(self.rendering.radius)
        if views.placement is None or views.name != self.sources[index].name:
            raise InputError(f"expected views of {self.sources[index].name} from this data set, got {views.name}")
        return replace(surface, vertices=views.placement.points(surface.vertices))

    def _cameras(self, count: int, generator: torch.Generator) -> Cameras:
        return random_cameras(
            count,
            generator=generator,
            elevation_degrees=self.rendering.elevation_degrees,
            distance=self.rendering.distance,
            focal=self.rendering.focal,
        ).to("cpu")

    def _rendered(self, source: MeshSource, cameras: Cameras) -> PosedViews:
        try:
            surface = source.read(self.rendering.radius)
        except UpFusionError as error:
            note(self.skipped, source.name, str(error))
            raise
        seen = rasterise(surface, cameras, self.rendering.size, supersampling=self.rendering.supersampling)
        moved, placement = normalise(cameras, center=torch.zeros(3), up=_UP)
        return PosedViews(
            rgb=seen.rgb,
            mask=seen.opacity,
            cameras=moved,
            name=source.name,
            depth=seen.depth * placement.scale,
            placement=placement,
        )


def mesh_folder(
    root: str | os.PathLike[str],
    rendering: MeshRendering | None = None,
    *,
    size: int = 256,
    up: Literal["y", "z"] = "y",
) -> MeshViews:
    """All GLB, OBJ and PLY files below a folder, in the order of their paths, by which they are named.

    Args:
        root: the folder; hidden files and folders in it are passed over.
        rendering: how they are rendered; the defaults, with views of `size` pixels, unless given.
        up: the axis that points up in these files: "y" as in glTF, or "z". OBJ and PLY do not say.

    Raises:
        InputError: there is no such folder, or it holds no meshes.
    """
    check_choice("up", up, ("y", "z"))
    root = existing_folder(root)
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in MESH_SUFFIXES and path.is_file())
    names = [path.relative_to(root).as_posix() for path in paths]
    sources = [
        MeshSource(name, path, up)
        for name, path in zip(names, paths, strict=True)
        if not any(part.startswith(".") for part in name.split("/"))
    ]
    if not sources:
        raise InputError(f"{root} must hold {', '.join(MESH_SUFFIXES)} files, got none; choose another folder")
    return MeshViews(sources, rendering or MeshRendering(size=size))


def gso(root: str | os.PathLike[str], rendering: MeshRendering | None = None, *, size: int = 256) -> MeshViews:
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
        texture = existing_file(folder / "materials" / "textures" / "texture.png", model.parent / "texture.png")
        if texture is None:
            skipped.append((folder.name, "its texture.png is missing"))
            continue
        sources.append(MeshSource(folder.name, model, "z", texture))
    if not sources:
        raise InputError(
            f"{root} must hold folders with model.obj and texture.png, got none ({len(skipped)} skipped); "
            "choose the folder that holds the objects' folders"
        )
    return MeshViews(sources, rendering or MeshRendering(size=size), skipped)
