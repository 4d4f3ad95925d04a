"""Measures of pictures against the truth, one number a view: (N, 3, H, W) in [0, 1], twice -> (N,).

Pictures of small objects on white are mostly white, so an all-white picture scores an SSIM of 0.9 and 16 dB. The box
measures look only inside the bounding rectangle of the true silhouette, where white earns nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from kornia.metrics import ssim as kornia_ssim
from torch import Tensor, nn

from ..checks import check_finite, check_shape, check_unit_range, check_values
from ..errors import InputError
from ..models.perceptual import PerceptualDistance
from .haarpsi import haarpsi

SSIM_TAPS = 11
"""Width of SSIM's Gaussian window, whose sigma is 1.5 pixels (Wang et al. 2004)."""

PSNR_LIMIT = 100.0
"""What two equal pictures score, in dB: infinity would make every average infinite and is no JSON number."""

FAINT = 0.02
"""Greatest difference from the background at which a picture counts as empty: five steps of an 8-bit picture."""

FLAT_ENERGY = 1e-6
"""Gradient energy below which a picture counts as flat, so that flat over flat is 1 and not 0 / 0."""


@dataclass(frozen=True)
class Measure:
    """How a measure is shown: its label in tables and plots, and whether higher is better (None: 1 is best)."""

    label: str
    higher_is_better: bool | None


MEASURES = {
    "psnr": Measure("PSNR (dB)", True),
    "ssim": Measure("SSIM", True),
    "box_psnr": Measure("box PSNR (dB)", True),
    "box_ssim": Measure("box SSIM", True),
    "iou": Measure("mask IoU", True),
    "sharpness": Measure("sharpness", None),
    "haarpsi": Measure("1 \N{MINUS SIGN} HaarPSI", False),
    "lpips": Measure("LPIPS", False),
    "chamfer": Measure("Chamfer (of the box)", False),
    "f_score_1": Measure("F-score at 1 %", True),
    "f_score_2": Measure("F-score at 2 %", True),
    "consistency": Measure("reprojection difference", False),
}
"""All measures by the name they have in reports."""


def measure_views(
    prediction: Tensor,
    truth: Tensor,
    mask: Tensor,
    *,
    prediction_mask: Tensor | None = None,
    lpips: PerceptualDistance | None = None,
) -> dict[str, Tensor]:
    """All picture measures by their name in MEASURES, each (N,).

    Args:
        prediction, truth: (N, 3, H, W) in [0, 1] on white, H and W at least 16.
        mask: (N, 1, H, W) in [0, 1], the true silhouettes.
        prediction_mask: (N, 1, H, W) in [0, 1], the opacity where the predictor knows it; else its `silhouette`.
        lpips: `load_lpips(path)` where the user has its weights; without it the measure "lpips" is left out.
    """
    check_pictures(prediction, truth)
    guessed = silhouette(prediction) if prediction_mask is None else prediction_mask
    measures = {
        "psnr": psnr(prediction, truth),
        "ssim": ssim(prediction, truth),
        "box_psnr": box_psnr(prediction, truth, mask),
        "box_ssim": box_ssim(prediction, truth, mask),
        "iou": mask_iou(guessed, mask),
        "sharpness": sharpness(prediction, truth, mask),
        "haarpsi": perceptual_distance(prediction, truth),
    }
    if lpips is not None:
        measures["lpips"] = lpips_distance(lpips, prediction, truth)
    return measures


def psnr(prediction: Tensor, truth: Tensor) -> Tensor:
    """(N,) peak signal-to-noise ratio in dB over all pixels and channels, at most PSNR_LIMIT.

    Example: a constant offset of 0.1 gives 20 dB.
    """
    check_pictures(prediction, truth)
    return _decibels((prediction - truth).square().mean((1, 2, 3)))


def ssim(prediction: Tensor, truth: Tensor) -> Tensor:
    """(N,) structural similarity (Wang et al. 2004): 11-tap Gaussian of sigma 1.5, mean over channels.

    The mean runs over the pixels whose window lies inside the picture, as in the paper and in scikit-image.
    """
    check_pictures(prediction, truth)
    border = SSIM_TAPS // 2
    return ssim_map(prediction, truth)[..., border:-border, border:-border].mean((1, 2, 3))


def ssim_map(prediction: Tensor, truth: Tensor) -> Tensor:
    """(N, 3, H, W) SSIM of every pixel's window; beyond the border the pictures are mirrored."""
    if min(truth.shape[-2:]) < SSIM_TAPS:
        raise InputError(
            f"SSIM needs pictures of at least {SSIM_TAPS} x {SSIM_TAPS}, got {_size(truth)}; render larger"
        )
    found: Tensor = kornia_ssim(prediction.float().contiguous(), truth.float().contiguous(), SSIM_TAPS, padding="same")
    return found


def box_psnr(prediction: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """(N,) PSNR in dB inside the bounding rectangle of the true silhouette (N, 1, H, W)."""
    check_pictures(prediction, truth)
    inside = silhouette_boxes(mask, truth)
    return _decibels(_box_mean((prediction - truth).square(), inside))


def box_ssim(prediction: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """(N,) mean of SSIM's map inside the bounding rectangle of the true silhouette (N, 1, H, W)."""
    check_pictures(prediction, truth)
    return _box_mean(ssim_map(prediction, truth), silhouette_boxes(mask, truth))


def mask_iou(prediction_mask: Tensor, mask: Tensor) -> Tensor:
    """(N,) intersection over union of two silhouettes (N, 1, H, W) cut at 0.5; 1 where both are empty."""
    check_shape("prediction_mask", prediction_mask, ("N", 1, "H", "W"))
    check_shape("mask", mask, tuple(prediction_mask.shape), "both silhouettes must have one shape")
    check_finite("prediction_mask", prediction_mask)
    check_finite("mask", mask)
    ours, theirs = prediction_mask > 0.5, mask > 0.5
    union = (ours | theirs).sum((1, 2, 3))
    return torch.where(union > 0, (ours & theirs).sum((1, 2, 3)) / union.clamp(min=1), 1.0)


def silhouette(rgb: Tensor) -> Tensor:
    """(N, 3, H, W) -> (N, 1, H, W), 1 where any channel differs from white by more than half the maximum.

    For predictors that give colours only: a pixel half covered, or half believed to be covered, lies on the edge. The
    maximum is each picture's own, so that pale objects and faint pictures have an edge as well; a picture that differs
    by less than FAINT everywhere has no silhouette. Parts as white as the background are lost. A small fixed difference
    would count every pixel that the object touches, and all of a blurred edge.
    """
    check_shape("rgb", rgb, ("N", 3, "H", "W"))
    check_values("rgb", rgb)
    differences = (rgb - 1).abs().amax(1, keepdim=True)
    most = differences.amax((1, 2, 3), keepdim=True)
    return ((differences > 0.5 * most) & (most > FAINT)).float()


def sharpness(prediction: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """(N,) mean gradient energy inside the box as a fraction of the truth's: 1 as sharp, 0 flat, above 1 noisy.

    The energy is that of differences between neighbouring pixels of which at least one lies in the box.
    """
    check_pictures(prediction, truth)
    inside = silhouette_boxes(mask, truth)
    ours, theirs = (_gradient_energy(picture, inside) for picture in (prediction, truth))
    return (ours + FLAT_ENERGY) / (theirs + FLAT_ENERGY)


def perceptual_distance(prediction: Tensor, truth: Tensor) -> Tensor:
    """(N,) 1 - HaarPSI, 0 for equal pictures and at most 1: a perceptual distance that needs no weights."""
    check_pictures(prediction, truth)
    return 1 - haarpsi(prediction, truth)


@torch.no_grad()
def lpips_distance(lpips: PerceptualDistance, prediction: Tensor, truth: Tensor) -> Tensor:
    """(N,) LPIPS of each view; `lpips` is what `models.perceptual.load_lpips` gives, on whatever device."""
    check_pictures(prediction, truth)
    if not callable(lpips):
        raise InputError(f"lpips must be a network, got {type(lpips).__name__}; make it with load_lpips")
    place = next(lpips.parameters()).device if isinstance(lpips, nn.Module) else truth.device
    pairs = zip(prediction.to(place).split(1), truth.to(place).split(1), strict=True)
    distances = torch.stack([lpips(ours, theirs) for ours, theirs in pairs])  # one at a time: it returns the mean
    check_finite("lpips (of these pictures)", distances)
    return distances.to(truth)


def silhouette_boxes(mask: Tensor, truth: Tensor) -> Tensor:
    """(N, 1, H, W) silhouettes -> (N, 1, H, W) bool, True in the bounding rectangle of what is above 0.5."""
    check_shape("mask", mask, (len(truth), 1, *truth.shape[-2:]), "one true silhouette a view, of the pictures' size")
    check_finite("mask", mask)
    solid = mask > 0.5
    empty = (~solid.flatten(1).any(1)).nonzero()[:, 0].tolist()
    if empty:
        raise InputError(
            f"mask must show the object in every view, but its silhouette is empty in view {empty[0]}; "
            "leave such views out"
        )
    return _between(solid.any(-1, keepdim=True), -2) & _between(solid.any(-2, keepdim=True), -1)


def check_pictures(prediction: Tensor, truth: Tensor) -> None:
    """Raises InputError unless both are (N, 3, H, W) of one shape, N at least 1, finite and in [0, 1]."""
    check_shape("truth", truth, ("N", 3, "H", "W"))
    check_shape("prediction", prediction, tuple(truth.shape), "it must have the truth's shape")
    if not len(truth):
        raise InputError("expected at least one view to measure, got 0; give some cameras")
    for name, picture in (("prediction", prediction), ("truth", truth)):
        check_unit_range(name, picture, "clamp it, or divide by 255")


def _decibels(squared_error: Tensor) -> Tensor:
    wide = torch.promote_types(squared_error.dtype, torch.float32)  # half precision takes the limit for 0
    return -10 * squared_error.to(wide).clamp(min=10 ** (-PSNR_LIMIT / 10)).log10()


def _box_mean(values: Tensor, inside: Tensor) -> Tensor:
    """(N, C, H, W) values -> (N,) means over the channels of the pixels inside."""
    return (values * inside).sum((1, 2, 3)) / (inside.sum((1, 2, 3)) * values.shape[1])


def _gradient_energy(picture: Tensor, inside: Tensor) -> Tensor:
    """(N,) mean squared horizontal difference plus mean squared vertical difference."""
    total = picture.new_zeros(len(picture))
    for axis in (-1, -2):
        count = picture.shape[axis] - 1
        touched = inside.narrow(axis, 0, count) | inside.narrow(axis, 1, count)
        total = total + _box_mean(picture.diff(dim=axis).square(), touched)
    return total


def _between(present: Tensor, axis: int) -> Tensor:
    """Bool, True from the first to the last True along `axis`."""
    counts = present.int()
    return (counts.cumsum(axis) > 0) & (counts.flip(axis).cumsum(axis).flip(axis) > 0)


def _size(picture: Tensor) -> str:
    return f"{picture.shape[-2]} x {picture.shape[-1]}"
