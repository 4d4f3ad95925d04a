"""The command line from the fields of config/commands.py, and the record's settings from the command line.

Nothing here may import torch: `upfusion --help` is to be fast.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import typer

from ..config import from_value, options
from ..config.base import Option
from ..config.commands import PROCEDURAL, Demo, Evaluate, Flag, Pack, Predict, Reconstruct, Views
from ..support.errors import InputError
from ..support.files import BUNDLED_NAME
from .console import say
from .run import Run, open_run

Kind = TypeVar("Kind")
InFolder = TypeVar("InFolder", bound="Demo | Reconstruct | Views | Predict | Evaluate | Pack")

NO_MODEL = f"no --model given, so this takes {BUNDLED_NAME}, the small model that comes with the package"


@dataclass(frozen=True)
class Leaf:
    """One option of a command. annotation: of its field. default: of the command, which may not be its part's."""

    field: Option
    flag: Flag
    annotation: Any
    default: Any

    @property
    def spellings(self) -> tuple[str, ...]:
        """As it is given on the command line."""
        return self.flag.names or (f"--{self.field.name.replace('_', '-')}",)

    @property
    def shown_default(self) -> str:
        """What holds where it is left out; empty for nothing."""
        if self.default is None or self.default is False or self.default in (dataclasses.MISSING, ()):
            return self.flag.unset
        return ",".join(map(str, self.default)) if isinstance(self.default, tuple) else str(self.default)

    @property
    def taken(self) -> str:
        """What is given to it: its metavar, choices or range."""
        if self.flag.metavar or self.field.choices:
            return self.flag.metavar or f"[{'|'.join(self.field.choices)}]"
        word = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}.get(self.field.kind, "")
        ends = ["" if end is None else f"{end:.10g}" for end in (self.field.low, self.field.high)]
        return f"{word} [{ends[0]}..{ends[1]}]" if any(ends) else word

    def parameter(self) -> inspect.Parameter:
        """For typer, which only takes the words apart: what they mean is said in `checked`."""
        kind: Any = self.field.kind if self.field.kind in (bool, Path) else str
        kind = list[kind] if self.field.several and not self.flag.commas else kind
        default: Any = self.default
        if default is dataclasses.MISSING:
            default = inspect.Parameter.empty
        elif default is None or default == ():
            kind, default = kind | None, None
        elif isinstance(default, tuple) and not self.flag.commas:
            default = list(map(str, default))
        elif kind is str:
            default = self.shown_default
        shown: bool | str = True if self.shown_default != self.flag.unset else self.flag.unset or False
        help = " ".join(self.field.help.split())
        about: dict[str, Any] = {"help": help, "metavar": self.taken or None, "show_default": shown}
        info = typer.Argument(**about) if self.flag.argument else typer.Option(*self.spellings, **about)
        return inspect.Parameter(
            self.field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info]
        )

    def checked(self, value: Any) -> Any:  # noqa: ANN401 - the words that typer found
        """The value of the field; raises InputError, which names the option, if it is none."""
        if value is None:
            return self.default
        if self.flag.commas:
            value = [part.strip() for part in value.split(",")]
        if self.field.kind in (int, float):
            value = [self._number(part) for part in value] if isinstance(value, list) else self._number(value)
        if self.field.kind in (int, float) or self.field.choices:
            kind = self.annotation
            if self.field.optional:  # None is not given by a word, and not named as something to give
                inner = get_args(kind)[0] if get_origin(kind) is Annotated else kind
                kind = next(part for part in get_args(inner) if part is not NoneType)
            return from_value(kind, value, self.spellings[0])
        return self.read(value)

    def _number(self, text: str) -> float | str:
        try:
            return self.field.kind(text)  # type: ignore[no-any-return]
        except ValueError:
            return text

    def read(self, value: Any) -> Any:  # noqa: ANN401 - a value in JSON
        """The value of the field that the record holds."""
        if isinstance(value, list):
            return tuple(map(self.read, value))
        return Path(value) if self.field.kind is Path and isinstance(value, str) else value

    def written(self, value: Any) -> Any:  # noqa: ANN401 - a value of the field
        """For the record: paths absolute."""
        if isinstance(value, tuple):
            return [self.written(item) for item in value]
        if isinstance(value, Path):
            return str(value.absolute())
        if self.flag.place and value not in (None, BUNDLED_NAME, PROCEDURAL) and os.path.exists(value):
            return str(Path(value).absolute())
        return value


def leaves(config: type) -> dict[str, Leaf]:
    """All options of a command by name, those of its parts among them."""
    found: dict[str, Leaf] = {}
    hints = get_type_hints(config, include_extras=True)
    for name, field in options(config).items():
        if dataclasses.is_dataclass(field.kind):
            held = {} if field.default is dataclasses.MISSING else flat(field.default)
            for leaf in leaves(field.kind).values():
                found[leaf.field.name] = dataclasses.replace(leaf, default=held.get(leaf.field.name, leaf.default))
        else:
            flags = [note for note in getattr(hints[name], "__metadata__", ()) if isinstance(note, Flag)]
            found[name] = Leaf(field, flags[0] if flags else Flag(), hints[name], field.default)
    return found


def flat(config: Any) -> dict[str, Any]:  # noqa: ANN401 - a command's options
    """The values of all options by name."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        values |= flat(value) if dataclasses.is_dataclass(value) else {field.name: value}
    return values


def built(kind: type[Kind], values: dict[str, Any]) -> Kind:
    """The opposite of `flat`."""
    held: dict[str, Any] = {}
    for name, field in options(kind).items():
        held[name] = built(field.kind, values) if dataclasses.is_dataclass(field.kind) else values[name]
    return kind(**held)


def recorded(config: object, section: Literal["settings", "sources"]) -> dict[str, Any]:
    """What the record holds of a command's options in one of its sections."""
    known, values = leaves(type(config)), flat(config)
    return {name: leaf.written(values[name]) for name, leaf in known.items() if leaf.flag.section == section}


def settled(config: Kind, given: frozenset[str], run: Run) -> Kind:
    """The options of a continued run: those of its record, except what the command line gives; see Run.plan.

    An option that the record does not have, because it is newer, has its default there.
    """
    if run.stored is None:
        return config
    known, values = leaves(type(config)), flat(config)
    for stored in (run.stored.settings, run.stored.sources):
        unknown = sorted(stored.keys() - known)
        if unknown:
            raise InputError(
                f"the run in {run.folder} has the option {unknown[0]}, which this release does not know; continue it "
                "with the one that began it, or use --force to begin anew"
            )
        values |= {name: known[name].read(value) for name, value in stored.items() if name not in given}
    defaults = {name: leaf.written(leaf.default) for name, leaf in known.items() if leaf.flag.section == "settings"}
    run.stored.settings = defaults | run.stored.settings
    return built(type(config), values)


@contextmanager
def planned_run(
    name: str,
    command: InFolder,
    given: frozenset[str],
    completed: Callable[[InFolder, Run], tuple[InFolder, dict[str, Any]]],
) -> Iterator[tuple[Run, InFolder]]:
    """The run's folder held, the command's options settled and planned; nothing is written yet.

    Args:
        given: names of the options that the command line gives.
        completed: the settled options with what follows from them, and checksums of what is read.
    """
    folder = command.folder
    with open_run(folder.output, name, resume=folder.resume, force=folder.force) as run:
        if not isinstance(command, Pack) and command.networks.model is None and not run.resumed:
            say(NO_MODEL)
        command, inputs = completed(settled(command, given, run), run)
        run.plan(recorded(command, "settings"), recorded(command, "sources"), inputs)
        if run.already_finished:
            run.begin()
        yield run, command


def command(kind: type[Kind], name: str, run: Callable[[Kind, frozenset[str]], None]) -> Callable[..., None]:
    """A function for typer that makes the options of one command and calls `run` with them.

    `run` also gets the names of the options that the command line gave.
    """
    known = leaves(kind)

    def called(context: typer.Context, **values: Any) -> None:  # noqa: ANN401 - what typer made of the words
        sources = {key: context.get_parameter_source(key) for key in known}
        given = frozenset(key for key, source in sources.items() if source is not None and source.name == "COMMANDLINE")
        run(built(kind, {key: leaf.checked(values[key]) for key, leaf in known.items()}), given)

    first = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    parameters = [first, *(leaf.parameter() for leaf in known.values())]
    called.__name__, called.__doc__ = name, kind.__doc__
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return called
