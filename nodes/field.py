"""The nodes of the 3D stage: a field from the diffusion model, and pictures and meshes from a field."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io
from torch import Tensor
from torch.nn.modules.module import register_module_forward_pre_hook

from ..upfusion_core import Cameras, InputError, NovelViews, PhotoCameras, RadianceField, SceneEncoding
from ..upfusion_core.config import DistillConfig, Reconstruct, Surface
from . import inputs
from .convert import centered, glb_file, image_from_rgb, mask_from_plane, mesh_from_asset, rgb_from_image
from .host import check_interrupted, progress_hook
from .sockets import CamerasSocket, Conditioning, FieldSocket, FoundCameras, HostedModel, PlacementSocket, checked
from .unfinished import graph_before, resumed

if TYPE_CHECKING:
    from pathlib import Path

    from comfy.model_patcher import ModelPatcher
    from comfy.sd import VAE

    from ..upfusion_core import OnStep

BACKGROUNDS = {"white": 1.0, "grey": 0.5, "black": 0.0}
TEXTURED_FACES = 50_000
"""Most triangles of a textured mesh whose user named no number: the time of unwrapping grows faster than they do."""
OUTLINED = 96  # samples along the object's longest side, of a surface that tells no more than where the object is
WORKING_BYTES = 2**30  # what rendering needs beside the field


class UpFusionDistill(io.ComfyNode):
    """Makes one 3D object of all that the diffusion model paints: a field of colour and density that can be rendered
    and turned into a mesh. A LoRA on MODEL restyles the object."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        images = "Views of the object on white to fit first, e.g. from UpFusion Sample Views; square."
        cameras = "The cameras of those images, one each; needed with them."
        preset = (
            "fast: 32 views are painted anew a few times. draft: a first look, from predicted and 16 sampled views. "
            "reference: the paper's schedule of 47,100 denoising steps, for large GPUs."
        )
        steps = (
            "How long to work; 0 is the preset's own number. fast and draft: denoising steps from noise to a view, 10 "
            "by themselves. reference: iterations of one camera each, 3000 by itself."
        )
        photos = "Where the photos were taken from: they are fitted at their own size. Left open, it is found."
        resume = (
            "On: a cancelled or crashed run goes on from there when it is run again with the same inputs; until then "
            "user/upfusion/unfinished keeps it, 2 GB at most. Off: begins anew, and nothing is kept."
        )
        takes = [
            *inputs.diffusion(),
            inputs.scene(),
            io.Image.Input("images", optional=True, tooltip=images),
            CamerasSocket.Input("cameras", optional=True, tooltip=cameras),
            *inputs.prompts("What the object should look like; left open it is the model's own default prompt."),
            inputs.setting("preset", Reconstruct, tooltip=preset),
            inputs.number("steps", 0, 0, 100_000, steps),
            inputs.guidance(advanced=True),
            inputs.seed("Number that noise, cameras and the field's start are drawn from; it decides the result."),
            CamerasSocket.Input("photo_cameras", optional=True, tooltip=photos),
            io.Boolean.Input("resume", default=True, optional=True, advanced=True, tooltip=resume),
        ]
        gives = [FieldSocket.Output("field", tooltip="Colour and density of every point round the object.")]
        aliases = ["image to 3d", "reconstruct", "nerf", "radiance field", "score distillation"]
        more: dict[str, Any] = {"hidden": [io.Hidden.prompt], "essentials_category": "Basics"}
        return inputs.schema(cls, "UpFusion Distill", "field", takes, gives, aliases, **more)

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
        positive: Conditioning | None = None,
        negative: Conditioning | None = None,
        photo_cameras: Cameras | None = None,
        resume: bool = True,
    ) -> io.NodeOutput:
        """Distils with ComfyUI's own MODEL and VAE."""
        from comfy.model_management import intermediate_device
        from comfy_execution.utils import get_executing_context

        from .control import NativePrior

        prompts, views = upfusion_model.prompts(positive, negative), given_views(images, cameras)
        # ComfyUI runs nodes in inference mode
        with torch.inference_mode(False), torch.enable_grad(), _cancel_between_field_calls():
            stages = upfusion_model.stages(NativePrior(upfusion_model, model, vae, prompts))
            hook, context = progress_hook("distilling"), get_executing_context()
            kept: contextlib.AbstractContextManager[tuple[Path | None, OnStep]] = contextlib.nullcontext((None, hook))
            if resume:
                asked = (scene, images, cameras, prompts, photo_cameras, preset, steps, guidance, seed)
                graph = graph_before(cls.hidden and cls.hidden.prompt, context and context.node_id)
                kept = resumed(hook, *asked, upfusion_model.model_id, model.patches, graph)
            with kept as (state, on_step):
                field = stages.distill(
                    scene,
                    distill_config(preset, steps, guidance),
                    generator=torch.Generator().manual_seed(seed % 2**63),
                    on_step=on_step,
                    checkpoint=state,
                    views=views,
                    photo_cameras=None if photo_cameras is None else trusted_cameras(photo_cameras),
                )
            return io.NodeOutput(field.to(intermediate_device()))


class UpFusionRenderField(io.ComfyNode):
    """Pictures of a field from any cameras, with masks and depth. All views show the same object, so that an orbit
    through Create Video is a turntable."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        size = "Side of each picture in pixels. Time grows with its square."
        background = "What is behind the object. For another one use the mask."
        depth = "Closeness: 1 nearest, 0 furthest and behind. The range depends on the camera's distance."
        takes = [
            FieldSocket.Input("field", tooltip="From UpFusion Distill or UpFusion Load Field."),
            CamerasSocket.Input("cameras", tooltip="The views to render, one picture each."),
            inputs.number("size", 256, 16, 2048, size, step=16),
            inputs.choice("background", BACKGROUNDS, background, "white"),
        ]
        gives = [
            io.Image.Output("images", tooltip="One picture a camera, over the background."),
            io.Mask.Output("masks", tooltip="Opacity, 1 on the object."),
            io.Image.Output("depth", tooltip=depth),
        ]
        aliases = ["render nerf", "turntable", "depth map", "novel view"]
        return inputs.schema(cls, "UpFusion Render Field", "field", takes, gives, aliases)

    @classmethod
    @checked
    def execute(cls, field: RadianceField, cameras: Cameras, size: int, background: str) -> io.NodeOutput:
        """Renders the cameras one after the other."""
        own, on_step = working_copy(field), progress_hook("rendering")
        radius = float(own.aabb.abs().amax(0).norm())  # of the ball round the origin that holds the field
        parts = []
        for camera in cameras:
            with torch.no_grad():
                views = own.render(camera, size, background=BACKGROUNDS[background])
            # the range depends on the camera's distance only: neighbouring views of an orbit can be compared
            distance = float(camera.centers[0].norm())
            near, far = max(distance - radius, 0.0), distance + radius
            closeness = ((far - views.depth.cpu()) / (far - near)).clamp(0, 1)
            opacity = views.opacity.cpu()
            parts.append((views.rgb.cpu(), opacity, closeness * opacity))
            on_step(len(parts), len(cameras), lambda: parts[-1][0][0])
        rgb, opacity, depth = (torch.cat(pictures) for pictures in zip(*parts, strict=True))
        return io.NodeOutput(image_from_rgb(rgb), mask_from_plane(opacity), image_from_rgb(depth.expand(-1, 3, -1, -1)))


class UpFusionExtractMesh(io.ComfyNode):
    """The surface of a field as a closed mesh, coloured at its vertices or by a texture, centred and one unit large as
    ComfyUI's mesh tools expect. It is shown without light: the photos' light is in it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        threshold = "Lower keeps more fog; 0 chooses it so that the mesh covers what the renders show."
        coloring = "Where colours are kept: vertices work everywhere; a texture is finer than the triangles."
        texture = "Side of the texture in pixels. It counts with 'texture' only."
        faces = f"At least 16; 0 keeps all, or {TEXTURED_FACES:,} with 'texture', as unwrapping more takes minutes."
        takes = [
            FieldSocket.Input("field", tooltip="From UpFusion Distill or UpFusion Load Field."),
            inputs.setting("resolution", Surface, more="Triangles grow with its square.", default=192, step=16),
            inputs.setting("threshold", Surface, more=threshold, default=0.0, low=0, high=1000, step=0.5),
            inputs.choice("coloring", ["vertex colors", "texture"], coloring, "vertex colors"),
            inputs.setting("texture_size", Surface, tooltip=texture, low=64, step=64),
            inputs.setting("faces", Surface, more=faces, default=0, low=0, high=10_000_000, step=1000),
        ]
        gives = [
            io.Mesh.Output("mesh", tooltip="For ComfyUI's mesh nodes and UpFusion Save Mesh."),
            io.File3DGLB.Output("model_3d", tooltip="The same as a GLB file, for Preview 3D and Save 3D Model."),
            PlacementSocket.Output("placement", tooltip="Where the mesh lay in photo 1's frame before it was centred."),
        ]
        aliases = ["marching cubes", "field to mesh", "glb", "texture bake"]
        more = {"essentials_category": "Basics"}
        return inputs.schema(cls, "UpFusion Extract Mesh", "field", takes, gives, aliases, **more)

    @classmethod
    @checked
    def execute(
        cls, field: RadianceField, resolution: int, threshold: float, coloring: str, texture_size: int, faces: int
    ) -> io.NodeOutput:
        """Extracts the mesh and puts it into ComfyUI's frame."""
        is_textured = coloring == "texture"
        mesh = working_copy(field).extract_mesh(
            resolution,
            threshold or None,
            texture_size=texture_size if is_textured else None,
            faces=faces or (TEXTURED_FACES if is_textured else None),
            on_step=progress_hook("extracting the mesh"),
        )
        mesh, placement = centered(mesh)
        return io.NodeOutput(mesh_from_asset(mesh), glb_file(mesh), placement)


def trusted_cameras(cameras: Cameras) -> PhotoCameras:
    """Cameras of photos, which somebody knows, or of which those count that are sure."""
    if isinstance(cameras, FoundCameras):
        return cameras.photos
    ones = torch.ones(len(cameras))
    return PhotoCameras(cameras, ones > 0, ones, given=True)


def distill_config(preset: str, steps: int, guidance: float) -> DistillConfig:
    """The library's configuration; 0 steps stand for the preset's own number."""
    config = DistillConfig.named(preset, guidance=guidance)
    if not steps:
        return config
    schedule: Any = config.schedule  # one of several classes, each with that field
    name = "iterations" if hasattr(schedule, "iterations") else "steps"
    return replace(config, schedule=replace(schedule, **{name: steps}))


def given_views(images: Tensor | None, cameras: Cameras | None) -> NovelViews | None:
    """IMAGE and its cameras, if there are any."""
    if images is None and cameras is None:
        return None
    if images is None or cameras is None:
        there, lacking = ("cameras", "images") if images is None else ("images", "cameras")
        raise InputError(f"images and cameras belong together, got {there} only; connect {lacking} too, or neither")
    rgb = rgb_from_image(images)
    height, width = rgb.shape[-2:]
    if len(rgb) != len(cameras) or width != height:
        raise InputError(
            f"images must be one square picture for each of the {len(cameras)} cameras, got {len(rgb)} of "
            f"{width} x {height}; take both from the same nodes"
        )
    return NovelViews(rgb, cameras)


@contextlib.contextmanager
def _cancel_between_field_calls() -> Iterator[None]:
    """A step, or the picture shown of it, may be many seconds of rendering on a CPU."""

    def check(module: torch.nn.Module, _: object) -> None:
        if isinstance(module, RadianceField):
            check_interrupted()

    hook = register_module_forward_pre_hook(check)
    try:
        yield
    finally:
        hook.remove()


def outline(field: RadianceField) -> Tensor:
    """(P, 3) points all over the field's surface, in photo 1's frame."""
    on_step = progress_hook("looking where the object is")
    return working_copy(field).extract_mesh(OUTLINED, on_step=on_step).vertices


def working_copy(field: RadianceField) -> RadianceField:
    """The field on ComfyUI's device. It notices Cancel whenever it is asked; the field in the socket stays as it is."""
    from comfy.model_management import free_memory, get_torch_device

    device = get_torch_device()
    needed = sum(value.numel() * value.element_size() for value in field.state_dict().values())
    free_memory(needed + WORKING_BYTES, device)
    own = copy.deepcopy(field).to(device)
    for module in own.modules():  # density and color ask the parts, not the field itself
        module.register_forward_pre_hook(lambda *_: check_interrupted())
    return own
