"""Pictures against their truth: numbers worked out by hand, and where they are shown."""

import pytest
import torch
from small_models import Run, refused
from torch import Tensor

pytestmark = pytest.mark.usefixtures("lines")

COMPARE = "UpFusionCompareViews"


def square_on_white() -> tuple[Tensor, Tensor]:
    """IMAGE (2, 48, 48, 3) of a grey square and its MASK."""
    masks = torch.zeros(2, 48, 48)
    masks[:, 12:36, 16:40] = 1
    return 1 - 0.7 * masks[..., None].expand(-1, -1, -1, 3), masks


def rows(text: str) -> dict[str, list[float]]:
    """The table's values by the first word of their column's title, the mean last."""
    lines = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]
    return {title: [float(line[place]) for line in lines[1:]] for place, title in enumerate(lines[0]) if place}


def test_measures_are_those_of_each_view_and_their_mean(run_node: Run) -> None:
    truth, masks = square_on_white()
    images = truth.clone()
    images[1] -= 0.1  # 20 dB
    text, _, difference = run_node(COMPARE, images=images, truth=truth, masks=masks)
    found = rows(text)
    assert found["PSNR (dB)"] == found["box PSNR (dB)"] == [100.0, 20.0, 60.0]
    assert found["SSIM"][0] == 1.0 > found["SSIM"][1]
    assert set(found) == {"PSNR (dB)", "SSIM", "box PSNR (dB)", "box SSIM", "mask IoU", "sharpness", "1 - HaarPSI"}
    assert difference.shape == truth.shape
    torch.testing.assert_close(difference[1], torch.full((48, 48, 3), 0.1))
    assert run_node(COMPARE, images=images, truth=truth)[0] == text  # the mask is what is not white in the truth
    large = truth.repeat_interleave(2, 1).repeat_interleave(2, 2)  # is brought to the truth's size
    assert rows(run_node(COMPARE, images=large, truth=truth, masks=masks)[0])["PSNR (dB)"][0] > 25


def test_what_cannot_be_compared_gets_a_sentence(run_node: Run) -> None:
    truth, masks = square_on_white()
    for changes, message in (
        ({"images": torch.ones(3, 48, 48, 3)}, "must be as many pictures, got 3 and 2"),
        ({"images": torch.ones(2, 48, 64, 3)}, "must have the same shape, got 64 x 48 and 48 x 48"),
        ({"masks": torch.zeros(2, 48, 48)}, "must show the object in every view"),
        ({"truth": torch.ones(48, 48, 3)}, r"an IMAGE must be \(B, H, W, 3 or 4\)"),
        ({"masks": torch.ones(2, 24, 24)}, "masks must be 2 of 48 x 48 pixels like the pictures, got 2 of 24 x 24"),
    ):
        refused(message, run_node, COMPARE, **({"images": truth, "truth": truth, "masks": masks} | changes))
