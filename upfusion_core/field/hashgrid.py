"""A multiresolution feature grid: `encode_grid` in torch, which defines it, and Triton or tinycudann for speed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ..config import Backend, GridConfig
from ..support.checks import check_shape
from ..support.errors import InputError, MissingPackageError
from ..support.images import saturate

HASH_PRIMES = (1, 2654435761, 805459861)  # multipliers of x, y and z in the hash of Müller et al. 2022, equation 4


def encode_grid(points: Tensor, table: Tensor, config: GridConfig) -> Tensor:
    """(P, 3) points in [0, 1] -> (P, levels·features): trilinear look-ups, coarsest level first.

    Points outside are moved to the cube's faces. table: (sum of config.rows, features), the levels below each other,
    each a lattice with its first point on 0 and its last on 1. Differentiable, twice, with respect to both.
    """
    check_shape("points", points, ("P", 3), "flatten the leading axes")
    check_shape("table", table, (sum(config.rows), config.features), "it belongs to another GridConfig")
    # weights (8, P, L) of the corners round each point in each level, x fastest; leading, as CPUs want them
    device = points.device
    cells = torch.tensor(config.resolutions, device=device)
    position = saturate(points).t()[..., None] * cells  # (3, P, L)
    # NaN must stay in the weights, where it shows, and out of the indices, where it would crash
    lower = torch.minimum(position.detach().floor(), (cells - 1).to(points.dtype)).nan_to_num(0.0)
    upper_weight = position - lower
    sides = list(zip(1 - upper_weight, upper_weight, strict=True))  # (P, L) of the lower and upper side, an axis each
    weights = torch.stack([x * yz for yz in [y * z for z in sides[2] for y in sides[1]] for x in sides[0]])
    # table rows (8, P, L), from (3, L) factors of the coordinates in the number of a lattice point
    factors = torch.stack([torch.ones_like(cells), cells + 1, (cells + 1) ** 2])
    starts = torch.tensor([sum(config.rows[:level]) for level in range(config.levels)], device=device)
    dense = config.dense_levels
    if config.indexing == "hashed":
        factors[:, dense:] = torch.tensor(HASH_PRIMES, device=device)[:, None]
    first = lower.long() * factors[:, None]  # (3, P, L)
    pairs = list(zip(first, first + factors[:, None], strict=True))
    fine = [[side[:, dense:] for side in pair] for pair in pairs]
    combined = torch.bitwise_xor if config.indexing == "hashed" else torch.add
    rows = torch.empty(8, *lower.shape[1:], dtype=torch.int64, device=device)
    for corner, (z, y, x) in enumerate(product((0, 1), repeat=3)):
        rows[corner, :, :dense] = (pairs[0][x] + pairs[1][y] + pairs[2][z])[:, :dense]
        shared = combined(combined(fine[0][x], fine[1][y]), fine[2][z])
        rows[corner, :, dense:] = shared & (config.table_size - 1)
    features: Tensor = _WeightedRows.apply(table, (rows + starts).flatten(1), weights.flatten(1))
    return features.reshape(len(points), config.width)


class _WeightedRows(torch.autograd.Function):
    """table (T, F), rows (K, N), weights (K, N) -> (N, F) weighted sums; the way back is faster than autograd's."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(table, rows, weights)
        if table.device.type == "cpu":  # fused there; elsewhere it is missing or not faster
            bags = rows.t().contiguous()
            return F.embedding_bag(bags, table, mode="sum", per_sample_weights=weights.t().contiguous())
        return (table[rows] * weights[..., None]).sum(0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, Tensor | None]:  # noqa: ANN401
        table, rows, weights = ctx.saved_tensors
        table_gradient = weights_gradient = None
        if ctx.needs_input_grad[0]:
            flat = rows.reshape(-1)
            empty = gradient.new_zeros(len(table))
            columns = [empty.scatter_add(0, flat, (weights * part).reshape(-1)) for part in gradient.t().contiguous()]
            table_gradient = torch.stack(columns, dim=-1)
        if ctx.needs_input_grad[2]:
            weights_gradient = (table[rows] * gradient).sum(-1)
        return table_gradient, None, weights_gradient


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
    fault = None
    if device.type != "cuda" and not _interpreted(asked):
        fault = f"the field is on {'the CPU' if device.type == 'cpu' else f'{device}, which is no CUDA GPU'}"
    if asked == "auto":
        if fault is None and not _installed("triton"):
            fault = "Triton is not installed"
        fault = fault or _trial_fault(device)
        if fault is None and torch.are_deterministic_algorithms_enabled():
            fault = "Triton adds gradients up in no fixed order, and torch was told to be deterministic"
        return BackendChoice("torch", f"auto: {fault}") if fault else BackendChoice("triton", f"auto: on {device}")
    require_backend(asked)
    if fault is None and asked == "triton":
        fault = _trial_fault(device)
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
        raise InputError(
            "backend 'tinycudann' cannot wrap tiled levels as this field does; "
            "use GridConfig(indexing='hashed'), or backend 'auto' or 'torch'"
        )
    if config.features not in (1, 2, 4, 8):
        wanted = f"backend 'tinycudann' needs 1, 2, 4 or 8 features, got {config.features}"
        raise InputError(f"{wanted}; change GridConfig.features, or use backend 'auto' or 'torch'")
    kind = torch.promote_types(points.dtype, table.dtype)
    if not len(points):
        return (points.sum() + table.sum()).to(kind) * points.new_zeros((0, config.width), dtype=kind)
    inside, levels = saturate(points.float()), []
    for cells, rows in zip(config.resolutions, table.float().split(config.rows), strict=True):
        encoding = _tinycudann_level(cells, config.features, config.table_size)
        parameters = F.pad(rows.reshape(-1), (0, encoding.params.numel() - rows.numel()))
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
