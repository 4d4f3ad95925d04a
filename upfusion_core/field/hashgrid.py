"""A multiresolution feature grid in pure torch: the definition that every accelerated backend is tested against."""

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
from torch.nn import functional as F

from ..config import Backend, GridConfig
from ..support.checks import check_shape
from ..support.errors import InputError, MissingPackageError
from ..support.images import saturate

EncodeGrid = Callable[[Tensor, Tensor, "GridConfig"], Tensor]


@dataclass(frozen=True)
class BackendChoice:
    """Which backend computes, and why: `str` of it reads "torch (auto: the field is on the CPU)"."""

    name: Literal["torch", "triton", "tinycudann"]
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


def choose_backend(asked: Backend, device: torch.device) -> BackendChoice:
    """What computes a grid on `device` when `asked` was asked for.

    "auto" takes Triton where it works, else torch. It leaves tinycudann to those who ask for it, as that knows hashed
    grids only, and Triton where torch was told to be deterministic.

    Raises:
        MissingPackageError: `asked` names a package that is not installed.
        InputError: it names one that does not work on this machine or device.
    """
    if asked == "torch":
        return BackendChoice("torch", "asked for")
    if asked == "auto":
        fault = _device_fault(device) or _triton_fault(device)
        if fault is None and torch.are_deterministic_algorithms_enabled():
            fault = "Triton adds gradients up in no fixed order, and torch was told to be deterministic"
        return BackendChoice("torch", f"auto: {fault}") if fault else BackendChoice("triton", f"auto: on {device}")
    require_backend(asked)
    fault = None if _interpreted(asked) else _device_fault(device)
    if fault is None and asked == "triton":
        fault = _triton_fault(device)
    if fault is not None:
        raise InputError(f"backend {asked!r} cannot be used: {fault}; use a CUDA GPU, or backend 'auto' or 'torch'")
    return BackendChoice(asked, "asked for")


def require_backend(asked: Backend) -> None:
    """Raises unless the package and the kind of machine that `asked` names are there; "auto" and "torch" always are.

    Raises:
        MissingPackageError: the package is not installed.
        InputError: this machine has no CUDA GPU.
    """
    if asked in ("auto", "torch"):
        return
    if not _installed(asked):
        raise MissingPackageError(
            f"backend {asked!r} needs the package {asked}, which is not installed; install it, "
            "or choose backend 'auto' or 'torch'"
        )
    if not torch.cuda.is_available() and not _interpreted(asked):
        raise InputError(f"backend {asked!r} needs a CUDA GPU, and torch sees none; choose backend 'auto' or 'torch'")


def grid_encoder(name: Literal["torch", "triton", "tinycudann"]) -> EncodeGrid:
    """The backend's `encode_grid`, imported here and not before."""
    if name == "triton":
        from ._triton import encode_grid as encode
    elif name == "tinycudann":
        from ._tinycudann import encode_grid as encode
    else:
        encode = encode_grid
    return encode


def _device_fault(device: torch.device) -> str | None:
    if device.type == "cuda":
        return None
    return "the field is on the CPU" if device.type == "cpu" else f"the field is on {device}, which is no CUDA GPU"


def _triton_fault(device: torch.device) -> str | None:
    return _trial_fault(device) if _installed("triton") else "Triton is not installed"


def _interpreted(asked: Backend) -> bool:
    """Whether Triton was told to interpret its kernels, which it does on a CPU too, for tests."""
    return asked == "triton" and os.environ.get("TRITON_INTERPRET") == "1"


@lru_cache(maxsize=8)
def _installed(package: str) -> bool:
    return find_spec(package) is not None


@lru_cache(maxsize=64)
def _trial_fault(device: torch.device) -> str | None:
    """What happens when a tiny grid is encoded: Triton needs a driver and a C compiler too, and not every GPU will do.

    Whatever is raised becomes the answer, as the packages below raise anything from OSError to their own types.
    """
    config = GridConfig(levels=1, features=1, coarsest=1, finest=1, table_size=8)
    try:
        with torch.inference_mode(False), torch.no_grad():
            point, table = torch.full((1, 3), 0.5, device=device), torch.ones(8, 1, device=device)
            result = float(grid_encoder("triton")(point, table, config))
    except Exception as error:
        said = next(iter(str(error).strip().splitlines()), "")
        return f"Triton does not work here ({type(error).__name__}: {said:.200})"
    return None if abs(result - 1) < 1e-6 else f"Triton computes {result} here instead of 1"


HASH_PRIMES = (1, 2654435761, 805459861)
"""Multipliers of x, y and z in the spatial hash of Müller et al. 2022, equation 4."""


def encode_grid(points: Tensor, table: Tensor, config: GridConfig) -> Tensor:
    """(P, 3) points in [0, 1] -> (P, levels·features): trilinear look-ups, coarsest level first.

    Args:
        points: (P, 3) in the unit cube; values outside are moved to its faces.
        table: (sum of config.rows, features), the levels below each other.

    Differentiable, twice, with respect to both. Each level is an interpolated lattice with its first point on 0 and
    its last on 1. Example: one level, one cell, rows 0…7 numbered x first: the centre gives the mean of all 8 rows.
    """
    check_shape("points", points, ("P", 3), "flatten the leading axes")
    check_shape("table", table, (sum(config.rows), config.features), "it belongs to another GridConfig")
    rows, weights = _corners(points, config)
    features: Tensor = _WeightedRows.apply(table, rows, weights)
    return features.reshape(len(points), config.width)


def _corners(points: Tensor, config: GridConfig) -> tuple[Tensor, Tensor]:
    """Table rows, int64, and trilinear weights of the 8 corners round each point in each level: (8, P·L), x fastest.

    Corners lead: on a CPU products along a last axis of 2 or 8 take several times as long.
    """
    device = points.device
    cells = torch.tensor(config.resolutions, device=device)
    position = saturate(points).t()[..., None] * cells  # (3, P, L)
    # NaN must stay in the weights, where it shows, and out of the indices, where it would crash
    lower = torch.minimum(position.detach().floor(), (cells - 1).to(points.dtype)).nan_to_num(0.0)
    upper_weight = position - lower
    sides = list(zip(1 - upper_weight, upper_weight, strict=True))  # (P, L) of the lower and upper side, an axis each
    weights = torch.stack([x * yz for yz in [y * z for z in sides[2] for y in sides[1]] for x in sides[0]])

    # (3, L) factors of the coordinates in the number of a lattice point
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
    return (rows + starts).flatten(1), weights.flatten(1)


class _WeightedRows(torch.autograd.Function):
    """table (T, F), rows (K, N), weights (K, N) -> (N, F) weighted sums of table rows.

    Autograd's own gather scatters gradients row by row; one flat scatter a feature is several times faster on a CPU.
    """

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
        """(P, 3) points in [0, 1] -> (P, config.width)."""
        return grid_encoder(self.backend.name)(points, self.table, self.config)
