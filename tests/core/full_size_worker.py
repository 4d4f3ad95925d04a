"""What test_full_size.py runs in processes of their own, so that their memory can be measured."""

import threading
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import rule_weights
import torch
from accelerate import Accelerator
from torch import Tensor

from upfusion_core import InputViews, UpFusion, orbit_cameras
from upfusion_core.config import TrainConfig
from upfusion_core.geometry import reference_camera
from upfusion_core.models.stable_diffusion import CONTROL_PREFIX
from upfusion_core.training import initial, loop
from upfusion_core.training.batches import TrainingBatch

TIMESTEP, GUIDANCE, AZIMUTH = 481, 9.0, 30.0


def alone(function: Any, *arguments: object) -> tuple[Any, dict[str, float]]:  # noqa: ANN401 - any of the functions below
    """What a function gives in a process of its own, and the most memory that it had, in bytes; Linux only."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_watched, function, *arguments).result()


def _watched(function: Any, *arguments: object) -> tuple[Any, dict[str, float]]:  # noqa: ANN401
    # its own pages; those and the pages of mapped weight files
    peak, done = {"anonymous_bytes": 0.0, "resident_bytes": 0.0}, threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            for name, field in (("anonymous_bytes", "RssAnon"), ("resident_bytes", "VmRSS")):
                peak[name] = max(peak[name], 1024 * int(fields[field].split()[0]))

    threading.Thread(target=watch, daemon=True).start()
    result = function(*arguments)
    done.set()
    return result, peak


def step(weights: Path) -> dict[str, Tensor]:
    """One guided step, the parts that a comparison wants to see alone, and two views in two steps."""
    latents, photos = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0)), rule_weights.rule_photos()
    model = UpFusion.load(weights)
    scene = model.encode(InputViews(photos, torch.ones_like(photos[:, :1]), torch.full((6, 2), 4.5)))
    condition = model.condition(scene, orbit_cameras(AZIMUTH))
    as_released = model.condition(scene, orbit_cameras(AZIMUTH), zero_attention_rays=True)
    return vars(condition) | {
        "tokens": scene.tokens,
        "eps_guided": model.predict_noise(latents, TIMESTEP, condition, guidance=GUIDANCE),
        "eps": model.predict_noise(latents, TIMESTEP, condition, guidance=1.0),
        "eps_unconditional": model.predict_noise(latents, TIMESTEP, condition.unconditional(), guidance=1.0),
        "eps_guided_zero_rays": model.predict_noise(latents, TIMESTEP, as_released, guidance=GUIDANCE),
        "views": model.sample(scene, orbit_cameras([AZIMUTH, 200.0]), steps=2).rgb,
    }


class OneObject:
    """A grey picture, and another target each step."""

    def batch(self, step: int, rank: int = 0, world: int = 1) -> TrainingBatch:
        pictures = torch.rand(1, 2, 3, 256, 256, generator=torch.Generator().manual_seed(step))
        masks = torch.ones(1, 1, 1, 256, 256)
        return TrainingBatch(pictures[:, :1], reference_camera(), pictures[:, 1:], masks, orbit_cameras(90.0))


def optimiser_step(weights: Path) -> dict[str, float]:
    """Of `weights` only what Stable Diffusion 1.5, UpSRT and DINOv2 would give is read."""
    config = replace(TrainConfig.preset("released", "diffusion"), validate_every=0)
    original = initial.read_initial_weights

    def without_control(source: str, model: object) -> dict[str, Tensor]:
        found = original(source, model)
        return {name: value for name, value in found.items() if not name.startswith(CONTROL_PREFIX)}

    initial.read_initial_weights = without_control
    networks, text = initial.initial_networks(config.model, [str(weights)])
    training = loop.Training(config, Accelerator(cpu=True), networks, text, Path("nowhere"))
    control, unet = networks.controlnet.zero_convs[0][0].weight, networks.unet.up_blocks[0].resnets[0].conv1.weight
    before = unet.detach().clone()
    training.step(OneObject())
    return {
        "steps": training.state.step,
        "zero_conv_moved": control.detach().abs().max().item(),
        "unet_moved": (unet.detach() - before).abs().max().item(),
        "trained": sum(value.numel() for group in training.state.optimizer.param_groups for value in group["params"]),
    }
