"""Decoding: every mode gives the right values, every damaged file its sentence."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from upfusion_core.pipeline.photos import read_mask, read_photo, unit_range
from upfusion_core.support import images as pictures
from upfusion_core.support.errors import PhotoError

SIDE = 12


def _gradient(mode: str = "RGB") -> Image.Image:
    rng = np.random.RandomState(0)
    return Image.fromarray(rng.randint(0, 256, (SIDE, SIDE + 4, 3), dtype=np.uint8)).convert(mode)


def _values(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK", "YCbCr", "RGBX"])
def test_modes_without_alpha_give_pillows_colors(mode: str) -> None:
    image = _gradient(mode)
    photo = read_photo(image)
    assert photo.coverage is None
    assert torch.equal(photo.rgb, _values(image))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGBa"])
def test_alpha_is_kept_straight(mode: str) -> None:
    straight = _gradient("L" if mode == "LA" else "RGB")
    alpha = Image.new("L", straight.size, 255)
    alpha.paste(0, (0, 0, 5, 5))
    straight.putalpha(alpha)
    photo = read_photo(straight.convert(mode))
    assert torch.equal(photo.coverage, torch.from_numpy(np.array(alpha)))
    assert torch.equal(photo.rgb[:, 6:], _values(straight)[:, 6:])


def test_opaque_alpha_says_nothing() -> None:
    image = _gradient()
    image.putalpha(255)
    assert read_photo(image).coverage is None
    assert read_photo(torch.cat([torch.rand(3, SIDE, SIDE), torch.ones(1, SIDE, SIDE)])).coverage is None


def test_palette_with_transparent_color(tmp_path: Path) -> None:
    image = Image.new("P", (SIDE, SIDE), 0)
    image.putpalette([255, 0, 0, 0, 0, 255] + [0] * 762)
    image.paste(1, (2, 3, 8, 9))
    image.save(tmp_path / "p.png", transparency=0)
    photo = read_photo(tmp_path / "p.png")
    expected = torch.zeros(SIDE, SIDE, dtype=torch.uint8)
    expected[3:9, 2:8] = 255
    assert torch.equal(photo.coverage, expected)
    assert photo.rgb[:, 5, 5].tolist() == [0, 0, 255]


def test_rgb_with_transparent_color(tmp_path: Path) -> None:
    image = Image.new("RGB", (SIDE, SIDE), (9, 9, 9))
    image.paste((200, 10, 10), (0, 0, 6, SIDE))
    image.save(tmp_path / "t.png", transparency=(9, 9, 9))
    assert read_photo(tmp_path / "t.png").coverage[4].tolist() == [255] * 6 + [0] * 6


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_sixteen_bit_grey_keeps_its_precision(dtype: type, tmp_path: Path) -> None:
    values = np.linspace(0, 65535, SIDE * SIDE).reshape(SIDE, SIDE).astype(dtype)
    Image.fromarray(values).save(tmp_path / "grey.png" if dtype == np.uint16 else tmp_path / "grey.tiff")
    photo = read_photo(tmp_path / ("grey.png" if dtype == np.uint16 else "grey.tiff"))
    expected = torch.from_numpy(values.astype(np.float32) / 65535).expand(3, -1, -1)
    assert torch.equal(photo.rgb, expected)


def test_floats_are_taken_in_unit_range_and_wide_integers_refused() -> None:
    values = np.random.RandomState(1).rand(SIDE, SIDE).astype(np.float32)
    assert torch.equal(read_photo(Image.fromarray(values)).rgb[1], torch.from_numpy(values))
    with pytest.raises(PhotoError, match=r"photo 1 must be in \[0, 1\]"):
        read_photo(Image.fromarray(values * 255))
    with pytest.raises(PhotoError, match=r"0\.\.65535"):
        read_photo(Image.fromarray(np.full((SIDE, SIDE), 70000, np.int32)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_photo_upright(orientation: int, tmp_path: Path) -> None:
    upright = np.zeros((SIDE, SIDE + 4), np.uint8)
    upright[:3, :5] = 200  # a bright corner, top left
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.T, 6: np.rot90(upright), 7: upright[::-1, ::-1].T, 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "o.png", exif=exif)
    assert torch.equal(read_photo(tmp_path / "o.png").rgb[0], torch.from_numpy(upright))


@pytest.mark.parametrize(("name", "options"), [("a.gif", {}), ("a.webp", {"lossless": True})])
def test_animation_gives_its_first_frame(name: str, options: dict[str, bool], tmp_path: Path) -> None:
    frames = [Image.new("RGB", (SIDE, SIDE), color) for color in ((255, 0, 0), (0, 255, 0))]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
    assert read_photo(tmp_path / name).rgb[:, 0, 0].tolist() == [255, 0, 0]


def test_arrays_and_tensors_agree() -> None:
    array = np.array(_gradient())
    tensor = torch.from_numpy(array).permute(2, 0, 1).float() / 255
    assert torch.equal(unit_range(read_photo(array).rgb), read_photo(tensor).rgb)
    assert torch.equal(read_photo(tensor.half()).rgb, tensor.half().float())


def test_non_latin_names_and_strings(tmp_path: Path) -> None:
    path = tmp_path / "\u8336\u7897 \u03ce.png"
    _gradient().save(path)
    assert torch.equal(read_photo(str(path)).rgb, read_photo(path).rgb)
    assert "\u8336\u7897" in read_photo(path).label


def test_missing_file_folder_text_and_empty_file(tmp_path: Path) -> None:
    with pytest.raises(
        PhotoError, match=r"photo 3 must be a picture, but there is no file .*gone\.jpg; check the path"
    ):
        read_photo(tmp_path / "gone.jpg", "photo 3")
    with pytest.raises(PhotoError, match="is a folder; name the files in it"):
        read_photo(tmp_path)
    (tmp_path / "text.jpg").write_text("this is no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("text.jpg", "empty.png"):
        with pytest.raises(
            PhotoError,
            match=rf"photo 1 \({name}\) must be a whole picture file, but cannot be read \(.*\); save it anew",
        ):
            read_photo(tmp_path / name)


@pytest.mark.parametrize("kind", ["jpg", "png", "gif", "webp", "tiff", "bmp"])
def test_truncated_files_never_escape_with_another_error(kind: str, tmp_path: Path) -> None:
    image = Image.fromarray(np.random.RandomState(3).randint(0, 256, (64, 64, 3), dtype=np.uint8))
    image.save(tmp_path / f"whole.{kind}")
    data = (tmp_path / f"whole.{kind}").read_bytes()
    path = tmp_path / f"cut.{kind}"
    for length in (len(data) // 2, len(data) // 3, 20):
        path.write_bytes(data[:length])
        with pytest.raises(PhotoError, match="save it anew as PNG or JPEG"):
            read_photo(path)


def test_damaged_bytes_give_a_picture_or_a_sentence(tmp_path: Path) -> None:
    path, rng = tmp_path / "d.jpg", np.random.RandomState(4)
    Image.fromarray(rng.randint(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    data = path.read_bytes()
    outcomes = []
    for _ in range(60):
        damaged = bytearray(data)
        for position in rng.randint(0, len(data), 20):
            damaged[position] = rng.randint(256)
        path.write_bytes(damaged)
        try:
            outcomes.append(min(read_photo(path).rgb.shape) == 3)
        except PhotoError as error:
            outcomes.append("photo 1 (d.jpg)" in str(error))
    assert all(outcomes)


def test_decompression_bombs_are_refused_by_their_header(tmp_path: Path) -> None:
    for side in (10_100, 60_000):  # within and beyond Pillow's own limit
        path = tmp_path / "bomb.bmp"
        Image.new("1", (8, 8)).save(path)
        data = bytearray(path.read_bytes())
        data[18:26] = side.to_bytes(4, "little") * 2
        path.write_bytes(data)
        with pytest.raises(PhotoError, match="must have at most 100 megapixels"):
            read_photo(path)


def test_tiny_and_empty_pictures() -> None:
    with pytest.raises(PhotoError, match="at least 8 x 8 pixels, got 1 x 1"):
        read_photo(Image.new("RGB", (1, 1)))
    with pytest.raises(PhotoError, match="must hold pixels, got 0 x 5"):
        read_photo(Image.new("RGB", (0, 5)))
    with pytest.raises(PhotoError, match="must hold pixels, got 0 x 0"):
        read_photo(np.zeros((0, 0, 3), np.uint8))
    with pytest.raises(PhotoError, match="at least 8 x 8 pixels, got 0 x 0"):
        read_photo(torch.zeros(3, 0, 0))


def test_tensors_out_of_line() -> None:
    good = torch.rand(3, SIDE, SIDE)
    bad = good.clone()
    bad[0, 0, 0] = float("nan")
    with pytest.raises(PhotoError, match="photo 1 must be finite, got 1 NaN"):
        read_photo(bad)
    with pytest.raises(PhotoError, match="must be finite"):
        read_photo(good / 0)
    with pytest.raises(PhotoError, match=r"\[0, 1\], got \[.*\]; divide 8-bit values by 255"):
        read_photo((good * 255).round())
    with pytest.raises(PhotoError, match=r"floating point, got torch\.uint8; divide"):
        read_photo((good * 255).byte())
    with pytest.raises(PhotoError, match=r"got \(12, 12, 3\); its channels come last: use \.permute\(2, 0, 1\)"):
        read_photo(good.permute(1, 2, 0))
    with pytest.raises(PhotoError, match="got \\(12, 12\\); give one picture"):
        read_photo(good[0])


def test_arrays_and_other_things_out_of_line() -> None:
    with pytest.raises(PhotoError, match="must be uint8"):
        read_photo(np.zeros((SIDE, SIDE, 3), np.float32))
    with pytest.raises(PhotoError, match="must be a path, a PIL image or a tensor, got int"):
        read_photo(3)


def test_mask_from_every_kind_of_source(tmp_path: Path) -> None:
    photo = read_photo(torch.rand(3, SIDE, SIDE + 2))
    expected = torch.zeros(SIDE, SIDE + 2)
    expected[2:7, 3:9] = 1
    grey = Image.fromarray((expected * 255).byte().numpy())
    grey.save(tmp_path / "mask.png")
    cutout = Image.new("RGBA", grey.size, (255, 255, 255, 0))
    cutout.putalpha(grey)
    opaque = grey.convert("RGBA")
    sources = [tmp_path / "mask.png", grey, grey.convert("1"), grey.convert("RGB"), cutout, opaque]
    sources += [expected, expected[None], expected.bool(), expected.bool().numpy(), np.array(grey)]
    for source in sources:
        assert torch.equal(unit_range(read_mask(source, photo)), expected), source


def test_mask_of_another_size_or_shape() -> None:
    photo = read_photo(torch.rand(3, SIDE, SIDE + 2))
    with pytest.raises(PhotoError, match=r"mask of photo 1 must have the photo's size, 14 x 12, got 28 x 24"):
        read_mask(Image.new("L", (28, 24)), photo)
    with pytest.raises(PhotoError, match="give one channel"):
        read_mask(torch.zeros(3, SIDE, SIDE + 2), photo)
    with pytest.raises(PhotoError, match=r"\[0, 1\]"):
        read_mask(torch.full((SIDE, SIDE + 2), 255.0), photo)


def test_unit_range_divides_exactly() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    assert unit_range(values).numpy().tolist() == (np.arange(256, dtype=np.float32) / np.float32(255)).tolist()


def test_limit_is_below_pillows_error() -> None:
    assert Image.MAX_IMAGE_PIXELS * 2 > pictures.MAX_PIXELS


def test_pictures_that_are_programs_are_not_run(tmp_path: Path) -> None:
    """Pillow hands PostScript to Ghostscript."""
    _gradient().save(tmp_path / "art.eps")
    (tmp_path / "art.eps").rename(tmp_path / "art.png")
    with pytest.raises(PhotoError, match="must be a picture of pixels, got EPS; save it as PNG or JPEG"):
        read_photo(tmp_path / "art.png")


def test_files_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tail without content can make any of them endless."""
    _gradient().save(tmp_path / "a.bmp")
    with (tmp_path / "a.bmp").open("ab") as file:
        file.truncate(10_001)
    assert read_photo(tmp_path / "a.bmp").rgb.shape[0] == 3
    monkeypatch.setattr(pictures, "_LARGEST_FILE", 10_000)
    with pytest.raises(PhotoError, match=r"cannot be read \(it has 10,001 bytes, more than 10,000\); save it anew"):
        read_photo(tmp_path / "a.bmp")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
def test_devices_and_impossible_names(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match="is a device or pipe; name a file"):
        read_photo("/dev/zero")
    for name in ("x" * 5000, "a\0b.png", tmp_path / ("y" * 300)):
        with pytest.raises(PhotoError, match="there is no file") as error:
            read_photo(name)
        assert len(str(error.value)) < 500


def test_sixteen_bit_colors_are_taken_as_eight(tmp_path: Path) -> None:
    """Pillow reads 16-bit RGB as 8-bit; the colours stay those of the file."""
    imageio = pytest.importorskip("imageio.v3")
    pytest.importorskip("tifffile")
    values = np.full((SIDE, SIDE, 3), (65535, 32896, 0), np.uint16)
    imageio.imwrite(tmp_path / "wide.tiff", values, plugin="tifffile")
    try:
        rgb = unit_range(read_photo(tmp_path / "wide.tiff").rgb)
    except PhotoError as error:
        assert "save it anew as PNG or JPEG" in str(error)  # noqa: PT017 - either is an answer
    else:
        assert torch.allclose(rgb[:, 3, 3], torch.tensor([1.0, 128 / 255, 0.0]), atol=1 / 255)


def test_a_palette_of_compressed_metadata(tmp_path: Path) -> None:
    """A text chunk of a PNG that unpacks to 3 MB is not unpacked."""
    picture = PngInfo()
    picture.add_text("bomb", "A" * 3_000_000, zip=True)
    _gradient().save(tmp_path / "bomb.png", pnginfo=picture)
    with pytest.raises(PhotoError, match="cannot be read"):
        read_photo(tmp_path / "bomb.png")
