"""The node that opens weights."""

from __future__ import annotations

from comfy_api.latest import io

from .model_files import model_names, model_path, modification_time
from .sockets import ModelSocket

PRECISIONS = ("auto", "float32", "float16", "bfloat16")


class UpFusionLoadModel(io.ComfyNode):
    """A file or folder of weights as UPFUSION_MODEL, MODEL, CLIP and VAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="UpFusionLoadModel",
            display_name="UpFusion Load Model",
            category="UpFusion/loaders",
            description=(
                "Loads UpFusion's weights: a merged .safetensors file or a folder from models/upfusion, or the small "
                "model that comes with the pack. MODEL, CLIP and VAE are ordinary ones: LoRA loaders, KSampler and VAE "
                "Decode take them."
            ),
            search_aliases=["upfusion checkpoint", "load upfusion", "novel view model", "mini"],
            inputs=[
                io.Combo.Input(
                    "weights",
                    options=model_names(),
                    tooltip=(
                        "File or folder in models/upfusion. mini is the small bundled model: rough views, but it runs "
                        "anywhere without a download."
                    ),
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="auto",
                    advanced=True,
                    tooltip=(
                        "Precision that weights are kept in. auto follows ComfyUI's rules for this machine; float16 "
                        "halves the memory, float32 is exact. The VAE always follows ComfyUI's own setting."
                    ),
                ),
            ],
            outputs=[
                ModelSocket.Output("upfusion_model", tooltip="Photo encoder, scene transformer and ControlNet."),
                io.Model.Output("model", tooltip="The diffusion model, for LoRA loaders and samplers."),
                io.Clip.Output("clip", tooltip="The text encoder; empty when the file holds none, as mini does."),
                io.Vae.Output("vae", tooltip="The autoencoder between latents and pictures."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, weights: str, precision: str) -> str:
        """A changed file is loaded again."""
        return f"{weights} {precision} {modification_time(weights)}"

    @classmethod
    def execute(cls, weights: str, precision: str) -> io.NodeOutput:
        """Opens, checks and loads the weights."""
        from ..upfusion_core import check_choice
        from .latent_diffusion import load_all

        check_choice("precision", precision, PRECISIONS)
        return io.NodeOutput(*load_all(model_path(weights), precision))
