"""Which seeds make which split, read from the frozen file splits.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..support.errors import InputError
from .shapes import PATTERNS, ROLES

_FROZEN = json.loads((Path(__file__).parent / "splits.json").read_text(encoding="utf-8"))

GENERATOR_VERSION: int = _FROZEN["generator_version"]
"""Raised whenever the same seed would give another object."""
_FIRST, _SECOND = _FROZEN["held_out_combination"]
HELD_OUT_ROLES: tuple[int, int] = ROLES.index(_FIRST), ROLES.index(_SECOND)
"""Two roles that no object of train, validation or test has together."""
HELD_OUT_PATTERN: int = PATTERNS.index(_FROZEN["held_out_pattern"])
"""A pattern that no object of train, validation or test wears."""


@dataclass(frozen=True)
class Split:
    """Seeds first_seed ... first_seed + objects - 1 of one split, below 2^32, where torch's generator wraps."""

    name: str
    first_seed: int
    objects: int

    def seeds(self, indices: torch.Tensor | Sequence[int]) -> list[int]:
        """The seeds of objects 0 ... objects - 1; raises InputError outside of them."""
        chosen = [int(index) for index in indices]
        if chosen and not 0 <= min(chosen) <= max(chosen) < self.objects:
            raise InputError(
                f"objects of split {self.name!r} are numbered 0 to {self.objects - 1}, "
                f"got {min(chosen)} to {max(chosen)}; take indices in that range"
            )
        return [self.first_seed + index for index in chosen]


SPLITS: dict[str, Split] = {name: Split(name, **numbers) for name, numbers in _FROZEN["splits"].items()}
"""train, validation, test, and held_out: even indices have the held-out roles, odd ones the held-out pattern."""
