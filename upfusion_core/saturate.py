"""Values cut at two bounds, with the same gradient in every release of torch."""

from __future__ import annotations

import torch
from torch import Tensor


def saturate(values: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """`values.clamp(low, high)` whose gradient is 1 at the bounds, as inside, and 0 beyond them; NaN stays NaN.

    From torch 2.14 on the gradient of `clamp` at its bounds is 0 (before: 1). Points on a box's faces and white pixels
    lie exactly there, and the fields that are fitted to them must not depend on torch's release.
    """
    return torch.where(values < low, low, torch.where(values > high, high, values))
