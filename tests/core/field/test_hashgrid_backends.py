"""Which backend a field takes, and what it says where one is missing."""

from pathlib import Path

import pytest
import torch
from refusals import refused

from upfusion_core.config import FieldConfig, GridConfig
from upfusion_core.field import backends
from upfusion_core.field.backends import HashGrid, choose_backend, grid_encoder
from upfusion_core.field.hashgrid import encode_grid
from upfusion_core.field.radiance import RadianceField, load_field
from upfusion_core.support.errors import MissingPackageError

GRID = GridConfig(levels=2, coarsest=4, finest=8, table_size=256)
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The packages that are found; none at first."""
    packages: set[str] = set()
    monkeypatch.setattr(backends, "_installed", packages.__contains__)
    return packages


def test_what_auto_takes(installed: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    field = RadianceField(FieldConfig(grid=GRID, hidden=8))
    assert str(field.backend) == "torch (auto: the field is on the CPU)"
    assert str(RadianceField(FieldConfig(grid=GRID, hidden=8, backend="torch")).backend) == "torch (asked for)"
    assert grid_encoder("torch") is encode_grid
    points = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(field.grid(points), encode_grid(points, field.grid.table, GRID))
    assert str(choose_backend("auto", CUDA)) == "torch (auto: Triton is not installed)"
    installed.add("triton")
    assert "on mps, which is no CUDA GPU" in choose_backend("auto", torch.device("mps")).reason
    monkeypatch.setattr(backends, "_trial_fault", lambda device: None)
    assert str(choose_backend("auto", CUDA)) == "triton (auto: on cuda:0)"
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert "deterministic" in choose_backend("auto", CUDA).reason


def test_a_triton_that_fails_its_trial_is_not_taken(installed: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    installed.add("triton")

    def without_compiler(name: str) -> None:
        raise RuntimeError("Failed to find C compiler\nmore of it")

    trial = backends._trial_fault.__wrapped__  # without its memory
    monkeypatch.setattr(backends, "grid_encoder", lambda name: lambda *_: torch.zeros(1, 1))
    assert "computes 0.0 here instead of 1" in trial(CPU)
    monkeypatch.setattr(backends, "grid_encoder", without_compiler)
    fault = trial(CPU)
    assert fault == "Triton does not work here (RuntimeError: Failed to find C compiler)"
    monkeypatch.setattr(backends, "_trial_fault", lambda device: fault)
    assert choose_backend("auto", CUDA).name == "torch"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    refused("Failed to find C compiler", choose_backend, "triton", CUDA)


@pytest.mark.parametrize("name", ["triton", "tinycudann"])
def test_asking_for_what_is_missing_raises_and_files_do_not_depend_on_it(
    installed: set[str], name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(MissingPackageError, match=f"needs the package {name}"):
        RadianceField(FieldConfig(grid=GRID, backend=name))
    installed.add(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused("needs a CUDA GPU", HashGrid, GRID, generator=torch.Generator(), backend=name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    field = RadianceField(FieldConfig(grid=GRID, hidden=8, backend=name))
    refused("the field is on the CPU", field.grid, torch.zeros(1, 3))
    field.save(tmp_path / "field.safetensors")
    installed.clear()
    found = load_field(tmp_path / "field.safetensors").field
    assert (found.config.backend, found.backend.name) == ("auto", "torch")
    assert torch.equal(found.grid.table, field.grid.table)
