from __future__ import annotations

import pytest
import torch
from golden_files import golden, worst
from torch import Tensor

from upfusion_core import ViewConditioning, orbit_cameras
from upfusion_core.pipeline.sampling import denoise_from, denoise_latents, make_scheduler, sample_views, view_seeds
from upfusion_core.support.errors import InputError


class GoldenPrior:
    """The release's toy model: eps(x, t) = tanh(0.7 x + cond) · (0.5 + t / 1000), cond 0 for the unconditional half."""

    latent_shape = (4, 8, 8)

    def __init__(self, cond: Tensor) -> None:
        self.cond = cond
        self.calls = 0

    def prepare(self, cond: ViewConditioning, *, guided: bool) -> bool:
        return guided

    def predict_noise(self, latents: Tensor, timestep: Tensor, prepared: object, guidance: float) -> Tensor:
        self.calls += 1
        unconditional, conditional = (
            torch.tanh(0.7 * latents + cond) * (0.5 + float(timestep) / 1000) for cond in (0.0, self.cond)
        )
        return unconditional + guidance * (conditional - unconditional)

    def encode(self, rgb: Tensor, noise: Tensor | None = None) -> Tensor:
        return rgb

    def decode(self, latents: Tensor) -> Tensor:
        return latents


def conditioning(count: int) -> ViewConditioning:
    return ViewConditioning(
        hint=torch.zeros(count, 9, 8, 8),
        ray_maps=(),
        tokens=torch.zeros(1, 3),
        cameras=orbit_cameras([float(index) for index in range(count)]),
        text=torch.zeros(2, 3),
        unconditional_text=torch.zeros(2, 3),
    )


def test_fifty_steps_of_the_release() -> None:
    stored = golden("ddim")
    prior, latents = GoldenPrior(stored["cond"]), stored["x_T"]
    scheduler = make_scheduler("ddim", 50)
    for timestep in scheduler.timesteps:
        eps = prior.predict_noise(latents, timestep, None, 9.0)
        latents = scheduler.step(eps, timestep, latents).prev_sample
    assert worst(latents, stored["sample_50"]) < 1e-4


def test_denoising_from_index_17() -> None:
    stored = golden("ddim")
    prior = GoldenPrior(stored["cond"])
    result = denoise_latents(prior, stored["x0"], None, 17, noise=stored["noise"])
    assert worst(result, stored["denoised_from_index17"]) < 1e-5
    assert prior.calls == 17
    assert worst(denoise_from(prior, stored["x0"], None, 17, noise=stored["noise"]), result) == 0


def test_noising_to_index_17() -> None:
    stored = golden("ddim")
    alpha = stored["alphas_30"][17]
    assert worst(alpha.sqrt() * stored["x0"] + (1 - alpha).sqrt() * stored["noise"], stored["noised_index17"]) < 1e-6


@pytest.mark.parametrize("scheduler", ["ddim", "dpm++", "euler_ancestral", "ddpm"])
def test_a_view_does_not_depend_on_its_batch(scheduler: str) -> None:
    prior = GoldenPrior(golden("ddim")["cond"])
    options = {"steps": 6, "guidance": 2.0, "scheduler": scheduler}
    together = sample_views(prior, conditioning(5), seeds=[3, 4, 5, 6, 7], batch_size=3, **options)
    alone = sample_views(prior, conditioning(1), seeds=[6], batch_size=1, **options)
    assert worst(together[3:4], alone) < 1e-6
    assert worst(together[:1], together[1:2]) > 1e-2


def test_progress_counts_steps_of_all_batches_and_shows_a_picture() -> None:
    seen = []

    def on_step(step: int, total: int, preview: object) -> None:
        seen.append((step, total, tuple(preview().shape)))

    sample_views(
        GoldenPrior(golden("ddim")["cond"]), conditioning(3), seeds=[0, 1, 2], steps=4, batch_size=2, on_step=on_step
    )
    assert [row[0] for row in seen] == list(range(1, 9))
    assert {row[1:] for row in seen} == {(8, (4, 8, 8))}


def test_seeds() -> None:
    generator = torch.Generator().manual_seed(40)
    assert view_seeds(3, generator, None) == [40, 41, 42]
    assert view_seeds(2, None, None) == [0, 1]
    assert view_seeds(2, generator, [7, 5]) == [7, 5]
    with pytest.raises(InputError, match="one number a view, got 1 for 2 views"):
        view_seeds(2, None, [1])


def test_bad_requests_get_a_sentence() -> None:
    prior = GoldenPrior(golden("ddim")["cond"])
    with pytest.raises(InputError, match="guidance"):
        sample_views(prior, conditioning(1), seeds=[0], guidance=float("nan"))
    with pytest.raises(InputError, match="batch_size"):
        sample_views(prior, conditioning(1), seeds=[0], batch_size=0)
    with pytest.raises(InputError, match="index must be between 1 and 30"):
        denoise_latents(prior, torch.zeros(1, 4, 8, 8), None, 31, noise=torch.zeros(1, 4, 8, 8))
    with pytest.raises(InputError, match="noise must be"):
        denoise_latents(prior, torch.zeros(1, 4, 8, 8), None, 3, noise=torch.zeros(2, 4, 8, 8))


def test_a_model_that_yields_nan_is_reported() -> None:
    prior = GoldenPrior(torch.full((1, 4, 8, 8), float("nan")))
    with pytest.raises(InputError, match="the sampled views must be finite"):
        sample_views(prior, conditioning(1), seeds=[0], steps=2)
