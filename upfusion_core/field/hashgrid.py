"""A multiresolution feature grid in pure torch: the definition that every accelerated backend is tested against."""

from functools import lru_cache
from typing import Any

import numpy as np
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
    # weights (8, L·P) of the corners round each point in each level, x fastest
    cells, factors, starts, last, kept = lattice(config, points.device)
    position = saturate(points).t().contiguous()[:, None] * cells  # (3, L, P)
    # NaN must stay in the weights, where it shows, and out of the indices, where it would crash
    lower = position.detach().floor().clamp_(max=last).nan_to_num_(0.0)
    upper = position - lower
    x, y, z = torch.stack([1 - upper, upper], dim=1)  # (2, L, P) of the lower and the upper side, an axis each
    weights = x * (y * z[:, None])[:, :, None]  # (2, 2, 2, L, P)
    # table rows, of the same shape, from the coordinates' shares in the number of a lattice point
    first = lower.int() * factors
    x, y, z = torch.stack([first, first + factors], dim=1)
    y, z = y[:, None], z[:, None, None]
    rows, dense = x + y + z, config.dense_levels
    if config.indexing == "hashed":
        shared = x[..., dense:, :] ^ y[..., dense:, :]
        torch.bitwise_xor(shared, z[..., dense:, :], out=rows[..., dense:, :])
    rows.bitwise_and_(kept).add_(starts)
    features: Tensor = _WeightedRows.apply(table, rows.flatten(0, 2), weights.flatten(0, 2))
    return features


@lru_cache(maxsize=64)
def lattice(config: GridConfig, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Cells (L, 1), factors (3, L, 1) of coordinates in a point's number, first rows (L, 1); int32, the cells float32.

    Then (L, 1) the last cells, float32, and the bits of a number that count. Numbers may pass 32 bits and wrap: of
    levels that share rows only the lowest bits count, others are smaller.
    """
    factors = []
    for level, cells in enumerate(config.resolutions):
        hashed = level >= config.dense_levels and config.indexing == "hashed"
        plain = HASH_PRIMES if hashed else (1, cells + 1, (cells + 1) ** 2)
        factors.append([(factor + 2**31) % 2**32 - 2**31 for factor in plain])
    starts = [sum(config.rows[:level]) for level in range(config.levels)]
    with torch.inference_mode(False):  # they may be asked for again where gradients are wanted
        widths = torch.tensor(config.resolutions, dtype=torch.float32, device=device)[:, None]
        numbers = torch.tensor(factors, dtype=torch.int32, device=device).t()[..., None].contiguous()
        kept = [-1] * config.dense_levels + [config.table_size - 1] * (config.levels - config.dense_levels)
        first, bits = torch.tensor([starts, kept], dtype=torch.int32, device=device)[..., None]
        return widths, numbers, first, widths - 1, bits


class _WeightedRows(torch.autograd.Function):
    """table (T, F), rows and weights (8, L, P) -> (P, L·F) weighted sums; the way back is faster than autograd's."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(table, rows, weights)
        if table.device.type == "cpu":  # fused there, of corners that lie side by side; elsewhere missing or not faster
            ctx.bags = bags, shares = [values.flatten(1).t().contiguous() for values in (rows, weights)]
            sums = F.embedding_bag(bags, table, mode="sum", per_sample_weights=shares)
        else:
            sums = (F.embedding(rows, table) * weights[..., None]).sum(0)
        return sums.view(*rows.shape[1:], table.shape[1]).transpose(0, 1).flatten(1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, Tensor | None]:  # noqa: ANN401
        table, rows, weights = ctx.saved_tensors
        gradient = gradient.unflatten(1, (rows.shape[1], table.shape[1])).transpose(0, 1)  # (L, P, F)
        table_gradient = weights_gradient = None
        if ctx.needs_input_grad[0]:
            wide = weights.dtype in (torch.float32, torch.float64)  # what scipy knows
            if wide and table.device.type == "cpu" and not torch.is_grad_enabled():  # (T, N) sparse times (N, F)
                from scipy.sparse import csc_matrix  # at the first use: ComfyUI's start does not wait for it

                bags, shares = (values.detach().reshape(-1).numpy() for values in ctx.bags)
                ends = np.arange(0, bags.size + 1, len(rows), dtype=bags.dtype)
                matrix = csc_matrix((shares, bags, ends), shape=(len(table), rows[0].numel()), copy=False)
                table_gradient = torch.from_numpy(matrix @ gradient.flatten(0, 1).numpy()).to(table.dtype)
            else:
                parts = (weights[..., None] * gradient).reshape(-1, table.shape[1])
                table_gradient = gradient.new_zeros(table.shape).index_add(0, rows.reshape(-1), parts)
        if ctx.needs_input_grad[2]:
            weights_gradient = (F.embedding(rows, table) * gradient).sum(-1)
        return table_gradient, None, weights_gradient
