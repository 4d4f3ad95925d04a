"""The loop that all stages share."""

from __future__ import annotations

import copy
import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..config import TrainConfig
from ..models.convert import write_networks
from ..models.networks import Networks, network_weights, set_network_weights
from ..support import seeds
from ..support.checks import check_choice, check_range
from ..support.errors import InputError, MissingPackageError
from ..types import OnStep
from .batches import BatchSource, Draws
from .initial import initial_networks
from .report import Reporter, StageModule, TrainingRun
from .stages import AutoencoderStage, DiffusionStage, EncoderStage, TrainingStage, calibrate_latents, check_latents
from .state import STATE_NAME, Averaged, TrainState, read_state, restore, trained_parameters


class Interruption:
    """What a pressed Ctrl-C does: KeyboardInterrupt at once, or, while held, once the hold ends.

    pressed: whether one waits.
    """

    def __init__(self) -> None:
        self.pressed = False
        self._holds = 0

    def press(self, number: int = 0, frame: object = None) -> None:
        """The signal's handler."""
        self.pressed = True
        if not self._holds:
            raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, all that is begun is finished."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
        if self.pressed and not self._holds:
            raise KeyboardInterrupt


@contextmanager
def interruption() -> Iterator[Interruption]:
    """Takes Ctrl-C over. Outside of the main thread Python delivers none, and nothing is changed."""
    waiting = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield waiting
        return
    before = signal.signal(signal.SIGINT, waiting.press)
    try:
        yield waiting
    finally:
        signal.signal(signal.SIGINT, before)


if TYPE_CHECKING:
    from accelerate import Accelerator

MODEL_NAME = "model.safetensors"
CALIBRATION_BATCHES = 8


@dataclass(frozen=True)
class TrainResult:
    """How a run ended. model: the merged file. step: steps done. finished: whether those are all of them."""

    model: Path
    step: int
    finished: bool
    elapsed: float


def train(
    config: TrainConfig,
    source: BatchSource,
    validation: BatchSource,
    folder: str | Path,
    *,
    init: Sequence[str | Path] = (),
    resume: bool = False,
    max_minutes: float | None = None,
    device: str = "auto",
    on_step: OnStep | None = None,
) -> TrainResult:
    """Trains one stage, and writes the model as `model.safetensors`, which UpFusion.load opens.

    All random numbers follow from (seed, step, example): a resumed run gives bit for bit the weights of one that was
    never interrupted (on a CPU), and a batch split over processes or accumulated the gradients of the whole one.

    The folder gets `training.pt` (all that is needed to resume, in one file), `history.json`, `validation.png`,
    `curves.png` and `tensorboard/`. The state is saved each `save_every` steps and whenever training stops: at the
    end, when the time is over, when `on_step` raises, on Ctrl-C, and when a loss is not finite. Ctrl-C gives up the
    step that is being computed; with several processes it waits for its end.

    Args:
        config: see TrainConfig. source: of the batches. validation: its batches 0, 1, … are the fixed ones.
        init: files or folders of weights to start from (see initial_networks); not read when resuming.
        resume: go on from the folder's `training.pt`.
        max_minutes: after so long, in this call, training stops with a saved model and state.
        device: "auto" or "cpu". Several processes: start the program through `accelerate launch`.
        on_step: called after each step, in the main process; the preview paints validation pictures.

    Raises:
        MissingPackageError: accelerate is not installed.
        CheckpointError: weights to start from, or the state to resume from, do not fit.
        InputError: a loss is not finite.
    """
    if max_minutes is not None:
        check_range("max_minutes", max_minutes, 0)
    folder = Path(folder)
    saved = read_state(folder / STATE_NAME, config) if resume else None
    accelerator = _accelerator(config, device)
    networks, text = _start(config, init, saved)
    stage = make_stage(config, networks, text)
    run = _prepared(config, accelerator, networks, text, stage, folder, saved)
    if config.stage == "diffusion" and not resume:
        targets = source.batch(0).targets.flatten(0, 1).to(accelerator.device)
        check_latents(networks.vae, targets)
    deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
    try:
        with interruption() as interrupted:
            _steps(run, source, validation, deadline, on_step, interrupted)
        _finish(run, source)
    finally:
        run.reporter.close()
    state = run.state
    return TrainResult(folder / MODEL_NAME, state.step, state.step >= config.steps, state.elapsed)


def make_stage(config: TrainConfig, networks: Networks, text: tuple[Tensor, Tensor]) -> StageModule:
    """The stage's module (see TrainingStage) on `networks`, in training mode; it decides what is trained."""
    if config.stage == "encoder":
        stage: StageModule = EncoderStage(config, networks)
    elif config.stage == "autoencoder":
        stage = AutoencoderStage(config, networks)
    else:
        stage = DiffusionStage(config, networks, text)
    return stage.train()


def frozen_parts(config: TrainConfig) -> list[str]:
    """Networks that the stage uses as they are, and which therefore must come from somewhere."""
    if config.stage == "autoencoder":
        return []
    frozen = [] if config.train_dino else ["DINOv2"]
    if config.stage == "encoder":
        return frozen
    frozen += [] if config.train_upsrt else ["UpSRT"]
    return [*frozen, "VAE", *([] if config.train_unet == "all" else ["UNet"])]


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of optimiser step `step`, counted from 0: a linear rise, then a cosine down to the final share."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    share = config.final_share + (1 - config.final_share) * (1 + math.cos(math.pi * done)) / 2
    return config.learning_rate * share


def accumulate_gradients(
    config: TrainConfig,
    accelerator: Accelerator,
    stage: TrainingStage,
    module: nn.Module,
    source: BatchSource,
    step: int,
) -> dict[str, Tensor]:
    """Adds the gradients of step `step` to the parameters'.

    Returns: the stage's terms by name, in the order of their names; means over all parts and processes.
    """
    parts = accelerator.num_processes * config.accumulation
    seed = seeds.derived_seed(config.seed, "losses", step)
    names: list[str] = []
    total: Tensor | None = None
    for index in range(config.accumulation):
        part = index * accelerator.num_processes + accelerator.process_index
        batch = source.batch(step, part, parts).to(accelerator.device)
        inputs = stage.inputs(batch, Draws(seed, part, parts, accelerator.device))
        is_last = index == config.accumulation - 1
        waiting: AbstractContextManager[None] = nullcontext() if is_last else accelerator.no_sync(module)
        with waiting:
            terms = module(**inputs)
            accelerator.backward(sum(terms.values()) / config.accumulation)
        names = sorted(terms)
        values = torch.stack([terms[name].detach() for name in names]) / config.accumulation
        total = values if total is None else total + values
    reduced: Tensor = accelerator.reduce(total, "mean")  # in one message
    return dict(zip(names, reduced, strict=True))


def _accelerator(config: TrainConfig, device: str) -> Accelerator:
    check_choice("device", device, ("auto", "cpu"))
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
    except ImportError as error:
        raise MissingPackageError(
            "training needs the package accelerate, which is not installed; run: pip install accelerate"
        ) from error
    # accelerate keeps one state a program and refuses another precision or device after the first run
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    return Accelerator(mixed_precision=config.precision, cpu=device == "cpu")


def _start(
    config: TrainConfig, init: Sequence[str | Path], saved: dict[str, Any] | None
) -> tuple[Networks, tuple[Tensor, Tensor]]:
    if saved is None:
        return initial_networks(config.model, init, seed=config.seed, required=frozen_parts(config))
    networks, _ = initial_networks(config.model, seed=config.seed)
    set_network_weights(config.model, networks, saved["weights"])
    default, empty = saved["text"]
    return networks, (default, empty)


def _prepared(
    config: TrainConfig,
    accelerator: Accelerator,
    networks: Networks,
    text: tuple[Tensor, Tensor],
    stage: StageModule,
    folder: Path,
    saved: dict[str, Any] | None,
) -> TrainingRun:
    stage.to(accelerator.device)
    if config.compile:
        stage.compile()
    parameters = trained_parameters(stage)
    options: dict[str, Any] = {"lr": config.learning_rate, "betas": config.betas, "weight_decay": config.weight_decay}
    fused = accelerator.device.type in ("cpu", "cuda")  # one pass over each weight, and no copies of them all
    optimizer = torch.optim.AdamW(parameters, **options, fused=fused)
    averaged = Averaged(parameters, config.ema_decay) if config.ema_decay else None
    state = TrainState(optimizer, averaged)
    if saved is not None:
        restore(saved, state)
    reporter = Reporter(folder, active=accelerator.is_main_process, first_step=state.step)
    module = accelerator.prepare_model(stage)
    return TrainingRun(config, accelerator, networks, text, stage, module, folder, state, reporter)


def _steps(
    run: TrainingRun,
    source: BatchSource,
    validation: BatchSource,
    deadline: float | None,
    on_step: OnStep | None,
    interrupted: Interruption,
) -> None:
    """Steps until all are done or something stops them; the state is saved before anything is raised."""
    try:
        with ExitStack() as stack:
            if run.accelerator.num_processes > 1:  # the others would wait for this one in the midst of a step
                stack.enter_context(interrupted.held())
            _loop(run, source, validation, deadline, on_step, interrupted)
    except KeyboardInterrupt:
        if run.state.saved != run.state.step:
            run.save()
        raise


def _loop(
    run: TrainingRun,
    source: BatchSource,
    validation: BatchSource,
    deadline: float | None,
    on_step: OnStep | None,
    interrupted: Interruption,
) -> None:
    config, state = run.config, run.state
    fixed = run.fixed_batches(validation)

    def preview() -> Tensor:
        return run.sheet(fixed[0])

    run.validate_if_due(fixed)  # Ctrl-C may have come between a step and its validation
    while state.step < config.steps:
        begun = time.monotonic()
        _step(run, source, interrupted)
        run.validate_if_due(fixed)
        state.elapsed += time.monotonic() - begun
        stop: BaseException | None = None
        if on_step is not None and run.accelerator.is_main_process:
            try:
                on_step(state.step, config.steps, preview if fixed else None)
            except BaseException as error:  # raised again once the state is saved
                stop = error
        if interrupted.pressed:
            stop = KeyboardInterrupt()
        over = deadline is not None and time.monotonic() >= deadline
        ends, cancelled = _anywhere(run.accelerator, over, stop is not None)
        if ends or cancelled or state.step % config.save_every == 0 or state.step == config.steps:
            run.save()
        if cancelled:
            raise stop if stop is not None else KeyboardInterrupt
        if ends:
            return


def _step(run: TrainingRun, source: BatchSource, interrupted: Interruption) -> None:
    """One optimiser step. Raises InputError, the state before it saved, if the loss or a gradient is not finite."""
    config, state, optimizer = run.config, run.state, run.state.optimizer
    rate = learning_rate(config, state.step)
    for group in optimizer.param_groups:
        group["lr"] = rate
    values = accumulate_gradients(config, run.accelerator, run.stage, run.module, source, state.step)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm or math.inf, foreach=None)
    numbers = torch.stack([*values.values(), norm]).float().tolist()
    terms = dict(zip(values, numbers[:-1], strict=True))
    if not all(map(math.isfinite, numbers)):
        optimizer.zero_grad(set_to_none=True)
        run.save()
        raise InputError(
            f"the loss must stay finite, but step {state.step + 1} gave {terms} and a gradient of norm {numbers[-1]}; "
            f"lower learning_rate or set clip_norm, then resume from {run.folder / STATE_NAME} or begin anew"
        )
    with interrupted.held():
        _update(run, terms, {"learning_rate": rate, "gradient_norm": numbers[-1]})


def _update(run: TrainingRun, terms: dict[str, float], facts: dict[str, float]) -> None:
    """Takes the optimiser's step; all that belongs to a step changes here, together."""
    config, state = run.config, run.state
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    if state.averaged is not None:
        state.averaged.update()
    state.step += 1
    row = state.history.add(state.step, terms, facts, config.log_every)
    if row is not None:
        run.reporter.scalars(row, "training")


def _finish(run: TrainingRun, source: BatchSource) -> None:
    """Writes the merged file, of the averaged weights where there are any."""
    if run.accelerator.is_main_process:
        with run.averaged():
            weights = run.weights()
            if run.config.stage == "autoencoder":
                weights = _calibrated(run, source)
            write_networks(run.folder / MODEL_NAME, run.config.model, weights, run.text)
    run.accelerator.wait_for_everyone()


def _calibrated(run: TrainingRun, source: BatchSource) -> dict[str, Tensor]:
    """The weights with the autoencoder's latents brought to the scale of SD 1.5's; training goes on with its own."""
    batches = [source.batch(step) for step in range(CALIBRATION_BATCHES)]
    pictures = torch.cat([batch.targets.flatten(0, 1) for batch in batches]).to(run.accelerator.device)
    networks = Networks(**{**vars(run.networks), "vae": copy.deepcopy(run.networks.vae)})
    calibrate_latents(networks.vae, pictures)
    return network_weights(run.config.model, networks)


def _anywhere(accelerator: Accelerator, *flags: bool) -> tuple[bool, ...]:
    """Whether each flag is set in any process, so that all of them stop at the same step."""
    if accelerator.num_processes == 1:
        return flags
    counts = accelerator.reduce(torch.tensor(flags, dtype=torch.float32, device=accelerator.device), "sum")
    return tuple(count > 0 for count in counts.tolist())
