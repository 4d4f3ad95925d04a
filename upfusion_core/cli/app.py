"""The commands and their options. What they do is imported when they are called, so that --help needs no torch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Annotated, ParamSpec

import typer
from typer.core import TyperGroup

from ..support.errors import UpFusionError
from ..support.version import version as package_version
from . import options
from .console import answer, patient, say
from .evaluate import evaluate
from .options import PHOTO_ELEVATION_DEGREES, one_of
from .pack import pack
from .run import Interrupted
from .settings import PRESETS, Conduct, DemoSettings, PredictSettings, ReconstructSettings, Sources, ViewsSettings
from .train import train


class _Commands(TyperGroup):
    """Refuses empty values, e.g. of a shell variable without content: as a path, one would be the current folder."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        for before, value in pairwise(["", *args]):
            option, _, given = value.partition("=")
            empty = not value or (option.startswith("--") and "=" in value and not given)
            name = option or before
            if empty and name != "--prompt":
                what = f"{name} needs a value" if name.startswith("-") else "every argument needs a value"
                raise typer.BadParameter(f"{what}, got an empty one; for the current folder give .")
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="upfusion",
    cls=_Commands,
    help="From 1 to 6 photos of an object to novel views and a 3D mesh (UpFusion).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Parameters = ParamSpec("Parameters")

NO_MEMORY = (
    "memory must suffice for the work, but does not, even in the smallest pieces; close other programs, choose a "
    "smaller --batch-size or --texture-size where there is one, or --device cpu"
)


def _reporting(command: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """Turns errors that the user can put right into one sentence and exit code 2, Ctrl-C into one and 130."""

    @functools.wraps(command)
    def wrapped(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        try:
            with patient():
                command(*args, **kwargs)
        except UpFusionError as error:
            say(f"Error: {error}")
            raise typer.Exit(2) from None
        except KeyboardInterrupt as error:
            say(str(error) if isinstance(error, Interrupted) else "interrupted")
            raise typer.Exit(130) from None
        except (MemoryError, RuntimeError) as error:
            from ..support.memory import is_out_of_memory

            if not is_out_of_memory(error):
                raise
            say(f"Error: {NO_MEMORY}")
            raise typer.Exit(2) from None

    return wrapped


def _explicit(context: typer.Context) -> frozenset[str]:
    """Names of the parameters that were given on the command line."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return frozenset(name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE")


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        answer(package_version())
        raise typer.Exit


@app.command()
@_reporting
def demo(
    context: typer.Context,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help="Folder for all results; made if missing.")
    ] = Path("upfusion-demo"),
    number: Annotated[
        int, typer.Option("--object", help="Which of the objects that come with the package, from 0.", min=0)
    ] = 4,
    photos: Annotated[int, typer.Option(help="How many photos of it the model is given.", min=1, max=6)] = 3,
    model: options.Model = None,
    steps: options.Steps = 15,
    guidance: options.Guidance = None,
    scheduler: options.Scheduler = "dpm++",
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    resume: options.Resume = False,
    force: options.Force = False,
) -> None:
    """Photos that come with the package -> views, field and mesh, and a sheet beside the truth, in minutes."""
    settings = DemoSettings(
        model=model, dtype=dtype, seed=seed, steps=steps, guidance=guidance, scheduler=scheduler, object=number,
        photos=photos,
    )  # fmt: skip
    given = frozenset("object" if name == "number" else name for name in _explicit(context))
    conduct = Conduct(output=output, device=device, resume=resume, force=force, explicit=given)
    from .demo import run_demo

    run_demo(settings, conduct)


@app.command()
@_reporting
def reconstruct(
    context: typer.Context,
    output: options.Output,
    photos: options.Photos = None,
    model: options.Model = None,
    masks: options.Masks = None,
    remove_background: options.RemoveBackground = False,
    photo_elevation: Annotated[
        float,
        typer.Option(
            "--photo-elevation",
            "--elevation",
            help=options.PHOTO_ELEVATION_HELP,
            min=-89,
            max=89,
            callback=options.finite,
        ),
    ] = PHOTO_ELEVATION_DEGREES,
    preset: Annotated[str, one_of(*PRESETS, help="Schedule: a first look, for results, or the paper's.")] = "fast",
    views: Annotated[int, typer.Option(help="Novel views to sample and save as well.", min=0, max=100)] = 8,
    turntable_size: Annotated[
        int, typer.Option(help="Side of the turntable's pictures in pixels.", min=16, max=1024)
    ] = 128,
    resolution: options.Resolution = 256,
    threshold: options.Threshold = None,
    texture_size: options.TextureSize = 1024,
    faces: options.Faces = None,
    formats: Annotated[
        list[str] | None, one_of("glb", "obj", "ply", "stl", name="--format", help="Of the mesh; repeatable.")
    ] = None,
    perceptual: Annotated[
        str | None, one_of("lpips", "dino", "none", help="Perceptual loss.", show_default="the preset's")
    ] = None,
    perceptual_weights: Annotated[
        Path | None, typer.Option(help="VGG weights for --perceptual lpips.", show_default=False)
    ] = None,
    prompt: options.Prompt = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Denoising steps of a sampled view.", show_default="50, of the field 10", min=1, max=1000),
    ] = None,
    guidance: options.Guidance = None,
    scheduler: Annotated[
        str | None, typer.Option(help=options.SCHEDULER_HELP, show_default="ddim, of the field dpm++")
    ] = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    batch_size: options.BatchSize = 4,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints to resume from.", min=1)] = 100,
    preview_every: Annotated[int, typer.Option(help="Steps between updates of preview.png; 0: none.", min=0)] = 50,
    resume: options.Resume = False,
    force: options.Force = False,
) -> None:
    """Photos -> novel views -> radiance field -> mesh, all in the folder OUT."""
    settings = ReconstructSettings(
        model=model, dtype=dtype, photo_elevation=photo_elevation, remove_background=remove_background, seed=seed,
        steps=steps, guidance=guidance, scheduler=scheduler, prompt=prompt, preset=preset, views=views,
        turntable_size=turntable_size, resolution=resolution, threshold=threshold,
        texture_size=texture_size, faces=faces,
        formats=tuple(dict.fromkeys(formats or ["glb"])),
        batch_size=batch_size, perceptual=perceptual,
        perceptual_weights=str(perceptual_weights.absolute()) if perceptual_weights else None,
    )  # fmt: skip
    conduct = Conduct(
        output=output, device=device, resume=resume, force=force, explicit=_explicit(context),
        checkpoint_every=checkpoint_every, preview_every=preview_every,
    )  # fmt: skip
    from .reconstruct import run_reconstruct

    run_reconstruct(settings, Sources(photos=tuple(photos or ()), masks=tuple(masks or ())), conduct)


@app.command()
@_reporting
def views(
    context: typer.Context,
    output: options.Output,
    photos: options.Photos = None,
    model: options.Model = None,
    masks: options.Masks = None,
    remove_background: options.RemoveBackground = False,
    photo_elevation: options.PhotoElevation = PHOTO_ELEVATION_DEGREES,
    count: options.Count = 8,
    elevation: options.Elevation = None,
    distance: options.Distance = 1.0,
    cameras: options.CamerasFile = None,
    video: options.Video = "gif",
    prompt: options.Prompt = None,
    steps: options.Steps = 50,
    guidance: options.Guidance = None,
    scheduler: options.Scheduler = "ddim",
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    batch_size: options.BatchSize = 4,
    resume: options.Resume = False,
    force: options.Force = False,
) -> None:
    """Photos -> views from other cameras, by the diffusion model."""
    settings = ViewsSettings(
        model=model, dtype=dtype, photo_elevation=photo_elevation, remove_background=remove_background, seed=seed,
        steps=steps, guidance=guidance, scheduler=scheduler, prompt=prompt, count=count, elevation=elevation,
        distance=distance, video=video, batch_size=batch_size,
    )  # fmt: skip
    conduct = Conduct(output=output, device=device, resume=resume, force=force, explicit=_explicit(context))
    from .views import run_views

    run_views(settings, Sources(photos=tuple(photos or ()), masks=tuple(masks or ()), cameras=cameras), conduct)


@app.command()
@_reporting
def predict(
    context: typer.Context,
    output: options.Output,
    photos: options.Photos = None,
    model: options.Model = None,
    masks: options.Masks = None,
    remove_background: options.RemoveBackground = False,
    photo_elevation: options.PhotoElevation = PHOTO_ELEVATION_DEGREES,
    count: options.Count = 32,
    elevation: options.Elevation = None,
    distance: options.Distance = 1.0,
    cameras: options.CamerasFile = None,
    size: Annotated[int, typer.Option(help="Side of the pictures in pixels.", min=8, max=1024)] = 64,
    video: options.Video = "gif",
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    resume: options.Resume = False,
    force: options.Force = False,
) -> None:
    """Photos -> views from other cameras at once, but blurry: the transformer's own colours."""
    settings = PredictSettings(
        model=model, dtype=dtype, photo_elevation=photo_elevation, remove_background=remove_background, seed=0,
        count=count, elevation=elevation, distance=distance, video=video, size=size,
    )  # fmt: skip
    conduct = Conduct(output=output, device=device, resume=resume, force=force, explicit=_explicit(context))
    from .views import run_predict

    run_predict(settings, Sources(photos=tuple(photos or ()), masks=tuple(masks or ()), cameras=cameras), conduct)


@app.command()
@_reporting
def mesh(
    source: Annotated[
        Path, typer.Argument(metavar="FIELD", help="A field.safetensors of a reconstruction.", show_default=False)
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="A .glb, .obj, .ply or .stl to write.", show_default=False),
    ],
    resolution: options.Resolution = 256,
    threshold: options.Threshold = None,
    texture_size: options.TextureSize = 1024,
    faces: options.Faces = None,
    device: options.Device = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace FILE.")] = False,
) -> None:
    """Field -> mesh, again with other settings than its reconstruction's. The record is FILE.run.json."""
    from .mesh import MeshOptions, run_mesh

    chosen = MeshOptions(resolution=resolution, threshold=threshold, texture_size=texture_size, faces=faces)
    run_mesh(source, output, chosen, device=device, force=force)


@app.command()
@_reporting
def convert(
    source: Annotated[
        str, typer.Argument(help="mini, a folder of weights or a merged .safetensors.", show_default=False)
    ],
    destination: Annotated[
        Path, typer.Argument(help="The other: a new .safetensors, or a new folder.", show_default=False)
    ],
    dtype: Annotated[str | None, one_of("float16", "float32", "bfloat16", help="Precision; kept unless given.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace DESTINATION.")] = False,
) -> None:
    """Weights: folder -> one merged file, or back. The record is run.json in a folder, FILE.run.json beside a file."""
    from .weights import run_convert

    run_convert(source, destination, dtype=dtype, force=force)


@app.command()
@_reporting
def info(
    weights: Annotated[
        str, typer.Argument(help="mini, a folder of weights or a merged .safetensors.", show_default=False)
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write it as a JSON file.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the JSON file.")] = False,
) -> None:
    """What a file or folder of weights holds."""
    from .weights import run_info

    run_info(weights, output, force=force)


app.command()(_reporting(train))
app.command()(_reporting(evaluate))
app.command()(_reporting(pack))
