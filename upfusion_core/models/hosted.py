"""Networks for a host program, such as ComfyUI, that has layers, memory management and a diffusion model of its own."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoints import Checkpoint
from .controlnet import ControlNet
from .dino import DinoKeys
from .ldm_names import CONTROL_PREFIX, TEXT_PREFIX, UNET_PREFIX, VAE_PREFIX
from .networks import DINO_PREFIX, UPSRT_PREFIX
from .upsrt import UpSRT
from .weight_files import check_finite_weights


def load_conditioning_networks(
    checkpoint: Checkpoint, *, ops: ModuleType | type, dtype: torch.dtype
) -> tuple[DinoKeys, UpSRT, ControlNet]:
    """The networks that tell the diffusion model what to paint, on the CPU, frozen, with every layer from `ops`.

    Args:
        ops: a namespace with torch.nn's layers, e.g. one whose layers cast their weights to their input's precision.
        dtype: precision of the weights; those stored in it stay mapped from the file.

    Raises:
        CheckpointError: some of them are NaN, infinite or too large for `dtype`.
    """
    config = checkpoint.config
    kinds: tuple[tuple[Callable[..., nn.Module], Any, str], ...] = (
        (DinoKeys, config.dino, DINO_PREFIX),
        (UpSRT, config.upsrt, UPSRT_PREFIX),
        (ControlNet, config.diffusion, CONTROL_PREFIX),
    )
    networks: list[Any] = []
    for kind, sizes, prefix in kinds:
        with torch.device("meta"):
            names = kind(sizes).state_dict()  # a host's layers may have no weights before they are given some
            network: nn.Module = kind(sizes, ops=ops)
        check_finite_weights({prefix + name: checkpoint.weights[prefix + name] for name in names}, dtype)
        state = {
            name: checkpoint.weights[prefix + name].reshape(value.shape).to(dtype) for name, value in names.items()
        }
        network.load_state_dict(state, strict=True, assign=True)
        networks.append(network.requires_grad_(False).eval())
    dino, upsrt, control = networks
    return dino, upsrt, control


def latent_diffusion_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """UNet, VAE and text encoder under the names of Stable Diffusion 1.5's `ldm` files, mapped from the file.

    Raises:
        CheckpointError: some of them are NaN or infinite.
    """
    prefixes = (UNET_PREFIX, VAE_PREFIX, TEXT_PREFIX)
    weights = {name: value for name, value in checkpoint.weights.items() if name.startswith(prefixes)}
    check_finite_weights(weights, torch.float32)
    return weights
