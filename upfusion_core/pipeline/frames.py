"""Many pictures of one object, of files or a film -> those that are sharp and show it from sides far apart."""

import io
import math
import os
from collections.abc import Container, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import conv2d, interpolate

from ..config import MAX_PHOTOS
from ..support.checks import check_count, check_shape
from ..support.errors import InputError, MissingPackageError, PhotoError
from ..support.images import shrunk, unit_range
from ..types import InputViews, OnProgress
from .photos import read_photo

Film = str | os.PathLike[str] | io.BytesIO
SHARP_SIDE, SIDE = 384, 16  # pixels along the sides of what sharpness is measured in, and of what is compared
BLURRED = 0.3  # of the median sharpness; less is blurred
FRAMES = 600  # of a film at most, that are looked at; of longer ones every second, fourth and so on
CELL = 128  # pixels along the sides of a picture on a sheet
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".heic", ".heif", ".avif", ".tif", ".tiff", ".bmp", ".gif")


def photo_files(paths: Sequence[Path]) -> list[Path]:
    """The files, and in place of each folder the pictures that lie in it, by their names."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = [file for file in path.glob("[!.]*") if file.suffix.lower() in PHOTO_SUFFIXES]
            if not inside:
                raise PhotoError(f"{path} must hold pictures ({', '.join(PHOTO_SUFFIXES)}), got none; choose another")
            found += sorted(inside)
        else:
            found.append(path)
    return found


def photo_sharpness(rgb: Tensor) -> float:
    """Variance of the Laplacian of a picture (3, H, W), uint8 or in [0, 1], made SHARP_SIDE pixels long."""
    kernel = torch.tensor([[[[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]]])
    return float(conv2d(shrunk(unit_range(rgb[:3]), SHARP_SIDE).mean(0, keepdim=True)[None], kernel).var())


def appearance(rgb: Tensor) -> Tensor:
    """(768,) what a picture (3, H, W) looks like from afar: its colours on a grid of 16 x 16."""
    small = shrunk(unit_range(rgb[:3]), 4 * SIDE)[None]
    return interpolate(small, (SIDE, SIDE), mode="bilinear", antialias=True).flatten() / SIDE


def spread_choice(features: Tensor, sharp: Tensor, count: int, *, in_order: bool = False) -> list[str]:
    """Why each of N pictures is left out, "" for the `count` or fewer that are kept: sharp ones, far from each other.

    Args:
        features: (N, D); near each other where pictures show the same side.
        sharp: (N,) sharpness.
        in_order: neighbours show neighbouring sides, as in a film: distances go along it, and across where it returns.
    """
    check_shape("features", features, ("N", "D"))
    check_shape("sharp", sharp, (len(features),), "one a picture")
    check_count("count", count, 1)
    distance = torch.cdist(features.double(), features.double())
    if in_order and len(features) > 2:
        from scipy.sparse.csgraph import shortest_path  # late: nodes take the names above before they run

        links = distance * (distance <= 1.5 * distance.diagonal(1).median())
        links.diagonal(1).copy_(distance.diagonal(1).clamp(min=1e-9))
        distance = torch.from_numpy(shortest_path(links.numpy(), directed=False))
    limit = BLURRED * float(sharp.median())
    candidates = (sharp >= limit).nonzero()[:, 0]
    among = distance[candidates][:, candidates]
    chosen = [0]  # the first that is sharp, then always the one furthest from all that are chosen
    while len(chosen) < min(count, len(candidates)) and bool(among[:, chosen].amin(1).any()):  # others are the same
        chosen.append(int(among[:, chosen].amin(1).argmax()))
    for _ in range(8):  # then each to the middle of those that are nearest to it
        nearest = among[:, chosen].argmin(1)
        cells = [(nearest == number).nonzero()[:, 0] for number in range(len(chosen))]
        chosen = [0, *(int(cell[among[cell][:, cell].square().sum(1).argmin()]) for cell in cells[1:])]
    kept = candidates[chosen]
    like = kept[distance[:, kept].argmin(1)].tolist()
    reasons = []
    for number, value in enumerate(sharp.tolist()):
        word = f"blurred: sharpness {value:.2g}, less than {limit:.2g}" if value < limit else f"like {like[number] + 1}"
        reasons.append("" if number in kept else word)
    return reasons


class Looked(NamedTuple):
    """A picture that was looked at: its file, or its frame's number; (3, CELL, CELL), it small on white; how sharp it
    is; and why it was left out, "" where it is taken."""

    source: Path | int
    shown: Tensor
    sharp: float
    reason: str = ""

    @classmethod
    def of(cls, source: Path | int, rgb: Tensor) -> "Looked":
        """Of a picture (3, H, W), uint8 or in [0, 1]."""
        small, shown = shrunk(unit_range(rgb[:3]), CELL), torch.ones(3, CELL, CELL)
        top, left = ((CELL - side) // 2 for side in small.shape[1:])
        shown[:, top : top + small.shape[1], left : left + small.shape[2]] = small
        return cls(source, shown, photo_sharpness(rgb))


def choose_pictures(
    photos: Sequence[Path],
    count: int,
    film: Film | None = None,
    window: tuple[float, float] = (0, 0),
    on_progress: OnProgress = lambda share: None,
) -> list[Looked]:
    """Photos and, evenly, frames of a film: all if there are no more than `count`, else chosen by spread_choice.

    window: see film_frames. on_progress: gets the share of the photos that is done, and 1 with each frame.
    """
    looked, frames, stride = list[Looked](), list[Looked](), 1
    for number, path in enumerate(photos, 1):
        looked.append(Looked.of(path, read_photo(path, f"photo {number}", least=4 * CELL).rgb))
        on_progress(number / len(photos))
    for place, (number, rgb) in enumerate(() if film is None else film_frames(film, None, window)):
        if place % stride == 0:
            frames.append(Looked.of(number, rgb))
        if len(frames) > FRAMES:
            frames, stride = frames[::2], 2 * stride
        on_progress(1.0)
    if len(looked := looked + frames) <= count:
        return looked
    looks, sharp = torch.stack([appearance(one.shown) for one in looked]), torch.tensor([one.sharp for one in looked])
    reasons = spread_choice(looks, sharp, count, in_order=film is not None)
    return [one._replace(reason=reason) for one, reason in zip(looked, reasons, strict=True)]


def choose_views(views: InputViews, numbers: Sequence[int] = ()) -> InputViews:
    """The same photos, and which of them the networks see; all go to cameras, fit and texture.

    Those of `numbers`, which count from 1 and hold photo 1's; without them, of more than 6 photos the first and sharp
    ones of sides far apart, by given cameras or by what they look like. InputError: numbers that do not fit.
    """
    if numbers:
        if 1 not in numbers or not set(numbers) <= set(range(1, len(views) + 1)) or len(set(numbers)) > MAX_PHOTOS:
            wanted = f"the networks must see photo 1 and up to {MAX_PHOTOS - 1} others of {len(views)} photos"
            raise InputError(f"{wanted}, got {', '.join(map(str, numbers)):.80}; name others")
        return replace(views, left_out=tuple("" if n in numbers else "not asked for" for n in range(1, len(views) + 1)))
    if len(views.seen) <= MAX_PHOTOS:
        return views
    sharp = torch.tensor([photo_sharpness(photo.rgb) for photo in views.with_sources().sources or ()])
    sharp[0] = sharp.max()  # photo 1 says what the frame is
    if views.cameras is not None and views.cameras.given:
        sides = torch.nn.functional.normalize(views.cameras.cameras.centers, dim=-1)
    else:
        sides = torch.stack([appearance(rgb) for rgb in views.rgb])
    return replace(views, left_out=tuple(spread_choice(sides, sharp, MAX_PHOTOS)))


def film_frames(
    source: Film, wanted: Container[object] | None = None, window: tuple[float, float] = (0, 0)
) -> Iterator[tuple[int, Tensor]]:
    """Number and picture (3, H, W), uint8 and upright, of the `wanted` frames of a film, or of all.

    window: its start in seconds and how many of them count, 0 for all. Raises PhotoError, MissingPackageError.
    """
    try:
        import av
    except ImportError as error:
        raise MissingPackageError("films need the package av, which is not installed; run: pip install av") from error
    start, end = window[0], window[0] + (window[1] or math.inf)
    label = source if isinstance(source, str | os.PathLike) else "the film"
    try:
        with av.open(source) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if not start <= (frame.time or 0.0) < end or (wanted is not None and number not in wanted):
                    continue
                values = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
                yield number, torch.from_numpy(np.ascontiguousarray(rearrange(values, "h w c -> c h w")))
    except (av.FFmpegError, IndexError) as error:
        raise PhotoError(f"{label} must be a film, but cannot be read ({error}); save it as MP4") from error
