"""Checks made where data enters: constructors, public functions, command line."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .errors import InputError


def check_shape(name: str, tensor: Tensor, shape: Sequence[int | str], hint: str = "") -> None:
    """Raises InputError unless `tensor` has `shape`, in which a word stands for any size.

    Args:
        name: what the tensor is called in the message, e.g. "InputViews.rgb".
        tensor: the value that came.
        shape: sizes; a string such as "V" admits any size and names it in the message.
        hint: a clause that says what to do, appended after a semicolon.

    Example: `check_shape("rgb", rgb, ("V", 3, 256, 256))`.
    """
    if not isinstance(tensor, Tensor):
        raise InputError(f"{name} must be a tensor, got {type(tensor).__name__}{_clause(hint)}")
    fits = tensor.ndim == len(shape) and all(
        isinstance(want, str) or want == got for want, got in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join(str(size) for size in shape)
        raise InputError(f"{name} must be ({wanted}), got {tuple(tensor.shape)}{_clause(hint)}")


def check_finite(name: str, tensor: Tensor) -> None:
    """Raises InputError if `tensor` holds NaN or infinity, and says how many."""
    if not torch.isfinite(tensor).all():
        count = int((~torch.isfinite(tensor)).sum())
        raise InputError(
            f"{name} must be finite, got {count} NaN or infinite values of {tensor.numel()}; check its source"
        )


def check_range(name: str, value: float, low: float = -math.inf, high: float = math.inf) -> None:
    """Raises InputError unless `value` is a finite number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{name} must be a number, got {type(value).__name__}")
    if not math.isfinite(value) or not low <= value <= high:
        raise InputError(f"{name} must be {_interval(low, high)}, got {value}")


def check_count(name: str, value: int, low: int = 0, high: float = math.inf) -> None:
    """Raises InputError unless `value` is a whole number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{name} must be a whole number, got {value!r:.40}")
    check_range(name, value, low, high)


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raises InputError unless `value` is one of `choices`."""
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _interval(low: float, high: float) -> str:
    if math.isinf(high):
        return f"at least {low}" if math.isfinite(low) else "finite"
    return f"between {low} and {high}" if math.isfinite(low) else f"at most {high}"


def _clause(hint: str) -> str:
    return f"; {hint}" if hint else ""
