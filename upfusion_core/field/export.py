"""Meshes as files: GLB, OBJ, PLY and STL, in the mesh's own axes, which are glTF's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from PIL import Image
from torch import Tensor
from trimesh.visual import ColorVisuals, TextureVisuals
from trimesh.visual.material import PBRMaterial

from ..errors import OutputError
from ..files import replacing
from .mesh import MeshAsset

FORMATS = ("glb", "obj", "ply", "stl")

UNLIT = "KHR_materials_unlit"
"""glTF extension that shows colours as they are: the photos' light is in them already."""


def save_mesh(mesh: MeshAsset, path: str | os.PathLike[str]) -> None:
    """Writes a mesh whole or not at all, in the format of the suffix.

    `.glb` shows the texture if there is one, else the vertex colours, unlit; `.obj` and `.ply` carry vertex colours in
    sRGB; `.stl` carries no colour.

    Raises:
        OutputError: another suffix, or the file cannot be written.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        known = ", ".join(f".{name}" for name in FORMATS)
        raise OutputError(f"a mesh is written as one of {known}, got {path.name!r}; change the suffix")
    content = _glb(mesh) if kind == "glb" else _plain(mesh, kind)
    with replacing(path) as partial:
        partial.write_bytes(content)


def srgb_to_linear(values: Tensor) -> Tensor:
    """sRGB in [0, 1] -> linear light in [0, 1] (IEC 61966-2-1), e.g. 0.5 -> 0.2140."""
    return ((values + 0.055) / 1.055).pow(2.4).where(values > 0.04045, values / 12.92)


def _plain(mesh: MeshAsset, kind: str) -> bytes:
    colors = _eight_bit(mesh.vertex_colors)
    result = _trimesh(mesh, ColorVisuals(vertex_colors=colors)).export(file_type=kind)
    return result.encode("utf-8") if isinstance(result, str) else result


def _glb(mesh: MeshAsset) -> bytes:
    if mesh.uvs is not None and mesh.texture is not None:
        picture = Image.fromarray(_eight_bit(mesh.texture.permute(1, 2, 0)))  # a texture is sRGB in glTF too
        material = PBRMaterial(baseColorTexture=picture, metallicFactor=0.0, roughnessFactor=1.0)
        visual = TextureVisuals(uv=mesh.uvs.cpu().numpy(), material=material)
    else:
        # glTF vertex colours are linear RGB, textures are sRGB
        visual = ColorVisuals(vertex_colors=_eight_bit(srgb_to_linear(mesh.vertex_colors)))
    return trimesh.exchange.gltf.export_glb(trimesh.Scene(_trimesh(mesh, visual)), tree_postprocessor=_make_unlit)


def _make_unlit(tree: dict[str, Any]) -> None:
    """Marks every material of a glTF tree as unlit; primitives without a material get one."""
    materials = tree.setdefault("materials", [])
    if not materials:
        materials.append({"pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0}})
    for material in materials:
        material.setdefault("extensions", {})[UNLIT] = {}
    for mesh in tree["meshes"]:
        for primitive in mesh["primitives"]:
            primitive.setdefault("material", 0)
    tree["extensionsUsed"] = sorted({*tree.get("extensionsUsed", []), UNLIT})


def _trimesh(mesh: MeshAsset, visual: ColorVisuals | TextureVisuals) -> trimesh.Trimesh:
    return trimesh.Trimesh(
        vertices=mesh.vertices.detach().cpu().numpy(),
        faces=mesh.faces.cpu().numpy(),
        visual=visual,
        process=False,  # merging vertices would part them from their colours
    )


def _eight_bit(values: Tensor) -> np.ndarray:
    return (values.detach().cpu().clamp(0, 1) * 255).round().byte().numpy()
