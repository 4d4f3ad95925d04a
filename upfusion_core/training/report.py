"""What a run shows of itself: history as JSON, curves as PNG, TensorBoard, and picture sheets."""

from __future__ import annotations

import importlib.util
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ..config import TrainConfig
from ..models.networks import Networks, network_weights
from ..models.stable_diffusion import decode_latents, encode_images
from ..pipeline.novel_views import condition_views, encode_views, predict_views
from ..pipeline.prior import DiffusersPrior
from ..pipeline.sampling import sample_views
from ..support import seeds
from ..support.files import replacing, write_json
from ..support.images import save_png
from ..types import REFERENCE_FOCAL, InputViews, SceneEncoding
from .batches import BatchSource, Draws, TrainingBatch
from .stages import AutoencoderStage, DiffusionStage, EncoderStage
from .state import STATE_NAME, History, TrainState, save_state

MOST_ROWS, MOST_PHOTOS = 6, 6
SAMPLING_STEPS, GUIDANCE = 20, 2.0


@torch.no_grad()
def preview_sheet(config: TrainConfig, networks: Networks, text: tuple[Tensor, Tensor], batch: TrainingBatch) -> Tensor:
    """(3, H, W) in [0, 1]: for the first objects of `batch` their photos, their targets, and what is painted of those.

    The encoder's colours, the autoencoder's reconstructions, or samples of the diffusion model (20 DDIM steps).
    """
    rows = []
    for index in range(min(len(batch), MOST_ROWS)):
        photos, targets = batch.photos[index], batch.targets[index]
        painted = _painted(config, networks, text, batch, index).to(targets)
        white = torch.ones(MOST_PHOTOS - len(photos), *photos.shape[1:], device=photos.device)
        gap = torch.ones(1, *photos.shape[1:], device=photos.device)
        rows.append(torch.cat([photos, white, gap, targets, gap, painted]))
    columns = [_framed(row).permute(1, 2, 0, 3).flatten(2) for row in rows]  # (3, S, n·S)
    return torch.cat(columns, dim=1).clamp(0, 1)


def _painted(
    config: TrainConfig, networks: Networks, text: tuple[Tensor, Tensor], batch: TrainingBatch, index: int
) -> Tensor:
    """(T, 3, S, S) of object `index`."""
    if config.stage == "autoencoder":
        return decode_latents(networks.vae, encode_images(networks.vae, batch.targets[index]))
    photos, views = batch.photos[index], batch.views
    cameras = batch.cameras[index * views : (index + 1) * views]
    focal = torch.full((len(photos), 2), REFERENCE_FOCAL, device=photos.device)
    given = InputViews(photos, torch.ones_like(photos[:, :1]), focal)
    tokens = encode_views(networks.dino, networks.upsrt, given)
    scene = SceneEncoding(tokens, batch.references[index])
    if config.stage == "encoder":
        return predict_views(networks.upsrt, scene, cameras, config.model.image_size, pixel_centers=True)
    prior = DiffusersPrior(networks, config.model.latent_size)
    levels = len(config.model.diffusion.channel_mult)
    cond = condition_views(
        networks.upsrt, scene, cameras, latent_size=config.model.latent_size, levels=levels, text=text
    )
    return sample_views(prior, cond, steps=SAMPLING_STEPS, guidance=GUIDANCE, seeds=list(range(views)))


def _framed(pictures: Tensor) -> Tensor:
    return pad(pictures, (1, 1, 1, 1), value=0.8)


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
                draws = Draws(seeds.derived_seed(self.config.seed, "validation", index), device=self.accelerator.device)
                for name, value in self.stage(**self.stage.inputs(batch, draws)).items():
                    sums[name] = sums.get(name, 0.0) + float(value) / len(fixed)
        row = {"step": self.state.step, **sums}
        self.state.history.validation.append(row)
        self.reporter.scalars(row, "validation")
        if fixed:
            self.reporter.sheet(self.sheet(fixed[0]), self.state.step)
        self.reporter.history(self.state.history)
