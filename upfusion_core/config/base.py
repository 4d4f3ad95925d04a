"""What makes a class a configuration and its fields options, and reads JSON, wrong values refused in a sentence."""

import ast
import dataclasses
import functools
import json
import linecache
import os
import sys
import types
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, MaxLen, MinLen
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import dataclass_transform

from ..support.errors import InputError, UpFusionError
from ..support.files import shown

Kind = TypeVar("Kind")
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", dict: "a JSON object"}
UNIONS = (types.UnionType, Union)
_UNKNOWN_NAME = ("unexpected_keyword_argument", "extra_forbidden")
_OUT_OF_RANGE = ("finite_number", "greater_than", "greater_than_equal", "less_than", "less_than_equal")


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def configuration(cls: type[Kind]) -> type[Kind]:
    """Class decorator: a frozen pydantic dataclass whose faults are InputErrors that name class and field.

    Ranges stand in the annotations (`Annotated[int, Ge(1), Le(32)]`), the help of a command's option as a docstring
    under its field, rules between fields in `__post_init__`, which raises InputError. Lists become tuples.
    """
    made: Any = pydantic_dataclass(frozen=True, config=STRICT)(cls)
    init = made.__init__

    def as_tuple(value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @functools.wraps(init)
    def checked(self: object, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - the fields
        try:
            init(self, *map(as_tuple, args), **{name: as_tuple(value) for name, value in kwargs.items()})
        except ValidationError as error:
            raise InputError(_sentence(error, cls, f"{cls.__name__}.")) from error

    made.__init__ = checked
    return made  # type: ignore[no-any-return]


def from_value(kind: Any, content: object, source: str, error: type[UpFusionError] = InputError) -> Any:  # noqa: ANN401
    """The value of type `kind`, e.g. a configuration or list[int], of what a JSON file holds; what is absent takes its
    default. Raises `error`, which names `source`, e.g. a path, and the entry.
    """
    try:
        return _reader(kind).validate_json(json.dumps(content))
    except ValidationError as reason:
        sentence = _sentence(reason, kind, f"{source}: ")
        raise error(sentence if "; " in sentence else f"{sentence}; correct it") from reason
    except (TypeError, ValueError, RecursionError) as reason:
        raise error(f"{source} must be what JSON can hold, but is not ({reason!s:.200}); correct it") from reason


def to_dict(config: Any) -> dict[str, Any]:  # noqa: ANN401 - a configuration
    """The JSON form of a configuration: objects, lists, texts and numbers."""
    return dict(TypeAdapter(type(config)).dump_python(config, mode="json"))


@functools.cache
def _reader(kind: Any) -> TypeAdapter[Any]:  # noqa: ANN401 - a type
    return TypeAdapter(kind) if dataclasses.is_dataclass(kind) else TypeAdapter(kind, config=STRICT)


def _sentence(error: ValidationError, kind: Any, prefix: str) -> str:  # noqa: ANN401 - a type
    """The first fault in words: field, what was expected, what came. `prefix`, "Class." or "file: ", comes first."""
    fault = error.errors(include_url=False)[0]
    problem, place, source = fault["type"], fault["loc"], prefix.rstrip(".: ")
    if problem == "value_error":
        return f"{source} is not usable: {fault['ctx']['error']}" if prefix[-1] == " " else str(fault["ctx"]["error"])
    short = problem == "missing" and isinstance(place[-1], int)  # a list with too few entries
    steps = place[:-1] if short or problem in _UNKNOWN_NAME else place
    path = ""
    for number, step in enumerate(steps, 1):
        kind, _ = _peeled(kind)
        parts = get_args(kind)
        if get_origin(kind) in UNIONS:  # the step names the member that was tried
            if number < len(steps):
                kind = next((part for part in parts if getattr(part, "__name__", "") == step), Any)
        elif isinstance(step, int):
            path, kind = f"{path}[{step}]", parts[0] if parts else Any
        else:
            hints = get_type_hints(kind, include_extras=True) if dataclasses.is_dataclass(kind) else {}
            path, kind = f"{path}.{step}", hints.get(step, parts[-1] if parts else Any)
    path = path[: path.rindex("[")] if path.endswith("]") else path  # what came tells which entry of a list it is
    where = prefix + path.removeprefix(".") if path else source
    if problem in _UNKNOWN_NAME:
        return f"{where} may have {', '.join(get_type_hints(_peeled(kind)[0]))}, got {shown(place[-1])}; remove it"
    if problem == "missing" and not short:
        return f"{where} must be given"
    return f"{where} must be {_expected(kind, problem)}, got {shown(fault['input'])}"


def _peeled(annotation: Any) -> tuple[Any, dict[type, Any]]:  # noqa: ANN401 - an annotation
    """The type that is annotated, without None beside one other, and its limits by their class."""
    notes = getattr(annotation, "__metadata__", ())
    kind, limits = get_args(annotation)[0] if notes else annotation, {type(note): note for note in notes}
    others = [part for part in get_args(kind) if part is not types.NoneType]
    if get_origin(kind) in UNIONS and len(others) == 1:
        kind, inner = _peeled(others[0])
        limits |= inner
    return kind, limits


def _expected(annotation: Any, problem: str = "") -> str:  # noqa: ANN401 - an annotation
    """Its values in words: "a whole number", or "between 1 and 32" where what came is one."""
    kind, limits = _peeled(annotation)
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if get_origin(kind) in UNIONS:
        return " or ".join(_expected(part) for part in parts)
    if get_origin(kind) in (tuple, list):
        least, most = limits.get(MinLen), limits.get(MaxLen)
        count = f" of {len(parts)}" if get_origin(kind) is tuple and Ellipsis not in parts else ""
        if least is not None:
            count = f" of {least.min_length} to {most.max_length}" if most else f" of {least.min_length} or more"
        return f"a list{count}, each {_expected(parts[0])}"
    if problem not in _OUT_OF_RANGE:
        kind = dict if problem == "dataclass_type" else get_origin(kind) or kind
        return _WORDS.get(kind, getattr(kind, "__name__", "another value"))
    low, high = limits.get(Ge) or limits.get(Gt), limits.get(Le)
    if isinstance(low, Ge) and high is not None:
        return f"between {low.ge} and {high.le}"
    bounds = [] if low is None else [f"above {low.gt}" if isinstance(low, Gt) else f"at least {low.ge}"]
    bounds += [] if high is None else [f"at most {high.le}"]
    return " and ".join(bounds) or "finite"


NO_OPTION = "a field that is no option of the command"


@dataclasses.dataclass(frozen=True)
class Flag:
    """What a field does not tell of its option."""

    names: tuple[str, ...] = ()  # spellings, where they are not the field's name
    metavar: str = ""  # what is given to it
    argument: bool = False  # whether it is given without a name
    unset: str = ""  # shown as the default in place of None
    commas: bool = False  # whether several come as one text
    table: str = ""  # "module:NAME" of a table of choices further up in the package
    places: tuple[str, ...] = ()  # a text may be a path, which is recorded as an absolute one, or one of these words
    section: Literal["settings", "sources", "conduct"] = "settings"  # of the record; conduct may change on resume


class Without(tuple[str, ...]):
    """Beside the class of a command's part: options of the part that the command does not have; their defaults hold."""


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a command."""

    name: str
    help: str
    default: Any  # of the command, which may not be its part's
    annotation: Any  # of its field
    flag: Flag
    kind: type  # bool, int, float, str or Path; of each item where it is several
    several: bool
    low: float | None  # ends of the range
    high: float | None
    choices: tuple[str, ...]

    @property
    def spellings(self) -> tuple[str, ...]:
        """As it is given on the command line."""
        return self.flag.names or (f"--{self.name.replace('_', '-')}",)

    @property
    def shown_default(self) -> str:
        """What holds where it is left out; empty for nothing."""
        if self.default is None or self.default is False or self.default in (dataclasses.MISSING, ()):
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

    def checked(self, value: Any) -> Any:  # noqa: ANN401 - the words that typer found
        """The value of the field; raises InputError, which names the option, if it is none."""

        def number(text: str) -> float | str:
            try:
                return self.kind(text)  # type: ignore[no-any-return]
            except ValueError:
                return text

        if value is None:
            return self.default
        if "" in (value if isinstance(value, list) else [value]) and self.name != "prompt":  # a path, it would be "."
            what = "every argument" if self.flag.argument else self.spellings[0]
            raise InputError(f"{what} needs a value, got an empty one; for the current folder give .")
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
        if self.flag.places and value not in (None, *self.flag.places) and os.path.exists(value):
            return str(Path(value).absolute())
        return value


@functools.cache
def _help(module: str) -> dict[tuple[str, str], str]:
    """The docstrings under the fields of a module's classes, by class and field: one reading, where pydantic's own
    use_attribute_docstrings looks through all loaded modules for each class.
    """
    source = "".join(linecache.getlines(sys.modules[module].__file__ or ""))
    return {
        (part.name, field.target.id): " ".join(text.value.value.split())
        for part in ast.walk(ast.parse(source))
        if isinstance(part, ast.ClassDef)
        for field, text in pairwise(part.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


def options_of(config: Any) -> dict[str, Option]:  # noqa: ANN401 - the class of a command's options
    """All options of a command by name, those of its parts among them."""
    found: dict[str, Option] = {}
    for name, annotation in _fields(config).items():
        default = config.__dataclass_fields__[name].default
        kind, notes = _peeled(annotation)
        if dataclasses.is_dataclass(kind):
            held = {} if default is dataclasses.MISSING else flat(default)
            for key, option in options_of(kind).items():
                if key not in notes.get(Without, ()):
                    found[key] = dataclasses.replace(option, default=held.get(key, option.default))
            continue
        several = get_origin(kind) is tuple
        if several:
            kind, inner = _peeled(get_args(kind)[0])
            notes |= inner
        flag: Flag = notes.get(Flag, Flag())
        if flag.table:
            module, table = flag.table.split(":")
            kind = annotation = Literal[tuple(getattr(import_module(module, __package__), table))]
        choices = get_args(kind) if get_origin(kind) is Literal else ()
        low, high = getattr(notes.get(Ge), "ge", None), getattr(notes.get(Le), "le", None)
        text = _help(config.__module__).get((config.__name__, name), "")
        kind = str if choices else kind
        found[name] = Option(name, text, default, annotation, flag, kind, several, low, high, choices)
    return found


@functools.cache
def _fields(config: type) -> dict[str, Any]:
    """The annotations of fields that are options, or parts with options."""
    hints = get_type_hints(config, include_extras=True)
    return {name: kind for name, kind in hints.items() if NO_OPTION not in getattr(kind, "__metadata__", ())}


def flat(config: Any) -> dict[str, Any]:  # noqa: ANN401 - a command's options
    """The values of all options by name."""
    values: dict[str, Any] = {}
    for name, annotation in _fields(cast(Any, type(config))).items():
        value, (kind, notes) = getattr(config, name), _peeled(annotation)
        held = flat(value) if dataclasses.is_dataclass(kind) else {name: value}
        values |= {key: value for key, value in held.items() if key not in notes.get(Without, ())}
    return values


def built(kind: type[Kind], values: dict[str, Any]) -> Kind:
    """The opposite of `flat`."""
    parts: dict[str, Any] = {}
    for name, annotation in _fields(cast(Any, kind)).items():
        part, notes = _peeled(annotation)
        if dataclasses.is_dataclass(part):
            left_out = notes.get(Without, ())
            held = flat(getattr(kind, name)) if left_out else {}
            parts[name] = built(cast(type, part), values | {key: held[key] for key in left_out})
        else:
            parts[name] = values[name]
    return kind(**parts)
