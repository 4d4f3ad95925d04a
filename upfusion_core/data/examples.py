"""What every reader gives: posed views of one object in our world, one at a time, broken ones left out and counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from ..checks import check_shape
from ..errors import InputError, UpFusionError
from ..types import Cameras
from .normalise import Placement, normalise

__all__ = ["MultiViewDataset", "Placement", "PosedViews", "normalise"]


View = TypeVar("View")


@dataclass(frozen=True, eq=False)
class PosedViews:
    """N views of one object with their cameras; view 0 is the reference.

    rgb: (N, 3, S, S) in [0, 1], sRGB, on white. mask: (N, 1, S, S) in [0, 1], 1 on the object.
    cameras: N, in our world: the object at the origin, view 0 at distance 1 and looking at it, +Y up (see `normalise`).
    name: the object's, unique in its data set.
    upright: whether +Y is the source's true up; if not, view 0 is only taken to stand at elevation 22.5 degrees.
    depth: (N, 1, S, S), distance from the camera along each pixel's ray in our units, 0 off the object; or None.
    placement: how the source's world moved into ours, e.g. for its meshes; or None.
    """

    rgb: Tensor
    mask: Tensor
    cameras: Cameras
    name: str
    upright: bool = True
    depth: Tensor | None = None
    placement: Placement | None = None

    def __post_init__(self) -> None:
        check_shape("PosedViews.rgb", self.rgb, ("N", 3, "S", "S"), "channels come first")
        views, _, height, width = self.rgb.shape
        if not views or height != width:
            raise InputError(f"PosedViews.rgb must hold square views, got {tuple(self.rgb.shape)}; crop them square")
        check_shape("PosedViews.mask", self.mask, (views, 1, height, width))
        if self.depth is not None:
            check_shape("PosedViews.depth", self.depth, (views, 1, height, width))
        check_shape("PosedViews.cameras", self.cameras.camera_to_world, (views, 4, 4), "one camera a view")
        for name, value in (("rgb", self.rgb), ("mask", self.mask)):
            if not (value.min() >= -1e-4 and value.max() <= 1 + 1e-4):
                low, high = float(value.min()), float(value.max())
                raise InputError(f"PosedViews.{name} must be in [0, 1], got [{low:.3g}, {high:.3g}]; rescale it")
        first = self.cameras.camera_to_world[0]
        if (first[:3, 3] - first[:3, 2]).norm() > 1e-3:
            raise InputError(
                "view 0 of PosedViews must look at the origin from distance 1, "
                f"got a centre at {first[:3, 3].tolist()}; pass the cameras through normalise"
            )

    def __len__(self) -> int:
        return self.rgb.shape[0]

    def chosen(self, views: Sequence[int]) -> PosedViews:
        """Some of the views, in the given order; the first of them becomes the reference.

        Our world moves with the reference: distance 1 and azimuth 0 are then those of the new view 0, and depths
        change their unit with it. The present origin is taken for the object's centre (see `normalise`).
        """
        index = checked_views(views, len(self), self.name)
        up = torch.tensor([0.0, 1.0, 0.0]) if self.upright else None
        picked = torch.tensor(index)
        cameras, move = normalise(self.cameras[picked], center=torch.zeros(3), up=up)
        return PosedViews(
            rgb=self.rgb[picked],
            mask=self.mask[picked],
            cameras=cameras,
            name=self.name,
            upright=self.upright,
            depth=None if self.depth is None else self.depth[picked] * move.scale,
            placement=None if self.placement is None else move.after(self.placement),
        )


class MultiViewDataset(Protocol):
    """Objects that can be read one at a time; the same index gives the same object every time.

    Items that are broken at sight (a missing folder, a truncated list, an absurd camera) are left out of `len`; those
    that prove broken when their pixels are read make `read` raise. Both are in `skipped`.
    """

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(item, reason) of all that was left out so far, objects and single views, each once."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> PosedViews:
        """Object `index` with all its views."""
        ...

    def view_count(self, index: int) -> int:
        """How many views object `index` has."""
        ...

    def read(self, index: int, views: Sequence[int] | None = None) -> PosedViews:
        """Object `index` with the chosen views in the given order, the first as reference; None means all."""
        ...

    def draw(self, index: int, count: int, generator: torch.Generator) -> PosedViews:
        """Object `index` with `count` views chosen at random by the generator; fewer where it has fewer."""
        ...


def shuffled_views(available: int, generator: torch.Generator) -> list[int]:
    """All numbers below `available` in random order."""
    return torch.randperm(available, generator=generator).tolist()


def readable_views(
    order: Sequence[int],
    count: int,
    read: Callable[[int], View],
    *,
    name: str,
    skipped: list[tuple[str, str]],
    whole: bool,
) -> list[tuple[int, View]]:
    """The first `count` views of `order` that `read` can read, with their numbers.

    Args:
        name: the object's; broken views are noted in `skipped` under it.
        whole: whether a broken view is an error; else the next one steps in.
    """
    found: list[tuple[int, View]] = []
    for view in order:
        if len(found) == count:
            break
        try:
            found.append((view, read(view)))
        except UpFusionError as error:
            note(skipped, f"{name} view {view}", str(error))
            if whole:
                raise
    return found


def none_readable(name: str, order: Sequence[int], skipped: list[tuple[str, str]]) -> InputError:
    """The error of an object none of whose views `order` could be read; it tells why one of them could not."""
    views = {f"{name} view {view}" for view in order}
    reason = next((f"{item}: {reason}" for item, reason in skipped if item in views), "give it views")
    return InputError(f"{name} must have a view that can be read, got none of {len(order)}; {reason}")


def note(skipped: list[tuple[str, str]], item: str, reason: str) -> None:
    """Adds what was left out to a data set's list, unless it is there already."""
    if (item, reason) not in skipped:
        skipped.append((item, reason))


def checked_views(views: Sequence[int] | None, available: int, name: str) -> list[int]:
    """The views asked for, or all where that is None. Raises InputError if one does not exist, or none is wanted."""
    index = list(range(available)) if views is None else [int(view) for view in views]
    if not index or min(index) < 0 or max(index) >= available:
        raise InputError(f"views of {name} must be numbers from 0 to {available - 1}, at least one, got {index}")
    return index
