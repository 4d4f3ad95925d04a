"""From noise, or from a noised image, to views: the loops over the sampling steps."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..checks import check_count, check_finite, check_range, check_shape, check_type
from ..errors import InputError
from ..memory import Chunk
from ..types import OnStep, ViewConditioning
from .prior import DiffusionPrior
from .schedule import TRAIN_STEPS, alphas_cumprod, ddim_timesteps, make_scheduler, predicted_original


def view_seeds(count: int, generator: torch.Generator | None, seeds: Sequence[int] | None) -> list[int]:
    """One seed a view: `seeds`, or the generator's initial seed + the view's number, so that batches do not matter.

    Raises:
        InputError: the number of seeds is not the number of views.
    """
    if seeds is not None:
        check_type("seeds", seeds, Sequence, "one number a view")
        for seed in seeds:
            check_count("seeds", seed, 0, 2**64 - 1)
        if len(seeds) != count:
            raise InputError(f"seeds must hold one number a view, got {len(seeds)} for {count} views")
        return [int(seed) for seed in seeds]
    if generator is not None:
        check_type("generator", generator, torch.Generator, "such as torch.Generator().manual_seed(0)")
    first = generator.initial_seed() if generator is not None else 0
    return [(first + index) % 2**64 for index in range(count)]


@torch.no_grad()
def sample_views(
    prior: DiffusionPrior,
    cond: ViewConditioning,
    *,
    steps: int = 50,
    guidance: float = 9.0,
    scheduler: str = "ddim",
    seeds: Sequence[int],
    batch_size: int = 4,
    on_step: OnStep | None = None,
) -> Tensor:
    """(Q, 3, S, S) views in [0, 1] for the Q cameras of `cond`.

    Args:
        scheduler: see make_scheduler.
        seeds: one a view; they feed a CPU generator, so every device draws the same noise.
        batch_size: views at a time, fewer where memory does not suffice; with guidance the networks see twice as many.
        on_step: called after each step; the preview is the first view of the batch as predicted at that step.
    """
    check_range("guidance", guidance, 0.0, 1000.0)
    check_count("batch_size", batch_size, 1)
    progress = _Progress(on_step, len(cond))

    def paint(part: slice) -> Tensor:
        noise, generators = _noise(prior, seeds[part])
        noise_scheduler = make_scheduler(scheduler, steps)
        timesteps = noise_scheduler.timesteps
        progress.begin(part, len(timesteps))
        start = noise * noise_scheduler.init_noise_sigma
        return _painted(prior, cond[part], start, noise_scheduler, timesteps, lambda _: guidance, progress, generators)

    result = torch.cat(list(Chunk(batch_size, "view").map(paint, len(cond))))
    check_finite("the sampled views", result)
    return result


@torch.no_grad()
def repaint_views(
    prior: DiffusionPrior,
    cond: ViewConditioning,
    rgb: Tensor,
    *,
    level: float,
    seeds: Sequence[int],
    steps: int = 10,
    guidance: float = 9.0,
    guided: tuple[float, float] = (0.0, 1.0),
    scheduler: str = "dpm++",
    batch_size: int = 4,
    on_step: OnStep | None = None,
) -> Tensor:
    """Noises pictures to a level of the schedule and denoises them in few steps (Meng et al. 2022, section 3).

    Args:
        rgb: (Q, 3, S, S) in [0, 1]; what the noise leaves of them decides what is painted.
        level: how far up the schedule, in (0, 1]; repaint_steps(level, steps) of the scheduler's last steps are taken.
        seeds: one a view, as in sample_views; equal ones give views equal noise.
        guided: lowest and highest timestep / 1000 at which guidance acts; elsewhere one network evaluation serves for
            two.
        scheduler: see make_scheduler. batch_size, on_step: as in sample_views.

    Returns: (Q, 3, S, S) in [0, 1], on the CPU.
    """
    check_range("guidance", guidance, 0.0, 1000.0)
    check_count("batch_size", batch_size, 1)
    check_shape("rgb", rgb, (len(cond), 3, "S", "S"), "one picture a conditioned camera")
    progress = _Progress(on_step, len(cond))

    def scale(timestep: float) -> float:
        return guidance if guided[0] <= timestep / TRAIN_STEPS <= guided[1] else 1.0

    def paint(part: slice) -> Tensor:
        noise_scheduler = make_scheduler(scheduler, steps)
        taken = repaint_steps(level, len(noise_scheduler.timesteps))
        timesteps = noise_scheduler.timesteps[-taken:]
        if hasattr(noise_scheduler, "set_begin_index"):  # DDIM finds its place by the timestep alone
            noise_scheduler.set_begin_index(len(noise_scheduler.timesteps) - taken)
        noise, generators = _noise(prior, seeds[part])
        latents = noise_scheduler.add_noise(prior.encode(rgb[part]).cpu(), noise, timesteps[:1])
        progress.begin(part, taken)
        return _painted(prior, cond[part], latents, noise_scheduler, timesteps, scale, progress, generators)

    result = torch.cat(list(Chunk(batch_size, "view").map(paint, len(cond))))
    check_finite("the repainted views", result)
    return result


def repaint_steps(level: float, steps: int) -> int:
    """How many of a scheduler's steps denoise from a level in (0, 1]: that share of them, at least one.

    Example: 0.45 of 10 steps are 4.
    """
    check_range("level", level, 0.0, 1.0)
    return max(1, round(level * steps))


def _noise(prior: DiffusionPrior, seeds: Sequence[int]) -> tuple[Tensor, list[torch.Generator]]:
    """(Q, 4, s, s) standard normal, and the generators it came from, one a view."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    shape = prior.latent_shape
    draws = [torch.randn(shape, generator=generator, dtype=torch.float32) for generator in generators]
    return torch.stack(draws), generators


class _Progress:
    """Counts the steps of all batches of `count` views for the hook, also when batches become smaller on the way."""

    def __init__(self, on_step: OnStep | None, count: int) -> None:
        self.on_step, self.count = on_step, count
        self.done = self.total = 0

    def begin(self, part: slice, steps: int) -> None:
        """A batch of views begins that takes `steps` steps."""
        left = -(-(self.count - part.start) // (part.stop - part.start))
        self.total = self.done + steps * left

    def step(self, preview: Callable[[], Tensor]) -> None:
        """A step of it is done."""
        self.done += 1
        if self.on_step:
            self.on_step(self.done, self.total, preview)


def _painted(
    prior: DiffusionPrior,
    cond: ViewConditioning,
    latents: Tensor,
    noise_scheduler: Any,  # noqa: ANN401 - a diffusers scheduler
    timesteps: Tensor,
    scale_of: Callable[[float], float],
    progress: _Progress,
    generators: list[torch.Generator],
) -> Tensor:
    """(Q, 3, S, S) pictures on the CPU: one batch's way along `timesteps`, with the guidance that each asks for."""
    prepared: dict[bool, Any] = {}
    for timestep in timesteps:
        guidance = scale_of(float(timestep))
        guided = guidance != 1
        if guided not in prepared:
            prepared[guided] = prior.prepare(cond, guided=guided)
        scaled = noise_scheduler.scale_model_input(latents, timestep)
        eps = prior.predict_noise(scaled, timestep, prepared[guided], guidance).cpu()
        latents = noise_scheduler.step(eps, timestep, latents, **_step_options(noise_scheduler, generators)).prev_sample
        progress.step(_preview(prior, scaled[:1], eps[:1], timestep))
    return prior.decode(latents).cpu()


@torch.no_grad()
def denoise_from(
    prior: DiffusionPrior,
    rgb: Tensor,
    prepared: Any,  # noqa: ANN401 - the prior's own constants
    index: int,
    *,
    noise: Tensor,
    posterior_noise: Tensor | None = None,
    guidance: float = 9.0,
    steps: int = 30,
) -> Tensor:
    """Noises images to entry `index` of the DDIM table and denoises them in earnest (paper section 3.3).

    Args:
        rgb: (Q, 3, S, S) in [0, 1]. prepared: from `prior.prepare`, with guidance unless `guidance` is 1.
        index: entry of ddim_timesteps(steps), at least 1.
        noise: (Q, 4, s, s) standard normal. posterior_noise: of the same shape, samples the VAE's posterior.

    Returns: (Q, 3, S, S) in [0, 1], on the prior's device.
    """
    latents = prior.encode(rgb, posterior_noise)
    return prior.decode(denoise_latents(prior, latents, prepared, index, noise=noise, guidance=guidance, steps=steps))


@torch.no_grad()
def denoise_latents(
    prior: DiffusionPrior,
    latents: Tensor,
    prepared: Any,  # noqa: ANN401 - the prior's own constants
    index: int,
    *,
    noise: Tensor,
    guidance: float = 9.0,
    steps: int = 30,
) -> Tensor:
    """The latent part of denoise_from: (Q, 4, s, s) -> (Q, 4, s, s)."""
    table = ddim_timesteps(steps)
    check_count("index", index, 1, len(table) - 1)
    check_shape("noise", noise, tuple(latents.shape))
    alpha = alphas_cumprod()[table[index]]
    x = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise.to(latents)
    noise_scheduler = make_scheduler("ddim", steps)
    # upstream: noised to entry `index`, but the model starts at entry index - 1 (golden: ddim.denoised_from_index17)
    for timestep in noise_scheduler.timesteps[len(table) - index :]:
        eps = prior.predict_noise(x, timestep, prepared, guidance)
        x = noise_scheduler.step(eps, timestep, x).prev_sample
    return x


def _step_options(noise_scheduler: Any, generators: list[torch.Generator]) -> dict[str, Any]:  # noqa: ANN401
    """Schedulers that add noise take a generator a view, so that a view does not depend on its batch."""
    return {"generator": generators} if "generator" in inspect.signature(noise_scheduler.step).parameters else {}


def _preview(prior: DiffusionPrior, scaled: Tensor, eps: Tensor, timestep: Tensor) -> Callable[[], Tensor]:
    def picture() -> Tensor:
        return prior.decode(predicted_original(scaled, eps, timestep))[0].cpu()

    return picture
