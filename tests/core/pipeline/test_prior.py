"""Captured calls, with a recorder that runs the function again where a GPU would replay its kernels."""

from collections.abc import Callable
from dataclasses import dataclass
from unittest.mock import Mock

import pytest
import torch
from refusals import refused
from torch import Tensor

from upfusion_core.pipeline.prior import CapturedCalls, capture_graph


@dataclass(frozen=True, eq=False)
class Constants:
    scale: Tensor
    pairs: tuple[tuple[Tensor, Tensor], ...]
    count: int = 2


def constants(value: float, count: int = 2) -> Constants:
    return Constants(torch.full((3,), value), ((torch.ones(2), torch.full((2,), value)),), count)


def function(first: Tensor, second: Tensor, given: Constants) -> Tensor:
    return first * given.scale + second + given.count * given.pairs[0][1].sum()


def record(call: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], object]]:
    """Computes into the same result again."""
    result = call()
    return result, lambda: result.copy_(call())


def test_replays_follow_inputs_constants_and_settings() -> None:
    recorder = Mock(side_effect=record)
    calls = CapturedCalls(function, recorder)
    first, second = torch.arange(3.0), torch.ones(3)
    three, five = constants(3.0), constants(5.0)
    with torch.inference_mode():  # which hosts call from, and not always
        kept = calls(first, second, three)
    for given in (three, five, five, three):
        torch.testing.assert_close(calls(first + 1, second * 2, given), function(first + 1, second * 2, given))
    assert recorder.call_count == 1
    assert torch.equal(kept, function(first, second, three))  # an earlier result is not overwritten
    assert torch.equal(five.scale, torch.full((3,), 5.0))  # nor the caller's constants
    recorder = Mock(side_effect=record)
    calls = CapturedCalls(function, recorder)
    for rows, count in ((1, 2), (2, 2), (1, 2), (1, 3), (1, 2)):
        first, given = torch.randn(rows, 3, generator=torch.Generator().manual_seed(rows)), constants(1.0, count)
        torch.testing.assert_close(calls(first, first, given), function(first, first, given))
    assert recorder.call_count == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_without_a_gpu_it_says_so() -> None:
    refused("CUDA device only", capture_graph, lambda: torch.zeros(1))
