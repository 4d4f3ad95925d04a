"""How nodes say what they are: their schema, numbers and choices in a line, and inputs that several nodes share."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..upfusion_core.config import DistillConfig, Orbit, Reconstruct, options_of
from .sockets import CamerasSocket, ModelSocket, SceneSocket

AT_90 = "to the viewer's right of it, the left side of anything with a face"
"""Where a camera at azimuth 90 stands; `it` is photo 1."""


def schema(
    node: type[io.ComfyNode],
    name: str,
    stage: str,
    takes: list[io.Input],
    gives: list[io.Output],
    aliases: list[str],
    **more: Any,
) -> io.Schema:
    """The schema of a node called `name`: its id is that without spaces, its description the docstring of its class.

    stage: where it stands in the menu, one of STAGES (nodes/__init__.py). aliases: words that find it.
    more: what else io.Schema takes.
    """
    if "essentials_category" not in inspect.signature(io.Schema).parameters:  # of later versions
        more.pop("essentials_category", None)
    return io.Schema(
        node_id=name.replace(" ", ""),
        display_name=name,
        category=f"UpFusion/{stage}",
        description=" ".join((inspect.getdoc(node) or "").split()),
        search_aliases=aliases,
        inputs=takes,
        outputs=gives,
        **more,
    )


def number(name: str, default: float, low: float, high: float, tooltip: str, **options: Any) -> io.Input:
    """A number from `low` to `high`: INT where the default is a whole one, else FLOAT. options: step, advanced."""
    kind = io.Int if isinstance(default, int) else io.Float
    return kind.Input(name, default=default, min=low, max=high, tooltip=tooltip, **options)


def choice(name: str, words: Iterable[str], tooltip: str, default: str | None = None, **options: Any) -> io.Input:
    """One of several words. options: advanced."""
    return io.Combo.Input(name, options=list(words), default=default, tooltip=tooltip, **options)


def setting(name: str, config: type, field: str = "", *, tooltip: str = "", more: str = "", **options: Any) -> io.Input:
    """An option of the library as an input: default, range or choices, and tooltip of its field in `config`.

    Args:
        field: its name there, if not `name`.
        tooltip: in place of the field's help; `more` goes on after that.
        options: step, advanced; and the node's own default, low or high, where they are not the library's.
    """
    own = {end: options.pop(end) for end in ("default", "low", "high") if end in options}
    known = replace(options_of(config)[field or name], **own)
    text = tooltip or " ".join(f"{known.help} {more}".split())
    default = known.default[0] if known.several else known.default
    if known.choices:
        words = sorted(known.choices, key=lambda word: word != default)  # the default first
        return choice(name, words, text, default, **options)
    low, high = (known.kind(end) for end in (known.low, known.high))
    return number(name, default, low, high, text, **options)


def model() -> io.Input:
    """UPFUSION_MODEL."""
    return ModelSocket.Input("upfusion_model", tooltip="From UpFusion Load Model.")


def diffusion() -> list[io.Input]:
    """UPFUSION_MODEL with the MODEL and VAE that paint for it."""
    return [
        model(),
        io.Model.Input("model", tooltip="The diffusion model, straight from the loader or through LoRAs."),
        io.Vae.Input("vae", tooltip="The VAE from UpFusion Load Model."),
    ]


def scene() -> io.Input:
    """UPFUSION_SCENE for nodes that paint it."""
    return SceneSocket.Input("scene", tooltip="From UpFusion Encode Views, made by the same UPFUSION_MODEL.")


def prompts(positive: str) -> list[io.Input]:
    """Both prompts, optional; `positive` is the first one's tooltip."""
    negative = "What to steer away from; left open it is the empty prompt of training."
    return [
        io.Conditioning.Input("positive", optional=True, tooltip=positive),
        io.Conditioning.Input("negative", optional=True, tooltip=negative),
    ]


def guidance(*, advanced: bool | None = None) -> io.Input:
    """Scale of classifier-free guidance."""
    tooltip = "How much photos and prompt count (cfg). 9 is the paper's, 3 suits mini; 1 is none and twice as fast."
    return setting("guidance", DistillConfig, tooltip=tooltip, low=1.0, high=30.0, step=0.5, advanced=advanced)


def seed(tooltip: str) -> io.Input:
    """Any number of 64 bits."""
    return io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True, tooltip=tooltip)


def azimuth(name: str, default: float, tooltip: str) -> io.Input:
    """Degrees round the object."""
    return number(name, default, -720.0, 720.0, tooltip, step=1.0)


def elevation(name: str, tooltip: str = "", **options: Any) -> io.Input:
    """Degrees above the horizon, of photo 1 or a camera of a new view; options as of `setting`."""
    return setting(name, Reconstruct, "photo_elevation", tooltip=tooltip, default=22.5, step=0.5, **options)


def distance(more: str = "") -> io.Input:
    """Distance in units of photo 1's; `more` goes on in its tooltip."""
    tooltip = f"Distance to the object in units of photo 1's distance; larger shows the object smaller.{more}"
    return setting("distance", Orbit, tooltip=tooltip, low=0.25, high=4.0, step=0.05)


def zoom() -> io.Input:
    """Factor on the focal length that the networks know."""
    tooltip = "Magnification; 1 is the lens that the networks know, 25 degrees. Better change the distance instead."
    return number("zoom", 1.0, 0.25, 4.0, tooltip, step=0.05, advanced=True)


def units(tooltip: str) -> io.Input:
    """The viewer's lengths in photo 1's distance."""
    return number("units", 1.0, 0.001, 1000.0, tooltip, step=0.001)


def cameras_before() -> io.Input:
    """Cameras that a node puts its own after."""
    tooltip = "Cameras that come before this one; leave it open for one alone."
    return CamerasSocket.Input("cameras", optional=True, tooltip=tooltip)
