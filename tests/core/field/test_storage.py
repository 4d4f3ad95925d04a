from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from upfusion_core.config import FieldConfig, FitConfig, GridConfig, RaySampling
from upfusion_core.field.fitting import FieldFitter
from upfusion_core.field.radiance import FORMAT, RadianceField, load_field
from upfusion_core.geometry import orbit_cameras
from upfusion_core.support.errors import CheckpointError, FieldError, InputError

TINY = FieldConfig(grid=GridConfig(levels=2, coarsest=4, finest=8, table_size=256), hidden=8, half_extent=0.4)


@pytest.fixture
def field() -> RadianceField:
    return RadianceField(TINY, generator=torch.Generator().manual_seed(3))


def _rewritten(path: Path, change) -> None:  # noqa: ANN001
    with safe_open(path, framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())  # noqa: SIM118
    change(tensors, metadata)
    save_file(tensors, path, metadata=metadata)


def test_round_trip(field: RadianceField, tmp_path: Path) -> None:
    path = tmp_path / "new" / "field.safetensors"
    field.save(path, cameras=orbit_cameras([0, 30]), settings={"preset": "draft", "seed": 4})
    stored = load_field(path)
    assert stored.field.config == TINY
    assert stored.settings == {"preset": "draft", "seed": 4}
    assert torch.equal(stored.cameras.camera_to_world, orbit_cameras([0, 30]).camera_to_world)
    points = torch.rand(9, 3) - 0.5
    assert torch.equal(stored.field.density(points), field.density(points))
    assert torch.equal(stored.field.color(points), field.color(points))
    assert torch.equal(stored.field.aabb, field.aabb)
    assert not stored.field.render(stored.cameras, 4).rgb.requires_grad
    assert [entry.name for entry in path.parent.iterdir()] == ["field.safetensors"]


def test_cameras_and_settings_may_be_left_out(field: RadianceField, tmp_path: Path) -> None:
    field.save(tmp_path / "field.safetensors")
    stored = load_field(tmp_path / "field.safetensors")
    assert stored.cameras is None
    assert stored.settings == {}


def test_a_broken_field_is_not_saved(field: RadianceField, tmp_path: Path) -> None:
    torch.nn.init.constant_(field.mlp[0].bias, float("inf"))
    with pytest.raises(FieldError, match=r"mlp\.0\.bias"):
        field.save(tmp_path / "field.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, _: tensors.pop("mlp.1.bias"), r"missing mlp\.1\.bias"),
        (lambda tensors, _: tensors.update(extra=torch.ones(1)), "unexpected extra"),
        (lambda tensors, _: tensors.update({"mlp.0.bias": torch.ones(3)}), r"\(3,\) instead of \(8,\)"),
        (lambda tensors, _: tensors["grid.table"].fill_(float("nan")), r"NaN or infinite values in grid\.table"),
        (lambda _, metadata: metadata.pop(FORMAT), "is not a field"),
        (lambda _, metadata: metadata.update({FORMAT: "{"}), "must be JSON"),
        (lambda _, metadata: metadata.update({FORMAT: json.dumps({"config": {}})}), "cannot read"),
        (
            lambda _, metadata: metadata.update({FORMAT: metadata[FORMAT].replace('"levels": 2', '"levels": 0')}),
            "levels must be between",
        ),
    ],
)
def test_a_wrong_file_is_refused(field: RadianceField, tmp_path: Path, change, message: str) -> None:  # noqa: ANN001
    path = tmp_path / "field.safetensors"
    field.save(path)
    _rewritten(path, change)
    with pytest.raises(CheckpointError, match=message):
        load_field(path)


def test_a_damaged_or_missing_file_is_refused(field: RadianceField, tmp_path: Path) -> None:
    path = tmp_path / "field.safetensors"
    field.save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"must be a whole \.safetensors file, but cannot be read"):
        load_field(path)
    path.write_bytes(b"not a field")
    with pytest.raises(CheckpointError, match=r"must be a whole \.safetensors file, but cannot be read"):
        load_field(path)
    with pytest.raises(CheckpointError, match="not a file"):
        load_field(tmp_path / "none.safetensors")


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
def test_what_no_file_could_give_back_is_not_written(field: RadianceField, tmp_path: Path, given, message) -> None:  # noqa: ANN001
    with pytest.raises(InputError, match=message):
        field.save(tmp_path / "field.safetensors", **given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", [None, 5, True, b"x", ""])
def test_what_is_no_path_is_refused(field: RadianceField, path: object) -> None:
    for ask in (field.save, load_field):
        with pytest.raises(InputError, match="path must be a path, got"):
            ask(path)


def test_making_and_loading_a_field_leaves_torchs_generator_alone(field: RadianceField, tmp_path: Path) -> None:
    field.save(tmp_path / "field.safetensors")
    before = torch.get_rng_state()
    RadianceField(TINY)
    load_field(tmp_path / "field.safetensors")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_frozen_field_can_be_fitted_further(field: RadianceField, tmp_path: Path) -> None:
    field.save(tmp_path / "field.safetensors")
    loaded = load_field(tmp_path / "field.safetensors").field
    fit = FitConfig(iterations=2, rays=16, occupancy_cells=0, sampling=RaySampling(8, 0))
    generator = torch.Generator().manual_seed(0)
    fitter = FieldFitter(loaded, orbit_cameras([0.0]), torch.zeros(1, 3, 4, 4), config=fit, generator=generator)
    while not fitter.done:
        fitter.step()
    assert not torch.equal(loaded.mlp[0].weight, field.mlp[0].weight)
