"""What makes a class a configuration, reads one from JSON, and tells a field's default, range, choices and help."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import types
from collections.abc import Collection, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, MaxLen, MinLen
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import dataclass_transform

from ..support.errors import InputError, UpFusionError
from ..support.files import parse_json, shown

Kind = TypeVar("Kind")
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)
_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "nothing",
}
_UNKNOWN_NAME = ("unexpected_keyword_argument", "extra_forbidden")
_OUT_OF_RANGE = ("finite_number", "greater_than", "greater_than_equal", "less_than", "less_than_equal")


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def configuration(cls: type[Kind]) -> type[Kind]:
    """Class decorator: a frozen pydantic dataclass whose faults are InputErrors that name class and field.

    Ranges stand in the annotations (`Annotated[int, Ge(1), Le(32)]`), the help of a field as a docstring under it,
    rules between fields in `__post_init__`, which raises InputError. Whole numbers given for floats become floats, and
    lists become tuples.
    """
    made: Any = pydantic_dataclass(frozen=True, config=STRICT)(cls)
    init = made.__init__

    @functools.wraps(init)
    def checked(self: object, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - the fields
        args = tuple(_as_tuple(value) for value in args)
        try:
            init(self, *args, **{name: _as_tuple(value) for name, value in kwargs.items()})
        except ValidationError as error:
            raise InputError(_sentence(error, cls, cls.__name__, ".")) from error

    made.__init__ = checked
    frozen: type[Kind] = made
    return frozen


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def from_json(kind: Any, text: str, source: str, error: type[UpFusionError] = InputError) -> Any:  # noqa: ANN401 - a type, its value
    """The value of type `kind` that JSON text stands for (see parse_json and from_value)."""
    return from_value(kind, parse_json(text, source, error), source, error)


def from_value(kind: Any, content: object, source: str, error: type[UpFusionError] = InputError) -> Any:  # noqa: ANN401
    """The value of type `kind`, such as a configuration or list[int], of what a JSON file holds.

    Args:
        content: objects, lists, texts and numbers. What is absent takes its default.
        source: what it is, named in the message, e.g. a path.
        error: what is raised; the message names source and entry.
    """
    try:
        return _reader(kind).validate_json(json.dumps(content))
    except ValidationError as reason:
        sentence = _sentence(reason, kind, source, ": ")
        raise error(sentence if "; " in sentence else f"{sentence}; correct it") from reason
    except (TypeError, ValueError, RecursionError) as reason:
        raise error(f"{source} must be what JSON can hold, but is not ({reason!s:.200}); correct it") from reason


def to_json(config: Any) -> dict[str, Any]:  # noqa: ANN401 - a configuration
    """The JSON form of a configuration: objects, lists, texts and numbers."""
    content: dict[str, Any] = TypeAdapter(type(config)).dump_python(config, mode="json")
    return content


def fingerprint(content: Mapping[str, Any], without: Collection[str] = ()) -> str:
    """64 hexadecimal digits that tell the JSON form of a configuration from others, but for the entries `without`."""
    chosen = {name: value for name, value in content.items() if name not in without}
    return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Option:
    """A field as the command line and the nodes need it.

    kind: bool, int, float, str or a configuration; where the field is a tuple, of each item. several: whether it is.
    optional: whether None is taken. default: what it is where nobody gives it. low, high: ends of the range, None where
    it has none. choices: the values of a Literal, else empty. help: the docstring under the field.
    """

    name: str
    kind: type
    default: Any
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    several: bool
    optional: bool
    help: str


def option(config: type, name: str) -> Option:
    """One field of a configuration class; `name` may go down into others: "grid.levels"."""
    first, _, rest = name.partition(".")
    kind, limits = _peeled(get_type_hints(config, include_extras=True)[first])
    several = optional = False
    while _is_union(kind) or get_origin(kind) is tuple:
        several, optional = several or get_origin(kind) is tuple, optional or type(None) in get_args(kind)
        kind, inner = _peeled(next(part for part in get_args(kind) if part is not type(None)))
        limits += inner
    if rest:
        return option(kind, rest)
    held: dataclasses.Field[Any] = next(item for item in dataclasses.fields(config) if item.name == first)
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    return Option(
        name=first,
        kind=str if choices else kind,
        default=held.default if held.default_factory is dataclasses.MISSING else held.default_factory(),
        low=next((getattr(end, "ge", getattr(end, "gt", None)) for end in limits if isinstance(end, Ge | Gt)), None),
        high=next((getattr(end, "le", None) for end in limits if isinstance(end, Le)), None),
        choices=choices,
        several=several,
        optional=optional,
        help=config.__pydantic_fields__[first].description or "",  # type: ignore[attr-defined]
    )


def options(config: type) -> dict[str, Option]:
    """All fields of a configuration class, by name."""
    return {item.name: option(config, item.name) for item in dataclasses.fields(config)}


@functools.cache
def _reader(kind: Any) -> TypeAdapter[Any]:  # noqa: ANN401 - a type
    return TypeAdapter(kind) if dataclasses.is_dataclass(kind) else TypeAdapter(kind, config=STRICT)


def _sentence(error: ValidationError, kind: Any, source: str, joint: str) -> str:  # noqa: ANN401 - a type
    """The first fault in words: field, what was expected, what came; `joint` stands between source and field."""
    fault = error.errors(include_url=False)[0]
    place, owner = fault["loc"], kind
    short = fault["type"] == "missing" and isinstance(place[-1], int)  # a list with too few entries
    path, held = "", kind
    for step in place[:-1] if short or fault["type"] in _UNKNOWN_NAME else place:
        held, (owner, name) = owner, _inside(owner, step)
        path += name
    path = path if not path.endswith("]") else path[: path.rindex("[")]  # what came tells which entry of a list it is
    where = f"{source}{joint}{path.removeprefix('.')}" if path else source
    if fault["type"] == "value_error":
        return f"{source} is not usable: {fault['ctx']['error']}" if joint == ": " else str(fault["ctx"]["error"])
    if fault["type"] in _UNKNOWN_NAME:
        known = ", ".join(get_type_hints(_bare(owner)))
        return f"{where} may have {known}, got {shown(fault['loc'][-1])}; remove it"
    if fault["type"] == "missing" and not short:
        return f"{where} must be given"
    if fault["type"].startswith("dataclass") and _is_union(_bare(held)):
        owner = held
    if fault["type"] == "dataclass_type" and not _is_union(owner):
        return f"{where} must be a JSON object, got {shown(fault['input'])}"
    return f"{where} must be {_expected(owner, fault['type'] in _OUT_OF_RANGE)}, got {shown(fault['input'])}"


def _peeled(annotation: Any) -> tuple[Any, tuple[Any, ...]]:  # noqa: ANN401 - an annotation
    """What is annotated, and its limits; Python itself makes one of annotations within each other."""
    limits = getattr(annotation, "__metadata__", ())
    return get_args(annotation)[0] if limits else annotation, limits


def _bare(annotation: Any) -> Any:  # noqa: ANN401 - an annotation
    """Without limits, and without None beside one other type."""
    kind, _ = _peeled(annotation)
    others = [part for part in get_args(kind) if part is not type(None)]
    return _bare(others[0]) if _is_union(kind) and len(others) == 1 else kind


def _is_union(annotation: Any) -> bool:  # noqa: ANN401 - an annotation
    return isinstance(annotation, types.UnionType) or get_origin(annotation) is Union


def _inside(annotation: Any, step: str | int) -> tuple[Any, str]:  # noqa: ANN401 - annotations
    """What stands at one step of a fault's place, and how the step is written."""
    holder = _bare(annotation)
    parts = get_args(holder)
    if _is_union(holder):  # the step names the member that was tried; one that is no class stays the whole union
        tried = (part for part in parts if dataclasses.is_dataclass(part) and getattr(part, "__name__", "") == step)
        return next(tried, holder), ""
    if isinstance(step, int):
        return parts[0] if parts else Any, f"[{step}]"
    hints = get_type_hints(holder, include_extras=True) if dataclasses.is_dataclass(holder) else {}
    return hints.get(step, parts[-1] if parts else Any), f".{step}"


def _expected(annotation: Any, range_only: bool = False) -> str:  # noqa: ANN401 - an annotation
    """Its values in words: "a whole number", or "between 1 and 32" where what came is one."""
    kind, notes = _peeled(annotation)
    limits, parts = {type(note): note for note in notes}, get_args(kind)
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if _is_union(kind):
        return " or ".join(_expected(part) for part in parts)
    if get_origin(kind) in (tuple, list):
        least, most = limits.get(MinLen), limits.get(MaxLen)
        count = f" of {len(parts)}" if get_origin(kind) is tuple and Ellipsis not in parts else ""
        if least is not None:
            count = f" of {least.min_length} to {most.max_length}" if most else f" of {least.min_length} or more"
        return f"a list{count}, each {_expected(parts[0])}"
    low, high = limits.get(Ge) or limits.get(Gt), limits.get(Le)
    if not range_only:
        return _WORDS.get(kind, getattr(kind, "__name__", "another value"))
    if isinstance(low, Ge) and high is not None:
        return f"between {low.ge} and {high.le}"
    bounds = [] if low is None else [f"above {low.gt}" if isinstance(low, Gt) else f"at least {low.ge}"]
    bounds += [] if high is None else [f"at most {high.le}"]
    return " and ".join(bounds) or "finite"
