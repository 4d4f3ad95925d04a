from __future__ import annotations

import os
from pathlib import Path

import pytest
from refusals import refused

from upfusion_core.support.errors import CheckpointError
from upfusion_core.support.files import LARGEST_JSON, parse_json, read_json, shown


def test_values_come_back() -> None:
    assert parse_json('{"a": [1, 2.5, null, "\\u00e9"]}', "it") == {"a": [1, 2.5, None, "\xe9"]}
    assert parse_json('"\\ud83d\\ude00"', "it") == "\U0001f600"
    assert parse_json('\ufeff{"a": 1}', "it") == {"a": 1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it must be JSON, but is not"),
        ("{", "it must be JSON, but is not"),
        ('{"a": NaN}', "NaN is no number in JSON"),
        ("[-Infinity]", "-Infinity is no number"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 50_000 + "1" + "}" * 50_000, "nested too deeply"),
        ("1" * 5000, "digits"),
        ('["\\ud800"]', "surrogates not allowed"),
        ('[{"a": 1, "b": 2, "a": 1}]', 'the name "a" comes twice in one object'),
    ],
)
def test_what_is_refused(text: str, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        parse_json(text, "it", CheckpointError)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "\u8336 notes.json"
    path.write_text('{"a": 1}', encoding="utf-8-sig")
    assert read_json(path) == {"a": 1}
    path.write_bytes(b"\xff\xfe{}")
    refused("must be a JSON file, but cannot be read .*save it as UTF-8", read_json, path)
    for absent in (tmp_path / "none.json", tmp_path, "a\0b.json", "x" * 5000):
        refused(r"cannot be read .*; check the path", read_json, absent)


def test_files_that_are_too_large_or_never_end(tmp_path: Path) -> None:
    with (tmp_path / "sparse.json").open("wb") as file:
        file.truncate(LARGEST_JSON + 1)
    refused(r"cannot be read \(it has 64,000,001 bytes, more than 64,000,000\)", read_json, tmp_path / "sparse.json")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.json")
        refused("it is a device or pipe", read_json, tmp_path / "pipe.json")


def test_what_messages_show_of_a_value() -> None:
    assert shown({"a": [1, None]}) == '{"a": [1, null]}'
    assert shown("x" * 1000) == '"' + "x" * 59 + "..."
    assert shown({1, 2}) == "set"
    assert shown(10**5000) == "int"
