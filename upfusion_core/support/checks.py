"""Checks made where data enters: constructors, public functions, command line."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .errors import InputError


def check_shape(name: str, tensor: Tensor, shape: Sequence[int | str], hint: str = "") -> None:
    """Raises InputError unless `tensor` has `shape`, e.g. ("V", 3, "S", "S"); `hint` says what to do."""
    check_type(name, tensor, Tensor, hint)
    sizes: dict[int | str, int] = {}
    pairs = zip(shape, tensor.shape, strict=False)
    meet = (got == (sizes.setdefault(want, got) if isinstance(want, str) else want) for want, got in pairs)
    if tensor.ndim != len(shape) or not all(meet):
        found = f"{tuple(tensor.shape)}{hint and f'; {hint}'}"
        raise InputError(f"{name} must be ({', '.join(map(str, shape))}), got {found}")


def check_finite(name: str, tensor: Tensor) -> None:
    """Raises InputError unless `tensor` is one of real numbers without NaN and infinity; it says how many there are."""
    check_type(name, tensor, Tensor)
    if tensor.is_complex():
        raise InputError(f"{name} must hold real numbers, got {tensor.dtype}; convert it first")
    if tensor.is_floating_point() and tensor.numel() and not math.isfinite(magnitude(tensor)):
        count = f"{int((~torch.isfinite(tensor)).sum())} NaN or infinite values of {tensor.numel()}"
        raise InputError(f"{name} must be finite, got {count}; check its source")


def check_unit_range(name: str, tensor: Tensor, hint: str) -> None:
    """Raises InputError unless `tensor` holds floating-point numbers in [0, 1], or 0.001 off it by rounding."""
    check_type(name, tensor, Tensor)
    if not tensor.is_floating_point():
        raise InputError(f"{name} must be floating point, got {tensor.dtype}; {hint}")
    if tensor.numel():
        low, high = (end.item() for end in torch.aminmax(tensor.detach()))  # one pass: NaN anywhere makes both NaN
        if not (low >= -1e-3 and high <= 1.001):
            check_finite(name, tensor)
            raise InputError(f"{name} must be in [0, 1], got [{low:.3g}, {high:.3g}]; {hint}")


def magnitude(tensor: Tensor) -> float:
    """The largest magnitude in a floating-point tensor that is not empty, NaN if it holds any: one pass, no copy."""
    low, high = torch.aminmax(tensor.detach())  # NaN anywhere makes both NaN
    return max(abs(low.item()), abs(high.item()))


def check_range(name: str, value: float, low: float = -math.inf, high: float = math.inf) -> None:
    """Raises InputError unless `value` is a finite number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{name} must be a number, got {type(value).__name__}")
    if not low <= value <= high or math.isinf(value):
        wanted = f"at least {low}" if math.isfinite(low) else "finite"
        if math.isfinite(high):
            wanted = f"between {low} and {high}" if math.isfinite(low) else f"at most {high}"
        raise InputError(f"{name} must be {wanted}, got {value!r:.60}")


def check_count(name: str, value: int, low: int = 0, high: float = math.inf) -> None:
    """Raises InputError unless `value` is a whole number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{name} must be a whole number, got {value!r:.60}")
    check_range(name, value, low, high)


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raises InputError unless `value` is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"{name} must be one of {', '.join(choices)}, got {value!r:.60}")


def check_type(name: str, value: object, kind: type, hint: str = "") -> None:
    """Raises InputError unless `value` is a `kind`; `hint` says what to do."""
    if not isinstance(value, kind):
        wanted = "a tensor" if kind is Tensor else kind.__name__
        raise InputError(f"{name} must be {wanted}, got {type(value).__name__}{hint and f'; {hint}'}")
