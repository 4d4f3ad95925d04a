"""Nodes that hand a field over to ComfyUI's other 3D nodes: canonical views, splats, voxels."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import torch
from comfy_api.latest import Types, io
from torch import Tensor

from .. import upfusion_core as core
from ..upfusion_core import Cameras, RadianceField, focal_from_fov, look_at, orbit_cameras, project
from ..upfusion_core.config import Surface
from . import inputs
from .convert import placement_of
from .field import UpFusionRenderField, outline, working_copy
from .host import progress_hook
from .sockets import CamerasSocket, FieldSocket, checked

RECEIVERS = ("Hunyuan3D-2mv", "Pixal3D", "viewer")
SIDES = ("front", "left", "back", "right")


def handed_over(splats: core.Splats, resolution: int) -> tuple[Any, Any, Types.File3D]:
    """A SPLAT of B = 1; the surface's coloured cells; its places, in our world, as a PLY file of points in memory.

    The cells are those of `resolution` a side, of a cube that the places are centred in, which hold any.
    """
    places = splats.places
    cells = ((placement_of(places).to_mesh(places) + 0.5) * resolution).long().clamp(0, resolution - 1)
    cells, of, counts = cells.unique(dim=0, return_inverse=True, return_counts=True)
    means = torch.zeros(len(cells), 3).index_add_(0, of, splats.colors) / counts[:, None]
    parts = splats.positions, splats.scales, splats.rotations, splats.opacities[:, None], splats.harmonics[:, None]
    kinds = [*((axis, "<f4") for axis in "xyz"), *((color, "u1") for color in ("red", "green", "blue"))]
    record = np.empty(len(places), kinds)
    for (name, _), values in zip(kinds, [*places.T, *(255 * splats.colors).round().T], strict=True):
        record[name] = values.numpy(force=True)
    lines = [f"property {'float' if kind == '<f4' else 'uchar'} {name}" for name, kind in kinds]
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {len(record)}", *lines, "end_header", ""]
    splat = Types.SPLAT(*(part.float().cpu()[None] for part in parts))
    voxel = Types.VOXEL(cells, means, resolution)
    return splat, voxel, Types.File3D(BytesIO("\n".join(head).encode("ascii") + record.tobytes()), "ply")


class UpFusionCanonicalViews(io.ComfyNode):
    """Front, left, back and right of a field, named, framed and lit through the lens as another program's multi-view
    node wants them. Left is the object's own left, to the right of who looks at photo 1, as Hunyuan3D-2 has it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        receiver = (
            "What the views are for. Hunyuan3D-2mv: white, each cut round what it shows. Pixal3D: black, one scale for "
            "all. viewer: as the first, but left is what stands to the viewer's left."
        )
        elevation = "Degrees above the horizon; those nodes want 0, others 20."
        size = "Side of each picture in pixels. Time grows with its square."
        takes = [
            FieldSocket.Input("field", tooltip="From UpFusion Distill or UpFusion Load Field."),
            inputs.choice("receiver", RECEIVERS, receiver, "Hunyuan3D-2mv"),
            inputs.number("size", 512, 16, 2048, size, step=16),
            inputs.number("elevation", 0.0, -60.0, 60.0, elevation, step=1.0, advanced=True),
            inputs.number("fov", 20.0, 1.0, 90.0, "The lens: degrees from side to side.", step=1.0, advanced=True),
        ]
        seen = ("azimuth 0, as photo 1", "azimuth 90, the object's left", "azimuth 180", "azimuth 270, its right")
        gives = [
            *(io.Image.Output(side, tooltip=f"The {side}: {where}.") for side, where in zip(SIDES, seen, strict=True)),
            io.Mask.Output("masks", tooltip="Their masks in that order, 1 on the object."),
            CamerasSocket.Output("cameras", tooltip="The cameras of the four, in that order."),
        ]
        aliases = ["hunyuan3d multi view", "front left back right", "pixal3d", "orthographic views", "turnaround"]
        return inputs.schema(cls, "UpFusion Canonical Views", "field", takes, gives, aliases)

    @classmethod
    @checked
    def execute(
        cls, field: RadianceField, receiver: str, size: int, elevation: float = 0.0, fov: float = 20.0
    ) -> io.NodeOutput:
        """Looks where the object is, then renders the four."""
        background = "black" if receiver == "Pixal3D" else "white"
        cameras = canonical_cameras(outline(field), receiver, elevation_degrees=elevation, fov_degrees=fov)
        images, masks, _ = UpFusionRenderField.execute(field, cameras, size, background).args
        return io.NodeOutput(*images.split(1), masks, cameras)


class UpFusionFieldToSplats(io.ComfyNode):
    """A field's surface as flat Gaussians for ComfyUI's splat nodes, which render, preview, merge and save them; also
    as coloured voxels for Paint Mesh and as a point cloud."""

    NEEDS = ("Splat", "Voxel", "File3DPointCloudAny")

    @classmethod
    def define_schema(cls) -> io.Schema:
        more = "Splats grow with its square: 192 makes about 100,000."
        voxel = "The surface's colours in the cube that UpFusion Extract Mesh centres its mesh in: for Paint Mesh."
        takes = [
            FieldSocket.Input("field", tooltip="From UpFusion Distill or UpFusion Load Field."),
            inputs.setting("resolution", Surface, more=more, default=192, step=16),
        ]
        gives = [
            io.Splat.Output(
                "splat", tooltip="In photo 1's frame: Camera To Load3D's cameras see it as they see the field."
            ),
            io.Voxel.Output("voxel", tooltip=voxel),
            io.File3DPointCloudAny.Output("point_cloud", tooltip="The same places and colours, for Save Point Cloud."),
        ]
        aliases = ["gaussian splatting", "3dgs", "surfels", "voxels", "point cloud"]
        return inputs.schema(cls, "UpFusion Field To Splats", "field", takes, gives, aliases)

    @classmethod
    @checked
    def execute(cls, field: RadianceField, resolution: int) -> io.NodeOutput:
        splats = core.Splats.of(working_copy(field), resolution, progress_hook("laying splats"))
        return io.NodeOutput(*handed_over(splats, resolution))


def canonical_cameras(
    points: Tensor, receiver: str, *, elevation_degrees: float = 0.0, fov_degrees: float = 20.0
) -> Cameras:
    """Front, left, back and right (4) of what `points` (P, 3) outline, as the program that gets the views wants them.

    Front is azimuth 0. "left" is the object's own left, seen from +X, in Hunyuan3D-2's example pictures and in Pixal3D;
    "viewer" stands for programs that mean the left of who stands before it, seen from -X.
    Pixal3D: the box of the points is in the middle of all views, its longest side 1/1.1 of the picture's at that depth.
    The others: each view is cut round what it shows, whose longer side is 0.85 of the picture's (Hunyuan3D-2's border).
    """
    points = points.cpu()
    low, high = points.aminmax(dim=0)
    focal, middle, side = focal_from_fov(fov_degrees), (low + high) / 2, float((high - low).max())
    turn = -90.0 if receiver == "viewer" else 90.0
    orbit = orbit_cameras([turn * index for index in range(4)], elevation_degrees, 1.1 * side * focal / 2, focal=focal)
    cameras = look_at(orbit.centers + middle, middle, focal=focal)
    if receiver == "Pixal3D":
        return cameras
    first, last = torch.stack([torch.stack(project(points, each)[0].aminmax(dim=0)) for each in cameras], dim=1)
    zoom = 2 * 0.85 / (last - first).amax(dim=1, keepdim=True)
    return Cameras(cameras.camera_to_world, cameras.focal * zoom, -zoom * (first + last) / 2)
