"""One 3D similarity of an object's frame, and the search for the one that best explains all of its views.

Unposed photos leave the frame of the object open: a reconstruction may be right and yet turned, shifted or larger. A
predictor that can be rendered from any camera is put right by moving the cameras: an object turned by R, scaled by s
and shifted by t looks, from a camera, as the object itself does from that camera moved by the inverse.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from ..support.checks import check_count, check_finite, check_range, check_shape
from ..support.errors import InputError
from ..types import Cameras

Render = Callable[[Cameras, int], Tensor]
"""(cameras, size) -> (Q, 3, size, size) colours in [0, 1] on white, or (Q, 4, size, size) with the opacity last.

Must give the same picture for the same camera. `lambda cameras, size: model.predict(scene, cameras, size)`."""


VIEWS_AT_ONCE = 64
"""Views that are asked of a predictor at a time."""


@dataclass(frozen=True, eq=False)
class Similarity:
    """x -> scale · rotation · x + translation, on world points.

    scale: above 0. rotation: (3, 3), determinant 1. translation: (3,) in scene units.
    """

    scale: float
    rotation: Tensor
    translation: Tensor

    def __post_init__(self) -> None:
        check_range("Similarity.scale", self.scale, 1e-6)
        check_shape("Similarity.rotation", self.rotation, (3, 3))
        check_shape("Similarity.translation", self.translation, (3,))
        check_finite("Similarity.translation", self.translation)
        drift = (self.rotation.T @ self.rotation - torch.eye(3).to(self.rotation)).abs().max()
        if not drift < 1e-3 or torch.linalg.det(self.rotation) < 0:
            raise InputError(
                f"Similarity.rotation must be a rotation, got one that is off by {float(drift):.3g}; remove scale, "
                "shear and mirroring"
            )

    @classmethod
    def identity(cls) -> Similarity:
        """Moves nothing."""
        return cls(1.0, torch.eye(3), torch.zeros(3))

    @classmethod
    def from_angles(
        cls,
        yaw_degrees: float = 0.0,
        pitch_degrees: float = 0.0,
        roll_degrees: float = 0.0,
        *,
        scale: float = 1.0,
        translation: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> Similarity:
        """Turned about +Z by roll, then about +X by pitch, then about +Y by yaw."""
        angles = [math.radians(angle) for angle in (yaw_degrees, pitch_degrees, roll_degrees)]
        check_range("scale", scale, 1e-6)
        return _similarity(torch.tensor([*angles, math.log(scale), *translation], dtype=torch.float32))

    def apply(self, points: Tensor) -> Tensor:
        """(..., 3) points of the object -> where they come to lie."""
        return self.scale * points @ self.rotation.to(points).T + self.translation.to(points)

    def move(self, cameras: Cameras) -> Cameras:
        """Cameras that see the object as `cameras` see it once this similarity has been applied to it."""
        rotation, translation = self.rotation.to(cameras.device).float(), self.translation.to(cameras.device).float()
        matrices = cameras.camera_to_world.clone()
        matrices[:, :3, :3] = rotation.T @ matrices[:, :3, :3]
        matrices[:, :3, 3] = (matrices[:, :3, 3] - translation) @ rotation / self.scale
        return Cameras(matrices, cameras.focal, cameras.principal)


@dataclass(frozen=True)
class SimilaritySearch:
    """How far and how finely a similarity is searched for; a search renders every view some 200 times, small.

    yaw_degrees, pitch_degrees: turns tried first, all pairs, at `coarse_size`, as they are and with the shift and scale
    that bring the silhouettes together.
    starts: how many of the best of them are refined at `coarse_size`.
    coarse_size, fine_size: pixels of the renders compared; never more than the truth has.
    coarse_steps, fine_steps: Gauss-Newton steps, eight renders each, at the two sizes.
    largest_angle_degrees, largest_stretch, largest_shift: bounds; the shift in halves of the field of view.
    """

    yaw_degrees: tuple[float, ...] = (-30.0, -20.0, -10.0, 0.0, 10.0, 20.0, 30.0)
    pitch_degrees: tuple[float, ...] = (-20.0, -10.0, 0.0, 10.0, 20.0)
    starts: int = 2
    coarse_size: int = 32
    fine_size: int = 64
    coarse_steps: int = 6
    fine_steps: int = 4
    largest_angle_degrees: float = 45.0
    largest_stretch: float = 1.5
    largest_shift: float = 0.5

    @classmethod
    def quick(cls) -> SimilaritySearch:
        """A fifth of the cost, for predictors that render slowly: fewer turns, half the sizes."""
        return cls(
            yaw_degrees=(-20.0, 0.0, 20.0), pitch_degrees=(-15.0, 0.0, 15.0), starts=3, coarse_size=16, fine_size=32
        )

    def __post_init__(self) -> None:
        for name in ("starts", "coarse_steps", "fine_steps"):
            check_count(f"SimilaritySearch.{name}", getattr(self, name), 1)
        for name in ("coarse_size", "fine_size"):
            check_count(f"SimilaritySearch.{name}", getattr(self, name), 8)
        check_range("SimilaritySearch.largest_angle_degrees", self.largest_angle_degrees, 0.0, 180.0)
        check_range("SimilaritySearch.largest_stretch", self.largest_stretch, 1.0, 10.0)
        check_range("SimilaritySearch.largest_shift", self.largest_shift, 0.0, 10.0)
        for name in ("yaw_degrees", "pitch_degrees"):
            for angle in getattr(self, name):
                check_range(f"SimilaritySearch.{name}", angle, -180.0, 180.0)


class _Comparison:
    """Renders of one object against its truths at one size, for several similarities at once."""

    def __init__(self, render: Render, cameras: Cameras, truth: Tensor, size: int) -> None:
        self.render, self.cameras, self.size = render, cameras, size
        self.truth = F.interpolate(truth, size=(size, size), mode="area")

    def pictures(self, parameters: Tensor) -> Tensor:
        """(P, 7) parameters -> (P, N, 3, size, size) colours."""
        parts = []
        for some in parameters.split(max(1, VIEWS_AT_ONCE // len(self.cameras))):
            moved = Cameras.concatenate([_similarity(one).move(self.cameras) for one in some])
            seen = _colors(self.render(moved, self.size), len(moved), self.size).to(self.truth)
            parts.append(seen.unflatten(0, (len(some), len(self.cameras))))
        return torch.cat(parts)

    def residuals(self, parameters: Tensor) -> Tensor:
        """(P, 7) parameters -> (P, M) all differences of colours."""
        return (self.pictures(parameters) - self.truth).flatten(1)

    def errors(self, parameters: Tensor) -> Tensor:
        """(P, 7) parameters -> (P,) mean squared differences, on the CPU."""
        return self.residuals(parameters).square().mean(1).cpu()

    def starts(self, search: SimilaritySearch, limits: Tensor) -> Tensor:
        """(starts, 7) the best turns of the grid, as they are or brought to the true silhouettes."""
        turns = [(0.0, 0.0), *product(search.yaw_degrees, search.pitch_degrees)]
        plain = torch.tensor([[math.radians(yaw), math.radians(pitch), 0, 0, 0, 0, 0] for yaw, pitch in turns])
        seen = self.pictures(plain)
        moved = torch.stack([turn + self.towards(picture) for turn, picture in zip(plain, seen, strict=True)])
        moved = torch.minimum(torch.maximum(moved, -0.9 * limits), 0.9 * limits)
        errors = torch.cat([(seen - self.truth).flatten(1).square().mean(1).cpu(), self.errors(moved)])
        order = errors.argsort(stable=True)  # of equals the identity is first
        return torch.cat([plain, moved])[order[: search.starts]]

    def towards(self, seen: Tensor) -> Tensor:
        """(7,) scale and shift that bring the silhouettes of (N, 3, S, S) pictures to the true ones, about."""
        cameras = self.cameras.to("cpu")
        ours, theirs = (_moments(picture.cpu()) for picture in (seen, self.truth))
        found = torch.zeros(7)
        if ours is None or theirs is None:
            return found
        # a shift t moves the picture's centre by focal / distance · (t · right, t · up)
        reach = cameras.focal / cameras.centers.norm(dim=1, keepdim=True)
        axes = reach[..., None] * cameras.camera_to_world[:, :3, :2].transpose(1, 2)
        found[3] = (theirs[1] / ours[1]).log().mean()
        offset = theirs[0] - found[3].exp() * ours[0]
        found[4:] = torch.linalg.pinv(axes.reshape(-1, 3), rtol=1e-3) @ offset.reshape(-1)
        return found

    def descend(self, start: Tensor, steps: int, limits: Tensor) -> Tensor:
        """(7,) parameters after some damped Gauss-Newton steps, each within ± `limits` (7,)."""
        # changes that move an object of half the picture's width by about half a pixel
        pixel = 2 / self.size
        shift = pixel / 2 * _half_view(self.cameras)
        probe = torch.tensor([pixel, pixel, pixel, pixel, shift, shift, shift])
        found, residual = start, self.residuals(start[None])[0]
        damping = 1e-2
        slopes = None
        for _ in range(steps):
            if slopes is None:
                # in units of the probes all seven numbers move the pictures about equally
                slopes = self.residuals(found + torch.diag(probe)) - residual
            hessian = slopes @ slopes.T
            ridge = damping * hessian.diagonal() + 1e-6 * hessian.diagonal().max() + 1e-12
            step = torch.linalg.solve(hessian + torch.diag(ridge), slopes @ residual).cpu() * probe
            tried = found - step
            allowed = bool((tried.abs() <= limits).all())
            tried_residual = self.residuals(tried[None])[0] if allowed else residual
            if tried_residual.square().sum() < residual.square().sum():
                found, residual, damping, slopes = tried, tried_residual, damping / 4, None
            else:
                damping *= 8
        return found


@torch.no_grad()
def align_object(
    render: Render,
    cameras: Cameras,
    truth: Tensor,
    *,
    seen: Tensor | None = None,
    search: SimilaritySearch | None = None,
) -> tuple[Similarity, Tensor]:
    """The similarity of the object's frame with which its renders come closest to all of its true views at once.

    Turns are tried on a grid; the best are refined in all seven numbers (yaw, pitch, roll, scale, shift) by damped
    Gauss-Newton steps with differences for derivatives. The error is the mean squared difference of colours. Where
    nothing beats it at the full size, the identity comes back. Deterministic if `render` is.

    Args:
        render: the predictor; see Render.
        cameras: the true cameras of the N views.
        truth: (N, 3, S, S) true views in [0, 1].
        seen: `render(cameras, S)` where it is known already, so that it is not rendered again.

    Returns: the similarity, and what `render` shows with it at the full size.
    """
    check_shape("truth", truth, (len(cameras), 3, "S", "S"), "one square true view a camera")
    if not len(cameras):
        raise InputError("expected at least one view to align, got 0; give some cameras")
    search = search or SimilaritySearch()
    truth = truth.float()
    size = truth.shape[-1]
    coarse, fine = (
        _Comparison(render, cameras, truth, min(side, size)) for side in (search.coarse_size, search.fine_size)
    )
    angle, shift = math.radians(search.largest_angle_degrees), search.largest_shift * _half_view(cameras)
    limits = torch.tensor([angle, angle, angle, math.log(search.largest_stretch), shift, shift, shift])
    starts = coarse.starts(search, limits)
    ends = torch.stack([coarse.descend(start, search.coarse_steps, limits) for start in starts])
    best = fine.descend(ends[fine.errors(ends).argmin()], search.fine_steps, limits)
    similarity = _similarity(best)
    before = render(cameras, size) if seen is None else seen
    after = render(similarity.move(cameras), size)
    errors = [(_colors(picture, len(cameras), size).to(truth) - truth).square().mean() for picture in (before, after)]
    return (similarity, after) if errors[1] < errors[0] * (1 - 1e-6) else (Similarity.identity(), before)


def _moments(pictures: Tensor) -> tuple[Tensor, Tensor] | None:
    """Centre (N, 2), x right and y up in NDC, and root mean square radius (N,) of what is not white; None without."""
    size = pictures.shape[-1]
    weight = (1 - pictures).abs().sum(1).clamp(min=0)
    mass = weight.sum((1, 2))
    if not (mass > 1e-3).all():
        return None
    place = (2 * torch.arange(size) + 1 - size) / size
    share = weight / mass[:, None, None]
    center = torch.stack([share.sum(1) @ place, -(share.sum(2) @ place)], dim=1)
    spread = share.sum(1) @ place.square() + share.sum(2) @ place.square() - center.square().sum(1)
    return center, spread.clamp(min=1e-6).sqrt()


def _half_view(cameras: Cameras) -> float:
    """Half the width of what the cameras see at the world's origin, in scene units; their mean."""
    return float((cameras.centers.norm(dim=1) / cameras.focal.mean(1)).mean())


def _similarity(parameters: Tensor) -> Similarity:
    """(7,) yaw, pitch, roll in radians, log scale, shift -> the similarity."""
    parameters = parameters.double()

    def turn(angle: float, axis: int) -> Tensor:
        """(3, 3) right-handed about a coordinate axis."""
        first, second = (axis + 1) % 3, (axis + 2) % 3
        matrix = torch.eye(3, dtype=torch.float64)
        matrix[first, first] = matrix[second, second] = math.cos(angle)
        matrix[second, first] = math.sin(angle)
        matrix[first, second] = -math.sin(angle)
        return matrix

    yaw, pitch, roll = (turn(float(angle), axis) for angle, axis in zip(parameters[:3], (1, 0, 2), strict=True))
    return Similarity(float(parameters[3].exp()), (yaw @ pitch @ roll).float(), parameters[4:].float())


def _colors(seen: Tensor, count: int, size: int) -> Tensor:
    """The colours of what a Render returned."""
    channels = 4 if isinstance(seen, Tensor) and seen.ndim == 4 and seen.shape[1] == 4 else 3
    check_shape("render(cameras, size)", seen, (count, channels, size, size), "colours, or colours and opacity")
    check_finite("render(cameras, size)", seen)
    return seen[:, :3].float()
