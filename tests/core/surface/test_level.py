"""The density of the surface, from where light stops and from silhouettes."""

from __future__ import annotations

import math

import pytest
import torch
from analytic_fields import AnalyticField, ball

from upfusion_core.support.devices import Chunk
from upfusion_core.surface.level import agreeing_level, best_level, surface_level


def test_level_by_hand() -> None:
    block = torch.zeros(12, 12, 12)
    block[3:9, 3:9, 3:9] = 40.0
    assert surface_level(block, 0.1) == pytest.approx(math.log(2) / 0.12)  # half of the light within 0.12 of 1.2
    assert surface_level(block / 10, 0.1) == pytest.approx(2.0)
    thin_fog = block / 40 * 0.1  # loses 6 % in all
    assert surface_level(thin_fog, 0.1) == pytest.approx(0.05)


def test_best_level_by_hand() -> None:
    opacity, peak = torch.tensor([0.1, 1.0, 0.9]), torch.tensor([5.0, 100.0, 50.0])
    assert best_level(opacity, peak, 20.0) == pytest.approx(20.0)  # all of 5…50 agree equally
    assert best_level(opacity, peak, 2.0) == pytest.approx(5.0)
    assert best_level(opacity, peak, 80.0) == pytest.approx(50.0, rel=2e-3)


def test_a_soft_ball_in_a_haze_gets_the_outline_of_its_renders() -> None:
    """Half of the light is lost on the rays that pass at about 0.2; a haze of 10 % opacity is round it."""

    def density(points: torch.Tensor) -> torch.Tensor:
        return ball(0.2, 60.0, softness=0.02)(points) + 0.1

    field = AnalyticField(density)
    low, high = torch.full((3,), -0.35), torch.full((3,), 0.35)
    chunk = Chunk(2**17, "point")
    for first in (0.05, 3.0, 50.0):  # in the haze, fitting, far inside
        level = agreeing_level(field, low, high, first, chunk)
        radius = 0.2 - 0.02 * math.log(level / (60 - level))
        assert 0.19 < radius < 0.27, (first, level, radius)
    assert agreeing_level(field, low, high, 3.0, chunk) == pytest.approx(3.0)
