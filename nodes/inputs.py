"""Inputs that several nodes have, so that they keep one range and one tooltip."""

from __future__ import annotations

from comfy_api.latest import io

from .sockets import CamerasSocket, ModelSocket, SceneSocket


def model_input() -> io.Input:
    """UPFUSION_MODEL."""
    return ModelSocket.Input("upfusion_model", tooltip="From UpFusion Load Model.")


def diffusion_inputs() -> list[io.Input]:
    """UPFUSION_MODEL with the MODEL and VAE that paint for it."""
    return [
        model_input(),
        io.Model.Input("model", tooltip="The diffusion model, straight from the loader or through LoRAs."),
        io.Vae.Input("vae", tooltip="The VAE from UpFusion Load Model."),
    ]


def scene_input() -> io.Input:
    """UPFUSION_SCENE for nodes that paint it."""
    return SceneSocket.Input("scene", tooltip="From UpFusion Encode Views, made by the same UPFUSION_MODEL.")


def prompt_inputs(positive: str) -> list[io.Input]:
    """Both prompts, optional; `positive` is the first one's tooltip."""
    return [
        io.Conditioning.Input("positive", optional=True, tooltip=positive),
        io.Conditioning.Input(
            "negative", optional=True, tooltip="What to steer away from; left open it is the empty prompt of training."
        ),
    ]


def guidance_input(*, advanced: bool | None = None) -> io.Input:
    """Scale of classifier-free guidance."""
    return io.Float.Input(
        "guidance",
        default=9.0,
        min=1.0,
        max=30.0,
        step=0.5,
        advanced=advanced,
        tooltip=(
            "How much the photos and the prompt count, a factor (cfg). 9 is the paper's, 3 suits the bundled mini; 1 "
            "is none and twice as fast."
        ),
    )


def seed_input(tooltip: str) -> io.Input:
    """Any number of 64 bits."""
    return io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True, tooltip=tooltip)


def azimuth_input(name: str, default: float, tooltip: str) -> io.Input:
    """Degrees round the object."""
    return io.Float.Input(name, default=default, min=-720.0, max=720.0, step=1.0, tooltip=tooltip)


def elevation_input(name: str, tooltip: str) -> io.Input:
    """Degrees above the horizon, of a camera of a new view."""
    return io.Float.Input(name, default=22.5, min=-89.0, max=89.0, step=0.5, tooltip=tooltip)


def distance_input(more: str = "") -> io.Input:
    """Distance in units of photo 1's; `more` goes on in its tooltip."""
    return io.Float.Input(
        "distance",
        default=1.0,
        min=0.25,
        max=4.0,
        step=0.05,
        tooltip=f"Distance to the object in units of photo 1's distance; larger shows the object smaller.{more}",
    )


def zoom_input() -> io.Input:
    """Factor on the focal length that the networks know."""
    return io.Float.Input(
        "zoom",
        default=1.0,
        min=0.25,
        max=4.0,
        step=0.05,
        advanced=True,
        tooltip=(
            "Magnification, a factor: 1 is the lens that the released networks know (field of view 25 degrees). Values "
            "far from 1 give worse views; change the distance instead."
        ),
    )


def units_input(tooltip: str) -> io.Input:
    """The viewer's lengths in photo 1's distance."""
    return io.Float.Input("units", default=1.0, min=0.001, max=1000.0, step=0.001, tooltip=tooltip)


def cameras_before_input() -> io.Input:
    """Cameras that a node puts its own after."""
    return CamerasSocket.Input(
        "cameras", optional=True, tooltip="Cameras that come before this one; leave it open for one alone."
    )
