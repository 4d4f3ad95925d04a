"""Objects of a data set as they are evaluated: which of their views are photos, and which are targets.

An object is seen by cameras drawn from the seed and its number: view 0 is photo 1 and the reference, the next ones are
the targets, the others the further photos. So the photos of a smaller number are the first of those of a larger one,
all stages and numbers of photos paint the same targets, no target is a photo, and none of it depends on which numbers
of photos or stages are asked for.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
import trimesh
from torch import Tensor

from ..data.examples import MultiViewDataset, PosedViews
from ..data.meshes import MeshViews
from ..data.procedural import ProceduralObjects, true_mesh
from ..errors import InputError
from ..geometry.cameras import REFERENCE_ELEVATION_DEGREES
from ..types import Cameras, InputViews
from .config import EvaluationConfig


@dataclass(frozen=True, eq=False)
class EvaluatedObject:
    """One object to be evaluated.

    views: photo 1, the targets, the other photos. photos, targets: their places in it.
    mesh: gives the true surface in the views' world; None where the data set has none.
    """

    index: int
    views: PosedViews
    photos: tuple[int, ...]
    targets: tuple[int, ...]
    mesh: Callable[[], trimesh.Trimesh] | None

    @property
    def truth(self) -> Tensor:
        """(N, 3, S, S) true pictures of the targets."""
        return self.views.rgb[list(self.targets)]

    @property
    def mask(self) -> Tensor:
        """(N, 1, S, S) true silhouettes of the targets."""
        return self.views.mask[list(self.targets)]

    @property
    def cameras(self) -> Cameras:
        """The targets' cameras."""
        return self.views.cameras[torch.tensor(self.targets)]

    def given(self, count: int) -> InputViews:
        """The first `count` photos as the model gets them."""
        chosen = list(self.photos[:count])
        return InputViews(self.views.rgb[chosen], self.views.mask[chosen], self.views.cameras.focal[chosen])

    @property
    def elevation_degrees(self) -> float:
        """Photo 1's elevation, as far as it is known."""
        if not self.views.upright:
            return REFERENCE_ELEVATION_DEGREES
        center = self.views.cameras.centers[0].double()
        return math.degrees(math.asin(float((center[1] / center.norm()).clamp(-1, 1))))


def draw_object(dataset: MultiViewDataset, index: int, config: EvaluationConfig) -> EvaluatedObject:
    """Object `index` of a data set with its photos and targets.

    Raises:
        InputError: it cannot be read, or has too few views.
    """
    most, wanted = max(config.photos), max(config.photos) + config.views
    generator = torch.Generator().manual_seed(object_seed(config.seed, "views", index))
    mesh: Callable[[], trimesh.Trimesh] | None = None
    if isinstance(dataset, ProceduralObjects):
        batch = dataset.batch([index], views=wanted, generator=generator)
        views = batch.example(0)
        mesh = functools.cache(functools.partial(true_mesh, batch.objects))
    else:
        views = dataset.draw(index, wanted, generator)
        if isinstance(dataset, MeshViews):
            mesh = _file_mesh(dataset, index, views)
    if len(views) < wanted:
        raise InputError(
            f"{views.name} must have {wanted} views ({most} photos and {config.views} targets), got {len(views)}; "
            "ask for fewer photos or views"
        )
    targets = tuple(range(1, 1 + config.views))
    return EvaluatedObject(index, views, (0, *range(1 + config.views, wanted)), targets, mesh)


def object_seed(seed: int, purpose: str, index: int) -> int:
    """A number below 2^31 that no other purpose or object shares, as good as surely."""
    return zlib.crc32(f"{seed} {purpose} {index}".encode()) >> 1


def _file_mesh(dataset: MeshViews, index: int, views: PosedViews) -> Callable[[], trimesh.Trimesh]:
    @functools.cache
    def read() -> trimesh.Trimesh:
        surface = dataset.surface(index, views)
        return trimesh.Trimesh(surface.vertices.numpy(), surface.faces.numpy(), process=False)

    return read
