import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from refusals import raised, unfit
from safetensors import safe_open
from safetensors.torch import save_file

from upfusion_core.config import FieldConfig, FitConfig, GridConfig, RaySampling
from upfusion_core.field.fitting import FieldFitter
from upfusion_core.field.radiance import FORMAT, RadianceField, load_field
from upfusion_core.geometry import orbit_cameras
from upfusion_core.support.errors import FieldError

TINY = FieldConfig(grid=GridConfig(levels=2, coarsest=4, finest=8, table_size=256), hidden=8, half_extent=0.4)
GRID = ("config", "grid")


@pytest.fixture
def field() -> RadianceField:
    return RadianceField(TINY, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def stored(field: RadianceField, tmp_path: Path) -> Path:
    path = tmp_path / "new" / "field.safetensors"
    field.save(path, cameras=orbit_cameras([0, 30]), settings={"preset": "draft", "seed": 4})
    return path


def test_round_trip(field: RadianceField, stored: Path) -> None:
    before = torch.get_rng_state()
    found = load_field(stored)
    assert torch.equal(torch.get_rng_state(), before)
    assert found.field.config == TINY
    assert found.settings == {"preset": "draft", "seed": 4}
    assert torch.equal(found.cameras.camera_to_world, orbit_cameras([0, 30]).camera_to_world)
    points = torch.rand(9, 3) - 0.5
    assert all(torch.equal(one, other) for one, other in zip(found.field(points), field(points), strict=True))
    field.save(stored)
    assert [*stored.parent.iterdir()] == [stored]
    found = load_field(stored)
    assert (found.cameras, found.settings) == (None, {})


def test_what_no_file_could_give_back_is_not_written(field: RadianceField, tmp_path: Path) -> None:
    torch.nn.init.constant_(field.mlp[0].bias, float("inf"))
    raised(FieldError, r"mlp\.0\.bias", field.save, tmp_path / "field.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_frozen_field_can_be_fitted_further(field: RadianceField, stored: Path) -> None:
    loaded, generator = load_field(stored).field, torch.Generator().manual_seed(0)
    fit = FitConfig(iterations=2, rays=16, occupancy_cells=0, sampling=RaySampling(8, 0))
    FieldFitter(loaded, orbit_cameras(0), torch.zeros(1, 3, 4, 4), config=fit, generator=generator).step()
    assert not torch.equal(loaded.mlp[0].weight, field.mlp[0].weight)


Change = Callable[[dict[str, Any], dict[str, torch.Tensor]], object]


def _spoil(stored: Path, change: Change) -> None:
    """Gives `change` the description and the tensors, and writes them again."""
    with safe_open(stored, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        content = json.loads(file.metadata()[FORMAT])
    changed = change(content, tensors)
    save_file(tensors, stored, metadata={FORMAT: changed if isinstance(changed, str) else json.dumps(content)})


def _in(*sections: str, **values: object) -> Change:
    """Changes entries of the description, or of a section in it."""
    return lambda content, _: functools.reduce(dict.get, sections, content).update(values)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_in(*GRID, levels=32, features=16, table_size=2**28, finest=2**16), r"table .* instead of \(\d{10}, 16\)"),
        (_in(*GRID, levels=-1), "levels must be between 1 and 32, got -1"),
        (_in(*GRID, table_size=255), "power of two"),
        (_in("cameras", focal=[[1, 2, 3], [4]]), "cannot read"),
        (_in("cameras", camera_to_world=[[[1] * 4] * 4] * 2), "must be rigid"),
        (_in(settings=[["a", 1]]), "must be JSON objects"),
        (lambda content, _: content.pop("cameras"), "KeyError: 'cameras'"),
        (lambda *_: "[" * 100_000, "nested too deeply"),
        (lambda _, tensors: tensors.pop("grid.table"), r"missing: grid\.table"),
        (lambda _, tensors: tensors.update({"mlp.0.bias": torch.ones(8).long()}), r"mlp\.0\.bias torch\.int64 instead"),
        (lambda _, tensors: tensors["mlp.0.bias"].fill_(torch.inf), r"NaN or infinite values in mlp\.0\.bias"),
    ],
)
def test_files_that_lie(stored: Path, change: Change, words: str) -> None:
    _spoil(stored, change)
    unfit(words, load_field, stored)


def test_other_files(stored: Path) -> None:
    save_file({"weight": torch.ones(1)}, stored)
    unfit("is not a field", load_field, stored)
    unfit("does not exist", load_field, "a\0b")


@pytest.mark.parametrize("layers", [1, 3])
def test_shapes_are_known_without_a_field(layers: int) -> None:
    config = FieldConfig(grid=TINY.grid, hidden=6, layers=layers)
    assert config.shapes == {name: value.shape for name, value in RadianceField(config).state_dict().items()}
