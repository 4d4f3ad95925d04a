"""Nodes that hand a field over to ComfyUI's other 3D nodes: canonical views, splats, voxels."""

from __future__ import annotations

from typing import get_args

from comfy_api.latest import io

from ..upfusion_core import RadianceField, Receiver, canonical_cameras
from . import inputs
from .field import UpFusionRenderField, outline
from .sockets import CamerasSocket, FieldSocket, checked

SIDES = ("front", "left", "back", "right")


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
            inputs.choice("receiver", get_args(Receiver), receiver, "Hunyuan3D-2mv"),
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
        cls, field: RadianceField, receiver: Receiver, size: int, elevation: float = 0.0, fov: float = 20.0
    ) -> io.NodeOutput:
        """Looks where the object is, then renders the four."""
        background = "black" if receiver == "Pixal3D" else "white"
        cameras = canonical_cameras(outline(field), receiver, elevation_degrees=elevation, fov_degrees=fov)
        images, masks, _ = UpFusionRenderField.execute(field, cameras, size, background).args
        return io.NodeOutput(*images.split(1), masks, cameras)
