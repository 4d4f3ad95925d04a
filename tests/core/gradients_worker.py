"""Gradients of one step of a tiny diffusion, from as many processes as it is launched in.

accelerate launch --cpu --num_processes 2 tests/core/gradients_worker.py OUT.safetensors
"""

import sys
from pathlib import Path

sys.path += [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from tiny_training import TinySource, tiny_config

from upfusion_core.training.initial import initial_networks
from upfusion_core.training.loop import accumulate_gradients
from upfusion_core.training.stages import make_stage


def main(path: str) -> None:
    accelerator = Accelerator(cpu=True)
    config = tiny_config("diffusion")
    stage = make_stage(config, *initial_networks(config.model))
    module = accelerator.prepare_model(stage)
    source = TinySource(4 // accelerator.num_processes)
    terms = accumulate_gradients(config, accelerator, stage, module, source, 1)
    if accelerator.is_main_process:
        gradients = {name: value.grad for name, value in stage.named_parameters() if value.grad is not None}
        processes = torch.tensor(accelerator.num_processes)
        save_file(gradients | {"terms": torch.stack([*terms.values()]), "processes": processes}, path)


if __name__ == "__main__":
    main(sys.argv[1])
