"""ComfyUI as the library wants it: progress and interruption, and a checkpoint's networks in ComfyUI's own classes.

What touches comfy.model_management is imported at first use: on a host without GPU and without --cpu its import raises.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .sockets import HostedModel

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP, VAE

    from ..upfusion_core import Checkpoint, ModelConfig, OnStep

PREVIEW_SECONDS = 0.5
PREVIEW_SIZE = 512
PREVIEW_COSTS = 10  # pictures come no more often than this many times the time it takes to make one


def check_interrupted() -> None:
    """Raises ComfyUI's interruption (a BaseException) if the user pressed Cancel."""
    from comfy.model_management import throw_exception_if_processing_interrupted

    throw_exception_if_processing_interrupted()


class Pace:
    """How long steps of each kind took, by which those that are left are reckoned (see the library's Step)."""

    def __init__(self) -> None:
        self.spent: dict[str, tuple[float, int]] = {}  # seconds and steps
        self.before: tuple[float, int] | None = None

    def left(self, step: int, total: int, now: float) -> str:
        """Example: ", 35 s left"; "more than" while steps of some kind are still to be seen; empty while none was.

        Called once a step, at the time `now` in seconds.
        """
        kind, ahead = getattr(step, "kind", ""), getattr(step, "left", {"": total - step})
        if self.before is not None and step > self.before[1]:
            seconds, steps = self.spent.get(kind, (0.0, 0))
            self.spent[kind] = seconds + now - self.before[0], steps + step - self.before[1]
        self.before = now, step
        known = {name: seconds / steps for name, (seconds, steps) in self.spent.items()}
        if not known or step >= total or not ahead:
            return ""
        least = "more than " if any(count and name not in known for name, count in ahead.items()) else ""
        return f", {least}{math.ceil(sum(known.get(name, 0.0) * count for name, count in ahead.items()))} s left"


def progress_hook(doing: str) -> OnStep:
    """The library's `on_step` as ComfyUI shows it: bar, live picture, and a line such as "distilling: round 2 of 4,
    painting, step 412/600, 35 s left".

    It raises when the user cancels.
    """
    from comfy.utils import ProgressBar
    from PIL import Image

    bar: ProgressBar | None = None
    pace, phase = Pace(), ""
    written = shown = -PREVIEW_SECONDS
    cost = 0.0

    def on_step(step: int, total: int, preview: Callable[[], Tensor] | None = None) -> None:
        nonlocal bar, phase, written, shown, cost
        check_interrupted()
        bar = bar or ProgressBar(total)
        now, picture = time.monotonic(), None
        left, before, phase = pace.left(step, total, now), phase, getattr(step, "phase", "")
        if preview and (step >= total or now - shown >= max(PREVIEW_SECONDS, PREVIEW_COSTS * cost)):
            pixels = (preview().detach().movedim(0, -1).float().clamp(0, 1) * 255).round().to(torch.uint8)
            picture = ("JPEG", Image.fromarray(pixels.cpu().numpy()), PREVIEW_SIZE)
            shown = time.monotonic()
            cost = shown - now
        bar.update_absolute(step, total, picture)
        if step >= total or phase != before or now - written >= PREVIEW_SECONDS:
            written = now
            send_line(f"{doing}: {phase + ', ' if phase else ''}step {step}/{total}{left}")

    return on_step


def send_line(text: str) -> None:
    """Shows a line of text on the node that is running; without a server or a running node nothing happens."""
    from comfy_execution.utils import get_executing_context
    from server import PromptServer

    context, server = get_executing_context(), getattr(PromptServer, "instance", None)
    if context is not None and server is not None:
        server.send_progress_text(text, context.node_id)


def load_all(path: str | Path, precision: str) -> tuple[HostedModel, ModelPatcher, CLIP | None, VAE]:
    """UPFUSION_MODEL, MODEL, CLIP (None without a text encoder) and VAE of a file or folder (see open_checkpoint).

    precision: "auto" for ComfyUI's own rules, or the name of that to store weights in.
    """
    from comfy import model_detection, model_management, supported_models, utils

    from ..upfusion_core import UNET_PREFIX, latent_diffusion_weights, open_checkpoint

    # ComfyUI runs nodes in inference mode, whose tensors gradients cannot cross; those of a distillation do
    with torch.inference_mode(False), torch.no_grad():
        checkpoint = open_checkpoint(path)
        config = checkpoint.config
        weights = latent_diffusion_weights(checkpoint)  # a new dict: ComfyUI takes the names it uses out of it
        stored = getattr(torch, precision, None) or model_management.unet_dtype(
            model_params=utils.calculate_parameters(weights, UNET_PREFIX),
            weight_dtype=utils.weight_dtype(weights, UNET_PREFIX),
        )
        cast = model_management.unet_manual_cast(stored, model_management.get_torch_device())  # None: none is needed
        kind = supported_models.SD15(model_detection.detect_unet_config(weights, UNET_PREFIX))
        _report("loading the autoencoder and the text encoder")
        vae = _load_vae(config, weights)
        clip = _load_clip(config, weights, kind, stored) if checkpoint.has_text_encoder else None
        text = _default_text(checkpoint, clip)
        _report("loading the diffusion model")
        kind.set_inference_dtype(stored, cast)
        model = _load_unet(config, weights, kind, vae)
        _report("loading the ControlNet and the scene transformer")
        return _host_networks(checkpoint, text, stored, cast or stored), model, clip, vae


def _report(doing: str) -> None:
    check_interrupted()
    send_line(doing)


def _in_patcher(network: Any) -> ModelPatcher:
    """The network in ComfyUI's care."""
    from comfy import model_management, model_patcher

    patcher = getattr(model_patcher, "CoreModelPatcher", model_patcher.ModelPatcher)  # the older name
    device, offload = model_management.get_torch_device(), model_management.unet_offload_device()
    return patcher(network, load_device=device, offload_device=offload)


def _host_networks(
    checkpoint: Checkpoint, text: tuple[Tensor, Tensor], stored: torch.dtype, computed: torch.dtype
) -> HostedModel:
    """The networks that ComfyUI has no classes for, with its layers; the precisions they are kept and computed in."""
    from comfy import ops

    from ..upfusion_core import load_conditioning_networks

    # in 8 bits ComfyUI keeps UNets only; ours, small beside it, stay in the precision they compute in
    kept = stored if stored.itemsize > 1 else computed
    networks = load_conditioning_networks(checkpoint, ops=ops.manual_cast, dtype=kept)
    dino, upsrt, controlnet = (_in_patcher(network) for network in networks)
    # a large picture is many calls of the decoder: Cancel comes between them
    upsrt.model.ray_decoder.register_forward_pre_hook(lambda *_: check_interrupted())
    return HostedModel(checkpoint.config, checkpoint.model_id, dino, upsrt, controlnet, text=text, dtype=computed)


def _load_unet(config: ModelConfig, weights: dict[str, Tensor], kind: Any, vae: VAE) -> ModelPatcher:
    """The UNet of ComfyUI's `kind` of model as a MODEL with the latents of `vae`; its tensors leave `weights`."""
    from comfy import model_management

    from ..upfusion_core import UNET_PREFIX

    kind.unet_config["num_heads"] = config.diffusion.num_heads
    kind.latent_format.scale_factor = config.vae.scale_factor
    kind.latent_format.spacial_downscale_ratio = config.vae.downsampling
    if config.vae.ch_mult != (1, 2, 4, 4):  # not Stable Diffusion's own, whose latents ComfyUI can show
        factors = preview_factors(vae, config.vae.scale_factor)
        kind.latent_format.latent_rgb_factors = factors[:-1].tolist()
        kind.latent_format.latent_rgb_factors_bias = factors[-1].tolist()
    network = kind.get_model(weights, UNET_PREFIX, device=model_management.unet_offload_device())
    patcher = _in_patcher(network)
    network.load_model_weights(weights, UNET_PREFIX)
    return patcher


def preview_factors(vae: VAE, scale_factor: float) -> Tensor:
    """(5, 3): the linear map from scaled latents and 1 to colours in [-1, 1] that fits coloured squares best."""
    size = 8 * vae.spacial_compression_encode()
    squares = torch.rand(16, 4, 4, 3, generator=torch.Generator().manual_seed(0))
    pictures = squares.repeat_interleave(size // 4, dim=1).repeat_interleave(size // 4, dim=2)
    latents = vae.encode(pictures).float().cpu() * scale_factor
    cells = squares.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    known = torch.cat([latents.movedim(1, -1).reshape(-1, 4), torch.ones(cells[..., 0].numel(), 1)], dim=1)
    return torch.linalg.lstsq(known, 2 * cells.reshape(-1, 3) - 1).solution


def _load_vae(config: ModelConfig, weights: dict[str, Tensor]) -> VAE:
    """The autoencoder as a VAE that knows its own ratio of pixels to latent cells."""
    from comfy.sd import VAE

    from ..upfusion_core import VAE_PREFIX

    known = config.vae
    sizes = {"double_z": True, "in_channels": 3, "out_ch": 3, "attn_resolutions": [], "dropout": 0.0}
    sizes |= {"z_channels": known.embed_dim, "resolution": config.image_size, "ch": known.ch}
    sizes |= {"ch_mult": list(known.ch_mult), "num_res_blocks": known.num_res_blocks}
    own = {name.removeprefix(VAE_PREFIX): value for name, value in weights.items() if name.startswith(VAE_PREFIX)}
    vae = VAE(sd=own, config={"params": {"ddconfig": sizes, "embed_dim": known.embed_dim}})
    # VAE() assumes 8 and its memory estimates stand for 8 x 8 pixels a latent cell
    ratio, estimate = known.downsampling, vae.memory_used_decode
    vae.memory_used_decode = lambda shape, dtype: estimate(shape, dtype) * ratio**2 / 64
    vae.downscale_ratio = vae.upscale_ratio = ratio
    return vae


def _load_clip(config: ModelConfig, weights: dict[str, Tensor], kind: Any, stored: torch.dtype) -> CLIP:
    """The text encoder as a CLIP, float32 where the model is, otherwise as ComfyUI keeps its text encoders."""
    import folder_paths
    from comfy import utils
    from comfy.sd import CLIP

    own = kind.process_clip_state_dict(dict(weights))
    names = ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size")
    sizes = {name: getattr(config.text, name) for name in names} | {"projection_dim": config.text.hidden_size}
    options: dict[str, Any] = {"clip_l_model_config": sizes}
    if stored == torch.float32:
        options["dtype"] = torch.float32
    return CLIP(
        kind.clip_target(state_dict=weights),
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        tokenizer_data=own,
        parameters=utils.calculate_parameters(own),
        state_dict=own,
        model_options=options,
    )


def _default_text(checkpoint: Checkpoint, clip: CLIP | None) -> tuple[Tensor, Tensor]:
    """(default prompt, empty prompt) embeddings, (77, W) each: stored ones, else from the text encoder, else zeros."""
    from ..upfusion_core import DEFAULT_PROMPT

    if checkpoint.text_embeddings is not None:
        return checkpoint.text_embeddings
    if clip is None:
        logging.warning(
            "%s holds neither a text encoder nor stored text embeddings; zeros stand in the prompt's place",
            checkpoint.path.name,
        )
        width = checkpoint.config.diffusion.context_dim
        return torch.zeros(77, width), torch.zeros(77, width)
    default, empty = (clip.encode_from_tokens(clip.tokenize(text))[0].float().cpu() for text in (DEFAULT_PROMPT, ""))
    return default, empty
