"""Which of many pictures are kept: by numbers on a ring, and of turned, blurred and repeated ones; films."""

import io
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from refusals import refused, unusable
from torchvision.transforms.functional import gaussian_blur

from upfusion_core import InputViews, PhotoCameras, choose_views, orbit_cameras
from upfusion_core.pipeline.frames import film_frames, photo_files, spread_choice


def ring(degrees: list[float]) -> torch.Tensor:
    angle = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def test_sharp_ones_round_the_object_or_along_a_film() -> None:
    degrees = [0.0, 2.0, 58.0, 60.0, 62.0, 120.0, 180.0, 181.0, 240.0, 300.0, 301.0, 302.0]
    sharp = torch.ones(12)
    sharp[[1, 3]] = 0.1
    reasons = spread_choice(ring(degrees), sharp, 6)
    assert [round(degrees[index] / 60) for index, reason in enumerate(reasons) if not reason] == [0, 1, 2, 3, 4, 5]
    assert reasons[1] == reasons[3] == "blurred: sharpness 0.1, less than 0.3"
    assert reasons[7] == "like 7" or reasons[6] == "like 8"
    assert spread_choice(ring([0.0, 90.0]), torch.ones(2), 6) == ["", ""]
    assert spread_choice(torch.zeros(3, 2), torch.ones(3), 2) == ["", "like 1", "like 1"]
    degrees = [360.0 * index / 48 for index in range(48)]
    saturated = torch.cat([(10 * ring(degrees)).cos(), (10 * ring(degrees)).sin()], dim=1)  # far is not beyond near
    reasons = spread_choice(saturated, torch.ones(48), 6, in_order=True)
    kept = [degrees[index] for index, reason in enumerate(reasons) if not reason]
    gaps = [after - before for before, after in zip(kept, [*kept[1:], 360.0 + kept[0]], strict=True)]
    assert kept[0] == 0
    assert 30 <= min(gaps) <= max(gaps) <= 110


def test_the_networks_see_six_that_are_sharp_and_from_all_round() -> None:
    azimuths = [0.0, 3.0, 60.0, 62.0, 118.0, 120.0, 180.0, 240.0, 300.0, 301.0]
    pictures = torch.rand(10, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    pictures[[2, 5]] = gaussian_blur(pictures[[2, 5]], [17, 17], [4.0, 4.0])
    given = PhotoCameras(orbit_cameras(azimuths, 20.0), torch.ones(10) > 0, torch.ones(10), given=True)
    views = InputViews(pictures, torch.ones(10, 1, 48, 48), torch.full((10, 2), 4.5), cameras=given)
    chosen = choose_views(views)
    assert [round(azimuths[place] / 60) for place in chosen.seen] == [0, 1, 2, 3, 4, 5]
    assert [chosen.left_out[place].split(":")[0] for place in (2, 5)] == ["blurred"] * 2
    assert choose_views(chosen) is chosen
    assert choose_views(views, [7, 1]).seen == [0, 6]
    for numbers in ([2, 3], [1, 11], range(1, 8)):
        refused("must see photo 1 and up to 5 others of 10 photos", choose_views, views, numbers)


def test_folders_stand_for_their_pictures(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.heic", "notes.txt", ".hidden.png"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in photo_files([tmp_path, tmp_path / "b.JPG"])] == ["a.heic", "b.JPG", "b.JPG"]
    (tmp_path / "empty").mkdir()
    unusable("must hold pictures", photo_files, [tmp_path / "empty"])


def test_frames_of_a_film() -> None:
    av = pytest.importorskip("av")
    if not hasattr(av, "FFmpegError"):
        pytest.skip("a stub of av")
    file, pictures = io.BytesIO(), [Image.new("RGB", (64, 48), (25 * number, 60, 60)) for number in range(10)]
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in [*map(av.VideoFrame.from_image, pictures), None]:
            container.mux(stream.encode(frame))
    file.seek(0)
    frames = dict(film_frames(file, {2, 8, 9}, (0.0, 0.85)))
    assert list(frames) == [2, 8]
    assert frames[2].shape == (3, 48, 64)
    assert math.isclose(float(frames[8][0].float().mean()), 200, abs_tol=8)
    unusable("must be a film", list, film_frames(io.BytesIO(b"no film at all")))
