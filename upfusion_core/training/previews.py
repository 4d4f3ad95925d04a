"""Picture sheets of what a stage paints: photos | truth | prediction, a row an object."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..models.networks import Networks
from ..models.vae import decode_latents, encode_images
from ..pipeline.novel_views import condition_views, encode_views, predict_views
from ..pipeline.prior import DiffusersPrior
from ..pipeline.sampling import sample_views
from ..types import REFERENCE_FOCAL, InputViews, SceneEncoding
from .batches import TrainingBatch
from .config import TrainConfig

MOST_ROWS, MOST_PHOTOS = 6, 6
SAMPLING_STEPS, GUIDANCE = 20, 2.0


@torch.no_grad()
def preview_sheet(config: TrainConfig, networks: Networks, text: tuple[Tensor, Tensor], batch: TrainingBatch) -> Tensor:
    """(3, H, W) in [0, 1]: for the first objects of `batch` their photos, their targets, and what is painted of those.

    The encoder's colours, the autoencoder's reconstructions, or samples of the diffusion model (20 DDIM steps).
    """
    rows = []
    for index in range(min(len(batch), MOST_ROWS)):
        photos, targets = batch.photos[index], batch.targets[index]
        painted = _painted(config, networks, text, batch, index).to(targets)
        white = torch.ones(MOST_PHOTOS - len(photos), *photos.shape[1:], device=photos.device)
        gap = torch.ones(1, *photos.shape[1:], device=photos.device)
        rows.append(torch.cat([photos, white, gap, targets, gap, painted]))
    columns = [_framed(row).permute(1, 2, 0, 3).flatten(2) for row in rows]  # (3, S, n·S)
    return torch.cat(columns, dim=1).clamp(0, 1)


def _painted(
    config: TrainConfig, networks: Networks, text: tuple[Tensor, Tensor], batch: TrainingBatch, index: int
) -> Tensor:
    """(T, 3, S, S) of object `index`."""
    if config.stage == "autoencoder":
        return decode_latents(networks.vae, encode_images(networks.vae, batch.targets[index]))
    photos, views = batch.photos[index], batch.views
    cameras = batch.cameras[index * views : (index + 1) * views]
    focal = torch.full((len(photos), 2), REFERENCE_FOCAL, device=photos.device)
    given = InputViews(photos, torch.ones_like(photos[:, :1]), focal)
    tokens = encode_views(networks.dino, networks.upsrt, given)
    scene = SceneEncoding(tokens, batch.references[index])
    if config.stage == "encoder":
        return predict_views(networks.upsrt, scene, cameras, config.model.image_size, pixel_centers=True)
    prior = DiffusersPrior(networks, config.model.latent_size)
    levels = len(config.model.diffusion.channel_mult)
    cond = condition_views(
        networks.upsrt, scene, cameras, latent_size=config.model.latent_size, levels=levels, text=text
    )
    return sample_views(prior, cond, steps=SAMPLING_STEPS, guidance=GUIDANCE, seeds=list(range(views)))


def _framed(pictures: Tensor) -> Tensor:
    return pad(pictures, (1, 1, 1, 1), value=0.8)
