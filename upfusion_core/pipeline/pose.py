"""Where the photos were taken from: photo 1 is known, the cameras of the others are found by the silhouettes of all.

Answers are drawn (silhouettes.py), the different ones refined, and count by how well they explain what is seen. How
many of them say nearly the same of a photo tells how far it can be trusted; where none explains it, none is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..config import PhotoSearch
from ..geometry import orbit_cameras
from ..support.checks import check_type
from ..support.errors import InputError
from ..support.images import labelled_sheet
from ..types import Cameras, OnStep, PhotoCameras, SceneEncoding
from .novel_views import ViewSynthesizer
from .silhouettes import agreement, outlines, pair_ranges, sample_poses

ALIKE_TRACE = 1 + 2 * math.cos(math.radians(20.0))  # of the turn between answers that are one, within 20 degrees
HYPOTHESES = 8  # different answers that are refined
ALIKE = "the object looks alike from several sides: only its elevation, {:.0f} degrees, is sure"
SEVERAL = "its silhouette fits several places"
MISFIT = "the silhouettes do not fit together: lenses, distances or masks may differ"
SURE_ELEVATION = 9.0  # degrees, standard deviation
MOVES = (4.0, 4.0, 0.03, 0.01, 0.01)  # first steps of the refinement: azimuth, elevation, log size, middle's x and y


def estimate_photo_cameras(
    model: ViewSynthesizer, scene: SceneEncoding, *, search: PhotoSearch | None = None, on_step: OnStep | None = None
) -> PhotoCameras:
    """The cameras that the scene's photos were taken by, as far as they can be found; the same each time.

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
        drawn = sample_poses(shapes, prior, search, lambda sweep: hook(sweep, search.sweeps, None))
        return _answer(shapes, distances, drawn, reference, search)


def _answer(
    shapes: Sequence[Tensor], distances: Tensor, drawn: tuple[Tensor, Tensor], reference: Cameras, search: PhotoSearch
) -> PhotoCameras:
    """What most of the drawn answers say of each photo, once the different ones are refined."""
    elevation = torch.tensor(search.elevations_degrees, dtype=torch.float32)[drawn[0]]
    azimuth = torch.tensor(search.azimuths_degrees, dtype=torch.float32)[drawn[1]]
    weights = torch.full((search.samples,), 1 / search.samples, dtype=torch.float32)
    turns = _turns(azimuth, elevation)
    near = torch.einsum("vaij,vbij->vab", turns, turns) > ALIKE_TRACE  # (V, C, C)
    alike, left, chosen = near.all(0), weights.clone(), []
    for _ in range(HYPOTHESES):
        chosen.append(int((alike.float() @ left).argmax()))
        left = left * ~alike[chosen[-1]]
    start = torch.stack([azimuth, elevation, *[torch.zeros_like(azimuth)] * 3], dim=-1)[:, chosen].transpose(0, 1)
    moved, likely = _refined(shapes, start, search)
    gain = search.refined_weight * (likely - likely.max())
    ours = near[:, chosen].all(0)  # (H, C); what is like none of them may be as good as the best
    told = gain[:, None].expand_as(ours).where(ours, -math.inf).amax(0)
    weights = weights * torch.where(ours.any(0), told, 0.0).exp()
    most = len(shapes) * (len(shapes) - 1) * math.log(search.background / search.refined_width)  # if all fits at once
    lacking = search.refined_weight * (search.fit * most - float(likely.max()))
    weights, explained = weights / weights.sum(), 1 / (1 + math.exp(min(lacking, 100.0)))
    best = int(gain.argmax())
    scores, reasons = [1.0], [""]
    final = _turns(moved[..., 0].T, moved[..., 1].T)[:, best]
    for index in range(1, len(shapes)):
        beside = (final[index] * turns[index]).sum((1, 2))
        scores.append(float(weights[beside > ALIKE_TRACE].sum()) * explained)
        height = float(weights @ elevation[index])
        spread = float(weights @ (elevation[index] - height).square()) ** 0.5
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


def _turns(azimuth: Tensor, elevation: Tensor) -> Tensor:
    """(V, C, 3, 3) rotations of cameras (V, C) in the axes of each answer's photo 1."""
    found = orbit_cameras(azimuth.flatten(), elevation.flatten().clamp(-85, 85)).camera_to_world[:, :3, :3]
    found = found.reshape(*azimuth.shape, 3, 3)
    return found[0].transpose(-1, -2) @ found


def _refined(shapes: Sequence[Tensor], start: Tensor, search: PhotoSearch) -> tuple[Tensor, Tensor]:
    """(H, V, 5) azimuths and elevations in degrees, logarithms of sizes, and shifts of the middles, near H answers
    `start` (H, V, 5), and (H,) the logarithm of how likely they are: by coordinate descent on the ranges of angles."""
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
        for index in range(len(shapes)):
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
    return state, likely.sum(1) / 2


def photo_sheet(photos: Tensor, seen: Tensor, cameras: PhotoCameras, size: int) -> Tensor:
    """(3, H, W): photos (V, 3, S, S), grey where they are refused, beside what is seen from their cameras."""
    grey = 0.35 * photos.mean(dim=1, keepdim=True) + 0.65
    shown = torch.where(cameras.accepted[:, None, None, None], photos.cpu(), grey.cpu())
    pairs = enumerate(zip(cameras.accepted.tolist(), cameras.score.tolist(), strict=True), 1)
    labels = [f"photo {n}\n{'found' if used else 'refused'}\ntrust {score:.2f}" for n, (used, score) in pairs]
    return labelled_sheet({"photo": shown, "seen from there": seen}, labels, size)
