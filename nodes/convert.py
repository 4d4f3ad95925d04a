"""ComfyUI's values and the library's: pictures, masks, latents, meshes, cameras. Layouts and axes change here only.

World and camera axes are the same on both sides (glTF's). Elsewhere they differ:

    ComfyUI                                                    the library
    IMAGE (B, H, W, 3 or 4) float32 in [0, 1]                  (N, 3, H, W)
    MASK (B, H, W)                                             (N, 1, H, W)
    MESH with a batch axis, vertex_colors in linear light,     MeshAsset without, vertex colours in sRGB,
    uvs with v = 0 at the texture's top row, texture in sRGB   v = 0 at the bottom
    LOAD3D_CAMERA, vertical field of view of a viewport        Cameras, focal length of a square
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import Types
from torch import Tensor
from torch.nn.functional import grid_sample

from ..upfusion_core import (
    REFERENCE_FOCAL,
    Cameras,
    InputError,
    InputViews,
    cameras_from_matrices,
    check_count,
    check_finite,
    check_type,
    focal_from_fov,
    fov_from_focal,
    look_at,
)
from .sockets import Placement

if TYPE_CHECKING:
    from ..upfusion_core import MeshAsset

_OVERSHOOT = 0.5  # how far nodes that resize may leave [0, 1]; pictures beyond it are in another range
_GRAY = 0.7  # sRGB of vertices without a colour
_FAR = 1e30  # numbers of a viewport are smaller, so that their squares are finite
_CHANNELS = {"vertices": (3,), "faces": (3,), "vertex_colors": (3, 4), "uvs": (2,), "texture": (3, 4)}  # the last axis


def pictures_from_image(image: Tensor, name: str = "an IMAGE") -> Tensor:
    """IMAGE (B, H, W, 3 or 4) -> (B, 3 or 4, H, W) in [0, 1]; `name` is what an error calls it."""
    check_type(name, image, Tensor, "connect a picture")
    if image.ndim != 4 or image.shape[-1] not in (3, 4) or not image.numel():
        raise InputError(f"{name} must be (B, H, W, 3 or 4), got {tuple(image.shape)}; connect a picture")
    check_finite(name, image)
    low, high = (float(limit) for limit in torch.aminmax(image))
    if not image.is_floating_point() or low < -_OVERSHOOT or high > 1 + _OVERSHOOT:
        raise InputError(
            f"{name} must hold floating-point numbers in [0, 1], got {image.dtype} from {low:.4g} to {high:.4g}; "
            "divide 8-bit values by 255"
        )
    return image.movedim(-1, 1).float().clamp(0, 1)


def rgb_from_image(image: Tensor) -> Tensor:
    """IMAGE (B, H, W, 3 or 4) -> (B, 3, H, W) in [0, 1]; a fourth channel is dropped."""
    return pictures_from_image(image)[:, :3].contiguous()


def image_from_rgb(rgb: Tensor) -> Tensor:
    """(N, C, H, W) in [0, 1] -> IMAGE (N, H, W, C), float32, on ComfyUI's device for intermediate results."""
    return _result(rgb.movedim(1, -1).clamp(0, 1))


def plane_from_mask(mask: Tensor) -> Tensor:
    """MASK (B, H, W) or (H, W) -> (B, 1, H, W) in [0, 1]."""
    check_type("a MASK", mask, Tensor, "connect a mask")
    if mask.ndim not in (2, 3) or not mask.numel():
        raise InputError(f"a MASK must be (B, H, W), got {tuple(mask.shape)}; connect a mask")
    check_finite("a MASK", mask)
    return mask.reshape(-1, 1, *mask.shape[-2:]).float().clamp(0, 1)


def mask_from_plane(plane: Tensor) -> Tensor:
    """(N, 1, H, W) in [0, 1] -> MASK (N, H, W), float32, on ComfyUI's device for intermediate results."""
    return _result(plane[:, 0].clamp(0, 1))


def input_views(images: Tensor, masks: Tensor | None = None) -> InputViews:
    """IMAGE (V, S, S, C) of photos on white, MASK (V, S, S) with 1 on the object -> InputViews.

    Without masks they are estimated as what is not white.
    """
    rgb = rgb_from_image(images).cpu()
    height, width = rgb.shape[-2:]
    if width != height:
        raise InputError(f"the photos must be square, got {width} x {height}; put UpFusion Prepare Views before this")
    return InputViews(rgb, planes_for(rgb, masks), torch.full((len(rgb), 2), REFERENCE_FOCAL))


def planes_for(rgb: Tensor, masks: Tensor | None) -> Tensor:
    """MASK of (N, 3, H, W) pictures -> (N, 1, H, W) on the CPU; without one, what is not white in each."""
    from ..upfusion_core import estimate_mask

    if masks is None:
        return torch.stack([estimate_mask(picture) for picture in rgb])
    planes, (height, width) = plane_from_mask(masks).cpu(), rgb.shape[-2:]
    if planes.shape != (len(rgb), 1, height, width):
        raise InputError(
            f"the masks must be {len(rgb)} of {width} x {height} pixels like the pictures, got {len(planes)} of "
            f"{planes.shape[-1]} x {planes.shape[-2]}; take both from the same node"
        )
    return planes


def empty_latent(count: int, size: int) -> dict[str, Any]:
    """LATENT of `count` empty latents of size x size cells; each draws the noise of its own number."""
    return {"samples": _result(torch.zeros(count, 4, size, size)), "batch_index": list(range(count))}


def _result(value: Tensor) -> Tensor:
    from comfy.model_management import intermediate_device

    return value.to(intermediate_device(), torch.float32).contiguous()


def centered(asset: MeshAsset) -> tuple[MeshAsset, Placement]:
    """The mesh in the middle of the world, its longest side 1 long, as ComfyUI's tools expect; and where it was."""
    placement = placement_of(asset.vertices)
    return replace(asset, vertices=placement.to_mesh(asset.vertices)), placement


def placement_of(places: Tensor) -> Placement:
    """That of a mesh which was brought into the cube of side 1 from these places (N, 3)."""
    low, high = places.amin(0), places.amax(0)
    return Placement((low + high) / 2, float((high - low).max().clamp(min=1e-12)))


def mesh_from_asset(asset: MeshAsset) -> Types.MESH:
    """A mesh of B = 1 that is shown without light: its colours hold the photos' light already."""
    from kornia.color import rgb_to_linear_rgb

    vertices, faces = asset.vertices.float().cpu()[None], asset.faces.long().cpu()[None]
    values: dict[str, Tensor | bool] = {"vertices": vertices, "faces": faces, "unlit": True}
    if asset.uvs is not None:
        values["uvs"] = _flipped(asset.uvs)[None]
    if asset.texture is None:
        values["vertex_colors"] = _converted(asset.vertex_colors, rgb_to_linear_rgb)[None]
    else:
        values["texture"] = asset.texture.float().cpu().movedim(0, -1)[None].contiguous()
    if asset.normals is not None and "normals" in inspect.signature(Types.MESH).parameters:
        values["normals"] = asset.normals.float().cpu()[None]
    return Types.MESH(**values)


def glb_file(asset: MeshAsset) -> Types.File3D:
    """The mesh as a GLB file in memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mesh.glb"
        asset.save(path)
        return Types.File3D(BytesIO(path.read_bytes()), "glb")


def assets_from_mesh(mesh: Any) -> list[MeshAsset]:
    """The meshes of a MESH of any pack, its padding taken away; without colours they are grey."""
    from kornia.color import linear_rgb_to_rgb

    from ..upfusion_core import MeshAsset

    vertices = _part(mesh, "vertices")
    faces = None if vertices is None else _part(mesh, "faces", len(vertices))
    if vertices is None or faces is None:
        raise InputError("a MESH must have vertices (B, N, 3) and faces (B, M, 3), got none; connect a mesh")
    colors, uvs = (_part(mesh, name, len(vertices)) for name in ("vertex_colors", "uvs"))
    texture = _part(mesh, "texture")
    assets = []
    for index in range(len(vertices)):
        points = _counted(mesh, "vertex_counts", vertices, index).float().cpu()
        triangles = _counted(mesh, "face_counts", faces, index).long().cpu()
        shown, picture = torch.full_like(points, _GRAY), None
        places = None if uvs is None else _flipped(uvs[index, : len(points)])
        if places is not None and texture is not None:
            places = places.clamp(0, 1)
            picture = texture[min(index, len(texture) - 1), ..., :3].float().cpu().clamp(0, 1).movedim(-1, 0)
            grid = torch.stack([2 * places[:, 0] - 1, 1 - 2 * places[:, 1]], dim=-1)[None, :, None]
            shown = grid_sample(picture[None], grid, padding_mode="border", align_corners=False)[0, :, :, 0].T
            shown = shown.clamp(0, 1).contiguous()
        if colors is not None:
            shown = _converted(colors[index, : len(points), :3].clamp(0, 1), linear_rgb_to_rgb)
        assets.append(MeshAsset(points, triangles, shown, places, picture))
    return assets


def _part(mesh: Any, name: str, count: int = 1) -> Tensor | None:
    """A part of the MESH, if it has it, for `count` meshes; other packs use this socket for classes of their own."""
    value = getattr(mesh, name, None)
    if value is None:
        return None
    dimensions = 4 if name == "texture" else 3
    if not isinstance(value, Tensor) or value.ndim != dimensions:
        raise InputError(
            f"{name} of a MESH must be a tensor of {dimensions} dimensions, got {_kind(value)}; other packs use this "
            "socket's name for meshes of their own kind: convert it first"
        )
    check_finite(f"{name} of a MESH", value)
    wanted = "whole" if name == "faces" else "floating-point"
    if name != "vertices" and value.is_floating_point() == (name == "faces"):
        raise InputError(f"{name} of a MESH must hold {wanted} numbers, got {value.dtype}; convert it first")
    if len(value) < count or not value[0].numel() or value.shape[-1] not in _CHANNELS[name]:
        channels = " or ".join(map(str, _CHANNELS[name]))
        raise InputError(
            f"{name} of a MESH must hold values of {channels} channels for each of its meshes, got "
            f"{tuple(value.shape)}; repair the mesh, or leave them out"
        )
    return value


def _counted(mesh: Any, name: str, values: Tensor, index: int) -> Tensor:
    """(N, C) values of the mesh at `index` without what pads them to the largest of the batch."""
    counts = getattr(mesh, name, None)
    if counts is None:
        return values[index]
    if not isinstance(counts, Tensor) or counts.ndim != 1 or len(counts) <= index or counts.is_floating_point():
        raise InputError(f"{name} of a MESH must be one whole number a mesh, got {_kind(counts)}; repair the mesh")
    check_count(f"{name} of a MESH", int(counts[index]), 0, values.shape[1])
    return values[index, : int(counts[index])]


def _kind(value: object) -> str:
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__


def _flipped(uvs: Tensor) -> Tensor:
    uvs = uvs.float().cpu()
    return torch.stack([uvs[:, 0], 1 - uvs[:, 1]], dim=-1)


def _converted(colors: Tensor, conversion: Callable[[Tensor], Tensor]) -> Tensor:
    """(P, 3) colours through a conversion of pictures (3, H, W)."""
    return conversion(colors.float().cpu().T[..., None])[..., 0].T.clamp(0, 1).contiguous()


def camera_from_load3d(info: Mapping[str, Any], units: float) -> Cameras:
    """LOAD3D_CAMERA -> one camera with the viewport's position, rotation and lens.

    info: position, target, zoom, cameraType, vertical fov in degrees; without a quaternion it looks at its target.
    units: lengths of the viewport that make one of ours.
    """
    rotation = _viewport_rotation(info)
    if info.get("cameraType", "perspective") != "perspective":
        raise InputError(
            f"the viewport's camera must be a perspective one, got {info['cameraType']!r}; switch it in the viewer"
        )
    if info.get("fov") is None:
        raise InputError("the viewport tells no field of view (fov); use its direction only, or a newer viewer")
    fov, zoom = _number(info, "fov"), _number(info, "zoom", 1.0)
    if not (0.1 <= fov <= 179 and zoom > 0):
        raise InputError(
            f"the viewport's field of view must be between 0.1 and 179 degrees and its zoom above 0, got {fov} "
            f"and {zoom}; set them in the viewer"
        )
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3], matrix[:3, 3] = rotation, _vector(info, "position") / units
    return cameras_from_matrices(matrix[None].float(), focal=zoom * focal_from_fov(fov))


def camera_from_direction(info: Mapping[str, Any], distance: float, focal: float) -> Cameras:
    """One camera that looks at the object in the direction from viewport's camera to target, upright as that is."""
    rotation = _viewport_rotation(info)
    direction = _vector(info, "position") - _vector(info, "target")
    if not direction.norm() > 1e-6:
        raise InputError(
            "the viewport's camera must stand away from its target, got distance 0; zoom out in the viewer"
        )
    center = (direction / direction.norm() * distance).float()
    return look_at(center[None], up=rotation[:, 1].float(), focal=focal)


def load3d_from_camera(camera: Cameras, units: float) -> dict[str, Any]:
    """One camera -> LOAD3D_CAMERA, which shows the same in a square viewport.

    The target is the point of the camera's axis nearest to the object, or one unit ahead where that lies behind.
    """
    from scipy.spatial.transform import Rotation

    focal, principal = camera.focal[0].double(), camera.principal[0]
    if not torch.isclose(focal[0], focal[1], rtol=1e-5) or principal.abs().max() > 1e-5:
        raise InputError(
            "a viewport's camera has one focal length and looks through its picture's middle, got focal "
            f"{focal.tolist()} and principal point {principal.tolist()}; use cameras that were made here"
        )
    matrix = camera.camera_to_world[0].double().cpu()
    position, backward = matrix[:3, 3] * units, matrix[:3, 2]
    ahead = float(position @ backward)
    target = position - backward * (ahead if ahead > 1e-6 else units)
    return {
        "position": dict(zip("xyz", position.tolist(), strict=True)),
        "target": dict(zip("xyz", target.tolist(), strict=True)),
        "quaternion": dict(zip("xyzw", Rotation.from_matrix(matrix[:3, :3].numpy()).as_quat().tolist(), strict=True)),
        "zoom": 1.0,
        "cameraType": "perspective",
        "fov": fov_from_focal(float(focal[1])),
        "aspect": 1.0,
    }


def _viewport_rotation(info: Mapping[str, Any]) -> Tensor:
    """LOAD3D_CAMERA -> rotation (3, 3) of columns right, up, backward; float64."""
    from scipy.spatial.transform import Rotation

    if not isinstance(info, Mapping):
        raise InputError(
            f"camera_info must be a camera of the 3D viewer, got {type(info).__name__}; let the viewer show something, "
            "then run again"
        )
    if not info.get("quaternion"):
        position, target = _vector(info, "position"), _vector(info, "target")
        return look_at(position[None], target).camera_to_world[0, :3, :3].double()
    quaternion = _vector(info, "quaternion", "xyzw")
    if not quaternion.norm() > 1e-6:
        raise InputError("the viewport's quaternion must not be 0, got (0, 0, 0, 0); turn the camera once")
    return torch.from_numpy(Rotation.from_quat(quaternion.numpy()).as_matrix())


def _vector(info: Mapping[str, Any], name: str, axes: str = "xyz") -> Tensor:
    """(len(axes),) float64."""
    part = info.get(name)
    if not isinstance(part, Mapping):
        raise InputError(f"a viewport's camera needs its {name}, got {part!r:.60}; connect a camera of the 3D viewer")
    return torch.tensor([_number(part, axis, owner=f"{name}.") for axis in axes], dtype=torch.float64)


def _number(part: Mapping[str, Any], name: str, default: float | None = None, owner: str = "") -> float:
    value = part.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _FAR:
        raise InputError(
            f"a viewport's camera needs a number as {owner}{name}, got {value!r:.40}; connect a camera of the 3D viewer"
        )
    return float(value)
