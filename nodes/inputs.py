"""Inputs as nodes have them: numbers and choices in a line, and those of several nodes with one range and tooltip."""

from __future__ import annotations

from collections.abc import Sequence

from comfy_api.latest import io

from .sockets import CamerasSocket, ModelSocket, SceneSocket


def number(
    name: str,
    default: float,
    low: float,
    high: float,
    tooltip: str,
    *,
    step: float | None = None,
    advanced: bool | None = None,
) -> io.Input:
    """A number from `low` to `high`: INT where the default is a whole one, else FLOAT."""
    kind = io.Int if isinstance(default, int) else io.Float
    return kind.Input(name, default=default, min=low, max=high, step=step, advanced=advanced, tooltip=tooltip)


def choice(
    name: str, options: Sequence[str], tooltip: str, *, default: str | None = None, advanced: bool | None = None
) -> io.Input:
    """One of several words."""
    return io.Combo.Input(name, options=list(options), default=default, advanced=advanced, tooltip=tooltip)


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
    negative = "What to steer away from; left open it is the empty prompt of training."
    return [
        io.Conditioning.Input("positive", optional=True, tooltip=positive),
        io.Conditioning.Input("negative", optional=True, tooltip=negative),
    ]


def guidance_input(*, advanced: bool | None = None) -> io.Input:
    """Scale of classifier-free guidance."""
    tooltip = (
        "How much the photos and the prompt count, a factor (cfg). 9 is the paper's, 3 suits the bundled mini; 1 is "
        "none and twice as fast."
    )
    return number("guidance", 9.0, 1.0, 30.0, tooltip, step=0.5, advanced=advanced)


def seed_input(tooltip: str) -> io.Input:
    """Any number of 64 bits."""
    return io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True, tooltip=tooltip)


def azimuth_input(name: str, default: float, tooltip: str) -> io.Input:
    """Degrees round the object."""
    return number(name, default, -720.0, 720.0, tooltip, step=1.0)


def elevation_input(name: str, tooltip: str) -> io.Input:
    """Degrees above the horizon, of a camera of a new view."""
    return number(name, 22.5, -89.0, 89.0, tooltip, step=0.5)


def distance_input(more: str = "") -> io.Input:
    """Distance in units of photo 1's; `more` goes on in its tooltip."""
    tooltip = f"Distance to the object in units of photo 1's distance; larger shows the object smaller.{more}"
    return number("distance", 1.0, 0.25, 4.0, tooltip, step=0.05)


def zoom_input() -> io.Input:
    """Factor on the focal length that the networks know."""
    tooltip = (
        "Magnification, a factor: 1 is the lens that the released networks know (field of view 25 degrees). Values far "
        "from 1 give worse views; change the distance instead."
    )
    return number("zoom", 1.0, 0.25, 4.0, tooltip, step=0.05, advanced=True)


def units_input(tooltip: str) -> io.Input:
    """The viewer's lengths in photo 1's distance."""
    return number("units", 1.0, 0.001, 1000.0, tooltip, step=0.001)


def cameras_before_input() -> io.Input:
    """Cameras that a node puts its own after."""
    tooltip = "Cameras that come before this one; leave it open for one alone."
    return CamerasSocket.Input("cameras", optional=True, tooltip=tooltip)
