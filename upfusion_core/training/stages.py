"""What every training stage offers to the loop, and what two of them share."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..geometry import patch_rays, plucker
from ..models.dino import DinoKeys
from ..models.upsrt import UpSRT
from .batches import TrainingBatch
from .draws import Draws


class TrainingStage(Protocol):
    """A module whose call computes losses from tensors alone, so that DDP and torch.compile see nothing else.

    Example: `terms = stage(**stage.inputs(batch, draws)); sum(terms.values()).backward()`.
    """

    def inputs(self, batch: TrainingBatch, draws: Draws) -> dict[str, Any]:
        """The tensors of one call: the batch, its geometry, and everything random. Outside of autograd."""
        ...

    def __call__(self, **inputs: Any) -> dict[str, Tensor]:  # noqa: ANN401 - what `inputs` made
        """Named scalar terms, weights included: the loss is their sum."""
        ...


class PhotoEncoder(nn.Module):
    """(B, V, 3, S, S) photos -> (B, V·P, D) set latents, through DINO (or what stands in its place) and UpSRT."""

    patch_plucker: Tensor

    def __init__(self, dino: DinoKeys, upsrt: UpSRT) -> None:
        super().__init__()
        self.dino, self.upsrt = dino, upsrt
        self.register_buffer("patch_plucker", plucker(patch_rays(*upsrt.config.patches)), persistent=False)

    def forward(self, photos: Tensor) -> Tensor:
        """Gradients reach those of the two networks that are trained."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and is_trained(self.dino)):
            keys = self.dino(photos.flatten(0, 1), self.upsrt.config.patches)
        with torch.set_grad_enabled(torch.is_grad_enabled() and is_trained(self.upsrt)):
            return self.upsrt.encode(keys.unflatten(0, photos.shape[:2]), self.patch_plucker)


def is_trained(network: nn.Module) -> bool:
    """Whether any parameter of it is."""
    return any(parameter.requires_grad for parameter in network.parameters())


def color_loss(upsrt: UpSRT, tokens: Tensor, rays: Tensor, colors: Tensor) -> Tensor:
    """Mean squared error of UpSRT's own colours on query rays (paper section 3).

    Args:
        tokens: (B, N, D) set latents. rays: (B, R, 6) Plücker forms. colors: (B, R, 3) in [0, 1].
    """
    predicted = upsrt.read_rgb(upsrt.decode(tokens, rays, chunk=rays.shape[1])).float()
    return F.mse_loss(predicted, colors)
