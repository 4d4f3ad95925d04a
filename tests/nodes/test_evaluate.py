"""Pictures against their truth: numbers worked out by hand, and where they are shown."""

import re

import pytest
import torch
from small_models import Run, refused

pytestmark = pytest.mark.usefixtures("lines")

COMPARE = "UpFusionCompareViews"
MASKS = torch.nn.functional.pad(torch.ones(2, 24, 24), (16, 8, 12, 12))
TRUTH = 1 - 0.7 * MASKS[..., None].expand(-1, -1, -1, 3)  # grey squares on white


def test_measures_are_those_of_each_view_and_their_mean(run_node: Run) -> None:
    images = TRUTH.clone()
    images[1] -= 0.1  # 20 dB
    text, _, difference = run_node(COMPARE, images=images, truth=TRUTH, masks=MASKS)
    titles, *lines = text.splitlines()
    measures = ["PSNR (dB)", "SSIM", "box PSNR (dB)", "box SSIM", "mask IoU", "sharpness", "1 - HaarPSI"]
    assert re.split("  +", titles.strip()) == ["view", *measures]
    assert [line.split()[:2] for line in lines] == [["0", "100.000"], ["1", "20.000"], ["mean", "60.000"]]
    assert difference.shape == TRUTH.shape
    torch.testing.assert_close(difference[1], torch.full((48, 48, 3), 0.1))
    assert run_node(COMPARE, images=images, truth=TRUTH)[0] == text  # the mask is what is not white in the truth
    large = TRUTH.repeat_interleave(2, 1).repeat_interleave(2, 2)  # is brought to the truth's size
    assert float(run_node(COMPARE, images=large, truth=TRUTH, masks=MASKS)[0].splitlines()[1].split()[1]) > 25


def test_what_cannot_be_compared_gets_a_sentence(run_node: Run) -> None:
    for changes, message in (
        ({"images": torch.ones(3, 48, 48, 3)}, "must be as many pictures, got 3 and 2"),
        ({"images": torch.ones(2, 48, 64, 3)}, "must have the same shape, got 64 x 48 and 48 x 48"),
        ({"masks": torch.zeros(2, 48, 48)}, "must show the object in every view"),
        ({"masks": torch.ones(2, 24, 24)}, "masks must be 2 of 48 x 48 pixels like the pictures, got 2 of 24 x 24"),
    ):
        refused(message, run_node, COMPARE, **({"images": TRUTH, "truth": TRUTH, "masks": MASKS} | changes))
