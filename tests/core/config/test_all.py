"""What holds of every configuration: help, defaults that are allowed, a JSON form that comes back, plain pickles."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import pytest

from upfusion_core import config
from upfusion_core.config import DistillConfig, DraftSchedule, FastSchedule, ReferenceSchedule, TrainConfig
from upfusion_core.support.errors import InputError

DEFAULTS = {
    name: kind(train_upsrt=True) if kind is TrainConfig else kind()
    for name, kind in vars(config).items()
    if isinstance(kind, type) and hasattr(kind, "__pydantic_fields__")
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_option_has_help_and_a_default_in_its_range(name: str) -> None:
    value = DEFAULTS[name]
    assert config.from_json(type(value), json.dumps(config.to_json(value)), "it") == value
    assert pickle.loads(pickle.dumps(value)) == value
    for option in config.options(type(value)).values():
        assert option.help.endswith("."), option.name
        numbers = option.default if option.several else (option.default,)
        for number in numbers:
            assert option.low is None or number >= option.low
            assert option.high is None or number <= option.high
            assert not option.choices or number in option.choices


def test_all_classes_are_there() -> None:
    assert len(DEFAULTS) == 17


def test_what_files_of_older_releases_lack_takes_its_default() -> None:
    assert config.ModelConfig.from_dict({"model_id": "a", "vae": {"ch": 64}}).vae == config.VaeConfig(ch=64)
    assert config.from_value(config.FieldConfig, {"grid": {"levels": 4}}, "it").grid.features == 2
    assert TrainConfig.from_dict({"stage": "autoencoder", "model": {"model_id": "a"}}).curriculum == (0, 0)


def test_a_second_preset_of_a_schedule_keeps_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(config.distill._SCHEDULES, "patient", FastSchedule)
    patient = DistillConfig(schedule=FastSchedule(cameras=64), preset="patient")
    assert config.from_json(DistillConfig, json.dumps(patient.to_dict()), "it") == patient
    assert replace(patient, schedule=DraftSchedule()).preset == "draft"
    assert DistillConfig().preset == "fast"


def test_names_of_presets() -> None:
    assert DistillConfig(schedule=ReferenceSchedule()).preset == "reference"
    assert replace(DistillConfig.fast(), schedule=DraftSchedule()).preset == "draft"
    quick = DistillConfig(schedule=FastSchedule(cameras=16), preset="quick")
    assert (quick.preset, replace(quick, guidance=3.0).to_dict()["preset"]) == ("quick", "quick")
    with pytest.raises(InputError, match=r"preset must be one of draft, fast, reference, got 'quick'"):
        DistillConfig.named("quick")
