"""Photos: every mode gives the right values, every damaged file its sentence; crops by hand, without fringes."""

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from data_sets import disc
from odd_values import refused_or_finite
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from refusals import raised, unusable
from torch.nn.functional import interpolate

from upfusion_core import estimate_mask, prepare_views
from upfusion_core.pipeline import photos as pipeline_photos
from upfusion_core.pipeline.photos import estimate_coverage, read_mask, read_photo, resample
from upfusion_core.support.errors import InputError, MissingPackageError, PhotoError
from upfusion_core.support.images import unit_range

SIDE = 12


def _gradient() -> Image.Image:
    return Image.fromarray(np.random.RandomState(0).randint(0, 256, (SIDE, SIDE + 4, 3), dtype=np.uint8))


def test_alpha_is_kept_straight() -> None:
    cutout, alpha = _gradient(), Image.new("L", (SIDE + 4, SIDE), 255)
    alpha.paste(0, (0, 0, 5, 5))
    cutout.putalpha(alpha)
    photo = read_photo(cutout.convert("RGBa"))
    assert torch.equal(photo.coverage, torch.from_numpy(np.array(alpha)))
    assert torch.equal(photo.rgb[:, :, 5:], read_photo(_gradient()).rgb[:, :, 5:])
    cutout.putalpha(255)
    assert read_photo(cutout).coverage is None  # opaque everywhere says nothing


def test_sixteen_bit_grey_keeps_its_precision(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, SIDE * SIDE).reshape(SIDE, SIDE).astype(np.int32)
    for stored, name in ((values.astype(np.uint16), "grey.png"), (values, "grey.tiff")):
        Image.fromarray(stored).save(tmp_path / name)
        expected = torch.from_numpy(values.astype(np.float32) / 65535).expand(3, -1, -1)
        assert torch.equal(read_photo(tmp_path / name).rgb, expected)


def test_arrays_tensors_and_floats_agree() -> None:
    array = np.array(_gradient())
    tensor = torch.from_numpy(array).permute(2, 0, 1).float() / 255
    assert torch.equal(unit_range(read_photo(array).rgb), read_photo(tensor).rgb)
    assert torch.equal(read_photo(tensor.half()).rgb, tensor.half().float())
    values = np.random.RandomState(1).rand(SIDE, SIDE).astype(np.float32)
    assert torch.equal(read_photo(Image.fromarray(values)).rgb[1], torch.from_numpy(values))


GOOD = torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def test_what_is_no_picture() -> None:
    for source, words in (
        (Image.fromarray(np.full((SIDE, SIDE), 255.0, np.float32)), r"photo 1 must be in \[0, 1\]"),
        (Image.fromarray(np.full((SIDE, SIDE), 70000, np.int32)), r"0\.\.65535"),
        (GOOD.masked_fill(GOOD.max() <= GOOD, torch.nan), "photo 1 must be finite, got 1 NaN"),
        ((GOOD * 255).round(), r"\[0, 1\], got \[.*\]; divide 8-bit values by 255"),
        (GOOD.permute(1, 2, 0), r"got \(12, 12, 3\); its channels come last: use \.permute\(2, 0, 1\)"),
        (GOOD[0], r"got \(12, 12\); give one picture"),
        (3, "must be a path, a PIL image or a tensor, got int"),
        (Image.new("RGB", (1, 1)), "at least 8 x 8 pixels, got 1 x 1"),
    ):
        unusable(words, read_photo, source)


def test_missing_file_folder_text_and_empty_file(tmp_path: Path) -> None:
    unusable(r"photo 3 must be .* there is no file .*gone\.jpg; check", read_photo, tmp_path / "gone.jpg", "photo 3")
    unusable("is a folder; name the files in it", read_photo, tmp_path)
    for content in (b"this is no picture", b""):
        (tmp_path / "a.jpg").write_bytes(content)
        unusable(r"photo 1 \(a\.jpg\) must be a whole picture file, .*; save it anew", read_photo, tmp_path / "a.jpg")


def test_cut_and_damaged_files_give_a_picture_or_a_sentence(tmp_path: Path) -> None:
    rng = np.random.RandomState(4)
    for kind in ("bmp", "gif", "webp", "tiff", "png", "jpg"):
        path = tmp_path / f"d.{kind}"
        Image.fromarray(rng.randint(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
        data = np.frombuffer(path.read_bytes(), np.uint8)
        for length in (len(data) // 2, 20):
            path.write_bytes(data[:length].tobytes())
            unusable("save it anew as PNG or JPEG", read_photo, path)
    for _ in range(60):
        damaged = data.copy()
        damaged[rng.randint(0, len(data), 20)] = rng.randint(0, 256, 20)
        path.write_bytes(damaged.tobytes())
        photo = refused_or_finite(read_photo, path)
        assert photo is None or min(photo.rgb.shape) == 3


def test_decompression_bombs_are_refused_by_their_header(tmp_path: Path) -> None:
    before, path = Image.MAX_IMAGE_PIXELS, tmp_path / "bomb.bmp"
    Image.new("1", (8, 8)).save(path)
    data = bytearray(path.read_bytes())
    data[18:26] = (15_900).to_bytes(4, "little") * 2
    path.write_bytes(data)
    unusable("must have at most 250 megapixels, its header says 15900 x 15900", read_photo, path)
    assert before == Image.MAX_IMAGE_PIXELS  # Pillow's own limit, which is the host's, stays out of it


def test_hostile_files(tmp_path: Path) -> None:
    """Pillow hands PostScript to Ghostscript; a text chunk of a PNG may unpack to 3 MB."""
    path, chunk = tmp_path / "art.png", PngInfo()
    _gradient().save(path, "EPS")
    unusable("must be a picture of pixels, got EPS; save it as PNG or JPEG", read_photo, path)
    chunk.add_text("bomb", "A" * 3_000_000, zip=True)
    _gradient().save(path, pnginfo=chunk)
    unusable("cannot be read", read_photo, path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
def test_devices_and_impossible_names(tmp_path: Path) -> None:
    unusable("is a device or pipe", read_photo, "/dev/zero")
    for name in ("x" * 5000, "a\0b.png", tmp_path / ("y" * 300)):
        unusable("^.{0,100}there is no file .{0,300}; check the path$", read_photo, name)


def test_mask_from_every_kind_of_source(tmp_path: Path) -> None:
    photo = read_photo(torch.rand(3, SIDE, SIDE + 2))
    expected = torch.zeros(SIDE, SIDE + 2)
    expected[2:7, 3:9] = 1
    grey = Image.fromarray((expected * 255).byte().numpy())
    grey.save(tmp_path / "mask.png")
    cutout = Image.merge("RGBA", [Image.new("L", grey.size, 255)] * 3 + [grey])
    pictures = tmp_path / "mask.png", grey, grey.convert("1"), grey.convert("RGB"), cutout, grey.convert("RGBA")
    for source in (*pictures, expected, expected[None], expected.bool(), expected.bool().numpy(), np.array(grey)):
        assert torch.equal(unit_range(read_mask(source, photo)[0]), expected), source
    for wrong, words in (
        (Image.new("L", (28, 24)), r"mask of photo 1 must have the photo's size, 14 x 12, got 28 x 24"),
        (torch.zeros(3, SIDE, SIDE + 2), "give one channel"),
        (torch.full((SIDE, SIDE + 2), 255.0), r"\[0, 1\]"),
    ):
        unusable(words, read_mask, wrong, photo)


def _disc(height: int, width: int, center: tuple[float, float], radius: float) -> torch.Tensor:
    return torch.from_numpy(disc(height, width, center[1], center[0], radius)).float()


def _box_of(mask: torch.Tensor) -> tuple[int, int, int, int] | None:
    return Image.fromarray((mask > 0.5).numpy()).getbbox()


def _picture(rgb: torch.Tensor) -> Image.Image:
    return Image.fromarray((rgb * 255).round().byte().permute(1, 2, 0).numpy())


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
    mask = torch.zeros(16, 16)
    mask[:, 5:] = 1
    views = prepare_views([cutout], [mask], size=16, crop=False)  # a mask is multiplied
    assert torch.equal(views.mask[0, 0, 5], torch.tensor([0.0] * 5 + [0.25] * 3 + [1.0] * 8))


@pytest.mark.parametrize(("height", "width", "center", "radius"), [(300, 400, (120, 260), 50), (90, 64, (20, 30), 18)])
def test_crop_frames_the_object(height: int, width: int, center: tuple[int, int], radius: int) -> None:
    photo, mask = torch.full((3, height, width), 0.3), _disc(height, width, center, radius)
    views = prepare_views(photo, mask, size=230, margin=1.15)
    # the disc's diameter is the side of the crop over 1.15: 200 of 230 pixels, in the middle
    assert _box_of(views.mask[0, 0]) == (15, 15, 215, 215)
    assert torch.allclose(views.rgb[0, :, 115, 115], torch.tensor(0.3))
    assert torch.allclose(views.rgb[0, :, :3], torch.tensor(1.0))
    assert float(views.mask.sum()) == pytest.approx(np.pi * 100**2, rel=0.03)
    faint = prepare_views(photo, 0.3 * mask, size=230)
    assert _box_of(faint.mask[0, 0] / 0.3) == (15, 15, 215, 215)
    assert float(faint.mask.max()) == pytest.approx(0.3, abs=0.03)  # bicubic rings by 7 %


def test_crops_beyond_the_photo_and_padding() -> None:
    mask = torch.zeros(40, 40)
    mask[:20, :20] = 1  # in the photo's corner
    views = prepare_views(torch.zeros(3, 40, 40), mask, size=40, margin=2.0)
    assert _box_of(views.mask[0, 0]) == (10, 10, 30, 30)
    assert torch.allclose(views.rgb[0, :, :8].mean(), torch.tensor(1.0), atol=1e-3)
    assert torch.allclose(views.rgb[0, :, 20, 20], torch.tensor(0.0), atol=1e-3)
    mask = _disc(64, 128, (32, 40), 10)
    views = prepare_views(torch.zeros(3, 64, 128), mask, size=128, crop=False)
    assert _box_of(views.mask[0, 0]) == (30, 54, 50, 74)  # padded by 32 rows above, not moved otherwise
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
    board = (torch.arange(96)[:, None] // 8 + torch.arange(96) // 8).remainder(2).float().expand(3, -1, -1)
    for size in (40, 96, 250):  # hard edges stay in range
        views = prepare_views(board, size=size)
        assert 0 <= float(views.rgb.min()) <= float(views.rgb.max()) <= 1


def test_resample_agrees_with_torch_away_from_the_border_and_is_exact_of_whole_pixels() -> None:
    values = torch.rand(64, 64, generator=torch.Generator().manual_seed(1))
    for size in (24, 64, 150):
        expected = interpolate(values[None, None], (size, size), mode="bicubic", antialias=True)[0, 0]
        inner = slice(size // 8, size - size // 8)
        assert torch.allclose(resample(values, (0, 0, 64, 64), size)[inner, inner], expected[inner, inner], atol=1e-5)
    values = torch.rand(30, 40)
    expected = torch.cat([torch.zeros(16, 2), values[3:19, :14]], dim=1)
    assert torch.equal(resample(values, (-2, 3, 14, 19), 16), expected)
    assert torch.equal(resample(values, (100, 100, 108, 108), 8), torch.zeros(8, 8))


def test_masks_and_coverage_by_hand() -> None:
    rgb = torch.ones(3, 1, 4)
    rgb[1] -= torch.tensor([0.0, 7.0, 20.0, 40.0]) / 255  # one channel suffices
    assert torch.allclose(estimate_mask(rgb)[0, 0], torch.tensor([0.0, 0.0, 0.5, 1.0]), atol=1e-5)
    # A row of grey 0.5 that covers 30 % of a pixel, two whole ones, one that is darker, and 80 % of the last
    rgb = torch.tensor([1.0, 1.0, 0.85, 0.5, 0.5, 0.0, 0.5, 0.5, 0.6, 1.0, 1.0]).expand(3, 1, -1)
    assert estimate_mask(rgb).flatten().tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 0]
    expected = [0, 0, 0.3, 1, 1, 1, 1, 1, 0.8, 0, 0]  # the dark pixel within lies too far from the outside to matter
    assert estimate_coverage(rgb).flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_mask_estimate_fills_small_white_places_and_ignores_noise(tmp_path: Path) -> None:
    expected = torch.zeros(100, 100)
    expected[10:90, 10:90] = 1
    expected[40:70, 40:70] = 0  # under a handle
    expected[80:90, 45:48] = 0  # a slot, open to the outside
    rgb = (1 - 0.6 * expected).repeat(3, 1, 1)
    rgb[:, 20:28, 20:28] = 1.0  # a highlight
    assert torch.equal(estimate_mask(rgb)[0], expected)
    mask = _disc(256, 256, (128, 120), 70)
    picture = 1 - mask * torch.tensor([0.2, 0.9, 0.7])[:, None, None]
    _picture(picture).save(tmp_path / "d.jpg", quality=90)
    estimate = prepare_views(tmp_path / "d.jpg").mask[0, 0]
    assert float(estimate[:40].max()) == 0
    assert float((estimate - mask).abs().mean()) < 0.01
    assert all(abs(a - b) <= 4 for a, b in zip(_box_of(estimate), (50, 58, 190, 198), strict=True))


def test_large_jpegs_are_read_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline_photos, "LARGEST", 50)
    for given, expected in ((96, 64), (96, 64)), ((104, 64), (52, 32)), ((210, 60), (105, 30)), ((404, 64), (101, 16)):
        _picture(_on_white_photo()).resize(given).save(tmp_path / "d.jpg")
        (source,) = prepare_views(tmp_path / "d.jpg", size=64).sources
        assert source.size == expected, "the longer side keeps 50 pixels, sides stay whole"
        mask = torch.zeros(given[1], given[0], dtype=torch.uint8)
        mask[: given[1] // 2, : given[0] // 4] = 255
        (masked,) = prepare_views(tmp_path / "d.jpg", mask.numpy(), size=64, crop=False).sources
        assert masked.mask.shape == masked.rgb.shape[1:] == expected[::-1], "its mask becomes as small"
        assert masked.mask[: expected[1] // 2, : expected[0] // 4].min() == 255
        assert masked.mask.float().mean() == pytest.approx(255 * (given[0] // 4) / given[0] / 2, rel=0.02)


def test_ways_to_give_photos_and_masks_agree(tmp_path: Path) -> None:
    photos = [(photo * 255).round() / 255 for photo in (_on_white_photo(), _on_white_photo(40))]
    paths = [tmp_path / f"{index}.png" for index in range(2)]
    for photo, path in zip(photos, paths, strict=True):
        _picture(photo).save(path)
    expected = prepare_views(photos, size=32).rgb
    for given in (paths, list(map(str, paths)), list(map(Image.open, paths))):
        assert torch.equal(prepare_views(given, size=32).rgb, expected)
    assert torch.equal(prepare_views(photos[0], size=32).rgb, expected[:1])
    assert torch.equal(prepare_views(torch.stack([photos[0]] * 3), size=32).rgb, expected[:1].expand(3, -1, -1, -1))
    same, masks = torch.stack([photos[0]] * 2), torch.stack([_disc(32, 32, (16, 16), 9)] * 2)
    batch = prepare_views(same, masks[:, None], size=32).rgb
    assert torch.equal(batch, prepare_views(list(same), list(masks), size=32).rgb)
    mixed = prepare_views(same, [None, masks[1]], size=32).rgb
    assert torch.equal(mixed, torch.stack([same[0], batch[1]]))


def test_long_strips() -> None:
    strip = torch.zeros(3, 10, 20000)
    unusable("photo 1 is too narrow to be framed as a square, got 20000 x 10", prepare_views, strip)
    mask = torch.zeros(10, 20000)
    mask[:, 5000:5010] = 1
    box = _box_of(prepare_views(strip, mask, size=230).mask[0, 0])
    assert all(abs(a - b) <= 1 for a, b in zip(box, (15, 15, 215, 215), strict=True))


PHOTO = _on_white_photo()


def test_what_cannot_be_framed() -> None:
    for given, options, error, words in (
        (([],), {}, InputError, "expected 1 to 64 photos, got 0"),
        (([PHOTO] * 65,), {}, InputError, "expected 1 to 64 photos, got 65; choose the most different views"),
        (([PHOTO] * 2, [torch.ones(32, 32)]), {}, InputError, "expected one mask for each of 2 photos, got 1"),
        ((PHOTO,), {"margin": 0.9}, InputError, "margin"),
        (([PHOTO] * 2, [None, torch.zeros(32, 32)]), {}, PhotoError, "photo 2 must cover the object, but it is empty"),
        ((torch.cat([PHOTO, PHOTO[:1] * 0]),), {"crop": False}, PhotoError, "photo 1 must cover the object, but it is"),
        ((torch.full((3, 64, 64), 0.99),), {}, PhotoError, "photo 1 must show an object, but it is white all over"),
    ):
        raised(error, words, prepare_views, *given, **options)


def test_background_removal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rembg", None)
    raised(MissingPackageError, r'pip install "rembg\[cpu\]"', prepare_views, PHOTO, remove_background=True)
    calls = []

    def remove(image: Image.Image, only_mask: bool) -> Image.Image:
        calls.append((image.size, only_mask))
        return Image.fromarray((_disc(32, 32, (16, 16), 8) * 255).byte().numpy())

    monkeypatch.setitem(sys.modules, "rembg", types.SimpleNamespace(remove=remove))
    street = torch.rand(3, 32, 32)
    views = prepare_views([street, street], [None, _disc(32, 32, (16, 16), 8)], size=230, remove_background=True)
    assert calls == [((32, 32), True)]  # the photo with a mask does not need it
    assert _box_of(views.mask[0, 0]) == _box_of(views.mask[1, 0]) == (15, 15, 215, 215)
