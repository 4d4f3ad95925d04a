"""The nodes of the 3D stage: a field from the diffusion model, and pictures and meshes from a field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from .checked import checked
from .inputs import diffusion_inputs, guidance_input, prompt_inputs, scene_input, seed_input
from .sockets import CamerasSocket, FieldSocket

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import VAE
    from torch import Tensor

    from ..upfusion_core import Cameras, RadianceField, SceneEncoding
    from .hosted import HostedModel

CATEGORY = "UpFusion/field"
BACKGROUNDS = {"white": 1.0, "grey": 0.5, "black": 0.0}
TEXTURED_FACES = 50_000
"""Most triangles of a textured mesh whose user named no number: the time of unwrapping grows faster than they do."""


class UpFusionDistill(io.ComfyNode):
    """Scene and diffusion model -> UPFUSION_FIELD."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="UpFusionDistill",
            display_name="UpFusion Distill",
            category=CATEGORY,
            description=(
                "Makes one 3D object of all that the diffusion model paints: a field of colour and density that can be "
                "rendered and turned into a mesh. A LoRA on MODEL restyles the object."
            ),
            search_aliases=["image to 3d", "reconstruct", "nerf", "radiance field", "score distillation"],
            inputs=[
                *diffusion_inputs(),
                scene_input(),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="Views of the object on white to fit first, e.g. from UpFusion Sample Views; square.",
                ),
                CamerasSocket.Input(
                    "cameras", optional=True, tooltip="The cameras of those images, one each; needed with them."
                ),
                *prompt_inputs("What the object should look like; left open it is the model's own default prompt."),
                io.Combo.Input(
                    "preset",
                    options=["fast", "draft", "reference"],
                    default="fast",
                    tooltip=(
                        "fast: 32 views are painted anew a few times. draft: a first look, from predicted and "
                        "16 sampled views. reference: the paper's schedule of 47,100 denoising steps, for large GPUs."
                    ),
                ),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=100_000,
                    tooltip=(
                        "How long to work; 0 is the preset's own number. fast and draft: denoising steps from noise to "
                        "a view, 10 by themselves. reference: iterations of one camera each, 3000 by itself."
                    ),
                ),
                guidance_input(advanced=True),
                seed_input("Number that noise, cameras and the field's start are drawn from; it decides the result."),
            ],
            outputs=[FieldSocket.Output("field", tooltip="Colour and density of every point round the object.")],
        )

    @classmethod
    @checked
    def execute(
        cls,
        upfusion_model: HostedModel,
        model: ModelPatcher,
        vae: VAE,
        scene: SceneEncoding,
        preset: str,
        steps: int,
        seed: int,
        guidance: float = 9.0,
        images: Tensor | None = None,
        cameras: Cameras | None = None,
        positive: list[Any] | None = None,
        negative: list[Any] | None = None,
    ) -> io.NodeOutput:
        """Distils with ComfyUI's own MODEL and VAE."""
        from .distillation import DistillSettings, distill, given_views

        prompts = upfusion_model.prompts(positive, negative)
        settings = DistillSettings(preset, steps, guidance, seed)
        views = given_views(images, cameras)
        return io.NodeOutput(distill(upfusion_model, model, vae, scene, prompts, settings, views))


class UpFusionRenderField(io.ComfyNode):
    """UPFUSION_FIELD and cameras -> pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="UpFusionRenderField",
            display_name="UpFusion Render Field",
            category=CATEGORY,
            description=(
                "Pictures of a field from any cameras, with masks and depth. All views show the same object, so that "
                "an orbit through Create Video is a turntable."
            ),
            search_aliases=["render nerf", "turntable", "depth map", "novel view"],
            inputs=[
                FieldSocket.Input("field", tooltip="From UpFusion Distill or UpFusion Load Field."),
                CamerasSocket.Input("cameras", tooltip="The views to render, one picture each."),
                io.Int.Input(
                    "size",
                    default=256,
                    min=16,
                    max=2048,
                    step=16,
                    tooltip="Side of each picture in pixels. Time grows with its square.",
                ),
                io.Combo.Input(
                    "background",
                    options=list(BACKGROUNDS),
                    default="white",
                    tooltip="What is behind the object. For another one use the mask.",
                ),
            ],
            outputs=[
                io.Image.Output("images", tooltip="One picture a camera, over the background."),
                io.Mask.Output("masks", tooltip="Opacity, 1 on the object."),
                io.Image.Output(
                    "depth",
                    tooltip="Closeness: 1 nearest, 0 furthest and behind. The range depends on the camera's distance.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, field: RadianceField, cameras: Cameras, size: int, background: str) -> io.NodeOutput:
        """Renders the cameras one after the other."""
        from .convert import image_from_rgb, mask_from_plane
        from .host import progress_hook
        from .rendering import render_all

        rgb, opacity, depth = render_all(field, cameras, size, BACKGROUNDS[background], progress_hook("rendering"))
        return io.NodeOutput(image_from_rgb(rgb), mask_from_plane(opacity), image_from_rgb(depth))


class UpFusionExtractMesh(io.ComfyNode):
    """UPFUSION_FIELD -> MESH and a GLB file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="UpFusionExtractMesh",
            display_name="UpFusion Extract Mesh",
            category=CATEGORY,
            description=(
                "The surface of a field as a closed mesh, coloured at its vertices or by a texture, centred and one "
                "unit large as ComfyUI's mesh tools expect. It is shown without light: the photos' light is in it."
            ),
            search_aliases=["marching cubes", "field to mesh", "glb", "texture bake"],
            inputs=[
                FieldSocket.Input("field", tooltip="From UpFusion Distill or UpFusion Load Field."),
                io.Int.Input(
                    "resolution",
                    default=192,
                    min=16,
                    max=1024,
                    step=16,
                    tooltip="Samples along the object's longest side. Triangles grow with its square.",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.0,
                    min=0.0,
                    max=1000.0,
                    step=0.5,
                    tooltip=(
                        "Density of the surface per scene unit; lower keeps more fog. 0 chooses it so that the mesh "
                        "covers what the renders show."
                    ),
                ),
                io.Combo.Input(
                    "coloring",
                    options=["vertex colors", "texture"],
                    default="vertex colors",
                    tooltip="Where colours are kept: vertices work everywhere; a texture is finer than the triangles.",
                ),
                io.Int.Input(
                    "texture_size",
                    default=1024,
                    min=64,
                    max=8192,
                    step=64,
                    tooltip="Side of the texture in pixels. It counts with 'texture' only.",
                ),
                io.Int.Input(
                    "faces",
                    default=0,
                    min=0,
                    max=10_000_000,
                    step=1000,
                    tooltip=(
                        "Most triangles the mesh may have, at least 16; fewer make a smaller file. 0 keeps all with "
                        f"'vertex colors' and {TEXTURED_FACES:,} with 'texture': unwrapping more takes minutes."
                    ),
                ),
            ],
            outputs=[
                io.Mesh.Output("mesh", tooltip="For ComfyUI's mesh nodes and UpFusion Save Mesh."),
                io.File3DGLB.Output("model_3d", tooltip="The same as a GLB file, for Preview 3D and Save 3D Model."),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls, field: RadianceField, resolution: int, threshold: float, coloring: str, texture_size: int, faces: int
    ) -> io.NodeOutput:
        """Extracts the mesh and puts it into ComfyUI's frame."""
        from .convert_mesh import centered, glb_file, mesh_from_asset
        from .host import progress_hook
        from .rendering import working_copy

        is_textured = coloring == "texture"
        mesh = working_copy(field).extract_mesh(
            resolution,
            threshold or None,
            texture_size=texture_size if is_textured else None,
            faces=faces or (TEXTURED_FACES if is_textured else None),
            on_step=progress_hook("extracting the mesh"),
        )
        mesh = centered(mesh)
        return io.NodeOutput(mesh_from_asset(mesh), glb_file(mesh))
