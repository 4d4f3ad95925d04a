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
    rules = ((overfit.count_colors, 3), (overfit.asymmetry, 0.04), (overfit.least_width, 0.5))
    found = [[rule(objects[place]) >= least for rule, least in rules] for place in range(3)]
    assert found == [[False, False, False], [True, True, True], [True, False, True]]


@pytest.mark.slow
def test_all_stages_learn_one_object(overfit: ModuleType, tmp_path: Path) -> None:
    """Minutes to half an hour of one core; the figures are those of `python benchmarks/overfit.py -o OUT`."""
    figures = overfit.overfit(tmp_path)
    assert figures["prediction"] >= overfit.BOUNDS["prediction"] == 25
    assert figures["samples"] >= overfit.BOUNDS["samples"] == 22
