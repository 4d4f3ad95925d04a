"""One scheme of seeds: a stream of random numbers for each purpose, none of which another one shares."""

from __future__ import annotations

import hashlib

import torch


def derived_seed(*parts: int | str) -> int:
    """A seed in 0 … 2^63 - 1 that follows from `parts`, such as a seed, a purpose and a step; nearby ones differ."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int | str, *purpose: int | str) -> torch.Generator:
    """A CPU generator of the seed that follows from `seed` and `purpose`, e.g. `generator(0, "objects", 3)`."""
    return torch.Generator().manual_seed(derived_seed(seed, *purpose))
