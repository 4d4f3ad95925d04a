"""What silhouettes tell of where photos were taken from, without any network.

A plane through two cameras that touches the object touches both silhouettes, so that from the line between the cameras
both are seen under one range of angles (epipolar tangency: Porrill and Pollard, Curve matching and stereo calibration,
1991). A pair tells little; all pairs together leave few answers, of which samples are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial import ConvexHull
from skimage.measure import find_contours
from torch import Tensor

from ..config import PhotoSearch
from ..geometry import orbit_cameras
from ..types import InputViews

CORNERS = 24  # of a silhouette's convex outline, at most
FINEST = 512  # pixels of a silhouette's longer side
SIZES = 9  # that photos may have beside each other, within two standard deviations
STEEPEST = 1.4  # radians from the object's middle, beyond which a camera stands nearly on the object's other side


def outlines(views: InputViews) -> tuple[list[Tensor], Tensor]:
    """Of each photo (P, 3) directions in its camera's axes to the corners of its silhouette's convex hull, and (V,) how
    far it was taken from beside photo 1: what is cropped is as large as in the whole photo, of a lens that stays."""
    found, zooms = [], []
    for index, square in enumerate(views.mask[:, 0]):
        mask, size, corner, box = square, square.shape, (0, 0), (0.0, 0.0, float(len(square)), float(len(square)))
        if views.sources is not None:
            source = views.sources[index]
            size, box = source.size, source.box
            if source.mask is not None:
                mask, corner = source.mask, source.corner
        scale = (box[2] - box[0]) / len(square) if mask is square else 1.0
        left, top = (box[0], box[1]) if mask is square else corner
        zooms.append((box[2] - box[0]) / max(size))
        step = max(1, round(max(mask.shape) / FINEST))
        inside = np.pad(mask[::step, ::step].float().cpu().numpy(), 1)
        contours = find_contours(inside, max(float(inside.max()) / 2, 1e-3))
        places = np.concatenate(contours) * step if contours else np.zeros((0, 2))
        if np.linalg.matrix_rank(places - places.mean(0) if len(places) else places) < 2:
            found.append(torch.zeros(0, 3))
            continue
        places = (places - step + 0.5)[ConvexHull(places).vertices]
        places = places[np.linspace(0, len(places) - 1, min(len(places), CORNERS)).astype(int)] * scale
        y, x = (places + np.array([top - (box[1] + box[3]) / 2, left - (box[0] + box[2]) / 2])).T
        rays = np.stack([x, -y, np.full_like(x, -float(views.focal[index, 0]) * (box[2] - box[0]) / 2)], axis=1)
        found.append(torch.tensor(rays / -rays[:, 2:], dtype=torch.float32))
    sizes = torch.tensor(zooms, dtype=torch.float32)
    return found, sizes / sizes[0]


def ranges(outline: Tensor, turns: Tensor, line: Tensor, middle: Tensor) -> Tensor:
    """(N, 2) least and largest angle about N lines (N, 3) of an outline, or N, seen by cameras turned so (N, 3, 3).

    middle: (N, 3), across the line, where the angle is 0. NaN where the line runs through what is seen.
    """
    if not outline.shape[-2]:
        return outline.new_full((len(turns), 2), math.nan)
    rays = outline @ turns.transpose(-1, -2)  # (N, P, 3)
    across = torch.linalg.cross(line, middle)
    angles = torch.atan2((rays @ across[:, :, None])[..., 0], (rays @ middle[:, :, None])[..., 0])
    found = torch.stack([angles.amin(1), angles.amax(1)], dim=-1)
    return found.where(angles.abs().amax(1)[:, None] < STEEPEST, math.nan)


def pair_ranges(first: Tensor, second: Tensor, cameras: tuple[Tensor, Tensor]) -> Tensor:
    """(N, 2, 2) of two outlines, see `ranges`, by N cameras each, (N, 4, 4); they should agree."""
    turns, centers = zip(*((matrix[:, :3, :3], matrix[:, :3, 3]) for matrix in cameras), strict=True)
    line = centers[1] - centers[0]
    apart = line.norm(dim=-1, keepdim=True)
    line = torch.where(apart > 1e-6, line / apart.clamp_min(1e-6), turns[0][:, :, 0])
    middle = -centers[0] + (centers[0] * line).sum(-1, keepdim=True) * line
    middle = middle / middle.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    both = zip((first, second), turns, strict=True)
    return torch.stack([ranges(outline, turn, line, middle) for outline, turn in both], dim=1)


def range_tables(shapes: Sequence[Tensor], search: PhotoSearch) -> Tensor:
    """(V, V, E, E, A, 2, 2) `pair_ranges` of each pair of V outlines, in units of the object's size.

    By both elevations and the second's azimuth beyond the first's.
    """
    shape = (len(search.elevations_degrees),) * 2 + (search.azimuths,)
    elevations = torch.tensor(search.elevations_degrees)
    grid = torch.meshgrid(elevations, elevations, torch.tensor(search.azimuths_degrees), indexing="ij")
    lower, upper, azimuths = (values.flatten() for values in grid)
    cameras = (orbit_cameras(0.0, lower).camera_to_world, orbit_cameras(azimuths, upper).camera_to_world)
    tables = torch.full((len(shapes), len(shapes), *shape, 2, 2), math.nan)
    for one in range(len(shapes)):
        for other in range(one):
            tables[one, other] = table = pair_ranges(shapes[one], shapes[other], cameras).reshape(*shape, 2, 2)
            tables[other, one] = table.flip(2).roll(1, dims=2).transpose(0, 1).flip(3)
    return tables / (tables[..., 1] - tables[..., 0]).nanmedian()


def agreement(apart: Tensor, width: float, background: float) -> Tensor:
    """Logarithm of how much likelier angles (..., 2) so far apart are for true cameras than for others; NaN tells 0.

    Both are Cauchy's distributions, of these half widths at half height.
    """
    told = (1 + (apart / background).square()).log() - (1 + (apart / width).square()).log()
    return (told + math.log(background / width)).nan_to_num(nan=0.0).sum(-1)


class Poses(NamedTuple):
    """C equally likely answers: (V, C) places among the search's elevations and azimuths, and logarithms of sizes.

    evidence: logarithm of how likely the silhouettes are among photos of this kind, over unrelated ones.
    """

    elevation: Tensor
    azimuth: Tensor
    size: Tensor
    evidence: float


def sample_poses(
    tables: Tensor,
    prior: Tensor,
    search: PhotoSearch,
    framed: bool,
    generator: torch.Generator,
    on_sweep: Callable[[int], None],
) -> Poses:
    """Answers drawn by sequential Monte Carlo, evidence being let in step by step (Del Moral, Doucet, Jasra 2006).

    Args:
        tables: of range_tables. prior: (E,) logarithm of belief in photo 1's elevations.
        framed: whether all photos are of one lens and distance; else each has a size of its own, to be found.
    """
    photos, chains, turns = len(tables), search.samples, search.azimuths
    sizes = torch.linspace(-2, 2, 1 if framed else SIZES) * search.size_deviation
    sizes = sizes * 0 if framed else sizes
    likely, width = (
        -torch.linspace(-2, 2, len(sizes)).square() / 2,
        search.framed_width if framed else search.free_width,
    )
    between = torch.stack(  # by sizes beside each other, the two photos, elevations, and azimuth
        [
            agreement(
                tables[..., 0, :] * math.exp(-half) - tables[..., 1, :] * math.exp(half), width, search.background
            )
            for half in (
                torch.arange(1 - len(sizes), len(sizes)) * (sizes[-1] - sizes[0]) / max(len(sizes) - 1, 1) / 2
            ).tolist()
        ]
    )

    def draw(logits: Tensor) -> Tensor:
        noise = torch.rand(logits.shape, generator=generator).clamp(1e-20, 1 - 1e-7)
        return (logits - (-noise.log()).log()).argmax(-1)

    state = torch.stack(
        [draw(torch.zeros(photos, chains, levels)) for levels in (len(prior), turns, len(sizes))]
    )  # (3, V, C): elevation, azimuth, size
    state[0, 0], state[1:, 0] = draw(prior.expand(chains, -1)), torch.tensor([[0], [len(sizes) // 2]])
    places = torch.arange(turns)

    def pair(index: int, other: int, own: Tensor | None = None) -> Tensor:
        """What photo `other` says of where `index` stands: of its `own` sizes (C, S), or of all places (C, E, A)."""
        elevation, azimuth, size = state[:, other]
        level = state[2, index] - size + len(sizes) - 1
        if own is None:
            said = between[level, other, index, elevation]  # (C, E, A)
            return said.gather(2, ((places - azimuth[:, None]) % turns)[:, None].expand_as(said))
        at = (other, index, elevation[:, None], state[0, index][:, None], (state[1, index] - azimuth)[:, None] % turns)
        return between[(own - size[:, None] + len(sizes) - 1, *at)]

    evidence, weights = 0.0, torch.zeros(chains)
    steps, every = (torch.linspace(0, 1, search.sweeps + 1) ** 2).tolist(), torch.arange(len(sizes)).expand(chains, -1)
    for sweep, (before, after) in enumerate(pairwise(steps)):
        for index in range(photos):
            for other in range(index):
                weights = weights + (after - before) * pair(index, other, state[2, index][:, None])[:, 0]
        if sweep + 1 == search.sweeps or float(weights.softmax(0).square().sum()) * chains > 2:
            evidence += float(weights.logsumexp(0)) - math.log(chains)
            state = state[:, :, torch.multinomial(weights.softmax(0), chains, replacement=True, generator=generator)]
            weights = torch.zeros(chains)
        for index in torch.randperm(photos, generator=generator).tolist():
            others = [other for other in range(photos) if other != index]
            logits = after * torch.stack([pair(index, other) for other in others]).sum(0)
            if index == 0:  # it stands at azimuth 0, and has size 1
                state[0, 0] = draw(logits[:, :, 0] + prior)
                continue
            found = draw(logits.flatten(1))
            state[0, index], state[1, index] = found // turns, found % turns
            said = after * torch.stack([pair(index, other, every) for other in others]).sum(0)
            state[2, index] = draw(said + likely)
        on_sweep(sweep + 1)
    return Poses(state[0], state[1], sizes[state[2]], evidence)
