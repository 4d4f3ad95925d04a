import math

import pytest
import torch
from soft_object import SoftObject
from torch import Tensor

from upfusion_core import orbit_cameras
from upfusion_core.evaluation.metrics import psnr
from upfusion_core.geometry.cameras import Similarity
from upfusion_core.surface.registration import Render, SimilaritySearch, _Comparison, align_object

YAWS, PITCHES = (-30.0, -20.0, -10.0, 0.0, 10.0, 20.0, 30.0), (-20.0, -10.0, 0.0, 10.0, 20.0)
THOROUGH = SimilaritySearch(YAWS, PITCHES, starts=2, coarse_size=32, fine_size=64)
CAMERAS = orbit_cameras([0, 60, 140, 250], [10, 30, 20, 0])
KNOWN = {
    "small": Similarity.from_angles(5, -4, 3, scale=1.05, shift=(0.01, -0.005, 0.008)),
    "large": Similarity.from_angles(-25, 15, 8, scale=0.85, shift=(0.03, 0.02, -0.03)),
    "far": Similarity.from_angles(33, -18, -5, scale=1.2, shift=(0.0, 0.02, 0.03)),
}


def found_by(render: Render, truth: Tensor, search: SimilaritySearch) -> Similarity:
    return align_object(render, CAMERAS, truth, render(CAMERAS, truth.shape[-1]), search)[0]


def angle_degrees(rotation: Tensor) -> float:
    skew = rotation - rotation.T  # 2 sin(angle) times the axis; exact where the trace is not
    sine = torch.stack([skew[2, 1], skew[0, 2], skew[1, 0]]).norm() / 2
    return math.degrees(math.atan2(float(sine), (float(rotation.trace()) - 1) / 2))


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_similarity_is_found(name: str) -> None:
    """Thoroughly, and by the quick search nearly as well."""
    known, render = KNOWN[name], SoftObject()
    truth = SoftObject(known)(CAMERAS, 64)
    found = found_by(render, truth, SimilaritySearch())
    assert render.calls < 100
    assert angle_degrees(found.rotation.T @ known.rotation) < 0.5
    assert psnr(render(found.move(CAMERAS), 64), truth).min() > 45
    render = SoftObject()
    found = found_by(render, truth, THOROUGH)
    assert found.scale == pytest.approx(known.scale, rel=1e-3)
    assert angle_degrees(found.rotation.T @ known.rotation) < 0.1
    assert float((found.translation - known.translation).norm()) < 2e-4  # a pixel is 0.007
    assert psnr(render(CAMERAS, 64), truth).mean() < 30
    assert psnr(render(found.move(CAMERAS), 64), truth).min() > 60
    others = orbit_cameras([100, 200, 330], [40, -10, 15])  # views that were not used come right too
    assert psnr(render(found.move(others), 64), SoftObject(known)(others, 64)).min() > 60
    assert render.calls < 250


def test_the_bounds_hold() -> None:
    search = SimilaritySearch((0.0,), (0.0,), 1, coarse_size=32, fine_size=64, limits=(3.0, 3.0, 3.0, 1.01, 0.5))
    found = found_by(SoftObject(), SoftObject(KNOWN["large"])(CAMERAS, 32), search)
    assert angle_degrees(found.rotation) < 3.0 * math.sqrt(3) + 1e-3
    assert 1 / 1.01 - 1e-6 <= found.scale <= 1.01 + 1e-6


def test_silhouettes_tell_scale_and_shift() -> None:
    known = Similarity.from_angles(scale=0.9, shift=(0.03, -0.02, 0.01))
    comparison = _Comparison(SoftObject(), CAMERAS, SoftObject(known)(CAMERAS, 32), 32, SimilaritySearch(), None)
    found = comparison.towards(SoftObject()(CAMERAS, 32))
    assert float(found[3].exp()) == pytest.approx(0.9, abs=0.02)
    torch.testing.assert_close(found[4:], known.translation, atol=4e-3, rtol=0)
    assert comparison.towards(torch.ones(4, 3, 32, 32)).abs().max() == 0
