from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from soft_object import SoftObject
from torch import Tensor

from upfusion_core import Cameras, orbit_cameras
from upfusion_core.evaluation.metrics import psnr
from upfusion_core.evaluation.spatial import Similarity, SimilaritySearch, _Comparison
from upfusion_core.evaluation.spatial import align_object as align_object_seen
from upfusion_core.procedural import ProceduralObjects
from upfusion_core.procedural.render import render_views
from upfusion_core.support.errors import InputError

CAMERAS = orbit_cameras([0, 60, 140, 250], [10, 30, 20, 0])
KNOWN = {
    "small": Similarity.from_angles(5, -4, 3, scale=1.05, translation=(0.01, -0.005, 0.008)),
    "large": Similarity.from_angles(-25, 15, 8, scale=0.85, translation=(0.03, 0.02, -0.03)),
    "far": Similarity.from_angles(33, -18, -5, scale=1.2, translation=(0.0, 0.02, 0.03)),
}


def align_object(*arguments: Any, **options: Any) -> Similarity:  # noqa: ANN401 - as the library's own
    return align_object_seen(*arguments, **options)[0]


def angle_degrees(rotation: Tensor) -> float:
    """The angle of a rotation, 0 to 180."""
    skew = rotation - rotation.T  # 2 sin(angle) times the axis; exact where the trace is not
    sine = torch.stack([skew[2, 1], skew[0, 2], skew[1, 0]]).norm() / 2
    return math.degrees(math.atan2(float(sine), (float(rotation.trace()) - 1) / 2))


def _apart(first: Similarity, second: Similarity) -> float:
    """Angle between two rotations in degrees."""
    return angle_degrees(first.rotation.T @ second.rotation)


def test_a_similarity_by_hand() -> None:
    quarter = Similarity.from_angles(90, scale=2.0, translation=(0.0, 1.0, 0.0))  # about +Y: +Z comes to +X
    torch.testing.assert_close(
        quarter.apply(torch.tensor([[0.0, 0, 1], [0, 3, 0]])), torch.tensor([[2.0, 1, 0], [0, 7, 0]])
    )
    assert angle_degrees(quarter.rotation) == pytest.approx(90, abs=1e-4)
    tilt = Similarity.from_angles(0, 90)  # about +X: +Y comes to +Z
    torch.testing.assert_close(tilt.apply(torch.tensor([[0.0, 1, 0]])), torch.tensor([[0.0, 0, 1]]))
    roll = Similarity.from_angles(0, 0, 90)  # about +Z: +X comes to +Y
    torch.testing.assert_close(roll.apply(torch.tensor([[1.0, 0, 0]])), torch.tensor([[0.0, 1, 0]]))
    points = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Similarity.identity().apply(points), points)
    assert angle_degrees(Similarity.from_angles(180).rotation) == pytest.approx(180, abs=1e-3)


def test_turning_the_object_by_yaw_is_moving_on_the_orbit() -> None:
    moved = Similarity.from_angles(30).move(orbit_cameras([50], 20))
    torch.testing.assert_close(moved.camera_to_world, orbit_cameras([20], 20).camera_to_world, atol=1e-6, rtol=0)
    larger = Similarity.from_angles(scale=2.0).move(orbit_cameras([50], 20))
    torch.testing.assert_close(larger.centers, orbit_cameras([50], 20, 0.5).centers)


@pytest.mark.parametrize("name", KNOWN)
def test_moving_cameras_is_moving_the_object(name: str) -> None:
    expected = SoftObject(KNOWN[name])(CAMERAS, 32)
    torch.testing.assert_close(SoftObject()(KNOWN[name].move(CAMERAS), 32), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_similarity_is_found(name: str) -> None:
    known, render = KNOWN[name], SoftObject()
    truth = SoftObject(known)(CAMERAS, 64)
    found = align_object(render, CAMERAS, truth)
    assert found.scale == pytest.approx(known.scale, rel=1e-3)
    assert _apart(found, known) < 0.1
    assert float((found.translation - known.translation).norm()) < 2e-4  # a pixel is 0.007
    assert psnr(render(CAMERAS, 64), truth).mean() < 30
    assert psnr(render(found.move(CAMERAS), 64), truth).min() > 60
    assert render.calls < 250


def test_views_that_were_not_used_come_right_too() -> None:
    known, render = KNOWN["large"], SoftObject()
    found = align_object(render, CAMERAS, SoftObject(known)(CAMERAS, 64))
    others = orbit_cameras([100, 200, 330], [40, -10, 15])
    assert psnr(render(found.move(others), 64), SoftObject(known)(others, 64)).min() > 60


def test_the_right_frame_stays_and_the_search_is_repeatable() -> None:
    truth = SoftObject()(CAMERAS, 32)
    found = align_object(SoftObject(), CAMERAS, truth)
    assert (found.scale, angle_degrees(found.rotation), float(found.translation.norm())) == (1.0, 0.0, 0.0)
    wrong = SoftObject(KNOWN["small"])(CAMERAS, 32)
    first, second = (align_object(SoftObject(), CAMERAS, wrong) for _ in range(2))
    assert first.scale == second.scale
    assert torch.equal(first.rotation, second.rotation)
    assert torch.equal(first.translation, second.translation)


def test_white_gains_nothing() -> None:
    def white(cameras: Cameras, size: int) -> Tensor:
        return torch.ones(len(cameras), 3, size, size)

    found = align_object(white, CAMERAS, SoftObject()(CAMERAS, 32))
    assert (found.scale, angle_degrees(found.rotation)) == (1.0, 0.0)


@pytest.mark.parametrize("name", KNOWN)
def test_the_quick_search_is_nearly_as_good(name: str) -> None:
    known, render = KNOWN[name], SoftObject()
    truth = SoftObject(known)(CAMERAS, 64)
    found = align_object(render, CAMERAS, truth, search=SimilaritySearch.quick())
    assert render.calls < 100
    assert _apart(found, known) < 0.5
    assert psnr(render(found.move(CAMERAS), 64), truth).min() > 45


def test_the_bounds_hold() -> None:
    search = SimilaritySearch(
        yaw_degrees=(0.0,), pitch_degrees=(0.0,), starts=1, largest_angle_degrees=3.0, largest_stretch=1.01
    )
    found = align_object(SoftObject(), CAMERAS, SoftObject(KNOWN["large"])(CAMERAS, 32), search=search)
    assert angle_degrees(found.rotation) < 3.0 * math.sqrt(3) + 1e-3
    assert 1 / 1.01 - 1e-6 <= found.scale <= 1.01 + 1e-6


def test_opacity_may_come_along() -> None:
    def render(cameras: Cameras, size: int) -> Tensor:
        rgb = SoftObject()(cameras, size)
        return torch.cat([rgb, 1 - rgb[:, :1]], dim=1)

    known = KNOWN["small"]
    found = align_object(render, CAMERAS, SoftObject(known)(CAMERAS, 32))
    assert _apart(found, known) < 0.5


def test_refusals() -> None:
    truth = SoftObject()(CAMERAS, 16)
    with pytest.raises(InputError, match="one square true view a camera"):
        align_object(SoftObject(), CAMERAS, truth[:3])
    with pytest.raises(InputError, match="at least one view"):
        align_object(SoftObject(), CAMERAS[:0], truth[:0])
    with pytest.raises(InputError, match=r"render\(cameras, size\) must be"):
        align_object(lambda cameras, size: torch.ones(len(cameras), 3, size, 5), CAMERAS, truth)
    with pytest.raises(InputError, match=r"render\(cameras, size\) must be finite"):
        align_object(lambda cameras, size: torch.full((len(cameras), 3, size, size), math.nan), CAMERAS, truth)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0.0, torch.eye(3), torch.zeros(3)), "Similarity.scale must be"),
        ((1.0, torch.eye(2), torch.zeros(3)), "Similarity.rotation must be"),
        ((1.0, 1.1 * torch.eye(3), torch.zeros(3)), "must be a rotation"),
        ((1.0, torch.diag(torch.tensor([1.0, 1, -1])), torch.zeros(3)), "must be a rotation"),
        ((1.0, torch.eye(3), torch.zeros(2)), "Similarity.translation must be"),
        ((1.0, torch.eye(3), torch.full((3,), math.inf)), "Similarity.translation must be finite"),
    ],
)
def test_other_similarities_get_a_sentence(arguments: tuple, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Similarity(*arguments)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"starts": 0}, "SimilaritySearch.starts"),
        ({"coarse_steps": 0}, "SimilaritySearch.coarse_steps"),
        ({"fine_size": 4}, "SimilaritySearch.fine_size"),
        ({"coarse_size": 64.5}, r"SimilaritySearch.coarse_size must be a whole number, got 64\.5"),
        ({"starts": 1.5}, r"SimilaritySearch.starts must be a whole number, got 1\.5"),
        ({"yaw_degrees": (200.0,)}, "SimilaritySearch.yaw_degrees"),
        ({"pitch_degrees": (math.nan,)}, "SimilaritySearch.pitch_degrees"),
        ({"largest_angle_degrees": -1.0}, "SimilaritySearch.largest_angle_degrees"),
        ({"largest_stretch": 0.5}, "SimilaritySearch.largest_stretch"),
        ({"largest_shift": -0.1}, "SimilaritySearch.largest_shift"),
    ],
)
def test_other_searches_get_a_sentence(changed: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        SimilaritySearch(**changed)


def test_a_scale_of_nothing_gets_a_sentence() -> None:
    with pytest.raises(InputError, match="scale must be"):
        Similarity.from_angles(scale=0.0)


def test_silhouettes_tell_scale_and_shift() -> None:
    known = Similarity.from_angles(scale=0.9, translation=(0.03, -0.02, 0.01))
    comparison = _Comparison(SoftObject(), CAMERAS, SoftObject(known)(CAMERAS, 32), 32)
    found = comparison.towards(SoftObject()(CAMERAS, 32))
    assert float(found[3].exp()) == pytest.approx(0.9, abs=0.02)
    torch.testing.assert_close(found[4:], known.translation, atol=4e-3, rtol=0)
    assert comparison.towards(torch.ones(4, 3, 32, 32)).abs().max() == 0


@pytest.mark.parametrize("index", [1, 3])
def test_the_quick_search_finds_the_frame_of_patterned_objects(index: int) -> None:
    objects = ProceduralObjects("test", size=32).batch([index], views=5)
    cameras, known = objects.cameras(0)[1:], Similarity.from_angles(14, -9, 5, scale=0.92, translation=(0.01, 0, -0.01))

    def render(where: Cameras, size: int) -> Tensor:
        moved = known.move(where)
        return render_views(objects.objects, moved.camera_to_world[None], moved.focal[None], size).rgb[0]

    truth = objects.rgb[0, 1:]
    found = align_object(render, cameras, truth, search=SimilaritySearch.quick())
    points = 0.12 * torch.nn.functional.normalize(
        torch.randn(200, 3, generator=torch.Generator().manual_seed(0)), dim=1
    )
    assert (found.apply(known.apply(points)) - points).norm(dim=1).mean() < 0.012
    assert psnr(render(found.move(cameras), 32), truth).mean() > psnr(render(cameras, 32), truth).mean() + 5
