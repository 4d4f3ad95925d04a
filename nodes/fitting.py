"""Whether a MODEL and a CONDITIONING that the user connects fit the UPFUSION_MODEL beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..upfusion_core import InputError, check_finite

if TYPE_CHECKING:
    from ..upfusion_core import ModelConfig


def check_unet(config: ModelConfig, network: Any) -> None:
    """Raises InputError unless ComfyUI's `network` has the sizes that the ControlNet's residuals are for.

    ComfyUI only logs that residuals of other sizes were left out.
    """
    kind = getattr(network, "model_config", None)
    sizes = getattr(kind, "unet_config", {})
    wanted = config.diffusion
    multiples = tuple(sizes.get("channel_mult") or ())
    if (sizes.get("model_channels"), multiples, sizes.get("context_dim")) != (
        wanted.model_channels,
        wanted.channel_mult,
        wanted.context_dim,
    ):
        raise InputError(
            f"MODEL must be a UNet of {wanted.model_channels} channels times {wanted.channel_mult} for text of width "
            f"{wanted.context_dim}, as upfusion_model needs it, got {sizes.get('model_channels')} times {multiples} "
            f"and {sizes.get('context_dim')}; take both from one UpFusion Load Model"
        )


def check_prompt(name: str, conditioning: Any, width: int) -> None:
    """Raises InputError unless `conditioning` is a CONDITIONING of finite embeddings (B, L, `width`)."""
    if not isinstance(conditioning, list | tuple):
        raise InputError(f"{name} must be a CONDITIONING, got {type(conditioning).__name__}; connect CLIP Text Encode")
    for entry in conditioning:
        is_pair = isinstance(entry, list | tuple) and len(entry) == 2
        if not (is_pair and isinstance(entry[0], Tensor) and isinstance(entry[1], dict)):
            raise InputError(
                f"{name} must hold pairs of an embedding and its options, got {entry!r:.60}; connect CLIP Text Encode"
            )
        embedding = entry[0]
        if embedding.ndim != 3 or not embedding.numel() or embedding.shape[-1] != width:
            raise InputError(
                f"{name} must hold embeddings (B, L, {width}), got {tuple(embedding.shape)}; encode the prompt by the "
                f"text encoder that belongs to upfusion_model, or leave {name} open"
            )
        check_finite(f"{name}'s embedding", embedding)
