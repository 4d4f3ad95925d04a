"""Our ControlNet as a ControlBase, and per-camera conditions in a CONDITIONING, for any of ComfyUI's samplers.

Hint, ray maps and set latents travel in `model_conds`. Positive and negative hold the same control object and the same
names, zeros on the negative: ComfyUI then runs both in one batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from comfy.conds import CONDRegular
from comfy.controlnet import ControlBase
from comfy.model_management import cast_to_device
from torch import Tensor

from ..upfusion_core import InputError
from .fitting import check_unet

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from ..upfusion_core import ViewConditioning
    from .hosted import HostedModel

HINT, TOKENS, RAYS = "upfusion_hint", "upfusion_tokens", "upfusion_rays"
Conditioning = list[Any]
"""ComfyUI's CONDITIONING: a list of [embedding, options]."""


class PerCamera(CONDRegular):
    """(Q, ...) values, one a camera; a batch of latents must be the Q cameras, once or several times in a row."""

    def process_cond(self, batch_size: int, **kwargs: Any) -> PerCamera:
        """The values for a batch of latents."""
        cameras = len(self.cond)
        if batch_size % cameras:
            raise InputError(
                f"these conditions are for {cameras} cameras, got a batch of {batch_size} latents; use the LATENT that "
                "UpFusion Conditioning gives with them"
            )
        return super().process_cond(batch_size, **kwargs)


class PerScene(CONDRegular):
    """(1, N, C) set latents that all cameras of a batch share; positive and negative keep one copy each."""

    def process_cond(self, batch_size: int, **_: Any) -> PerScene:
        """The value itself: it is not repeated for each latent."""
        return self


class UpFusionControl(ControlBase):
    """The dual-conditioned ControlNet; it reads its conditions from the CONDITIONING that it is part of.

    keeps_constants: whether hint convolution, keys and values outlive a sampling run, for callers of many short runs.
    """

    def __init__(self, model: HostedModel) -> None:
        super().__init__()
        self.model = model
        self.keeps_constants = False
        self.model_sampling: Any = None
        self._inputs: list[Tensor] = []
        self._constants: Any = None

    def get_control(
        self, x_noisy: Tensor, t: Tensor, cond: dict[str, Any], batched_number: int, transformer_options: dict[str, Any]
    ) -> dict[str, list[Tensor]] | None:
        """Residuals for the UNet, those of the ControlNets before this one added.

        Args:
            x_noisy: (B, 4, s, s) latents as the sampler holds them, not scaled. t: (B,) sigmas.
        """
        before = None
        if self.previous_controlnet is not None:
            before = self.previous_controlnet.get_control(x_noisy, t, cond, batched_number, transformer_options)
        if self.strength == 0 or not self._is_due(t):
            return before
        network, dtype = self.model.controlnet.model, self.model.dtype
        latents = self.model_sampling.calculate_input(t, x_noisy).to(dtype)
        residuals = network(latents, self.model_sampling.timestep(t), self._prepared(cond, x_noisy))
        control = {"input": [], "middle": [residuals[-1]], "output": residuals[:-1]}
        return self.control_merge(control, before, output_dtype=None)

    def _is_due(self, t: Tensor) -> bool:
        first, last = self.timestep_range or (float("inf"), 0.0)
        return bool(last <= t[0] <= first)

    def _prepared(self, cond: dict[str, Any], x_noisy: Tensor) -> Any:
        """The network's constants, made again when the conditions are others than at the last step."""
        if HINT not in cond:
            raise InputError(
                "this CONDITIONING holds UpFusion's control but not its conditions; connect both outputs of UpFusion "
                "Conditioning to the sampler, and combine prompts before that node"
            )
        levels = len(self.model.config.diffusion.channel_mult)
        inputs = [cond[HINT], cond[TOKENS], *(cond[f"{RAYS}_{level}"] for level in range(levels))]
        inputs = [cast_to_device(value, x_noisy.device, torch.float32) for value in inputs]
        if inputs[0].shape[-2:] != x_noisy.shape[-2:]:
            size = inputs[0].shape[-1]
            raise InputError(
                f"this model paints latents of {size} x {size} cells, got {tuple(x_noisy.shape[-2:])}; use the LATENT "
                "that UpFusion Conditioning gives"
            )
        if not _are_equal(inputs, self._inputs):
            self._inputs = inputs
            hint, tokens, *ray_maps = inputs
            self._constants = self.model.controlnet.model.constants(hint, tuple(ray_maps), tokens.to(self.model.dtype))
        return self._constants

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        """Takes the sampling parameters of the MODEL that is about to run."""
        check_unet(self.model.config, model)
        super().pre_run(model, percent_to_timestep_function)
        self.model_sampling = model.model_sampling

    def cleanup(self) -> None:
        """Lets go of what belongs to one sampling run."""
        super().cleanup()
        self.model_sampling = None
        if not self.keeps_constants:
            self._inputs, self._constants = [], None

    def get_models(self) -> list[ModelPatcher]:
        """What ComfyUI loads before sampling."""
        return [*super().get_models(), self.model.controlnet]

    def inference_memory_requirements(self, dtype: torch.dtype) -> int:
        """Bytes beside the weights: keys and values of the set latents for both halves of guidance."""
        widths = self.model.config.diffusion.widths
        layers = self.model.config.diffusion.num_res_blocks * sum(widths[:-1]) + widths[-1]
        tokens = 6 * self.model.config.upsrt.patches[0] * self.model.config.upsrt.patches[1]
        return super().inference_memory_requirements(dtype) + 2 * 2 * tokens * layers * self.model.dtype.itemsize

    def copy(self) -> UpFusionControl:
        """A control with the same network and settings."""
        other = UpFusionControl(self.model)
        self.copy_to(other)
        return other

    def deepclone_multigpu(self, load_device: torch.device, autoregister: bool = False) -> UpFusionControl:
        """A control with a copy of the network for another GPU."""
        import copy
        from dataclasses import replace

        from comfy.model_management import unet_offload_device

        network = copy.deepcopy(self.model.controlnet.model)
        patcher = type(self.model.controlnet)(network, load_device=load_device, offload_device=unet_offload_device())
        other = UpFusionControl(replace(self.model, controlnet=patcher))
        self.copy_to(other)
        if autoregister:
            self.multigpu_clones[load_device] = other
        return other


def with_views(
    model: HostedModel,
    views: ViewConditioning,
    positive: Conditioning,
    negative: Conditioning,
    *,
    strength: float = 1.0,
    start: float = 0.0,
    end: float = 1.0,
) -> tuple[Conditioning, Conditioning]:
    """(positive, negative) with our control after the ControlNets they hold, and the cameras' conditions.

    The given conditionings stay as they are. start, end: parts of the sampling run, 0 its beginning and 1 its end.
    """
    controls: dict[Any, UpFusionControl] = {}  # one for each ControlNet before ours, so that both halves share it
    results = []
    for conditioning, half in ((positive, views), (negative, views.unconditional())):
        values = _model_conds(half)
        entries = []
        for embedding, options in conditioning:
            if HINT in options.get("model_conds", {}):
                raise InputError("this CONDITIONING holds UpFusion's conditions already; connect the one before them")
            before = options.get("control")
            if before not in controls:
                control = UpFusionControl(model)
                control.set_cond_hint(None, strength, (start, end))
                controls[before] = control.set_previous_controlnet(before)
            added = {
                "control": controls[before],
                "control_apply_to_uncond": False,
                "model_conds": {**options.get("model_conds", {}), **values},
            }
            entries.append([embedding, {**options, **added}])
        results.append(entries)
    return results[0], results[1]


def _model_conds(views: ViewConditioning) -> dict[str, CONDRegular]:
    tokens = views.tokens if views.tokens.ndim == 3 else views.tokens[None]
    rays = {f"{RAYS}_{level}": PerCamera(ray_map) for level, ray_map in enumerate(views.ray_maps)}
    return {HINT: PerCamera(views.hint), TOKENS: PerScene(tokens), **rays}


def _are_equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(
        a.shape == b.shape and a.device == b.device and torch.equal(a, b) for a, b in zip(one, other, strict=True)
    )
