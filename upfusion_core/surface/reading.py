"""Triangle meshes with the colours they show: from files of any kind that trimesh reads, ready to be rasterised."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import trimesh
from torch import Tensor
from trimesh.resolvers import FilePathResolver
from trimesh.visual import TextureVisuals

from ..support.checks import check_finite
from ..support.decoding import any_size, check_picture, open_picture, rgba
from ..support.errors import InputError
from ..support.files import read_regular, reading
from .gltf import GRAY, Part, Sampler, read_gltf
from .mesh import check_triangles

MESH_SUFFIXES = (".glb", ".gltf", ".obj", ".ply")

_LARGEST_MESH = 4_000_000_000  # bytes; a GLB cannot have more
_LARGEST_COMPANION = 256_000_000  # bytes of a file that a mesh names: arrays, materials, a picture


@dataclass(frozen=True, eq=False)
class Surface:
    """A triangle soup in any axes and unit, without light: what is seen is the colour."""

    vertices: Tensor  # (P, 3) float32
    faces: Tensor  # (F, 3) int64, either winding
    colors: Tensor  # (P, 3) in [0, 1], sRGB; multiplied into the texture where there is one
    uvs: Tensor  # (P, 2), v = 0 at the bottom of the texture
    textures: tuple[Tensor, ...]  # each (3, H, W) in [0, 1], sRGB, or (4, H, W) with alpha
    face_texture: Tensor  # (F,) int64, which texture a face shows, -1 for none
    samplers: tuple[Sampler, ...] = ()  # one a texture, or none: they repeat outside [0, 1]
    linear: bool = False  # colours and texture are mixed in linear light, as glTF has it; or in sRGB
    alphas: Tensor | None = None  # (P,) in [0, 1], multiplied into the texture's; None: nothing is transparent
    face_cutoff: Tensor | None = None  # (F,) alpha from which a face is solid, below nothing; or BLENDED; 0: solid

    def turned(self, rotation: Tensor) -> "Surface":
        """The surface with x' = rotation x, rotation (3, 3)."""
        return replace(self, vertices=self.vertices @ rotation.to(self.vertices).T)

    def centered(self, radius: float) -> "Surface":
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
    """A GLB, glTF, OBJ or PLY file -> Surface in its own axes and unit; all faces show the picture `texture`, if any.

    Base colours only. Files that it names are taken from its own folder or below it. Those that lie elsewhere count as
    missing: of an OBJ they are left out. InputError if the file cannot be read, holds no triangles, or names or needs
    what cannot be.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in MESH_SUFFIXES:
        raise InputError(f"a mesh is read from {', '.join(MESH_SUFFIXES)}, got {path.name!r}; convert it first")
    linear = kind in (".glb", ".gltf")
    with reading(path.name, "export it again", what="a mesh"):
        companions = _Companions(str(path))
        if linear:
            parts = list(read_gltf(path.name, read_regular(path, _LARGEST_MESH), companions.get))
        else:
            parts = list(_parts(path, companions))
        if companions.refused:
            raise InputError(f"{path.name} names a file that cannot be read: {companions.refused[0]}; replace it")
        parts = [part for part in parts if len(part.faces)]
        if not parts:
            raise InputError(f"{path.name} must hold triangles, got none; check the file")
        if texture is None:
            return _joined(parts, f"a texture of {path.name}", linear=linear)
        with open_picture(Path(texture)) as image:
            parts = [replace(part, image=image, colors=torch.ones_like(part.colors), cutoff=None) for part in parts]
            return _joined(parts, Path(texture).name, linear=linear)


def _joined(parts: list[Part], label: str, *, linear: bool) -> Surface:
    """One surface; parts that show the same picture share its texture. label: what to call a picture."""
    shown: dict[tuple[int, Sampler, bool], int] = {}
    pictures: dict[int, Tensor] = {}
    textures, faces, face_texture, face_cutoff, count = [], [], [], [], 0
    for part in parts:
        check_triangles("Surface", part.vertices, part.faces)
        image, clear = part.image, part.cutoff is not None
        if image is not None and id(image) not in pictures:
            check_picture(image, label)
            # (4, H, W); what is transparent keeps its hidden colour
            pictures[id(image)] = _unit(rgba(image, label)).permute(2, 0, 1).contiguous()
        if clear and part.colors[:, 3].min() == 1:  # what is said to be transparent often is not
            clear = image is not None and bool(pictures[id(image)][3].min() < 1)
        key = (id(image), part.sampler, clear)
        if image is not None and key not in shown:
            textures.append(pictures[id(image)][: 4 if clear else 3])
            shown[key] = len(shown)
        faces.append(part.faces + count)
        face_texture.append(torch.full((len(part.faces),), shown.get(key, -1)))
        face_cutoff.append(torch.full((len(part.faces),), (part.cutoff or 0.0) if clear else 0.0))
        count += len(part.vertices)
    names = ("vertices", "colors", "uvs")
    vertices, colors, uvs = (torch.cat([getattr(part, name) for part in parts]) for name in names)
    for name, values in (("vertices", vertices), ("colors", colors), ("uvs", uvs)):
        check_finite(f"Surface.{name}", values)
    samplers, texture = tuple(sampler for _, sampler, _ in shown), torch.cat(face_texture)
    surface = Surface(vertices, torch.cat(faces), colors[:, :3], uvs, tuple(textures), texture, samplers, linear)
    cutoffs = torch.cat(face_cutoff)
    return replace(surface, alphas=colors[:, 3], face_cutoff=cutoffs) if cutoffs.any() else surface


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
        raise FileNotFoundError(f"{name} is not in its folder")


def _parts(path: Path, companions: _Companions) -> Iterator[Part]:
    """What trimesh reads of an OBJ or PLY file."""
    with any_size():  # trimesh leaves out what Pillow does not open
        scene = trimesh.load_scene(path, process=False, resolver=companions)
    for mesh in scene.geometry.values():
        if not isinstance(mesh, trimesh.Trimesh):
            continue
        vertices, visual, image = _tensor(mesh.vertices), mesh.visual, None
        colors, uvs = torch.ones(len(vertices), 4), torch.zeros(len(vertices), 2)
        if isinstance(visual, TextureVisuals):
            image, factor = (getattr(visual.material, name, None) for name in ("image", "diffuse"))
            if factor is not None and image is None:  # a Kd beside map_Kd is customarily ignored
                colors[:, :3] *= _unit(np.asarray(factor)[:3])
            if visual.uv is not None and len(visual.uv) == len(vertices):
                uvs = _tensor(visual.uv)[:, :2]
            else:
                image = None
            vertex_colors = mesh.vertex_attributes.get("color")
        else:
            vertex_colors = visual.vertex_colors if visual.defined else np.full((len(vertices), 3), GRAY)
        if vertex_colors is not None and len(vertex_colors) == len(vertices):
            colors[:, :3] *= _unit(np.asarray(vertex_colors)[:, :3])
        faces = torch.from_numpy(np.array(mesh.faces, dtype=np.int64))
        yield Part(vertices, faces, colors, uvs, image)


def _unit(values: np.ndarray) -> Tensor:
    return _tensor(values / 255 if values.dtype == np.uint8 else values).clamp(0, 1)


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float32))
