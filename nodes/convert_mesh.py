"""MESH, ComfyUI's meshes, and the library's. Axes are the same on both sides (glTF's), colours and textures are not.

MESH: vertices (B, N, 3), faces (B, M, 3), vertex_colors (B, N, 3 or 4) in linear light, uvs (B, N, 2) with v = 0 at the
texture's top row, texture (B, H, W, 3) in sRGB. The library: no B, vertex colours in sRGB, v = 0 at the bottom.
"""

from __future__ import annotations

import inspect
import tempfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import Types
from kornia.color import linear_rgb_to_rgb, rgb_to_linear_rgb
from torch import Tensor
from torch.nn.functional import grid_sample

from ..upfusion_core import InputError, MeshAsset, check_count, check_finite

if TYPE_CHECKING:
    from collections.abc import Callable

GRAY = 0.7
"""sRGB of vertices whose colour nobody told."""


def centered(asset: MeshAsset) -> MeshAsset:
    """The mesh in the middle of the world, its longest side 1 long, as ComfyUI's tools expect."""
    low, high = asset.vertices.amin(0), asset.vertices.amax(0)
    longest = (high - low).max().clamp(min=1e-12)
    return replace(asset, vertices=(asset.vertices - (low + high) / 2) / longest)


def mesh_from_asset(asset: MeshAsset) -> Types.MESH:
    """A mesh of B = 1 that is shown without light: its colours hold the photos' light already."""
    values: dict[str, Tensor | bool] = {
        "vertices": asset.vertices.float().cpu()[None],
        "faces": asset.faces.long().cpu()[None],
        "unlit": True,
    }
    if asset.uvs is None or asset.texture is None:
        values["vertex_colors"] = _converted(asset.vertex_colors, rgb_to_linear_rgb)[None]
    else:
        values["uvs"] = _flipped(asset.uvs)[None]
        values["texture"] = asset.texture.float().cpu().movedim(0, -1)[None].contiguous()
    if asset.normals is not None and "normals" in inspect.signature(Types.MESH).parameters:
        values["normals"] = asset.normals.float().cpu()[None]
    return Types.MESH(**values)


def assets_from_mesh(mesh: Any) -> list[MeshAsset]:
    """The meshes of a MESH of any pack, its padding taken away; without colours they are grey.

    Raises:
        InputError: the value is no MESH of ComfyUI's own kind.
    """
    vertices, faces = _tensor(mesh, "vertices", 3), _tensor(mesh, "faces", 3)
    if vertices is None or faces is None or not len(vertices):
        raise InputError("a MESH must have vertices (B, N, 3) and faces (B, M, 3), got none; connect a mesh")
    return [
        _asset(mesh, index, vertices[index], _of_mesh("faces", faces, index, (3,))) for index in range(len(vertices))
    ]


def glb_file(asset: MeshAsset) -> Types.File3D:
    """The mesh as a GLB file in memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mesh.glb"
        asset.save(path)
        return Types.File3D(BytesIO(path.read_bytes()), "glb")


def _asset(mesh: Any, index: int, vertices: Tensor, faces: Tensor) -> MeshAsset:
    points = _counted(mesh, "vertex_counts", index, vertices).float().cpu()
    triangles = _counted(mesh, "face_counts", index, faces).long().cpu()
    uvs, texture = _tensor(mesh, "uvs", 3), _tensor(mesh, "texture", 4)
    colors = _tensor(mesh, "vertex_colors", 3)
    coordinates = picture = None
    if uvs is not None and texture is not None:
        coordinates = _flipped(_of_mesh("uvs", uvs, index, (2,))[: len(points)].clamp(0, 1))
        picture = _of_mesh("texture", texture, min(index, len(texture) - 1), (3, 4))
        picture = picture[..., :3].float().cpu().clamp(0, 1).movedim(-1, 0)
    if colors is not None:
        own = _of_mesh("vertex_colors", colors, index, (3, 4))
        shown = _converted(own[: len(points), :3].clamp(0, 1), linear_rgb_to_rgb)
    elif coordinates is not None and picture is not None:
        shown = _looked_up(picture, coordinates)
    else:
        shown = torch.full_like(points, GRAY)
    return MeshAsset(points, triangles, shown, coordinates, picture)


def _tensor(mesh: Any, name: str, dimensions: int) -> Tensor | None:
    """A part of the MESH, if it has it: `faces` of whole numbers, colours and places in floating-point ones."""
    value = getattr(mesh, name, None)
    if value is None:
        return None
    if not isinstance(value, Tensor) or value.ndim != dimensions:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError(
            f"{name} of a MESH must be a tensor of {dimensions} dimensions, got {got}; other packs use this socket's "
            "name for meshes of their own kind: convert it first"
        )
    check_finite(f"{name} of a MESH", value)
    wanted = "whole" if name == "faces" else "floating-point"
    if name != "vertices" and value.is_floating_point() == (name == "faces"):
        raise InputError(f"{name} of a MESH must hold {wanted} numbers, got {value.dtype}; convert it first")
    return value


def _of_mesh(name: str, values: Tensor, index: int, channels: tuple[int, ...]) -> Tensor:
    """The part of the mesh at `index` of a batch."""
    if not 0 <= index < len(values) or not values[0].numel() or values.shape[-1] not in channels:
        wanted = " or ".join(map(str, channels))
        raise InputError(
            f"{name} of a MESH must hold values of {wanted} channels for each of its meshes, got "
            f"{tuple(values.shape)}; repair the mesh, or leave them out"
        )
    return values[index]


def _counted(mesh: Any, name: str, index: int, values: Tensor) -> Tensor:
    counts = getattr(mesh, name, None)
    if counts is None:
        return values
    if not isinstance(counts, Tensor) or counts.ndim != 1 or len(counts) <= index or counts.is_floating_point():
        got = f"{tuple(counts.shape)} {counts.dtype}" if isinstance(counts, Tensor) else type(counts).__name__
        raise InputError(f"{name} of a MESH must be one whole number a mesh, got {got}; repair the mesh")
    check_count(f"{name} of a MESH", int(counts[index]), 0, len(values))
    return values[: int(counts[index])]


def _flipped(uvs: Tensor) -> Tensor:
    uvs = uvs.float().cpu()
    return torch.stack([uvs[:, 0], 1 - uvs[:, 1]], dim=-1)


def _converted(colors: Tensor, conversion: Callable[[Tensor], Tensor]) -> Tensor:
    """(P, 3) colours through a conversion of pictures."""
    picture = colors.float().cpu().T[None, :, :, None]
    return conversion(picture)[0, :, :, 0].T.clamp(0, 1).contiguous()


def _looked_up(texture: Tensor, uvs: Tensor) -> Tensor:
    """(3, H, W) texture at (P, 2) places, v = 0 at the bottom -> (P, 3)."""
    places = torch.stack([2 * uvs[:, 0] - 1, 1 - 2 * uvs[:, 1]], dim=-1)
    found = grid_sample(texture[None], places[None, :, None], padding_mode="border", align_corners=False)
    return found[0, :, :, 0].T.clamp(0, 1).contiguous()
