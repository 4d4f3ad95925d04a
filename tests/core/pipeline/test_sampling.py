"""Noise schedules and the loop over their steps: the release's numbers, schedulers, and where a walk may begin."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from golden_files import golden, worst
from refusals import refused
from torch import Tensor

from upfusion_core import ViewConditioning, orbit_cameras
from upfusion_core.pipeline import sampling
from upfusion_core.pipeline.sampling import alphas_cumprod, denoised, make_scheduler, sample_views


class GoldenPrior:
    """The release's toy model: eps(x, t) = tanh(0.7 x + cond) · (0.5 + t / 1000), cond 0 for the unconditional half."""

    latent_shape = (4, 8, 8)
    calls = 0

    def __init__(self, cond: Tensor) -> None:
        self.cond = cond

    def prepare(self, cond: ViewConditioning, *, guided: bool) -> bool:
        return guided

    def predict_noise(self, latents: Tensor, timestep: Tensor, prepared: object, guidance: float) -> Tensor:
        self.calls += 1
        scale = 0.5 + float(timestep) / 1000
        unconditional, conditional = (torch.tanh(0.7 * latents + cond) * scale for cond in (0.0, self.cond))
        return unconditional + guidance * (conditional - unconditional)

    def encode(self, rgb: Tensor, noise: Tensor | None = None) -> Tensor:
        return rgb

    def decode(self, latents: Tensor) -> Tensor:
        return latents


def conditioning(count: int) -> ViewConditioning:
    cameras, text = orbit_cameras([float(index) for index in range(count)]), torch.zeros(2, 3)
    hint, tokens = torch.zeros(count, 9, 8, 8), torch.zeros(1, 3)
    return ViewConditioning(hint, (), tokens, cameras=cameras, text=text, unconditional_text=text)


def test_denoising_of_the_release() -> None:
    stored = golden("ddim")
    prior, scheduler = GoldenPrior(stored["cond"]), make_scheduler("ddim", 50)
    noise = partial(prior.predict_noise, prepared=None, guidance=9.0)
    assert worst(denoised(scheduler, scheduler.timesteps, stored["x_T"], noise, None), stored["sample_50"]) < 1e-4
    result = sampling.denoise_latents(prior, stored["x0"], None, 17, noise=stored["noise"])
    assert worst(result, stored["denoised_from_index17"]) < 1e-5
    assert prior.calls == 50 + 17


@pytest.mark.parametrize("scheduler", ["ddim", "dpm++", "euler_ancestral", "ddpm"])
def test_a_view_does_not_depend_on_its_batch(scheduler: str) -> None:
    prior = GoldenPrior(golden("ddim")["cond"])
    options = {"steps": 6, "guidance": 2.0, "scheduler": scheduler}
    together = sample_views(prior, conditioning(5), seeds=[3, 4, 5, 6, 7], batch_size=3, **options)
    alone = sample_views(prior, conditioning(1), seeds=[6], batch_size=1, **options)
    assert worst(together[3:4], alone) < 1e-6


def test_progress_guidance_and_seeds() -> None:
    prior, seen = GoldenPrior(golden("ddim")["cond"]), []

    def on_step(step: int, total: int, preview: Callable[[], Tensor]) -> None:
        seen.append((step, total, preview().shape))

    sample_views(prior, conditioning(3), seeds=[0, 1, 2], steps=4, batch_size=2, on_step=on_step)
    assert seen == [(step, 8, (4, 8, 8)) for step in range(1, 9)]
    prior = KnownNoise(noise_of(7)[None])
    # the timesteps are 901, 811, ..., 91; those from 721 to 361 are guided
    options = {"seeds": [7], "steps": 10, "scheduler": "dpm++", "guidance": 5.0, "guidance_window": (0.3, 0.75)}
    sample_views(prior, conditioning(1), pictures=torch.zeros(1, 3, 4, 4), **options)
    assert prior.guidance == [1.0, 1.0, 5.0, 5.0, 5.0, 5.0, 5.0, 1.0, 1.0, 1.0]
    generator = torch.Generator().manual_seed(40)
    assert sampling.view_seeds(3, generator, None) == [40, 41, 42]
    assert sampling.view_seeds(2, None, None) == [0, 1]
    assert sampling.view_seeds(2, generator, [7, 5]) == [7, 5]
    refused("one number a view, got 1 for 2 views", sampling.view_seeds, 2, None, [1])


class KnownNoise(GoldenPrior):
    """A prior that knows the noise of every seed, so that any walk ends in the picture it began from."""

    latent_shape = (3, 4, 4)

    def __init__(self, noise: Tensor) -> None:
        self.noise = noise
        self.guidance: list[float] = []

    def predict_noise(self, latents: Tensor, timestep: Tensor, prepared: bool, guidance: float) -> Tensor:
        assert prepared == (guidance != 1)
        self.guidance.append(guidance)
        return self.noise[: len(latents)]


def noise_of(seed: int) -> Tensor:
    return torch.randn(KnownNoise.latent_shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("scheduler", ["dpm++", "unipc", "euler"])
@pytest.mark.parametrize("level", [1.0, 0.7, 0.25, 0.01])
def test_a_picture_comes_back_where_its_noise_is_known(scheduler: str, level: float) -> None:
    prior = KnownNoise(torch.stack([noise_of(7), noise_of(7)]))
    rgb = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    options = {"level": level, "seeds": [7, 7], "steps": 8, "scheduler": scheduler}
    made = sample_views(prior, conditioning(2), pictures=rgb, **options)
    assert len(prior.guidance) == {1.0: 8, 0.7: 6, 0.25: 2, 0.01: 1}[level]
    assert float((made - rgb).abs().max()) < 2e-3


def test_views_that_are_not_finite_are_refused() -> None:
    prior = KnownNoise(noise_of(7)[None] * torch.nan)
    refused("the sampled views must be finite", sample_views, prior, conditioning(1), seeds=[0], steps=2)


def test_tables_of_the_release_and_by_hand() -> None:
    stored, alphas = golden("ddim"), alphas_cumprod()
    assert sampling.ddim_timesteps(50) == stored["timesteps_50"].tolist()
    assert sampling.ddim_timesteps(30) == stored["timesteps_30"].tolist()
    assert worst(alphas[stored["timesteps_30"]], stored["alphas_30"]) < 1e-7
    beta = [0.00085, (0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) / 999) ** 2]
    assert alphas[:2].tolist() == pytest.approx([1 - beta[0], (1 - beta[0]) * (1 - beta[1])], rel=1e-6)
    for steps in (1, 7, 333, 501, 1000):
        table = sampling.ddim_timesteps(steps)
        assert table == sorted(set(table))
        assert table[0] == 1 <= table[-1] < 1000


@pytest.mark.parametrize("name", sampling.SCHEDULERS)
def test_every_scheduler_reaches_the_picture_when_the_noise_is_known(name: str) -> None:
    """With the true noise of a point, all samplers must walk back to it."""
    scheduler, x0 = make_scheduler(name, 20), torch.full((1, 4, 8, 8), 0.7)

    def noise(scaled: Tensor, timestep: Tensor) -> Tensor:
        alpha = alphas_cumprod()[min(round(float(timestep)), 999)]
        eps = (scaled - alpha**0.5 * x0) / (1 - alpha) ** 0.5
        assert worst(sampling.predicted_original(scaled, eps, timestep), x0) < 1e-3
        return eps

    latents = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0)) * scheduler.init_noise_sigma
    generators = [torch.Generator().manual_seed(0)]
    assert float((denoised(scheduler, scheduler.timesteps, latents, noise, generators) - x0).abs().mean()) < 0.1


def test_names_of_schedulers() -> None:
    spelled = {"DPM-Solver++": "DPMSolverMultistep", "Euler a": "EulerAncestralDiscrete", "DDIM": "DDIM"}
    spelled |= {"EulerDiscreteScheduler": "EulerDiscrete"}
    for name, kind in spelled.items():
        assert type(make_scheduler(name, 3)).__name__ == f"{kind}Scheduler"
    refused("got 'warp'", make_scheduler, "warp", 10)
    refused("steps must be between 1 and 1000", make_scheduler, "ddim", 0)
    refused("got 'DDIMInverseScheduler'", make_scheduler, "DDIMInverseScheduler", 1)
    refused("whose noise schedule is another", make_scheduler, "CogVideoXDDIMScheduler", 20)
    refused("which refuses 20 steps of it", make_scheduler, "UnCLIPScheduler", 20)
    refused(r"dpm\+\+' must go down within 0 and 999, but do not with 999 steps", make_scheduler, "dpm++", 999)
