"""The commands. What they do is imported when they are called, so that --help needs no torch."""

from __future__ import annotations

import functools
from importlib import import_module
from itertools import pairwise
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..config import options
from ..support.errors import UpFusionError
from ..support.version import version as package_version
from .console import answer, patient, say
from .flags import command

COMMANDS: dict[str, tuple[type, str]] = {
    "demo": (options.Demo, "reconstruct"),
    "reconstruct": (options.Reconstruct, "reconstruct"),
    "views": (options.Views, "views"),
    "predict": (options.Predict, "views"),
    "mesh": (options.Mesh, "files"),
    "convert": (options.Convert, "files"),
    "info": (options.Info, "files"),
    "train": (options.Train, "train"),
    "evaluate": (options.Evaluate, "datasets"),
    "pack": (options.Pack, "datasets"),
}
"""The options of each command, and the module that has its function `run_...`."""


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

NO_MEMORY = (
    "memory must suffice for the work, but does not, even in the smallest pieces; close other programs, choose a "
    "smaller --batch-size or --texture-size where there is one, or --device cpu"
)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        answer(package_version())
        raise typer.Exit


def _add(name: str, kind: type, module: str) -> None:
    """Errors that the user can put right end a command by one sentence and exit code 2, Ctrl-C by one and 130."""

    def run(command: Any, given: frozenset[str]) -> None:  # noqa: ANN401 - of type `kind`
        getattr(import_module(f".{module}", __package__), f"run_{name}")(command, given)

    called = command(kind, name, run)

    @functools.wraps(called)
    def reporting(**values: Any) -> None:  # noqa: ANN401 - what typer made of the words
        try:
            with patient():
                called(**values)
        except UpFusionError as error:
            say(f"Error: {error}")
            raise typer.Exit(2) from None
        except KeyboardInterrupt as error:
            say(str(error) or "interrupted")
            raise typer.Exit(130) from None
        except (MemoryError, RuntimeError) as error:
            from ..support.memory import is_out_of_memory

            if not is_out_of_memory(error):
                raise
            say(f"Error: {NO_MEMORY}")
            raise typer.Exit(2) from None

    app.command(name)(reporting)


for _name, (_kind, _module) in COMMANDS.items():
    _add(_name, _kind, _module)
