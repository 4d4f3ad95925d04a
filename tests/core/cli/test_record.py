"""run.json as people leave it: edited by hand, cut short, made by a stranger."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from upfusion_core.cli.run import is_of_kind, listed_files, new_record, open_run, read_record
from upfusion_core.cli.settings import DemoSettings, Sources, settings_json, with_stored
from upfusion_core.support.errors import InputError, OutputError

SETTINGS = DemoSettings(
    model=None, dtype="auto", seed=0, steps=15, guidance=None, scheduler="dpm++", object=0, photos=3
)  # fmt: skip


def record(**changes: object) -> dict[str, Any]:
    return new_record("demo", settings_json(SETTINGS), {"photos": []}, {"photos": []}) | changes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"command": "demo"}',
        "[" * 100_000,
        '{"a": NaN}',
        *(
            json.dumps(record(**{name: value}))
            for name, value in [
                ("command", 3), ("settings", []), ("settings", None), ("sources", "x"), ("inputs", [1]), ("stages", {}),
                ("stages", [1]), ("files", "run.json"), ("files", [None]), ("temporary_files", {"a": 1}),
                ("timings_seconds", {"sample": "1"}), ("timings_seconds", {"sample": None}), ("timings_seconds", []),
            ]
        ),
    ],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_what_is_no_record(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(text, encoding="utf-8")
    assert read_record(path) is None
    with pytest.raises(OutputError, match="cannot be read; use --force"), open_run(tmp_path, "demo", resume=True):
        pass
    assert path.read_text(encoding="utf-8") == text


def test_a_record_is_read(tmp_path: Path) -> None:
    text = json.dumps(record())
    (tmp_path / "run.json").write_text(text, encoding="utf-8")
    assert read_record(tmp_path / "run.json") == json.loads(text)
    assert read_record(tmp_path / "none.json") is None


OUTSIDE = ("../a", "views/../../a", "/etc/passwd", "..\\a", "C:\\a", "C:a", "\\\\server\\a", "", "a\0b", "..")


@pytest.mark.parametrize("name", OUTSIDE)
def test_files_outside_the_folder_are_not_listed(tmp_path: Path, name: str) -> None:
    assert listed_files(tmp_path, record(files=[name], temporary_files=[name])) == [tmp_path / "run.json"]


def test_files_inside_are_listed(tmp_path: Path) -> None:
    names = ["mesh.glb", "views/0.png", "\u8336.png"]
    assert listed_files(tmp_path, record(files=names)) == [tmp_path / name for name in (*names, "run.json")]


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_are_not_followed_out_of_the_folder(tmp_path: Path) -> None:
    outside, run = tmp_path / "outside", tmp_path / "run"
    outside.mkdir()
    run.mkdir()
    (outside / "a").write_text("theirs")
    (run / "views").symlink_to(outside)
    (run / "run.json").write_text(json.dumps(record(files=["views/a"])), encoding="utf-8")
    with open_run(run, "demo", force=True) as begun:
        begun.begin({}, {}, {})
    assert (outside / "a").read_text() == "theirs"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", "15"), ("steps", 1.5), ("steps", True), ("seed", None), ("seed", 2**70), ("guidance", "9"),
        ("photo_elevation", None), ("photo_elevation", [22.5]), ("formats", "glb"), ("formats", [3]), ("prompt", 3),
        ("steps", 0), ("batch_size", 0), ("batch_size", -3), ("dtype", "float8"), ("preset", "x"),
        ("remove_background", 1), ("model", {"a": 1}), ("turntable_size", {}),
    ],
)  # fmt: skip
def test_settings_of_another_type(name: str, value: object) -> None:
    stored = settings_json(SETTINGS) | {name: value}
    with pytest.raises(InputError, match=rf"got {name} = "):
        with_stored(SETTINGS, stored, frozenset())


def test_settings_of_another_version() -> None:
    with pytest.raises(InputError, match="another version"):
        with_stored(SETTINGS, {"steps": 3}, frozenset())
    assert with_stored(SETTINGS, settings_json(SETTINGS) | {"steps": None}, frozenset()).steps is None


@pytest.mark.parametrize(
    "stored",
    [{"photos": "a.png"}, {"photos": [1], "masks": [], "cameras": None}, {"photos": [], "masks": [], "cameras": 3}],
)
def test_sources_of_another_type(stored: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="must hold the sources"):
        Sources(photos=()).or_stored(stored)


def test_kinds() -> None:
    assert is_of_kind(3, float)
    assert is_of_kind(None, int | None)
    assert is_of_kind(["a"], tuple[str, ...])
    assert not is_of_kind(["a", 3], tuple[str, ...])
    assert not is_of_kind(True, int)
