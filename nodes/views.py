"""The nodes that bring photos in: the user's own, framed on white, and those that come with the pack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io, ui

from ..upfusion_core import MAX_PHOTOS
from .checked import checked
from .sockets import CamerasSocket

if TYPE_CHECKING:
    from torch import Tensor

CATEGORY = "UpFusion/views"
SIZE = 512
"""Pixels along each side of prepared photos; models resize them to their own size."""

BackgroundRemoval = io.Custom("BACKGROUND_REMOVAL")


class UpFusionPrepareViews(io.ComfyNode):
    """Photos of any size -> square photos on white, and their masks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="UpFusionPrepareViews",
            display_name="UpFusion Prepare Views",
            category=CATEGORY,
            description=(
                "Makes 1 to 6 photos of one object ready: the background becomes white and a square is cut round the "
                "object. Photos may differ in size; a socket may carry a batch. Photo 1 is the reference view."
            ),
            search_aliases=["crop to object", "white background", "photos", "multi view input", "remove background"],
            inputs=[
                io.Autogrow.Input(
                    "images",
                    template=io.Autogrow.TemplatePrefix(
                        io.Image.Input("image", tooltip="A photo, or a batch of photos, of the object; alpha counts."),
                        prefix="image",
                        min=1,
                        max=MAX_PHOTOS,
                    ),
                    tooltip="1 to 6 photos of one object, the reference first. The order of the others is free.",
                ),
                io.Autogrow.Input(
                    "masks",
                    template=io.Autogrow.TemplatePrefix(
                        io.Mask.Input(
                            "mask", optional=True, tooltip="1 on the object: the mask of the image with this number."
                        ),
                        prefix="mask",
                        min=0,
                        max=MAX_PHOTOS,
                    ),
                    optional=True,
                    tooltip=(
                        "Masks, mask0 for image0 and so on. A photo with neither mask nor alpha is taken as framed on "
                        "white already, and is not cropped."
                    ),
                ),
                BackgroundRemoval.Input(
                    "bg_removal_model",
                    optional=True,
                    tooltip="From Load Background Removal Model: finds the object where neither mask nor alpha tells.",
                ),
                io.Boolean.Input(
                    "invert_mask",
                    default=False,
                    tooltip=(
                        "Whether the masks are 1 on the background. Turn it on for masks of Load Image, which are 1 "
                        "where the picture is transparent; leave it off for those of Remove Background."
                    ),
                ),
                io.Float.Input(
                    "margin",
                    default=1.15,
                    min=1.0,
                    max=4.0,
                    step=0.05,
                    tooltip=(
                        "Side of the cut over the longer side of the object, a factor. Larger shows the object "
                        "smaller; the networks were trained at 1.15."
                    ),
                ),
            ],
            outputs=[
                io.Image.Output("images", tooltip=f"The photos, {SIZE} x {SIZE} pixels each, on white."),
                io.Mask.Output("masks", tooltip="Their masks, 1 on the object."),
            ],
            is_output_node=True,
        )

    @classmethod
    @checked
    def execute(
        cls,
        images: dict[str, Tensor],
        invert_mask: bool,
        margin: float,
        masks: dict[str, Tensor] | None = None,
        bg_removal_model: Any = None,
    ) -> io.NodeOutput:
        """Frames the photos and shows them."""
        from ..upfusion_core import prepare_views
        from .convert import image_from_rgb, mask_from_plane
        from .photos import flattened, found_masks

        photos = flattened(images, {} if masks is None else masks, invert_mask)
        if bg_removal_model is not None:
            photos = found_masks(photos, bg_removal_model)
        views = prepare_views([photo for photo, _ in photos], [mask for _, mask in photos], size=SIZE, margin=margin)
        result = image_from_rgb(views.rgb)
        return io.NodeOutput(result, mask_from_plane(views.mask), ui=ui.PreviewImage(result, cls=cls))


class UpFusionExampleViews(io.ComfyNode):
    """The photos that come with the pack."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="UpFusionExampleViews",
            display_name="UpFusion Example Views",
            category=CATEGORY,
            description=(
                "Photos of an object that comes with the pack and that nothing was trained on, and true views of it "
                "from other cameras to compare results with. Nothing is written into the input folder."
            ),
            search_aliases=["sample photos", "demo", "test object", "ground truth", "bundled pictures"],
            inputs=[
                io.Int.Input("object", default=0, min=0, max=5, tooltip="Which object, a number counted from 0."),
                io.Int.Input(
                    "number",
                    default=3,
                    min=1,
                    max=MAX_PHOTOS,
                    tooltip="How many of its six photos; more show more sides. The true views stay the same.",
                ),
            ],
            outputs=[
                io.Image.Output("images", tooltip="The photos, framed on white; the first is the reference."),
                io.Mask.Output("masks", tooltip="Their masks, 1 on the object."),
                io.Image.Output("truth", tooltip="True views all round the object that are none of the photos."),
                CamerasSocket.Output("cameras", tooltip="The cameras of the true views."),
                io.Mask.Output("truth_masks", tooltip="Masks of the true views, 1 on the object."),
            ],
        )

    @classmethod
    @checked
    def execute(cls, object: int, number: int) -> io.NodeOutput:
        """Reads the pictures."""
        from ..upfusion_core import example_views
        from .convert import image_from_rgb, mask_from_plane

        example = example_views(object, number)
        return io.NodeOutput(
            image_from_rgb(example.photos),
            mask_from_plane(example.masks),
            image_from_rgb(example.truth),
            example.cameras,
            mask_from_plane(example.truth_masks),
        )
