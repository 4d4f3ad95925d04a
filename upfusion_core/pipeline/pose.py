"""Where the photos were taken from: photo 1 is known, the cameras of the others are found by the silhouettes of all.

A plane through two cameras that touches the object touches both silhouettes, so that from the line between the cameras
both are seen under one range of angles (epipolar tangency: Porrill and Pollard, Curve matching and stereo calibration,
1991). A pair tells little; all pairs together leave few answers. Samples of them are drawn, refined, and count by how
well they explain what is seen. How many of these say nearly the same of a photo tells its trust; where none explains
it, none is trusted.
"""

import math
import textwrap
from collections.abc import Callable, Sequence
from itertools import combinations, count, pairwise

import numpy as np
import torch
from scipy.spatial import ConvexHull
from skimage.measure import find_contours
from torch import Tensor
from torch.nn.functional import pad

from ..config import PhotoSearch
from ..geometry import orbit_cameras
from ..support.checks import check_type
from ..support.errors import InputError
from ..support.images import labelled_sheet
from ..types import Cameras, InputViews, OnStep, PhotoCameras, SceneEncoding
from .novel_views import ViewSynthesizer

CORNERS = 24  # of a silhouette's convex outline, at most
STEEPEST = 1.4  # radians from the object's middle, beyond which a camera stands nearly on the object's other side
ALIKE_TRACE = 1 + 2 * math.cos(math.radians(20.0))  # of the turn between answers that are one, within 20 degrees
ALIKE = "the object looks alike from several sides: only its elevation, {:.0f} degrees, is sure"
SEVERAL = "its silhouette fits several places"
MISFIT = "the silhouettes do not fit together: lenses, distances or masks may differ"
SURE_ELEVATION = 9.0  # degrees, standard deviation
MOVES = (4.0, 4.0, 0.03, 0.01, 0.01)  # first steps of the refinement: azimuth, elevation, log size, middle's x and y


def estimate_photo_cameras(
    model: ViewSynthesizer, scene: SceneEncoding, *, search: PhotoSearch | None = None, on_step: OnStep | None = None
) -> PhotoCameras:
    """The cameras that the scene's photos were taken by, as far as they can be found; the same each time.

    Those that the networks see are looked for together, others by fives beside photo 1, as `score` was calibrated.

    model: whose scene it is. on_step: called with (rounds done, total, None); raise from it to stop.
    Raises InputError where the scene holds no photos, or something is of another type.
    """
    check_type("scene", scene, SceneEncoding, "make it with encode")
    search = search or PhotoSearch()
    check_type("search", search, PhotoSearch)
    views, reference = model.own_scene(scene).views, scene.reference.to("cpu")
    if views is None:
        raise InputError("the scene must hold its photos, got one made by hand; encode the photos with this model")
    if len(views) == 1:
        return PhotoCameras(reference, torch.tensor([True]), torch.ones(1, dtype=torch.float32))
    with torch.inference_mode(False), torch.no_grad():
        shapes, distances = outlines(views)
        height = reference.camera_to_world[0, 1, 2].asin().rad2deg()
        off = (torch.tensor(search.elevations_degrees, dtype=torch.float32) - height) / search.elevation_deviation
        prior = (-off.square() / 2).log_softmax(0)
        hook = on_step or (lambda *_: None)
        rest = [place for place in range(len(views)) if place not in views.seen]
        groups = [views.seen, *([0, *rest[first : first + 5]] for first in range(0, len(rest), 5))]
        total, ticks, answers = len(groups) * search.sweeps, count(1), []
        for group in groups:
            own = [shapes[place] for place in group]
            drawn = sample_poses(own, prior, search, lambda _: hook(next(ticks), total, None))
            answers.append(_answer(own, distances[group], drawn, reference, search))
    places = [place for group in groups for place in group]
    order = [places.index(place) for place in range(len(views))]
    accepted, score = (torch.cat([getattr(each, name) for each in answers])[order] for name in ("accepted", "score"))
    reasons = [reason for each in answers for reason in each.reasons]
    cameras = Cameras.concatenate(each.cameras for each in answers)[torch.tensor(order)]
    return PhotoCameras(cameras, accepted, score, reasons=tuple(reasons[place] for place in order))


def _answer(
    shapes: Sequence[Tensor], distances: Tensor, drawn: tuple[Tensor, Tensor], reference: Cameras, search: PhotoSearch
) -> PhotoCameras:
    """The drawn answer that explains most once refined, and how far the others say the same of each photo."""
    elevation = torch.tensor(search.elevations_degrees, dtype=torch.float32)[drawn[0]]
    azimuth = torch.tensor(search.azimuths_degrees, dtype=torch.float32)[drawn[1]]
    # how often an answer was drawn tells less than how well it fits once it is refined
    drawn_once = torch.unique(torch.stack([azimuth, elevation], dim=-1), dim=1).transpose(0, 1)
    moved, likely = _refined(shapes, pad(drawn_once, (0, 3)), search, range(len(shapes)))
    weights, best = (search.refined_weight * likely / 2).softmax(0), int(likely.argmax())
    most = len(shapes) * (len(shapes) - 1) * math.log(search.background / search.refined_width)  # if all fits at once
    lacking = search.refined_weight * (search.fit * most - float(likely.max()) / 2)
    explained = 1 / (1 + math.exp(min(lacking, 100.0)))
    scores, reasons, near = [1.0], [""], _near(moved, moved[best])
    for index in range(1, len(shapes)):
        # this photo from other sides, the others where they are: does the object look alike from there?
        turned = moved[best].repeat(search.azimuths, 1, 1)
        turned[:, index, 0] += torch.tensor(search.azimuths_degrees, dtype=torch.float32)
        turned, told = _refined(shapes, turned, search, [index])
        alike, beside = (search.refined_weight * told).softmax(0), _near(turned, moved[best])[:, index]
        scores.append(float(weights[near[:, index]].sum() * alike[beside].sum()) * explained)
        elevation, both = torch.cat([moved, turned])[:, index, 1], torch.cat([weights, alike]) / 2
        height = float(both @ elevation)
        spread = float(both @ (elevation - height).square()) ** 0.5
        reasons.append(MISFIT if explained < 0.5 else ALIKE.format(height) if spread < SURE_ELEVATION else SEVERAL)
    places, shares = ([pair[part] for pair in search.trusts] for part in (0, 1))
    score, moved = torch.tensor([1.0, *np.interp(scores[1:], places, shares)], dtype=torch.float32), moved[best]
    reasons = ["" if value >= search.accept else reason for value, reason in zip(score.tolist(), reasons, strict=True)]
    distances, focal = distances * moved[:, 2].exp(), reference.focal.expand(len(moved), 2)
    found = orbit_cameras(moved[:, 0], moved[:, 1], distances).camera_to_world
    # into the world in which photo 1 stands as the scene has it
    world = reference.camera_to_world[0] @ torch.linalg.inv(found[0]) @ found
    cameras = Cameras(
        world, focal, moved[:, 3:] * torch.tensor([1.0, -1.0], dtype=torch.float32) * focal / distances[:, None]
    )
    cameras = Cameras.concatenate([reference, cameras[1:]])
    return PhotoCameras(cameras, score >= search.accept, score, reasons=tuple(reasons))


def _near(moved: Tensor, answer: Tensor) -> Tensor:
    """(C, V) whether cameras (C, V, 5) are turned as those of one answer (V, 5) are, in the axes of its photo 1."""
    azimuth, elevation = torch.cat([moved, answer[None]])[..., :2].flatten(0, 1).T
    turns = orbit_cameras(azimuth, elevation.clamp(-85, 85)).camera_to_world[:, :3, :3].unflatten(0, (-1, len(answer)))
    turns = turns[:, :1].transpose(-1, -2) @ turns
    traces: Tensor = (turns[:-1] * turns[-1]).sum((2, 3))
    return traces > ALIKE_TRACE


def _refined(
    shapes: Sequence[Tensor], start: Tensor, search: PhotoSearch, moving: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """(H, V, 5) azimuths and elevations in degrees, logarithms of sizes, and shifts of the middles, near H answers
    `start` (H, V, 5), and (H,) the logarithm of how likely the `moving` ones' ranges of angles are, by which they move
    in turn: coordinate descent."""
    state, every = start.clone(), torch.arange(len(start))
    deviations, unit = torch.tensor(search.refined_deviations, dtype=torch.float32), torch.eye(5, dtype=torch.float32)
    compass = torch.cat([torch.zeros_like(unit[:1]), unit, -unit])
    steps = torch.tensor(MOVES, dtype=torch.float32).repeat(*start.shape[:2], 1)
    steps[:, 0] *= torch.tensor([0.0, 1, 0, 0, 0], dtype=torch.float32)  # what the others are beside

    def seen(index: int, values: Tensor) -> tuple[Tensor, Tensor]:
        """(N, P, 3) outlines with sizes and shifts taken out, and (N, 4, 4) cameras."""
        values = values.reshape(-1, 5)
        sizes, aside = values[:, None, 2:3].exp(), values[:, None, 3:]
        moved = torch.cat([shapes[index][:, :2] * sizes + aside, shapes[index][:, 2:].expand(len(values), -1, 1)], -1)
        return moved, orbit_cameras(values[:, 0], values[:, 1].clamp(-85, 85)).camera_to_world

    likely = torch.zeros(len(start), len(shapes), dtype=torch.float32)
    for _ in range(search.refinements):
        for index in moving:
            options = state[:, None, index] + compass * steps[:, None, index]  # (H, 11, 5)
            told = -((options - start[:, None, index]) / deviations).square().sum(-1) / 2
            own, cameras = seen(index, options)
            for other in range(len(shapes)):
                if other != index:
                    beside, there = seen(other, state[:, None, other].expand_as(options))
                    ranges = pair_ranges(own, beside, (cameras, there))
                    size = (ranges[..., 1] - ranges[..., 0]).nanmean().clamp_min(1e-3)
                    apart = ((ranges[:, 0] - ranges[:, 1]) / size).reshape(*options.shape[:2], 2)
                    told = told + agreement(apart, search.refined_width, search.background)
            likely[:, index], best = told.max(1)
            state[:, index] = options[every, best]
            steps[:, index] *= torch.where(best == 0, 0.5, 1.0)[:, None]
    return state, likely.sum(1)


def photo_sheet(photos: Tensor, seen: Tensor, cameras: PhotoCameras, size: int) -> Tensor:
    """(3, H, W): photos (V, 3, S, S), grey where they are refused, the reason, and what their cameras see."""
    grey = 0.35 * photos.mean(dim=1, keepdim=True) + 0.65
    shown = torch.where(cameras.accepted[:, None, None, None], photos.cpu(), grey.cpu())
    labels = [textwrap.fill(line, 24) for line in cameras.report().splitlines()]
    return labelled_sheet({"photo": shown, "seen from there": seen}, labels, size)


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
        if not len(places) or np.linalg.matrix_rank(places - places.mean(0)) < 2:
            found.append(torch.full((1, 3), math.nan, dtype=torch.float32))
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
    elevations = torch.tensor(search.elevations_degrees, dtype=torch.float32)
    grid = torch.meshgrid(
        elevations, elevations, torch.tensor(search.azimuths_degrees, dtype=torch.float32), indexing="ij"
    )
    lower, upper, azimuths = (values.flatten() for values in grid)
    cameras = (orbit_cameras(0.0, lower).camera_to_world, orbit_cameras(azimuths, upper).camera_to_world)
    tables = torch.full((len(shapes), len(shapes), *shape, 2, 2), math.nan, dtype=torch.float32)
    for one, other in combinations(range(len(shapes)), 2):
        tables[one, other] = table = pair_ranges(shapes[one], shapes[other], cameras).reshape(*shape, 2, 2)
        tables[other, one] = table.flip(2).roll(1, dims=2).transpose(0, 1).flip(3)
    tables = tables / (tables[..., 1] - tables[..., 0]).nanmedian()
    photos, chains, turns = len(tables), search.samples, search.azimuths
    generator, places = torch.Generator().manual_seed(0), torch.arange(turns)
    between = agreement(tables[..., 0, :] - tables[..., 1, :], search.width, search.background)

    def draw(logits: Tensor) -> Tensor:
        noise = torch.rand(logits.shape, generator=generator, dtype=torch.float32).clamp(1e-20, 1 - 1e-7)
        return (logits - (-noise.log()).log()).argmax(-1)

    state = torch.stack(
        [draw(torch.zeros(photos, chains, count, dtype=torch.float32)) for count in (len(prior), turns)]
    )  # (2, V, C)
    state[0, 0], state[1, 0] = draw(prior.expand(chains, -1)), 0
    weights, steps = torch.zeros(chains, dtype=torch.float32), (torch.linspace(0, 1, search.sweeps + 1) ** 2).tolist()
    for sweep, (before, after) in enumerate(pairwise(steps)):
        for other, index in combinations(range(photos), 2):
            at = (state[0, other], state[0, index], (state[1, index] - state[1, other]) % turns)
            weights = weights + (after - before) * between[other, index][at]
        if sweep + 1 == search.sweeps or float(weights.softmax(0).square().sum()) * chains > 2:
            state = state[:, :, torch.multinomial(weights.softmax(0), chains, replacement=True, generator=generator)]
            weights = torch.zeros(chains, dtype=torch.float32)
        for index in torch.randperm(photos, generator=generator).tolist():
            logits = torch.zeros(chains, len(prior), turns, dtype=torch.float32)
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
