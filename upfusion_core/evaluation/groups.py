"""Objects that are reported apart from the others, such as those of a kind that was never trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..checks import check_count
from ..data.examples import MultiViewDataset
from ..data.procedural import ProceduralObjects
from ..data.procedural.shapes import PATTERNS, ROLES
from ..data.procedural.splits import HELD_OUT_PATTERN, HELD_OUT_ROLES
from ..errors import InputError


@dataclass(frozen=True, eq=False)
class Group:
    """Objects with results of their own.

    name: of the group in reports and of its objects' files. title: what is special about them, for readers.
    dataset, indices: the objects. Where the data set is the one that is evaluated anyway, they are some of its objects;
    those of another are evaluated too, and count in no other results.
    """

    name: str
    title: str
    dataset: MultiViewDataset
    indices: Sequence[int]


def held_out_groups(dataset: ProceduralObjects, count: int) -> list[Group]:
    """The first `count` objects of the split "held_out", parted by what training has never shown of them.

    Half of them have the combination of parts, half the pattern that no object of another split has.
    """
    check_count("count", count, 0, len(dataset))
    if dataset.split != "held_out":
        raise InputError(f"expected objects of the split held_out, got {dataset.split}; open that one")
    first, second = (ROLES[role] for role in HELD_OUT_ROLES)
    groups = [
        Group(
            "held_out_combination",
            f"parts that were never trained on together: {first} and {second}",
            dataset,
            range(0, count, 2),
        ),
        Group(
            "held_out_pattern",
            f"a pattern that was never trained on: {PATTERNS[HELD_OUT_PATTERN]}",
            dataset,
            range(1, count, 2),
        ),
    ]
    return [group for group in groups if len(group.indices)]
