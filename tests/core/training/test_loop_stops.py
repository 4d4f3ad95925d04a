"""How a training run stops before its end, and goes on from the state that it saved."""

from __future__ import annotations

import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import TinySource, run_tiny, tiny_config

from upfusion_core.config import TrainConfig
from upfusion_core.support.errors import CheckpointError, InputError
from upfusion_core.support.files import save_tensors
from upfusion_core.training.batches import TrainingBatch
from upfusion_core.training.loop import Training
from upfusion_core.training.report import Averaged, read_state


def same_models(one: Path, two: Path) -> bool:
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (one, two))
    return all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_ctrl_c_gives_up_the_step_and_saves_the_state_before(tmp_path: Path) -> None:
    config = tiny_config("encoder", steps=4)

    class Interrupting(TinySource):
        def batch(self, step: int, rank: int = 0, world: int = 1) -> TrainingBatch:
            if step == 2:
                os.kill(os.getpid(), signal.SIGINT)
            return super().batch(step, rank, world)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_tiny(config, tmp_path, source=Interrupting())
    assert signal.getsignal(signal.SIGINT) is before
    assert read_state(tmp_path / "training.pt", config)["step"] == 2
    run_tiny(config, tmp_path, resume=True)
    run_tiny(config, tmp_path / "whole")
    assert same_models(tmp_path, tmp_path / "whole")


def test_ctrl_c_waits_for_the_end_of_an_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, update = tiny_config("encoder"), Averaged.update

    def pressed_within(averaged: Averaged) -> None:
        if averaged.updates == 1:  # of step 2: the optimiser has stepped, the average has not
            os.kill(os.getpid(), signal.SIGINT)
        update(averaged)

    monkeypatch.setattr(Averaged, "update", pressed_within)
    with pytest.raises(KeyboardInterrupt):
        run_tiny(config, tmp_path)
    state = read_state(tmp_path / "training.pt", config)
    assert (state["step"], state["averaged"]["updates"]) == (2, 2)


def test_ctrl_c_while_validating_leaves_the_validation_to_the_next_attempt(tmp_path: Path) -> None:
    config, validate = tiny_config("encoder", steps=3, validate_every=3), Training._validate

    def pressed(training: Training, fixed: object) -> None:
        if training.state.step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        validate(training, fixed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "_validate", pressed)
        with pytest.raises(KeyboardInterrupt):
            run_tiny(config, tmp_path)
    state = read_state(tmp_path / "training.pt", config)
    assert (state["step"], state["history"]["validation"]) == (3, [])
    run_tiny(config, tmp_path, resume=True)
    run_tiny(config, tmp_path / "whole")
    one, two = (json.loads((path / "history.json").read_text()) for path in (tmp_path, tmp_path / "whole"))
    assert one == two
    assert [row["step"] for row in one["validation"]] == [3]


def test_a_loss_that_is_not_finite_stops_with_the_state_before(tmp_path: Path) -> None:
    config = tiny_config("encoder", steps=5)

    class Torn(TinySource):
        def batch(self, step: int, rank: int = 0, world: int = 1) -> TrainingBatch:
            batch = super().batch(step, rank, world)
            return replace(batch, photos=batch.photos * (math.nan if step == 3 else 1.0))

    with pytest.raises(InputError, match=r"step 4 gave \{'rgb': nan\}"):
        run_tiny(config, tmp_path, source=Torn())
    state = read_state(tmp_path / "training.pt", config)
    assert state["step"] == 3
    assert all(value.isfinite().all() for value in state["weights"].values())
    run_tiny(config, tmp_path / "whole")
    run_tiny(config, tmp_path, resume=True)
    assert same_models(tmp_path, tmp_path / "whole")


def test_states_that_do_not_fit(tmp_path: Path) -> None:
    config = tiny_config("encoder", steps=1)

    def refuses(words: str, config: TrainConfig = config) -> None:
        with pytest.raises(CheckpointError, match=words):
            run_tiny(config, tmp_path, resume=True)

    refuses("nothing to resume")
    run_tiny(config, tmp_path)
    refuses("another configuration", replace(config, seed=5))
    path = tmp_path / "training.pt"
    for save in (torch.save, save_tensors):
        save({"format": 0}, path)
        refuses("another kind of file")
    path.write_bytes(b"PK" + bytes(100))
    refuses("damaged or of another kind")
