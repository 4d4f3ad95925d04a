"""`encode_grid` as Triton kernels, to be imported on first use, with nothing of all corners (8·P·L) held in memory.

Not the definition to the bit: sums run in another order, and atomic ones of the table's gradient differ between calls.
"""

# ruff: noqa: ANN001, ANN202, N803 - Triton reads the signatures of kernels its own way
from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..config import GridConfig
from .hashgrid import HASH_PRIMES
from .hashgrid import encode_grid as encode_by_definition

BLOCK = 256  # points a program


def encode_grid(points: Tensor, table: Tensor, config: GridConfig) -> Tensor:
    """As `hashgrid.encode_grid`, summed in float32 (float64 if either input is); second derivatives are its own."""
    encoded: Tensor = _Encode.apply(points.contiguous(), table.contiguous(), config)
    return encoded


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, table: Tensor, config: GridConfig) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(points, table)
        ctx.config = config
        encoded = points.new_empty((len(points), config.width), dtype=torch.promote_types(points.dtype, table.dtype))
        _launch(_rows, points, table, encoded, config=config, ADDS=False)
        return encoded

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # noqa: ANN401
        points, table = ctx.saved_tensors
        config: GridConfig = ctx.config
        if torch.is_grad_enabled():  # create_graph=True: the caller wants to differentiate what comes back
            # the definition multiplies rows by weights, which on a CPU must be of one type
            kind = torch.promote_types(points.dtype, table.dtype)
            encoded = encode_by_definition(points.to(kind), table.to(kind), config)
            wanted = ctx.needs_input_grad[:2]
            chosen = [value for value, is_wanted in zip((points, table), wanted, strict=True) if is_wanted]
            found = iter(torch.autograd.grad(encoded, chosen, gradient, create_graph=True))
            of_points, of_table = (next(found) if is_wanted else None for is_wanted in wanted)
            return of_points, of_table, None
        gradient = gradient.contiguous()
        points_gradient = table_gradient = None
        if ctx.needs_input_grad[0]:
            points_gradient = torch.empty_like(points)
            _launch(_slope, points, table, gradient, points_gradient, config=config)
        if ctx.needs_input_grad[1]:
            sums = table.new_zeros(table.shape, dtype=_sum_type(points, table))
            _launch(_rows, points, sums, gradient, config=config, ADDS=True)
            table_gradient = sums.to(table.dtype)
        return points_gradient, table_gradient, None


def _sum_type(*tensors: Tensor) -> torch.dtype:
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def _launch(kernel: Any, points: Tensor, *tensors: Tensor, config: GridConfig, **options: int) -> None:  # noqa: ANN401
    """Runs the kernel over all points, in programs of a block of them and, for rows, of one level."""
    if not len(points):
        return
    grid = (triton.cdiv(len(points), BLOCK), config.levels if kernel is _rows else 1)
    options |= {"PADDED": triton.next_power_of_2(config.features)} if kernel is _rows else {"LEVELS": config.levels}
    with torch.cuda.device_of(points):  # Triton launches on the current device, wherever the tensors are
        levels, double = _levels(config, points.device), _sum_type(points, *tensors) == torch.float64
        named = {"FEATURES": config.features, "SUM": tl.float64 if double else tl.float32, "BLOCK": BLOCK}
        kernel[grid](points, *tensors, levels, len(points), **named, **options)


@lru_cache(maxsize=32)
def _levels(config: GridConfig, device: torch.device) -> Tensor:
    """(L, 6) int64: cells, factors of y and z, the bits of a number that are kept, whether hashed, first row."""
    described = []
    for level, cells in enumerate(config.resolutions):
        dense = level < config.dense_levels
        hashed = not dense and config.indexing == "hashed"
        factors = HASH_PRIMES[1:] if hashed else (cells + 1, (cells + 1) ** 2)
        kept = -1 if dense else config.table_size - 1
        described.append((cells, *factors, kept, int(hashed), sum(config.rows[:level])))
    return torch.tensor(described, dtype=torch.int64, device=device)


@triton.jit
def _block(points, count, BLOCK: tl.constexpr):
    """Numbers of this program's points, int64, which of them there are, and where they are stored."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return index, index < count, points + index * 3


@triton.jit
def _side(pointer, valid, cells, SUM: tl.constexpr):
    """Lower lattice coordinate along an axis, int64, and the weight of the upper one, of a block of points."""
    position = tl.load(pointer, mask=valid, other=0.0).to(SUM)
    # written so that NaN stays in the weights, where it shows, and out of the coordinates
    position = tl.where(position < 0, 0.0, position)
    position = tl.where(position > 1, 1.0, position) * cells.to(SUM)
    lower = tl.floor(position)
    lower = tl.where(lower > cells - 1, (cells - 1).to(SUM), lower)
    lower = tl.where(lower == lower, lower, 0.0)
    return lower.to(tl.int64), position - lower


@triton.jit
def _cell(point, valid, level, SUM: tl.constexpr):
    """The terms that make up the number of the lowest corner, what the next ones add to them, and upper weights."""
    cells = tl.load(level)
    factor_y = tl.load(level + 1)
    factor_z = tl.load(level + 2)
    x, right = _side(point, valid, cells, SUM)
    y, up = _side(point + 1, valid, cells, SUM)
    z, front = _side(point + 2, valid, cells, SUM)
    return x, y * factor_y, z * factor_z, factor_y, factor_z, right, up, front


@triton.jit
def _row(x, y, z, factor_y, factor_z, kept, hashed, start, CORNER: tl.constexpr):
    """Row of the table, int64, of the corner whose bits say which sides it is on, x lowest."""
    x = x + (CORNER & 1)
    y = y + factor_y * ((CORNER >> 1) & 1)
    z = z + factor_z * (CORNER >> 2)
    return start + (tl.where(hashed != 0, x ^ y ^ z, x + y + z) & kept)


@triton.jit
def _weight(upper, SIDE: tl.constexpr):
    return upper if SIDE else 1 - upper


@triton.jit
def _rows(
    points,
    table,
    encoded,
    levels,
    count,
    FEATURES: tl.constexpr,
    PADDED: tl.constexpr,
    SUM: tl.constexpr,
    BLOCK: tl.constexpr,
    ADDS: tl.constexpr,
):
    """encoded (P, L·F) = sum of weights times rows of the table, of a block and a level; with ADDS the way back."""
    index, valid, point = _block(points, count, BLOCK)
    level = levels + tl.program_id(1) * 6
    kept, hashed, start = tl.load(level + 3), tl.load(level + 4), tl.load(level + 5)
    x, y, z, factor_y, factor_z, right, up, front = _cell(point, valid, level, SUM)
    feature = tl.arange(0, PADDED)
    wanted = valid[:, None] & (feature < FEATURES)[None, :]
    place = encoded + index[:, None] * (tl.num_programs(1) * FEATURES) + tl.program_id(1) * FEATURES + feature[None, :]
    total = tl.full([BLOCK, PADDED], 0.0, SUM)
    if ADDS:
        total = tl.load(place, mask=wanted, other=0.0).to(SUM)
    for corner in tl.static_range(8):
        row = _row(x, y, z, factor_y, factor_z, kept, hashed, start, corner)
        learned = table + row[:, None] * FEATURES + feature[None, :]
        weight = _weight(right, corner & 1) * (_weight(up, (corner >> 1) & 1) * _weight(front, corner >> 2))
        if ADDS:  # relaxed: nobody reads the sums before the kernel ends
            tl.atomic_add(learned, weight[:, None] * total, mask=wanted, sem="relaxed")
        else:
            total += weight[:, None] * tl.load(learned, mask=wanted, other=0.0).to(SUM)
    if not ADDS:
        tl.store(place, total, mask=wanted)


@triton.jit
def _slope(
    points,
    table,
    gradient,
    slopes,
    levels,
    count,
    LEVELS: tl.constexpr,
    FEATURES: tl.constexpr,
    SUM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """slopes (P, 3) = gradient with respect to a block of points, over all levels, so that nothing is shared."""
    index, valid, point = _block(points, count, BLOCK)
    slope_x = tl.full([BLOCK], 0.0, SUM)
    slope_y = tl.full([BLOCK], 0.0, SUM)
    slope_z = tl.full([BLOCK], 0.0, SUM)
    for number in range(LEVELS):
        level = levels + number * 6
        cells, kept, hashed, start = tl.load(level), tl.load(level + 3), tl.load(level + 4), tl.load(level + 5)
        x, y, z, factor_y, factor_z, right, up, front = _cell(point, valid, level, SUM)
        part = gradient + (index * LEVELS + number) * FEATURES
        for corner in tl.static_range(8):
            row = _row(x, y, z, factor_y, factor_z, kept, hashed, start, corner)
            value = tl.full([BLOCK], 0.0, SUM)
            for feature in tl.static_range(FEATURES):
                learned = tl.load(table + row * FEATURES + feature, mask=valid, other=0.0).to(SUM)
                value += learned * tl.load(part + feature, mask=valid, other=0.0).to(SUM)
            value *= cells.to(SUM)
            weight_x = _weight(right, corner & 1)
            weight_y = _weight(up, (corner >> 1) & 1)
            weight_z = _weight(front, corner >> 2)
            slope_x += value * weight_y * weight_z * (2 * (corner & 1) - 1)
            slope_y += value * weight_x * weight_z * (2 * ((corner >> 1) & 1) - 1)
            slope_z += value * weight_x * weight_y * (2 * (corner >> 2) - 1)
    _store_slope(slopes + index * 3, point, slope_x, valid)
    _store_slope(slopes + index * 3 + 1, point + 1, slope_y, valid)
    _store_slope(slopes + index * 3 + 2, point + 2, slope_z, valid)


@triton.jit
def _store_slope(place, pointer, slope, valid):
    """The slope, or 0 where the coordinate lies outside [0, 1] and was moved."""
    coordinate = tl.load(pointer, mask=valid, other=0.0)
    tl.store(place, tl.where((coordinate >= 0) & (coordinate <= 1), slope, 0.0), mask=valid)
