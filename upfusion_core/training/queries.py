"""Random query rays of target views, and what the networks are told of them, all on the batch's device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from ..geometry import grid_rays, plucker, point_rays, to_reference_frame
from ..types import Cameras, Rays
from .batches import TrainingBatch


def query_rays(batch: TrainingBatch, uniform: Tensor, inside_share: float) -> tuple[Tensor, Tensor]:
    """Rays through random places of the target views, and the colours seen there.

    Args:
        uniform: (B·T, R, 3) uniform numbers in [0, 1), from which the places follow.
        inside_share: in [0, 1]; that share of a view's R rays goes through pixels of the silhouette (mask above 0.5),
            the rest anywhere. A view without silhouette gets all of them anywhere.

    Returns:
        (B, T·R, 6) Plücker forms in the frame of each object's reference, and (B, T·R, 3) colours.
    """
    masks, pictures = batch.target_masks.flatten(0, 1), batch.targets.flatten(0, 1)
    points = sample_points(masks, uniform, inside_share)
    colors = look_up(pictures, points)
    forms = reference_frame_plucker(point_rays(batch.cameras, points), batch.references)
    count = len(batch)
    return forms.reshape(count, -1, 6), colors.reshape(count, -1, 3)


def sample_points(masks: Tensor, uniform: Tensor, inside_share: float) -> Tensor:
    """(N, 1, S, S) masks and (N, R, 3) uniform numbers -> (N, R, 2) places (x, y) in NDC, silhouette first."""
    size, rays = masks.shape[-1], uniform.shape[1]
    anywhere = 1 - 2 * uniform[..., 1:]
    inside = round(inside_share * rays)
    if not inside:
        return anywhere
    covered = (masks.flatten(1) > 0.5).float().cumsum(1)  # (N, S·S)
    total = covered[:, -1:]
    # the pixel whose turn it is among the covered ones: the first whose running count exceeds u·total
    wanted = (uniform[:, :inside, 0] * total).floor() + 1
    pixel = torch.searchsorted(covered, wanted).clamp(max=size * size - 1)
    row, column = torch.div(pixel, size, rounding_mode="floor"), pixel % size
    jitter = uniform[:, :inside, 1:]
    within = 1 - 2 * (torch.stack([column, row], dim=-1) + jitter) / size
    chosen = torch.where((total > 0)[..., None], within, anywhere[:, :inside])
    return torch.cat([chosen, anywhere[:, inside:]], dim=1)


def look_up(pictures: Tensor, points: Tensor) -> Tensor:
    """(N, 3, S, S) pictures at (N, R, 2) places in NDC -> (N, R, 3), bilinear; the border of a picture is NDC ±1."""
    # grid_sample's x and y run from -1 at the left and top edge to +1, so opposite to NDC
    return grid_sample(pictures, -points[:, None], mode="bilinear", padding_mode="border", align_corners=False)[
        :, :, 0
    ].transpose(1, 2)


def grid_plucker(batch: TrainingBatch, size: int) -> Tensor:
    """(B·T, size, size, 6) Plücker forms of the targets' corner-aligned grids, as geometry.reference_plucker up to
    rounding, but computed where the batch is."""
    return reference_frame_plucker(grid_rays(batch.cameras, size, size), batch.references)


def reference_frame_plucker(rays: Rays, references: Cameras) -> Tensor:
    """Plücker forms (B·T, ..., 6) of object-major rays (B·T, ..., 3) in the frames of their objects' references."""
    count = len(rays.origins) // len(references)
    index = torch.arange(len(references), device=references.device).repeat_interleave(count)
    return plucker(to_reference_frame(rays, references[index]))
