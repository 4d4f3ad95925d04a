"""UPFUSION_MODEL: the networks of a checkpoint that ComfyUI has no classes for, in ComfyUI's care."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .fitting import check_prompt
from .host import check_interrupted

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from ..upfusion_core import Checkpoint, HostedUpFusion, ModelConfig
    from .native import NativePrior


@dataclass(frozen=True, eq=False)
class HostedModel:
    """DINO, UpSRT and ControlNet, each in a model patcher, so that ComfyUI moves, streams and frees them.

    text: (default prompt, empty prompt) embeddings, (77, W) float32.
    dtype: what the networks compute in; their weights may be stored in less.
    """

    config: ModelConfig
    model_id: str
    dino: ModelPatcher
    upsrt: ModelPatcher
    controlnet: ModelPatcher
    text: tuple[Tensor, Tensor]
    dtype: torch.dtype

    def get_models(self) -> list[ModelPatcher]:
        """All patchers; ComfyUI asks values in sockets for them."""
        return [self.dino, self.upsrt, self.controlnet]

    @property
    def device(self) -> torch.device:
        """Where the networks compute."""
        return self.upsrt.load_device

    def stages(self, prior: NativePrior | None = None) -> HostedUpFusion:
        """The library's stages on these networks, DINO and UpSRT brought to their device."""
        from comfy.model_management import load_models_gpu

        from ..upfusion_core import HostedUpFusion

        load_models_gpu([self.dino, self.upsrt])
        return HostedUpFusion(
            self.config,
            dino=self.dino.model,
            upsrt=self.upsrt.model,
            prior=prior,
            device=self.device,
            dtype=self.dtype,
            text=self.text,
            model_id=self.model_id,
        )

    def prompts(
        self, positive: list[Any] | None = None, negative: list[Any] | None = None
    ) -> tuple[list[Any], list[Any]]:
        """(positive, negative) CONDITIONING; the default and the empty prompt where None is given."""
        for name, conditioning in (("positive", positive), ("negative", negative)):
            if conditioning is not None:
                check_prompt(name, conditioning, self.config.diffusion.context_dim)
        default, empty = ([[text[None].clone(), {}]] for text in self.text)
        return positive or default, negative or empty


def host_networks(checkpoint: Checkpoint, text: tuple[Tensor, Tensor], dtypes: Dtypes) -> HostedModel:
    """The networks of `checkpoint` with ComfyUI's layers, in model patchers."""
    from comfy import model_management, model_patcher, ops

    from ..upfusion_core import load_conditioning_networks

    patcher = getattr(model_patcher, "CoreModelPatcher", model_patcher.ModelPatcher)  # the older name
    places = {
        "load_device": model_management.get_torch_device(),
        "offload_device": model_management.unet_offload_device(),
    }
    # in 8 bits ComfyUI keeps UNets only; ours, small beside it, stay in the precision they compute in
    kept = dtypes.stored if dtypes.stored.itemsize > 1 else dtypes.computed
    networks = load_conditioning_networks(checkpoint, ops=ops.manual_cast, dtype=kept)
    dino, upsrt, controlnet = (patcher(network, **places) for network in networks)
    # a large picture is many calls of the decoder: Cancel comes between them
    upsrt.model.ray_decoder.register_forward_pre_hook(lambda *_: check_interrupted())
    return HostedModel(
        checkpoint.config, checkpoint.model_id, dino, upsrt, controlnet, text=text, dtype=dtypes.computed
    )


@dataclass(frozen=True)
class Dtypes:
    """stored: precision that weights are kept in. cast: the one they are cast to for computing, None for none."""

    stored: torch.dtype
    cast: torch.dtype | None

    @property
    def computed(self) -> torch.dtype:
        """What the networks compute in."""
        return self.cast or self.stored


def choose_dtypes(precision: str, parameters: int, weight_dtype: torch.dtype | None) -> Dtypes:
    """Precisions by ComfyUI's own rules for this machine and its command line.

    Args:
        precision: "auto", or the name of the precision to store weights in.
        parameters, weight_dtype: number and precision of the weights in the file.
    """
    from comfy import model_management

    stored = getattr(torch, precision, None)
    if stored is None:
        stored = model_management.unet_dtype(model_params=parameters, weight_dtype=weight_dtype)
    return Dtypes(stored, model_management.unet_manual_cast(stored, model_management.get_torch_device()))
