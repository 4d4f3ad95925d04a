"""What the schedules of distillation share: one run with its model, scene, seed, hook and saved state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..field.radiance import RadianceField
from ..types import OnStep, SceneEncoding
from .distill_config import DistillConfig
from .distill_state import load_state, save_state

if TYPE_CHECKING:
    from .upfusion import UpFusion


@dataclass(frozen=True, eq=False)
class Run:
    """One distillation. text: (conditional, unconditional) embeddings; path: of the saved state, or None."""

    model: UpFusion
    scene: SceneEncoding
    config: DistillConfig
    text: tuple[Tensor, Tensor]
    seed: int
    on_step: OnStep | None
    path: Path | None
    fingerprint: str

    def generator(self, stream: int = 0) -> torch.Generator:
        """A CPU generator of this run; streams keep the draws of its parts apart."""
        return torch.Generator().manual_seed((self.seed + 0x9E3779B9 * stream) % 2**63)

    def new_field(self) -> RadianceField:
        """The field before any fitting, on the model's device."""
        return RadianceField(self.config.field, generator=self.generator()).to(self.model.device)

    def load(self) -> dict[str, Any] | None:
        """The saved state of an earlier, interrupted call, or None."""
        return load_state(self.path, self.fingerprint)

    def save(self, state: dict[str, Any]) -> None:
        """Saves the state, if a path was given."""
        save_state(self.path, self.fingerprint, state)

    def report(self, step: int, total: int, preview: Callable[[], Tensor], state: Callable[[], dict[str, Any]]) -> None:
        """Calls the hook; where that cancels the run, the state is saved before the cancellation goes on."""
        if self.on_step is None:
            return
        try:
            self.on_step(step, total, preview)
        except BaseException:  # whatever the host cancels with; it is raised again
            self.save(state())
            raise
