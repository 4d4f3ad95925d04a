"""One similarity that lays an object onto pictures of it, by renders; so any mesh comes into the photos' frame."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from ..geometry.cameras import Similarity, reference_camera
from ..support.checks import check_type
from ..support.errors import InputError
from ..types import Cameras, InputViews, PhotoCameras
from .mesh import MeshAsset
from .rasterise import rasterise
from .reading import Surface

# (cameras, size) -> (Q, 3, size, size) colours in [0, 1] on white, or (Q, 4, size, size) with the opacity last;
# always the same picture for the same camera
Render = Callable[[Cameras, int], Tensor]
Doubts = Callable[[Tensor], Tensor]  # (P, 7) parameters of similarities -> (P, K), each a difference of all colours

VIEWS_AT_ONCE = 64  # that are asked of a predictor


@dataclass(frozen=True)
class SimilaritySearch:
    """How finely a similarity of the object's frame is searched for: every view is rendered some 200 times, small."""

    yaw_degrees: tuple[float, ...] = (-20.0, 0.0, 20.0)  # turns tried first, all pairs with pitches, at coarse_size
    pitch_degrees: tuple[float, ...] = (-15.0, 0.0, 15.0)
    starts: int = 3  # how many of the best of them are refined
    coarse_size: int = 16  # pixels of the renders compared; never more than the truth has
    fine_size: int = 32
    coarse_steps: int = 6  # Gauss-Newton steps, eight renders each
    fine_steps: int = 4
    # most yaw, pitch and roll in degrees, stretch (and its inverse), shift along each axis in halves of a picture's
    # side; without bounds a bad prediction is best shrunk to nothing
    limits: tuple[float, float, float, float, float] = (45.0, 45.0, 45.0, 1.5, 0.5)


class _Comparison:
    """Renders of one object against its truths at one size, by (7,) parameters of similarities (see Similarity)."""

    def __init__(
        self,
        render: Render,
        cameras: Cameras,
        truth: Tensor,
        size: int,
        search: SimilaritySearch,
        doubts: Doubts | None,
    ) -> None:
        self.render, self.cameras, self.size = render, cameras, size
        self.truth = F.interpolate(truth, size=(size, size), mode="area")
        # half the width of what the cameras see at the world's origin, in scene units
        self.half_view = float((cameras.centers.norm(dim=1) / cameras.focal.mean(1)).mean())
        *angles, stretch, shift = search.limits
        shifts = [shift * self.half_view] * 3
        self.limits = torch.tensor([*map(math.radians, angles), math.log(stretch), *shifts])
        self.doubts = doubts

    def pictures(self, parameters: Tensor) -> Tensor:
        """(P, 7) parameters -> (P, N, 3, size, size) colours."""
        parts = []
        for some in parameters.split(max(1, VIEWS_AT_ONCE // len(self.cameras))):
            moved = Cameras.concatenate([Similarity.from_parameters(one).move(self.cameras) for one in some])
            seen = self.render(moved, self.size)[:, : self.truth.shape[1]].to(self.truth)
            parts.append(seen.unflatten(0, (len(some), len(self.cameras))))
        return torch.cat(parts)

    def residuals(self, parameters: Tensor) -> Tensor:
        """(P, 7) parameters -> (P, M) all differences of colours, and the doubts, each as if of all of them."""
        apart = (self.pictures(parameters) - self.truth).flatten(1)
        if self.doubts is not None:
            apart = torch.cat([apart, self.doubts(parameters) * len(apart.T) ** 0.5], dim=1)
        return apart

    def errors(self, parameters: Tensor) -> Tensor:
        return self.residuals(parameters).square().mean(1).cpu()

    def starts(self, search: SimilaritySearch) -> Tensor:
        """(starts, 7) the best turns of the grid, as they are or brought to the true silhouettes."""
        turns = [(0.0, 0.0), *product(search.yaw_degrees, search.pitch_degrees)]
        plain = torch.tensor([[math.radians(yaw), math.radians(pitch), 0, 0, 0, 0, 0] for yaw, pitch in turns])
        seen = self.pictures(plain)
        moved = torch.stack([turn + self.towards(picture) for turn, picture in zip(plain, seen, strict=True)])
        moved = torch.minimum(torch.maximum(moved, -0.9 * self.limits), 0.9 * self.limits)
        errors = torch.cat([(seen - self.truth).flatten(1).square().mean(1).cpu(), self.errors(moved)])
        order = errors.argsort(stable=True)  # of equals the identity is first
        return torch.cat([plain, moved])[order[: search.starts]]

    def towards(self, seen: Tensor) -> Tensor:
        """(7,) scale and shift that bring the silhouettes of (N, 3, S, S) pictures to the true ones, about."""
        cameras, found = self.cameras.to("cpu"), torch.zeros(7)
        ours, theirs = (_outline(picture.cpu()) for picture in (seen, self.truth))
        if ours is None or theirs is None:
            return found
        # a shift t moves the picture's centre by focal / distance · (t · right, t · up)
        reach = cameras.focal / cameras.centers.norm(dim=1, keepdim=True)
        axes = reach[..., None] * cameras.camera_to_world[:, :3, :2].transpose(1, 2)
        found[3] = (theirs[1] / ours[1]).log().mean()
        offset = theirs[0] - found[3].exp() * ours[0]
        found[4:] = torch.linalg.pinv(axes.reshape(-1, 3), rtol=1e-3) @ offset.reshape(-1)
        return found

    def descend(self, start: Tensor, steps: int) -> Tensor:
        """(7,) parameters after some damped Gauss-Newton steps, each within the limits."""
        # changes that move an object of half the picture's width by about half a pixel
        pixel = 2 / self.size
        probe = torch.tensor([pixel] * 4 + [pixel / 2 * self.half_view] * 3)
        found, residual = start, self.residuals(start[None])[0]
        damping, slopes = 1e-2, None
        for _ in range(steps):
            if slopes is None:  # in units of the probes all seven numbers move the pictures about equally
                slopes = self.residuals(found + torch.diag(probe)) - residual
            hessian = slopes @ slopes.T
            ridge = damping * hessian.diagonal() + 1e-6 * hessian.diagonal().max() + 1e-12
            tried = found - torch.linalg.solve(hessian + torch.diag(ridge), slopes @ residual).cpu() * probe
            tried_residual = self.residuals(tried[None])[0] if (tried.abs() <= self.limits).all() else residual
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
    seen: Tensor,
    search: SimilaritySearch,
    doubts: Doubts | None = None,
) -> tuple[Similarity, Tensor]:
    """The similarity of the object's frame with which its renders come closest to all true views, and these renders.

    Turns are tried on a grid; the best are refined in all seven numbers (yaw, pitch, roll, scale, shift) by damped
    Gauss-Newton steps with differences for derivatives. The error is the mean squared difference of colours. Where
    nothing beats it at the full size, the identity and `seen`, `render(cameras, S)`, come back.
    """
    truth, size = truth.float(), truth.shape[-1]
    sides = (min(side, size) for side in (search.coarse_size, search.fine_size))
    coarse, fine = (_Comparison(render, cameras, truth, side, search, doubts) for side in sides)
    ends = torch.stack([coarse.descend(start, search.coarse_steps) for start in coarse.starts(search)])
    similarity = Similarity.from_parameters(fine.descend(ends[fine.errors(ends).argmin()], search.fine_steps))
    after = render(similarity.move(cameras), size)
    errors = [(picture[:, : truth.shape[1]].to(truth) - truth).square().mean() for picture in (seen, after)]
    return (similarity, after) if errors[1] < errors[0] * (1 - 1e-6) else (Similarity.from_angles(), seen)


def _outline(pictures: Tensor) -> tuple[Tensor, Tensor] | None:
    """Centre (N, 2), x right and y up in NDC, and root mean square radius (N,) of what is not white; None without."""
    center, radius = moments(1 - pictures)
    found = bool(((1 - pictures).abs().sum((1, 2, 3)) > 1e-3).all())
    return (center * torch.tensor([1.0, -1.0]), radius) if found else None


def moments(picture: Tensor) -> tuple[Tensor, Tensor]:
    """Centre (N, 2) and root mean square radius (N,) of the distance from the background; 0 and 1 for nothing."""
    weight = picture.abs().sum(1).flatten(1)
    mass = weight.sum(1, keepdim=True)
    share = torch.where(mass > 1e-3, weight / mass.clamp(min=1e-3), 0.0)
    place = places(picture).flatten(0, 1)[:, :2]
    center = share @ place
    radius = torch.einsum("np,npi->n", share, (place - center[:, None]).square()).sqrt()
    return center, torch.where(radius > 1e-3, radius, 1.0)


def places(pictures: Tensor) -> Tensor:
    """(H, W, 3) x, y, 1 of pixel centres."""
    height, width = pictures.shape[-2:]
    sides = (2 * torch.arange(side, device=pictures.device) + 1 - side for side in (height, width))
    grid_y, grid_x = torch.meshgrid(*(side / max(height, width) for side in sides), indexing="ij")
    return torch.stack([grid_x, grid_y, torch.ones_like(grid_x)], dim=-1)


MESHES = SimilaritySearch(
    yaw_degrees=tuple(30.0 * turn for turn in range(12)), pitch_degrees=(0.0,), coarse_size=32, fine_size=96,
    coarse_steps=12, fine_steps=16, limits=(720.0, 60.0, 60.0, 4.0, 1.0),
)  # fmt: skip
"""How a mesh's place is searched for: all round, whatever its size."""
TILT, DEPTH, DOUBT = 10.0, 0.005, 0.01
"""A tilt by so many degrees, or with one photo, which hardly shows it, a shift towards its camera by this share of its
distance, counts as a difference of all pixels by the third."""
SAMPLES = {32: 6, 96: 3}  # along a pixel, of the sizes above


@dataclass(frozen=True, eq=False)
class RegisteredMesh:
    """A mesh in photo 1's frame.

    similarity: what brought it there. overlap: intersection over union of its silhouettes and the photos', in [0, 1].
    """

    mesh: MeshAsset
    similarity: Similarity
    overlap: float

    def report(self) -> str:
        """What was done to the mesh, and how well it fits."""
        turn = math.degrees(math.atan2(*self.similarity.rotation[::2, 2].tolist()))
        fit = f"silhouettes overlap by {100 * self.overlap:.0f} %" + ("; look at it" if self.overlap < 0.9 else "")
        return f"turned by {turn:.1f} degrees, {self.similarity.scale:.3f} times as large; {fit}"


@torch.no_grad()
def register_mesh(mesh: MeshAsset, views: InputViews, cameras: PhotoCameras | None = None) -> RegisteredMesh:
    """A mesh of any origin, size and yaw, +Y up, laid into photo 1's frame by the photos' silhouettes and colours.

    With one photo its box's middle is thought to be as far from it as the frame's origin; several show its depth.

    Args:
        mesh: its shape may differ from the photos' object; without colours of its own its silhouettes tell.
        views: the photos. cameras: of their squares; only accepted ones count. Left out: the views' own, or photo 1's.
    """
    check_type("mesh", mesh, MeshAsset)
    check_type("views", views, InputViews, "photos go through prepare_views")
    if cameras is None:
        alone = reference_camera(focal=float(views.focal[0].mean()))
        cameras = views.cameras or PhotoCameras(alone, torch.tensor([True]), torch.ones(1, dtype=torch.float32))
    chosen = cameras.accepted.nonzero()[:, 0]
    if len(cameras) > len(views) or not len(chosen):
        raise InputError(f"cameras must be one for each of {len(views)} photos, one accepted, got {len(cameras)}")
    seen_from = cameras.cameras[chosen].to("cpu")
    truth = torch.cat([views.rgb[chosen], 1 - views.mask[chosen]], dim=1).cpu().float()
    distance, uvs = float(seen_from.centers[0].norm()), torch.zeros(len(mesh.vertices), 2, dtype=torch.float32)
    used = mesh.faces.unique()
    low, high = mesh.vertices[used].aminmax(dim=0)
    middle, size = (low + high) / 2, 1.8 * distance / float(seen_from.focal[0].mean() * (high - low).norm())
    textures: tuple[Tensor, ...] = ()
    colors = mesh.vertex_colors
    if mesh.texture is not None and mesh.uvs is not None:
        textures, colors, uvs = (mesh.texture,), torch.ones_like(colors), mesh.uvs
    painted = torch.full((len(mesh.faces),), len(textures) - 1)
    shown = Surface((mesh.vertices - middle) * size, mesh.faces, colors, uvs, textures, painted)  # about the origin

    def render(where: Cameras, side: int) -> Tensor:
        seen = rasterise(shown, where, side, supersampling=SAMPLES.get(side, 1))
        return torch.cat([seen.rgb, 1 - seen.opacity], dim=1)

    def doubts(parameters: Tensor) -> Tensor:
        boxes = [Similarity.from_parameters(each).apply(shown.vertices[used]).aminmax(dim=0) for each in parameters]
        depths = torch.stack([low + high for low, high in boxes]) @ seen_from.centers[0] / (2 * DEPTH * distance**2)
        tilts = parameters[:, 1:3] / math.radians(TILT)
        return DOUBT * torch.cat([tilts, depths[:, None]] if len(chosen) == 1 else [tilts], dim=1)

    found, seen = align_object(render, seen_from, truth, torch.ones_like(truth), MESHES, doubts)
    ours, theirs = 1 - seen[:, 3], 1 - truth[:, 3]
    overlap = float(torch.minimum(ours, theirs).sum() / torch.maximum(ours, theirs).sum().clamp_min(1e-6))
    scale = found.scale * size
    similarity = Similarity(scale, found.rotation, found.translation - scale * found.rotation @ middle)
    return RegisteredMesh(replace(mesh, vertices=similarity.apply(mesh.vertices), normals=None), similarity, overlap)
