"""Networks for a host program, such as ComfyUI, that has layers, memory management and a diffusion model of its own."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from .checkpoints import DINO_PREFIX, UPSRT_PREFIX, Checkpoint, assign_weights
from .controlnet import ControlNet
from .dino import DinoKeys
from .ldm_names import CONTROL_PREFIX, TEXT_PREFIX, UNET_PREFIX, VAE_PREFIX
from .upsrt import UpSRT


def load_conditioning_networks(
    checkpoint: Checkpoint, *, ops: ModuleType, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> tuple[DinoKeys, UpSRT, ControlNet]:
    """The networks that tell the diffusion model what to paint, frozen, with every layer taken from `ops`.

    Args:
        ops: a namespace with torch.nn's layers, e.g. one whose layers cast their weights to their input's precision.
        dtype: precision of the weights; those stored in it stay mapped from the file where `device` is the CPU.
    """
    config = checkpoint.config
    with torch.device("meta"):
        dino, upsrt = DinoKeys(config.dino, ops=ops), UpSRT(config.upsrt, ops=ops)
        controlnet = ControlNet(config.diffusion, ops=ops)
    for module, prefix in ((dino, DINO_PREFIX), (upsrt, UPSRT_PREFIX), (controlnet, CONTROL_PREFIX)):
        names = {name: prefix + name for name in module.state_dict()}
        assign_weights(module, names, checkpoint.weights, device, dtype)
    return dino, upsrt, controlnet


def latent_diffusion_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """UNet, VAE and text encoder under the names of Stable Diffusion 1.5's `ldm` files, mapped from the file."""
    prefixes = (UNET_PREFIX, VAE_PREFIX, TEXT_PREFIX)
    return {name: value for name, value in checkpoint.weights.items() if name.startswith(prefixes)}
