"""The loop that all stages share."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ..config import TrainConfig
from ..models.checkpoint import Networks, network_weights, set_network_weights
from ..models.convert import write_networks
from ..support.devices import derived_seed
from ..support.errors import InputError
from ..support.interruption import Interruption
from ..types import OnStep
from .batches import BatchRandom, BatchSource, TrainingBatch
from .initial import initial_networks
from .report import STATE_NAME, Averaged, Reporter, TrainState, preview_sheet, read_state
from .stages import StageModule, calibrate_latents, check_latents, make_stage

if TYPE_CHECKING:
    from accelerate import Accelerator

MODEL_NAME = "model.safetensors"
Sources = Mapping[str, BatchSource]
CALIBRATION_BATCHES = 8


@dataclass(frozen=True)
class TrainResult:
    """How a run ended: the merged file, steps done, whether those are all, and seconds over all attempts."""

    model: Path
    step: int
    finished: bool
    elapsed: float


def train(
    config: TrainConfig,
    source: BatchSource,
    validation: BatchSource | Sources,
    folder: str | Path,
    *,
    init: Sequence[str | Path] = (),
    resume: bool = False,
    max_minutes: float | None = None,
    device: Literal["auto", "cpu"] = "auto",
    on_step: OnStep | None = None,
) -> TrainResult:
    """Trains one stage, and writes the model as `model.safetensors`, which UpFusion.load opens.

    A resumed run gives bit for bit the weights of one that was never interrupted (on a CPU), and a batch split over
    processes or accumulated the gradients of the whole one. Several processes begin by `accelerate launch`.

    The folder also gets `training.pt` (all that is needed to resume), `history.json`, `validation.png`, `curves.png`
    and `tensorboard/`. The state is saved each `save_every` steps or `save_minutes`, and whenever training stops: at
    the end, after `max_minutes` of this call, when `on_step` raises, on Ctrl-C, which gives up the step that is being
    computed (with several processes it waits for its end), and when a loss is not finite, which is an InputError.

    Args:
        validation: its batches 0, 1, … are the fixed ones; of several sources, each name stands behind its terms.
        init: files or folders of weights to start from (see initial_networks); not read when resuming.
        on_step: called after each step, in the main process, with steps or seconds; shows validation pictures.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    folder = Path(folder)
    saved = read_state(folder / STATE_NAME, config) if resume else None
    # accelerate keeps one state a program and refuses another precision or device after the first run
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    accelerator = Accelerator(mixed_precision=config.precision, cpu=device == "cpu")
    if config.hours and accelerator.num_processes > 1:
        raise InputError(f"hours are those of one process, got {accelerator.num_processes} of them; give steps")
    required = () if saved else frozen_parts(config)
    networks, text = initial_networks(config.model, () if saved else init, seed=config.seed, required=required)
    if saved:
        set_network_weights(config.model, networks, saved["weights"])
        text = saved["text"][0], saved["text"][1]
    training = Training(config, accelerator, networks, text, folder, saved)
    if not resume:  # data that cannot be read are refused before the folder gets anything
        first = source.batch(0)
        if config.stage == "diffusion":
            check_latents(networks.vae, first.targets.flatten(0, 1).to(accelerator.device))
    sources = validation if isinstance(validation, Mapping) else {"": validation}
    deadline = math.inf if max_minutes is None else time.monotonic() + 60 * max_minutes
    try:
        with training.interrupted.taken():
            training.run(source, sources, deadline, on_step)
        if accelerator.is_main_process:
            training.write_model(source)
        accelerator.wait_for_everyone()
    finally:
        training.reporter.close()
    state, (done, total) = training.state, training.progress()
    return TrainResult(folder / MODEL_NAME, state.step, done >= total, state.elapsed)


def frozen_parts(config: TrainConfig) -> list[str]:
    """Networks that the stage uses as they are, and which therefore must come from somewhere."""
    if config.stage == "autoencoder":
        return []
    frozen = {"DINOv2": not config.train_dino, "UpSRT": not config.train_upsrt}
    if config.stage == "diffusion":
        frozen |= {"VAE": True, "UNet": config.train_unet != "all"}
    return [part for part, is_frozen in frozen.items() if is_frozen]


def learning_rate(config: TrainConfig, step: int, worked: float = 0.0) -> float:
    """The rate of step `step`, counted from 0: a linear rise, then a cosine down, along steps or hours `worked`."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    if config.hours:
        done = min(1.0, worked / (3600 * config.hours))
    share = config.final_share + (1 - config.final_share) * (1 + math.cos(math.pi * done)) / 2
    return config.learning_rate * share


def accumulate_gradients(
    config: TrainConfig, accelerator: Accelerator, stage: StageModule, module: nn.Module, source: BatchSource, step: int
) -> dict[str, Tensor]:
    """Adds the gradients of a step; the stage's terms in the order of their names, means over parts and processes."""
    parts = accelerator.num_processes * config.accumulation
    seed = derived_seed(config.seed, "losses", step)
    total: dict[str, Tensor] = {}
    for index in range(config.accumulation):
        part = index * accelerator.num_processes + accelerator.process_index
        batch = source.batch(step, part, parts).to(accelerator.device)
        inputs = stage.inputs(batch, BatchRandom(seed, part, parts, accelerator.device))
        is_last = index == config.accumulation - 1
        waiting: AbstractContextManager[None] = nullcontext() if is_last else accelerator.no_sync(module)
        with waiting:
            terms = module(**inputs)
            accelerator.backward(sum(terms.values()) / config.accumulation)
        for name in sorted(terms):
            total[name] = total.get(name, 0) + terms[name].detach() / config.accumulation
    reduced: Tensor = accelerator.reduce(torch.stack([*total.values()]), "mean")  # in one message
    return dict(zip(total, reduced, strict=True))


class Training:
    """A stage in training, as one process has it: on the accelerator's device, at the first step or a saved state's."""

    def __init__(
        self,
        config: TrainConfig,
        accelerator: Accelerator,
        networks: Networks,
        text: tuple[Tensor, Tensor],
        folder: Path,
        saved: dict[str, Any] | None = None,
    ) -> None:
        self.config, self.accelerator, self.networks, self.text = config, accelerator, networks, text
        self.folder, self.interrupted = folder, Interruption()
        self.stage = make_stage(config, networks, text).to(accelerator.device)
        if config.compile:
            self.stage.compile()
        self.parameters = [parameter for parameter in self.stage.parameters() if parameter.requires_grad]
        fused = accelerator.device.type in ("cpu", "cuda")  # one pass over each weight, and no copies of them all
        options: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "fused": fused}
        optimizer = torch.optim.AdamW(self.parameters, betas=config.betas, **options)
        self.state = TrainState(optimizer, Averaged(self.parameters, config.ema_decay) if config.ema_decay else None)
        if saved is not None:
            self.state.restore(saved)
        self.reporter = Reporter(folder, active=accelerator.is_main_process, first_step=self.state.step)
        self.module = accelerator.prepare_model(self.stage)

    def averaged(self) -> AbstractContextManager[None]:
        return nullcontext() if self.state.averaged is None else self.state.averaged.in_place()

    def save(self) -> None:
        if self.accelerator.is_main_process:
            weights = network_weights(self.config.model, self.networks)
            self.state.write(self.folder / STATE_NAME, self.config, weights, self.text)
            self.reporter.history(self.state.history)
        self.state.saved = self.state.step

    def progress(self) -> tuple[int, int]:
        """How much is done of how much: steps or, of a configuration with hours, seconds of the processor."""
        hours, state = self.config.hours, self.state
        return (int(state.worked), math.ceil(3600 * hours)) if hours else (state.step, self.config.steps)

    def run(self, source: BatchSource, validation: Sources, deadline: float, on_step: OnStep | None) -> None:
        """Steps until something stops them; the state is saved before anything is raised."""
        try:  # held, as other processes would wait for this one in the midst of a step
            with nullcontext() if self.accelerator.num_processes == 1 else self.interrupted.held():
                self._loop(source, validation, deadline, on_step)
        except KeyboardInterrupt:
            if self.state.saved != self.state.step:
                self.save()
            raise
        except RuntimeError as error:
            if not (isinstance(error, torch.distributed.DistError) or "gloo" in str(error)):  # which has no class
                raise
            lost = f"processes of a training must stay together, but another one was lost ({error!s:.120})"
            raise InputError(f"{lost}; start all again with --resume, which goes on from the last state") from error

    def _loop(self, source: BatchSource, validation: Sources, deadline: float, on_step: OnStep | None) -> None:
        config, state, main = self.config, self.state, self.accelerator.is_main_process
        count, device = config.validation_batches if main else 0, self.accelerator.device
        fixed = {name: [each.batch(index).to(device) for index in range(count)] for name, each in validation.items()}
        preview = (lambda: self.sheet(next(iter(fixed.values()))[0])) if count else None
        self._validate(fixed)  # Ctrl-C may have come between a step and its validation
        done, total = self.progress()
        saved, patience = time.monotonic(), 60 * config.save_minutes or math.inf
        while done < total:
            begun, worked = time.monotonic(), time.process_time()
            self.step(source)
            self._validate(fixed)
            state.elapsed += time.monotonic() - begun
            state.worked += time.process_time() - worked
            done, total = self.progress()
            stop: BaseException | None = None
            try:
                if on_step is not None and main:
                    on_step(done, total, preview)
            except BaseException as error:  # raised again once the state is saved
                stop = error
            if self.interrupted.pressed:
                stop = KeyboardInterrupt()
            ends, cancelled = self._anywhere(time.monotonic() >= deadline, stop is not None)
            due = state.step % config.save_every == 0 or time.monotonic() - saved >= patience
            if ends or cancelled or due or done >= total:
                self.save()
                saved = time.monotonic()
            if cancelled:
                raise stop or KeyboardInterrupt
            if ends:
                return

    def _anywhere(self, *flags: bool) -> tuple[bool, ...]:
        """Whether each flag is set in any process, so that all of them stop at the same step."""
        if self.accelerator.num_processes == 1:
            return flags
        flagged = torch.tensor(flags, dtype=torch.float32, device=self.accelerator.device)
        return tuple(count > 0 for count in self.accelerator.reduce(flagged, "sum").tolist())

    def step(self, source: BatchSource) -> None:
        """One optimiser step; InputError, the state before it saved, if loss or gradient is not finite."""
        config, state, optimizer = self.config, self.state, self.state.optimizer
        rate = learning_rate(config, state.step, state.worked)
        for group in optimizer.param_groups:
            group["lr"] = rate
        values = accumulate_gradients(config, self.accelerator, self.stage, self.module, source, state.step)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, config.clip_norm or math.inf, foreach=None)
        numbers = torch.stack([*values.values(), norm]).float().tolist()
        terms = dict(zip(values, numbers[:-1], strict=True))
        if not all(map(math.isfinite, numbers)):
            optimizer.zero_grad(set_to_none=True)
            self.save()
            came = f"step {state.step + 1} gave {terms} and a gradient of norm {numbers[-1]}"
            advice = f"lower learning_rate or set clip_norm, then resume from {self.folder / STATE_NAME} or begin anew"
            raise InputError(f"the loss must stay finite, but {came}; {advice}")
        with self.interrupted.held():  # all that belongs to a step changes here, together
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if state.averaged is not None:
                state.averaged.update()
            state.step += 1
            facts = {"learning_rate": rate, "gradient_norm": numbers[-1]}
            row = state.history.add(state.step, terms, facts, config.log_every)
            if row is not None:
                self.reporter.scalars(row, "training")

    def sheet(self, batch: TrainingBatch) -> Tensor:
        device = self.accelerator.device
        text = (self.text[0].to(device), self.text[1].to(device))
        with self.averaged():
            return preview_sheet(self.config, self.networks, text, batch).cpu()

    def _validate(self, fixed: Mapping[str, list[TrainingBatch]]) -> None:
        """After every so many steps, once each, in the main process: terms of the averaged weights, and pictures."""
        every, step, history = self.config.validate_every, self.state.step, self.state.history
        done = history.validation[-1]["step"] if history.validation else 0
        if not every or step % every or step == done or not self.accelerator.is_main_process:
            return
        row: dict[str, float] = {"step": step}
        numbered = [(name, index, batch) for name, batches in fixed.items() for index, batch in enumerate(batches)]
        with self.averaged(), torch.no_grad(), self.accelerator.autocast():
            for name, index, batch in numbered:
                seed = derived_seed(self.config.seed, "validation", index)
                random = BatchRandom(seed, device=self.accelerator.device)
                for term, value in self.stage(**self.stage.inputs(batch, random)).items():
                    term = f"{term} {name}".rstrip()
                    row[term] = row.get(term, 0.0) + float(value) / len(fixed[name])
        if numbered:
            self.reporter.sheet(self.sheet(numbered[0][2]), step)
        history.validation.append(row)  # last: where Ctrl-C comes before, all of it is done again
        self.reporter.scalars(row, "validation")
        self.reporter.history(history)

    def write_model(self, source: BatchSource) -> None:
        """The merged file, of averaged weights if any; there an autoencoder's latents get the scale of SD 1.5's."""
        networks = self.networks
        with self.averaged():
            if self.config.stage == "autoencoder":
                batches = [source.batch(step) for step in range(CALIBRATION_BATCHES)]
                pictures = torch.cat([batch.targets.flatten(0, 1) for batch in batches]).to(self.accelerator.device)
                networks = replace(networks, vae=deepcopy(networks.vae))
                calibrate_latents(networks.vae, pictures)
            weights = network_weights(self.config.model, networks)
            write_networks(self.folder / MODEL_NAME, self.config.model, weights, self.text)
