import pytest
import torch
from refusals import refused
from soft_object import SoftObject
from torch import Tensor

from upfusion_core import Cameras, orbit_cameras
from upfusion_core.evaluation import alignment
from upfusion_core.evaluation.alignment import Alignments, SimilaritySearch, align_views, warp
from upfusion_core.evaluation.metrics import psnr, silhouette
from upfusion_core.geometry.cameras import Similarity

CAMERAS = orbit_cameras([0, 90, 200], [10, 30, 20])
KNOWN = Similarity.from_angles(12, -8, 5, scale=0.9, shift=(0.01, 0.02, -0.01))
WAYS = ("raw", "affine", "similarity")


def _scores(alignments: Alignments, truth: Tensor) -> dict[str, Tensor]:
    return {name: psnr(getattr(alignments, name).rgb, truth) for name in WAYS}


def test_a_turned_object_is_put_right_for_all_views_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alignment, "SEARCH", SimilaritySearch(starts=2, coarse_size=32, fine_size=64))
    truth, render = SoftObject(KNOWN)(CAMERAS, 48), SoftObject()
    prediction = render(CAMERAS, 48)
    alignments = align_views(prediction, truth, CAMERAS, render=render)
    scores = _scores(alignments, truth)
    assert alignments.raw.rgb is prediction
    assert scores["similarity"].min() > 50
    assert (scores["raw"] < scores["affine"]).all()  # 2D transforms help, but cannot turn an object
    assert (scores["affine"] < scores["similarity"]).all()
    assert alignments.object_similarity.scale == pytest.approx(0.9, rel=1e-3)


def test_fixed_pictures_share_one_similarity() -> None:
    truth = SoftObject()(CAMERAS, 48)
    moved = torch.tensor([[1.1, -0.1, 0.06], [0.1, 1.1, -0.04]]).expand(3, 2, 3)
    mask = silhouette(truth)
    prediction, prediction_mask = warp(truth, moved), warp(mask, moved, background=0.0)
    refused("prediction must be", align_views, truth[:1], truth, CAMERAS)
    alignments = align_views(prediction, truth, CAMERAS, mask=prediction_mask)
    scores = _scores(alignments, truth)
    assert scores["raw"].max() < 30 < 35 < torch.minimum(scores["affine"], scores["similarity"]).min()
    assert alignments.object_similarity is None
    measures = alignments.measures(truth, mask)
    # the masks move with the pictures
    assert measures["iou"].max() < 0.8 < 0.95 < torch.minimum(measures["iou_affine"], measures["iou_similarity"]).min()
    torch.testing.assert_close(measures["psnr_similarity"], scores["similarity"])
    assert {"box_psnr", "box_psnr_affine", "box_psnr_similarity", "haarpsi", "haarpsi_affine"} <= set(measures)


def test_perfect_predictions_stay_and_opacity_becomes_the_mask() -> None:
    truth = SoftObject()(CAMERAS, 32)
    white = torch.ones_like(truth)

    def nothing(cameras: Cameras, size: int) -> Tensor:
        return white[:1, :, :size, :size].expand(len(cameras), -1, -1, -1)

    for prediction, render in ((truth, None), (truth, SoftObject()), (white, None), (white, nothing)):
        alignments = align_views(prediction, truth, CAMERAS, render=render)
        for name in WAYS:
            torch.testing.assert_close(getattr(alignments, name).rgb, prediction, atol=1e-6, rtol=0)

    def render(cameras: Cameras, size: int) -> Tensor:
        rgb = SoftObject()(cameras, size)
        return torch.cat([rgb, silhouette(rgb)], dim=1)

    truth, seen = SoftObject(KNOWN)(CAMERAS, 48), render(CAMERAS, 48)
    alignments = align_views(seen[:, :3], truth, CAMERAS, mask=seen[:, 3:], render=render)
    measures = alignments.measures(truth, silhouette(truth))
    assert measures["iou_similarity"].min() > 0.98
    assert measures["iou"].max() < 0.9
