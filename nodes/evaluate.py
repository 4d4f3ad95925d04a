"""The node that measures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from .checked import checked

if TYPE_CHECKING:
    from torch import Tensor


class UpFusionCompareViews(io.ComfyNode):
    """Pictures and their truth -> measures, a plot, a difference picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="UpFusionCompareViews",
            display_name="UpFusion Compare Views",
            category="UpFusion/evaluate",
            description=(
                "Measures how close pictures are to their truth, view by view: PSNR, SSIM, both inside the object's "
                "box, silhouettes, sharpness and a perceptual distance, as text and as a plot, and where they differ."
            ),
            search_aliases=["psnr", "ssim", "metrics", "evaluation", "difference", "image compare"],
            inputs=[
                io.Image.Input(
                    "images", tooltip="The pictures to judge, on white; they are resized to the truth's size."
                ),
                io.Image.Input("truth", tooltip="What they should look like, as many pictures in the same order."),
                io.Mask.Input(
                    "masks",
                    optional=True,
                    tooltip="1 on the object in the truth; taken from what is not white there when left open.",
                ),
            ],
            outputs=[
                io.String.Output("measures", tooltip="A table: a line a view, then the mean."),
                io.Image.Output("plot", tooltip="A panel a measure: a bar a view, and the mean as a line."),
                io.Image.Output("difference", tooltip="Absolute difference, 0 black; one picture a view."),
            ],
            is_output_node=True,
        )

    @classmethod
    @checked
    def execute(cls, images: Tensor, truth: Tensor, masks: Tensor | None = None) -> io.NodeOutput:
        """Measures every view on its own."""
        from .comparison import compared

        text, plot, difference = compared(images, truth, masks)
        return io.NodeOutput(text, plot, difference, ui={"text": (text,)})
