"""Random numbers that depend on the seed, the step and the example alone, not on how a batch is split up."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor


def derived_seed(*parts: int | str) -> int:
    """A seed in 0 … 2^63 - 1 that follows from `parts`; nearby steps get unrelated ones."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class Draws:
    """Draws for one shard of a batch.

    They are made for the whole batch and cut: `shards` small batches, on one process after another or on several at
    once, get together exactly the numbers of the large one.

    Args:
        seed: of the whole batch (see `derived_seed`).
        shard, shards: which part of the batch this is. All parts hold equally many examples.
        device: where the numbers are made; each device has its own.
    """

    def __init__(self, seed: int, shard: int = 0, shards: int = 1, device: torch.device | str = "cpu") -> None:
        self.generator = torch.Generator(device).manual_seed(seed)
        self.shard, self.shards = shard, shards

    def uniform(self, count: int, *shape: int) -> Tensor:
        """`(count, *shape)` float32, uniform in [0, 1); `count` examples of this shard."""
        return self._part(torch.rand, count, shape)

    def normal(self, count: int, *shape: int) -> Tensor:
        """`(count, *shape)` float32, standard normal."""
        return self._part(torch.randn, count, shape)

    def _part(self, draw: Callable[..., Tensor], count: int, shape: tuple[int, ...]) -> Tensor:
        whole = draw(count * self.shards, *shape, generator=self.generator, device=self.generator.device)
        return whole[self.shard * count : (self.shard + 1) * count]
