"""What computes a field's grid: `encode_grid` in torch, which defines it, or Triton or tinycudann, which are faster."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import pad

from ..config import Backend, GridConfig
from ..support.errors import InputError, MissingPackageError
from ..support.images import saturate
from .hashgrid import encode_grid


@dataclass(frozen=True)
class BackendChoice:
    """Which backend computes, and why: `str` of it reads "torch (auto: the field is on the CPU)"."""

    name: Literal["torch", "triton", "tinycudann"]
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


def choose_backend(asked: Backend, device: torch.device) -> BackendChoice:
    """What computes a grid on `device`: "auto" takes Triton where it works; raises where what is asked for cannot."""
    if asked == "torch":
        return BackendChoice("torch", "asked for")
    if asked != "auto":
        require_backend(asked)
    fault = None
    if device.type != "cuda" and not _interpreted(asked):
        fault = f"the field is on {'the CPU' if device.type == 'cpu' else f'{device}, which is no CUDA GPU'}"
    elif asked == "auto" and torch.are_deterministic_algorithms_enabled():
        fault = "Triton adds gradients up in no fixed order, and torch was told to be deterministic"
    elif asked != "tinycudann":
        fault = _trial_fault(device) if _installed("triton") else "Triton is not installed"
    if asked == "auto":
        return BackendChoice("torch", f"auto: {fault}") if fault else BackendChoice("triton", f"auto: on {device}")
    if fault is not None:
        raise InputError(f"backend {asked!r} cannot be used: {fault}; use a CUDA GPU, or backend 'auto' or 'torch'")
    return BackendChoice(asked, "asked for")


def require_backend(asked: Backend) -> None:
    """Raises MissingPackageError or InputError unless the package and the GPU that `asked` needs are there."""
    if asked in ("auto", "torch"):
        return
    if not _installed(asked):
        needed = f"backend {asked!r} needs the package {asked}, which is not installed"
        raise MissingPackageError(f"{needed}; install it, or choose backend 'auto' or 'torch'")
    if not torch.cuda.is_available() and not _interpreted(asked):
        raise InputError(f"backend {asked!r} needs a CUDA GPU, and torch sees none; choose backend 'auto' or 'torch'")


def grid_encoder(name: Literal["torch", "triton", "tinycudann"]) -> Callable[[Tensor, Tensor, GridConfig], Tensor]:
    """The backend's `encode_grid`; Triton is imported here and not before."""
    if name == "triton":
        from . import _triton

        return _triton.encode_grid
    return encode_by_tinycudann if name == "tinycudann" else encode_grid


def _interpreted(asked: Backend) -> bool:
    """Whether Triton interprets its kernels, which it does on a CPU too, for tests."""
    return asked == "triton" and os.environ.get("TRITON_INTERPRET") == "1"


@lru_cache(maxsize=8)
def _installed(package: str) -> bool:
    return find_spec(package) is not None


@lru_cache(maxsize=64)
def _trial_fault(device: torch.device) -> str | None:
    """What happens when Triton, which needs a driver and a C compiler, encodes a tiny grid: whatever is raised."""
    config = GridConfig(levels=1, features=1, coarsest=1, finest=1, table_size=8)
    try:
        with torch.inference_mode(False), torch.no_grad():
            point, table = torch.full((1, 3), 0.5, device=device), torch.ones(8, 1, device=device)
            result = float(grid_encoder("triton")(point, table, config))
    except Exception as error:
        said = next(iter(str(error).strip().splitlines()), "")
        return f"Triton does not work here ({type(error).__name__}: {said:.200})"
    return None if abs(result - 1) < 1e-6 else f"Triton computes {result} here instead of 1"


class HashGrid(nn.Module):
    """Owns the table of `encode_grid`; (P, 3) points in [0, 1] -> (P, config.width), by the backend asked for."""

    def __init__(self, config: GridConfig, *, generator: torch.Generator, backend: Backend = "auto") -> None:
        super().__init__()
        require_backend(backend)
        self.config = config
        self.asked_backend = backend
        shape = (sum(config.rows), config.features)
        draw = torch.rand(shape, generator=generator, device=generator.device)
        self.table = nn.Parameter((draw * 2e-4 - 1e-4).cpu())  # upstream: U(-1e-4, 1e-4)

    @property
    def backend(self) -> BackendChoice:
        """What computes the grid on the device where the table is now, and why."""
        return choose_backend(self.asked_backend, self.table.device)

    def forward(self, points: Tensor) -> Tensor:
        return grid_encoder(self.backend.name)(points, self.table, self.config)


def encode_by_tinycudann(points: Tensor, table: Tensor, config: GridConfig) -> Tensor:
    """As `encode_grid`, in float32 by the package tinycudann; gradients of points on faces of cells may differ.

    It looks a level up at position·scale + 0.5, scale = base_resolution·growth**level - 1. One encoding of one level
    with base_resolution = cells + 1, given the points moved by -0.5/cells, looks up where the definition does. Rows and
    primes are the same; a dense level has up to 7 rows more.
    """
    if config.indexing == "tiled" and config.dense_levels < config.levels:
        problem = "backend 'tinycudann' cannot wrap tiled levels as this field does"
        raise InputError(f"{problem}; use GridConfig(indexing='hashed'), or backend 'auto' or 'torch'")
    if config.features not in (1, 2, 4, 8):
        wanted = f"backend 'tinycudann' needs 1, 2, 4 or 8 features, got {config.features}"
        raise InputError(f"{wanted}; change GridConfig.features, or use backend 'auto' or 'torch'")
    kind = torch.promote_types(points.dtype, table.dtype)
    if not len(points):
        return (points.sum() + table.sum()).to(kind) * points.new_zeros((0, config.width), dtype=kind)
    inside, levels = saturate(points.float()), []
    for cells, rows in zip(config.resolutions, table.float().split(config.rows), strict=True):
        encoding = _tinycudann_level(cells, config.features, config.table_size)
        parameters = pad(rows.reshape(-1), (0, encoding.params.numel() - rows.numel()))
        encoded = functional_call(encoding, {"params": parameters}, (inside - 0.5 / cells,))
        levels.append(encoded[:, : config.features])
    return torch.cat(levels, dim=-1).to(kind)


@lru_cache(maxsize=64)
def _tinycudann_level(cells: int, features: int, table_size: int) -> Any:  # noqa: ANN401 - no types in tinycudann
    """An encoding of one level whose own parameters are never used."""
    import tinycudann

    settings = {"otype": "Grid", "type": "Hash", "n_levels": 1, "n_features_per_level": features}
    settings |= {"log2_hashmap_size": table_size.bit_length() - 1, "base_resolution": cells + 1}
    settings |= {"per_level_scale": 2.0, "interpolation": "Linear"}
    return tinycudann.Encoding(3, settings, dtype=torch.float32)
