"""What a photo's mask says of its object, and whether a photo without one is on white: one policy for all doors.

Black-and-white and soft masks are taken as they stand, white is the object. Other masks of two values (palettes,
numbers of classes, coloured overlays) mean object and nothing too, and nothing is what most of the border has. With
the sense "border" that holds for every mask; with "told" a mask is the coverage itself, and nothing is found.
"""

import math
from collections.abc import Sequence
from operator import mul
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image
from skimage.measure import label as connected
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, max_pool2d

from ..support.checks import check_choice, check_shape, check_unit_range
from ..support.decoding import turned
from ..support.errors import InputError, PhotoError
from ..types import PhotoNote

Sense = Literal["white", "border", "told"]

ON_WHITE = 235 / 255  # the median of the border, in every channel, from which on a photo is on white
WHITE_ENOUGH, _SURELY_OBJECT = 8 / 255, 32 / 255  # darkness: below is JPEG noise on white, above is object
_SMALL_PLACE = 0.01  # part of the picture below which white enclosed by the object is a white part of it
_UNDECIDED = (0.4, 0.6)  # shares of the border between which it does not tell what is nothing
_SAMPLE = 2_000_000  # pixels that suffice to find the values of a mask
_AREAS = ((8, 0, 0.001, 0, 0), (64, 0, 0.01, 3, 3), (math.inf, 8, 0.005, 8, 32))
"""By how many values a mask holds at most: by how much the flat ground of an area may vary, the least share of the
picture it takes, and how far (of 255) values may be to be of the area, and to be like it."""
_BESIDE = 12  # levels of 255 between a value and those between two others, from which on it is a third
_LUMA = (0.299, 0.587, 0.114)  # by which one colour is brighter than another
_EDGES = (192, 48, 16)  # pixels a side at which outlines and edges are compared


def border(values: Tensor) -> Tensor:
    """The outermost pixels of (C, H, W) -> (C, N)."""
    return torch.cat([values[:, 0], values[:, -1], values[:, 1:-1, 0], values[:, 1:-1, -1]], dim=1)


def border_median(rgb: Tensor) -> Tensor:
    """(3, H, W), uint8 or in [0, 1] -> (3,) in [0, 1]."""
    return border(rgb).float().median(dim=1).values / _full(rgb)


def check_tells(coverage: Tensor, label: str) -> None:
    """Raises PhotoError where coverage, uint8 or in [0, 1], is the same everywhere, or nearly nothing."""
    low, high = (end.item() for end in torch.aminmax(coverage))
    least = 0.05 * _full(coverage)
    if high < least or high - low < least:
        held = f"{_shown([low])} everywhere" if low == high else f"{_shown([low])} to {_shown([high])}"
        wrong = f"must cover the object, but it is {'empty' if high < 10 * least else 'full'} ({held})"
        raise PhotoError(f"the mask or alpha channel of {label} {wrong}; paint the object white and the rest black")


def estimate_mask(rgb: Tensor) -> Tensor:
    """(3, H, W) on white -> (1, H, W) in [0, 1]: what is not white, with a soft edge, deaf to JPEG noise.

    Small white places inside the object (eyes, highlights) count as object, large ones (under a handle) do not.
    """
    check_shape("rgb", rgb, (3, "H", "W"), "one picture, channels first")
    if not rgb.numel():
        raise InputError(f"rgb must hold pixels, got {tuple(rgb.shape)}; give a picture")
    check_unit_range("rgb", rgb, "divide 8-bit values by 255")
    darkness = 1 - rgb.detach().cpu().float().amin(dim=0)
    mask = ((darkness - WHITE_ENOUGH) / (_SURELY_OBJECT - WHITE_ENOUGH)).clamp(0, 1)
    places = connected((mask < 0.5).numpy(), connectivity=1)  # 0 is the object; the others are white places
    areas = np.bincount(places.ravel())
    outside = np.unique(border(torch.from_numpy(places)[None]))
    small = areas < _SMALL_PLACE * places.size
    small[0] = small[outside] = False
    return torch.where(torch.from_numpy(small[places]), torch.ones_like(mask), mask)[None]


def find_object(
    values: Tensor, rgb: Tensor, label: str, *, orientation: int = 1, sense: Sense = "white", shrunk: int = 1
) -> tuple[Tensor, PhotoNote]:
    """A decoded mask (1 or 3, H, W) of the upright photo `rgb` (3, H, W) -> coverage (H, W), and how it was taken.

    All are uint8 in 0..255 or float32 in [0, 1]; the coverage is full on the object. `orientation` is the photo's by
    EXIF: a mask of the size that its stored pixels have is turned with them. Where both ways fit, as in a square, that
    one is taken whose outline meets the picture's edges better. The photo may be `shrunk` times smaller; the coverage
    is as small.

    Raises PhotoError: another size, more than two values, or one alone; the sentence names `label`.
    """

    def edges_met(tried: Tensor) -> float:
        """How much of its outline lies along edges of the photo, seen from near and, for rough masks, from afar."""
        met, seen = 0.0, []
        for each in (rgb, tried[None]):
            step = max(1, min(each.shape[1:]) // (2 * _EDGES[0]))
            seen.append(each[:, ::step, ::step].float() / _full(each))
        for side in _EDGES:
            picture, outline = (torch.gradient(adaptive_avg_pool2d(each, side), dim=(1, 2)) for each in seen)
            strength = (picture[0].square() + picture[1].square()).sqrt()
            along = (picture[0] * outline[0] + picture[1] * outline[1]).abs()
            met += float((along / (strength + strength.mean() + 1e-6)).sum()) / side
        return met

    check_choice("sense", sense, get_args(Sense))
    size, stored = (shrunk * rgb.shape[1], shrunk * rgb.shape[2]), tuple(values.shape[1:])
    host_turned = sense == "border" and orientation == 1 and stored != size  # the photo, but not its mask
    ways = {6, 8} if host_turned else {1, orientation}
    ways = {way for way in ways if (stored if way < 5 else stored[::-1]) == size}
    if not ways:
        wanted = f"mask of {label} must have the photo's size, {size[1]} x {size[0]}"
        raise PhotoError(f"{wanted}, got {stored[1]} x {stored[0]}; make it from the same picture")
    coverage, text, doubtful = values[0], "its mask, as told", False
    if sense != "told":
        coverage, text, doubtful = _polarised(values, label, sense)
    fits = {way: torch.from_numpy(turned(coverage.numpy(), way).copy()) for way in sorted(ways)}
    way = next(iter(fits))
    if len(fits) == 2 and not torch.equal(*fits.values()):
        way, doubtful = max(fits, key=lambda way: edges_met(fits[way])), True
        how = "as it is" if way == 1 else f"turned upright by EXIF's orientation {way}"
        text += f"; {how}, which meets the picture's edges better than {'otherwise' if way == 1 else 'as it is'}"
    elif way != 1:
        text, doubtful = f"{text}; turned upright with the photo, whose stored pixels have its size", True
    coverage = fits[way]
    if shrunk > 1:
        coverage = torch.from_numpy(np.array(Image.fromarray(coverage.numpy()).reduce(shrunk)))
    return coverage, PhotoNote(text, doubtful)


def _polarised(values: Tensor, label: str, sense: Sense) -> tuple[Tensor, str, bool]:
    """The coverage (H, W) that a mask's values mean, how they are taken, and whether people should look at that."""
    full, grey = _full(values), len(values) == 1
    low, high = (end.item() for end in torch.aminmax(values))
    if low == high:
        check_tells(values, label)
    classes, exact = _classes(values)
    if len(classes) > 2 or (len(classes) < 2 and not grey):
        more = f" and {len(classes) - 8} more" if len(classes) > 8 else ""
        held = ", ".join(map(_shown, classes[:8])) + more if len(classes) > 2 else "many colours"
        wanted = f"mask of {label} must hold two values, for the object and the rest, or soft steps between them"
        raise PhotoError(f"{wanted}, got {held}; paint the object white and the rest black")
    dark, bright = classes if len(classes) == 2 else ([low], [high])
    near = 1.5 / 255 if exact else 12 / 255  # 254 is white as well; JPEG's noise
    whole = dark[0] <= (0 if exact else near * full) and bright[0] >= (1 - near) * full
    number = dark == [0] and any(math.isclose(bright[0], full / most, rel_tol=1e-4) for most in (255, 65535))  # 0 and 1
    soft = not exact and (len(classes) < 2 or (sense == "white" and full == 1))
    coverage = values[0]
    if not (grey and (whole or soft)):
        length = sum((b - d) ** 2 for d, b in zip(dark, bright, strict=True))
        along = torch.zeros(coverage.shape)  # the way from dark to bright
        for plane, d, b in zip(values, dark, bright, strict=True):
            along.add_(plane.float().sub_(d), alpha=(b - d) / length)
        coverage = along.clamp_(0, 1) if full == 1 else along.clamp_(0, 1).mul_(full).round_().byte()
    share = float((border(coverage[None]) > full / 2).float().mean())
    if sense == "white" and grey and (whole or soft or number):
        looks = f", but looks inverted: {share:.0%} of its border is white too" if share > 0.5 else ""
        return coverage, f"its mask, white is the object{looks}", share > 0.5
    ends, turned = [_shown(bright), _shown(dark)], share > _UNDECIDED[1]
    if turned:
        coverage, ends = full - coverage, ends[::-1]
    nothing = share if turned else 1 - share
    text = f"its mask, {ends[0]} is the object: {nothing:.0%} of the border is {ends[1]}"
    if turned or share < _UNDECIDED[0]:
        return coverage, text, False
    return coverage, f"{text}, which does not tell, so the brighter is taken", True


def _classes(values: Tensor) -> tuple[list[list[float]], bool]:
    """The values (or colours) of a mask's areas, darkest first, and whether it holds two and nothing else."""
    # An area is flat ground of one value, or, among few values, a tenth of the picture. Among many, as of soft edges or
    # JPEG, it must also stand out from what is like it, which the steps of a soft mask do not.
    low, high = (end.item() for end in torch.aminmax(values))
    stretch = 255 / (high - low)
    step = math.ceil(math.sqrt(values[0].numel() / _SAMPLE))
    sample = ((values[:, ::step, ::step].float() - low) * stretch).round()
    code = sum(plane.int() << 8 * place for place, plane in enumerate(sample.flip(0)))
    codes, counts = np.unique(code.numpy(), return_counts=True)
    colors = np.stack([codes >> 8 * place & 255 for place in reversed(range(len(values)))], axis=1)
    vary, share, near, far = next(rule for most, *rule in _AREAS if len(codes) <= most)
    spread = (max_pool2d(sample, 3, stride=1) + max_pool2d(-sample, 3, stride=1)).amax(0)
    flat = code[1:-1, 1:-1][spread <= vary].numpy()
    areas = np.bincount(np.searchsorted(codes, flat), minlength=len(codes))
    if vary == 0:
        ends = colors[counts.argsort()[-2:]]  # what lies not between them is no step from one to the other
        way = ends[-1] - ends[0]
        along = ((colors - ends[0]) @ way / max(way @ way, 1)).clip(0, 1)
        beside = np.abs(ends[0] + along[:, None] * way - colors).max(axis=1) > _BESIDE
        areas = np.where(beside | (counts >= (1 if len(codes) == 2 else 0.1 * code.numel())), counts, areas)
    found: list[list[float]] = []
    left, known = areas.copy(), 0
    while left.max() > 0 and len(found) < _AREAS[1][0]:
        color = colors[left.argmax()]
        distance = np.abs(colors - color).max(axis=1)
        area = areas[distance <= near].sum()
        if len(codes) == 2 or (area >= max(9, share * code.numel()) and 2 * area >= areas[distance <= far].sum()):
            value = low + color / stretch
            found.append((value.round() if high > 1 else value).tolist())
            known += area
        left[distance <= far] = 0
    if len(values) == 1 and vary and known < 0.5 * code.numel():  # the flat parts of a soft mask
        return [], False
    return sorted(found, key=lambda color: sum(map(mul, color, _LUMA))), len(codes) == 2


def _full(values: Tensor) -> int:
    return 255 if values.dtype == torch.uint8 else 1


def _shown(value: Sequence[float]) -> str:
    """Example: "128", "0.5", "(255, 0, 0)"."""
    parts = ", ".join(f"{part:.{3 if part > 1 else 2}g}" for part in value)
    return parts if len(value) == 1 else f"({parts})"
