"""A multiresolution feature grid in pure torch: the definition that every accelerated backend is tested against."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..config import GridConfig
from ..support.checks import check_shape
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
