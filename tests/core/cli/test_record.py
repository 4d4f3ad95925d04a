"""run.json as it is found: cut short, of another format, made by a stranger."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from upfusion_core.cli.run import Record, new_record, open_run, read_record
from upfusion_core.support.errors import InputError


def record() -> Record:
    return new_record("demo", {"model": "mini"}, {"photos": ["a\udcff.png"]}, {})


def written(**changes: object) -> str:
    return json.dumps(record().model_dump() | changes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must be JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": NaN}', "NaN"),
        ("[]", "its content is another"),
        ('{"command": "demo"}', "its format is another"),
        (written(format=1), "its format is another"),
        ('{"format": 2}', "its command is another"),
        (written(settings=[]), "its settings is another"),
        (written(files=[3]), "its files.0 is another"),
        (written(timings_seconds={"a": "1"}), "its timings_seconds.a is another"),
    ],
    ids=range(10),
)
def test_what_is_no_record(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=words), open_run(tmp_path, "demo", resume=True):
        pass
    assert path.read_text(encoding="utf-8") == text
    with open_run(tmp_path, "demo", force=True) as run:
        run.plan({}, {}, {})
        run.begin()


def test_a_record_is_read(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(written(model_id="x"), encoding="utf-8")
    found = read_record(tmp_path / "run.json")
    assert found.model_dump() == record().model_dump() | {"begun": found.begun, "model_id": "x"}
