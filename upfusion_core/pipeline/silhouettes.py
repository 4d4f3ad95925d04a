"""What silhouettes tell of where photos were taken from, without any network.

A plane through two cameras that touches the object touches both silhouettes, so that from the line between the cameras
both are seen under one range of angles (epipolar tangency: Porrill and Pollard, Curve matching and stereo calibration,
1991). A pair tells little; all pairs together leave few answers, of which samples are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations, pairwise

import numpy as np
import torch
from scipy.spatial import ConvexHull
from skimage.measure import find_contours
from torch import Tensor

from ..config import PhotoSearch
from ..geometry import orbit_cameras
from ..types import InputViews

CORNERS = 24  # of a silhouette's convex outline, at most
STEEPEST = 1.4  # radians from the object's middle, beyond which a camera stands nearly on the object's other side


def outlines(views: InputViews) -> tuple[list[Tensor], Tensor]:
    """Of each photo (P, 3) directions in its camera's axes to the corners of its silhouette's convex hull, as from
    photo 1's distance, and (V,) their own: of one lens, what is cropped is as large as it was in the whole photo."""
    found, zooms = [], []
    sources = views.sources or [None] * len(views)
    for square, focal, source in zip(views.mask[:, 0], views.focal[:, 0].tolist(), sources, strict=True):
        box = (0.0, 0.0, float(len(square)), float(len(square))) if source is None else source.box
        mask, (left, top), scale = square, box[:2], (box[2] - box[0]) / len(square)
        if source is not None and source.mask is not None:
            mask, (left, top), scale = source.mask, source.corner, 1.0
        zooms.append((box[2] - box[0]) / (len(square) if source is None else max(source.size)))
        step = max(1, round(max(mask.shape) / 512))
        inside = np.pad(mask[::step, ::step].float().cpu().numpy(), 1)
        contours = find_contours(inside, max(float(inside.max()) / 2, 1e-3))
        places = np.concatenate(contours) * step if contours else np.zeros((0, 2))
        if np.linalg.matrix_rank(places - places.mean(0) if len(places) else places) < 2:
            found.append(torch.full((1, 3), math.nan))
            continue
        places = (places - step + 0.5)[ConvexHull(places).vertices]
        places = places[np.linspace(0, len(places) - 1, min(len(places), CORNERS)).astype(int)] * scale
        y, x = (places + np.array([top - (box[1] + box[3]) / 2, left - (box[0] + box[2]) / 2])).T
        rays = np.stack([x, -y, np.full_like(x, -focal * (box[2] - box[0]) / 2)], axis=1)
        found.append(torch.tensor(rays / -rays[:, 2:], dtype=torch.float32))
    far = torch.tensor(zooms, dtype=torch.float32) / zooms[0]
    return [rays * torch.stack([each, each, each**0]) for rays, each in zip(found, far, strict=True)], far


def pair_ranges(first: Tensor, second: Tensor, cameras: tuple[Tensor, Tensor]) -> Tensor:
    """(N, 2, 2) least and largest angle about the lines between N pairs of cameras, (N, 4, 4) each, of both outlines.
    Outlines are (P, 3), or N of them; the angle is 0 in the object's middle. NaN where the line runs through it."""
    line = cameras[1][:, :3, 3] - cameras[0][:, :3, 3]
    apart = line.norm(dim=-1, keepdim=True)
    line, middle = torch.where(apart > 1e-6, line / apart.clamp_min(1e-6), cameras[0][:, :3, 0]), -cameras[0][:, :3, 3]
    middle = torch.nn.functional.normalize(middle - (middle * line).sum(-1, keepdim=True) * line, dim=-1)
    across, found = torch.linalg.cross(line, middle)[:, :, None], []
    for outline, camera in zip((first, second), cameras, strict=True):
        rays = outline @ camera[:, :3, :3].transpose(-1, -2)  # (N, P, 3)
        angles = torch.atan2((rays @ across)[..., 0], (rays @ middle[:, :, None])[..., 0])
        both = torch.stack([angles.amin(1), angles.amax(1)], dim=-1)
        found.append(both.where(angles.abs().amax(1)[:, None] < STEEPEST, math.nan))
    return torch.stack(found, dim=1)


def agreement(apart: Tensor, width: float, background: float) -> Tensor:
    """Logarithm of how much likelier angles (..., 2) so far apart are for true cameras than for others; NaN tells 0.
    Both are Cauchy's distributions, of these half widths at half height."""
    told = (1 + (apart / background).square()).log() - (1 + (apart / width).square()).log()
    return (told + math.log(background / width)).nan_to_num(nan=0.0).sum(-1)


def sample_poses(
    shapes: Sequence[Tensor], prior: Tensor, search: PhotoSearch, on_sweep: Callable[[int], None]
) -> tuple[Tensor, Tensor]:
    """(V, C) places among the search's elevations and azimuths of C answers that are equally likely.

    Drawn by sequential Monte Carlo, evidence being let in step by step (Del Moral, Doucet, Jasra 2006). shapes:
    of outlines. prior: (E,) logarithm of belief in photo 1's elevations."""
    # pair_ranges of each pair in sizes of the object, by both elevations and the second's azimuth beyond the first's
    shape = (len(search.elevations_degrees),) * 2 + (search.azimuths,)
    elevations = torch.tensor(search.elevations_degrees)
    grid = torch.meshgrid(elevations, elevations, torch.tensor(search.azimuths_degrees), indexing="ij")
    lower, upper, azimuths = (values.flatten() for values in grid)
    cameras = (orbit_cameras(0.0, lower).camera_to_world, orbit_cameras(azimuths, upper).camera_to_world)
    tables = torch.full((len(shapes), len(shapes), *shape, 2, 2), math.nan)
    for one, other in combinations(range(len(shapes)), 2):
        tables[one, other] = table = pair_ranges(shapes[one], shapes[other], cameras).reshape(*shape, 2, 2)
        tables[other, one] = table.flip(2).roll(1, dims=2).transpose(0, 1).flip(3)
    tables = tables / (tables[..., 1] - tables[..., 0]).nanmedian()
    photos, chains, turns = len(tables), search.samples, search.azimuths
    generator, places = torch.Generator().manual_seed(0), torch.arange(turns)
    between = agreement(tables[..., 0, :] - tables[..., 1, :], search.width, search.background)

    def draw(logits: Tensor) -> Tensor:
        noise = torch.rand(logits.shape, generator=generator).clamp(1e-20, 1 - 1e-7)
        return (logits - (-noise.log()).log()).argmax(-1)

    state = torch.stack([draw(torch.zeros(photos, chains, count)) for count in (len(prior), turns)])  # (2, V, C)
    state[0, 0], state[1, 0] = draw(prior.expand(chains, -1)), 0
    weights, steps = torch.zeros(chains), (torch.linspace(0, 1, search.sweeps + 1) ** 2).tolist()
    for sweep, (before, after) in enumerate(pairwise(steps)):
        for other, index in combinations(range(photos), 2):
            at = (state[0, other], state[0, index], (state[1, index] - state[1, other]) % turns)
            weights = weights + (after - before) * between[other, index][at]
        if sweep + 1 == search.sweeps or float(weights.softmax(0).square().sum()) * chains > 2:
            state = state[:, :, torch.multinomial(weights.softmax(0), chains, replacement=True, generator=generator)]
            weights = torch.zeros(chains)
        for index in torch.randperm(photos, generator=generator).tolist():
            logits = torch.zeros(chains, len(prior), turns)
            for other in range(photos):  # its own table is empty and tells nothing
                turned = ((places - state[1, other][:, None]) % turns)[:, None].expand_as(logits)
                logits = logits + after * between[other, index, state[0, other]].gather(2, turned)
            if index == 0:
                state[0, 0] = draw(logits[:, :, 0] + prior)
            else:
                found = draw(logits.flatten(1))
                state[0, index], state[1, index] = found // turns, found % turns
        on_sweep(sweep + 1)
    return state[0], state[1]
