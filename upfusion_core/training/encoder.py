"""Stage 1: UpSRT, and DINO or what stands in its place, learn to paint query rays (paper section 3.1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..models.networks import Networks
from .batches import TrainingBatch
from .config import TrainConfig
from .draws import Draws
from .queries import query_rays
from .stages import PhotoEncoder, color_loss


class EncoderStage(nn.Module):
    """Photos without poses and rays of target views -> the mean squared error of their colours.

    The networks themselves are trained, not copies; DINO only with `train_dino`.
    """

    def __init__(self, config: TrainConfig, networks: Networks) -> None:
        super().__init__()
        self.config = config
        networks.dino.requires_grad_(config.train_dino)
        networks.upsrt.requires_grad_(True)
        networks.upsrt.gradient_checkpointing = config.gradient_checkpointing
        self.encoder = PhotoEncoder(networks.dino, networks.upsrt)

    @torch.no_grad()
    def inputs(self, batch: TrainingBatch, draws: Draws) -> dict[str, Any]:
        """Photos, Plücker forms (B, T·R, 6) of random rays and their true colours."""
        uniform = draws.uniform(len(batch), batch.views, self.config.rays, 3).flatten(0, 1)
        rays, colors = query_rays(batch, uniform, self.config.inside_share)
        return {"photos": batch.photos, "rays": rays, "colors": colors}

    def forward(self, photos: Tensor, rays: Tensor, colors: Tensor) -> dict[str, Tensor]:
        """The term `rgb`."""
        return {"rgb": color_loss(self.encoder.upsrt, self.encoder(photos), rays, colors)}
