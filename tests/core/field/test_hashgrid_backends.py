import sys
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from refusals import refused
from torch import Tensor, nn

from upfusion_core.config import FieldConfig, GridConfig
from upfusion_core.field import backends
from upfusion_core.field.backends import HashGrid, choose_backend, encode_by_tinycudann, grid_encoder
from upfusion_core.field.hashgrid import encode_grid
from upfusion_core.field.radiance import RadianceField, load_field
from upfusion_core.support.errors import MissingPackageError

GRID = GridConfig(levels=2, coarsest=4, finest=8, table_size=256)
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The packages that are found, none at first; Triton compiles its kernels."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
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
    trial = backends._trial_fault.__wrapped__  # without its memory
    monkeypatch.setattr(backends, "grid_encoder", lambda name: lambda *_: torch.zeros(1, 1))
    assert "computes 0.0 here instead of 1" in trial(CPU)
    monkeypatch.setattr(backends, "grid_encoder", Mock(side_effect=RuntimeError("Failed to find C compiler\nmore")))
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


class Encoding(nn.Module):
    """tinycudann's, by its documentation: position·scale + 0.5, scale = base_resolution - 1, rows a multiple of 8."""

    def __init__(self, inputs: int, settings: dict[str, Any], dtype: torch.dtype) -> None:
        super().__init__()
        assert (inputs, settings["type"], settings["n_levels"], dtype) == (3, "Hash", 1, torch.float32)
        self.features = settings["n_features_per_level"]
        self.across = settings["base_resolution"]
        self.rows = min((self.across**3 + 7) // 8 * 8, 2 ** settings["log2_hashmap_size"])
        self.params = nn.Parameter(torch.zeros(self.rows * self.features))

    def forward(self, points: Tensor) -> Tensor:
        table = self.params.reshape(self.rows, self.features)
        position = points * (self.across - 1.0) + 0.5
        lower = position.detach().floor()
        upper = position - lower
        result = torch.zeros(len(points), self.features)
        for corner in product((0, 1), repeat=3):
            sides = torch.tensor(corner)
            x, y, z = (lower.long() + sides).unbind(-1)
            number = x + y * self.across + z * self.across**2
            if self.rows < self.across**3:
                number = x ^ (y * 2654435761) ^ (z * 805459861)
            weight = torch.where(sides.bool(), upper, 1 - upper).prod(-1)
            result = result + weight[:, None] * table[(number % 2**32) % self.rows]
        return result


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tinycudann", SimpleNamespace(Encoding=Encoding))
    monkeypatch.setattr(backends, "_tinycudann_level", backends._tinycudann_level.__wrapped__)


@pytest.mark.parametrize("features", [1, 2])
def test_values_and_gradients_of_hashed_grids(stand_in: None, features: int) -> None:
    config = GridConfig(levels=3, features=features, coarsest=2, finest=37, table_size=64, indexing="hashed")
    assert 0 < config.dense_levels < 3
    generator = torch.Generator().manual_seed(5)
    points = (torch.rand(50, 3, generator=generator) * 1.1 - 0.05).requires_grad_()
    table = torch.randn(sum(config.rows), features, generator=generator).requires_grad_()
    upstream = torch.randn(50, config.width, generator=generator)
    encoded = [encode(points, table, config) for encode in (encode_by_tinycudann, encode_grid)]
    slopes, rows = zip(*(torch.autograd.grad(one, (points, table), upstream) for one in encoded), strict=True)
    # moving the points rounds them: 37 cells · 6e-8 · slopes of a cell, and again as much for other cells' sums
    inside = ((points > 1e-3) & (points < 1 - 1e-3)).all(-1)
    torch.testing.assert_close(*encoded, atol=2e-5, rtol=0)
    torch.testing.assert_close(slopes[0][inside], slopes[1][inside], atol=2e-3, rtol=0)
    torch.testing.assert_close(*rows, atol=5e-5, rtol=0)


def test_no_points_and_other_grids(stand_in: None) -> None:
    config = GridConfig(levels=2, coarsest=2, finest=3, table_size=64)
    points = torch.rand(9, 3, generator=torch.Generator().manual_seed(5))
    table = torch.arange(2.0 * sum(config.rows)).reshape(-1, 2).requires_grad_()
    nothing = encode_by_tinycudann(points[:0], table, config)
    assert nothing.shape == (0, 4)
    nothing.sum().backward()
    assert not table.grad.any()
    wide = GridConfig(levels=1, features=3, coarsest=2, finest=2, table_size=64)
    refused("needs 1, 2, 4 or 8 features, got 3", encode_by_tinycudann, points, torch.zeros(27, 3), wide)
    wrapped = GridConfig(levels=2, coarsest=2, finest=9, table_size=64)
    refused("cannot wrap tiled levels", encode_by_tinycudann, points, torch.zeros(sum(wrapped.rows), 2), wrapped)
