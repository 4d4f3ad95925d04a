"""The photos' own pixels on a mesh: each texel takes its colour from the photos that see it, the rest keep the mesh's.

Visibility by a depth buffer, weights by the angle, the density of pixels and the distance from outlines, levels of the
photos by least squares where two see the same, and two bands: what photos differ by at low frequencies is mixed widely,
all else is the best photo's.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, interpolate, normalize

from ..geometry.rays import project
from ..support.checks import check_count
from ..support.errors import InputError
from ..support.images import unit_range
from ..types import Cameras, GivenViews, OnStep
from .extract import smooth_normals
from .mesh import MeshAsset
from .rasterise import rasterise
from .reading import Surface
from .texture import dilate, texels, unwrap

BUFFER = 1536  # side of the largest depth buffer, in samples; memory and time of looking grow with its square
COARSE = 256  # side of the photos that levels and trust are solved on, in pixels
LOW = 64  # side of the low band, in cells; about the size of what the photos are levelled over
SOLVED = 384  # side of the texture that levels and trust are solved on
BORDER = 0.02  # a photo's weight rises over this share of its side, from outlines and from its border on
SHARP = 3.0  # power of the weights in the band of detail: the best photo's nearly alone
FACES = 2**12  # drawn into a depth buffer at a time
AT_ONCE = 2**21  # texels at a time, times photos
CONTRARY = 0.1  # colours of two photos that scatter more do not show the same
LEAST_COSINE = 0.1  # surfaces seen flatter than this take nothing from the photo


class _Projector:
    """One photo, ready to be asked for the colours of points.

    depth: (S, S), the mesh's. edges: (S, S), how many samples the next outline is away. inner: (S * S,), the nearest
    sample that is no outline's. reach: so many samples from outlines the mesh's own colours take over. trust: by how
    well its outline fits. Found by _levels: level, (2, 3), gain and offset; drift, (3, LOW, LOW), what it lacks at low
    frequencies to what the photos show together; gate, the share that it has beside the mesh's own colours.
    """

    def __init__(self, mesh: MeshAsset, photo: Tensor, camera: Cameras, mask: Tensor | None) -> None:
        self.camera, self.photo, self.gate, self.drift = camera, photo, 1.0, torch.zeros(3, 1, 1)
        self.level = torch.tensor([[1.0], [0.0]]).expand(2, 3)
        samples = min(BUFFER, max(photo.shape[1:]))
        depth = torch.full((samples, samples), torch.inf)
        for group in mesh.faces.split(FACES):  # a rasteriser holds all the fragments that it looks at
            no_uvs, no_texture = torch.zeros(len(mesh.vertices), 2), torch.full((len(group),), -1)
            bare = Surface(mesh.vertices, group, mesh.vertex_colors, no_uvs, (), no_texture)
            seen = rasterise(bare, camera, samples, supersampling=1)
            depth = torch.minimum(depth, seen.depth[0, 0].where(seen.opacity[0, 0] > 0, torch.inf))
        footprint = 2 * depth / (float(camera.focal.min()) * samples)
        bends = torch.zeros_like(depth, dtype=torch.bool)
        for axis in (0, 1):
            second = (depth.roll(1, axis) + depth.roll(-1, axis) - 2 * depth).abs()
            bends |= ~(second < 4 * footprint)  # infinite beside the outline, and NaN outside
        inside = depth < torch.inf
        self.trust, self.reach = 1.0, BORDER * samples
        if mask is not None:
            small = interpolate(unit_range(mask).float()[None, None], (samples, samples), mode="area")[0, 0]
            union = torch.maximum(small, inside.float()).sum()
            fit = float(torch.minimum(small, inside.float()).sum() / union.clamp_min(1e-6))
            self.trust = float(np.clip((fit - 0.7) / 0.2, 0.05, 1.0))
            outline = float((inside ^ inside.roll(1, 0)).sum() + (inside ^ inside.roll(1, 1)).sum())
            between = float((inside ^ (small >= 0.5)).sum())
            self.reach = max(4 * between / max(outline, 1.0), 1.0)  # four times the outlines' mean distance
            bends |= small < 0.95  # half of the background is in a pixel of the outline
            inside &= small >= 0.5
        bends[[0, -1]] = bends[:, [0, -1]] = True
        self.edges = torch.from_numpy(ndimage.distance_transform_edt(~bends.numpy())).float()
        row, column = ndimage.distance_transform_edt(bends.numpy(), return_distances=False, return_indices=True)
        self.inner = torch.from_numpy(row * samples + column).view(-1)
        # one channel at a time: a photo of 12 megapixels is never a float tensor as a whole
        side = min(COARSE, samples)
        parts = [interpolate(unit_range(one).float()[None, None], (side, side), mode="area")[0] for one in photo]
        self.coarse, self.depth = torch.cat(parts), depth

    def look(self, points: Tensor, normals: Tensor, coarse: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(M, 3) points and normals -> levelled colour and drift (M, 3), weight (0: not seen) and certainty (M,)."""
        focal, offset, side = self.camera.focal[0], points - self.camera.centers[0], self.depth.shape[-1]
        place, distance = project(points, self.camera)
        place = -place  # to the right and down
        ahead = -(offset @ self.camera.camera_to_world[0, :3, 2])
        cosine = -(normals * offset).sum(dim=-1) / distance.abs()
        footprint = 2 * distance / (float(focal.min()) * side)
        slope = (1 - cosine**2).clamp_min(0).sqrt() / cosine.clamp_min(0.05)
        column, row = ((place + 1) * side / 2).long().clamp(0, side - 1).unbind(-1)
        inner = self.inner[row * side + column]
        nearest, edge = self.depth.view(-1)[inner], _sampled(self.edges[None], place)[:, 0]
        beside = edge < 1  # pixels of outlines show two things: their neighbours' colours
        center = (torch.stack([inner % side, inner // side], dim=-1) + 0.5) * 2 / side - 1
        place, edge = torch.where(beside[:, None], center, place), self.edges.view(-1)[inner].where(beside, edge)
        rise = (edge / (BORDER * side)).clamp_max(1) ** 2
        visible = ((distance - nearest).abs() <= footprint * (1 + 2 * slope)) & (distance > 0) & (cosine > LEAST_COSINE)
        density = (focal.prod() / ahead.clamp_min(1e-6) ** 2) * cosine
        weight = self.trust * visible * rise * density * (cosine - LEAST_COSINE).clamp_min(0)
        colors = _sampled(self.coarse if coarse else self.photo, place) * self.level[0] + self.level[1]
        return colors, _sampled(self.drift, place), weight, (edge / self.reach).clamp_max(1) ** 2


def project_photos(
    mesh: MeshAsset,
    photos: Sequence[Tensor],
    cameras: Cameras,
    *,
    masks: Sequence[Tensor] | None = None,
    size: int = 2048,
    on_step: OnStep | None = None,
) -> MeshAsset:
    """The mesh with a texture of the photos' pixels; a mesh without UVs is unwrapped, others keep theirs.

    Args:
        mesh: in the cameras' world; its own colours stay where no photo sees it, levelled to the photos'.
        photos: each (3, H, W), uint8, or float in [0, 1]; of any size and number. cameras: one a photo, of the whole.
        masks: (H, W) in [0, 1], 1 on the object, one a photo. With them a photo counts by how well its outline fits.
        size: side of the texture, up to 8192. on_step: told (step, 100, preview), which is the texture so far.

    Raises InputError: photos, cameras and masks are not as many, or nothing of the mesh is seen.
    """
    check_count("size", size, 64, 8192)
    GivenViews(photos, cameras, masks)  # says what is wrong with any of them
    told: list[Tensor] = []

    def report(share: float) -> None:
        if on_step is not None:
            on_step(int(100 * share), 100, (lambda: told[0]) if told else None)

    mesh = _unwrapped(mesh, size, lambda share: report(0.2 * share))
    views = []
    for index, photo in enumerate(photos):
        views.append(_Projector(mesh, photo, cameras[index], None if masks is None else masks[index]))
        report(0.2 + 0.2 * (index + 1) / len(photos))
    level, floor = _levels(mesh, views)
    texture = torch.zeros(3, size * size)
    covered = torch.zeros(size * size, dtype=torch.bool)
    told.append(texture.view(3, size, size))
    for texel, points, normals, own, share in _surface(mesh, size, max(AT_ONCE // len(views), 2**12)):
        texture[:, texel] = _mixed(views, floor, points, normals, own * level[0] + level[1]).T
        covered[texel] = True
        report(0.4 + 0.55 * share)
    dilate(texture.view(3, size, size), covered.view(size, size), lambda share: report(0.95 + 0.05 * share))
    report(1.0)
    return replace(mesh, texture=texture.view(3, size, size).clamp_(0, 1))


def _unwrapped(mesh: MeshAsset, size: int, report: Callable[[float], None]) -> MeshAsset:
    normals = smooth_normals(mesh.vertices, mesh.faces) if mesh.normals is None else mesh.normals
    plain = mesh.vertex_colors.mean(0)[:, None, None].clone()
    if mesh.uvs is not None:
        return replace(mesh, normals=normals, texture=plain if mesh.texture is None else mesh.texture)
    source, faces, uvs = unwrap(mesh.vertices, mesh.faces, size, report)
    vertices, colors, normals = (values[source] for values in (mesh.vertices, mesh.vertex_colors, normals))
    return MeshAsset(vertices, faces, colors, uvs, plain, normals)


def _surface(mesh: MeshAsset, size: int, most: int = AT_ONCE) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, float]]:
    """Texels of a texture of size²: their numbers (M,), points, normals, the mesh's own colours (M, 3), share done."""
    assert mesh.uvs is not None, "see _unwrapped"
    assert mesh.texture is not None, "it goes with UVs"
    assert mesh.normals is not None, "see _unwrapped"
    screen = torch.stack([mesh.uvs[:, 0], 1 - mesh.uvs[:, 1]], dim=-1).double() * size
    for face, texel, weights in texels(screen[mesh.faces], size, most):
        corners, shares = mesh.faces[face], weights.float()[..., None]
        attributes = (mesh.vertices, mesh.normals, mesh.vertex_colors, mesh.uvs)
        points, normals, own, uvs = ((values[corners] * shares).sum(1) for values in attributes)
        if mesh.texture.shape[-1] > 1:
            own = _sampled(mesh.texture, torch.stack([2 * uvs[:, 0] - 1, 1 - 2 * uvs[:, 1]], dim=-1))
        yield texel, points, normalize(normals, dim=-1), own, (int(face[-1]) + 1) / len(mesh.faces)


def _sampled(picture: Tensor, place: Tensor, mode: str = "bilinear") -> Tensor:
    """(C, H, W) at (M, 2) places, right and down in [-1, 1] -> (M, C) float32; uint8 becomes [0, 1]."""
    if picture.dtype != torch.uint8:
        return grid_sample(picture[None], place[None, None], mode, "border", align_corners=False)[0, :, 0].T
    height, width = picture.shape[1:]
    x, y = ((place + 1) * place.new_tensor([width, height]) / 2 - 0.5).unbind(-1)
    found = torch.zeros(len(place), len(picture))
    for column in (x.floor(), x.floor() + 1):  # see _Projector
        for row in (y.floor(), y.floor() + 1):
            corner = picture[:, row.long().clamp(0, height - 1), column.long().clamp(0, width - 1)]
            found += corner.T.float() * ((1 - (x - column).abs()) * (1 - (y - row).abs()))[:, None]
    return found / 255


def _levels(mesh: MeshAsset, views: Sequence[_Projector]) -> tuple[Tensor, float]:
    """Finds level, gate and drift of each photo -> the mesh's own colours' gain and offset, (2, 3); their usual error.

    Photos are levelled to each other over texels that two of them see, the mesh's own colours to the photos'.
    """
    rows = [values for _, *values, _ in _surface(mesh, SOLVED)]
    points, normals, own = (torch.cat(values) for values in zip(*rows, strict=True))
    looks = [view.look(points, normals, coarse=True) for view in views]
    colors, weight = torch.stack([look[0] for look in looks]), torch.stack([look[2] for look in looks])
    if not bool((weight > 0).any()):
        raise InputError("the photos must see the mesh, but none of them does; are mesh and cameras in one frame?")
    count = len(views)
    normal = torch.zeros(3, 2 * count, 2 * count, dtype=torch.float64)
    for a, b in combinations(range(count), 2):
        row = torch.stack([colors[a], torch.ones_like(own), -colors[b], -torch.ones_like(own)]).double()
        same = torch.minimum(weight[a], weight[b]) * ((colors[a] - colors[b]).abs().amax(-1) < 2 * CONTRARY)
        place = torch.tensor([2 * a, 2 * a + 1, 2 * b, 2 * b + 1])
        normal[:, place[:, None], place] += torch.einsum("imc,jmc,m->cij", row, row, (same / weight.max()).double())
    levels = _solved(normal, torch.zeros_like(normal[:, 0]), 0.02 * float(weight.gt(0).sum()) / count)
    colors = colors * levels[:, :1] + levels[:, 1:]
    mean = _mean(colors, weight)
    seen = (weight.sum(0) > 0) & (_mean((colors - mean).square(), weight).mean(-1).sqrt() < CONTRARY)
    given = torch.stack([own[seen], torch.ones_like(own[seen])]).double()
    right = torch.einsum("imc,mc->ci", given, mean[seen].double())
    level = _solved(torch.einsum("imc,jmc->cij", given, given), right, 0.05 * max(int(seen.sum()), 1))[0]
    own = own * level[0] + level[1]
    error = (own - mean)[seen].abs().mean(-1)
    fits = [len(view.depth) / view.reach for view in views]  # whose outline is much worse than the best's is elsewhere
    gates = [min(2 * fit / max(fits), 1.0) * gate for fit, gate in zip(fits, _gates(colors, weight, own), strict=True)]
    gated = weight * torch.tensor(gates)[:, None]
    level = torch.tensor([[1.0], [0.0]]).lerp(level, gated.sum() / weight.sum())
    mean, weight = _mean(colors, gated), gated
    for index, view in enumerate(views):
        view.level, view.gate, view.trust = levels[index], gates[index], view.trust * gates[index]
        column, row = ((1 - project(points, view.camera)[0]) * LOW / 2).long().clamp(0, LOW - 1).unbind(-1)
        lacks = torch.cat([mean - colors[index], torch.ones_like(own[:, :1])], dim=-1) * weight[index, :, None]
        sums = torch.zeros(LOW * LOW, 4).index_add_(0, row * LOW + column, lacks).T.reshape(1, 4, LOW, LOW)
        for _ in range(3):
            sums = avg_pool2d(sums, 3, stride=1, padding=1)
        *drift, total = sums[0]
        view.drift = torch.stack(drift) / (total + 1e-3 * total.max()).clamp_min(1e-12)
    return level, max(float(error.median()) if len(error) else 0.0, 0.02)


def _solved(normal: Tensor, right: Tensor, keep: float) -> Tensor:
    """(3, 2V, 2V) and (3, 2V), normal equations -> (V, 2, 3), gains and offsets, near 1 and 0 where nothing tells."""
    unchanged, stiff = torch.tensor([[1.0, 0.0], [keep, 4 * keep]], dtype=torch.float64).repeat(1, len(normal[0]) // 2)
    solved = torch.linalg.solve(normal + torch.diag(stiff), right + stiff * unchanged)
    gain, offset = solved.view(3, -1, 2).permute(2, 1, 0).float()
    # exposures differ by so much; what differs more is another colour
    return torch.stack([gain.clamp(0.7, 1.4), offset.clamp(-0.08, 0.08)], dim=1)


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    """(V, M, 3) with weights (V, M) -> (M, 3)."""
    return (values * weight[..., None]).sum(0) / weight.sum(0).clamp_min(1e-12)[:, None]


def _gates(colors: Tensor, weight: Tensor, own: Tensor) -> list[float]:
    """(V, M, 3) colours by V photos with weights (V, M), own (M, 3) -> how much each photo is believed beside `own`.

    If a = c - own is what a photo would change, and b what another would where both see, then b tells of the truth:
    mean(a·b) is the mesh's squared error there, and mean(a·(a - b)) the photo's. From half of the former on a photo
    counts less, and what errs as much as the mesh gains nothing.
    """
    change, gates = colors - own, []
    for index in range(len(colors)):
        both = torch.minimum(weight, weight[index])[..., None]
        both[index] = 0
        gained, lost = (float((both * change[index] * other).sum()) for other in (change, change[index] - change))
        gates.append(min(max(2 - 2 * lost / max(gained, 1e-12), 0.0), 1.0) if both.any() else 1.0)
    return gates


def _mixed(views: Sequence[_Projector], floor: float, points: Tensor, normals: Tensor, own: Tensor) -> Tensor:
    """(M, 3) colours: both bands of the photos, and the mesh's own where none sees, or where they contradict it all."""
    shown, drifts = torch.zeros(2, len(points), 3)
    total, sharp, sure = torch.zeros(3, len(points), 1)
    looks = [view.look(points, normals) for view in views]
    most = torch.stack([weight for _, _, weight, _ in looks]).amax(0).clamp_min(1e-12)
    for (colors, drift, weight, certain), view in zip(looks, views, strict=True):
        mine, best = weight[:, None], (weight / most)[:, None] ** SHARP
        shown += best * (colors + drift)
        drifts += mine * drift**2
        total += mine
        sharp += best
        sure += best * view.gate * certain[:, None]  # beside an outline the mesh's own colour takes over
    change = shown / sharp.clamp_min(1e-12) - own
    spread = (drifts / total.clamp_min(1e-12)).mean(-1, keepdim=True).sqrt()
    against = change.abs().mean(-1, keepdim=True)
    trusted = (3 - torch.minimum(spread, against) / floor).clamp(0, 1) * sure / sharp.clamp_min(1e-12)
    mixed: Tensor = own + trusted * change
    return mixed
