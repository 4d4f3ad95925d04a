"""The training code overfits one object: an asymmetric one of three colours that fills half the frame's width."""

from pathlib import Path
from types import ModuleType

import pytest
from documented_programs import ROOT, loaded


@pytest.fixture(scope="module")
def overfit() -> ModuleType:
    return loaded(ROOT / "benchmarks" / "overfit.py")


def test_the_rule_tells_objects_apart(overfit: ModuleType) -> None:
    """Object 15 is of three ellipsoids of three colours; object 4 is of one colour, 20 the same from everywhere."""
    objects = overfit.ProceduralObjects("train").objects([4, 15, 20])
    assert [overfit.count_colors(objects[place]) >= 3 for place in range(3)] == [False, True, True]
    assert [overfit.asymmetry(objects[place]) >= 0.04 for place in range(3)] == [False, True, False]
    assert [overfit.least_width(objects[place]) >= 0.5 for place in range(3)] == [False, True, True]


@pytest.mark.slow
def test_all_stages_learn_one_object(overfit: ModuleType, tmp_path: Path) -> None:
    """Minutes to half an hour of one core; the figures are those of `python benchmarks/overfit.py -o OUT`."""
    figures = overfit.overfit(tmp_path)
    assert figures["prediction"] >= overfit.BOUNDS["prediction"] == 25
    assert figures["samples"] >= overfit.BOUNDS["samples"] == 22
