"""The node that tells where the photos were taken from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from .checked import checked
from .inputs import model_input, scene_input
from .sockets import CamerasSocket

if TYPE_CHECKING:
    from ..upfusion_core import PhotoCameras, SceneEncoding
    from .hosted import HostedModel


class UpFusionPhotoCameras(io.ComfyNode):
    """UPFUSION_SCENE -> the cameras of its photos."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="UpFusionPhotoCameras",
            display_name="UpFusion Photo Cameras",
            category="UpFusion/cameras",
            description=(
                "Estimates where each photo was taken from, by matching it with what the scene transformer makes of "
                "the other photos. UpFusion Distill does the same by itself and fits the photos it is sure of."
            ),
            search_aliases=["estimate poses", "camera pose", "structure from motion", "camera matching", "viewpoint"],
            inputs=[model_input(), scene_input()],
            outputs=[
                CamerasSocket.Output(
                    "cameras", tooltip="One camera a photo, in their order; photo 1's is known, the others estimates."
                ),
                io.String.Output(
                    "report",
                    tooltip="A line a photo: azimuth and elevation in degrees, and whether the match is good (0 to 1).",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, upfusion_model: HostedModel, scene: SceneEncoding) -> io.NodeOutput:
        """Searches photo after photo; Cancel comes between them."""
        from ..upfusion_core import estimate_photo_cameras
        from .host import progress_hook

        found = estimate_photo_cameras(upfusion_model.stages(), scene, on_step=progress_hook("matching photos"))
        return io.NodeOutput(found.cameras, describe(found))


def describe(found: PhotoCameras) -> str:
    """A line a photo.

    Example: "photo 2: azimuth 90.0, elevation 20.0 degrees, accepted (0.83)".
    """
    lines = []
    for number, (azimuth, elevation) in enumerate(found.angles_degrees().tolist(), start=1):
        verdict = "the reference"
        if number > 1:
            word = "accepted" if found.accepted[number - 1] else "uncertain"
            verdict = f"{word} ({float(found.score[number - 1]):.2f})"
        lines.append(f"photo {number}: azimuth {azimuth:.1f}, elevation {elevation:.1f} degrees, {verdict}")
    return "\n".join(lines)
