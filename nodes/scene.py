"""The nodes of the first stage: photos to set latents, set latents to immediate views."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from .checked import checked
from .inputs import model_input
from .sockets import CamerasSocket, ModelSocket, SceneSocket

if TYPE_CHECKING:
    from torch import Tensor

    from ..upfusion_core import Cameras, SceneEncoding
    from .hosted import HostedModel


class UpFusionEncodeViews(io.ComfyNode):
    """Prepared photos -> UPFUSION_SCENE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="UpFusionEncodeViews",
            display_name="UpFusion Encode Views",
            category="UpFusion/views",
            description=(
                "Turns 1 to 6 prepared photos of one object into a scene that can be asked for any view. No camera "
                "poses are needed; photo 1 is the reference that all views are measured from."
            ),
            search_aliases=["encode photos", "scene", "set latents", "unposed", "multi view"],
            inputs=[
                model_input(),
                io.Image.Input(
                    "images",
                    tooltip="1 to 6 square photos of the object on white, photo 1 first: from UpFusion Prepare Views.",
                ),
                io.Mask.Input(
                    "masks",
                    optional=True,
                    tooltip="1 on the object, one a photo; taken from what is not white when left open.",
                ),
                io.Float.Input(
                    "elevation",
                    default=22.5,
                    min=-60.0,
                    max=85.0,
                    step=0.5,
                    tooltip=(
                        "Degrees above the horizon that photo 1 was taken from: 0 at the object's height, 45 looking "
                        "down. A wrong value tilts the orbit of all new views."
                    ),
                ),
            ],
            outputs=[SceneSocket.Output("scene", tooltip="The object as the model understands it, with its photos.")],
        )

    @classmethod
    @checked
    def execute(
        cls, upfusion_model: HostedModel, images: Tensor, elevation: float, masks: Tensor | None = None
    ) -> io.NodeOutput:
        """Runs DINO and the scene encoder once."""
        from .convert import input_views

        views = input_views(images, masks)
        return io.NodeOutput(upfusion_model.stages().encode(views, reference_elevation_degrees=elevation))


class UpFusionPredictViews(io.ComfyNode):
    """UPFUSION_SCENE and cameras -> blurry, immediate views."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="UpFusionPredictViews",
            display_name="UpFusion Predict Views",
            category="UpFusion/views",
            description=(
                "What the scene transformer alone sees from each camera: blurry, but there at once. Use it to aim "
                "before sampling, and to see whether the photos were understood."
            ),
            search_aliases=["preview views", "aim", "UpSRT", "ghost view", "fast novel view"],
            inputs=[
                ModelSocket.Input("upfusion_model", tooltip="The model that encoded the scene."),
                SceneSocket.Input("scene", tooltip="From UpFusion Encode Views."),
                CamerasSocket.Input("cameras", tooltip="The views to show, one picture each."),
                io.Int.Input(
                    "size",
                    default=128,
                    min=16,
                    max=1024,
                    step=16,
                    tooltip="Side of each picture in pixels. Time grows with its square; detail does not.",
                ),
            ],
            outputs=[io.Image.Output("images", tooltip="One picture a camera.")],
        )

    @classmethod
    @checked
    def execute(cls, upfusion_model: HostedModel, scene: SceneEncoding, cameras: Cameras, size: int) -> io.NodeOutput:
        """Decodes the cameras one after the other, so that Cancel comes between them."""
        from .convert import image_from_rgb
        from .host import progress_hook, stacked

        stages, on_step = upfusion_model.stages(), progress_hook("predicting")
        views = (stages.predict(scene, camera, size) for camera in cameras)
        return io.NodeOutput(image_from_rgb(stacked(views, len(cameras), on_step)))
