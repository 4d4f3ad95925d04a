"""Pictures come back from their files as they went in."""

import importlib.util
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import torch

from upfusion_core.cli.pictures import check_video, save_video
from upfusion_core.support.errors import MissingPackageError


def test_gif_repeats_and_shows_the_frames(tmp_path: Path) -> None:
    colors = torch.tensor([[1.0, 1, 1], [1, 0, 0], [0, 0.5, 1]])
    save_video(tmp_path / "a.gif", colors[:, :, None, None].expand(3, 3, 16, 16), frames_per_second=10)
    frames = imageio.imread(tmp_path / "a.gif", index=None)
    assert frames.shape == (3, 16, 16, 3)
    assert np.abs(frames[:, 8, 8].astype(int) - (colors * 255).round().int().numpy()).max() <= 4
    properties = imageio.immeta(tmp_path / "a.gif", index=0)
    assert properties["duration"] == 100
    assert properties["loop"] == 0


def test_mp4_asks_for_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r'pip install "imageio\[ffmpeg\]", or choose --video gif'):
        check_video("mp4")
    check_video("gif")


@pytest.mark.skipif(importlib.util.find_spec("imageio_ffmpeg") is None, reason="needs imageio[ffmpeg]")
def test_mp4_of_an_odd_size(tmp_path: Path) -> None:
    save_video(tmp_path / "a.mp4", torch.full((5, 3, 33, 35), 0.5))
    frames = imageio.imread(tmp_path / "a.mp4")
    assert frames.shape == (5, 34, 36, 3)
    assert abs(int(frames[2, 10, 10, 0]) - 128) <= 4
