"""Nodes that make cameras: by numbers, by the 3D viewer, and those that the photos were taken from."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..upfusion_core import REFERENCE_FOCAL, Cameras, InputError, RadianceField, SceneEncoding, orbit_cameras
from ..upfusion_core.config import Orbit
from . import host, inputs
from .convert import camera_from_direction, camera_from_load3d, image_from_rgb, load3d_from_camera
from .host import progress_hook
from .sockets import CamerasSocket, FieldSocket, FoundCameras, HostedModel, Placement, PlacementSocket, checked

PICTURE = 128  # pixels of what Photo Cameras shows


class UpFusionOrbitCameras(io.ComfyNode):
    """Cameras round the object, all looking at it. Azimuth 0 is where photo 1 was taken; positive azimuths go to the
    viewer's right, to the left side of anything with a face. A range of 360 degrees is a full circle without the first
    view twice."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        azimuth_from = f"Azimuth of the first camera in degrees; 0 is photo 1, 90 is {inputs.AT_90}."
        azimuth_to = "Azimuth of the last camera in degrees. 360 more than the first makes a full circle."
        elevation_from = "Height of the first camera in degrees above the horizon. The networks saw -7.5 to 52.5."
        elevation_to = "Height of the last camera in degrees above the horizon; between them it changes evenly."
        takes = [
            inputs.setting("count", Orbit, tooltip="Number of cameras, and so of views.", high=250),
            inputs.azimuth("azimuth_from", 0.0, azimuth_from),
            inputs.azimuth("azimuth_to", 360.0, azimuth_to),
            inputs.elevation("elevation_from", elevation_from),
            inputs.elevation("elevation_to", elevation_to),
            inputs.distance(),
            inputs.zoom(),
        ]
        gives = [CamerasSocket.Output("cameras", tooltip="The cameras, in order.")]
        aliases = ["turntable", "orbit", "novel views", "camera path", "360"]
        return inputs.schema(cls, "UpFusion Orbit Cameras", "cameras", takes, gives, aliases)

    @classmethod
    @checked
    def execute(
        cls,
        count: int,
        azimuth_from: float,
        azimuth_to: float,
        elevation_from: float,
        elevation_to: float,
        distance: float,
        zoom: float = 1.0,
    ) -> io.NodeOutput:
        """Spreads the cameras evenly over the ranges."""
        is_circle = abs(azimuth_to - azimuth_from) == 360
        azimuths = _evenly(azimuth_from, azimuth_to, count, steps=count if is_circle else count - 1)
        elevations = _evenly(elevation_from, elevation_to, count, steps=count - 1)
        return io.NodeOutput(orbit_cameras(azimuths, elevations, distance, focal=REFERENCE_FOCAL * zoom))


class UpFusionCamera(io.ComfyNode):
    """One camera by azimuth, elevation and distance, looking at the object. Connect cameras to put it after them, so
    that any list can be built."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        azimuth = f"Degrees round the object; 0 is photo 1, 90 is {inputs.AT_90}; 180 is the back."
        takes = [
            inputs.azimuth("azimuth", 90.0, azimuth),
            inputs.elevation("elevation", "Degrees above the horizon. The networks saw -7.5 to 52.5."),
            inputs.distance(),
            inputs.zoom(),
            inputs.cameras_before(),
        ]
        gives = [CamerasSocket.Output("cameras", tooltip="The connected cameras, if any, then this one.")]
        aliases = ["viewpoint", "azimuth", "elevation", "novel view"]
        return inputs.schema(cls, "UpFusion Camera", "cameras", takes, gives, aliases)

    @classmethod
    @checked
    def execute(
        cls, azimuth: float, elevation: float, distance: float, zoom: float = 1.0, cameras: Cameras | None = None
    ) -> io.NodeOutput:
        return io.NodeOutput(_after(cameras, orbit_cameras(azimuth, elevation, distance, focal=REFERENCE_FOCAL * zoom)))


class UpFusionCameraFromLoad3D(io.ComfyNode):
    """A camera set in ComfyUI's 3D viewer, or made by Create Camera Info, as a camera for new views: as it is, or only
    the direction it looks from."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        take = (
            "everything: position, rotation and field of view as they are. direction: looks at the object from that "
            "side, with the lens that the networks know; right for aiming in a viewer, which scales and moves what it "
            "shows."
        )
        units = "The viewer's lengths in photo 1's distance; larger is closer. It counts with 'everything' only."
        takes = [
            io.Load3DCamera.Input("camera_info", tooltip="The camera that the viewer, or Create Camera Info, gives."),
            inputs.choice("take", ["everything", "direction"], take, "everything"),
            inputs.units(units),
            inputs.distance(" It counts with 'direction' only."),
            inputs.cameras_before(),
        ]
        gives = [CamerasSocket.Output("cameras", tooltip="The connected cameras, if any, then the viewer's.")]
        aliases = ["viewport camera", "camera info", "aim", "load 3d", "preview 3d"]
        return inputs.schema(cls, "UpFusion Camera From Load3D", "cameras", takes, gives, aliases)

    @classmethod
    @checked
    def execute(
        cls, camera_info: dict[str, Any], take: str, units: float, distance: float, cameras: Cameras | None = None
    ) -> io.NodeOutput:
        if take == "everything":
            camera = camera_from_load3d(camera_info, units)
        else:
            camera = camera_from_direction(camera_info, distance, REFERENCE_FOCAL)
        return io.NodeOutput(_after(cameras, camera))


class UpFusionCameraToLoad3D(io.ComfyNode):
    """One of the cameras as ComfyUI's 3D viewer and its splat renderer take it, with the same position, rotation and
    field of view."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        camera_info = "Position, target, quaternion and vertical field of view of a square viewport."
        placement = "From UpFusion Extract Mesh: its mesh is then seen as the camera sees the field; units stay 1."
        takes = [
            CamerasSocket.Input("cameras", tooltip="The cameras to choose from."),
            inputs.number("index", 0, 0, 10_000, "Which of the cameras, a number counted from 0."),
            inputs.units("How many of the viewer's lengths make photo 1's distance; larger puts it further off."),
            PlacementSocket.Input("placement", optional=True, tooltip=placement),
        ]
        gives = [io.Load3DCamera.Output("camera_info", tooltip=camera_info)]
        aliases = ["camera info", "viewport camera", "load 3d", "preview 3d"]
        return inputs.schema(cls, "UpFusion Camera To Load3D", "cameras", takes, gives, aliases)

    @classmethod
    @checked
    def execute(cls, cameras: Cameras, index: int, units: float, placement: Placement | None = None) -> io.NodeOutput:
        if index >= len(cameras):
            raise InputError(f"index must be between 0 and {len(cameras) - 1}, got {index}; choose one of the cameras")
        camera = cameras[index]
        if placement is not None:
            matrix = camera.camera_to_world.clone()
            matrix[:, :3, 3] = placement.to_mesh(matrix[:, :3, 3])
            camera = Cameras(matrix, camera.focal, camera.principal)
        return io.NodeOutput(load3d_from_camera(camera, units))


class UpFusionPhotoCameras(io.ComfyNode):
    """Finds where each photo was taken from by the silhouettes of all, or says that it is not sure. UpFusion Distill
    does the same by itself and fits the photos that are sure."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        cameras = "One camera a photo, in their order; photo 1's is known, the others are found."
        report = "A line a photo: azimuth and elevation in degrees, trust (the share of such photos that are right)."
        picture = "Each photo, grey where it is refused, beside what is seen from its camera."
        gives = [
            CamerasSocket.Output("cameras", tooltip=cameras),
            io.String.Output("report", tooltip=report),
            io.Image.Output("picture", tooltip=picture),
        ]
        aliases = ["estimate poses", "camera pose", "structure from motion", "camera matching", "viewpoint"]
        field = "A field that the picture shows; left open, it shows what the scene transformer predicts."
        takes = [inputs.model(), inputs.scene(), FieldSocket.Input("field", optional=True, tooltip=field)]
        return inputs.schema(cls, "UpFusion Photo Cameras", "cameras", takes, gives, aliases)

    @classmethod
    @checked
    def execute(
        cls, upfusion_model: HostedModel, scene: SceneEncoding, field: RadianceField | None = None
    ) -> io.NodeOutput:
        """Cancel comes between the rounds of the search."""
        from ..upfusion_core import estimate_photo_cameras, photo_sheet

        model = upfusion_model.stages()
        found = estimate_photo_cameras(model, scene, on_step=progress_hook("matching photos"))
        if field is None:
            seen = model.predict(scene, found.cameras, PICTURE, pixel_centers=True)
        else:
            seen = field.render(found.cameras, PICTURE).rgb.cpu()
        assert scene.views is not None, "others are refused above"
        sheet = photo_sheet(scene.views.rgb, seen, found, PICTURE)
        host.send_line(
            f"{int(found.accepted.sum())} of {len(found)} photos are sure; the report says why others are not"
        )
        return io.NodeOutput(FoundCameras.of(found), found.report(), image_from_rgb(sheet[None]))


def _evenly(first: float, last: float, count: int, steps: int) -> list[float]:
    """`count` numbers from `first` on, `steps` of which lead to `last`."""
    return [first + (last - first) * index / max(steps, 1) for index in range(count)]


def _after(cameras: Cameras | None, camera: Cameras) -> Cameras:
    return camera if cameras is None else Cameras.concatenate([cameras, camera])
