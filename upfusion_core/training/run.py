"""One training run: what stays the same over its steps, its validation and its saved state."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn

from ..models.networks import Networks, network_weights
from .autoencoder import AutoencoderStage
from .batches import BatchSource, TrainingBatch
from .config import TrainConfig
from .diffusion import DiffusionStage
from .draws import Draws, derived_seed
from .encoder import EncoderStage
from .previews import preview_sheet
from .report import Reporter
from .state import STATE_NAME, TrainState, save_state

if TYPE_CHECKING:
    from accelerate import Accelerator

StageModule: TypeAlias = EncoderStage | AutoencoderStage | DiffusionStage


@dataclass(frozen=True, eq=False)
class TrainingRun:
    """A run as one process has it. module: the stage as accelerate wraps it."""

    config: TrainConfig
    accelerator: Accelerator
    networks: Networks
    text: tuple[Tensor, Tensor]
    stage: StageModule
    module: nn.Module
    folder: Path
    state: TrainState
    reporter: Reporter

    def weights(self) -> dict[str, Tensor]:
        """All weights as they are, under their merged names."""
        return network_weights(self.config.model, self.networks)

    def averaged(self) -> AbstractContextManager[None]:
        """Within it the networks have their averaged weights, where there are any."""
        return nullcontext() if self.state.averaged is None else self.state.averaged.in_place()

    def save(self) -> None:
        """Saves the state and the history; the main process does it."""
        if self.accelerator.is_main_process:
            save_state(self.folder / STATE_NAME, self.config, self.weights(), self.text, self.state)
            self.reporter.history(self.state.history)
        self.state.saved = self.state.step

    def fixed_batches(self, validation: BatchSource) -> list[TrainingBatch]:
        """The batches that the run validates on, in the main process; none elsewhere."""
        count = self.config.validation_batches if self.accelerator.is_main_process else 0
        return [validation.batch(index).to(self.accelerator.device) for index in range(count)]

    def validate_if_due(self, fixed: list[TrainingBatch]) -> None:
        """Validates after every so many steps, once each."""
        every, step, rows = self.config.validate_every, self.state.step, self.state.history.validation
        if every and step and step % every == 0 and not (rows and rows[-1]["step"] == step):
            self._validate(fixed)

    def sheet(self, batch: TrainingBatch) -> Tensor:
        """Pictures of a batch by the averaged weights."""
        device = self.accelerator.device
        text = (self.text[0].to(device), self.text[1].to(device))
        with self.averaged():
            return preview_sheet(self.config, self.networks, text, batch).cpu()

    def _validate(self, fixed: list[TrainingBatch]) -> None:
        """The terms of the averaged weights on the fixed batches, and a sheet of pictures; the main process does it."""
        if not self.accelerator.is_main_process:
            return
        sums: dict[str, float] = {}
        with self.averaged(), torch.no_grad(), self.accelerator.autocast():
            for index, batch in enumerate(fixed):
                draws = Draws(derived_seed(self.config.seed, "validation", index), device=self.accelerator.device)
                for name, value in self.stage(**self.stage.inputs(batch, draws)).items():
                    sums[name] = sums.get(name, 0.0) + float(value) / len(fixed)
        row = {"step": self.state.step, **sums}
        self.state.history.validation.append(row)
        self.reporter.scalars(row, "validation")
        if fixed:
            self.reporter.sheet(self.sheet(fixed[0]), self.state.step)
        self.reporter.history(self.state.history)
