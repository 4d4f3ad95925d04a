"""The three ways in which pictures are compared with their truth: as they are, per view, and per object.

raw: as predicted. This is what a user sees, but the object's frame is not determined by unposed photos.
affine: every view brought to its truth by its own 2D affine transform. It cannot show whether cameras were respected.
similarity: one transform for all views of an object, the fairest. A predictor that renders from any camera gets one 3D
similarity of the object's frame, which moves the cameras by the inverse; fixed pictures get one shared 2D similarity.

All transforms are bounded, minimise the mean squared difference over whole pictures, and fall back to the identity.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..geometry.cameras import Similarity
from ..support.images import saturate
from ..surface.registration import Render, SimilaritySearch, align_object, moments, places
from ..types import Cameras
from .metrics import check_pictures

LARGEST_STRETCH = 1.5  # and 1/1.5, in every direction: without a bound, a bad prediction is best shrunk to nothing
LARGEST_SHIFT = 0.5  # of the picture's centre, or the object: a quarter of the picture along each axis
COARSEST_SIDE, COARSE_STEPS, FINEST_STEPS = 16, 20, 8
SEARCH = SimilaritySearch()

# a transform is the identity plus a sum of these (2, 3) matrices; a similarity's: scale, rotation, shift in x and y
_AFFINE = torch.eye(6).reshape(6, 2, 3)
_BASES = {
    "affine": _AFFINE,
    "similarity": torch.stack([_AFFINE[0] + _AFFINE[4], _AFFINE[3] - _AFFINE[1], _AFFINE[2], _AFFINE[5]]),
}


@torch.no_grad()
def register(
    prediction: Tensor, truth: Tensor, kind: Literal["affine", "similarity"], *, shared: bool = False
) -> Tensor:
    """(N, 2, 3) transforms that bring the predictions closest to their truths in the mean squared difference.

    Starts from the identity and from the silhouettes' centres and sizes; the better end counts, and the identity itself
    where neither beats it. Rotations up to some 20 degrees are found. With `shared`, all views have one transform.
    """
    prediction, truth = (1 - picture.float() for picture in (prediction, truth))  # beyond the border 0
    basis = _BASES[kind].to(truth.device)
    identity = truth.new_zeros(1 if shared else len(truth), len(basis))
    best, error = identity, _error(prediction, truth, identity, basis)
    levels = [(prediction, truth)]
    while min(levels[0][0].shape[-2:]) >= 2 * COARSEST_SIDE:
        size = [side // 2 for side in levels[0][0].shape[-2:]]
        ours, theirs = (F.interpolate(picture, size=size, mode="area") for picture in levels[0])
        levels.insert(0, (ours, theirs))
    # parameters that bring centre and size of what is not background together, within the bounds
    (our_center, our_radius), (center, radius) = moments(prediction), moments(truth)
    scale = (our_radius / radius).log().clamp(-0.35, 0.35)  # e^0.35 = 1.42
    if shared:
        our_center, center, scale = (values.mean(0, keepdim=True) for values in (our_center, center, scale))
    scale, wanted = scale.exp(), torch.zeros(len(identity), 2, 3, device=truth.device)
    wanted[:, 0, 0] = wanted[:, 1, 1] = scale - 1
    wanted[:, :, 2] = (our_center - scale[:, None] * center).clamp(-0.9 * LARGEST_SHIFT, 0.9 * LARGEST_SHIFT)
    for found in (identity, wanted.flatten(1) @ torch.linalg.pinv(basis.flatten(1))):
        for index, (ours, theirs) in enumerate(levels):
            steps = FINEST_STEPS if index == len(levels) - 1 and index else COARSE_STEPS
            found = _descend(ours, theirs, found, basis, steps)
        found_error = _error(prediction, truth, found, basis)
        better = found_error < error * (1 - 1e-6)
        best = torch.where(better[:, None], found, best)
        error = torch.where(better, found_error, error)
    return _matrices(best, basis).expand(len(truth), 2, 3).contiguous()


def warp(pictures: Tensor, transforms: Tensor, *, background: float | Tensor = 1.0) -> Tensor:
    """(N, C, H, W) pictures in [0, 1] as (N, 2, 3) `transforms` bring them: bicubic, `background` beyond the border."""
    return saturate(background - _sample(background - pictures, transforms))


def _descend(prediction: Tensor, truth: Tensor, start: Tensor, basis: Tensor, steps: int) -> Tensor:
    """(G, P) parameters after some Levenberg-Marquardt steps on one level; G is N, or 1 where one is shared."""
    found, error = start, _error(prediction, truth, start, basis)
    damping = torch.full_like(error, 1e-2)
    # central differences along x and y, per unit of the coordinates; beyond the border 0
    unit, padded = max(prediction.shape[-2:]) / 2, F.pad(prediction, (1, 1, 1, 1))
    slopes = (
        (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2 * unit,
        (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2 * unit,
    )
    place = places(truth).flatten(0, 1)  # (HW, 3): x, y, 1
    squares, turn = place[:, :, None] * place[:, None, :], basis.flatten(1)
    for _ in range(steps):
        # J^T J (G, P, P) and J^T r (G, P) of the residual r = warped prediction - truth
        transforms = _matrices(found, basis)
        residual = _sample(prediction, transforms) - truth
        slope = torch.stack([_sample(part, transforms, "bilinear") for part in slopes], dim=1)  # (N, 2, C, H, W)
        products = torch.einsum("nichw,njchw->nijhw", slope, slope).flatten(3)
        hessian = torch.einsum("nijp,pkl->nikjl", products, squares).reshape(len(truth), 6, 6)
        pulls = torch.einsum("nichw,nchw->nihw", slope, residual).flatten(2)
        gradient = torch.einsum("nip,pk->nik", pulls, place).reshape(len(truth), 6)
        hessian, gradient = turn @ hessian @ turn.T, gradient @ turn.T
        if len(found) == 1:  # shared: all views pull at the same numbers
            hessian, gradient = hessian.sum(0, keepdim=True), gradient.sum(0, keepdim=True)
        diagonal = hessian.diagonal(dim1=1, dim2=2)
        ridge = damping[:, None] * diagonal + 1e-6 * diagonal.amax(1, keepdim=True) + 1e-12
        tried = found - torch.linalg.solve(hessian + torch.diag_embed(ridge), gradient)
        tried_error = _error(prediction, truth, tried, basis)
        transforms = _matrices(tried, basis)
        linear, shift = transforms[:, :, :2], transforms[:, :, 2]
        stretch = torch.linalg.svdvals(linear)
        fits = (stretch <= LARGEST_STRETCH).all(1) & (stretch >= 1 / LARGEST_STRETCH).all(1)
        fits &= (torch.linalg.det(linear) > 0) & (shift.abs() <= LARGEST_SHIFT).all(1)  # no mirroring
        better = (tried_error < error) & fits
        found = torch.where(better[:, None], tried, found)
        error = torch.where(better, tried_error, error)
        damping = torch.where(better, damping / 4, damping * 8).clamp(1e-6, 1e6)
    return found


def _error(prediction: Tensor, truth: Tensor, parameters: Tensor, basis: Tensor) -> Tensor:
    """(G,) mean squared difference after the transform, of all views where one is shared."""
    error = (_sample(prediction, _matrices(parameters, basis)) - truth).square().mean((1, 2, 3))
    return error.mean(0, keepdim=True) if len(parameters) == 1 else error


def _matrices(parameters: Tensor, basis: Tensor) -> Tensor:
    return torch.eye(2, 3, device=basis.device) + torch.einsum("gp,pij->gij", parameters, basis)


def _sample(pictures: Tensor, transforms: Tensor, mode: str = "bicubic") -> Tensor:
    """(N, C, H, W) looked up where (N or 1, 2, 3) transforms send each pixel centre; 0 beyond the border."""
    height, width = pictures.shape[-2:]
    longest = max(height, width)
    ends = torch.tensor([longest / width, longest / height], device=pictures.device)  # grid_sample's own units
    grid = torch.einsum("nij,hwj->nhwi", transforms.expand(len(pictures), 2, 3), places(pictures)) * ends
    return F.grid_sample(pictures, grid, mode=mode, padding_mode="zeros", align_corners=False)


def align_views(
    prediction: Tensor, truth: Tensor, cameras: Cameras, *, mask: Tensor | None = None, render: Render | None = None
) -> tuple[dict[str, Tensor], Similarity | None]:
    """All views (N, 3, H, W) of one object, aligned in the three ways.

    Args:
        mask: (N, 1, H, W) silhouettes of the prediction where it knows them; `render` should then give the opacity too.
        render: the predictor, which gave `prediction`, (N, 3, S, S); without it pictures are fixed.

    Returns:
        The pictures in [0, 1] by the ending of their measures, "", "_affine" and "_similarity", (N, 3, H, W), or
        (N, 4, H, W) with the silhouettes; and what the last did to the object in 3D, None if it did it in 2D.
    """
    check_pictures(prediction, truth)
    raw = prediction if mask is None else torch.cat([prediction, mask.to(prediction)], dim=1)
    background = raw.new_tensor([1.0, 1.0, 1.0, 0.0])[: raw.shape[1], None, None]
    seen = {"": raw, "_affine": warp(raw, register(prediction, truth, "affine"), background=background)}
    if render is None:
        shared = register(prediction, truth, "similarity", shared=True)
        return {**seen, "_similarity": warp(raw, shared, background=background)}, None
    similarity, turned = align_object(render, cameras, truth, raw, SEARCH)
    return {**seen, "_similarity": turned.to(truth).clamp(0, 1)}, similarity
