"""Pictures that a field is fitted to while it is distilled, and what they count for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..pictures import resize_pictures
from ..types import Cameras
from .distill_run import Run
from .prepare import estimate_coverage


@dataclass(frozen=True, eq=False)
class Targets:
    """Pictures to be fitted: N cameras, rgb (N, 3, S, S) on white, mask and weights (N, 1, S, S)."""

    cameras: Cameras
    rgb: Tensor
    mask: Tensor
    weights: Tensor

    @classmethod
    def on_white(cls, cameras: Cameras, rgb: Tensor, weights: Tensor | float = 1.0) -> Targets:
        """Pictures whose silhouettes are what is not white; `weights` are theirs or one for all."""
        mask = torch.stack([estimate_coverage(picture) for picture in rgb])
        return cls(cameras, rgb, mask, torch.as_tensor(weights).expand_as(mask))

    @classmethod
    def joined(cls, parts: list[Targets]) -> Targets:
        """All of them; their pictures have one size."""
        tensors = zip(*((part.rgb, part.mask, part.weights) for part in parts), strict=True)
        return cls(Cameras.concatenate([part.cameras for part in parts]), *(torch.cat(each) for each in tensors))


def made_targets(run: Run, cameras: Cameras, rgb: Tensor) -> Targets:
    """Pictures on white that the model made, of any size, and the caller's."""
    if run.views is not None:
        rgb = resize_pictures(rgb, run.model.image_size)
    return with_given(run, Targets.on_white(cameras, rgb))


def with_given(run: Run, targets: Targets) -> Targets:
    """Targets of the model's size and the caller's, which count as much as all others together if those are more."""
    given = run.views
    if given is None:
        return targets
    weight = max(1.0, len(targets.cameras) / len(given.cameras))
    return Targets.joined([targets, Targets.on_white(given.cameras, given.rgb, weight)])
