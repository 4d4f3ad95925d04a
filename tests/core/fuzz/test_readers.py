"""The script of coverage-guided fuzzing: its seeds are whole files that their readers take."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from documented_programs import ROOT, loaded
from refusals import unfit


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    module = loaded(ROOT / "fuzz" / "readers.py")
    yield module
    shutil.rmtree(module.SCRATCH, ignore_errors=True)


def test_seeds_are_read_and_junk_is_no_finding(script: ModuleType, tmp_path: Path) -> None:
    script.write_seeds(tmp_path)
    seeds = sorted(tmp_path.iterdir())
    assert len(seeds) >= len(script.READERS)
    for seed in seeds:
        data = seed.read_bytes()
        name = list(script.READERS)[data[0]]
        if name == "safetensors":  # whole as weights, but no model
            unfit("does not fit its configuration", script.READERS[name], data[1:])
        else:
            script.READERS[name](data[1:])
        script.one(data[: len(data) // 2], list(script.READERS))
    script.one(b"", list(script.READERS))


def test_a_finding_is_one(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(script.READERS, "pickles", lambda data: {}["missing"])
    with pytest.raises(KeyError):
        script.one(b"\0", ["pickles"])
    script.one(b"\0", ["fields"])
