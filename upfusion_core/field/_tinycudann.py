"""`encode_grid` by the package tinycudann, for hashed grids: the definition's table, values and gradients.

tinycudann looks a level up at position·scale + 0.5, in a lattice of ceil(scale) + 1 points along an axis, and its scale
is base_resolution·growth**level - 1. The definition's lattice begins on 0 instead and its resolutions are rounded. One
tinycudann encoding of one level with base_resolution = cells + 1 has scale = cells; given the points moved by
-0.5/cells it looks up where the definition does. Rows and primes are the same; a dense level has up to 7 rows more.

Limits: levels that share rows must be hashed, as tinycudann's "Tiled" grids repeat a cube and do not wrap a number;
1, 2, 4 or 8 features; the gradient of a point that lies on a face between two cells may be that of the other cell, and
at the box's own faces is of no use; float32 (float16 rounds weights too, so it is not used); second derivatives as far
as tinycudann has them. Sums of gradients have no fixed order.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import pad

from ..config import GridConfig
from ..support.checks import check_shape
from ..support.errors import InputError
from ..support.images import saturate


def encode_grid(points: Tensor, table: Tensor, config: GridConfig) -> Tensor:
    """(P, 3) points in [0, 1] -> (P, levels·features), as `hashgrid.encode_grid`, computed in float32.

    Raises:
        InputError: tinycudann cannot express this grid.
    """
    check_shape("points", points, ("P", 3), "flatten the leading axes")
    check_shape("table", table, (sum(config.rows), config.features), "it belongs to another GridConfig")
    if config.indexing == "tiled" and config.dense_levels < config.levels:
        raise InputError(
            "backend 'tinycudann' cannot wrap tiled levels as this field does; "
            "use GridConfig(indexing='hashed'), or backend 'auto' or 'torch'"
        )
    if config.features not in (1, 2, 4, 8):
        raise InputError(
            f"backend 'tinycudann' needs 1, 2, 4 or 8 features, got {config.features}; "
            "change GridConfig.features, or use backend 'auto' or 'torch'"
        )
    kind = torch.promote_types(points.dtype, table.dtype)
    if not len(points):
        return (points.sum() + table.sum()).to(kind) * points.new_zeros((0, config.width), dtype=kind)
    inside, parts = saturate(points.float()), table.float().split(config.rows)
    levels = []
    for cells, rows in zip(config.resolutions, parts, strict=True):
        encoding = _encoding(cells, config.features, config.table_size)
        parameters = pad(rows.reshape(-1), (0, encoding.params.numel() - rows.numel()))
        encoded = functional_call(encoding, {"params": parameters}, (inside - 0.5 / cells,))
        levels.append(encoded[:, : config.features])
    return torch.cat(levels, dim=-1).to(kind)


@lru_cache(maxsize=64)
def _encoding(cells: int, features: int, table_size: int) -> Any:  # noqa: ANN401 - no types in tinycudann
    """A tinycudann encoding of one level whose own parameters are never used."""
    import tinycudann

    settings = {
        "otype": "Grid",
        "type": "Hash",
        "n_levels": 1,
        "n_features_per_level": features,
        "log2_hashmap_size": table_size.bit_length() - 1,
        "base_resolution": cells + 1,
        "per_level_scale": 2.0,
        "interpolation": "Linear",
    }
    return tinycudann.Encoding(3, settings, dtype=torch.float32)
