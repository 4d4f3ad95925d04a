"""Everything that a training run needs to go on, in one file; and the averaged weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..config import TrainConfig
from ..models.weights import read_saved, write_saved
from ..support.errors import CheckpointError, InputError

STATE_NAME = "training.pt"
_FORMAT = 1


@dataclass
class History:
    """What was measured: one dict a row, with the step that it was measured at.

    losses: means of each term since the row before; `learning_rate` and `gradient_norm` are those of the row's step.
    validation: terms on the fixed batches. sums, count: of the row that is not complete yet.
    """

    losses: list[dict[str, float]] = field(default_factory=list)
    validation: list[dict[str, float]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0

    def add(self, step: int, terms: dict[str, float], facts: dict[str, float], every: int) -> dict[str, float] | None:
        """Takes the terms of one step; the row if it completes one."""
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1
        if step % every:
            return None
        row = {"step": step, **{name: total / self.count for name, total in self.sums.items()}, **facts}
        self.losses.append(row)
        self.sums, self.count = {}, 0
        return row


class Averaged:
    """Exponential moving average of parameters, by torch's own.

    The decay grows as (1 + n)/(10 + n) up to `decay`, n the updates so far, so that a short run's average is not its
    first weights.
    """

    def __init__(self, parameters: Sequence[Tensor], decay: float) -> None:
        self.parameters, self.decay, self.updates = parameters, decay, 0
        self.values = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the parameters as they are now."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        get_ema_multi_avg_fn(decay)(self.values, [parameter.detach() for parameter in self.parameters], self.updates)
        self.updates += 1

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the parameters have the averaged values."""
        kept = [parameter.detach().clone() for parameter in self.parameters]
        self._copy(self.values)
        try:
            yield
        finally:
            self._copy(kept)

    @torch.no_grad()
    def _copy(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)


@dataclass
class TrainState:
    """What changes during training. step: optimiser steps done. elapsed: seconds of training over all attempts.

    saved: the step that the file of the state was written at last, by this process.
    """

    optimizer: torch.optim.Optimizer
    averaged: Averaged | None
    history: History = field(default_factory=History)
    step: int = 0
    elapsed: float = 0.0
    saved: int | None = None


def save_state(
    path: Path, config: TrainConfig, weights: dict[str, Tensor], text: tuple[Tensor, Tensor], state: TrainState
) -> None:
    """Writes all of a run, whole or not at all.

    Args:
        weights: of all networks, trained or not, by merged names. text: the two prompts' embeddings.

    Raises:
        OutputError: it cannot be written.
    """
    averaged = state.averaged
    content = {
        "format": _FORMAT,
        "fingerprint": config.fingerprint,
        "config": json.dumps(config.to_dict()),
        "weights": weights,
        "text": list(text),
        "optimizer": state.optimizer.state_dict(),
        "averaged": None if averaged is None else {"values": averaged.values, "updates": averaged.updates},
        "history": vars(state.history),
        "step": state.step,
        "elapsed": state.elapsed,
    }
    write_saved(path, content)


def read_state(path: Path, config: TrainConfig) -> dict[str, Any]:
    """The content of a saved state, its tensors mapped from the file.

    Raises:
        CheckpointError: the file is missing, damaged, changed, or another run's.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist, so there is nothing to resume; begin without --resume")
    content = read_saved(path, "a saved state of training", mapped=True)
    if content.get("format") != _FORMAT:
        raise CheckpointError(f"{path} must be a saved state of training, but is another kind of file; begin anew")
    # not the fingerprint in it: the first releases took whole numbers for floats as they were written
    if TrainConfig.from_json(content["config"], f"{path}: config").fingerprint != config.fingerprint:
        raise CheckpointError(
            f"{path} belongs to a run with another configuration (fingerprint {content.get('fingerprint')!s:.40}, not "
            f"{config.fingerprint}); resume with that run's configuration, or begin in another folder"
        )
    return content


def restore(content: dict[str, Any], state: TrainState) -> None:
    """Puts optimiser, averaged weights, history, step and time back; weights are the caller's (set_network_weights)."""
    state.optimizer.load_state_dict(content["optimizer"])
    if state.averaged is not None:
        state.averaged.updates = content["averaged"]["updates"]
        for value, saved in zip(state.averaged.values, content["averaged"]["values"], strict=True):
            value.copy_(saved)
    state.history = History(**content["history"])
    state.step, state.elapsed = content["step"], content["elapsed"]


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Those that get gradients, in the module's order.

    Raises:
        InputError: there are none.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not parameters:
        raise InputError("training needs at least one network that is not frozen, got none; change the configuration")
    return parameters
