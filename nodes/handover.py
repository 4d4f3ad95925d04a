"""Nodes that hand a field over to ComfyUI's other 3D nodes: canonical views, splats, voxels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import torch
from comfy_api.latest import Types, io
from torch import Tensor
from torch.nn.functional import normalize

from ..upfusion_core import Cameras, RadianceField, focal_from_fov, look_at, orbit_cameras, project
from ..upfusion_core.config import Surface
from . import inputs
from .field import UpFusionRenderField, outline, working_copy
from .host import progress_hook
from .sockets import CamerasSocket, FieldSocket, Placement, checked

RECEIVERS = ("Hunyuan3D-2mv", "Pixal3D", "viewer")
SIDES = ("front", "left", "back", "right")
HARMONIC = 0.28209479177387814  # the first spherical harmonic: 1 / (2 sqrt(pi))
WIDE, THIN = 0.6, 0.06  # least standard deviations along the surface and across it, in distances of samples
REACH, LOOKS = 0.1, 49  # of the longest side, outwards and inwards, in which light is followed, and at how many places
FRAME = torch.tensor([1.0, -1.0, -1.0])  # our axes in the frame of splats, and back


@dataclass(frozen=True, eq=False)
class Surfels:
    """N flat Gaussians on a surface, in the frame of splats: (x, -y, -z) of our world, in scene units."""

    positions: Tensor  # (N, 3)
    scales: Tensor  # (N, 3) standard deviations along their own axes, the third across the surface
    rotations: Tensor  # (N, 4) unit quaternions w, x, y, z
    opacities: Tensor  # (N,) in [0, 1]
    colors: Tensor  # (N, 3) sRGB in [0, 1], the same from all sides

    @classmethod
    @torch.no_grad()
    def of(cls, field: RadianceField, resolution: int) -> Surfels:
        """One a vertex of the field's surface: where along the normal the field stops light and, in fog, as widely.

        Those that cover each other stop as much as the field does.
        """
        mesh = field.extract_mesh(resolution, on_step=progress_hook("laying splats"))
        assert mesh.normals is not None, "extract_mesh makes them"
        corners, longest = mesh.vertices[mesh.faces], float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).max())
        across = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        depths, step = torch.linspace(-REACH, REACH, LOOKS) * longest, 2 * REACH * longest / (LOOKS - 1)
        found = []
        for points, normals in zip(mesh.vertices.split(2**12), mesh.normals.split(2**12), strict=True):
            column = points[:, None] - normals[:, None] * depths[:, None]
            density = field.density(column.to(field.aabb.device)).cpu()
            outside = density[:, : LOOKS // 2 + 1].flip(1)  # as far as it grows thinner: what is denser is another part
            density[:, : LOOKS // 2 + 1] *= (outside <= outside.cummin(1).values).cumprod(1).flip(1)
            depth = density * step
            weights = torch.exp(depth - depth.cumsum(1)) * -torch.expm1(-depth)
            stopped = weights.sum(1).clamp(min=1e-9)
            middle = (weights * depths).sum(1) / stopped
            spread = ((weights * (depths - middle[:, None]) ** 2).sum(1) / stopped).sqrt()
            found.append(torch.stack([stopped, middle, spread], dim=1))
        stopped, middle, spread = torch.cat(found).unbind(1)
        spacing = longest / (resolution - 1)
        wide, thin = spread.clamp(min=WIDE * spacing), spread.clamp(min=THIN * spacing)
        # so many lie over each other, and together they are to stop what the field does
        overlap = 2 * math.pi * wide**2 * len(wide) / (across.norm(dim=1).sum() / 2)
        opacities = 1 - (1 - stopped.clamp(max=0.999)) ** (1 / overlap.clamp(min=1))
        x, y, z = (mesh.normals * FRAME).unbind(-1)
        rotations = torch.stack([1 + z, -y, x, torch.zeros_like(x)], dim=-1)  # takes (0, 0, 1) to the normal
        rotations[z < -1 + 1e-6] = torch.tensor([0.0, 1, 0, 0])
        scales = torch.stack([wide, wide, thin], dim=-1)
        places = (mesh.vertices - mesh.normals * middle[:, None]) * FRAME
        return cls(places, scales, normalize(rotations, dim=-1), opacities, mesh.vertex_colors)

    def values(self, resolution: int) -> tuple[Any, Any, Types.File3D]:
        """A SPLAT of B = 1; the surface's coloured cells; its places, in our world, as a PLY file of points in memory.

        The cells are those of `resolution` a side, of a cube that the places are centred in, which hold any.
        """
        places, harmonics = self.positions * FRAME, ((self.colors - 0.5) / HARMONIC)[:, None]
        low, high = places.aminmax(dim=0)
        centred = Placement((low + high) / 2, float((high - low).max())).to_mesh(places)
        cells = ((centred + 0.5) * resolution).long().clamp(0, resolution - 1)
        cells, of, counts = cells.unique(dim=0, return_inverse=True, return_counts=True)
        means = torch.zeros(len(cells), 3).index_add_(0, of, self.colors) / counts[:, None]
        parts = self.positions, self.scales, self.rotations, self.opacities[:, None], harmonics
        kinds = [*((axis, "<f4") for axis in "xyz"), *((color, "u1") for color in ("red", "green", "blue"))]
        record = np.empty(len(self.positions), kinds)
        for (name, _), values in zip(kinds, [*places.T, *(255 * self.colors).round().T], strict=True):
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
        return io.NodeOutput(*Surfels.of(working_copy(field), resolution).values(resolution))


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
