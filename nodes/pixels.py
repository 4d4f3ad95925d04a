"""Nodes for photos whose cameras are known: cameras in and out, fields and textures of the photos' own pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io
from torch import Tensor

from ..upfusion_core import SCENE_FORMATS, Cameras, InputError, InputViews, PhotoCameras, RadianceField
from ..upfusion_core.config import Surface
from . import inputs
from .convert import assets_from_mesh, glb_file, mesh_from_asset, plane_from_mask, rgb_from_image
from .field import outline, trusted_cameras
from .files import PREFIX, inside, next_output
from .host import progress_hook
from .sockets import CamerasSocket, FieldSocket, FoundCameras, Placement, PlacementSocket, ViewsSocket, checked

MOST_POINTS = 20_000  # sparse points of a data set
GEOMETRY = io.Custom("DA3_GEOMETRY")  # of ComfyUI's own nodes, since 0.25: a dictionary of tensors


class UpFusionLoadCameras(io.ComfyNode):
    """Where the photos were taken from, by a file of another program in the input folder: transforms.json of nerfstudio
    and instant-ngp, a folder of COLMAP's, cameras.json of splats, or a run's photo_cameras.json."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        path = "The file or folder, by its path inside ComfyUI's input folder."
        photos = "The photos' files in the input folder, a line each, in the order of the views."
        views = "The photos, from UpFusion Prepare Views; a lens that distorts is straightened in them."
        takes = [
            ViewsSocket.Input("views", tooltip=views),
            io.String.Input("path", default="transforms.json", tooltip=path),
            io.String.Input("photos", default="", multiline=True, tooltip=photos),
        ]
        gives = [
            CamerasSocket.Output("cameras", tooltip="One a photo, of the square that was cut out of it."),
            ViewsSocket.Output("views", tooltip="The photos with their cameras, for UpFusion Encode Views."),
            io.String.Output("report", tooltip="What was forgiven or chosen where the file was read."),
        ]
        aliases = ["import poses", "colmap", "transforms.json", "nerfstudio", "camera file"]
        return inputs.schema(cls, "UpFusion Load Cameras", "cameras", takes, gives, aliases)

    @classmethod
    @checked
    def execute(cls, views: InputViews, path: str, photos: str) -> io.NodeOutput:
        from ..upfusion_core import load_photo_cameras, prepare_views

        folder = folder_paths.get_input_directory()
        names = [line.strip() for line in photos.splitlines() if line.strip()]
        sources = views.sources or ()
        if len(names) != len(sources):
            raise InputError(f"photos must name a file for each of {len(sources)} photos, got {len(names)} lines")
        files = [inside(folder, name, "photos") for name in names]
        known = load_photo_cameras(inside(folder, path, "path"), files)
        if not all(lens.is_pinhole for lens in known.lenses):
            parts = [(*source.corner, *source.rgb.shape[:0:-1]) for source in sources]
            lenses = [
                lens.resized(source.size).cut(left, top, left + width, top + height)
                for lens, source, (left, top, width, height) in zip(known.lenses, sources, parts, strict=True)
            ]
            ndc = torch.tensor([lens.ndc for lens in lenses], dtype=torch.float32)
            cameras = Cameras(known.cameras.camera_to_world, ndc[:, 0], ndc[:, 1])
            straight = replace(known, cameras=cameras, lenses=tuple(lenses))
            pictures, masks = [source.rgb for source in sources], [source.mask for source in sources]
            straightened = prepare_views(pictures, masks, size=views.rgb.shape[-1], cameras=straight, sense="told")
            views = replace(straightened, left_out=views.left_out)
        else:
            views = replace(views, cameras=known.of_squares(sources))
        assert views.cameras is not None, "they were put in above"
        return io.NodeOutput(FoundCameras.of(views.cameras), views, "\n".join(known.notes))


class UpFusionCamerasFromGeometry(io.ComfyNode):
    """Where the photos were taken from, as Depth Anything 3 found out in its multi-view mode. Give it the images of
    UpFusion Prepare Views, so that the cameras are those of the squares."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        masks = "Of the same pictures, 1 on the object: they tell where it is. Without, the cameras' axes do."
        takes = [
            GEOMETRY.Input("geometry", tooltip="From Run Depth Anything 3, multiview."),
            io.Mask.Input("masks", optional=True, tooltip=masks),
            inputs.elevation("elevation", "Photo 1's degrees above the horizon, which no photo tells."),
        ]
        gives = [CamerasSocket.Output("cameras", tooltip="One a picture, in photo 1's frame.")]
        aliases = ["da3", "depth anything 3", "poses from geometry", "camera poses"]
        return inputs.schema(cls, "UpFusion Cameras From Geometry", "cameras", takes, gives, aliases)

    @classmethod
    @checked
    def execute(cls, geometry: Any, elevation: float, masks: Tensor | None = None) -> io.NodeOutput:
        """DA3's world-to-camera matrices have OpenCV's axes; its intrinsics are pixels of the size it worked in."""
        from ..upfusion_core import Lens, cameras_round_object

        tensors = []
        for name, rows in (("extrinsics", (3, 4)), ("intrinsics", (3,))):
            value = geometry.get(name) if isinstance(geometry, Mapping) else None
            if not isinstance(value, Tensor) or value.ndim != 4 or len(value) != 1 or value.shape[2] not in rows:
                raise InputError(
                    f"geometry must hold {name} of several pictures, got none; run Depth Anything 3 with mode multiview"
                )
            tensors.append(value[0].double().cpu())
        extrinsics, intrinsics = tensors
        world = torch.eye(4, dtype=torch.float64).repeat(len(extrinsics), 1, 1)
        world[:, :3] = extrinsics[:, :3, :4]
        if not bool(torch.isfinite(world).all()) or not bool((torch.linalg.det(world).abs() > 1e-9).all()):
            raise InputError("geometry must hold cameras, got numbers that are none; run Depth Anything 3 again")
        matrices = torch.linalg.inv(world) @ torch.diag(world.new_tensor([1.0, -1, -1, 1]))
        lenses = []
        for k in intrinsics.tolist():
            size = (max(2 * k[0][2], 1.0), max(2 * k[1][2], 1.0))
            lenses.append(Lens(size, (k[0][0], k[1][1]), (size[0] / 2, size[1] / 2)))
        middles: list[tuple[float, float] | None] = [None] * len(lenses)
        if masks is not None:
            planes = plane_from_mask(masks)
            if len(planes) != len(lenses):
                raise InputError(f"masks must be one for each of {len(lenses)} pictures, got {len(planes)}")
            middles = [_middle(plane[0]) for plane in planes]
        labels = [f"picture {index + 1}" for index in range(len(lenses))]
        return io.NodeOutput(cameras_round_object(matrices, lenses, middles, labels, None, elevation))


class UpFusionRegisterMesh(io.ComfyNode):
    """Lays a mesh of another program, of any size, place and turn about its upright axis, where the photos show its
    object: in photo 1's frame, as UpFusion Project Photos wants it. Silhouettes and colours tell, without a network."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        cameras = "One a photo. Left open, the views' own from UpFusion Load Cameras; without any, photo 1 alone tells."
        takes = [
            io.Mesh.Input("mesh", tooltip="+Y up; from Hunyuan3D, TRELLIS or any other node."),
            ViewsSocket.Input("views", tooltip="The photos, from UpFusion Prepare Views or UpFusion Load Cameras."),
            CamerasSocket.Input("cameras", optional=True, tooltip=cameras),
        ]
        gives = [
            io.Mesh.Output("mesh", tooltip="In photo 1's frame."),
            io.String.Output("report", tooltip="How it was turned and sized, and how well its silhouettes fit."),
        ]
        aliases = ["align mesh", "hunyuan3d", "trellis", "place mesh", "pose estimation"]
        return inputs.schema(cls, "UpFusion Register Mesh", "field", takes, gives, aliases)

    @classmethod
    @checked
    def execute(cls, mesh: Any, views: InputViews, cameras: Cameras | None = None) -> io.NodeOutput:
        """Only the first mesh of a batch is laid there."""
        from ..upfusion_core import register_mesh

        known = None if cameras is None else photo_cameras(views, cameras)
        with torch.inference_mode(False):
            found = register_mesh(assets_from_mesh(mesh)[0], views, known)
        return io.NodeOutput(mesh_from_asset(found.mesh), found.report(), ui={"text": (found.report(),)})


class UpFusionProjectPhotos(io.ComfyNode):
    """Paints a mesh with the photos' own pixels, at their full resolution. What no photo shows keeps the mesh's own
    colour; a mesh without UVs is unwrapped, others keep theirs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        mesh = "In photo 1's frame, or with a placement or field; from UpFusion Extract Mesh or any other node."
        field = (
            "For a mesh that another node made of UpFusion Canonical Views: it is laid into the box of this field, its "
            "front towards photo 1. In place of a placement."
        )
        views = "The photos with their own pixels, from UpFusion Prepare Views or UpFusion Load Cameras."
        cameras = "One a photo. Left open, the views' own from UpFusion Load Cameras."
        placement = "Where the mesh lies in photo 1's frame, from UpFusion Extract Mesh."
        takes = [
            io.Mesh.Input("mesh", tooltip=mesh),
            ViewsSocket.Input("views", tooltip=views),
            inputs.setting("texture_size", Surface, tooltip="Side of the texture in pixels.", default=4096, low=64),
            CamerasSocket.Input("cameras", optional=True, tooltip=cameras),
            PlacementSocket.Input("placement", optional=True, tooltip=placement),
            FieldSocket.Input("field", optional=True, tooltip=field),
        ]
        gives = [
            io.Mesh.Output("mesh", tooltip="The mesh where it was, with its texture."),
            io.File3DGLB.Output("model_3d", tooltip="The same as a GLB file, for Preview 3D and Save 3D Model."),
        ]
        aliases = ["texture projection", "photo texture", "bake photos", "camera projection"]
        return inputs.schema(cls, "UpFusion Project Photos", "field", takes, gives, aliases)

    @classmethod
    @checked
    def execute(
        cls,
        mesh: Any,
        views: InputViews,
        texture_size: int,
        cameras: Cameras | None = None,
        placement: Placement | None = None,
        field: RadianceField | None = None,
    ) -> io.NodeOutput:
        """Only the first mesh of a batch is painted."""
        from ..upfusion_core import given_photos, project_photos

        asset = assets_from_mesh(mesh)[0]
        if field is not None:
            if placement is not None:
                raise InputError("a mesh's place comes from placement or from field, got both; connect one of them")
            placement = Placement.over(asset.vertices, outline(field))
        photos = given_photos(views, photo_cameras(views, cameras))
        placed = asset if placement is None else replace(asset, vertices=placement.to_world(asset.vertices))
        with torch.inference_mode(False):
            painted = project_photos(
                placed, photos.rgb, photos.cameras, masks=photos.masks, size=texture_size,
                on_step=progress_hook("painting the photos"),
            )  # fmt: skip
        if placement is not None:
            painted = replace(painted, vertices=placement.to_mesh(painted.vertices))
        return io.NodeOutput(mesh_from_asset(painted), glb_file(painted))


class UpFusionFitViews(io.ComfyNode):
    """A field of pictures whose cameras are known, at their own resolution. It needs no model and no photos of other
    sides; what no picture shows stays open."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        images = "Pictures of the object on white, or with masks, of any size; e.g. from UpFusion Render Field."
        field = "A field to go on from; it stays as it is."
        takes = [
            io.Image.Input("images", tooltip=images),
            CamerasSocket.Input("cameras", tooltip="One a picture."),
            inputs.seed("Number that the field's start and its rays are drawn from."),
            io.Mask.Input("masks", optional=True, tooltip="1 on the object, one a picture."),
            FieldSocket.Input("field", optional=True, tooltip=field),
        ]
        gives = [FieldSocket.Output("field", tooltip="Colour and density of every point round the object.")]
        aliases = ["nerf from views", "fit radiance field", "posed images to 3d"]
        return inputs.schema(cls, "UpFusion Fit Views", "field", takes, gives, aliases)

    @classmethod
    @checked
    def execute(
        cls,
        images: Tensor,
        cameras: Cameras,
        seed: int,
        masks: Tensor | None = None,
        field: RadianceField | None = None,
    ) -> io.NodeOutput:
        from ..upfusion_core import GivenViews, fit_views

        planes = None if masks is None else [plane[0] for plane in plane_from_mask(masks)]
        with torch.inference_mode(False), torch.enable_grad():
            pictures = [picture.clone() for picture in rgb_from_image(images)]
            views = GivenViews(pictures, cameras, planes and [plane.clone() for plane in planes])
            generator = torch.Generator().manual_seed(seed % 2**63)
            return io.NodeOutput(fit_views(views, field=field, generator=generator, on_step=progress_hook("fitting")))


class UpFusionSaveDataset(io.ComfyNode):
    """Pictures with their cameras as a data set that Gaussian trainers, nerfstudio and COLMAP read, in a folder of the
    output folder: images, masks, cameras, and sparse points of a mesh."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        images = "Pictures of any size, e.g. from UpFusion Render Field."
        views = "Photos with their own pixels and cameras, from UpFusion Load Cameras; they are saved as well."
        mesh = "Its vertices are the sparse points to start from."
        placement = "Where the mesh lies in photo 1's frame, from UpFusion Extract Mesh."
        takes = [
            io.Image.Input("images", tooltip=images),
            CamerasSocket.Input("cameras", tooltip="One a picture."),
            inputs.choice("format", SCENE_FORMATS, "transforms.json, or a sparse model of COLMAP.", "nerfstudio"),
            io.String.Input("filename_prefix", default="datasets/UpFusion", tooltip=PREFIX),
            io.Mask.Input("masks", optional=True, tooltip="1 on the object, one a picture."),
            ViewsSocket.Input("views", optional=True, tooltip=views),
            io.Mesh.Input("mesh", optional=True, tooltip=mesh),
            PlacementSocket.Input("placement", optional=True, tooltip=placement),
        ]
        gives = [io.String.Output("folder", tooltip="The folder that was written.")]
        aliases = ["export colmap", "transforms.json", "gaussian splatting data", "nerfstudio"]
        return inputs.schema(cls, "UpFusion Save Dataset", "field", takes, gives, aliases, is_output_node=True)

    @classmethod
    @checked
    def execute(
        cls,
        images: Tensor,
        cameras: Cameras,
        format: str,
        filename_prefix: str,
        masks: Tensor | None = None,
        views: InputViews | None = None,
        mesh: Any = None,
        placement: Placement | None = None,
    ) -> io.NodeOutput:
        from ..upfusion_core import PosedPicture, export_scene, given_photos

        rgb, planes = rgb_from_image(images).cpu(), None if masks is None else plane_from_mask(masks)[:, 0].cpu()
        if len(rgb) != len(cameras) or (planes is not None and planes.shape != rgb[:, 0].shape):
            found = f"{len(rgb)} pictures" + ("" if planes is None else f" and masks {tuple(planes.shape)}")
            raise InputError(f"images and masks must be one for each of {len(cameras)} cameras, got {found}")
        pictures = []
        for index, picture in enumerate(rgb):
            mask = None if planes is None else planes[index]
            pictures.append(PosedPicture(f"view_{index + 1:03}", picture, cameras[index], mask))
        if views is not None:
            photos = given_photos(views, photo_cameras(views, None))
            for index, (picture, mask) in enumerate(zip(photos.rgb, photos.masks or (), strict=True)):
                pictures.append(PosedPicture(f"photo_{index + 1}", picture, photos.cameras[index], mask))
        points = colors = torch.zeros(0, 3)
        if mesh is not None:
            asset = assets_from_mesh(mesh)[0]
            chosen = slice(None, None, max(1, len(asset.vertices) // MOST_POINTS))
            points, colors = asset.vertices[chosen], asset.vertex_colors[chosen]
            points = points if placement is None else placement.to_world(points)
        folder, _ = next_output(filename_prefix, "")
        export_scene(pictures, folder, format, points, colors)
        name = folder.relative_to(folder_paths.get_output_directory()).as_posix()
        return io.NodeOutput(str(folder), ui={"text": (f"output/{name}",)})


def photo_cameras(views: InputViews, cameras: Cameras | None) -> PhotoCameras:
    """Cameras of the views' squares that are trusted: the connected ones, or those that the views bring along."""
    if cameras is None:
        if views.cameras is None:
            raise InputError("the photos' cameras are needed; connect cameras, or views from UpFusion Load Cameras")
        return views.cameras
    if len(cameras) != len(views):
        raise InputError(f"cameras must be one for each of {len(views)} photos, got {len(cameras)}; connect all")
    return trusted_cameras(cameras)


def _middle(mask: Tensor) -> tuple[float, float] | None:
    """(H, W) -> the middle of what it covers, as shares of its sides."""
    rows, columns = ((mask >= 0.5).any(dim=axis).nonzero()[:, 0] for axis in (1, 0))
    if not len(rows):
        return None
    x, y = (float(ends[0] + ends[-1] + 1) / 2 for ends in (columns, rows))
    return x / mask.shape[1], y / mask.shape[0]
