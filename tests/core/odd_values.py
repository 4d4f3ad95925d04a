"""Values that no caller should give: a finite result comes of them, or one of our exceptions with one sentence."""

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from upfusion_core.support.errors import UpFusionError

JUNK = (*(None, True, -1, 0, 3, 2.5, float("nan"), float("inf")), *("text", b"bytes", [], {}, (1, "a"), [[1], [2, 3]]))
"""Values of other types, or far out of range."""
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)


def refused_or_finite(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - any call
    """What `function` gives, or None where it refuses in a sentence; fails on anything else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = function(*args, **kwargs)
    except UpFusionError as error:
        message = str(error)
        assert 10 < len(message) < 2000, f"a sentence was expected, got {message[:200]!r}"
        assert "\n" not in message
        return None
    assert_finite(result)
    return result


def assert_finite(value: Any) -> None:  # noqa: ANN401 - any result
    """Fails if a result holds NaN or infinity anywhere."""
    if isinstance(value, nn.Module):
        value = dict(value.state_dict())
    if dataclasses.is_dataclass(value):
        value = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    if isinstance(value, Tensor | float):
        assert torch.as_tensor(value).isfinite().all(), f"not finite: {value}"
    elif isinstance(value, Mapping):
        assert_finite(list(value.values()))
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for item in value:
            assert_finite(item)


def numbers() -> st.SearchStrategy[Any]:
    """Numbers of all sizes, and what is none."""
    return st.one_of(st.sampled_from(JUNK), st.floats(-400, 400), st.integers(-5, 10), st.floats(width=32))


@st.composite
def odd_tensors(draw: st.DrawFn, *shapes: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> Tensor:
    """A tensor of one of `shapes` or nearly so; of any dtype and strides, with NaN or infinity."""
    shape = list(draw(st.sampled_from(shapes)))
    oddity = draw(st.sampled_from(("none", "none", "none", "shape", "dtype", torch.nan, -torch.inf, 1e38)))
    if oddity == "shape":
        others = (shape[1:], [2, *shape], [0, *shape[1:]], [*shape[:-1], shape[-1] + 1], shape[::-1])
        shape = draw(st.sampled_from(others))
    tensor = torch.rand(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 3)))) * (high - low) + low
    if oddity == "dtype":
        return tensor.to(draw(st.sampled_from(DTYPES)))
    if isinstance(oddity, float) and tensor.numel():
        tensor.view(-1)[draw(st.integers(0, tensor.numel() - 1))] = oddity
    if draw(st.booleans()) and tensor.ndim > 1:
        tensor = tensor.transpose(0, -1).contiguous().transpose(0, -1)
    return tensor.requires_grad_(draw(st.booleans()))


def or_junk(*values: Any) -> st.SearchStrategy[Any]:  # noqa: ANN401 - strategies or values
    """One of the values or strategies, or now and then something else altogether."""
    wanted = [value if isinstance(value, st.SearchStrategy) else st.just(value) for value in values]
    return st.one_of(*wanted, *wanted, st.sampled_from(JUNK))
