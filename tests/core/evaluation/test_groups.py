from __future__ import annotations

import pytest

from upfusion_core.evaluation.protocol import held_out_groups
from upfusion_core.procedural import ProceduralObjects
from upfusion_core.support.errors import InputError


def test_objects_take_turns_between_the_groups() -> None:
    objects = ProceduralObjects("held_out")
    groups = held_out_groups(objects, 5)
    assert [(group.name, list(group.indices)) for group in groups] == [
        ("held_out_combination", [0, 2, 4]),
        ("held_out_pattern", [1, 3]),
    ]
    assert all(group.dataset is objects for group in groups)
    assert [group.name for group in held_out_groups(objects, 1)] == ["held_out_combination"]
    assert held_out_groups(objects, 0) == []


def test_refusals() -> None:
    with pytest.raises(InputError, match="split held_out, got test; open that one"):
        held_out_groups(ProceduralObjects("test"), 2)
    with pytest.raises(InputError, match="count must be"):
        held_out_groups(ProceduralObjects("held_out"), -1)
