"""Options that several commands share. Nothing here may import torch: `upfusion --help` is to be fast."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

PHOTO_ELEVATION_DEGREES = 22.5
"""What the release assumes of photo 1 (the same as in geometry, which cannot be imported here)."""

PROCEDURAL = "procedural"
"""In place of a data set's folder: objects that are made as they are needed."""
SCHEDULER_HELP = "ddim as released, or another scheduler of diffusers by name."
PHOTO_ELEVATION_HELP = "Degrees above the horizon that photo 1 was taken from."


def texture_side(value: int) -> int:
    """0, or a side that a texture can have."""
    if value and not 64 <= value <= 8192:
        raise typer.BadParameter(f"{value} is neither 0 nor between 64 and 8192")
    return value


def is_whole(text: str) -> bool:
    """Whether a part of an option is a whole number of fewer than ten digits, and nothing else."""
    return text.isascii() and text.isdecimal() and len(text) < 10


def finite(value: float | None) -> float | None:
    """No infinity and no NaN, which pass the ranges of typer."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


def one_of(*choices: str, help: str, name: str | None = None, show_default: bool | str = True) -> Any:  # noqa: ANN401
    """A typer option that takes one of `choices`, or several times one of them."""

    def check(value: str | list[str] | None) -> str | list[str] | None:
        given = value if isinstance(value, list) else [value]
        wrong = [item for item in given if item is not None and item not in choices]
        if wrong:
            raise typer.BadParameter(f"{wrong[0]!r} is not one of {', '.join(choices)}")
        return value

    names = [name] if name else []
    metavar = f"[{chr(124).join(choices)}]"
    return typer.Option(*names, metavar=metavar, callback=check, help=help, show_default=show_default)


Photos = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="PHOTO...", help="1 to 6 photos of one object; the first is the reference.", show_default=False
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="WEIGHTS",
        help="mini, the small bundled model; a folder of released weights; or one merged .safetensors.",
        show_default="mini",
    ),
]
Output = Annotated[
    Path,
    typer.Option("--output", "-o", metavar="OUT", help="Folder for all results; made if missing.", show_default=False),
]
Masks = Annotated[
    list[Path] | None,
    typer.Option("--mask", help="Mask of a photo, white on the object; once a photo, in the same order."),
]
RemoveBackground = Annotated[
    bool, typer.Option("--remove-background", help="Find the object by rembg in photos without mask and alpha.")
]
PhotoElevation = Annotated[
    float, typer.Option("--photo-elevation", help=PHOTO_ELEVATION_HELP, min=-89, max=89, callback=finite)
]
Device = Annotated[str, one_of("auto", "cpu", "cuda", "mps", help="Where the networks run.")]
Dtype = Annotated[
    str,
    one_of(
        "auto",
        "float32",
        "float16",
        "bfloat16",
        help="Precision of the networks; auto: float32 on a CPU, else float16.",
    ),
]
Seed = Annotated[int, typer.Option(help="Start of all random numbers.", min=0, max=2**32 - 1)]
Steps = Annotated[int, typer.Option(help="Denoising steps of a sampled view.", min=1, max=1000)]
Guidance = Annotated[
    float | None,
    typer.Option(
        help="Guidance scale; 1 is none and twice as fast.",
        min=0,
        max=1000,
        callback=finite,
        show_default="what the weights recommend, else 9",
    ),
]
Scheduler = Annotated[str, typer.Option(help=SCHEDULER_HELP)]
Prompt = Annotated[
    str | None, typer.Option(help="Replaces the default prompt (needs the extra package set `prompts`).")
]
BatchSize = Annotated[int, typer.Option(help="Views that are sampled at once.", min=1)]
Count = Annotated[int, typer.Option(help="Cameras of the orbit, beginning at photo 1's.", min=1, max=1000)]
Elevation = Annotated[
    float | None,
    typer.Option(help="Degrees of the orbit above the horizon.", min=-89, max=89, show_default="photo 1's"),
]
Distance = Annotated[float, typer.Option(help="Radius of the orbit in units of photo 1's distance.", min=0.2, max=10)]
CamerasFile = Annotated[
    Path | None,
    typer.Option(
        "--cameras",
        help='JSON list of cameras instead of an orbit: {"azimuth_degrees", "elevation_degrees", "distance"} or '
        '{"camera_to_world", "focal"}.',
    ),
]
Video = Annotated[str, one_of("gif", "mp4", "none", help="Film of the views, in their order.")]
Resolution = Annotated[
    int, typer.Option(help="Samples of the density along the object's longest side.", min=16, max=1024)
]
Threshold = Annotated[
    float | None,
    typer.Option(
        help="Density at the mesh's surface, per scene unit.",
        show_default="chosen by silhouettes",
        min=1e-6,
        callback=finite,
    ),
]
TextureSize = Annotated[
    int,
    typer.Option(
        help="Side of the mesh's texture in pixels, e.g. 1024, 2048 or 4096; 0 colours the vertices instead.",
        callback=texture_side,
    ),
]
Faces = Annotated[
    int | None,
    typer.Option(help="Most triangles of the mesh.", show_default="all", min=16),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the interrupted run in OUT; its settings hold.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the run in OUT.")]
