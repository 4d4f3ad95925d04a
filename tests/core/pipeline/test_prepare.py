"""Framing: white background, square crops by hand-computed numbers, resampling without fringes."""

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from upfusion_core.pipeline.photos import estimate_coverage, estimate_mask, prepare_views, resample
from upfusion_core.support.errors import InputError, MissingPackageError, PhotoError


def _disc(height: int, width: int, center: tuple[float, float], radius: float) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return (radius + 0.5 - ((y - center[0]) ** 2 + (x - center[1]) ** 2).sqrt()).clamp(0, 1)


def _box_of(mask: torch.Tensor) -> tuple[int, int, int, int]:
    inside = mask > 0.5
    rows, columns = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _on_white_photo(size: int = 32) -> torch.Tensor:
    photo = torch.ones(3, size, size)
    photo[:, 8:24, 10:22] = torch.rand(3, 16, 12, generator=torch.Generator().manual_seed(0)) * 0.6
    return photo


def test_photo_of_the_right_size_comes_through_unchanged(tmp_path: Path) -> None:
    pixels = np.random.RandomState(0).randint(0, 256, (256, 256, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    views = prepare_views(tmp_path / "photo.png")
    assert np.array_equal(views.rgb[0].numpy(), pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255))
    assert views.rgb.dtype == views.mask.dtype == torch.float32
    assert views.focal.tolist() == [[4.5, 4.5]]


def test_compositing_on_white_by_hand() -> None:
    cutout = torch.zeros(4, 16, 16)
    cutout[0], cutout[3, :, :8], cutout[3, :, 8:] = 1.0, 0.25, 1.0
    views = prepare_views(cutout, size=16, crop=False)
    assert torch.allclose(views.rgb[0, :, 3, 3], torch.tensor([1.0, 0.75, 0.75]))
    assert torch.allclose(views.rgb[0, :, 3, 12], torch.tensor([1.0, 0.0, 0.0]))
    assert torch.equal(views.mask[0, 0], cutout[3])


@pytest.mark.parametrize(("height", "width", "center", "radius"), [(300, 400, (120, 260), 50), (90, 64, (20, 30), 18)])
def test_crop_frames_the_object(height: int, width: int, center: tuple[int, int], radius: int) -> None:
    mask = _disc(height, width, center, radius)
    views = prepare_views(torch.full((3, height, width), 0.3), mask, size=230, margin=1.15)
    # the disc's diameter is the side of the crop over 1.15: 200 of 230 pixels, in the middle
    assert _box_of(views.mask[0, 0]) == (15, 15, 215, 215)
    assert torch.allclose(views.rgb[0, :, 115, 115], torch.tensor(0.3))
    assert torch.allclose(views.rgb[0, :, :3], torch.tensor(1.0))
    assert float(views.mask.sum()) == pytest.approx(np.pi * 100**2, rel=0.03)


def test_crop_beyond_the_photo_is_filled_with_white() -> None:
    mask = torch.zeros(40, 40)
    mask[:20, :20] = 1  # in the photo's corner
    views = prepare_views(torch.zeros(3, 40, 40), mask, size=40, margin=2.0)
    assert _box_of(views.mask[0, 0]) == (10, 10, 30, 30)
    assert torch.allclose(views.rgb[0, :, :8].mean(), torch.tensor(1.0), atol=1e-3)
    assert torch.allclose(views.rgb[0, :, 20, 20], torch.tensor(0.0), atol=1e-3)


def test_crop_can_be_left_out() -> None:
    mask = _disc(64, 128, (32, 40), 10)
    views = prepare_views(torch.zeros(3, 64, 128), mask, size=128, crop=False)
    assert _box_of(views.mask[0, 0]) == (30, 54, 50, 74)  # padded by 32 rows above, not moved otherwise


def test_photo_without_mask_is_padded_and_not_cropped() -> None:
    photo = torch.ones(3, 40, 80)
    photo[:, 10:30, 10:20] = 0.0
    views = prepare_views(photo, size=80)
    assert _box_of(views.mask[0, 0]) == (10, 30, 20, 50)
    assert torch.equal(views.rgb[0] < 0.5, (views.mask > 0.5)[0].expand(3, -1, -1))


def test_no_fringe_of_hidden_colors() -> None:
    """A white disc whose transparent pixels hide black: nothing dark may appear when it is shrunk or enlarged."""
    alpha = _disc(200, 200, (100, 100), 60).round()
    cutout = torch.cat([alpha.expand(3, -1, -1), alpha[None]])
    for size in (64, 256):
        views = prepare_views(cutout, size=size)
        assert float(views.rgb.min()) > 1 - 1e-5
        assert 0.3 < float(views.mask.mean()) < 0.8


def test_results_stay_in_range_at_hard_edges() -> None:
    board = (torch.arange(96)[:, None] // 8 + torch.arange(96) // 8).remainder(2).float().expand(3, -1, -1)
    for size in (40, 96, 250):
        views = prepare_views(board, size=size)
        assert float(views.rgb.min()) >= 0
        assert float(views.rgb.max()) <= 1


@pytest.mark.parametrize("size", [24, 64, 150])
def test_resample_agrees_with_torch_away_from_the_border(size: int) -> None:
    values = torch.rand(64, 64, generator=torch.Generator().manual_seed(1))
    expected = interpolate(values[None, None], (size, size), mode="bicubic", antialias=True, align_corners=False)[0, 0]
    margin = size // 8
    inner = slice(margin, size - margin)
    ours = resample(values, (0, 0, 64, 64), size)
    assert torch.allclose(ours[inner, inner], expected[inner, inner], atol=1e-5)


def test_resample_of_whole_pixels_is_exact() -> None:
    values = torch.rand(30, 40)
    part = resample(values, (-2, 3, 14, 19), 16)
    assert torch.equal(part[:, 2:], values[3:19, 0:14])
    assert torch.equal(part[:, :2], torch.zeros(16, 2))
    assert torch.equal(resample(values, (100, 100, 108, 108), 8), torch.zeros(8, 8))


def test_mask_estimate_by_hand() -> None:
    darkness = torch.tensor([0.0, 7.0, 20.0, 40.0]) / 255
    rgb = torch.ones(3, 1, 4)
    rgb[1] -= darkness  # one channel suffices
    assert torch.allclose(estimate_mask(rgb)[0, 0], torch.tensor([0.0, 0.0, 0.5, 1.0]), atol=1e-5)


def test_coverage_of_pixels_on_the_outline_by_hand() -> None:
    """A row of grey 0.5 that covers 30 % of a pixel, two whole ones, one that is darker, and 80 % of the last."""
    row = torch.tensor([1.0, 1.0, 0.85, 0.5, 0.5, 0.0, 0.5, 0.5, 0.6, 1.0, 1.0])
    rgb = row.expand(3, 1, -1)
    assert estimate_mask(rgb).flatten().tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 0]
    expected = [0, 0, 0.3, 1, 1, 1, 1, 1, 0.8, 0, 0]  # the dark pixel within lies too far from the outside to matter
    assert estimate_coverage(rgb).flatten().tolist() == pytest.approx(expected, abs=1e-6)
    # two pixels from the outside, and from the black one
    assert float(estimate_coverage(rgb, reach=2)[0, 0, 3]) == pytest.approx(0.5)


def test_mask_estimate_fills_small_white_places_only() -> None:
    rgb = torch.ones(3, 100, 100)
    rgb[:, 10:90, 10:90] = 0.4
    rgb[:, 20:28, 20:28] = 1.0  # a highlight
    rgb[:, 40:70, 40:70] = 1.0  # under a handle
    rgb[:, 80:90, 45:48] = 1.0  # a slot, open to the outside
    expected = torch.zeros(100, 100)
    expected[10:90, 10:90] = 1
    expected[40:70, 40:70] = 0
    expected[80:90, 45:48] = 0
    assert torch.equal(estimate_mask(rgb)[0], expected)


def test_mask_estimate_ignores_jpeg_noise(tmp_path: Path) -> None:
    mask = _disc(256, 256, (128, 120), 70)
    picture = 1 - mask * torch.tensor([0.2, 0.9, 0.7])[:, None, None]
    Image.fromarray((picture * 255).round().byte().permute(1, 2, 0).numpy()).save(tmp_path / "d.jpg", quality=90)
    estimate = prepare_views(tmp_path / "d.jpg").mask[0, 0]
    assert float(estimate[:40].max()) == 0
    assert float((estimate - mask).abs().mean()) < 0.01
    assert all(abs(a - b) <= 4 for a, b in zip(_box_of(estimate), (50, 58, 190, 198), strict=True))


def test_mask_and_alpha_multiply() -> None:
    cutout = torch.ones(4, 32, 32) * 0.5
    cutout[3] = 0
    cutout[3, :, :20] = 1
    mask = torch.zeros(32, 32)
    mask[:, 10:] = 1
    views = prepare_views([cutout], [mask], size=32, crop=False)
    assert torch.equal(views.mask[0, 0, 5], torch.tensor([0.0] * 10 + [1.0] * 10 + [0.0] * 12))


def test_a_faint_mask_still_frames() -> None:
    views = prepare_views(torch.zeros(3, 100, 100), 0.3 * _disc(100, 100, (50, 50), 20), size=230)
    assert _box_of(views.mask[0, 0] / 0.3) == (15, 15, 215, 215)
    assert float(views.mask.max()) == pytest.approx(0.3, abs=0.03)  # bicubic rings by 7 %


def test_ways_to_give_photos_agree(tmp_path: Path) -> None:
    photos = [_on_white_photo(), _on_white_photo(40)]
    for index, photo in enumerate(photos):
        quantised = (photo * 255).round().byte()
        photos[index] = quantised.float() / 255
        Image.fromarray(quantised.permute(1, 2, 0).numpy()).save(tmp_path / f"{index}.png")
    paths = [tmp_path / "0.png", tmp_path / "1.png"]
    expected = prepare_views(photos, size=32)
    for given in (paths, [str(path) for path in paths], [Image.open(path) for path in paths]):
        assert torch.equal(prepare_views(given, size=32).rgb, expected.rgb)
    assert torch.equal(prepare_views(photos[0], size=32).rgb, expected.rgb[:1])
    assert torch.equal(prepare_views(torch.stack([photos[0]] * 3), size=32).rgb, expected.rgb[:1].expand(3, -1, -1, -1))


def test_masks_as_a_batch_and_left_out() -> None:
    photos = torch.stack([_on_white_photo()] * 2)
    masks = torch.stack([_disc(32, 32, (16, 16), 9)] * 2)
    batch = prepare_views(photos, masks[:, None], size=32)
    assert torch.equal(batch.rgb, prepare_views(list(photos), list(masks), size=32).rgb)
    mixed = prepare_views(photos, [None, masks[1]], size=32)
    assert torch.equal(mixed.rgb[0], photos[0])
    assert torch.equal(mixed.rgb[1], batch.rgb[1])


def test_same_photos_same_result() -> None:
    generator = torch.Generator().manual_seed(2)
    photo, mask = torch.rand(3, 700, 500, generator=generator), _disc(700, 500, (300, 200), 130)
    first, second = (prepare_views(photo, mask) for _ in range(2))
    assert torch.equal(first.rgb, second.rgb)
    assert torch.equal(first.mask, second.mask)


def test_long_strips() -> None:
    strip = torch.zeros(3, 10, 20000)
    with pytest.raises(PhotoError, match="photo 1 is too narrow to be framed as a square, got 20000 x 10"):
        prepare_views(strip)
    mask = torch.zeros(10, 20000)
    mask[:, 5000:5010] = 1
    box = _box_of(prepare_views(strip, mask, size=230).mask[0, 0])
    assert all(abs(a - b) <= 1 for a, b in zip(box, (15, 15, 215, 215), strict=True))


def test_wrong_numbers_of_photos_and_masks() -> None:
    photo = _on_white_photo()
    with pytest.raises(InputError, match="expected 1 to 6 photos, got 0"):
        prepare_views([])
    with pytest.raises(InputError, match="expected 1 to 6 photos, got 7; choose the most different views"):
        prepare_views([photo] * 7)
    with pytest.raises(InputError, match="expected one mask for each of 2 photos, got 1"):
        prepare_views([photo] * 2, [torch.ones(32, 32)])
    with pytest.raises(InputError, match="images must be a list of photos, got int"):
        prepare_views(5)
    with pytest.raises(InputError, match="masks must be a list of masks, got int"):
        prepare_views(photo, 5)
    assert len(prepare_views([photo] * 6, size=16)) == 6


def test_wrong_options() -> None:
    for options in ({"size": 0}, {"margin": 0.9}, {"margin": float("nan")}):
        with pytest.raises(InputError, match=next(iter(options))):
            prepare_views(_on_white_photo(), **options)


def test_empty_masks_and_white_photos() -> None:
    with pytest.raises(PhotoError, match="the mask or alpha channel of photo 2 must cover the object, but it is empty"):
        prepare_views([_on_white_photo()] * 2, [None, torch.zeros(32, 32)])
    with pytest.raises(PhotoError, match="photo 1 must cover the object, but it is empty"):
        prepare_views(torch.cat([torch.rand(3, 32, 32), torch.zeros(1, 32, 32)]), crop=False)
    with pytest.raises(PhotoError, match="photo 1 must show an object, but it is white all over"):
        prepare_views(torch.full((3, 64, 64), 0.99))
    views = prepare_views(torch.ones(3, 64, 64), _disc(64, 64, (32, 32), 20), size=64)  # a white object is no mistake
    assert float(views.mask.mean()) > 0.4


def test_background_removal_asks_for_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rembg", None)
    with pytest.raises(MissingPackageError, match=r'pip install "rembg\[cpu\]"'):
        prepare_views(_on_white_photo(), remove_background=True)


def test_background_removal_uses_the_mask_it_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = types.ModuleType("rembg")
    calls = []

    def remove(image: Image.Image, only_mask: bool) -> Image.Image:
        calls.append((image.size, only_mask))
        return Image.fromarray((_disc(32, 32, (16, 16), 8) * 255).byte().numpy())

    fake.remove = remove
    monkeypatch.setitem(sys.modules, "rembg", fake)
    street = torch.rand(3, 32, 32)
    views = prepare_views([street, street], [None, _disc(32, 32, (16, 16), 8)], size=230, remove_background=True)
    assert calls == [((32, 32), True)]  # the photo with a mask does not need it
    assert _box_of(views.mask[0, 0]) == _box_of(views.mask[1, 0]) == (15, 15, 215, 215)
