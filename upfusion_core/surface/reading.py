"""Triangle meshes with the colours they show: from files of any kind that trimesh reads, ready to be rasterised."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from PIL import Image
from torch import Tensor
from trimesh.resolvers import FilePathResolver
from trimesh.visual import TextureVisuals

from ..support.checks import check_finite
from ..support.decoding import check_picture, open_picture, rgba, without_ghostscript
from ..support.errors import InputError
from ..support.files import read_regular, reading
from ..support.images import linear_to_srgb
from .mesh import check_triangles

MESH_SUFFIXES = (".glb", ".obj", ".ply")

_GRAY = 0.7  # colour of a mesh that has none
_LARGEST_COMPANION = 256_000_000  # bytes of a file that a mesh names: materials, a picture


@dataclass(frozen=True, eq=False)
class Surface:
    """A triangle soup in any axes and unit, without light: what is seen is the colour."""

    vertices: Tensor  # (P, 3) float32
    faces: Tensor  # (F, 3) int64, either winding
    colors: Tensor  # (P, 3) in [0, 1], sRGB; multiplied into the texture where there is one
    uvs: Tensor  # (P, 2), v = 0 at the bottom of the texture, which repeats outside [0, 1]
    textures: tuple[Tensor, ...]  # each (3, H, W) in [0, 1], sRGB
    face_texture: Tensor  # (F,) int64, which texture a face shows, -1 for none

    def turned(self, rotation: Tensor) -> Surface:
        """The surface with x' = rotation x, rotation (3, 3)."""
        return replace(self, vertices=self.vertices @ rotation.to(self.vertices).T)

    def centered(self, radius: float) -> Surface:
        """The centre of the box of what faces use goes to the origin, its farthest vertex to a distance of `radius`."""
        used = self.vertices[self.faces.unique()]
        center = (used.amin(dim=0) + used.amax(dim=0)) / 2
        reach = float((used - center).norm(dim=-1).max())
        if not reach > 0:
            raise InputError("a mesh must have an extent, but all its vertices are one point; check its file")
        if not math.isfinite(reach):
            raise InputError("a mesh must have a finite extent, got more than float32 can measure; check its file")
        return replace(self, vertices=(self.vertices - center) * (radius / reach))


def read_surface(path: str | os.PathLike[str], texture: str | os.PathLike[str] | None = None) -> Surface:
    """A GLB, OBJ or PLY file -> Surface in the file's own axes and unit; all faces show the picture `texture`, if any.

    Base colours only. Materials and pictures that a file names are taken from its own folder or below it; those that
    lie elsewhere count as missing. InputError if the file cannot be read, holds no triangles, or names what cannot be.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in MESH_SUFFIXES:
        raise InputError(f"a mesh is read from {', '.join(MESH_SUFFIXES)}, got {path.name!r}; convert it first")
    with reading(path.name, "export it again", what="a mesh"):
        companions = _Companions(str(path))
        with without_ghostscript():  # trimesh decodes what is shiny in GLTF's older manner at once
            scene = trimesh.load_scene(path, process=False, resolver=companions)
        if companions.refused:
            raise InputError(f"{path.name} names a file that cannot be read: {companions.refused[0]}; replace it")
        for geometry in scene.geometry.values():
            material = getattr(geometry.visual, "material", None)
            for value in (*vars(material).values(), *getattr(material, "_data", {}).values()) if material else ():
                if isinstance(value, Image.Image):  # before anything copies, and so decodes, it
                    check_picture(value, f"a texture of {path.name}")
            colors = getattr(geometry.visual, "vertex_attributes", {}).get("color")
            if colors is not None:  # a copied visual forgets them, the geometry does not
                geometry.vertex_attributes["color"] = colors
        parts = [part for part in scene.dump() if isinstance(part, trimesh.Trimesh) and len(part.faces)]
        picture = None
        if texture is not None:
            with open_picture(Path(texture)) as image:
                check_picture(image, Path(texture).name)
                picture = _picture(image, Path(texture).name)
        if not parts:
            raise InputError(f"{path.name} must hold triangles, got none; check the file")
        faces, shown, count = [], [], 0
        textures: list[Tensor] = []
        described = [_part(part, linear=kind == ".glb", picture=picture) for part in parts]
        for part, (vertices, _, _, found) in zip(parts, described, strict=True):
            own = torch.from_numpy(np.array(part.faces, dtype=np.int64))
            check_triangles("Surface", vertices, own)
            faces.append(own + count)
            shown.append(torch.full((len(own),), -1 if found is None else len(textures)))
            textures += [] if found is None else [found]
            count += len(vertices)
        vertices, colors, uvs = (torch.cat(values) for values in list(zip(*described, strict=True))[:3])
        for name, values in (("vertices", vertices), ("colors", colors), ("uvs", uvs)):
            check_finite(f"Surface.{name}", values)
        return Surface(vertices, torch.cat(faces), colors, uvs, tuple(textures), torch.cat(shown))


class _Companions(FilePathResolver):  # type: ignore[misc]  # trimesh has no types
    """Reads what a mesh file names for trimesh, which passes over whatever this raises; hence `refused`, in words."""

    def __init__(self, source: str) -> None:
        super().__init__(source)
        self.refused: list[str] = []

    def get(self, name: str) -> bytes:
        """The content of a regular file in the mesh's folder or below it; as last resort of one with its bare name."""
        home = Path(self.parent).resolve()
        for candidate in (name.strip(), name.strip().lstrip("/"), os.path.split(name)[-1]):
            path = (home / candidate).resolve()
            if path.is_relative_to(home) and os.path.exists(path):
                try:
                    return read_regular(path, _LARGEST_COMPANION)
                except OSError as error:
                    self.refused.append(f"{path.name} ({error.strerror or error})")
                    raise
        raise FileNotFoundError(name)


def _part(
    mesh: trimesh.Trimesh, *, linear: bool, picture: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Vertices, colours, uvs and the texture, if any, of one geometry of a file."""
    vertices = _tensor(mesh.vertices)
    colors, uvs = torch.ones(len(vertices), 3), torch.zeros(len(vertices), 2)
    visual: Any = mesh.visual
    found = None
    if isinstance(visual, TextureVisuals):
        is_pbr = hasattr(visual.material, "baseColorFactor")
        image = visual.material.baseColorTexture if is_pbr else getattr(visual.material, "image", None)
        factor = visual.material.baseColorFactor if is_pbr else getattr(visual.material, "diffuse", None)
        found = None if image is None else _picture(image, "a texture")
        if factor is not None and (is_pbr or found is None):  # an OBJ's Kd beside map_Kd is customarily ignored
            values = _unit(np.asarray(factor)[:3])
            colors = colors * (linear_to_srgb(values) if linear else values)
        if visual.uv is not None and len(visual.uv) == len(vertices):
            uvs = _tensor(visual.uv)[:, :2]
        else:
            found = None
        vertex_colors = mesh.vertex_attributes.get("color")
    else:
        vertex_colors = visual.vertex_colors if visual.defined else None
        colors = colors * (_GRAY if vertex_colors is None else 1.0)
    if vertex_colors is not None and len(vertex_colors) == len(vertices):
        values = _unit(np.asarray(vertex_colors)[:, :3])
        colors = colors * (linear_to_srgb(values) if linear else values)
    if picture is not None:
        found, colors = picture, torch.ones(len(vertices), 3)
    return vertices, colors, uvs, found


def _picture(image: Image.Image, label: str) -> Tensor:
    """(3, H, W) in [0, 1]; what is transparent keeps its hidden colour."""
    return _unit(rgba(image, label)[..., :3]).permute(2, 0, 1).contiguous()


def _unit(values: np.ndarray) -> Tensor:
    return _tensor(values / 255 if values.dtype == np.uint8 else values).clamp(0, 1)


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float32))
