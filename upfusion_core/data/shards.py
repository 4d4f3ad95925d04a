"""WebDataset shards as a data set: any object by its number, and an order that visits shard after shard."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..checks import check_count
from ..errors import InputError, UpFusionError
from ..types import Cameras
from .examples import PosedViews, checked_views, none_readable, note, readable_views, shuffled_views
from .normalise import normalise
from .shards_format import Member, SampleHeader, decoded_depth, decoded_header, decoded_view
from .shards_index import Sample, Shard, listed_shards, samples_of

MIXED_SHARDS = 8
"""Neighbours in the order of a pass whose objects are mixed."""
_REMEMBERED_SHARDS = 64
"""Of which the places of all members are kept, a few MB each at most."""
_LARGEST_MEMBER = 128_000_000
"""Bytes; what is larger was not packed by us."""


class ShardedViews:
    """Objects packed by `upfusion pack`, a `MultiViewDataset`. Nothing in them is ever run: see `shards_format`.

    A shard that is missing, or cut short, and objects and views that are damaged, are left out and noted in `skipped`.
    Reading takes one seek an object, and from several threads at once is safe.

    Args:
        root: a folder of shards, with the index that `upfusion pack` writes or without one; or one .tar file.
        size: side of the views in pixels; None keeps the packed one.

    Raises:
        InputError: the index is damaged, or there is no shard with an object.
    """

    def __init__(self, root: str | os.PathLike[str], *, size: int | None = None) -> None:
        if size is not None:
            check_count("size", size, 1, 4096)
        self.size = size
        self.skipped: list[tuple[str, str]] = []
        self._shards: list[Shard] = listed_shards(Path(root), self.skipped)
        self._ends = list(accumulate(shard.objects for shard in self._shards))
        self._samples: OrderedDict[int, list[Sample]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> PosedViews:
        """Object `index` with all its views; see `read`."""
        return self.read(index)

    def order(self, generator: torch.Generator) -> Tensor:
        """(len,) every object's number once: shards in random order, the objects of some neighbours mixed.

        So a pass reads shard after shard, as slow or distant disks want it.
        """
        shards = torch.randperm(len(self._shards), generator=generator).tolist()
        parts = []
        for begin in range(0, len(shards), MIXED_SHARDS):
            numbers = torch.cat([self._numbers(shard) for shard in shards[begin : begin + MIXED_SHARDS]])
            parts.append(numbers[torch.randperm(len(numbers), generator=generator)])
        return torch.cat(parts)

    def view_count(self, index: int) -> int:
        """How many views object `index` has, broken ones included; raises like `read`."""
        return len(self._header(index)[0].cameras)

    def read(self, index: int, views: Sequence[int] | None = None) -> PosedViews:
        """Object `index` with the chosen views in the given order, the first as reference.

        Without `views` it has all that can be read; the others are noted in `skipped`.

        Raises:
            InputError: a chosen view is broken, or all are (noted in `skipped`), or does not exist.
            IndexError: there is no such object.
        """
        header, member = self._header(index)
        wanted = checked_views(views, len(header.cameras), header.name)
        return self._assembled(header, member, wanted, len(wanted), whole=views is not None)

    def draw(self, index: int, count: int, generator: torch.Generator) -> PosedViews:
        """Object `index` with `count` views drawn without replacement; others step in for broken ones."""
        header, member = self._header(index)
        check_count("count", count, 1)
        order = shuffled_views(len(header.cameras), generator)
        return self._assembled(header, member, order, count, whole=False)

    def _assembled(
        self, header: SampleHeader, member: Member, order: list[int], count: int, *, whole: bool
    ) -> PosedViews:
        """The first `count` readable views of `order`; with `whole`, a broken one is an error."""
        size = self.size or header.size

        def read(view: int) -> tuple[Tensor, Tensor]:
            return decoded_view(header, view, member, size)

        found = readable_views(order, count, read, name=header.name, skipped=self.skipped, whole=whole)
        try:
            if not found:
                raise none_readable(header.name, order, self.skipped)
            chosen = [view for view, _ in found]
            cameras, scale = _moved(header, chosen)
            return PosedViews(
                rgb=torch.stack([rgb for _, (rgb, _) in found]),
                mask=torch.stack([mask for _, (_, mask) in found]),
                cameras=cameras,
                name=header.name,
                upright=header.upright,
                depth=_depth(header, chosen, member, size, scale),
            )
        except UpFusionError as error:
            note(self.skipped, header.name, str(error))
            raise

    def _header(self, index: int) -> tuple[SampleHeader, Member]:
        """An object's header, and its members as a function; what is damaged is noted."""
        index = range(len(self))[index]  # raises IndexError, so that iteration ends
        number = int(np.searchsorted(self._ends, index, side="right"))
        shard, place = self._shards[number], index - (self._ends[number - 1] if number else 0)
        samples, item = self._opened(number), f"{shard.path.name} object {place}"
        try:
            if place >= len(samples):
                raise InputError(f"{shard.path.name} must hold {shard.objects} objects, but {len(samples)} can be read")
            sample = samples[place]

            def member(ending: str) -> bytes:
                return _content(shard.path, sample, ending)

            return decoded_header(member("json")), member
        except UpFusionError as error:
            note(self.skipped, item, str(error))
            raise

    def _opened(self, number: int) -> list[Sample]:
        """The samples of a shard; those of the shards used last are remembered."""
        with self._lock:
            if number in self._samples:
                self._samples.move_to_end(number)
                return self._samples[number]
            shard = self._shards[number]
            samples, trouble = samples_of(shard.path)
            if trouble:
                note(self.skipped, shard.path.name, trouble)
            self._samples[number] = samples
            if len(self._samples) > _REMEMBERED_SHARDS:
                self._samples.popitem(last=False)
            return samples

    def _numbers(self, shard: int) -> Tensor:
        return torch.arange(self._ends[shard - 1] if shard else 0, self._ends[shard])


def _content(path: Path, sample: Sample, ending: str) -> bytes:
    """One member of a sample. Raises InputError if there is none, or it cannot be read."""
    if ending not in sample.members:
        raise InputError(f"its {ending} is missing; pack it again")
    first, size = sample.members[ending]
    if size > _LARGEST_MEMBER:
        raise InputError(f"its {ending} has {size} bytes, more than anything that is packed; pack it again")
    try:
        with path.open("rb") as file:
            file.seek(first)
            return file.read(size)
    except OSError as error:
        raise InputError(f"{path.name} cannot be read ({error.strerror}); copy it again") from error


def _moved(header: SampleHeader, chosen: list[int]) -> tuple[Cameras, float]:
    """Cameras of the chosen views in the world of the first of them, and that world's unit; see PosedViews.chosen."""
    if chosen[0] == 0:
        return header.cameras[torch.tensor(chosen)], 1.0
    up = torch.tensor([0.0, 1.0, 0.0]) if header.upright else None
    cameras, move = normalise(header.cameras[torch.tensor(chosen)], center=torch.zeros(3), up=up)
    return cameras, move.scale


def _depth(header: SampleHeader, chosen: list[int], member: Member, size: int, scale: float) -> Tensor | None:
    """(N, 1, size, size) depths, or None where they were not packed."""
    if not header.depth:
        return None
    return torch.stack([decoded_depth(header, view, member, size) for view in chosen]) * scale
