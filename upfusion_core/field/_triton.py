"""`encode_grid` as a Triton kernel, to be imported on first use, with nothing of all corners (8·P·L) held in memory.

Not the definition to the bit: sums run in another order, and atomic ones of the table's gradient differ between calls.
"""

# ruff: noqa: ANN001, ANN202, N803 - Triton reads the signatures of kernels its own way
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..config import GridConfig
from .hashgrid import encode_grid as encode_by_definition
from .hashgrid import lattice

BLOCK = 256  # points a program


def encode_grid(points: Tensor, table: Tensor, config: GridConfig) -> Tensor:
    """As `hashgrid.encode_grid`, in float32 (float64 if either input is); of points it is the definition's gradient."""
    encoded: Tensor = _Encode.apply(points.contiguous(), table.contiguous(), config)
    return encoded


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, table: Tensor, config: GridConfig) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(points, table)
        ctx.config = config
        encoded = points.new_empty((len(points), config.width), dtype=torch.promote_types(points.dtype, table.dtype))
        _launch(points, table, encoded, config, adds=False)
        return encoded

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # noqa: ANN401
        points, table = ctx.saved_tensors
        kind = torch.promote_types(points.dtype, table.dtype)
        if torch.is_grad_enabled() or ctx.needs_input_grad[0]:  # twice, or of points, which no fit asks for
            with torch.enable_grad():  # rows and weights must be of one type on a CPU
                encoded = encode_by_definition(points.to(kind), table.to(kind), ctx.config)
            wanted = ctx.needs_input_grad[:2]
            chosen = [value for value, is_wanted in zip((points, table), wanted, strict=True) if is_wanted]
            found = iter(torch.autograd.grad(encoded, chosen, gradient, create_graph=torch.is_grad_enabled()))
            of_points, of_table = (next(found) if is_wanted else None for is_wanted in wanted)
            return of_points, of_table, None
        sums = table.new_zeros(table.shape, dtype=torch.promote_types(kind, torch.float32))
        _launch(points, sums, gradient.contiguous(), ctx.config, adds=True)
        return None, sums.to(table.dtype), None


def _launch(points: Tensor, table: Tensor, encoded: Tensor, config: GridConfig, *, adds: bool) -> None:
    """Runs the kernel over all points, in programs of a block of them and of one level."""
    if not len(points):
        return
    sizes = {"FEATURES": config.features, "PADDED": triton.next_power_of_2(config.features), "BLOCK": BLOCK}
    indexing = {"DENSE": config.dense_levels, "KEPT": config.table_size - 1, "HASHED": config.indexing == "hashed"}
    double = torch.float64 in (points.dtype, table.dtype, encoded.dtype)
    with torch.cuda.device_of(points):  # Triton launches on the current device, wherever the tensors are
        tensors = points, table, encoded, *lattice(config, points.device)[:3]
        grid = (triton.cdiv(len(points), BLOCK), config.levels)
        _rows[grid](*tensors, len(points), **sizes, **indexing, SUM=tl.float64 if double else tl.float32, ADDS=adds)


@triton.jit
def _side(pointer, valid, cells, SUM: tl.constexpr):
    """Lower lattice coordinate along an axis, int32, and the weight of the upper one, of a block of points."""
    position = tl.load(pointer, mask=valid, other=0.0).to(SUM)
    # written so that NaN stays in the weights, where it shows, and out of the coordinates
    position = tl.where(position < 0, 0.0, position)
    position = tl.where(position > 1, 1.0, position) * cells
    lower = tl.floor(position)
    lower = tl.where(lower > cells - 1, cells - 1, lower)
    lower = tl.where(lower == lower, lower, 0.0)
    return lower.to(tl.int32), position - lower


@triton.jit
def _rows(
    points,
    table,
    encoded,
    cells,
    factors,
    starts,
    count,
    FEATURES: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    DENSE: tl.constexpr,
    KEPT: tl.constexpr,
    HASHED: tl.constexpr,
    SUM: tl.constexpr,
    ADDS: tl.constexpr,
):
    """encoded (P, L·F) = sum of weights times rows of the table, of a block and a level; with ADDS the way back.

    cells, factors, starts: see `lattice`. The first DENSE levels have a row for each number, others share KEPT + 1.
    """
    level, levels = tl.program_id(1), tl.num_programs(1)
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid, point, width = index < count, points + index * 3, tl.load(cells + level).to(SUM)
    factor_y, factor_z = tl.load(factors + levels + level), tl.load(factors + 2 * levels + level)
    x, right = _side(point, valid, width, SUM)
    y, up = _side(point + 1, valid, width, SUM)
    z, front = _side(point + 2, valid, width, SUM)
    feature = tl.arange(0, PADDED)
    wanted = valid[:, None] & (feature < FEATURES)[None, :]
    place = encoded + index[:, None] * (levels * FEATURES) + level * FEATURES + feature[None, :]
    total = tl.full([BLOCK, PADDED], 0.0, SUM)
    if ADDS:
        total = tl.load(place, mask=wanted, other=0.0).to(SUM)
    for corner in tl.static_range(8):  # whose bits say which sides it is on, x lowest
        right_too, up_too, front_too = corner & 1, (corner >> 1) & 1, corner >> 2
        of_x, of_y, of_z = x + right_too, (y + up_too) * factor_y, (z + front_too) * factor_z
        number = of_x + of_y + of_z
        if HASHED:
            number = tl.where(level < DENSE, number, of_x ^ of_y ^ of_z)
        row = tl.load(starts + level) + tl.where(level < DENSE, number, number & KEPT)
        learned = table + row.to(tl.int64)[:, None] * FEATURES + feature[None, :]
        weight = front if front_too else 1 - front
        weight = (up if up_too else 1 - up) * weight
        weight = (right if right_too else 1 - right) * weight
        if ADDS:  # relaxed: nobody reads the sums before the kernel ends
            tl.atomic_add(learned, weight[:, None] * total, mask=wanted, sem="relaxed")
        else:
            total += weight[:, None] * tl.load(learned, mask=wanted, other=0.0).to(SUM)
    if not ADDS:
        tl.store(place, total, mask=wanted)
