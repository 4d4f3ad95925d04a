"""From noise, or from noised pictures, to views: noise schedules and the loop over their steps."""

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor

from ..support.checks import check_count, check_finite, check_range, check_type
from ..support.devices import Chunk
from ..support.errors import InputError
from ..types import OnStep, ViewConditioning
from .prior import DiffusionPrior

TRAIN_STEPS = 1000
BETA_START, BETA_END = 0.00085, 0.012

SCHEDULERS = {  # other spellings ("DPM-Solver++", "UniPC") and the class names of diffusers are taken as well
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
    table = [t + 1 for t in range(0, TRAIN_STEPS, TRAIN_STEPS // steps)]
    return [t for t in table if t < TRAIN_STEPS]


def make_scheduler(name: str, steps: int) -> Any:  # noqa: ANN401 - a diffusers scheduler
    """A diffusers scheduler on the released noise schedule, ready for 1 to 1000 `steps`.

    `name` is a key of SCHEDULERS, however spelled, or the class name of a diffusers scheduler; InputError says that it
    is not made for noise prediction on this schedule. "ddim" walks the release's table, eta = 0; the others use
    diffusers' leading spacing.
    """
    check_count("steps", steps, 1, TRAIN_STEPS)
    check_type("scheduler", name, str)
    short = _SPELLINGS.get(re.sub(r"[^a-z0-9+]", "", name.lower()), name)
    kind: Any = getattr(diffusers, SCHEDULERS.get(short, short), None)
    accepted = inspect.signature(kind.__init__).parameters if inspect.isclass(kind) else {}
    refusal = f"scheduler must be one of {', '.join(SCHEDULERS)} or a diffusers class of that kind, got {name!r:.60}"
    if not {"beta_schedule", "prediction_type"} <= accepted.keys() or "Inverse" in kind.__name__:
        raise InputError(refusal)
    step = inspect.signature(kind.step).parameters.values()
    if [one.name for one in step if one.default is one.empty] != ["self", "model_output", "timestep", "sample"]:
        raise InputError(refusal)
    wanted: dict[str, Any] = {"num_train_timesteps": TRAIN_STEPS, "beta_start": BETA_START, "beta_end": BETA_END}
    wanted |= {"beta_schedule": "scaled_linear", "prediction_type": "epsilon", "timestep_spacing": "leading"}
    wanted |= {"steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False, "skip_prk_steps": True}
    try:
        scheduler = kind(**{option: value for option, value in wanted.items() if option in accepted})
        scheduler.set_timesteps(steps)
    except ValueError as error:
        raise InputError(f"{refusal}, which refuses {steps} steps of it ({error})") from error
    if not torch.allclose(scheduler.alphas_cumprod.float(), alphas_cumprod(), atol=1e-5):
        raise InputError(f"{refusal}, whose noise schedule is another")
    if isinstance(scheduler, diffusers.DDIMScheduler):
        scheduler.alphas_cumprod = alphas_cumprod()
        scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]  # upstream: not 1 (golden: ddim)
        scheduler.timesteps = torch.tensor(ddim_timesteps(steps)[::-1])
    first, last = float(scheduler.timesteps[0]), float(scheduler.timesteps[-1])
    if not (0 <= last <= first < TRAIN_STEPS and (last < first or len(scheduler.timesteps) == 1)):
        rule = f"the timesteps of {name!r:.60} must go down within 0 and {TRAIN_STEPS - 1}"
        raise InputError(f"{rule}, but do not with {steps} steps; take fewer steps, or ddim")
    return scheduler


def predicted_original(latents: Tensor, eps: Tensor, timestep: Tensor) -> Tensor:
    """x_0 as the network sees it now, for previews: (x_t - sqrt(1 - a_t) e) / sqrt(a_t), x_t the scaled input."""
    alpha = alphas_cumprod()[min(round(float(timestep)), TRAIN_STEPS - 1)]
    return (latents - (1 - alpha) ** 0.5 * eps) / alpha**0.5


def view_seeds(count: int, generator: torch.Generator | None, seeds: Sequence[int] | None) -> list[int]:
    """One seed a view: `seeds`, or the generator's initial seed + the view's number, so that batches do not matter."""
    if seeds is None:
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        check_type("generator", generator, torch.Generator, "such as torch.Generator().manual_seed(0)")
        return [(generator.initial_seed() + index) % 2**64 for index in range(count)]
    check_type("seeds", seeds, Sequence, "one number a view")
    for seed in seeds:
        check_count("seeds", seed, 0, 2**64 - 1)
    if len(seeds) != count:
        raise InputError(f"seeds must hold one number a view, got {len(seeds)} for {count} views")
    return list(seeds)


@torch.no_grad()
def sample_views(
    prior: DiffusionPrior,
    cond: ViewConditioning,
    *,
    seeds: Sequence[int],
    steps: int = 50,
    guidance: float = 9.0,
    scheduler: str = "ddim",
    batch_size: int = 4,
    on_step: OnStep | None = None,
    pictures: Tensor | None = None,
    level: float = 1.0,
    guidance_window: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """(Q, 3, S, S) pictures in [0, 1], on the CPU, of the cameras of `cond`.

    Args:
        seeds: one a view, for CPU generators. batch_size: views at a time, fewer where memory does not suffice.
        pictures: (Q, 3, S, S) in [0, 1] to begin from in place of pure noise: they are noised to `level`, in (0, 1] of
            the schedule, and denoised in repaint_steps(level, steps) steps (Meng et al. 2022, section 3).
        guidance_window: lowest and highest timestep / 1000 at which guidance acts; elsewhere one evaluation is enough.
    """
    check_range("guidance", guidance, 0.0, 1000.0)
    check_count("batch_size", batch_size, 1)
    done = total = 0  # steps of all batches, also when batches become smaller on the way

    def sampled(part: slice) -> Tensor:
        nonlocal total
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[part]]
        noise = torch.stack([torch.randn(prior.latent_shape, generator=g, dtype=torch.float32) for g in generators])
        noise_scheduler = make_scheduler(scheduler, steps)
        timesteps = noise_scheduler.timesteps
        if pictures is None:
            latents = noise * noise_scheduler.init_noise_sigma
        else:
            skipped = len(timesteps) - repaint_steps(level, len(timesteps))
            timesteps = timesteps[skipped:]
            if hasattr(noise_scheduler, "set_begin_index"):  # DDIM finds its place by the timestep alone
                noise_scheduler.set_begin_index(skipped)
            latents = noise_scheduler.add_noise(prior.encode(pictures[part]).cpu(), noise, timesteps[:1])
        prepared: dict[bool, Any] = {}  # constants of the steps with guidance and of those without

        def predict(scaled: Tensor, timestep: Tensor) -> Tensor:
            scale = guidance if guidance_window[0] <= float(timestep) / TRAIN_STEPS <= guidance_window[1] else 1.0
            if (guided := scale != 1) not in prepared:
                prepared[guided] = prior.prepare(cond[part], guided=guided)
            return prior.predict_noise(scaled, timestep, prepared[guided], scale)

        total = done + len(timesteps) * -(-(len(cond) - part.start) // (part.stop - part.start))
        return prior.decode(denoised(noise_scheduler, timesteps, latents, predict, generators, after_step)).cpu()

    def after_step(scaled: Tensor, eps: Tensor, timestep: Tensor) -> None:
        nonlocal done
        done += 1
        if on_step is not None:
            on_step(done, total, lambda: prior.decode(predicted_original(scaled[:1], eps[:1], timestep))[0].cpu())

    result = torch.cat(list(Chunk(batch_size, "view").map(sampled, len(cond))))
    check_finite("the sampled views", result)
    return result


def repaint_steps(level: float, steps: int) -> int:
    """How many of a scheduler's steps denoise from a level in (0, 1], at least one: 0.45 of 10 steps are 4."""
    return max(1, round(level * steps))


def denoised(
    noise_scheduler: Any,  # noqa: ANN401 - a diffusers scheduler
    timesteps: Tensor,
    latents: Tensor,
    predict_noise: Callable[[Tensor, Tensor], Tensor],
    generators: list[torch.Generator] | None,
    after_step: Callable[[Tensor, Tensor, Tensor], None] | None = None,
) -> Tensor:
    """Latents (Q, 4, s, s) at the end of the walk along `timesteps`.

    Args:
        predict_noise: (scaled latents, timestep) -> noise of the same shape.
        generators: one a view, for schedulers that add noise: a view does not depend on its batch.
        after_step: called with the scaled latents before each step, the predicted noise and the timestep.
    """
    options = {"generator": generators} if "generator" in inspect.signature(noise_scheduler.step).parameters else {}
    for timestep in timesteps:
        scaled = noise_scheduler.scale_model_input(latents, timestep)
        eps = predict_noise(scaled, timestep)
        latents, scaled = latents.to(eps), scaled.to(eps)  # from the first step on where the network is
        latents = noise_scheduler.step(eps, timestep, latents, **options).prev_sample
        if after_step is not None:
            after_step(scaled, eps, timestep)
    return latents


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
    """Noises latents (Q, 4, s, s) to entry `index` of the DDIM table and denoises them in earnest (paper section 3.3).

    Args:
        prepared: from `prior.prepare`, with guidance unless `guidance` is 1.
        index: entry of ddim_timesteps(steps), at least 1. noise: of the latents' shape, standard normal.
    """
    table = ddim_timesteps(steps)
    alpha = alphas_cumprod()[table[index]]
    start = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise.to(latents)
    noise_scheduler = make_scheduler("ddim", steps)
    # upstream: noised to entry `index`, but the model starts at entry index - 1 (golden: ddim.denoised_from_index17)
    timesteps = noise_scheduler.timesteps[len(table) - index :]
    return denoised(noise_scheduler, timesteps, start, lambda x, t: prior.predict_noise(x, t, prepared, guidance), None)
