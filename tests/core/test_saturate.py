from __future__ import annotations

import math

import pytest
import torch

from upfusion_core.config import GridConfig
from upfusion_core.field.hashgrid import encode_grid
from upfusion_core.support.images import saturate


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_values_and_gradients_by_hand(dtype: torch.dtype) -> None:
    values = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0, math.inf, -math.inf], dtype=dtype, requires_grad=True)
    cut = saturate(values)
    assert cut.dtype == dtype
    assert cut.tolist() == [0, 0, 0.5, 1, 1, 1, 0]
    cut.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0, 1, 1, 1, 0, 0, 0]
    assert saturate(torch.tensor(math.nan)).isnan()


def test_points_on_the_faces_of_the_box_have_a_slope() -> None:
    config = GridConfig(levels=1, features=1, coarsest=1, finest=1, table_size=8)
    table = torch.arange(8.0)[:, None]  # rows are numbered x first, so the value is x + 2 y + 4 z
    points = torch.tensor([[0.0, 1.0, 0.5], [1.0, 0.0, 1.0]], requires_grad=True)
    encode_grid(points, table, config).sum().backward()
    assert points.grad is not None
    assert points.grad.tolist() == [[1, 2, 4], [1, 2, 4]]
