from __future__ import annotations

import pytest
import torch
from golden_files import golden, worst

from upfusion_core.pipeline.sampling import (
    SCHEDULERS,
    alphas_cumprod,
    ddim_timesteps,
    make_scheduler,
    predicted_original,
)
from upfusion_core.support.errors import InputError


def test_tables_of_the_release() -> None:
    stored = golden("ddim")
    assert ddim_timesteps(50) == stored["timesteps_50"].tolist()
    assert ddim_timesteps(30) == stored["timesteps_30"].tolist()
    assert worst(alphas_cumprod()[stored["timesteps_30"]], stored["alphas_30"]) < 1e-7


def test_the_schedule_by_hand() -> None:
    beta = [0.00085, (0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) / 999) ** 2]
    assert float(alphas_cumprod()[0]) == pytest.approx(1 - beta[0], rel=1e-6)
    assert float(alphas_cumprod()[1]) == pytest.approx((1 - beta[0]) * (1 - beta[1]), rel=1e-6)
    assert len(alphas_cumprod()) == 1000


@pytest.mark.parametrize("steps", [1, 2, 7, 333, 501, 1000])
def test_any_number_of_steps_stays_inside_the_table(steps: int) -> None:
    table = ddim_timesteps(steps)
    assert table[0] == 1
    assert table[-1] < 1000
    assert table == sorted(set(table))


@pytest.mark.parametrize("name", [*SCHEDULERS, "DPMSolverSDEScheduler"])
def test_every_scheduler_reaches_the_picture_when_the_noise_is_known(name: str) -> None:
    """With the true noise of a point, all samplers must walk back to it."""
    if name == "DPMSolverSDEScheduler":
        pytest.importorskip("torchsde")
    scheduler = make_scheduler(name, 20)
    x0 = torch.tensor([[[[0.7]]]]).expand(1, 4, 8, 8)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 8, 8, generator=generator) * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(latents, timestep)
        alpha = alphas_cumprod()[min(round(float(timestep)), 999)]
        eps = (scaled - alpha**0.5 * x0) / (1 - alpha) ** 0.5
        assert worst(predicted_original(scaled, eps, timestep), x0) < 1e-3
        latents = scheduler.step(eps, timestep, latents).prev_sample
    assert float((latents - x0).abs().mean()) < 0.1


@pytest.mark.parametrize(
    ("spelling", "kind"),
    [
        ("DPM-Solver++", "DPMSolverMultistepScheduler"),
        ("UniPC", "UniPCMultistepScheduler"),
        ("Euler", "EulerDiscreteScheduler"),
        ("Euler a", "EulerAncestralDiscreteScheduler"),
        ("DDIM", "DDIMScheduler"),
        ("EulerDiscreteScheduler", "EulerDiscreteScheduler"),
    ],
)
def test_names_however_spelled(spelling: str, kind: str) -> None:
    assert type(make_scheduler(spelling, 3)).__name__ == kind


def test_bad_names_and_steps_get_a_sentence() -> None:
    with pytest.raises(InputError, match="got 'warp'"):
        make_scheduler("warp", 10)
    with pytest.raises(InputError, match="got 'FlowMatchEulerDiscreteScheduler'"):
        make_scheduler("FlowMatchEulerDiscreteScheduler", 10)
    with pytest.raises(InputError, match="got 'UNet2DModel'"):
        make_scheduler("UNet2DModel", 10)
    with pytest.raises(InputError, match="steps must be between 1 and 1000"):
        make_scheduler("ddim", 0)
    with pytest.raises(InputError, match=r"whole number, got 2\.5"):
        make_scheduler("ddim", 2.5)


@pytest.mark.parametrize(
    ("name", "steps", "words"),
    [
        ("DDIMInverseScheduler", 1, "got 'DDIMInverseScheduler'"),
        ("DPMSolverMultistepInverseScheduler", 20, "got 'DPMSolverMultistepInverseScheduler'"),
        ("CogVideoXDPMScheduler", 20, "got 'CogVideoXDPMScheduler'"),
        ("CogVideoXDDIMScheduler", 20, "whose noise schedule is another"),
        ("UnCLIPScheduler", 20, "which refuses 20 steps of it"),
        ("LCMScheduler", 51, "which refuses 51 steps of it"),
        ("dpm++", 999, "dpm\\+\\+' must go down within 0 and 999, but do not with 999 steps; take fewer"),
        ("unipc", 999, "within 0 and 999"),
        ("dpm++", 1000, "within 0 and 999"),
        ("pndm", 1000, "within 0 and 999"),
        ("ddpm", 1000, "within 0 and 999"),
    ],
)
def test_what_does_not_denoise_on_this_schedule_gets_a_sentence(name: str, steps: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make_scheduler(name, steps)


@pytest.mark.parametrize("name", ["ddim", "dpm++", "LCMScheduler", "euler"])
def test_schedulers_stay_within_the_table(name: str) -> None:
    times = make_scheduler(name, 1000 if name == "ddim" else 50).timesteps
    assert 0 <= times.min() <= times.max() <= 999
    assert times[0] > times[-1]
