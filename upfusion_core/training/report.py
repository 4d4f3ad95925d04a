"""What a run writes of itself: the state to resume from, in one file; history, curves, TensorBoard, picture sheets."""

import importlib.util
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..config import TrainConfig
from ..models.checkpoint import Networks
from ..models.stable_diffusion import decode_latents, encode_images
from ..pipeline.prior import DiffusersPrior
from ..pipeline.upfusion import HostedUpFusion
from ..support.errors import CheckpointError
from ..support.files import replacing, save_tensors, write_json
from ..support.images import contact_sheet, save_png
from ..support.weights import read_saved
from ..types import REFERENCE_FOCAL, InputViews, SceneEncoding
from .batches import TrainingBatch

STATE_NAME = "training.pt"
HISTORY_NAME, CURVES_NAME, SHEET_NAME, BOARD_NAME = "history.json", "curves.png", "validation.png", "tensorboard"
MOST_ROWS, MOST_PHOTOS, SAMPLING_STEPS, GUIDANCE = 6, 6, 20, 2.0
_FORMAT = 1


@dataclass
class History:
    """What was measured, one dict a row with its step: in `losses` means of each term since the row before, in
    `validation` terms on the fixed batches; sums and count are of the row of losses that is not complete yet."""

    losses: list[dict[str, float]] = field(default_factory=list)
    validation: list[dict[str, float]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0

    def add(self, step: int, terms: dict[str, float], facts: dict[str, float], every: int) -> dict[str, float] | None:
        """Takes the terms of one step; the row if they complete one."""
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
    """Moving average of parameters; its decay grows to `decay`, so that a short run's is not its first weights."""

    def __init__(self, parameters: Sequence[Tensor], decay: float) -> None:
        self.parameters, self.decay, self.updates = parameters, decay, 0
        self.values = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def update(self) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        get_ema_multi_avg_fn(decay)(self.values, [parameter.detach() for parameter in self.parameters], self.updates)
        self.updates += 1

    @contextmanager
    def in_place(self) -> Iterator[None]:
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
    """What changes in training; `elapsed`, `worked`: seconds over all attempts, by the clock and of the processor (kept
    where the configuration has hours); `saved`: the step last saved from here."""

    optimizer: torch.optim.Optimizer
    averaged: Averaged | None
    history: History = field(default_factory=History)
    step: int = 0
    elapsed: float = 0.0
    worked: float = 0.0
    saved: int | None = None

    def write(self, path: Path, config: TrainConfig, weights: dict[str, Tensor], text: Sequence[Tensor]) -> None:
        averaged = self.averaged
        content: dict[str, Any] = {"format": _FORMAT, "fingerprint": config.fingerprint}
        content |= {"config": json.dumps(config.to_dict()), "weights": weights, "text": list(text)}
        content["optimizer"] = self.optimizer.state_dict()
        content["averaged"] = averaged and {"values": averaged.values, "updates": averaged.updates}
        content |= {"history": vars(self.history), "step": self.step, "elapsed": self.elapsed}
        content |= {"worked": self.worked} if config.hours else {}
        save_tensors(content, path)

    def restore(self, content: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(content["optimizer"])
        if self.averaged is not None:
            self.averaged.updates = content["averaged"]["updates"]
            for value, saved in zip(self.averaged.values, content["averaged"]["values"], strict=True):
                value.copy_(saved)
        self.history = History(**content["history"])
        self.step, self.elapsed = content["step"], content["elapsed"]
        self.worked = content.get("worked", 0.0)


def read_state(path: Path, config: TrainConfig) -> dict[str, Any]:
    """The content of a saved state, its tensors mapped from the file; CheckpointError if it is not of such a run."""
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist, so there is nothing to resume; begin without --resume")
    content = read_saved(path, "a saved state of training", mapped=True)
    if content.get("format") != _FORMAT:
        raise CheckpointError(f"{path} must be a saved state of training, but is another kind of file; begin anew")
    if content.get("fingerprint") != config.fingerprint:
        other = f"another configuration (fingerprint {content.get('fingerprint')!s:.40}, not {config.fingerprint})"
        advice = "resume with that run's configuration, or begin in another folder"
        raise CheckpointError(f"{path} belongs to a run with {other}; {advice}")
    return content


@torch.no_grad()
def preview_sheet(config: TrainConfig, networks: Networks, text: tuple[Tensor, Tensor], batch: TrainingBatch) -> Tensor:
    """(3, H, W) in [0, 1]: the first objects' photos, targets, and what is made of those: the encoder's colours, the
    autoencoder's reconstructions, or samples of the diffusion model (20 DDIM steps)."""
    weight = networks.upsrt.linear_scene.weight
    prior = DiffusersPrior(networks, config.model.latent_size)
    model = HostedUpFusion(
        config.model, dino=networks.dino, upsrt=networks.upsrt, prior=prior, device=weight.device, dtype=weight.dtype,
        text=text, model_id="in training",
    )  # fmt: skip
    rows = []
    for index in range(min(len(batch), MOST_ROWS)):
        photos, targets = batch.photos[index], batch.targets[index]
        if config.stage == "autoencoder":
            made = decode_latents(networks.vae, encode_images(networks.vae, targets))
        else:
            focal = torch.full((len(photos), 2), REFERENCE_FOCAL, device=photos.device)
            given = InputViews(photos, torch.ones_like(photos[:, :1]), focal)
            scene = SceneEncoding(model.set_latents(given), batch.references[index])
            cameras = batch.cameras[index * batch.views : (index + 1) * batch.views]
            if config.stage == "encoder":
                made = model.predict(scene, cameras, model.image_size, pixel_centers=True)
            else:
                made = model.sample(scene, cameras, steps=SAMPLING_STEPS, guidance=GUIDANCE).rgb
        white = torch.ones(MOST_PHOTOS - len(photos), *photos.shape[1:], device=photos.device)
        gap = torch.ones(1, *photos.shape[1:], device=photos.device)
        framed = pad(torch.cat([photos, white, gap, targets, gap, made.to(targets)]), (1, 1, 1, 1), value=0.8)
        rows.append(contact_sheet(framed, columns=len(framed)))
    return torch.cat(rows, dim=1).clamp(0, 1)


class Reporter:
    """What the main process writes into a run's folder; in others, which are not `active`, it does nothing.

    Curves need matplotlib, `tensorboard/` needs TensorBoard, which forgets what a killed run wrote beyond `first_step`.
    """

    def __init__(self, folder: Path, *, active: bool, first_step: int = 0) -> None:
        self.folder, self._active, self._first_step = folder, active, first_step
        self._figure: Any = None
        if active and importlib.util.find_spec("matplotlib") is not None:
            from matplotlib.figure import Figure  # now: one that Ctrl-C breaks off at a save cannot be repeated

            self._figure = Figure

    @cached_property
    def _board(self) -> Any:  # noqa: ANN401 - its package may be missing
        """Made when there is something to write, as its folder is at once."""
        if not self._active or importlib.util.find_spec("tensorboard") is None:
            return None
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.folder / BOARD_NAME), purge_step=self._first_step + 1)

    def scalars(self, row: dict[str, float], group: str) -> None:
        if self._board is not None:
            for name, value in row.items():
                if name != "step":
                    self._board.add_scalar(f"{group}/{name}", value, int(row["step"]))

    def sheet(self, picture: Tensor, step: int) -> None:
        with replacing(self.folder / SHEET_NAME) as partial:
            save_png(partial, picture)
        if self._board is not None:
            self._board.add_image("validation", picture.cpu(), step)

    def history(self, history: History) -> None:
        write_json(self.folder / HISTORY_NAME, {"losses": history.losses, "validation": history.validation})
        facts = {"step", "learning_rate", "gradient_norm"}
        names = sorted({name for row in [*history.losses, *history.validation] for name in row} - facts)
        if self._figure is None or not names:
            return
        figure = self._figure(figsize=(5 * len(names), 4), layout="constrained")
        for position, name in enumerate(names, start=1):
            axes = figure.add_subplot(1, len(names), position)
            for rows, style, label in ((history.losses, "-", "training"), (history.validation, "o-", "validation")):
                points = [(row["step"], row[name]) for row in rows if row.get(name, 0) > 0]
                if points:
                    axes.plot(*zip(*points, strict=True), style, label=label, linewidth=1, markersize=3)
                    axes.set_yscale("log")
            axes.set(xlabel="step", title=name)
            axes.legend()
        with replacing(self.folder / CURVES_NAME) as partial:
            figure.savefig(partial, format="png", dpi=100)

    def close(self) -> None:
        if self.__dict__.get("_board") is not None:
            self._board.close()
