from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from upfusion_core.support.checks import check_choice, check_count, check_finite, check_range, check_shape, check_type
from upfusion_core.support.errors import InputError


def test_shape_message_names_what_was_expected_what_came_and_what_to_do() -> None:
    check_shape("rgb", torch.zeros(2, 3, 4, 4), ("V", 3, 4, 4))
    with pytest.raises(InputError) as error:
        check_shape("rgb", torch.zeros(2, 4, 4, 3), ("V", 3, "S", "S"), "transpose it")
    assert str(error.value) == "rgb must be (V, 3, S, S), got (2, 4, 4, 3); transpose it"
    with pytest.raises(InputError, match="must be a tensor, got list"):
        check_shape("rgb", [1, 2], ("V",))


def test_nested_tensors_have_no_shape_to_check() -> None:
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
    with pytest.raises(InputError, match="x must be an ordinary tensor of real numbers, got a nested one"):
        check_shape("x", nested, ("N", 3))
    with pytest.raises(InputError, match="in the layout _mkldnn"):
        check_finite("x", torch.ones(2, 2).to_mkldnn())


def test_finite_counts_what_is_not() -> None:
    check_finite("x", torch.zeros(3))
    with pytest.raises(InputError, match="got 2 NaN or infinite values of 3"):
        check_finite("x", torch.tensor([0.0, float("nan"), float("inf")]))


@pytest.mark.parametrize(
    ("value", "low", "high", "words"),
    [
        (2, 0, 1, "between 0 and 1, got 2"),
        (-1, 0, float("inf"), "at least 0, got -1"),
        (3, float("-inf"), 2, "at most 2, got 3"),
        (float("nan"), float("-inf"), float("inf"), "finite, got nan"),
        ("7", 0, 9, "must be a number, got str"),
        (True, 0, 9, "must be a number, got bool"),
    ],
)
def test_range(value: object, low: float, high: float, words: str) -> None:
    check_range("x", 0.5, 0, 1)
    with pytest.raises(InputError, match=words):
        check_range("x", value, low, high)


def test_count() -> None:
    check_count("n", 3, 1, 5)
    with pytest.raises(InputError, match=r"n must be a whole number, got 2\.5"):
        check_count("n", 2.5)
    with pytest.raises(InputError, match="n must be at least 1, got 0"):
        check_count("n", 0, 1)


def test_choice() -> None:
    check_choice("kind", "a", ("a", "b"))
    with pytest.raises(InputError, match="kind must be one of a, b, got 'c'"):
        check_choice("kind", "c", ("a", "b"))


@pytest.mark.filterwarnings("ignore:torch.quantize", "ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torch.ones(2, device="meta"), "without values"),
        (lambda: torch.ones(2).to_sparse(), "layout sparse_coo"),
        (lambda: torch.ones(2, dtype=torch.complex64), "a complex one"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "a quantised one"),
        (lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]), "a nested one"),
        (lambda: [1.0], "must be a tensor, got list"),
    ],
)
def test_only_plain_real_numbers_are_looked_at(make: Callable[[], torch.Tensor], words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_finite("x", make())


def test_numbers_of_any_size_have_a_message() -> None:
    with pytest.raises(InputError, match="x must be at most 5, got a whole number of more than 40 digits"):
        check_range("x", 10**5000, high=5)
    with pytest.raises(InputError, match="got a whole number of more than 40 digits"):
        check_choice("x", 10**5000, ("a",))
    with pytest.raises(InputError, match="x must be at least 0, got a whole number of more than 40 digits"):
        check_range("x", 10**5000, 0)  # no float holds it: where it is used it would be an OverflowError
    check_range("x", 10**300, 0)


def test_type() -> None:
    check_type("x", "a", str)
    with pytest.raises(InputError, match="x must be str, got int; give a name"):
        check_type("x", 3, str, "give a name")
