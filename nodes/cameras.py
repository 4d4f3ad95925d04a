"""Nodes that make cameras."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from .checked import checked
from .inputs import azimuth_input, cameras_before_input, distance_input, elevation_input, units_input, zoom_input
from .sockets import CamerasSocket

if TYPE_CHECKING:
    from ..upfusion_core import Cameras

CATEGORY = "UpFusion/cameras"


class UpFusionOrbitCameras(io.ComfyNode):
    """Cameras on an arc or a full circle round the object."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="UpFusionOrbitCameras",
            display_name="UpFusion Orbit Cameras",
            category=CATEGORY,
            description=(
                "Cameras round the object, all looking at it. Azimuth 0 is where photo 1 was taken; positive azimuths "
                "go to the right. A range of 360 degrees is a full circle without the first view twice."
            ),
            search_aliases=["turntable", "orbit", "novel views", "camera path", "360"],
            inputs=[
                io.Int.Input("count", default=8, min=1, max=250, tooltip="Number of cameras, and so of views."),
                azimuth_input(
                    "azimuth_from",
                    0.0,
                    "Azimuth of the first camera in degrees; 0 is photo 1, 90 the object's right side.",
                ),
                azimuth_input(
                    "azimuth_to",
                    360.0,
                    "Azimuth of the last camera in degrees. 360 more than the first makes a full circle.",
                ),
                elevation_input(
                    "elevation_from",
                    "Height of the first camera in degrees above the horizon. The networks saw -7.5 to 52.5.",
                ),
                elevation_input(
                    "elevation_to",
                    "Height of the last camera in degrees above the horizon; between them it changes evenly.",
                ),
                distance_input(),
                zoom_input(),
            ],
            outputs=[CamerasSocket.Output("cameras", tooltip="The cameras, in order.")],
        )

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
        azimuths = _evenly(azimuth_from, azimuth_to, count, with_last=not is_circle)
        elevations = _evenly(elevation_from, elevation_to, count, with_last=True)
        return io.NodeOutput(_orbit(azimuths, elevations, distance, zoom))


class UpFusionCamera(io.ComfyNode):
    """One camera by numbers, alone or after others."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="UpFusionCamera",
            display_name="UpFusion Camera",
            category=CATEGORY,
            description=(
                "One camera by azimuth, elevation and distance, looking at the object. Connect cameras to put it after "
                "them, so that any list can be built."
            ),
            search_aliases=["viewpoint", "azimuth", "elevation", "novel view"],
            inputs=[
                azimuth_input(
                    "azimuth", 90.0, "Degrees round the object; 0 is photo 1, 90 the object's right side, 180 its back."
                ),
                elevation_input("elevation", "Degrees above the horizon. The networks saw -7.5 to 52.5."),
                distance_input(),
                zoom_input(),
                cameras_before_input(),
            ],
            outputs=[CamerasSocket.Output("cameras", tooltip="The connected cameras, if any, then this one.")],
        )

    @classmethod
    @checked
    def execute(
        cls, azimuth: float, elevation: float, distance: float, zoom: float = 1.0, cameras: Cameras | None = None
    ) -> io.NodeOutput:
        """Makes the camera and puts it after the connected ones."""
        return io.NodeOutput(_after(cameras, _orbit([azimuth], [elevation], distance, zoom)))


class UpFusionCameraFromLoad3D(io.ComfyNode):
    """A camera of the 3D viewer."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="UpFusionCameraFromLoad3D",
            display_name="UpFusion Camera From Load3D",
            category=CATEGORY,
            description=(
                "A camera set in ComfyUI's 3D viewer, or made by Create Camera Info, as a camera for new views: as it "
                "is, or only the direction it looks from."
            ),
            search_aliases=["viewport camera", "camera info", "aim", "load 3d", "preview 3d"],
            inputs=[
                io.Load3DCamera.Input(
                    "camera_info", tooltip="The camera that the viewer, or Create Camera Info, gives."
                ),
                io.Combo.Input(
                    "take",
                    options=["everything", "direction"],
                    default="everything",
                    tooltip=(
                        "everything: position, rotation and field of view as they are. direction: looks at the object "
                        "from that side, with the lens that the networks know; right for aiming in a viewer, which "
                        "scales and moves what it shows."
                    ),
                ),
                units_input(
                    (
                        "How many of the viewer's lengths make photo 1's distance; larger brings the camera closer. "
                        "It counts with 'everything' only."
                    ),
                ),
                distance_input(" It counts with 'direction' only."),
                cameras_before_input(),
            ],
            outputs=[CamerasSocket.Output("cameras", tooltip="The connected cameras, if any, then the viewer's.")],
        )

    @classmethod
    @checked
    def execute(
        cls, camera_info: dict[str, Any], take: str, units: float, distance: float, cameras: Cameras | None = None
    ) -> io.NodeOutput:
        """Converts the camera and puts it after the connected ones."""
        from ..upfusion_core import REFERENCE_FOCAL
        from .convert_viewport import camera_from_direction, camera_from_load3d

        if take == "everything":
            camera = camera_from_load3d(camera_info, units)
        else:
            camera = camera_from_direction(camera_info, distance, REFERENCE_FOCAL)
        return io.NodeOutput(_after(cameras, camera))


class UpFusionCameraToLoad3D(io.ComfyNode):
    """One of the cameras for the 3D viewer."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="UpFusionCameraToLoad3D",
            display_name="UpFusion Camera To Load3D",
            category=CATEGORY,
            description=(
                "One of the cameras as ComfyUI's 3D viewer and its splat renderer take it, with the same position, "
                "rotation and field of view."
            ),
            search_aliases=["camera info", "viewport camera", "load 3d", "preview 3d"],
            inputs=[
                CamerasSocket.Input("cameras", tooltip="The cameras to choose from."),
                io.Int.Input(
                    "index", default=0, min=0, max=10_000, tooltip="Which of the cameras, a number counted from 0."
                ),
                units_input(
                    "How many of the viewer's lengths make photo 1's distance; larger puts it further off.",
                ),
            ],
            outputs=[
                io.Load3DCamera.Output(
                    "camera_info",
                    tooltip="Position, target, quaternion and vertical field of view of a square viewport.",
                )
            ],
        )

    @classmethod
    @checked
    def execute(cls, cameras: Cameras, index: int, units: float) -> io.NodeOutput:
        """Converts the chosen camera."""
        from ..upfusion_core import InputError
        from .convert_viewport import load3d_from_camera

        if not 0 <= index < len(cameras):
            raise InputError(f"index must be between 0 and {len(cameras) - 1}, got {index}; choose one of the cameras")
        return io.NodeOutput(load3d_from_camera(cameras[index], units))


def _evenly(first: float, last: float, count: int, *, with_last: bool) -> list[float]:
    """`count` numbers from `first` on; the last of them is `last`, or one step before it."""
    steps = count - 1 if with_last else count
    return [first + (last - first) * index / max(steps, 1) for index in range(count)]


def _orbit(azimuths: list[float], elevations: list[float], distance: float, zoom: float) -> Cameras:
    from ..upfusion_core import REFERENCE_FOCAL, orbit_cameras

    return orbit_cameras(azimuths, elevations, distance, focal=REFERENCE_FOCAL * zoom)


def _after(cameras: Cameras | None, camera: Cameras) -> Cameras:
    """The connected cameras, if any, then this one."""
    from ..upfusion_core import Cameras

    return camera if cameras is None else Cameras.concatenate([cameras, camera])
