"""JSON that people edit by hand or pass on: read strictly, or refused in one sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NoReturn

from .errors import InputError, UpFusionError
from .files import read_regular, reading

LARGEST_JSON = 64_000_000
"""Bytes of a file; Objaverse's list of 800,000 ids has 29 MB. What they stand for takes up to 20 times as much."""


def parse_json(
    text: str,
    source: str,
    error: type[UpFusionError] = InputError,
    *,
    lone_surrogates: bool = False,
    finite: bool = True,
) -> Any:  # noqa: ANN401 - any JSON
    """The value that `text` stands for.

    Refused beside what is no JSON: NaN and Infinity, which JSON does not know, lone surrogates (such as \\ud800),
    nesting too deep for Python's reader, and names that come twice in one object. A byte order mark is passed over.

    Args:
        source: what the text is, named in the message, e.g. a path.
        error: what is raised.
        lone_surrogates: whether they are taken: so Python spells bytes of file names that are no UTF-8.
        finite: whether NaN and Infinity are refused.
    """

    def no_number(name: str) -> NoReturn:
        raise ValueError(f"{name} is no number in JSON")

    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for place, name in enumerate(names) if name in names[:place])
            raise ValueError(f"the name {shown(twice)} comes twice in one object")
        return content

    try:
        text = text.removeprefix("\ufeff")
        value = json.loads(text, parse_constant=no_number if finite else float, object_pairs_hook=without_duplicates)
        if "\\u" in text and not lone_surrogates:
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # half a surrogate pair could never be written
    except (ValueError, RecursionError) as reason:
        why = "it is nested too deeply" if isinstance(reason, RecursionError) else reason
        raise error(f"{source} must be JSON, but is not ({why}); correct it there, or remove it") from reason
    return value


def read_json(
    path: str | os.PathLike[str],
    error: type[UpFusionError] = InputError,
    *,
    lone_surrogates: bool = False,
    finite: bool = True,
) -> Any:  # noqa: ANN401 - any JSON
    """The value in a UTF-8 file, with or without a byte order mark (see parse_json), of at most 64 MB."""
    with reading(path, "check the path", what="a JSON file", error=error):
        content = read_regular(Path(path), LARGEST_JSON)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as reason:
        raise error(f"{path} must be UTF-8 text, but is not; save it as UTF-8, or remove it") from reason
    return parse_json(text, str(path), error, lone_surrogates=lone_surrogates, finite=finite)


def to_json(value: object, source: str) -> str:
    """`value` as JSON text that `parse_json` reads; `source` says what it is in the message."""
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as reason:
        why = "it is nested too deeply" if isinstance(reason, RecursionError) else reason
        raise InputError(
            f"{source} must be what JSON can hold, but is not ({why}); give finite numbers, texts and lists"
        ) from reason


def shown(value: object, most: int = 60) -> str:
    """`value` as JSON for a message, cut short; whatever it is."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= most else f"{text[:most]}..."
