import pytest
import torch
from refusals import refused
from soft_object import SoftObject
from torch import Tensor

from upfusion_core import Cameras, orbit_cameras
from upfusion_core.evaluation import alignment
from upfusion_core.evaluation.alignment import SimilaritySearch, align_views, warp
from upfusion_core.evaluation.metrics import mask_iou, psnr, silhouette
from upfusion_core.geometry.cameras import Similarity

CAMERAS = orbit_cameras([0, 90, 200], [10, 30, 20])
KNOWN = Similarity.from_angles(12, -8, 5, scale=0.9, shift=(0.01, 0.02, -0.01))


def _scores(aligned: dict[str, Tensor], truth: Tensor) -> list[Tensor]:
    """Raw, affine, similarity."""
    assert list(aligned) == ["", "_affine", "_similarity"]
    return [psnr(pictures[:, :3], truth) for pictures in aligned.values()]


def test_a_turned_object_is_put_right_for_all_views_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alignment, "SEARCH", SimilaritySearch(starts=2, coarse_size=32, fine_size=64))
    truth, render = SoftObject(KNOWN)(CAMERAS, 48), SoftObject()
    prediction = render(CAMERAS, 48)
    aligned, found = align_views(prediction, truth, CAMERAS, render=render)
    raw, affine, similarity = _scores(aligned, truth)
    assert aligned[""] is prediction
    assert similarity.min() > 50
    assert (raw < affine).all()  # 2D transforms help, but cannot turn an object
    assert (affine < similarity).all()
    assert found.scale == pytest.approx(0.9, rel=1e-3)


def test_fixed_pictures_share_one_similarity() -> None:
    truth = SoftObject()(CAMERAS, 48)
    moved = torch.tensor([[1.1, -0.1, 0.06], [0.1, 1.1, -0.04]]).expand(3, 2, 3)
    mask = silhouette(truth)
    prediction, prediction_mask = warp(truth, moved), warp(mask, moved, background=0.0)
    refused("prediction must be", align_views, truth[:1], truth, CAMERAS)
    aligned, found = align_views(prediction, truth, CAMERAS, mask=prediction_mask)
    raw, affine, similarity = _scores(aligned, truth)
    assert raw.max() < 30 < 35 < torch.minimum(affine, similarity).min()
    assert found is None
    # the masks move with the pictures
    raw, affine, similarity = (mask_iou(pictures[:, 3:], mask) for pictures in aligned.values())
    assert raw.max() < 0.8 < 0.95 < torch.minimum(affine, similarity).min()


def test_perfect_predictions_stay_and_opacity_becomes_the_mask() -> None:
    truth = SoftObject()(CAMERAS, 32)
    white = torch.ones_like(truth)

    def nothing(cameras: Cameras, size: int) -> Tensor:
        return white[:1, :, :size, :size].expand(len(cameras), -1, -1, -1)

    for prediction, render in ((truth, None), (truth, SoftObject()), (white, None), (white, nothing)):
        for pictures in align_views(prediction, truth, CAMERAS, render=render)[0].values():
            torch.testing.assert_close(pictures, prediction, atol=1e-6, rtol=0)

    def render(cameras: Cameras, size: int) -> Tensor:
        rgb = SoftObject()(cameras, size)
        return torch.cat([rgb, silhouette(rgb)], dim=1)

    truth, seen = SoftObject(KNOWN)(CAMERAS, 48), render(CAMERAS, 48)
    aligned, _ = align_views(seen[:, :3], truth, CAMERAS, mask=seen[:, 3:], render=render)
    assert mask_iou(aligned["_similarity"][:, 3:], silhouette(truth)).min() > 0.98
    assert mask_iou(aligned[""][:, 3:], silhouette(truth)).max() < 0.9
