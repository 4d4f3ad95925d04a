"""What all readers of recorded views share: choosing, framing, normalising, and counting what is broken."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from ..checks import check_count, check_range
from ..errors import UpFusionError
from ..types import Cameras
from .examples import PosedViews, checked_views, none_readable, note, readable_views, shuffled_views
from .framing import Frame, framed
from .normalise import normalise


class RecordedViews(ABC):
    """Objects recorded as pictures with cameras, a `MultiViewDataset`; a format says where its frames are.

    Args:
        size: side of the views in pixels.
        margin: side of each view's crop over the longer side of the object's box; None keeps whole pictures.
    """

    def __init__(self, size: int, margin: float | None) -> None:
        check_count("size", size, 1, 4096)
        if margin is not None:
            check_range("margin", margin, 1.0, 8.0)
        self.size, self.margin = size, margin
        self.skipped: list[tuple[str, str]] = []

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, index: int) -> str:
        """What object `index` is called; raises IndexError where there is none."""

    @abstractmethod
    def view_count(self, index: int) -> int:
        """How many views object `index` has, broken ones included that only reading finds."""

    @abstractmethod
    def _frame(self, index: int, view: int) -> Frame:
        """One frame of an object; raises an UpFusionError if its camera cannot be read."""

    @abstractmethod
    def _world(self, index: int) -> tuple[Tensor, Tensor | None]:
        """Of the recording's world: the object's centre (3,), and the direction (3,) that is up, if known."""

    def __getitem__(self, index: int) -> PosedViews:
        """Object `index` with all its views; see `read`."""
        return self.read(index)

    def read(self, index: int, views: Sequence[int] | None = None) -> PosedViews:
        """Object `index` with the chosen views in the given order, the first as reference.

        Without `views` it has all that can be read; the others are noted in `skipped`.

        Raises:
            UpFusionError: a chosen view is broken, or all are (noted in `skipped`), or does not exist.
            IndexError: there is no such object.
        """
        wanted = checked_views(views, self.view_count(index), self.name(index))
        return self._assembled(index, wanted, len(wanted), whole=views is not None)

    def draw(self, index: int, count: int, generator: torch.Generator) -> PosedViews:
        """Object `index` with `count` views drawn without replacement; others step in for broken ones.

        Raises:
            UpFusionError: none of its views can be read.
        """
        available = self.view_count(index)
        check_count("count", count, 1)
        return self._assembled(index, shuffled_views(available, generator), count, whole=False)

    def _assembled(self, index: int, order: list[int], count: int, *, whole: bool) -> PosedViews:
        """The first `count` readable views of `order`; with `whole`, a broken one is an error."""
        name = self.name(index)

        def read(view: int) -> tuple[Tensor, Tensor, Cameras]:
            return framed(self._frame(index, view), self.size, self.margin)

        found = [view for _, view in readable_views(order, count, read, name=name, skipped=self.skipped, whole=whole)]
        try:
            if not found:
                raise none_readable(name, order, self.skipped)
            center, up = self._world(index)
            cameras, placement = normalise(
                Cameras.concatenate([camera for _, _, camera in found]), center=center, up=up
            )
        except UpFusionError as error:
            note(self.skipped, name, str(error))
            raise
        return PosedViews(
            rgb=torch.stack([rgb for rgb, _, _ in found]),
            mask=torch.stack([mask for _, mask, _ in found]),
            cameras=cameras,
            name=name,
            upright=up is not None,
            placement=placement,
        )
