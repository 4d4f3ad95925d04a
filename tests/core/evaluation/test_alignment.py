import math

import pytest
import torch
from soft_object import SoftObject
from torch import Tensor

from upfusion_core import Cameras, orbit_cameras
from upfusion_core.evaluation import alignment
from upfusion_core.evaluation.alignment import SimilaritySearch, align_views, register, warp
from upfusion_core.evaluation.metrics import mask_iou, psnr, silhouette
from upfusion_core.geometry.cameras import Similarity
from upfusion_core.surface.registration import Render, align_object

IDENTITY = torch.eye(2, 3)


def blobs(size: int | tuple[int, int], transform: Tensor = IDENTITY, seed: int = 3) -> Tensor:
    """(3, H, W) soft blobs on white, looked up at `transform` of each place: moved exactly, without resampling."""
    height, width = (size, size) if isinstance(size, int) else size
    generator = torch.Generator().manual_seed(seed)
    centers = torch.rand(6, 2, generator=generator) * 0.8 - 0.4
    sizes = 0.08 + 0.1 * torch.rand(6, generator=generator)
    colors = 0.8 * torch.rand(6, 3, generator=generator)
    rows, columns = ((2 * torch.arange(side) + 1 - side) / max(height, width) for side in (height, width))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    place = torch.stack([x, y, torch.ones_like(x)], dim=-1) @ transform.T
    weights = torch.exp(-(place[..., None, :] - centers).square().sum(-1) / (2 * sizes**2))
    return 1 - (weights[..., None] * colors).sum(-2).clamp(0, 1).permute(2, 0, 1)


def transform(angle: float, scale: float, x: float, y: float, *, stretch: float = 1.0, shear: float = 0.0) -> Tensor:
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    turn = torch.tensor([[cosine, -sine], [sine, cosine]])
    linear = turn @ torch.tensor([[scale * stretch, shear], [0, scale / stretch]])
    return torch.cat([linear, torch.tensor([[x], [y]])], dim=1)


def inverse(matrix: Tensor) -> Tensor:
    return torch.linalg.inv(torch.cat([matrix, torch.tensor([[0.0, 0, 1]])]))[:2]


AFFINE = [transform(0, 1, 0, 0), transform(5, 1.05, 0.05, -0.03), transform(20, 1.2, -0.2, 0.1)]
AFFINE += [transform(0, 0.8, 0.3, -0.25), transform(-12, 0.9, 0.1, 0.1, stretch=1.1, shear=0.05)]
AFFINE += [transform(3, 1.0, 0.0, 0.05, stretch=0.9, shear=-0.1)]


def test_warp_by_hand() -> None:
    picture = torch.ones(1, 1, 4, 4)
    picture[0, 0, 1, 2] = 0.2
    one_right = torch.tensor([[[1.0, 0, 0.5], [0, 1, 0]]])  # 0.5 is one of four pixels: the truth's x looks there
    moved = warp(picture, one_right)
    assert float(moved[0, 0, 1, 1]) == pytest.approx(0.2, abs=1e-6)
    assert float(moved.sum()) == pytest.approx(15.2, abs=1e-5)
    turned = warp(picture, torch.tensor([[[0.0, -1, 0], [1, 0, 0]]]))  # looks up (-y, x)
    assert float(turned[0, 0, 1, 1]) == pytest.approx(0.2, abs=1e-5)
    black = warp(torch.ones(1, 1, 4, 4), one_right, background=0.0)
    assert black[0, 0, :, 3].abs().max() < 1e-6  # beyond the border there is background
    torch.testing.assert_close(warp(picture, IDENTITY[None]), picture, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_known_affine_transforms_are_found(size: int) -> None:
    truth = blobs(size).repeat(len(AFFINE), 1, 1, 1)
    prediction = torch.stack([blobs(size, inverse(matrix)) for matrix in AFFINE])
    found = register(prediction, truth, "affine")
    # a tenth of a pixel at the blobs, half-way to the border; the pictures' own rounding is in the bicubic lookup
    assert (found - torch.stack(AFFINE)).abs().max() < 0.2 / size
    assert (psnr(warp(prediction, found), truth) > 50).all()
    assert (psnr(prediction[1:], truth[1:]) < 30).all()


def test_similarities_are_found_in_pictures_of_any_shape() -> None:
    truth = blobs((40, 64)).repeat(2, 1, 1, 1)
    known = torch.stack([transform(-8, 1.1, 0.08, -0.04), transform(6, 0.95, -0.05, 0.02)])
    prediction = torch.stack([blobs((40, 64), inverse(matrix)) for matrix in known])
    found = register(prediction, truth, "similarity")
    assert (found - known).abs().max() < 0.01
    assert (psnr(warp(prediction, found), truth) > 40).all()
    known = transform(-10, 1.15, 0.12, -0.08)
    truth = torch.stack([blobs(64, seed=seed) for seed in range(4)])
    prediction = torch.stack([blobs(64, inverse(known), seed) for seed in range(4)])
    found = register(prediction, truth, "similarity", shared=True)
    assert (found - found[:1]).abs().max() == 0
    assert (found[0] - known).abs().max() < 0.003
    assert (psnr(warp(prediction, found), truth) > 45).all()


def test_nonsense_stays_within_the_bounds_and_is_repeatable() -> None:
    truth = blobs(32)[None].repeat(3, 1, 1, 1)
    prediction = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    found = register(prediction, truth, "affine")
    stretch = torch.linalg.svdvals(found[:, :, :2])
    assert (stretch <= alignment.LARGEST_STRETCH + 1e-5).all()
    assert (stretch >= 1 / alignment.LARGEST_STRETCH - 1e-5).all()
    assert (found[:, :, 2].abs() <= alignment.LARGEST_SHIFT + 1e-6).all()
    assert (psnr(warp(prediction, found), truth) >= psnr(prediction, truth) - 1e-4).all()
    assert torch.equal(register(prediction, truth, "affine"), found)


CAMERAS = orbit_cameras([0, 60, 140, 250], [10, 30, 20, 0])
LARGE = Similarity.from_angles(-25, 15, 8, scale=0.85, shift=(0.03, 0.02, -0.03))
FAR = Similarity.from_angles(33, -18, -5, scale=1.2, shift=(0.0, 0.02, 0.03))


def found_by(render: Render, truth: Tensor, search: SimilaritySearch) -> Similarity:
    return align_object(render, CAMERAS, truth, render(CAMERAS, truth.shape[-1]), search)[0]


def angle_degrees(rotation: Tensor) -> float:
    skew = rotation - rotation.T  # 2 sin(angle) times the axis; exact where the trace is not
    sine = torch.stack([skew[2, 1], skew[0, 2], skew[1, 0]]).norm() / 2
    return math.degrees(math.atan2(float(sine), (float(rotation.trace()) - 1) / 2))


@pytest.mark.parametrize("known", [LARGE, FAR])
def test_a_known_similarity_of_the_object_is_found(known: Similarity) -> None:
    """Thoroughly, and by the quick search nearly as well."""
    truth, render = SoftObject(known)(CAMERAS, 64), SoftObject()
    found = found_by(render, truth, SimilaritySearch())
    assert render.calls < 100
    assert angle_degrees(found.rotation.T @ known.rotation) < 0.5
    assert psnr(render(found.move(CAMERAS), 64), truth).min() > 45
    yaws, pitches = (-30.0, -20.0, -10.0, 0.0, 10.0, 20.0, 30.0), (-20.0, -10.0, 0.0, 10.0, 20.0)
    render = SoftObject()
    found = found_by(render, truth, SimilaritySearch(yaws, pitches, starts=2, coarse_size=32, fine_size=64))
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
    found = found_by(SoftObject(), SoftObject(LARGE)(CAMERAS, 32), search)
    assert angle_degrees(found.rotation) < 3.0 * math.sqrt(3) + 1e-3
    assert 1 / 1.01 - 1e-6 <= found.scale <= 1.01 + 1e-6


TURNED = Similarity.from_angles(12, -8, 5, scale=0.9, shift=(0.01, 0.02, -0.01))


def scores_of(aligned: dict[str, Tensor], truth: Tensor) -> list[Tensor]:
    """Raw, affine, similarity."""
    assert list(aligned) == ["", "_affine", "_similarity"]
    return [psnr(pictures[:, :3], truth) for pictures in aligned.values()]


def test_a_turned_object_is_put_right_for_all_views_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def render(cameras: Cameras, size: int) -> Tensor:
        rgb = SoftObject()(cameras, size)
        return torch.cat([rgb, silhouette(rgb)], dim=1)

    monkeypatch.setattr(alignment, "SEARCH", SimilaritySearch(starts=2, coarse_size=32, fine_size=64))
    truth, seen = SoftObject(TURNED)(CAMERAS, 48), render(CAMERAS, 48)
    aligned, found = align_views(seen[:, :3], truth, CAMERAS, mask=seen[:, 3:], render=render)
    raw, affine, similarity = scores_of(aligned, truth)
    assert torch.equal(aligned[""], seen)
    assert similarity.min() > 50
    assert (raw < affine).all()  # 2D transforms help, but cannot turn an object
    assert (affine < similarity).all()
    assert found.scale == pytest.approx(0.9, rel=1e-3)
    before, after = (mask_iou(aligned[name][:, 3:], silhouette(truth)) for name in ("", "_similarity"))
    assert before.max() < 0.9 < 0.98 < after.min()  # opacity becomes the mask


def test_fixed_pictures_share_one_similarity() -> None:
    truth = SoftObject()(CAMERAS, 48)
    moved = torch.tensor([[1.1, -0.1, 0.06], [0.1, 1.1, -0.04]]).expand(4, 2, 3)
    mask = silhouette(truth)
    prediction, prediction_mask = warp(truth, moved), warp(mask, moved, background=0.0)
    aligned, found = align_views(prediction, truth, CAMERAS, mask=prediction_mask)
    raw, affine, similarity = scores_of(aligned, truth)
    assert raw.max() < 30 < 35 < torch.minimum(affine, similarity).min()
    assert found is None
    # the masks move with the pictures
    raw, affine, similarity = (mask_iou(pictures[:, 3:], mask) for pictures in aligned.values())
    assert raw.max() < 0.8 < 0.95 < torch.minimum(affine, similarity).min()


def test_perfect_and_empty_predictions_stay() -> None:
    truth = SoftObject()(CAMERAS, 32)
    white = torch.ones_like(truth)

    def nothing(cameras: Cameras, size: int) -> Tensor:
        return torch.ones(len(cameras), 3, size, size)

    for prediction, render in ((truth, None), (truth, SoftObject()), (white, None), (white, nothing)):
        for pictures in align_views(prediction, truth, CAMERAS, render=render)[0].values():
            torch.testing.assert_close(pictures, prediction, atol=1e-6, rtol=0)
