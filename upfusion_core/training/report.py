"""What a run shows of itself: history as JSON, curves as PNG, TensorBoard, and picture sheets."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from ..files import replacing, write_json
from ..pictures import save_png
from .state import History

HISTORY_NAME, CURVES_NAME, SHEET_NAME, BOARD_NAME = "history.json", "curves.png", "validation.png", "tensorboard"


class Reporter:
    """Writes into a run's folder, or nowhere in the processes that are not the main one.

    `history.json` and `validation.png` always; `curves.png` where matplotlib is installed, `tensorboard/` where
    TensorBoard is (both come with the extra `train`).

    Args:
        first_step: where the run begins or goes on; TensorBoard forgets what a killed run wrote beyond it.
    """

    def __init__(self, folder: Path, *, active: bool, first_step: int = 0) -> None:
        self.folder, self.active = folder, active
        self._board: Any = None
        if active and importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / BOARD_NAME), purge_step=first_step + 1)
        self._curves = active and importlib.util.find_spec("matplotlib") is not None
        if self._curves:  # now, as Ctrl-C may come at a save, and an import that it breaks off cannot be repeated
            importlib.import_module("matplotlib.figure")

    def scalars(self, row: dict[str, float], group: str) -> None:
        """One row of the history, to TensorBoard."""
        if self._board is not None:
            for name, value in row.items():
                if name != "step":
                    self._board.add_scalar(f"{group}/{name}", value, int(row["step"]))

    def sheet(self, picture: Tensor, step: int) -> None:
        """(3, H, W) in [0, 1], under the name of the newest and to TensorBoard."""
        if not self.active:
            return
        save_picture(self.folder / SHEET_NAME, picture)
        if self._board is not None:
            self._board.add_image("validation", picture.cpu(), step)

    def history(self, history: History) -> None:
        """All rows so far."""
        if not self.active:
            return
        write_json(self.folder / HISTORY_NAME, {name: asdict(history)[name] for name in ("losses", "validation")})
        if self._curves and (history.losses or history.validation):
            draw_curves(history, self.folder / CURVES_NAME)

    def close(self) -> None:
        """Lets go of TensorBoard's file."""
        if self._board is not None:
            self._board.close()


def save_picture(path: Path, picture: Tensor) -> None:
    """(3, H, W) in [0, 1] -> an 8-bit PNG, whole or not at all."""
    with replacing(path) as partial:
        save_png(partial, picture)


def draw_curves(history: History, path: Path) -> None:
    """Each term over the steps, on a logarithmic axis: means while training as lines, validation as points."""
    from matplotlib.figure import Figure

    facts = ("step", "learning_rate", "gradient_norm")
    names = sorted({name for row in [*history.losses, *history.validation] for name in row} - set(facts))
    figure = Figure(figsize=(5 * len(names), 4), layout="constrained")
    for position, name in enumerate(names, start=1):
        axes = figure.add_subplot(1, len(names), position)
        for rows, style, label in ((history.losses, "-", "training"), (history.validation, "o-", "validation")):
            points = [(row["step"], row[name]) for row in rows if row.get(name, 0) > 0]
            if points:
                axes.plot(*zip(*points, strict=True), style, label=label, linewidth=1, markersize=3)
                axes.set_yscale("log")
        axes.set(xlabel="step", title=name)
        axes.legend()
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=100)
