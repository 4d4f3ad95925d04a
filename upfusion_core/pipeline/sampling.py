"""From noise, or from a noised image, to views: the loops over the sampling steps."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor

from ..support.checks import check_count, check_finite, check_range, check_shape, check_type
from ..support.errors import InputError
from ..support.memory import Chunk
from ..types import OnStep, ViewConditioning
from .prior import DiffusionPrior

TRAIN_STEPS = 1000
BETA_START, BETA_END = 0.00085, 0.012

SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "dpm++_singlestep": "DPMSolverSinglestepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_ancestral": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "lms": "LMSDiscreteScheduler",
    "deis": "DEISMultistepScheduler",
    "pndm": "PNDMScheduler",
    "ddpm": "DDPMScheduler",
}
"""Short names; other spellings of them ("DPM-Solver++", "UniPC") and the class names of diffusers are taken as well."""

_SPELLINGS = {
    "dpmsolver++": "dpm++",
    "dpm++2m": "dpm++",
    "dpmpp2m": "dpm++",
    "dpmsolver++singlestep": "dpm++_singlestep",
    "eulera": "euler_ancestral",
} | {re.sub(r"[^a-z0-9+]", "", name): name for name in SCHEDULERS}


def alphas_cumprod() -> Tensor:
    """(1000,) products of alphas: beta from 0.00085 to 0.012, linear in its root, made in float64, cast to float32."""
    betas = np.linspace(BETA_START**0.5, BETA_END**0.5, TRAIN_STEPS) ** 2
    return torch.from_numpy(np.cumprod(1 - betas)).float()


def ddim_timesteps(steps: int) -> list[int]:
    """The release's table, ascending: 50 steps -> 1, 21, …, 981; 30 steps -> 1, 34, …, 991, which are 31."""
    check_count("steps", steps, 1, TRAIN_STEPS)
    table = [t + 1 for t in range(0, TRAIN_STEPS, TRAIN_STEPS // steps)]
    return [t for t in table if t < TRAIN_STEPS]


def make_scheduler(name: str, steps: int, device: torch.device | str = "cpu") -> Any:  # noqa: ANN401 - a diffusers scheduler
    """A diffusers scheduler on the released noise schedule, ready for `steps` steps.

    Args:
        name: a key of SCHEDULERS, however spelled, or the class name of a diffusers scheduler.
        steps: 1 to 1000. "ddim" walks the release's table, eta = 0; the others use diffusers' leading spacing.

    Raises:
        InputError: no such scheduler, or one that is not made for noise prediction on this schedule.
    """
    check_count("steps", steps, 1, TRAIN_STEPS)
    check_type("scheduler", name, str)
    short = _SPELLINGS.get(re.sub(r"[^a-z0-9+]", "", name.lower()), name)
    kind: Any = getattr(diffusers, SCHEDULERS.get(short, short), None)
    start = kind.__init__ if isinstance(kind, type) else None  # type: ignore[misc]  # a class, not an instance
    accepted = {} if start is None else inspect.signature(start).parameters
    if "beta_schedule" not in accepted or "prediction_type" not in accepted or not _denoises(kind):
        raise InputError(_not_of_that_kind(name))
    wanted = {
        "num_train_timesteps": TRAIN_STEPS,
        "beta_start": BETA_START,
        "beta_end": BETA_END,
        "beta_schedule": "scaled_linear",
        "prediction_type": "epsilon",
        "timestep_spacing": "leading",
        "steps_offset": 1,
        "set_alpha_to_one": False,
        "clip_sample": False,
        "skip_prk_steps": True,
    }
    try:
        scheduler = kind(**{option: value for option, value in wanted.items() if option in accepted})
        scheduler.set_timesteps(steps, device=device)
    except ValueError as error:
        raise InputError(f"{_not_of_that_kind(name)}, which refuses {steps} steps of it ({error})") from error
    if not torch.allclose(scheduler.alphas_cumprod.cpu().float(), alphas_cumprod(), atol=1e-5):
        raise InputError(f"{_not_of_that_kind(name)}, whose noise schedule is another")
    if isinstance(scheduler, diffusers.DDIMScheduler):
        scheduler.alphas_cumprod = alphas_cumprod()
        scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]  # upstream: not 1 (golden: ddim)
        scheduler.timesteps = torch.tensor(ddim_timesteps(steps)[::-1], device=device)
    first, last = float(scheduler.timesteps[0]), float(scheduler.timesteps[-1])
    if not (0 <= last <= first < TRAIN_STEPS and (last < first or len(scheduler.timesteps) == 1)):
        raise InputError(
            f"the timesteps of {name!r:.60} must go down within 0 and {TRAIN_STEPS - 1}, but do not with {steps} steps;"
            " take fewer steps, or ddim"
        )
    return scheduler


def _denoises(kind: Any) -> bool:  # noqa: ANN401 - a class of diffusers
    """Whether a scheduler walks from noise to pictures, and its `step` needs no more than any other's."""
    needed = [
        name for name, argument in inspect.signature(kind.step).parameters.items() if argument.default is argument.empty
    ]
    return "Inverse" not in kind.__name__ and needed == ["self", "model_output", "timestep", "sample"]


def _not_of_that_kind(name: str) -> str:
    known = ", ".join(SCHEDULERS)
    return f"scheduler must be one of {known} or a diffusers class of that kind, got {name!r:.60}"


def predicted_original(latents: Tensor, eps: Tensor, timestep: Tensor) -> Tensor:
    """x_0 as the network sees it now, for previews: (x_t - sqrt(1 - a_t) e) / sqrt(a_t), x_t the scaled input."""
    alpha = alphas_cumprod()[min(round(float(timestep)), TRAIN_STEPS - 1)]
    return (latents - (1 - alpha) ** 0.5 * eps) / alpha**0.5


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
