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

from upfusion_core import InputViews, UpFusion, convert, orbit_cameras
from upfusion_core.config import TrainConfig
from upfusion_core.geometry import reference_camera
from upfusion_core.models.stable_diffusion import CONTROL_PREFIX
from upfusion_core.training import initial, loop
from upfusion_core.training.batches import TrainingBatch

TIMESTEP, GUIDANCE, AZIMUTH, SEED = 481, 9.0, 30.0, 0

Report = dict[str, dict[str, float]]


def alone(function: Any, *arguments: object) -> Any:  # noqa: ANN401 - any of the functions below
    """What a function gives in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


class MemoryPeak:
    """The most memory that this process has inside the `with` block, in bytes, looked up every 5 ms; Linux only."""

    def __enter__(self) -> dict[str, float]:
        # its own pages; those and the pages of mapped weight files
        self._peak = {"anonymous_bytes": 0.0, "resident_bytes": 0.0}
        self._done, self._thread = threading.Event(), threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self._peak

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            for name, field in (("anonymous_bytes", "RssAnon"), ("resident_bytes", "VmRSS")):
                self._peak[name] = max(self._peak[name], 1024 * int(fields[field].split()[0]))


def six_photos() -> InputViews:
    photos = rule_weights.rule_photos()
    return InputViews(photos, torch.ones_like(photos[:, :1]), torch.full((6, 2), 4.5))


def step(weights: Path) -> tuple[dict[str, Tensor], Report]:
    """One guided step, everything from loading on, and then the parts that a comparison wants to see alone."""
    latents = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(SEED))
    with MemoryPeak() as loading:
        model = UpFusion.load(weights)
        scene = model.encode(six_photos())
        condition = model.condition(scene, orbit_cameras(AZIMUTH))
    with MemoryPeak() as stepping:
        guided = model.predict_noise(latents, TIMESTEP, condition, guidance=GUIDANCE)
    as_released = model.condition(scene, orbit_cameras(AZIMUTH), zero_attention_rays=True)
    tensors = vars(condition) | {
        "tokens": scene.tokens,
        "eps_guided": guided,
        "eps": model.predict_noise(latents, TIMESTEP, condition, guidance=1.0),
        "eps_unconditional": model.predict_noise(latents, TIMESTEP, condition.unconditional(), guidance=1.0),
        "eps_guided_zero_rays": model.predict_noise(latents, TIMESTEP, as_released, guidance=GUIDANCE),
    }
    return tensors, {"loading": loading, "step": stepping}


def views(weights: Path) -> tuple[Tensor, Tensor, Report]:
    """Two cameras, two steps: together and the second one alone from the seed it had."""
    cameras, generator = orbit_cameras([30.0, 200.0]), torch.Generator().manual_seed(SEED)
    with MemoryPeak() as sampling:
        model = UpFusion.load(weights)
        scene = model.encode(six_photos())
        together = model.sample(scene, cameras, steps=2, generator=generator)
    alone = model.sample(scene, cameras[1], steps=2, seeds=[SEED + 1])
    return together.rgb, alone.rgb, {"sampling": sampling}


def convert_weights(source: Path, destination: Path, dtype: torch.dtype) -> Report:
    with MemoryPeak() as converting:
        convert.convert(source, destination, dtype=dtype)
    return {"convert": converting}


class OneObject:
    """A grey picture, and another target each step."""

    def batch(self, step: int, rank: int = 0, world: int = 1) -> TrainingBatch:
        pictures = torch.rand(1, 2, 3, 256, 256, generator=torch.Generator().manual_seed(step))
        masks = torch.ones(1, 1, 1, 256, 256)
        return TrainingBatch(pictures[:, :1], reference_camera(), pictures[:, 1:], masks, orbit_cameras(90.0))


def optimiser_step(weights: Path) -> tuple[dict[str, float], Report]:
    """Of `weights` only what Stable Diffusion 1.5, UpSRT and DINOv2 would give is read."""
    config = replace(TrainConfig.preset("released", "diffusion"), validate_every=0)
    original = initial.read_initial_weights

    def without_control(source: str, model: object) -> dict[str, Tensor]:
        found = original(source, model)
        return {name: value for name, value in found.items() if not name.startswith(CONTROL_PREFIX)}

    initial.read_initial_weights = without_control
    with MemoryPeak() as starting:
        networks, text = initial.initial_networks(config.model, [str(weights)])
        training = loop.Training(config, Accelerator(cpu=True), networks, text, Path("nowhere"))
    control, unet = networks.controlnet.zero_convs[0][0].weight, networks.unet.up_blocks[0].resnets[0].conv1.weight
    before = unet.detach().clone()
    with MemoryPeak() as stepping:
        training.step(OneObject())
    found = {
        "steps": training.state.step,
        "zero_conv_moved": control.detach().abs().max().item(),
        "unet_moved": (unet.detach() - before).abs().max().item(),
        "trained": sum(value.numel() for group in training.state.optimizer.param_groups for value in group["params"]),
    }
    return found, {"starting": starting, "step": stepping}
