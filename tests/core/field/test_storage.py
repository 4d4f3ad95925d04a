"""Files of fields: what comes back, what is not written, and files that lie, refused before any field is made."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from refusals import refused
from safetensors import safe_open
from safetensors.torch import save_file

from upfusion_core.config import FieldConfig, FitConfig, GridConfig, RaySampling
from upfusion_core.field.fitting import FieldFitter
from upfusion_core.field.radiance import FORMAT, RadianceField, load_field
from upfusion_core.geometry import orbit_cameras
from upfusion_core.support.errors import CheckpointError, FieldError

TINY = FieldConfig(grid=GridConfig(levels=2, coarsest=4, finest=8, table_size=256), hidden=8, half_extent=0.4)
DAMAGED = r"must be a whole \.safetensors file, but cannot be read"


@pytest.fixture
def field() -> RadianceField:
    return RadianceField(TINY, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def stored(field: RadianceField, tmp_path: Path) -> Path:
    path = tmp_path / "new" / "field.safetensors"
    field.save(path, cameras=orbit_cameras([0, 30]), settings={"preset": "draft", "seed": 4})
    return path


def test_round_trip(field: RadianceField, stored: Path) -> None:
    found = load_field(stored)
    assert found.field.config == TINY
    assert found.settings == {"preset": "draft", "seed": 4}
    assert torch.equal(found.cameras.camera_to_world, orbit_cameras([0, 30]).camera_to_world)
    points = torch.rand(9, 3) - 0.5
    assert all(torch.equal(one, other) for one, other in zip(found.field(points), field(points), strict=True))
    assert torch.equal(found.field.aabb, field.aabb)
    assert not found.field.render(found.cameras, 4).rgb.requires_grad
    assert [entry.name for entry in stored.parent.iterdir()] == ["field.safetensors"]


def test_cameras_and_settings_may_be_left_out(field: RadianceField, tmp_path: Path) -> None:
    field.save(tmp_path / "field.safetensors")
    found = load_field(tmp_path / "field.safetensors")
    assert (found.cameras, found.settings) == (None, {})


def test_a_broken_field_is_not_saved(field: RadianceField, tmp_path: Path) -> None:
    torch.nn.init.constant_(field.mlp[0].bias, float("inf"))
    with pytest.raises(FieldError, match=r"mlp\.0\.bias"):
        field.save(tmp_path / "field.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"settings": {"loss": float("nan")}}, "settings must be what JSON can hold"),
        ({"settings": {"folder": Path("a")}}, "settings must be what JSON can hold"),
        ({"settings": {(1, 2): 3}}, "settings must be what JSON can hold"),
        ({"settings": 5}, "settings must be Mapping, got int"),
        ({"cameras": orbit_cameras([0])[:0]}, "at least one camera"),
        ({"cameras": [0]}, "cameras must be Cameras"),
    ],
)
def test_what_no_file_could_give_back_is_not_written(
    field: RadianceField, tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    refused(message, field.save, tmp_path / "field.safetensors", **given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", [None, 5, True, b"x", ""])
def test_what_is_no_path_is_refused(field: RadianceField, path: object) -> None:
    for ask in (field.save, load_field):
        refused("path must be a path, got", ask, path)


def test_making_and_loading_a_field_leaves_torchs_generator_alone(stored: Path) -> None:
    before = torch.get_rng_state()
    RadianceField(TINY)
    load_field(stored)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_frozen_field_can_be_fitted_further(field: RadianceField, stored: Path) -> None:
    loaded, generator = load_field(stored).field, torch.Generator().manual_seed(0)
    fit = FitConfig(iterations=2, rays=16, occupancy_cells=0, sampling=RaySampling(8, 0))
    fitter = FieldFitter(loaded, orbit_cameras([0.0]), torch.zeros(1, 3, 4, 4), config=fit, generator=generator)
    while not fitter.done:
        fitter.step()
    assert not torch.equal(loaded.mlp[0].weight, field.mlp[0].weight)


Change = Callable[[dict[str, Any], dict[str, torch.Tensor]], object]


def _spoil(stored: Path, change: Change) -> None:
    """Gives `change` the description and the tensors, and writes them again."""
    with safe_open(stored, framework="pt") as file:
        tensors, text = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()[FORMAT]  # noqa: SIM118
    content = json.loads(text)
    content = change(content, tensors) or content
    save_file(tensors, stored, metadata={FORMAT: content if isinstance(content, str) else json.dumps(content)})


def _grid(**values: object) -> Change:
    return lambda content, _: content["config"]["grid"].update(values)


def _config(**values: object) -> Change:
    return lambda content, _: content["config"].update(values)


def _cameras(**values: object) -> Change:
    return lambda content, _: content["cameras"].update(values)


def _whole(**values: object) -> Change:
    return lambda content, _: content.update(values)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_grid(levels=32, features=16, table_size=2**28, finest=2**16), r"grid\.table is .* instead of \(\d{10}, 16\)"),
        (_grid(levels=-1), "levels must be between 1 and 32, got -1"),
        (_grid(levels=2.0), r"levels must be a whole number, got 2\.0"),
        (_grid(features=10**9), "features must be between"),
        (_grid(finest=2), "finest must be between 4"),
        (_grid(table_size=255), "power of two"),
        (_grid(indexing=["hashed"]), "indexing must be one of"),
        (_grid(size=3), r'grid may have levels, .*, got "size"'),
        (_config(hidden=10**6), "hidden must be between"),
        (_config(layers=0), "layers must be between"),
        (_config(grid=5), "grid must be a JSON object, got 5"),
        (_config(half_extent=-1), "half_extent must be between"),
        (_config(blob_sigma=0), "blob_sigma must be between"),
        (_config(blob_weight=10**400), "blob_weight must be between"),
        (_config(blob_weight="5"), "blob_weight must be a number"),
        (_config(backend="cuda"), "backend must be one of"),
        (_cameras(focal=[[1, 2, 3], [4]]), "cannot read"),
        (_cameras(focal=[["a", "b"]] * 2), "cannot read"),
        (_cameras(focal=[[0, 0]] * 2), "focal must be above 0"),
        (_cameras(focal=[[10**400, 1]] * 2), "cannot read"),
        (_cameras(focal=7), "focal must be"),
        (_cameras(zoom=[[1, 1]] * 2), "cannot read"),
        (_cameras(camera_to_world=[[[1] * 4] * 4] * 2), "must be rigid"),
        (_cameras(camera_to_world=[[[1e30] * 4] * 4] * 2), "check its unit"),
        (_whole(cameras=5), "must be JSON objects, got 5"),
        (_whole(settings=[["a", 1]]), "must be JSON objects"),
        (_whole(settings=None), "must be JSON objects"),
        (_whole(config="text"), "cannot read"),
        (lambda content, _: content.pop("cameras") and None, "KeyError: 'cameras'"),
        (lambda *_: "[]", "TypeError"),
        (lambda *_: "{", "must be JSON"),
        (lambda *_: "NaN", "NaN is no number in JSON"),
        (lambda *_: "[" * 100_000, "nested too deeply"),
        (lambda *_: '{"config": ' + "1" * 5000 + "}", "digits"),
    ],
)
def test_descriptions_that_lie(stored: Path, change: Change, words: str) -> None:
    _spoil(stored, change)
    with pytest.raises(CheckpointError, match=words):
        load_field(stored)


def _tensor(name: str, value: torch.Tensor | None) -> Change:
    def change(_: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        tensors.pop(name, None)
        if value is not None:
            tensors[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_tensor("grid.table", None), r"missing grid\.table"),
        (_tensor("grid.table", torch.ones(3)), r"grid\.table is \(3,\) instead of"),
        (_tensor("mlp.0.bias", torch.ones(3)), r"\(3,\) instead of \(8,\)"),
        (_tensor("mlp.0.bias", torch.ones(8, dtype=torch.int64)), r"mlp\.0\.bias is torch\.int64 instead of"),
        (_tensor("mlp.0.bias", torch.ones(8, dtype=torch.float16)), r"mlp\.0\.bias is torch\.float16 instead of"),
        (_tensor("mlp.0.bias", torch.ones(8, dtype=torch.complex64)), r"mlp\.0\.bias is torch\.complex64 instead of"),
        (_tensor("mlp.0.bias", torch.full((8,), float("inf"))), r"NaN or infinite values in mlp\.0\.bias"),
        (_tensor("x" * 10**6, torch.ones(1)), r"unexpected x{100}; make"),
    ],
)
def test_tensors_that_do_not_fit(stored: Path, change: Change, words: str) -> None:
    _spoil(stored, change)
    with pytest.raises(CheckpointError, match=words) as error:
        load_field(stored)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("length", [0, 5, 2**40, 2**64 - 1])
def test_a_header_of_a_claimed_length(stored: Path, length: int) -> None:
    stored.write_bytes(struct.pack("<Q", length) + stored.read_bytes()[8:])
    with pytest.raises(CheckpointError, match=DAMAGED):
        load_field(stored)


def test_damaged_missing_and_other_files(stored: Path) -> None:
    for content in (stored.read_bytes()[:-100], b"not a field"):
        stored.write_bytes(content)
        with pytest.raises(CheckpointError, match=DAMAGED):
            load_field(stored)
    save_file({"weight": torch.ones(1)}, stored)
    with pytest.raises(CheckpointError, match="is not a field"):
        load_field(stored)
    for name in (stored.with_name("none.safetensors"), "x" * 5000, "a\0b"):
        with pytest.raises(CheckpointError, match="is not a file"):
            load_field(name)


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_shapes_are_known_without_a_field(layers: int) -> None:
    config = FieldConfig(grid=TINY.grid, hidden=6, layers=layers)
    state = RadianceField(config).state_dict()
    assert config.shapes == {name: tuple(value.shape) for name, value in state.items()}
