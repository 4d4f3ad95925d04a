"""A coloured triangle mesh, and the files it becomes: GLB, OBJ, PLY and STL, in its own axes, which are glTF's."""

from __future__ import annotations

import os
import re
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import trimesh
from PIL import Image
from torch import Tensor
from trimesh.visual import ColorVisuals, TextureVisuals
from trimesh.visual.material import PBRMaterial, SimpleMaterial

from ..support.checks import check_finite, check_shape
from ..support.errors import InputError, OutputError
from ..support.files import check_path, replacing
from ..support.images import srgb_to_linear, to_8bit

FORMATS = ("glb", "obj", "ply", "stl")
UNLIT = "KHR_materials_unlit"  # glTF extension that shows colours as they are: the photos' light is in them already
_COLOR = "_COLOR"  # what trimesh calls vertex colours that it is to write as they are


@dataclass(frozen=True, eq=False)
class MeshAsset:
    """A triangle mesh in world axes (+Y up, +Z towards photo 1) and scene units."""

    vertices: Tensor  # (P, 3) float32
    faces: Tensor  # (F, 3) int64, counter-clockwise seen from outside
    vertex_colors: Tensor  # (P, 3) in [0, 1], sRGB
    uvs: Tensor | None = None  # (P, 2) in [0, 1], v = 0 at the bottom, as in OBJ; with a texture, or neither
    texture: Tensor | None = None  # (3, H, W) in [0, 1], sRGB, first row at the top
    normals: Tensor | None = None  # (P, 3) unit vectors, outward; None leaves them to be made from the faces

    def __post_init__(self) -> None:
        check_triangles("MeshAsset", self.vertices, self.faces)
        if (self.uvs is None) != (self.texture is None):
            raise InputError("MeshAsset.uvs and texture go together, got one of them; give both or neither")
        count = len(self.vertices)
        shapes: dict[str, tuple[int | str, ...]] = {"vertices": (count, 3), "vertex_colors": (count, 3)}
        shapes |= {"uvs": (count, 2), "texture": (3, "H", "W"), "normals": (count, 3)}
        for name, shape in shapes.items():
            label, value = f"MeshAsset.{name}", getattr(self, name)
            if value is None and name in ("uvs", "texture", "normals"):
                continue
            check_shape(label, value, shape, "one row a vertex" if name != "texture" else "")
            if not value.is_floating_point() or not value.numel():
                found = f"{tuple(value.shape)} {value.dtype}"
                raise InputError(f"{label} must hold floating-point numbers, got {found}; call .float() on it")
            check_finite(label, value)
            value = value.float()  # as files have it
            check_finite(f"{label} in float32", value)
            low, high = (float(end) for end in value.detach().aminmax())
            if name not in ("vertices", "normals") and (low < 0 or high > 1):
                raise InputError(f"{label} must be in [0, 1], got [{low:.3g}, {high:.3g}]; clamp it")
            object.__setattr__(self, name, value)

    def save(self, path: str | os.PathLike[str]) -> list[Path]:
        """Writes `.glb`, `.obj`, `.ply` or `.stl` by the suffix, whole or not at all, and gives the files.

        A textured `.obj` has an `.mtl` and a `.png` beside it. All are complete before any of them gets its name.
        """
        check_path("path", path)
        path = Path(path)
        files = mesh_files(self, path.name)
        with ExitStack() as stack:
            for name, content in reversed(files.items()):  # renamed the other way round: the mesh comes last
                stack.enter_context(replacing(path.with_name(name))).write_bytes(content)
        return [path.with_name(name) for name in files]


def check_triangles(name: str, vertices: Tensor, faces: Tensor) -> None:
    """Raises InputError unless there are vertices (P, 3) and faces (F, 3), int64, that number them."""
    check_shape(f"{name}.vertices", vertices, ("P", 3))
    check_shape(f"{name}.faces", faces, ("F", 3), "triangles only")
    count = len(vertices)
    if not count or not len(faces):
        raise InputError(f"a mesh needs vertices and faces, got {count} and {len(faces)}; make or export it again")
    if faces.dtype != torch.int64:
        raise InputError(f"{name}.faces must be int64, got {faces.dtype}; call .long() on them")
    first, last = int(faces.min()), int(faces.max())
    if first < 0 or last >= count:
        got = first if first < 0 else last
        raise InputError(f"{name}.faces must number vertices 0 to {count - 1}, got {got}")


def mesh_files(mesh: MeshAsset, name: str) -> dict[str, bytes]:
    """The files that the mesh `name` consists of, by their names, those that it refers to first.

    `.glb` shows the texture if there is one, else the vertex colours, unlit; `.obj` the texture by an MTL file and a
    PNG, else vertex colours; `.ply` carries vertex colours, `.stl` no colour. OutputError for another suffix.
    """
    kind = _kind(name)
    vertices, faces = mesh.vertices.numpy(force=True), mesh.faces.numpy(force=True)
    normals, library = None if mesh.normals is None else mesh.normals.numpy(force=True), None
    # process: merging vertices would part them from their colours
    solid = trimesh.Trimesh(vertices, faces, vertex_normals=normals, process=False)
    if mesh.uvs is not None and mesh.texture is not None and kind in ("glb", "obj"):
        picture = Image.fromarray(to_8bit(mesh.texture.permute(1, 2, 0)))
        material = PBRMaterial(baseColorTexture=picture, metallicFactor=0.0, roughnessFactor=1.0)
        if kind == "obj":
            white, black, library = (255, 255, 255, 255), (0, 0, 0, 255), _library_name(name)
            colors = {"diffuse": white, "ambient": black, "specular": black}
            material = SimpleMaterial(image=picture, name=library, glossiness=1.0, **colors)
        solid.visual = TextureVisuals(uv=mesh.uvs.numpy(force=True), material=material)
    elif kind == "glb":  # floats, because eight bits of linear light are too few for what is dark
        solid.vertex_attributes[_COLOR] = srgb_to_linear(mesh.vertex_colors).numpy(force=True)
    else:
        solid.visual = ColorVisuals(vertex_colors=to_8bit(mesh.vertex_colors))
    if kind == "obj":
        options = {"return_texture": True, "write_texture": False, "mtl_name": library and f"{library}.mtl"}
        options |= {"include_normals": normals is not None, "header": None}
        text, beside = trimesh.exchange.obj.export_obj(solid, **options)
        return {**beside, name: text.encode("utf-8")}
    if kind == "glb":
        scene, export = trimesh.Scene(solid), trimesh.exchange.gltf.export_glb
        return {name: export(scene, include_normals=normals is not None, tree_postprocessor=_make_unlit)}
    return {name: solid.export(file_type=kind)}


def mesh_names(name: str, *, textured: bool) -> list[str]:
    """The names that `mesh_files` gives, for a mesh that is still to be made; raises OutputError as it does."""
    beside = _library_name(name) if _kind(name) == "obj" and textured else None
    return [name] if beside is None else [f"{beside}.png", f"{beside}.mtl", name]


def _kind(name: str) -> str:
    stem, _, suffix = name.rpartition(".")
    if suffix.lower() not in FORMATS or not stem:
        known = ", ".join(f".{format}" for format in FORMATS)
        raise OutputError(f"a mesh is written as one of {known}, got {name!r}; change the suffix")
    return suffix.lower()


def _library_name(name: str) -> str:
    """Of the files beside an OBJ, without their suffixes: readers end a file's name at a space."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name.rpartition(".")[0])


def _make_unlit(tree: dict[str, Any]) -> None:
    """Marks every material of a glTF tree as unlit; primitives without one get it, and colours their standard name."""
    materials = tree.setdefault("materials", [])
    if not materials:
        materials.append({"pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0}})
    for material in materials:
        material.setdefault("extensions", {})[UNLIT] = {}
    for mesh in tree["meshes"]:
        for primitive in mesh["primitives"]:
            primitive.setdefault("material", 0)
            if _COLOR in primitive["attributes"]:
                primitive["attributes"]["COLOR_0"] = primitive["attributes"].pop(_COLOR)
    tree["extensionsUsed"] = sorted({*tree.get("extensionsUsed", []), UNLIT})
