"""The noise schedule, and the samplers that walk it: DDIM as released, any other of diffusers by name."""

from __future__ import annotations

import inspect
import re
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor

from ..checks import check_count, check_type
from ..errors import InputError

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
