"""From noise, or from a noised image, to views: the loops over the sampling steps."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..checks import check_count, check_finite, check_range, check_shape
from ..errors import InputError
from ..memory import Chunk
from ..types import OnStep, ViewConditioning
from .prior import DiffusionPrior
from .schedule import alphas_cumprod, ddim_timesteps, make_scheduler, predicted_original


def view_seeds(count: int, generator: torch.Generator | None, seeds: Sequence[int] | None) -> list[int]:
    """One seed a view: `seeds`, or the generator's initial seed + the view's number, so that batches do not matter.

    Raises:
        InputError: the number of seeds is not the number of views.
    """
    if seeds is not None:
        if len(seeds) != count:
            raise InputError(f"seeds must hold one number a view, got {len(seeds)} for {count} views")
        return [int(seed) for seed in seeds]
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
    done = 0

    def paint(part: slice) -> Tensor:
        nonlocal done
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[part]]
        walk = make_scheduler(scheduler, steps)
        noise = torch.stack([torch.randn(prior.latent_shape, generator=generator) for generator in generators])
        latents = noise * walk.init_noise_sigma
        prepared = prior.prepare(cond[part], guided=guidance != 1)
        left = -(-(len(cond) - part.start) // (part.stop - part.start))
        total = done + len(walk.timesteps) * left
        for timestep in walk.timesteps:
            scaled = walk.scale_model_input(latents, timestep)
            eps = prior.predict_noise(scaled, timestep, prepared, guidance).cpu()
            latents = walk.step(eps, timestep, latents, **_step_options(walk, generators)).prev_sample
            done += 1
            if on_step:
                on_step(done, total, _preview(prior, scaled[:1], eps[:1], timestep))
        return prior.decode(latents).cpu()

    result = torch.cat(list(Chunk(batch_size, "view").map(paint, len(cond))))
    check_finite("the sampled views", result)
    return result


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
    walk = make_scheduler("ddim", steps)
    # upstream: noised to entry `index`, but the model starts at entry index - 1 (golden: ddim.denoised_from_index17)
    for timestep in walk.timesteps[len(table) - index :]:
        eps = prior.predict_noise(x, timestep, prepared, guidance)
        x = walk.step(eps, timestep, x).prev_sample
    return x


def _step_options(walk: Any, generators: list[torch.Generator]) -> dict[str, Any]:  # noqa: ANN401
    """Schedulers that add noise take a generator a view, so that a view does not depend on its batch."""
    return {"generator": generators} if "generator" in inspect.signature(walk.step).parameters else {}


def _preview(prior: DiffusionPrior, scaled: Tensor, eps: Tensor, timestep: Tensor) -> Any:  # noqa: ANN401
    def picture() -> Tensor:
        return prior.decode(predicted_original(scaled, eps, timestep))[0].cpu()

    return picture
