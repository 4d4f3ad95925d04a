"""States of unfinished distillations: whose they are, that they are whole, how much they take; and what is left."""

import os
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from small_models import Pack

pytestmark = pytest.mark.usefixtures("folders")
PROMPT = {
    "1": {"class_type": "Load", "inputs": {"name": "mini"}},
    "9": {"class_type": "Preview", "inputs": {"x": ["3", 0]}},
    "2": {"class_type": "LoRA", "inputs": {"model": ["1", 0], "strength": 0.5}},
    "3": {"class_type": "UpFusionDistill", "inputs": {"model": ["2", 0], "seed": 7}},
}


def state(pack: Pack, *given: Any) -> Path:
    """The file of a run with these inputs, which is broken off after it was saved."""
    with suppress(InterruptedError), pack("nodes.unfinished").resumed(Mock(), *given) as (path, _):
        torch.save({"a": torch.full((9,), 2.0)}, path)
        raise InterruptedError
    return path


def test_a_state_is_its_inputs_and_goes_when_the_run_is_done(pack: Pack, core: Any, folders: Path) -> None:
    lora = SimpleNamespace(weights=(torch.ones(2, 2), None))
    given = [core.orbit_cameras([0.0, 9.0]), None, {"k": [(1.0, lora, 1.0)]}, "fast", 3, [[torch.ones(1, 2, 3), {}]]]
    path = state(pack, *given)
    assert path.parent == folders / "user" / "upfusion" / "unfinished"
    assert state(pack, *given) == path
    other = {"k": [(1.0, SimpleNamespace(weights=(torch.zeros(2, 2), None)), 1.0)]}
    changes = [core.orbit_cameras([0.0, 8.0]), torch.zeros(1), other, "draft", 4, [[torch.ones(1, 3, 2), {}]]]
    for place, value in enumerate(changes):
        assert state(pack, *given[:place], value, *given[place + 1 :]) != path
    with pack("nodes.unfinished").resumed(Mock(), *given) as (again, _):
        assert again.exists()
    assert not path.exists()


def test_a_damaged_state_is_dropped(pack: Pack, caplog: pytest.LogCaptureFixture) -> None:
    path = state(pack, 1)
    for content in (path.read_bytes()[:-9], path.read_bytes().replace(b"\0\0\0\x40" * 9, bytes(36)), b""):
        path.write_bytes(content)
        with pack("nodes.unfinished").resumed(Mock(), 1):
            assert not path.exists()
    assert "begins a distillation anew" in caplog.text


def test_the_oldest_go_first(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room is left to write the newest again before the old one of it goes; here states of about 1.5 kB in 6."""
    unfinished = pack("nodes.unfinished")
    monkeypatch.setattr(unfinished, "LIMIT", 4 * state(pack, 0).stat().st_size)
    paths = [state(pack, number) for number in range(3)]
    for age, path in enumerate(paths):
        os.utime(path, (1000 + age, 1000 + age))
    with unfinished.resumed(Mock(), 9) as (newest, on_step):
        torch.save({"a": torch.zeros(9)}, newest)
        on_step(1, 2, None)
        assert sorted(newest.parent.iterdir()) == sorted([*paths[1:], newest])


def test_what_leads_to_a_node_and_seconds_left(pack: Pack, core: Any) -> None:
    before = pack("nodes.unfinished").graph_before
    assert before(PROMPT, "3") == {"1": ["Load", {"name": "mini"}], "2": ["LoRA", {"model": ["1", 0], "strength": 0.5}]}
    assert before(None, None) == before(PROMPT, "gone") == {}
    # Fitting takes 1 s a step, drawing 10: what is not known yet is said to be more
    pace, told = pack("nodes.host").Pace(), []
    work = ((0, 1, "fit", 3, 4), (1, 2, "fit", 2, 4), (11, 3, "draw", 2, 3), (21, 4, "draw", 2, 2))
    for now, number, kind, fits, draws in work:
        told.append(pace.left(core.Step(number, "", kind, {"fit": fits, "draw": draws}), 8, float(now)))
    assert told == ["", ", more than 2 s left", ", 32 s left", ", 22 s left"]
    plain = pack("nodes.host").Pace()
    assert [plain.left(step, 4, 2.0 * step) for step in (1, 2, 3, 4)] == ["", ", 4 s left", ", 2 s left", ""]
