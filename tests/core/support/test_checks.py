from math import inf, nan

import torch
from refusals import refused

from upfusion_core.support.checks import check_count, check_finite, check_range, check_shape, check_type


def test_shapes_finite_values_and_types() -> None:
    check_shape("rgb", torch.zeros(2, 3, 4, 4), ("V", 3, 4, 4))
    words = r"^rgb must be \(V, 3, S, S\), got \(2, 4, 4, 3\); transpose it$"
    refused(words, check_shape, "rgb", torch.zeros(2, 4, 4, 3), ("V", 3, "S", "S"), "transpose it")
    refused("got 2 NaN or infinite values of 3", check_finite, "x", torch.tensor([0.0, nan, inf]))
    refused(r"x must hold real numbers, got torch\.complex64", check_finite, "x", torch.ones(2, dtype=torch.complex64))
    refused("x must be str, got int; give a name", check_type, "x", 3, str, "give a name")


def test_ranges() -> None:
    check_range("x", 0.5, 0, 1)
    for value, low, high, words in (
        (2, 0, 1, "between 0 and 1, got 2"),
        (-1, 0, inf, "at least 0, got -1"),
        (3, -inf, 2, "at most 2, got 3"),
        (nan, -inf, inf, "finite, got nan"),
        (True, 0, 9, "must be a number, got bool"),
    ):
        refused(words, check_range, "x", value, low, high)
    refused(r"n must be a whole number, got 2\.5", check_count, "n", 2.5)
