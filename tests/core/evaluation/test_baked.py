"""Baked fields look like the fields that they were made of."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from upfusion_core import orbit_cameras
from upfusion_core.config import RaySampling
from upfusion_core.evaluation.metrics import psnr
from upfusion_core.evaluation.surfaces import BakedField
from upfusion_core.field.rendering import render_views

CAMERAS = orbit_cameras([10, 120], [30, -5])


class Ball:
    """A solid ball beside the middle of its box, whose colours run with the place."""

    aabb = torch.tensor([[-0.3] * 3, [0.3] * 3])

    def __init__(self, density: float = 2000.0, radius: float = 0.08) -> None:
        self.density, self.radius = density, radius
        self.asked = 0

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        self.asked += points[..., 0].numel()
        inside = (points - torch.tensor([0.05, 0.0, -0.03])).norm(dim=-1) < self.radius
        return self.density * inside, (0.5 + 3 * points).clamp(0, 1)


@pytest.mark.parametrize("size", [16, 32])
def test_small_pictures_are_nearly_the_field_s_own(size: int) -> None:
    ball = Ball()
    baked = BakedField(ball)
    assert (baked.aabb[1] - baked.aabb[0]).max() < 0.25  # only the ball's own box
    asked = ball.asked
    seen = baked.render(CAMERAS, size)
    assert ball.asked == asked
    assert seen.shape == (2, 4, size, size)
    true = render_views(ball, ball.aabb, CAMERAS, 4 * size, sampling=RaySampling(200, 0))
    true = avg_pool2d(torch.cat([true.rgb, true.opacity], dim=1), 4)
    assert psnr(seen[:, :3].clamp(0, 1), true[:, :3].clamp(0, 1)).min() > 28
    areas = seen[:, 3].sum((1, 2)) / true[:, 3].sum((1, 2))
    assert areas.tolist() == pytest.approx([1, 1], abs=0.05)


def test_nothing_is_white() -> None:
    seen = BakedField(Ball(density=0.0)).render(CAMERAS, 8)
    assert torch.equal(seen[:, :3], torch.ones(2, 3, 8, 8))
    assert seen[:, 3].abs().max() == 0
