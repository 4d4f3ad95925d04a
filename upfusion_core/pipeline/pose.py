"""Where the photos were taken from: photo 1 is known, the cameras of the others are found by the silhouettes of all.

A plane through two cameras that touches the object touches both silhouettes, so that from the line between the cameras
both are seen under one range of angles (epipolar tangency: Porrill and Pollard, Curve matching and stereo calibration,
1991). All pairs together leave few answers. Samples are drawn, refined, and weighed by how well they explain what is
seen; the weight of those that say nearly the same of a photo is its trust, unless none explains it.
"""

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations, count, pairwise

import numpy as np
import torch
from scipy.spatial import ConvexHull
from skimage.measure import find_contours
from torch import Tensor
from torch.nn.functional import normalize, pad

from ..config import PhotoSearch
from ..geometry.cameras import look_at, orbit_cameras, reference_camera
from ..geometry.lenses import Lens
from ..support.checks import check_type
from ..support.errors import InputError
from ..support.images import labelled_sheet
from ..types import Cameras, InputViews, OnStep, PhotoCameras, SceneEncoding
from .novel_views import ViewSynthesizer
from .photos import photo_silhouette

Answers = tuple[Tensor, Tensor, Tensor, float]  # see _answers
SHARPEST = 1024  # pixels of a photo's longer side in which its silhouette is looked for, where it has no mask
CORNERS = 24  # of a silhouette's convex outline, at most
STEEP = 89.0  # degrees, of an elevation
STEEPEST = 1.4  # radians from the object's middle, beyond which a camera stands nearly on the object's other side
ALIKE_TRACE = 1 + 2 * math.cos(math.radians(20.0))  # of the turn between answers that are one, within 20 degrees
ALIKE = "the object looks alike from several sides: only its elevation, {:.0f} degrees, is sure"
SEVERAL = "its silhouette fits several places"
MISFIT = "the silhouettes do not fit together: lenses, distances or masks may differ"
CROWDED = "too many would stand within 20 degrees, where any silhouettes fit"
SURE_ELEVATION, SURE_HORIZON = 9.0, 5.0  # degrees, standard deviations
MOVES = (4.0, 4.0, 0.03, 0.01, 0.01)  # first steps of the refinement: azimuth, elevation, log size, middle's x and y


def estimate_photo_cameras(
    model: ViewSynthesizer, scene: SceneEncoding, *, search: PhotoSearch | None = None, on_step: OnStep | None = None
) -> PhotoCameras:
    """The cameras that the scene's photos were taken by, as far as they can be found; the same each time.

    Those that the networks see are looked for together, others by fives beside photo 1, as `score` was calibrated.
    Where some are known, the others are looked for by fives beside at most 6 of these.

    model: whose scene it is. on_step: called with (rounds done, total, None); raise from it to stop. Raises InputError.
    """
    check_type("scene", scene, SceneEncoding, "make it with encode")
    views = model.own_scene(scene).views
    if views is None:
        raise InputError("the scene must hold its photos, got one made by hand; encode the photos with this model")
    search, known, first = search or PhotoSearch(), views.cameras, torch.arange(len(views)) == 0
    check_type("search", search, PhotoSearch)
    found = known or PhotoCameras(_of_one_lens(views, scene.reference.to("cpu")), first, first.float())
    sure, seen = found.accepted.nonzero()[:, 0].tolist(), [] if known else views.seen[1:]
    rest = [place for place in (known.sought if known else range(len(views))) if place not in (*sure, *seen)]
    parts = [seen, *(rest[start : start + 5] for start in range(0, len(rest), 5))]
    groups = [[*sure[:: -(-len(sure) // 6)], *part] for part in parts if part]
    total, ticks, hook = len(groups) * search.sweeps, count(1), on_step or (lambda *_: None)
    reasons = np.array(found.reasons or [""] * len(views), dtype=object)
    with torch.inference_mode(False), torch.no_grad():
        matrices, score = found.cameras.camera_to_world.clone(), found.score.clone()
        poses = found.angles_degrees().clamp(torch.tensor([0.0, -STEEP]), torch.tensor([360.0, STEEP])).float()
        poses[~found.accepted | (known is None)] = math.nan
        accepted, (shapes, turns) = found.accepted.clone(), outlines(views, found.cameras, poses)
        height = matrices[0, 1, 3].clamp(-1, 1).asin().rad2deg()
        off = (torch.tensor(search.elevations_degrees, dtype=torch.float32) - height) / search.elevation_deviation
        for group in groups:
            own, fixed, prior = [shapes[place] for place in group], poses[group], (-off.square() / 2).log_softmax(0)
            answers = _answers(own, fixed, prior, search, lambda _: hook(next(ticks), total, None))
            moved, score[group], reasons[group] = _judged(own, fixed[:, 0].isfinite(), answers, search)
            matrices[group] = _placed(matrices[group], moved, turns[group], accepted[group])
            accepted[group] = score[group] >= search.accept
    cameras = replace(found.cameras, camera_to_world=matrices)
    return replace(found, cameras=cameras, accepted=accepted, score=score, reasons=tuple(reasons.tolist()))


def estimate_elevation(views: InputViews) -> float | None:
    """Degrees that photo 1 looks down by, from the silhouettes of all photos: if nobody rolled them they share a
    horizon. None of fewer than three, or where several answers are left."""
    search, seen = PhotoSearch(), views.seen
    if len(seen) < 3:
        return None
    views, poses = views.with_sources(), torch.full((len(views), 2), math.nan)
    with torch.inference_mode(False), torch.no_grad():
        shapes = outlines(views, _of_one_lens(views, reference_camera()), poses)[0]
        own, prior = [shapes[place] for place in seen], torch.zeros(len(search.elevations_degrees))
        moved, weights, best, explained = _answers(own, poses[seen], prior, search, lambda _: None)
        spread = float(weights @ (moved[:, 0, 1] - weights @ moved[:, 0, 1]).square()) ** 0.5
    return round(float(best[0, 1]), 1) if explained >= search.fit and spread < SURE_HORIZON else None


def _of_one_lens(views: InputViews, first: Cameras) -> Cameras:
    """A camera a photo, all where photo 1's is, with the lens of its square, if all photos were taken by one lens."""
    wide = torch.tensor([(source.box[2] - source.box[0]) / max(source.size) for source in views.sources or ()])
    return replace(Cameras.concatenate([first] * len(wide)), focal=first.focal * (wide[0] / wide[:, None]).float())


def _answers(
    shapes: Sequence[Tensor], poses: Tensor, prior: Tensor, search: PhotoSearch, on_sweep: Callable[[int], None]
) -> Answers:
    """Answers (H, V, 5), as of `_refined`, by the arguments of `sample_poses`; their weights (H,); the one that
    explains most, refined once more, (V, 5); and which share of the greatest likelihood it has."""
    # how often an answer was drawn tells less than how well it fits once it is refined
    start = pad(sample_poses(shapes, poses, prior, search, on_sweep).unique(dim=1).transpose(0, 1), (0, 3))
    moved, likely = _refined(shapes, start, search, range(len(shapes)), poses[:, 0].isfinite())
    most = len(shapes) * (len(shapes) - 1) * math.log(search.background / search.refined_width)  # if all fits at once
    best, reached = _refined(shapes, moved[likely.argmax()][None], search, range(len(shapes)), poses[:, 0].isfinite())
    return moved, (search.refined_weight * likely / 2).softmax(0), best[0], float(reached) / 2 / most


def _judged(
    shapes: Sequence[Tensor], known: Tensor, answers: Answers, search: PhotoSearch
) -> tuple[Tensor, Tensor, list[str]]:
    """The best of `_answers`; trusts (V,), by how far the others say the same of a photo; and why it is refused."""
    moved, weights, best, explained = answers
    near, fits = _near(moved, best), explained >= search.fit
    scores = [1.0 if fits or place == 0 or known[place] else search.trusts[0][1] for place in range(len(shapes))]
    reasons = ["" if fits or place == 0 or known[place] else MISFIT for place in range(len(shapes))]
    turns = orbit_cameras(best[:, 0], best[:, 1].clamp(-STEEP, STEEP)).camera_to_world[:, :3, :3]
    crowded = ((torch.einsum("aij,bij->ab", turns, turns) > ALIKE_TRACE).sum(1) > min(2, len(shapes) - 1)).tolist()
    for index in (index for index in range(1, len(shapes)) if fits and not known[index]):
        # this photo from other sides, the others where they are: does the object look alike from there?
        turned = best.repeat(search.azimuths, 1, 1)
        turned[:, index, 0] += torch.tensor(search.azimuths_degrees, dtype=torch.float32)
        turned, told = _refined(shapes, turned, search, [index], known)
        alike, beside = (search.refined_weight * told).softmax(0), _near(turned, best)[:, index]
        scores[index] = float(weights[near[:, index]].sum() * alike[beside].sum())
        elevation, both = torch.cat([moved, turned])[:, index, 1], torch.cat([weights, alike]) / 2
        spread = float(both @ (elevation - both @ elevation).square()) ** 0.5
        scores[index] = float(np.interp(scores[index], *np.transpose(search.trusts)))
        if scores[index] < search.accept:
            reasons[index] = ALIKE.format(float(both @ elevation)) if spread < SURE_ELEVATION else SEVERAL
        elif crowded[index]:
            scores[index], reasons[index] = 0.0, CROWDED
    return best, torch.tensor(scores, dtype=torch.float32), reasons


def _near(moved: Tensor, answer: Tensor) -> Tensor:
    """(C, V) whether cameras (C, V, 5) are turned as those of one answer (V, 5) are, in the axes of its photo 1."""
    azimuth, elevation = torch.cat([moved, answer[None]])[..., :2].flatten(0, 1).T
    turns = orbit_cameras(azimuth, elevation.clamp(-STEEP, STEEP)).camera_to_world[:, :3, :3]
    turns = turns.unflatten(0, (-1, len(answer)))
    turns = turns[:, :1].transpose(-1, -2) @ turns
    traces: Tensor = (turns[:-1] * turns[-1]).sum((2, 3))
    return traces > ALIKE_TRACE


def _placed(matrices: Tensor, moved: Tensor, turns: Tensor, stays: Tensor) -> Tensor:
    """(V, 4, 4) of cameras; those that do not stay (V,) stand beside photo 1's as `moved` (V, 5) says."""
    looking = orbit_cameras(moved[:, 0], moved[:, 1], moved[:, 2].exp()).camera_to_world
    beside = look_at(matrices[:1, :3, 3]).camera_to_world @ torch.linalg.inv(looking[:1])
    middle = look_at(torch.cat([moved[:, 3:] / moved[:, 2:3].exp(), torch.ones_like(moved[:, :1])], dim=-1))
    looking[:, :3, :3] = looking[:, :3, :3] @ middle.camera_to_world[:, :3, :3].transpose(1, 2) @ turns
    return matrices.where(stays[:, None, None], beside @ looking)


def _refined(
    shapes: Sequence[Tensor], start: Tensor, search: PhotoSearch, moving: Sequence[int], known: Tensor
) -> tuple[Tensor, Tensor]:
    """(H, V, 5) azimuths, elevations (degrees), logarithms of sizes and shifts of middles near H answers `start`, and
    (H,) the logarithm of how likely the ranges of angles of the `moving` are, which move in turn unless `known`."""
    state, every = start.clone(), torch.arange(len(start))
    deviations, unit = torch.tensor(search.refined_deviations, dtype=torch.float32), torch.eye(5, dtype=torch.float32)
    compass = torch.cat([torch.zeros_like(unit[:1]), unit, -unit])
    steps = torch.tensor(MOVES, dtype=torch.float32).repeat(*start.shape[:2], 1)
    steps[:, 0] *= torch.tensor([0.0, 1, 0, 0, 0], dtype=torch.float32)  # what the others are beside
    steps[:, known] = 0.0

    def seen(index: int, values: Tensor) -> tuple[Tensor, Tensor]:
        """(N, P, 3) outlines with sizes and shifts taken out, and (N, 4, 4) cameras."""
        values = values.reshape(-1, 5)
        sizes, aside = values[:, None, 2:3].exp(), values[:, None, 3:]
        moved = pad(shapes[index][:, :2] * sizes + aside, (0, 1), value=-1.0)
        return moved, orbit_cameras(values[:, 0], values[:, 1].clamp(-STEEP, STEEP)).camera_to_world

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


def outlines(views: InputViews, cameras: Cameras, poses: Tensor) -> tuple[list[Tensor], Tensor]:
    """Of each photo (P, 3) directions, at depth 1, to the corners of its silhouette's convex hull, as a camera sees it
    that looks at the object from photo 1's distance, and (V, 3, 3) turns from the photos' axes into that camera's.

    The photos have their cameras' lenses; where their pose (V, 2), azimuth and elevation in degrees, is known they
    stand where their cameras do, else (NaN) at photo 1's distance and look at their square's middle."""
    made, turns = [], []
    for source, camera, pose in zip(views.sources or (), cameras, poses, strict=True):
        (left, top, right, bottom), distance = source.box, 1.0
        lens = Lens.of_camera(camera, (right - left, bottom - top))
        size, focal, center = (np.array(value) for value in (lens.size, lens.focal, lens.center))
        x, y = (center - size / 2) / focal
        turn = look_at(torch.tensor([[x, -y, 1.0]], dtype=torch.float32)).camera_to_world[0, :3, :3].T
        if bool(pose.isfinite().all()):
            distance, looking = float(camera.centers.norm()), orbit_cameras(*pose[:, None])
            turn = looking.camera_to_world[0, :3, :3].T @ camera.camera_to_world[0, :3, :3]
        mask = photo_silhouette(source, SHARPEST)  # of the networks' few pixels an outline tells too little
        scale, corner = source.rgb.shape[2] / mask.shape[1], np.array(source.corner) - np.array([left, top])
        places = _corners(mask) * scale + corner
        places = (places - center) / focal * np.array([1, -1])
        rays = torch.from_numpy(np.pad(places, ((0, 0), (0, 1)), constant_values=-1)).float() @ turn.T
        made.append(rays / -rays[:, 2:] * rays.new_tensor([distance, distance, 1.0]))
        turns.append(turn)
    return made, torch.stack(turns)


def _corners(mask: Tensor) -> np.ndarray:
    """(P, 2) places in pixels, x and y, of the corners of the convex hull of (H, W); one NaN where it has none."""
    step = max(1, round(max(mask.shape) / 512))
    inside = np.pad(mask[::step, ::step].float().cpu().numpy(), 1)
    contours = find_contours(inside, max(float(inside.max()) / 2, 1e-3))
    places = np.concatenate(contours) * step if contours else np.zeros((0, 2))
    if not len(places) or np.linalg.matrix_rank(places - places.mean(0)) < 2:
        return np.full((1, 2), np.nan)
    places = (places - step + 0.5)[ConvexHull(places).vertices]
    corners: np.ndarray = places[np.linspace(0, len(places) - 1, min(len(places), CORNERS)).astype(int), ::-1]
    return corners


def pair_ranges(first: Tensor, second: Tensor, cameras: tuple[Tensor, Tensor]) -> Tensor:
    """(N, 2, 2) least and largest angle about the lines between N pairs of cameras, (N, 4, 4) each, of both outlines.
    Outlines are (P, 3), or N of them; the angle is 0 in the object's middle. NaN where the line runs through it."""
    line = cameras[1][:, :3, 3] - cameras[0][:, :3, 3]
    apart = line.norm(dim=-1, keepdim=True)
    line, middle = torch.where(apart > 1e-6, line / apart.clamp_min(1e-6), cameras[0][:, :3, 0]), -cameras[0][:, :3, 3]
    middle = normalize(middle - (middle * line).sum(-1, keepdim=True) * line, dim=-1)
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
    shapes: Sequence[Tensor], poses: Tensor, prior: Tensor, search: PhotoSearch, on_sweep: Callable[[int], None]
) -> Tensor:
    """(V, C, 2) azimuths and elevations of C answers, drawn by sequential Monte Carlo, evidence being let in step by
    step (Del Moral, Doucet, Jasra 2006). shapes: of outlines. poses: (V, 2), NaN where they are looked for.
    prior: (E,) logarithm of belief in photo 1's elevations."""
    around = torch.tensor(search.azimuths_degrees, dtype=torch.float32)
    heights = torch.tensor(search.elevations_degrees, dtype=torch.float32)
    lower, upper, azimuths = (each.flatten() for each in torch.meshgrid(heights, heights, around, indexing="ij"))
    photos, chains, turns, known = len(shapes), search.samples, search.azimuths, poses[:, 0].isfinite().tolist()
    shape = (len(heights), len(heights), turns, 2, 2)
    # pair_ranges of each pair in sizes of the object, by both elevations and the second's azimuth beyond the first's;
    # a known one is as it is at each place of its own, and two tell nothing
    tables = torch.full((photos, photos, *shape), math.nan, dtype=torch.float32)
    for one, other in combinations(range(photos), 2):
        if not (known[one] and known[other]):
            both = torch.stack([torch.stack([-azimuths * known[other], lower]), torch.stack([azimuths, upper])])
            own = poses[[one, other], :, None]
            first, second = (orbit_cameras(*pose).camera_to_world for pose in own.where(own.isfinite(), both))
            table = pair_ranges(shapes[one], shapes[other], (first, second)).reshape(shape)
            tables[one, other], tables[other, one] = table, table.flip(2).roll(1, dims=2).transpose(0, 1).flip(3)
    tables = tables / (tables[..., 1] - tables[..., 0]).nanmedian()
    between = agreement(tables[..., 0, :] - tables[..., 1, :], search.width, search.background)
    generator, places = torch.Generator().manual_seed(0), torch.arange(turns)

    def draw(logits: Tensor) -> Tensor:
        noise = torch.rand(logits.shape, generator=generator, dtype=torch.float32).clamp(1e-20, 1 - 1e-7)
        return (logits - (-noise.log()).log()).argmax(-1)

    start = torch.zeros(photos, chains, 1, dtype=torch.float32)
    state = torch.stack([draw(start.expand(-1, -1, size)) for size in (len(prior), turns)])  # (2, V, C)
    state[0, 0], state[1, 0] = draw(prior.expand(chains, -1)), 0
    state[:, known] = 0
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
            elif not known[index]:
                found = draw(logits.flatten(1))
                state[0, index], state[1, index] = found // turns, found % turns
        on_sweep(sweep + 1)
    drawn = torch.stack([around[state[1]], heights[state[0]]], dim=-1)
    return poses[:, None].where(poses[:, None].isfinite(), drawn)
