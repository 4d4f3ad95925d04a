"""The networks of a model, and the merged names of their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..config import ModelConfig
from ..support.errors import CheckpointError
from ..support.weights import check_finite_weights, misfits
from .controlnet import ControlNet, widen
from .dino import DinoKeys
from .stable_diffusion import CONTROL_PREFIX, UNET_PREFIX, VAE_PREFIX, build_unet, build_vae, unet_names, vae_names
from .upsrt import UpSRT

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel

UPSRT_PREFIX, DINO_PREFIX = "upsrt.", "dino."
PARTS = {
    "UpSRT": UPSRT_PREFIX,
    "DINOv2": DINO_PREFIX,
    "ControlNet": CONTROL_PREFIX,
    "UNet": UNET_PREFIX,
    "VAE": VAE_PREFIX,
}
"""Networks, as they are called to users, by the prefix of their merged names."""
NETWORK_PREFIXES = tuple(PARTS.values())


@dataclass(frozen=True, eq=False)
class Networks:
    """The networks of a model, by stage; the text encoder is made only when a prompt is written."""

    dino: DinoKeys
    upsrt: UpSRT
    controlnet: ControlNet
    unet: UNet2DConditionModel
    vae: AutoencoderKL


def build_networks(config: ModelConfig, device: torch.device | str = "cpu") -> Networks:
    """All networks but the text encoder, on `device` ("meta" for names and shapes only), with initial weights."""
    with torch.device(device):
        return Networks(
            dino=DinoKeys(config.dino),
            upsrt=UpSRT(config.upsrt),
            controlnet=widen(ControlNet(config.diffusion)),
            unet=widen(build_unet(config.diffusion)),
            vae=build_vae(config.vae),
        )


def weight_names(config: ModelConfig, networks: Networks) -> list[tuple[nn.Module, dict[str, str]]]:
    """Each network with its own parameter names -> the checkpoint's."""
    prefixed = [(networks.upsrt, UPSRT_PREFIX), (networks.dino, DINO_PREFIX), (networks.controlnet, CONTROL_PREFIX)]
    return [
        *((module, {name: prefix + name for name in module.state_dict()}) for module, prefix in prefixed),
        (networks.unet, unet_names(config.diffusion, networks.unet.state_dict())),
        (networks.vae, vae_names(config.vae, networks.vae.state_dict())),
    ]


def network_weights(config: ModelConfig, networks: Networks) -> dict[str, Tensor]:
    """All weights of `networks` under their merged names, shaped as in the files; not copied, outside of autograd."""
    weights: dict[str, Tensor] = {}
    for module, names in weight_names(config, networks):
        state = module.state_dict()
        weights |= {name: stored_shape(name, state[own]) for own, name in names.items()}
    return weights


def set_network_weights(config: ModelConfig, networks: Networks, weights: Mapping[str, Tensor]) -> None:
    """Copies those of `weights` (merged names) that the networks know into them; the others keep their values.

    Raises:
        CheckpointError: a weight has another shape than the networks'.
    """
    own = network_weights(config, networks)
    wrong = misfits(weights, {name: value.shape for name, value in own.items()}, padded=True).shapes
    for name, (came, wanted) in wrong.items():
        raise CheckpointError(
            f"weights must fit the configuration, got {name} {came} instead of {wanted} and {len(wrong) - 1} more; "
            "use the configuration they were made with"
        )
    for name in own.keys() & weights.keys():
        own[name].copy_(weights[name].reshape(own[name].shape))


def stored_shape(name: str, value: Tensor) -> Tensor:
    """A weight as in the files, where the VAE's attention is of 1x1 convolutions, and of linear layers in diffusers."""
    is_attention = name.startswith(VAE_PREFIX) and ".attn_1." in name and value.ndim == 2
    return value[:, :, None, None] if is_attention else value


def assign_weights(
    module: nn.Module,
    names: dict[str, str],
    weights: dict[str, Tensor],
    device: torch.device | str,
    dtype: torch.dtype,
    *,
    like: nn.Module | None = None,
) -> None:
    """Gives `module` (own parameter names -> merged names) its weights, frozen; those in `dtype` stay mapped.

    Args:
        like: has the shapes, because a host's layers may have no weights before they are given some.
    """
    shapes = {name: value.shape for name, value in (like or module).state_dict().items()}
    check_finite_weights({name: weights[name] for name in names.values()}, dtype)
    # reshaped as stored_shape says
    state = {own: weights[name].reshape(shapes[own]).to(device=device, dtype=dtype) for own, name in names.items()}
    module.load_state_dict(state, strict=True, assign=True)
    module.requires_grad_(False).eval()
