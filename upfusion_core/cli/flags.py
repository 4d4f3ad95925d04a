"""The command line from the fields of config/options.py, and a run's record from the command line, without torch."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, is_dataclass, replace
from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import typer
from annotated_types import Ge, Le

from ..config import from_value
from ..config.options import NO_OPTION, PROCEDURAL, Demo, Evaluate, Flag, Pack, Predict, Reconstruct, Views
from ..support.errors import InputError
from ..support.files import BUNDLED_NAME
from .console import say
from .run import Run, open_run

Kind = TypeVar("Kind")
InFolder = TypeVar("InFolder", bound="Demo | Reconstruct | Views | Predict | Evaluate | Pack")

NO_MODEL = f"no --model given, so this takes {BUNDLED_NAME}, the small model that comes with the package"


@dataclass(frozen=True)
class Option:
    """One option of a command.

    annotation: of its field. kind: bool, int, float, str or Path; of each item where it is several. default: of the
    command, which may not be its part's. low, high: ends of the range, None where it has none. choices: else empty.
    """

    name: str
    help: str
    default: Any
    annotation: Any
    flag: Flag
    kind: type
    several: bool
    low: float | None
    high: float | None
    choices: tuple[str, ...]

    @classmethod
    def of(cls, name: str, help: str, default: Any, annotation: Any) -> Option:  # noqa: ANN401 - a field's
        """The option that a field is, without the None that stands for nothing given."""
        kind, notes, several = annotation, [Flag()], False
        while get_origin(kind) not in (None, Literal):
            several |= get_origin(kind) is tuple
            notes += getattr(kind, "__metadata__", ())
            inner = next(part for part in get_args(kind) if part is not NoneType)
            if NoneType in get_args(kind):
                annotation = inner
            kind = inner
        flag = [note for note in notes if isinstance(note, Flag)][-1]
        if flag.table:
            module, table = flag.table.split(":")
            kind = annotation = Literal[tuple(getattr(import_module(module, __package__), table))]
        choices = get_args(kind)
        low: Any = next((note.ge for note in notes if isinstance(note, Ge)), None)
        high: Any = next((note.le for note in notes if isinstance(note, Le)), None)
        kind = str if choices else kind
        return cls(name, " ".join(help.split()), default, annotation, flag, kind, several, low, high, choices)

    @property
    def spellings(self) -> tuple[str, ...]:
        """As it is given on the command line."""
        return self.flag.names or (f"--{self.name.replace('_', '-')}",)

    @property
    def shown_default(self) -> str:
        """What holds where it is left out; empty for nothing."""
        if self.default is None or self.default is False or self.default in (MISSING, ()):
            return self.flag.unset
        return ",".join(map(str, self.default)) if isinstance(self.default, tuple) else str(self.default)

    @property
    def taken(self) -> str:
        """What is given to it: its metavar, choices or range."""
        if self.flag.metavar or self.choices:
            return self.flag.metavar or f"[{'|'.join(self.choices)}]"
        word = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}.get(self.kind, "")
        ends = ["" if end is None else f"{end:.10g}" for end in (self.low, self.high)]
        return f"{word} [{ends[0]}..{ends[1]}]" if any(ends) else word

    def parameter(self) -> inspect.Parameter:
        """For typer, which only takes the words apart: what they mean is said in `checked`."""
        kind: Any = self.kind if self.kind in (bool, Path) else str
        kind = list[kind] if self.several and not self.flag.commas else kind
        default: Any = self.default
        if default is MISSING:
            default = inspect.Parameter.empty
        elif default is None or default == ():
            kind, default = kind | None, None
        elif isinstance(default, tuple) and not self.flag.commas:
            default = list(map(str, default))
        elif kind is str:
            default = self.shown_default
        shown: bool | str = True if self.shown_default != self.flag.unset else self.flag.unset or False
        about: dict[str, Any] = {"help": self.help, "metavar": self.taken or None, "show_default": shown}
        info = typer.Argument(**about) if self.flag.argument else typer.Option(*self.spellings, **about)
        keyword = inspect.Parameter.KEYWORD_ONLY
        return inspect.Parameter(self.name, keyword, default=default, annotation=Annotated[kind, info])

    def checked(self, value: Any) -> Any:  # noqa: ANN401 - the words that typer found
        """The value of the field; raises InputError, which names the option, if it is none."""

        def number(text: str) -> float | str:
            try:
                return self.kind(text)  # type: ignore[no-any-return]
            except ValueError:
                return text

        if value is None:
            return self.default
        if self.flag.commas:
            value = [part.strip() for part in value.split(",")]
        if self.kind in (int, float):
            value = list(map(number, value)) if isinstance(value, list) else number(value)
        elif not self.choices:
            return self.read(value)
        return from_value(self.annotation, value, self.spellings[0])

    def read(self, value: Any) -> Any:  # noqa: ANN401 - a value in JSON
        """The value of the field that the record holds."""
        if isinstance(value, list):
            return tuple(map(self.read, value))
        return Path(value) if self.kind is Path and isinstance(value, str) else value

    def written(self, value: Any) -> Any:  # noqa: ANN401 - a value of the field
        """For the record: paths absolute."""
        if isinstance(value, tuple):
            return [self.written(item) for item in value]
        if isinstance(value, Path):
            return str(value.absolute())
        if self.flag.place and value not in (None, BUNDLED_NAME, PROCEDURAL) and os.path.exists(value):
            return str(Path(value).absolute())
        return value


def options(config: Any) -> dict[str, Option]:  # noqa: ANN401 - the class of a command's options
    """All options of a command by name, those of its parts among them."""
    found: dict[str, Option] = {}
    for name, kind in _fields(config).items():
        default = config.__dataclass_fields__[name].default
        if _is_part(kind):
            held = {} if default is MISSING else flat(default)
            for key, option in options(kind).items():
                found[key] = replace(option, default=held.get(key, option.default))
        else:
            found[name] = Option.of(name, config.__pydantic_fields__[name].description or "", default, kind)
    return found


def _fields(config: type) -> dict[str, Any]:
    """The annotations of fields that are options, or parts with options."""
    hints = get_type_hints(config, include_extras=True)
    return {name: kind for name, kind in hints.items() if NO_OPTION not in getattr(kind, "__metadata__", ())}


def _is_part(kind: Any) -> bool:  # noqa: ANN401 - an annotation
    return is_dataclass(kind)


def flat(config: Any) -> dict[str, Any]:  # noqa: ANN401 - a command's options
    """The values of all options by name."""
    values: dict[str, Any] = {}
    for name, kind in _fields(type(config)).items():
        value = getattr(config, name)
        values |= flat(value) if _is_part(kind) else {name: value}
    return values


def built(kind: type[Kind], values: dict[str, Any]) -> Kind:
    """The opposite of `flat`."""
    parts = _fields(kind).items()
    return kind(**{name: built(part, values) if _is_part(part) else values[name] for name, part in parts})


def recorded(config: object, section: Literal["settings", "sources"]) -> dict[str, Any]:
    """What the record holds of a command's options in one of its sections."""
    known, values = options(type(config)), flat(config)
    return {name: option.written(values[name]) for name, option in known.items() if option.flag.section == section}


def settled(config: Kind, given: frozenset[str], run: Run) -> Kind:
    """The options of a continued run: those of its record, except what the command line gives; see Run.plan.

    An option that the record does not have, because it is newer, has its default there.
    """
    if run.stored is None:
        return config
    known, values = options(type(config)), flat(config)
    for name, option in known.items():
        if option.flag.section == "settings":
            run.stored.settings.setdefault(name, option.written(option.default))
    for name, value in (run.stored.settings | run.stored.sources).items():
        if name not in known:
            raise InputError(
                f"the run in {run.folder} has the option {name}, which this release does not know; continue it with "
                "the one that began it, or use --force to begin anew"
            )
        if name not in given:
            values[name] = known[name].read(value)
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
    known = options(kind)

    def called(context: typer.Context, **values: Any) -> None:  # noqa: ANN401 - what typer made of the words
        sources = {key: context.get_parameter_source(key) for key in known}
        given = frozenset(key for key, source in sources.items() if source is not None and source.name == "COMMANDLINE")
        run(built(kind, {key: option.checked(values[key]) for key, option in known.items()}), given)

    first = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    parameters = [first, *(option.parameter() for option in known.values())]
    called.__name__, called.__doc__ = name, kind.__doc__
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return called
