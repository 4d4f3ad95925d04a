"""Where the photos were taken from: photo 1 is known, the cameras of the others are found by matching.

Photo k is compared with the object as the other photos give it, so that its own pixels do not testify for it; and the
object in photo 1's frame with the object in photo k's frame, both seen on a turntable. No diffusion is involved.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from ..config import PhotoSearch
from ..geometry import orbit_cameras, reference_plucker
from ..support.checks import check_type
from ..support.errors import InputError
from ..support.images import saturate
from ..types import Cameras, InputViews, OnStep, PhotoCameras, SceneEncoding
from .novel_views import ViewSynthesizer, shrunk_grid

PhotoRender = Callable[..., Tensor]
# (cameras, size) -> (Q, 3, size, size) pictures in [0, 1] on white, through pixel centres; differentiable
NEIGHBORHOOD_DEGREES = 26.0  # candidates within this angle of the best one count as the same answer
_AT_ONCE = 1 << 15  # rays that are asked of UpSRT at a time


def estimate_photo_cameras(
    model: ViewSynthesizer, scene: SceneEncoding, *, search: PhotoSearch | None = None, on_step: OnStep | None = None
) -> PhotoCameras:
    """The cameras that the scene's photos were taken by, as far as they can be found; nothing is drawn at random.

    Args:
        model: whose scene it is; its UpSRT predicts the object.
        on_step: called with (photos done, total, None) after each prediction; raise from it to stop.

    Raises:
        InputError: the scene holds no photos, or something is of another type.
    """
    check_type("scene", scene, SceneEncoding, "make it with encode")
    search = search or PhotoSearch()
    check_type("search", search, PhotoSearch)
    if scene.views is None:
        raise InputError("the scene must hold its photos, got one made by hand; encode the photos with this model")
    views, reference = scene.views, scene.reference.to("cpu")
    focal = float(reference.focal[0, 0])
    found = [PhotoMatch(reference, 1.0, 0.0, True)]

    def report() -> None:
        if on_step is not None:
            on_step(len(found) - 1, len(views) - 1, None)

    with torch.inference_mode(False):  # hosts may call from inference mode
        scene = model.own_scene(replace(scene, tokens=scene.tokens.clone()))

        def predicted(order: list[int]) -> PhotoRender:
            """The object from some photos, the first of which is the reference."""
            some = InputViews(views.rgb[order], views.mask[order], views.focal[order])
            return _predictions(model, replace(scene, tokens=model.set_latents(some), views=some), report)

        ring: Tensor | None = None
        for index in range(1, len(views)):
            others = [other for other in range(len(views)) if other != index]
            without = predicted(others)
            with torch.no_grad():
                if ring is None:
                    ring = turntable(_predictions(model, scene, report), search, focal)
                frames = [orbit_cameras(0.0, elevation) for elevation in search.elevations_degrees]
                turned = predicted([index, *others])
                rings = ring_differences(ring, torch.stack([turntable(turned, search, focal, each) for each in frames]))
            found.append(match_photo(without, views.rgb[index], search, focal=focal, rings=rings))
            report()
    cameras, scores, _, accepted = zip(*found, strict=True)
    return PhotoCameras(Cameras.concatenate(cameras), torch.tensor(accepted), torch.tensor(scores, dtype=torch.float32))


def _predictions(model: ViewSynthesizer, scene: SceneEncoding, after: Callable[[], None]) -> PhotoRender:
    """UpSRT's colours, differentiable with respect to the cameras; `after` is called after each set of pictures."""
    tokens, upsrt = scene.tokens[None], model.upsrt

    def render(cameras: Cameras, size: int, reference: Cameras | None = None) -> Tensor:
        rays = reference_plucker(shrunk_grid(cameras, size), reference or scene.reference, size).to(tokens.device)
        rays = rearrange(rays, "q h w c -> 1 (q h w) c")
        rgb = torch.cat([upsrt.read_rgb(upsrt.decode(tokens, part)) for part in rays.split(_AT_ONCE, 1)], 1)
        after()
        return rearrange(rgb.float(), "1 (q h w) c -> q c h w", h=size, w=size)

    return render


def search_cameras(search: PhotoSearch, elevations_degrees: tuple[float, ...], focal: float) -> Cameras:
    """(E·A) cameras at all azimuths of each elevation, elevation by elevation."""
    azimuths = search.azimuths_degrees * len(elevations_degrees)
    elevations = [elevation for elevation in elevations_degrees for _ in range(search.azimuths)]
    return orbit_cameras(azimuths, elevations, focal=focal)


def turntable(render: PhotoRender, search: PhotoSearch, focal: float, reference: Cameras | None = None) -> Tensor:
    """(C, A, 3, s, s) the object all round at C elevations, in the frame of `reference` if that is given."""
    cameras = search_cameras(search, search.ring_elevations_degrees, focal)
    return rearrange(render(cameras, search.coarse_size, reference), "(c a) ... -> c a ...", a=search.azimuths)


def ring_differences(ring: Tensor, others: Tensor) -> Tensor:
    """(E, A) relative differences of two turntables for each turn of the one against the other.

    `ring` (C, A, 3, s, s) is the object all round, as photo 1's frame has it, at C elevations; `others`
    (E, C, A, 3, s, s) the same in the frame of another photo, whose elevation is taken to be one of E. Entry (e, t)
    belongs to that photo standing at azimuth t: what photo 1's frame sees from azimuth j, the other sees from j - t.
    """
    count = ring.shape[1]
    ours, theirs = ring.float().cpu().flatten(2), others.float().cpu().flatten(3)
    spectrum = torch.fft.rfft(ours, dim=1) * torch.fft.rfft(theirs, dim=2).conj()  # (E, C, A / 2 + 1, pixels)
    product = torch.fft.irfft(spectrum.sum((1, 3)), n=count, dim=1)
    energy = ours.square().sum() + theirs.square().sum((1, 2, 3))
    differences: Tensor = (energy[:, None] - 2 * product).clamp(min=0) / (1 - ours).square().sum().clamp(min=1e-6)
    return differences


class PhotoMatch(NamedTuple):
    """What was found for one photo, as in PhotoCameras, and its relative difference from what the camera sees."""

    camera: Cameras
    score: float
    difference: float
    accepted: bool


def match_photo(
    render: PhotoRender, photo: Tensor, search: PhotoSearch, *, focal: float, rings: Tensor | None = None
) -> PhotoMatch:
    """Where a photo (3, S, S) on white of the object that `render` shows was taken from, and how sure that is.

    The refinement begins in the middle, the mean by belief, of the best candidate's neighbourhood. rings: (E, A)
    further evidence, see ring_differences.
    """
    cameras = search_cameras(search, search.elevations_degrees, focal)
    with torch.no_grad():
        differences = relative_difference(render(cameras, search.coarse_size), photo).cpu()
    costs = [search.photo_weight * rearrange(differences, "(e a) -> e a", a=search.azimuths)]
    if rings is not None:
        costs.append(search.ring_weight * rings)
    beliefs = [(-cost.double()).flatten().softmax(0) for cost in (torch.stack(costs).sum(0), *costs)]
    belief, backward = beliefs[0], cameras.camera_to_world[:, :3, 2].double()
    near = backward @ backward.T >= math.cos(math.radians(NEIGHBORHOOD_DEGREES)) - 1e-9
    shares = near.double() @ belief
    best = near[int(torch.where(belief == belief.max(), shares, torch.zeros_like(shares)).argmax())]
    weights = belief * best
    weights = rearrange(weights / weights.sum(), "(e a) -> e a", a=search.azimuths)
    azimuths = torch.deg2rad(torch.tensor(search.azimuths_degrees, dtype=torch.float64))
    elevations = torch.deg2rad(torch.tensor(search.elevations_degrees, dtype=torch.float64))
    azimuth = torch.atan2((weights.sum(0) * azimuths.sin()).sum(), (weights.sum(0) * azimuths.cos()).sum())
    start = torch.stack([azimuth, (weights.sum(1) * elevations).sum()]).float()
    camera, difference = refined(render, photo, start, search, focal)
    score = min(float(each[best].sum()) for each in beliefs[1:])
    return PhotoMatch(camera, score, difference, score >= search.accept and difference <= search.largest_difference)


def refined(
    render: PhotoRender, photo: Tensor, start: Tensor, search: PhotoSearch, focal: float
) -> tuple[Cameras, float]:
    """The camera near `start` (azimuth and elevation, radians) that shows the photo best, and the difference it leaves.

    Found by gradient: azimuth, elevation, roll, logarithm of the distance, and shift move, each held near its start.
    """
    turn, roll = math.radians(search.turn_degrees), math.radians(search.roll_degrees)
    deviations = torch.tensor([turn, turn, roll, search.stretch, search.shift, search.shift], dtype=torch.float32)
    with torch.enable_grad():
        moved = torch.zeros(6, requires_grad=True, dtype=torch.float32)  # in standard deviations
        optimizer = torch.optim.Adam([moved], lr=search.learning_rate / turn)
        best, left, found = math.inf, math.inf, torch.zeros(6, dtype=torch.float32)
        for step in range(search.steps + 1):
            seen = render(_pose(start, moved * deviations, focal), search.fine_size)
            difference = relative_difference(seen, photo)[0].cpu()
            loss = search.fine_weight * difference + moved.square().sum() / 2
            if loss.item() < best:
                best, left, found = loss.item(), difference.item(), moved.detach().clone()
            if step < search.steps:
                (moved.grad,) = torch.autograd.grad(loss, moved)  # of the camera alone: the object is given
                optimizer.step()
    return _pose(start, found * deviations, focal), left


def relative_difference(seen: Tensor, photo: Tensor) -> Tensor:
    """(Q,) squared differences of pictures (Q, 3, s, s) from a photo, shrunk to their size, over those of white."""
    target = F.interpolate(photo[None], size=seen.shape[-2:], mode="area")[0].to(seen)
    return (seen - target).square().sum((1, 2, 3)) / (1 - target).square().sum().clamp(min=1e-6)


def _pose(start: Tensor, moved: Tensor, focal: float) -> Cameras:
    """Cameras(1) at (azimuth, elevation) `start`, moved by azimuth, elevation, roll, log distance and shift (6,)."""
    azimuth, elevation = start[0] + moved[0], saturate(start[1] + moved[1], -1.55, 1.55)
    sin_a, cos_a, sin_e, cos_e = azimuth.sin(), azimuth.cos(), elevation.sin(), elevation.cos()
    zero = torch.zeros_like(azimuth)
    right = torch.stack([cos_a, zero, -sin_a])
    up = torch.stack([-sin_a * sin_e, cos_e, -cos_a * sin_e])
    backward = torch.stack([sin_a * cos_e, sin_e, cos_a * cos_e])
    sin_r, cos_r = moved[2].sin(), moved[2].cos()
    right, up = cos_r * right + sin_r * up, cos_r * up - sin_r * right
    distance = moved[3].exp()
    center = distance * (backward + (moved[4] * right + moved[5] * up) / focal)
    matrix = torch.cat([torch.stack([right, up, backward, center], dim=1), moved.new_tensor([[0.0, 0, 0, 1]])])
    return Cameras(matrix[None], moved.new_full((1, 2), focal), moved.new_zeros(1, 2))
