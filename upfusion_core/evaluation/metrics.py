"""Measures of pictures against the truth, one number a view: (N, 3, H, W) in [0, 1], twice -> (N,).

Pictures of small objects on white are mostly white, so an all-white picture scores an SSIM of 0.9 and 16 dB. The box
measures look only inside the bounding rectangle of the true silhouette, where white earns nothing. `measure_views`
checks what it is given, the single measures do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from kornia.metrics import ssim as kornia_ssim
from torch import Tensor, nn
from torch.nn import functional as F

from ..geometry import camera_rays, project
from ..models.perceptual import PerceptualDistance
from ..support.checks import check_finite, check_shape, check_unit_range
from ..support.errors import InputError
from ..types import Cameras, RenderedViews

LEAST_SIDE = 16
"""Smaller pictures hold neither SSIM's window nor, after halving, HaarPSI's largest wavelet."""

SSIM_TAPS = 11
"""Width of SSIM's Gaussian window, whose sigma is 1.5 pixels (Wang et al. 2004)."""

PSNR_LIMIT = 100.0
"""What two equal pictures score, in dB: infinity would make every average infinite and is no JSON number."""

FAINT = 0.02
"""Greatest difference from the background at which a picture counts as empty: five steps of an 8-bit picture."""

FLAT_ENERGY = 1e-6
"""Gradient energy below which a picture counts as flat, so that flat over flat is 1 and not 0 / 0."""

CONSTANT = 30.0
"""HaarPSI's C, which keeps small differences of small coefficients from counting; for colours in [0, 255]."""

STEEPNESS = 4.2
"""HaarPSI's alpha, the slope of the logistic function."""

# NTSC's YIQ, to piq's digits
_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))

SOLID = 0.9
"""Opacity from which a pixel of a field shows its surface."""

TOLERANCE = 0.02
"""How much two distances of one point of a surface may differ, as a share of the distance."""


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
    height, width = truth.shape[-2:]
    if min(height, width) < LEAST_SIDE:
        raise InputError(
            f"measures need pictures of at least {LEAST_SIDE} x {LEAST_SIDE}, got {height} x {width}; render larger"
        )
    check_shape("mask", mask, (len(truth), 1, height, width), "one true silhouette a view, of the pictures' size")
    check_finite("mask", mask)
    if prediction_mask is None:
        prediction_mask = silhouette(prediction)
    check_shape("prediction_mask", prediction_mask, tuple(mask.shape), "both silhouettes must have one shape")
    check_finite("prediction_mask", prediction_mask)
    inside, border = silhouette_boxes(mask), SSIM_TAPS // 2
    similar = kornia_ssim(prediction.float().contiguous(), truth.float().contiguous(), SSIM_TAPS, padding="same")
    measures = {
        "psnr": psnr(prediction, truth),
        "ssim": similar[..., border:-border, border:-border].mean((1, 2, 3)),  # as in the paper: whole windows only
        "box_psnr": _decibels(_box_mean((prediction - truth).square(), inside)),
        "box_ssim": _box_mean(similar, inside),
        "iou": mask_iou(prediction_mask, mask),
        "sharpness": sharpness(prediction, truth, inside),
        "haarpsi": 1 - haarpsi(prediction, truth),  # 0 for equal pictures and at most 1
    }
    if lpips is not None:
        measures["lpips"] = _lpips(lpips, prediction, truth)
    return measures


def psnr(prediction: Tensor, truth: Tensor) -> Tensor:
    """(N,) peak signal-to-noise ratio in dB, at most PSNR_LIMIT. Example: a constant offset of 0.1 gives 20 dB."""
    return _decibels((prediction - truth).square().mean((1, 2, 3)))


def mask_iou(prediction_mask: Tensor, mask: Tensor) -> Tensor:
    """(N,) intersection over union of two silhouettes (N, 1, H, W) cut at 0.5; 1 where both are empty."""
    ours, theirs = prediction_mask > 0.5, mask > 0.5
    union = (ours | theirs).sum((1, 2, 3))
    return torch.where(union > 0, (ours & theirs).sum((1, 2, 3)) / union.clamp(min=1), 1.0)


def silhouette(rgb: Tensor) -> Tensor:
    """(N, 3, H, W) -> (N, 1, H, W), 1 where any channel differs from white by more than half the maximum.

    For predictors that give colours only: a pixel half covered lies on the edge. The maximum is each picture's own, so
    that pale objects have an edge too; one that differs by less than FAINT everywhere has no silhouette. Parts as white
    as the background are lost.
    """
    differences = (rgb - 1).abs().amax(1, keepdim=True)
    most = differences.amax((1, 2, 3), keepdim=True)
    return ((differences > 0.5 * most) & (most > FAINT)).float()


def silhouette_boxes(mask: Tensor) -> Tensor:
    """(N, 1, H, W) silhouettes -> (N, 1, H, W) bool, True in the bounding rectangle of what is above 0.5."""
    solid = mask > 0.5
    empty = (~solid.flatten(1).any(1)).nonzero()[:, 0].tolist()
    if empty:
        raise InputError(
            f"mask must show the object in every view, but its silhouette is empty in view {empty[0]}; "
            "leave such views out"
        )
    return _between(solid.any(-1, keepdim=True), -2) & _between(solid.any(-2, keepdim=True), -1)


def sharpness(prediction: Tensor, truth: Tensor, inside: Tensor) -> Tensor:
    """(N,) mean gradient energy inside the box as a fraction of the truth's: 1 as sharp, 0 flat, above 1 noisy.

    The energy is that of differences between neighbouring pixels of which at least one lies in the box, (N, 1, H, W).
    """

    def energy(picture: Tensor) -> Tensor:
        total = picture.new_zeros(len(picture))
        for axis in (-1, -2):
            count = picture.shape[axis] - 1
            touched = inside.narrow(axis, 0, count) | inside.narrow(axis, 1, count)
            total = total + _box_mean(picture.diff(dim=axis).square(), touched)
        return total

    return (energy(prediction) + FLAT_ENERGY) / (energy(truth) + FLAT_ENERGY)


def haarpsi(first: Tensor, second: Tensor) -> Tensor:
    """(N, 3, H, W) in [0, 1], twice -> (N,) similarity in [0, 1], 1 for equal pictures; symmetric. arXiv 1607.06140."""
    # YIQ in 0..255 at half the size: a viewer's distance, by averaging
    matrix = torch.tensor(_YIQ, dtype=torch.float32, device=first.device)
    yiq = [torch.einsum("ij,njhw->nihw", matrix, 255 * picture.float()) for picture in (first, second)]
    odd = max(size % 2 for size in first.shape[-2:])
    ours, theirs = (F.avg_pool2d(F.pad(picture, (0, odd, 0, odd)), 2) for picture in yiq)
    similarities, weights = [], []
    for axis in (-2, -1):
        fine_ours, fine_theirs = (
            torch.cat([_haar(picture[:, :1], scale, axis) for scale in (1, 2)], dim=1) for picture in (ours, theirs)
        )
        similarities.append(_alike(fine_ours, fine_theirs).mean(1))
        coarse = (_haar(picture[:, :1], 3, axis)[:, 0] for picture in (ours, theirs))
        weights.append(torch.maximum(*coarse))  # where something is to be seen
    # the mean of each pixel with its right, lower and lower right neighbours, beyond the border 0
    smooth = (F.avg_pool2d(F.pad(each[:, 1:], (0, 1, 0, 1)), 2, stride=1).abs() for each in (ours, theirs))
    similarities.append(_alike(*smooth).mean(1))  # colour
    weights.append((weights[0] + weights[1]) / 2)
    similarity, weight = torch.stack(similarities, dim=1), torch.stack(weights, dim=1)
    # a weighted mean under the logistic function, taken back through its inverse and squared
    least = torch.finfo(weight.dtype).eps
    mean = ((STEEPNESS * similarity).sigmoid() * weight).sum((1, 2, 3)) + least
    mean = mean / (weight.sum((1, 2, 3)) + least)
    return ((mean.clamp(max=1 - least).logit() / STEEPNESS) ** 2).clamp(max=1.0)


def _haar(picture: Tensor, scale: int, axis: int) -> Tensor:
    """(N, 1, H, W) -> magnitudes of the Haar wavelet of width 2^scale that steps along `axis`."""
    width = 2**scale
    kernel = torch.full((width, width), 1 / width, device=picture.device, dtype=torch.float32)
    kernel.narrow(axis, width // 2, width // 2).neg_()
    before, after = width // 2 - 1, width // 2
    padded = F.pad(picture, (before, after, before, after))
    return F.conv2d(padded, kernel[None, None]).abs()


def _alike(first: Tensor, second: Tensor) -> Tensor:
    """1 where equal, near 0 where one is far above the other."""
    return (2 * first * second + CONSTANT) / (first.square() + second.square() + CONSTANT)


@torch.no_grad()
def _lpips(lpips: PerceptualDistance, prediction: Tensor, truth: Tensor) -> Tensor:
    place = next(lpips.parameters()).device if isinstance(lpips, nn.Module) else truth.device
    pairs = zip(prediction.to(place).split(1), truth.to(place).split(1), strict=True)
    distances = torch.stack([lpips(ours, theirs) for ours, theirs in pairs])  # one at a time: it returns the mean
    check_finite("lpips (of these pictures)", distances)
    return distances.to(truth)


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


def _between(present: Tensor, axis: int) -> Tensor:
    """True from the first to the last True along `axis`."""
    counts = present.int()
    return (counts.cumsum(axis) > 0) & (counts.flip(axis).cumsum(axis).flip(axis) > 0)


@dataclass(frozen=True, eq=False)
class Consistency:
    """How well P pairs of views agree.

    difference: (P,) mean absolute difference of colours in [0, 1] over pixels that both see; NaN if there are none.
    pixels: (P,) how many pixels that were, both ways together.
    """

    difference: Tensor
    pixels: Tensor

    @property
    def mean(self) -> float:
        """Over all these pixels of all pairs; NaN if there are none."""
        return float((self.difference.nan_to_num(0.0) * self.pixels).sum() / self.pixels.sum())


def reprojection_consistency(
    rgb: Tensor, field: RenderedViews, cameras: Cameras, pairs: Sequence[tuple[int, int]]
) -> Consistency:
    """Compares views pixel by pixel where the field says that they see the same point of the surface.

    A pixel of one view is lifted to its point by the field's depth and projected into the other. It counts if the field
    is opaque in both places and the other view's depth there is the point's distance, so that nothing hides it.

    Args:
        rgb: (N, 3, H, W) views in [0, 1]: the field's own, or those of a 2D model at the same cameras.
        field: renders of the field at the same N cameras and size.
        pairs: which two views to compare.
    """
    height, width = rgb.shape[-2:]
    rays = camera_rays(cameras, height, width)
    points = rays.origins + rays.directions * field.depth.permute(0, 2, 3, 1)  # (N, H, W, 3)
    differences, pixels = [], []
    for first, second in pairs:
        total, seen = rgb.new_zeros(()), 0
        for source, target in ((first, second), (second, first)):
            visible, colors = _look(points[source], field, rgb, cameras, target)
            visible = visible & (field.opacity[source, 0] >= SOLID)
            total = total + (rgb[source] - colors).abs().mean(0)[visible].sum()
            seen += int(visible.sum())
        differences.append(total / seen if seen else total + torch.nan)
        pixels.append(seen)
    return Consistency(torch.stack(differences).cpu(), torch.tensor(pixels))


def _look(points: Tensor, field: RenderedViews, rgb: Tensor, cameras: Cameras, target: int) -> tuple[Tensor, Tensor]:
    """(H, W, 3) points -> (H, W) bool whether view `target` sees them, and (3, H, W) its colours there."""
    place, distance = project(points, cameras[target])
    grid = -place[None]  # grid_sample counts from the left and from the top
    known = torch.cat([rgb[target], field.opacity[target], field.depth[target]])[None]
    looked = F.grid_sample(known, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]
    # the nearest pixel must show this surface, and so must its neighbours: a mean of two surfaces' colours is neither's
    depth = F.grid_sample(field.depth[target][None], grid, mode="nearest", padding_mode="zeros", align_corners=False)
    near = ((torch.stack([depth[0, 0], looked[4]]) - distance).abs() <= TOLERANCE * distance).all(0)
    visible = near & (looked[3] >= SOLID) & (place.abs() <= 1).all(-1) & (distance > 0)
    return visible, looked[:3]
