import math

import pytest
import torch
from torch import Tensor

from upfusion_core.evaluation.alignment import LARGEST_SHIFT, LARGEST_STRETCH, register, warp
from upfusion_core.evaluation.metrics import psnr

IDENTITY = torch.eye(2, 3)


def blobs(size: int | tuple[int, int], transform: Tensor | None = None, seed: int = 3) -> Tensor:
    """(3, H, W) soft blobs on white, looked up at `transform` of each place: moved exactly, without resampling."""
    height, width = (size, size) if isinstance(size, int) else size
    generator = torch.Generator().manual_seed(seed)
    centers = torch.rand(6, 2, generator=generator) * 0.8 - 0.4
    sizes = 0.08 + 0.1 * torch.rand(6, generator=generator)
    colors = 0.8 * torch.rand(6, 3, generator=generator)
    longest = max(height, width)
    rows, columns = ((2 * torch.arange(side) + 1 - side) / longest for side in (height, width))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    place = torch.stack([x, y, torch.ones_like(x)], dim=-1) @ (IDENTITY if transform is None else transform).T
    weights = torch.exp(-(place[..., None, :] - centers).square().sum(-1) / (2 * sizes**2))
    return 1 - (weights[..., None] * colors).sum(-2).clamp(0, 1).permute(2, 0, 1)


def transform(angle: float, scale: float, x: float, y: float, *, stretch: float = 1.0, shear: float = 0.0) -> Tensor:
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    turn = torch.tensor([[cosine, -sine], [sine, cosine]])
    linear = turn @ torch.tensor([[scale * stretch, shear], [0, scale / stretch]])
    return torch.cat([linear, torch.tensor([[x], [y]])], dim=1)


def inverse(matrix: Tensor) -> Tensor:
    return torch.linalg.inv(torch.cat([matrix, torch.tensor([[0.0, 0, 1]])]))[:2]


KNOWN = [transform(0, 1, 0, 0), transform(5, 1.05, 0.05, -0.03), transform(20, 1.2, -0.2, 0.1)]
KNOWN += [transform(0, 0.8, 0.3, -0.25), transform(-12, 0.9, 0.1, 0.1, stretch=1.1, shear=0.05)]
KNOWN += [transform(3, 1.0, 0.0, 0.05, stretch=0.9, shear=-0.1)]


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
    truth = blobs(size).repeat(len(KNOWN), 1, 1, 1)
    prediction = torch.stack([blobs(size, inverse(matrix)) for matrix in KNOWN])
    found = register(prediction, truth, "affine")
    # a tenth of a pixel at the blobs, half-way to the border; the pictures' own rounding is in the bicubic lookup
    assert (found - torch.stack(KNOWN)).abs().max() < 0.2 / size
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
    generator = torch.Generator().manual_seed(5)
    truth, prediction = blobs(32)[None].repeat(3, 1, 1, 1), torch.rand(3, 3, 32, 32, generator=generator)
    found = register(prediction, truth, "affine")
    stretch = torch.linalg.svdvals(found[:, :, :2])
    assert (stretch <= LARGEST_STRETCH + 1e-5).all()
    assert (stretch >= 1 / LARGEST_STRETCH - 1e-5).all()
    assert (found[:, :, 2].abs() <= LARGEST_SHIFT + 1e-6).all()
    assert (psnr(warp(prediction, found), truth) >= psnr(prediction, truth) - 1e-4).all()
    assert torch.equal(register(prediction, truth, "affine"), found)
