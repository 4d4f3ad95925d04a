"""Captured calls: the kernels of a function launched again as one CUDA graph, without Python in between.

A guided step of one view launches about two thousand small kernels; on a fast GPU launching them takes longer than
computing them. A graph belongs to the shapes it was captured with and reads its inputs from where they were then, so
that new inputs are copied there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..support.errors import InputError

WARMUPS = 2
"""Calls before the capture, in which libraries choose their kernels."""

Capture = Callable[[Callable[[], Tensor]], tuple[Tensor, Callable[[], None]]]
"""Runs a function and gives its result and a function that computes the result again in the same memory."""


def capture_graph(call: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
    """Captures the call's kernels on the current CUDA device."""
    if not torch.cuda.is_available():
        raise InputError("calls can be recorded on a CUDA device only, and there is none; leave the recording out")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARMUPS):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()
    return result, graph.replay


@dataclass(eq=False)
class _Captured:
    """One captured graph with its inputs' memory; `last` are the constants that were copied there."""

    inputs: tuple[Tensor, Tensor]
    constants: Any
    last: Any
    result: Tensor
    replay: Callable[[], None]


class CapturedCalls:
    """`function(first, second, constants)` captured once for every set of shapes and replayed from then on.

    Weights that the function reads may change their values, not their place. Results have no gradients.

    Args:
        function: of two tensors and a dataclass of tensors and of plain values, which count as part of the shapes.
        capture: how a call is captured.
    """

    def __init__(self, function: Callable[[Tensor, Tensor, Any], Tensor], capture: Capture = capture_graph) -> None:
        self.function = function
        self.capture = capture
        self._calls: dict[tuple[Any, ...], _Captured] = {}

    def __call__(self, first: Tensor, second: Tensor, constants: Any) -> Tensor:  # noqa: ANN401 - any dataclass
        """What the function gives, in memory of its own."""
        values = (first, second, *tree_leaves(constants))
        key = tuple((value.shape, value.dtype) if isinstance(value, Tensor) else value for value in values)
        if key not in self._calls:
            with torch.inference_mode(False), torch.no_grad():  # else they could not be changed outside of it
                inputs, own = (first.clone(), second.clone()), copied(constants)
                result, replay = self.capture(lambda: self.function(*inputs, own))
            self._calls[key] = _Captured(inputs, own, constants, result, replay)
        call = self._calls[key]
        for mine, given in zip(call.inputs, (first, second), strict=True):
            mine.copy_(given)
        if constants is not call.last:
            for mine, given in zip(tensors_of(call.constants), tensors_of(constants), strict=True):
                mine.copy_(given)
            call.last = constants
        call.replay()
        return call.result.clone()


def tree_leaves(value: Any) -> Iterator[Any]:  # noqa: ANN401 - a tree of dataclasses, tuples, tensors and plain values
    """What stands in nested dataclasses and tuples, in its order."""
    if isinstance(value, tuple) or is_dataclass(value):
        parts = value if isinstance(value, tuple) else [getattr(value, item.name) for item in fields(value)]
        for part in parts:
            yield from tree_leaves(part)
    else:
        yield value


def tensors_of(value: Any) -> Iterator[Tensor]:  # noqa: ANN401
    """The tensors among the leaves."""
    return (leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))


def copied(value: Any) -> Any:  # noqa: ANN401
    """The same nested dataclasses and tuples with tensors of their own."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, tuple):
        return tuple(copied(part) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{item.name: copied(getattr(value, item.name)) for item in fields(value)})
    return value
