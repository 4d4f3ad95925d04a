"""Measures of pictures, (N, 3, H, W) in [0, 1], against the truth, one number a view; and of surfaces.

Pictures of small objects on white are mostly white, so an all-white picture scores an SSIM of 0.9 and 16 dB. The box
measures look only inside the bounding rectangle of the true silhouette, where white earns nothing. Surfaces are
compared by points sampled on both: equal ones are at about half the points' spacing, not at 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import torch
import trimesh
from kornia.metrics import ssim as kornia_ssim
from scipy.spatial import KDTree
from torch import Tensor, nn
from torch.nn import functional as F
from trimesh.registration import procrustes

from ..geometry import camera_rays, project
from ..geometry.cameras import Similarity
from ..models.perceptual import PerceptualDistance
from ..support.checks import check_finite, check_shape, check_unit_range
from ..support.errors import InputError
from ..surface.mesh import MeshAsset
from ..surface.reading import Surface
from ..types import Cameras, RenderedViews

LEAST_SIDE = 16  # smaller pictures hold neither SSIM's window nor, after halving, HaarPSI's largest wavelet
SSIM_TAPS = 11  # width of SSIM's Gaussian window, whose sigma is 1.5 pixels (Wang et al. 2004)
PSNR_LIMIT = 100.0  # dB of two equal pictures: infinity would make every average infinite and is no JSON number
FAINT = 0.02  # greatest difference from white of a picture that counts as empty: five steps of an 8-bit picture
FLAT_ENERGY = 1e-6  # gradient energy below which a picture counts as flat, so that flat over flat is 1 and not 0 / 0
CONSTANT, STEEPNESS = 30.0, 4.2  # HaarPSI's C, for colours in [0, 255], and alpha, the slope of its logistic function
_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))  # NTSC's, to piq's digits
SOLID = 0.9  # opacity from which a pixel of a field shows its surface
TOLERANCE = 0.02  # how much two distances of one point of a surface may differ, as a share of the distance
QUERY_POINTS = 20_000  # of a surface, whose nearest neighbours are looked for: enough for 1 % of their spread
SEARCH_POINTS, SEARCH_ROUNDS = 1_000, 12
FINAL_POINTS, FINAL_ROUNDS = 10_000, 30


@dataclass(frozen=True)
class Measure:
    """How a measure is shown: its label in tables and plots, and whether higher is better (None: 1 is best)."""

    label: str
    higher_is_better: bool | None


MEASURES = {  # all, by the name they have in reports
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
        wanted = f"measures need pictures of at least {LEAST_SIDE} x {LEAST_SIDE}"
        raise InputError(f"{wanted}, got {height} x {width}; render larger")
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
        place = next(lpips.parameters()).device if isinstance(lpips, nn.Module) else truth.device
        pairs = zip(prediction.to(place).split(1), truth.to(place).split(1), strict=True)
        with torch.no_grad():  # one at a time: it returns the mean
            measures["lpips"] = torch.stack([lpips(ours, theirs) for ours, theirs in pairs]).to(truth)
        check_finite("lpips (of these pictures)", measures["lpips"])
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

    The maximum is each picture's own, so that pale objects have an edge too; one below FAINT has no silhouette.
    """
    differences = (rgb - 1).abs().amax(1, keepdim=True)
    most = differences.amax((1, 2, 3), keepdim=True)
    return ((differences > 0.5 * most) & (most > FAINT)).float()


def silhouette_boxes(mask: Tensor) -> Tensor:
    """(N, 1, H, W) silhouettes -> (N, 1, H, W) bool, True in the bounding rectangle of what is above 0.5."""
    solid = mask > 0.5
    empty = (~solid.flatten(1).any(1)).nonzero()[:, 0].tolist()
    if empty:
        raise InputError(f"mask must show the object in every view, but is empty in view {empty[0]}; leave that out")
    return _between(solid.any(-1, keepdim=True), -2) & _between(solid.any(-2, keepdim=True), -1)


def sharpness(prediction: Tensor, truth: Tensor, inside: Tensor) -> Tensor:
    """(N,) mean energy, as a share of truth's, of differences between pixels of which one at least is inside."""

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
        grey = (ours[:, :1], theirs[:, :1])
        finest, finer, coarse = ([_haar(picture, scale, axis) for picture in grey] for scale in (1, 2, 3))
        fine = (torch.cat(pair, dim=1) for pair in zip(finest, finer, strict=True))
        similarities.append(_alike(*fine).mean(1))
        weights.append(torch.maximum(*coarse)[:, 0])  # where something is to be seen
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
    return (2 * first * second + CONSTANT) / (first.square() + second.square() + CONSTANT)


def check_pictures(prediction: Tensor, truth: Tensor) -> None:
    """Both must be (N, 3, H, W) of one shape, N at least 1, finite and in [0, 1]."""
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


def reprojection_consistency(
    rgb: Tensor, field: RenderedViews, cameras: Cameras, pairs: Sequence[tuple[int, int]]
) -> tuple[Tensor, Tensor]:
    """Compares P pairs of views (N, 3, H, W) in [0, 1] where a field's renders show the same point of its surface: (P,)
    mean absolute differences over the pixels that both see, NaN for none, and (P,) how many those are.

    A pixel of one view is lifted to its point by the field's depth and projected into the other. It counts if the field
    is opaque in both places and the other view's depth there is the point's distance, so that nothing hides it.
    """
    height, width = rgb.shape[-2:]
    rays = camera_rays(cameras, height, width)
    points = rays.origins + rays.directions * field.depth.permute(0, 2, 3, 1)  # (N, H, W, 3)
    differences, pixels = [], []
    for first, second in pairs:
        total, seen = rgb.new_zeros(()), 0
        for source, target in ((first, second), (second, first)):
            place, distance = project(points[source], cameras[target])
            grid = -place[None]  # grid_sample counts from the left and from the top
            look = partial(F.grid_sample, grid=grid, padding_mode="zeros", align_corners=False)
            looked = look(torch.cat([rgb[target], field.opacity[target], field.depth[target]])[None])[0]
            # the nearest pixel must show this surface, and so must its neighbours: a mean of two surfaces is neither
            depth = look(field.depth[target][None], mode="nearest")[0, 0]
            visible = ((torch.stack([depth, looked[4]]) - distance).abs() <= TOLERANCE * distance).all(0)
            visible &= (looked[3] >= SOLID) & (place.abs() <= 1).all(-1) & (distance > 0)
            visible &= field.opacity[source, 0] >= SOLID
            total = total + (rgb[source] - looked[:3]).abs().mean(0)[visible].sum()
            seen += int(visible.sum())
        differences.append(total / seen if seen else total + torch.nan)
        pixels.append(seen)
    return torch.stack(differences).cpu(), torch.tensor(pixels)


def compare_meshes(
    mesh: trimesh.Trimesh, truth: trimesh.Trimesh, *, start: Similarity | None = None, samples: int, seed: int
) -> dict[str, float]:
    """`point_scores` of a mesh as it is and, with the ending "_similarity", after `align_points` from `start` on.

    `samples` points are drawn by `seed` on each surface; distances are taken from at most QUERY_POINTS of them.
    """
    ours = sample_surface(mesh, samples, seed=seed, name="mesh")
    theirs = sample_surface(truth, samples, seed=seed + 1, name="truth")
    box = float(np.ptp(truth.bounds, axis=0).max())
    aligned = align_points(ours, theirs, start or Similarity.from_angles()).apply(ours)
    scores = point_scores(aligned, theirs, box)
    return point_scores(ours, theirs, box) | {f"{name}_similarity": value for name, value in scores.items()}


def point_scores(ours: Tensor, theirs: Tensor, box: float) -> dict[str, float]:
    """Chamfer distance as a share of `box`, the true surface's longest side, and F-scores at 1 % and 2 % of it."""
    there = nearest_distances(_spread(ours, QUERY_POINTS), theirs)
    back = nearest_distances(_spread(theirs, QUERY_POINTS), ours)
    first, second = f_score(there, back, 0.01 * box), f_score(there, back, 0.02 * box)
    return {"chamfer": chamfer_distance(there, back) / box, "f_score_1": first, "f_score_2": second}


def as_trimesh(surface: MeshAsset | Surface) -> trimesh.Trimesh:
    return trimesh.Trimesh(surface.vertices.numpy(force=True), surface.faces.numpy(force=True), process=False)


def sample_surface(mesh: trimesh.Trimesh, count: int, *, seed: int = 0, name: str = "mesh") -> Tensor:
    """(count, 3) float32 points spread evenly over the mesh's surface, by chance; InputError if it has no area."""
    if not len(mesh.faces) or not mesh.area > 0:
        raise InputError(f"{name} must have a surface, got {len(mesh.faces)} faces without area; check how it was made")
    points, _ = trimesh.sample.sample_surface(mesh, count, seed=seed)
    return torch.from_numpy(np.asarray(points, dtype=np.float32))


def chamfer_distance(there: np.ndarray, back: np.ndarray) -> float:
    """Nearest distances both ways -> their mean: of 0 and 1 on a line against 0, 1/2 one way, 0 back, hence 0.25."""
    return float(there.mean() + back.mean()) / 2


def f_score(there: np.ndarray, back: np.ndarray, threshold: float) -> float:
    """Nearest distances both ways -> harmonic mean of the shares that are within `threshold`."""
    precision, recall = float((there <= threshold).mean()), float((back <= threshold).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def nearest_distances(source: Tensor, target: Tensor) -> np.ndarray:
    """(P, 3) and (Q, 3) points -> (P,) distances from each source point to the nearest target point."""
    ours, theirs = (points.double().numpy() for points in (source, target))
    return np.asarray(KDTree(theirs).query(ours)[0])


def align_points(source: Tensor, target: Tensor, start: Similarity) -> Similarity:
    """The similarity that brings (P, 3) points onto (Q, 3) points: iterated closest points, with scale.

    Neighbours are taken both ways, because those of the source alone are matched best by shrinking it. Begins at
    `start` and at turns on a grid; the end with the smallest Chamfer distance counts, if it is better than `start`.
    """

    def apart(similarity: Similarity, ours: Tensor, theirs: Tensor) -> float:
        moved = similarity.apply(ours)
        return chamfer_distance(nearest_distances(moved, theirs), nearest_distances(theirs, moved))

    few = _spread(source, SEARCH_POINTS), _spread(target, SEARCH_POINTS)
    more = _spread(source, FINAL_POINTS), _spread(target, FINAL_POINTS)
    begun = [start]
    for yaw, pitch in product((-40.0, -20.0, 0.0, 20.0, 40.0), (-20.0, 0.0, 20.0)):
        turn = Similarity.from_angles(yaw, pitch)
        begun.append(Similarity(1.0, turn.rotation, few[1].mean(0) - turn.apply(few[0]).mean(0)))
    ends = [_closest_points(*few, similarity, SEARCH_ROUNDS) for similarity in begun]
    best = _closest_points(*more, min(ends, key=lambda similarity: apart(similarity, *few)), FINAL_ROUNDS)
    return best if apart(best, *more) < apart(start, *more) else start


def _closest_points(source: Tensor, target: Tensor, start: Similarity, rounds: int) -> Similarity:
    """Rounds of matching every point with its nearest one and solving for the similarity, until nothing moves."""
    source = source.double()
    ours, theirs, found = source.numpy(), target.double().numpy(), start
    tree = KDTree(theirs)
    for _ in range(rounds):
        moved = found.apply(source).numpy()
        ahead, back = tree.query(moved)[1], KDTree(moved).query(theirs)[1]
        matrix, _, _ = procrustes(
            np.concatenate([ours, ours[back]]), np.concatenate([theirs[ahead], theirs]), reflection=False, scale=True
        )
        scale = float(np.cbrt(np.linalg.det(matrix[:3, :3])))
        turned = torch.from_numpy(matrix[:3, :3] / scale)
        found = Similarity(scale, turned, torch.from_numpy(matrix[:3, 3].copy()))
        if np.abs(found.apply(source).numpy() - moved).max() < 1e-7 * np.ptp(theirs, axis=0).max():
            break
    return Similarity(found.scale, found.rotation.float(), found.translation.float())


def _spread(points: Tensor, count: int) -> Tensor:
    """At most `count` of the points, evenly by index."""
    return points[torch.linspace(0, len(points) - 1, min(count, len(points))).round().long()]
