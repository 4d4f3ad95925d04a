"""Presets and their names; numbers of a distillation that mean nothing are refused where they are given."""

from dataclasses import replace
from typing import get_args

import pytest
from refusals import refused

from upfusion_core import DistillConfig
from upfusion_core.config import PRESETS, DraftSchedule, FastSchedule, FieldConfig, ReferenceSchedule, from_value
from upfusion_core.config.field import FitConfig, Preset


def test_names_of_presets_and_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tuple(PRESETS) == get_args(Preset)
    assert DistillConfig().preset == "fast"
    assert DistillConfig(schedule=ReferenceSchedule()).preset == "reference"
    assert replace(DistillConfig.fast(), schedule=DraftSchedule()).preset == "draft"
    quick = DistillConfig(schedule=FastSchedule(cameras=16), preset="quick")
    assert (quick.preset, replace(quick, guidance=3.0).to_dict()["preset"]) == ("quick", "quick")
    monkeypatch.setitem(PRESETS, "patient", {"schedule": FastSchedule(cameras=64)})  # a second one of a schedule
    patient = DistillConfig.named("patient")
    assert patient == from_value(DistillConfig, patient.to_dict(), "it")
    assert patient == DistillConfig(schedule=FastSchedule(cameras=64), preset="patient")
    assert replace(patient, schedule=DraftSchedule()).preset == "draft"
    refused(r"preset must be one of draft, fast, reference, patient, got 'quick'", DistillConfig.named, "quick")
    refused("^predicted_iterations", FastSchedule, predicted_iterations=497)
    refused("noise indices", ReferenceSchedule, highest_index=31)
    refused("noise indices", ReferenceSchedule, lowest_index=0)
    refused("fit.iterations must be", FastSchedule, fit=FitConfig(iterations=3), predicted_iterations=1)


def test_a_field_becomes_as_fine_as_pictures_are() -> None:
    """Of 0.6 wide: 192 cells of growth 2.289 a level; 691 need two levels more, 30 one level's growth alone."""
    small = FieldConfig.small()
    for cells, levels in ((192, 4), (691, 6), (30, 2), (3, 1)):
        grid = small.as_fine_as(0.6 / cells).grid
        assert (grid.finest, grid.levels) == (max(cells, 16), levels)
