"""The commands. What they do is imported when they are called, so that --help needs no torch."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING
from importlib import import_module
from typing import Annotated, Any

import typer

from .. import __version__
from ..config import options
from ..config.base import built, options_of
from ..support.errors import UpFusionError
from .console import answer, interruption, say

COMMANDS: dict[str, tuple[type, str]] = {  # the options of each, and the module that has its function `run_...`
    "demo": (options.Demo, "reconstruct"),
    "reconstruct": (options.Reconstruct, "reconstruct"),
    "batch": (options.Batch, "batch"),
    "views": (options.Views, "views"),
    "predict": (options.Predict, "views"),
    "mesh": (options.Mesh, "files"),
    "export": (options.Export, "files"),
    "convert": (options.Convert, "files"),
    "info": (options.Info, "files"),
    "train": (options.Train, "datasets"),
    "evaluate": (options.Evaluate, "datasets"),
    "pack": (options.Pack, "datasets"),
}

TITLE = "From photos of an object, taken from anywhere, to novel views and a 3D mesh (UpFusion)."
app = typer.Typer(help=TITLE, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
KEYWORD = inspect.Parameter.KEYWORD_ONLY
NO_MEMORY = (
    "memory must suffice for the work, but does not, even in the smallest pieces; close other programs, choose a "
    "smaller --batch-size or --texture-size where there is one, or --device cpu"
)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        answer(__version__)
        raise typer.Exit


@contextmanager
def _reporting() -> Iterator[None]:
    """Errors that the user can put right end a command by one sentence and exit code 2, Ctrl-C by one and 130."""
    try:
        with interruption.taken():
            yield
    except UpFusionError as error:
        say(f"Error: {error}")
        raise typer.Exit(2) from None
    except KeyboardInterrupt as error:
        say(str(error) or "interrupted")
        raise typer.Exit(130) from None
    except (MemoryError, RuntimeError) as error:
        from ..support.devices import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        say(f"Error: {NO_MEMORY}")
        raise typer.Exit(2) from None


def _add(name: str, config: type, module: str) -> None:
    """Adds a command; its function gets the options and the names of those that the command line gave."""
    known = options_of(config)

    def called(context: typer.Context, **values: Any) -> None:  # noqa: ANN401 - what typer made of the words
        with _reporting():
            sources = {key: context.get_parameter_source(key) for key in known}
            given = frozenset(key for key, source in sources.items() if source and source.name == "COMMANDLINE")
            command: Any = built(config, {key: option.checked(values[key]) for key, option in known.items()})
            getattr(import_module(f".{module}", __package__), f"run_{name}")(command, given)

    parameters = [inspect.Parameter("context", KEYWORD, annotation=typer.Context)]
    for option in known.values():  # typer only takes the words apart: what they mean is said in `Option.checked`
        kind: Any = bool if option.kind is bool else str
        kind = list[kind] if option.several and not option.flag.commas else kind
        default: Any = option.default
        if default is MISSING:
            default = inspect.Parameter.empty
        elif default is None or default == ():
            kind, default = kind | None, None
        elif isinstance(default, tuple) and not option.flag.commas:
            default = list(map(str, default))
        elif kind is str:
            default = option.shown_default
        shown = option.shown_default != option.flag.unset or option.flag.unset or False
        about: dict[str, Any] = {"help": option.help, "metavar": option.taken or None, "show_default": shown}
        info = typer.Argument(**about) if option.flag.argument else typer.Option(*option.spellings, **about)
        parameters.append(inspect.Parameter(option.name, KEYWORD, default=default, annotation=Annotated[kind, info]))
    called.__doc__ = config.__doc__
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    app.command(name)(called)


for _name, (_kind, _module) in COMMANDS.items():
    _add(_name, _kind, _module)
