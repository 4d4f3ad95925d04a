"""The training code overfits one object: an asymmetric one of three colours that fills half the frame's width."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[3] / "benchmarks" / "overfit.py"


@pytest.fixture(scope="module")
def overfit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("overfit_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_rule_tells_objects_apart(overfit: ModuleType) -> None:
    """Object 15 is of three ellipsoids of three colours; object 4 is of one colour, 20 the same from everywhere."""
    objects = overfit.ProceduralObjects("train").objects([4, 15, 20])
    assert [overfit.count_colors(objects[place]) >= 3 for place in range(3)] == [False, True, True]
    assert [overfit.asymmetry(objects[place]) >= 0.04 for place in range(3)] == [False, True, False]
    assert [overfit.least_width(objects[place]) >= 0.5 for place in range(3)] == [False, True, True]


def test_batches_are_functions_of_the_step(overfit: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    thing = overfit.ProceduralObjects("train").objects([15])
    monkeypatch.setattr(overfit, "TRAINING_CAMERAS", 16)
    source = overfit.OneObject(thing, size=16, targets=3, seed=0)
    first, again, other = source.batch(0), source.batch(0), source.with_targets(2).batch(1)
    assert torch.equal(first.targets, again.targets)
    assert first.targets.shape == (1, 3, 3, 16, 16)
    assert other.targets.shape == (1, 2, 3, 16, 16)
    assert torch.equal(first.photos, other.photos)


@pytest.mark.slow
def test_all_stages_learn_one_object(overfit: ModuleType, tmp_path: Path) -> None:
    """Minutes to half an hour of one core; the figures are those of `python benchmarks/overfit.py -o OUT`."""
    figures = overfit.overfit(tmp_path)
    assert figures["prediction"] >= overfit.BOUNDS["prediction"] == 25
    assert figures["samples"] >= overfit.BOUNDS["samples"] == 22
