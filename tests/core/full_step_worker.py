"""One optimiser step at the released sizes, in a process of its own so that its memory can be measured.

    python tests/core/full_step_worker.py WEIGHTS

WEIGHTS is a folder in the released layout; of it only what Stable Diffusion 1.5, UpSRT and DINOv2 would give is read.
The last line printed is JSON.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

sys.path += [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

import torch
from accelerate import Accelerator
from full_size_worker import MemoryPeak

from upfusion_core.config import TrainConfig
from upfusion_core.geometry import orbit_cameras, reference_camera
from upfusion_core.models.stable_diffusion import CONTROL_PREFIX
from upfusion_core.training import initial, loop
from upfusion_core.training.batches import TrainingBatch


class OneObject:
    """A grey picture, and another target each step."""

    def batch(self, step: int, rank: int = 0, world: int = 1) -> TrainingBatch:
        pictures = torch.rand(1, 2, 3, 256, 256, generator=torch.Generator().manual_seed(step))
        masks = torch.ones(1, 1, 1, 256, 256)
        return TrainingBatch(pictures[:, :1], reference_camera(), pictures[:, 1:], masks, orbit_cameras(90.0))


def main(weights: str) -> None:
    config = replace(TrainConfig.preset("released", "diffusion"), validate_every=0)
    original = initial.read_initial_weights

    def without_control(source: str, model: object) -> dict[str, torch.Tensor]:
        found = original(source, model)
        return {name: value for name, value in found.items() if not name.startswith(CONTROL_PREFIX)}

    initial.read_initial_weights = without_control
    accelerator = Accelerator(cpu=True)
    with MemoryPeak() as starting:
        networks, text = initial.initial_networks(config.model, [weights])
        training = loop.Training(config, accelerator, networks, text, Path("nowhere"))
    zero = networks.controlnet.zero_convs[0][0].weight
    unet = networks.unet.up_blocks[0].resnets[0].conv1.weight.detach().clone()
    with MemoryPeak() as stepping:
        training.step(OneObject())
    state = training.state
    report = {
        "starting": starting.report(),
        "step": stepping.report(),
        "steps": state.step,
        "loss": state.history.sums,
        "zero_conv_moved": zero.detach().abs().max().item(),
        "unet_moved": (networks.unet.up_blocks[0].resnets[0].conv1.weight.detach() - unet).abs().max().item(),
        "trained": sum(value.numel() for group in state.optimizer.param_groups for value in group["params"]),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1])
