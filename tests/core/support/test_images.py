"""Pictures come back from their files as they went in; colours by hand and as kornia has them, which the nodes use."""

import math
from pathlib import Path

import pytest
import torch
from kornia.color import linear_rgb_to_rgb, rgb_to_linear_rgb
from PIL import Image
from refusals import refused

from upfusion_core.support import images


def test_eight_bits_sheets_and_png_files(tmp_path: Path) -> None:
    values = torch.tensor([[-0.5, 0.0, 0.3, 0.501], [0.5, 1.0, 1.5, 254.6 / 255]], dtype=torch.float64)
    assert images.to_8bit(values).tolist() == [[0, 0, 76, 128], [128, 255, 255, 255]]
    assert images.to_8bit(values.T.requires_grad_()).flags["C_CONTIGUOUS"]
    views = torch.stack([torch.full((3, 2, 3), index / 10) for index in range(5)])
    sheet = images.contact_sheet(views)
    assert (sheet.shape, images.contact_sheet(views, columns=5).shape) == ((3, 4, 9), (3, 2, 15))
    assert torch.equal(sheet[0, ::2, ::3], torch.tensor([[0.0, 0.1, 0.2], [0.3, 0.4, 1.0]]))
    rgb = torch.arange(3 * 4 * 20).reshape(3, 4, 20) / 255
    images.save_png(tmp_path / "a.png", rgb)
    assert torch.equal(images.load_png(tmp_path / "a.png"), rgb)
    refused("rgb must be", images.save_png, tmp_path / "b.png", torch.zeros(1, 2, 2))
    Image.new("L", (3, 2), 51).save(tmp_path / "a.png")
    assert torch.equal(images.load_png(tmp_path / "a.png", "L"), torch.full((1, 2, 3), 51 / 255))


def test_other_sizes() -> None:
    pictures = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert images.resize_pictures(pictures, 8) is pictures
    grey = torch.full((1, 1, 6, 8), 0.25)
    torch.testing.assert_close(images.resize_pictures(grey, 4), grey[..., :4, :4])
    checked = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(4, 4)[None, None]
    assert (images.resize_pictures(checked, 2) - 0.5).abs().max() < 0.05  # without aliasing
    half = images.resize_pictures(checked.half(), 2)
    torch.testing.assert_close(half, images.resize_pictures(checked, 2).half(), atol=1e-3, rtol=0)
    larger = images.resize_pictures(checked, 32)
    assert (larger.min(), larger.max()) == (0, 1)  # bicubic overshoots, and is cut


def test_damaged_pngs_get_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    images.save_png(path, torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)))
    whole = path.read_bytes()
    for content in (b"", b"text", whole[:30], whole[: len(whole) // 2]):
        path.write_bytes(content)
        refused(r"a\.png must be a whole PNG", images.load_png, path)
    for bad in (tmp_path, tmp_path / "none.png"):
        refused("must be a whole PNG", images.load_png, bad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_saturated_values_and_gradients_by_hand(dtype: torch.dtype) -> None:
    values = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0, math.inf, -math.inf], dtype=dtype, requires_grad=True)
    cut = images.saturate(values)
    assert cut.dtype == dtype
    assert cut.tolist() == [0, 0, 0.5, 1, 1, 1, 0]
    cut.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0, 1, 1, 1, 0, 0, 0]
    assert images.saturate(torch.tensor(math.nan)).isnan()


def test_srgb_by_hand_and_as_kornia() -> None:
    srgb, linear = torch.tensor([0.0, 0.04, 0.5, 1.0]), torch.tensor([0.0, 0.0030960, 0.2140411, 1.0])
    ramp = torch.linspace(0, 1, 300).reshape(3, 10, 10)
    torch.testing.assert_close(images.srgb_to_linear(srgb), linear)
    torch.testing.assert_close(images.linear_to_srgb(linear), srgb)
    torch.testing.assert_close(images.srgb_to_linear(ramp), rgb_to_linear_rgb(ramp), atol=1e-6, rtol=0)
    torch.testing.assert_close(images.linear_to_srgb(ramp), linear_rgb_to_rgb(ramp), atol=1e-6, rtol=0)
