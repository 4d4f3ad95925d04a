"""Meshes as files: GLB, OBJ, PLY and STL, in the mesh's own axes, which are glTF's."""

from __future__ import annotations

import os
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from PIL import Image
from torch import Tensor
from trimesh.visual import ColorVisuals, TextureVisuals
from trimesh.visual.material import PBRMaterial, SimpleMaterial

from ..support.errors import OutputError
from ..support.files import check_path, replacing
from ..support.images import srgb_to_linear, to_8bit
from .mesh import MeshAsset

FORMATS = ("glb", "obj", "ply", "stl")

UNLIT = "KHR_materials_unlit"
"""glTF extension that shows colours as they are: the photos' light is in them already."""

_COLOR = "_COLOR"
"""What trimesh calls vertex colours that it is to write as they are."""

_WHITE, _BLACK = (255, 255, 255, 255), (0, 0, 0, 255)


def save_mesh(mesh: MeshAsset, path: str | os.PathLike[str]) -> list[Path]:
    """Writes a mesh whole or not at all, in the format of the suffix, and gives the files; see `mesh_files`.

    A textured `.obj` has two files beside it, with its own name and the suffixes `.mtl` and `.png`. All are complete
    before any of them gets its name.

    Raises:
        OutputError: another suffix, or a file cannot be written.
    """
    check_path("path", path)
    path = Path(path)
    files = mesh_files(mesh, path.name)
    with ExitStack() as stack:
        # renamed in reverse order: the mesh that names the others comes last
        for name, content in reversed(files.items()):
            stack.enter_context(replacing(path.with_name(name))).write_bytes(content)
    return [path.with_name(name) for name in files]


def mesh_files(mesh: MeshAsset, name: str) -> dict[str, bytes]:
    """The files that the mesh `name` consists of, by their names, those that it refers to first.

    All in the mesh's own axes, with its normals if it has them:

    - `.glb` shows the texture if there is one, else the vertex colours, unlit. The texture is an sRGB PNG in the file,
      vertex colours are linear floats, v = 0 is the texture's top row: as glTF wants it.
    - `.obj` shows the texture by an MTL file and a PNG, else carries vertex colours in sRGB.
    - `.ply` carries vertex colours in sRGB; `.stl` carries no colour.

    Raises:
        OutputError: another suffix.
    """
    kind = _kind(name)
    if kind == "glb":
        return {name: _glb(mesh)}
    if kind == "obj":
        return _obj(mesh, name)
    return {name: _trimesh(mesh, ColorVisuals(vertex_colors=to_8bit(mesh.vertex_colors))).export(file_type=kind)}


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


def _obj(mesh: MeshAsset, name: str) -> dict[str, bytes]:
    visual: ColorVisuals | TextureVisuals
    if mesh.uvs is not None and mesh.texture is not None:
        material = SimpleMaterial(
            image=_picture(mesh.texture), name=_library_name(name),
            diffuse=_WHITE, ambient=_BLACK, specular=_BLACK, glossiness=1.0,
        )  # fmt: skip
        visual = TextureVisuals(uv=_array(mesh.uvs), material=material)
        library = f"{material.name}.mtl"
    else:
        visual, library = ColorVisuals(vertex_colors=to_8bit(mesh.vertex_colors)), None
    text, beside = trimesh.exchange.obj.export_obj(
        _trimesh(mesh, visual),
        include_normals=mesh.normals is not None,
        return_texture=True,
        write_texture=False,
        mtl_name=library,
        header=None,
    )
    files: dict[str, bytes] = beside | {name: text.encode("utf-8")}
    return files


def _glb(mesh: MeshAsset) -> bytes:
    if mesh.uvs is not None and mesh.texture is not None:
        material = PBRMaterial(baseColorTexture=_picture(mesh.texture), metallicFactor=0.0, roughnessFactor=1.0)
        solid = _trimesh(mesh, TextureVisuals(uv=_array(mesh.uvs), material=material))
    else:
        solid = _trimesh(mesh, None)
        # floats, because eight bits of linear light are too few for what is dark
        solid.vertex_attributes[_COLOR] = _array(srgb_to_linear(mesh.vertex_colors))
    content: bytes = trimesh.exchange.gltf.export_glb(
        trimesh.Scene(solid), include_normals=mesh.normals is not None, tree_postprocessor=_make_unlit
    )
    return content


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


def _trimesh(mesh: MeshAsset, visual: ColorVisuals | TextureVisuals | None) -> trimesh.Trimesh:
    return trimesh.Trimesh(
        vertices=_array(mesh.vertices),
        faces=_array(mesh.faces),
        vertex_normals=None if mesh.normals is None else _array(mesh.normals),
        visual=visual,
        process=False,  # merging vertices would part them from their colours
    )


def _array(values: Tensor) -> np.ndarray:
    array: np.ndarray = values.detach().cpu().resolve_neg().numpy()
    return array


def _picture(texture: Tensor) -> Image.Image:
    return Image.fromarray(to_8bit(texture.permute(1, 2, 0)))
