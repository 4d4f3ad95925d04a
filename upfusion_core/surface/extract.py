"""A radiance field becomes a mesh: where its surface is, triangles, fewer of them, colours or a texture."""

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate

import numpy as np
import torch
import trimesh
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from skimage import measure
from torch import Tensor
from torch.nn.functional import max_pool2d, max_pool3d, pad

from ..field.radiance import RadianceField
from ..field.rendering import intersect_box, stratified_distances
from ..geometry import camera_rays, look_at, sphere_directions
from ..support.checks import check_count, check_range
from ..support.devices import Chunk
from ..support.errors import FieldError
from ..types import OnProgress, OnStep, Rays
from .mesh import MeshAsset
from .texture import SurfaceColor, bake, unwrap

SEARCH_RESOLUTION = 96  # cells along the field's box when looking for the object's own box
PINHOLE = 0.025  # openings narrower than this share of the object's longest side lead nowhere: see `clear`
FULL_SHARE = 0.95  # a field that is dense on more than this share of its box's sides fills the box
NOTHING_ABOVE = "no density above {:.4g} per scene unit was found: give a lower threshold, or leave it to be chosen"
SLAB = 24  # layers of cells that are turned into triangles at a time
AHEAD = 32  # times as many are sent to a GPU at once
POINTS, CPU_POINTS = 2**17, 2**14  # asked for at a time: a CPU keeps fewer in caches, and Cancel waits for a call

# parts of the work, in order, and about how long each takes; the last two with a texture only
_STAGES = {"search": 4, "level": 4, "density": 40, "triangles": 10, "faces": 6, "colors": 6, "atlas": 30, "texture": 40}
# aggression of the collapses and share of the budget, tried in turn until the decimated mesh is closed
_ATTEMPTS = ((7, 1.0), (5, 1.0), (7, 0.97), (6, 0.94), (4, 1.0), (7, 0.9), (5, 0.85))

COARSE = 128  # samples along the longest side of a box at which all of it is looked through; finer near the surface
CLEARED = 256  # samples along it at which floaters and hollows are looked for
SPREAD = 2.0  # heights beyond ±2, e² times the level and more, say nothing about where the surface is
LEAST = 1e-3  # heights keep this distance from 0, so that no vertex falls on a sample
LEVEL_RESOLUTION = 64  # samples along the object's box in which light is followed
SOLID_SHARE = 0.1  # matter is solid if this share of the longest side of it stops half of the light
CRISP_SHARE = 0.01  # that share where silhouettes have a say
CAMERAS = 8  # that look at silhouettes from all round, above and below
PICTURE_SIZE = 56  # pixels a side
RAY_SAMPLES = 96  # along each ray, within the object's box
TOLERANCE = 0.0015  # levels whose agreement is this close to the best one's count as equally good


@torch.no_grad()
def extract_mesh(
    field: RadianceField,
    resolution: int = 256,
    threshold: float | None = None,
    *,
    texture_size: int | None = None,
    faces: int | None = None,
    keep: float = 0.05,
    chunk: int | None = None,
    on_step: OnStep | None = None,
) -> MeshAsset:
    """The surface of a field, anything with `density`, `color` and `aabb`; see `RadianceField.extract_mesh`.

    It is closed, its faces counter-clockwise from outside, coloured by looks along its normals. Floaters are removed;
    hollows that nobody can see from outside, and pinholes into them, are filled. With a texture, vertices are doubled
    where the atlas is cut. `chunk` points are asked for at a time, fewer where memory does not suffice.
    """
    check_count("resolution", resolution, 8, 1024)
    check_range("keep", keep, 0.0, 1.0)
    if threshold is not None:
        check_range("threshold", threshold, 1e-6)
    if texture_size is not None:
        check_count("texture_size", texture_size, 64, 8192)
    if faces is not None:
        check_count("faces", faces, 16)
    stage = _stages(on_step, texture_size is not None)
    points = Chunk(chunk or (CPU_POINTS if field.aabb.device.type == "cpu" else POINTS), "point")
    low, high = _object_box(field, threshold, keep, points, stage("search"))
    extent, level = high - low, threshold
    if level is None:
        spacing = float(extent.max()) / (LEVEL_RESOLUTION - 1)
        shape = ((extent / spacing).ceil().long() + 1).tolist()
        volume = sample_density(field, low, spacing, shape, points, stage("level"))
        level = agreeing_level(field, low, high, surface_level(volume, spacing, CRISP_SHARE), points)
    spacing = float(extent.max()) / (resolution - 1)
    volume = sample_heights(field, low, high, spacing, level, points, stage("density"))
    if not (volume > 0).any():
        raise FieldError(NOTHING_ABOVE.format(level))
    clear(volume, keep, PINHOLE)
    vertices, triangles = march(volume, report=stage("triangles"))
    del volume
    vertices, triangles = large_pieces(low.cpu() + vertices * spacing, triangles, keep)
    stage("faces")(0.0)
    if faces is not None and len(triangles) > faces:
        vertices, triangles = decimate(vertices, triangles, faces)
    normals = smooth_normals(vertices, triangles)
    look = SurfaceColor(field, max(spacing, float(extent.max()) / 256), points, oblique=texture_size is not None)
    colors = look.colors(vertices, normals, stage("colors"))
    uvs = texture = None
    if texture_size is not None:
        source, triangles, uvs = unwrap(vertices, triangles, texture_size, stage("atlas"))
        vertices, normals, colors = (values[source] for values in (vertices, normals, colors))
        texture = bake(look, vertices, normals, triangles, uvs, texture_size, stage("texture"))
    stage("texture" if texture_size is not None else "colors")(1.0)
    return MeshAsset(vertices, triangles, colors, uvs, texture, normals)


def _stages(on_step: OnStep | None, textured: bool) -> Callable[[str], OnProgress]:
    """What each stage is to call with the share of it that is done: steps from 0 to 100 that never go back."""
    weights = dict(list(_STAGES.items())[: None if textured else -2])
    before = dict(zip(weights, accumulate(weights.values(), initial=0), strict=False))

    def tell(name: str, share: float) -> None:
        if on_step is not None:
            step = int(100 * (before[name] + share * weights[name]) / sum(weights.values()))
            on_step(min(step, 100), 100, None)

    tell("search", 0.0)
    return lambda name: lambda share: tell(name, share)


def _object_box(
    field: RadianceField, threshold: float | None, keep: float, chunk: Chunk, report: OnProgress
) -> tuple[Tensor, Tensor]:
    """Lowest and highest corner (3,) of what is dense, with a margin, within the field's box."""
    low, high = field.aabb
    spacing = float((high - low).max()) / SEARCH_RESOLUTION
    shape = ((high - low) / spacing).ceil().long().tolist()
    volume = sample_density(field, low + spacing / 2, spacing, shape, chunk, report)
    level = threshold if threshold is not None else surface_level(volume, spacing)
    sides = [(volume > level).select(axis, end).reshape(-1) for axis in range(3) for end in (0, -1)]
    if torch.cat(sides).float().mean() > FULL_SHARE:
        problem = f"the field fills its box: almost all of the box's sides are denser than {level:.4g} per scene unit"
        advice = "fit it longer, with masks or photos on white, or give a higher threshold"
        raise FieldError(f"{problem}, so no surface parts inside from outside; {advice}")
    # thin parts may pass between the samples of the search: accept less than the level, and leave a margin
    dense = torch.from_numpy(large_parts((volume > level / 4).numpy(), keep)).nonzero()
    if not len(dense):
        raise FieldError(NOTHING_ABOVE.format(level))
    least, most = (low + (corner.to(low) + 0.5) * spacing for corner in (dense.amin(0), dense.amax(0)))
    margin = 2.5 * spacing
    return torch.maximum(least - margin, low), torch.minimum(most + margin, high)


def march(heights: Tensor, *, slab: int = SLAB, report: OnProgress = lambda share: None) -> tuple[Tensor, Tensor]:
    """The surface where heights (X, Y, Z), never 0, change sign -> vertices (P, 3) in samples, faces (F, 3) outward.

    It is closed where the volume ends. A vertex in the layer of samples that two slabs share belongs to the same edge
    of the lattice in both, by which its two copies are made one.
    """
    depth, height, width = heights.shape
    cells = depth + 1  # with one layer of nothing before and behind
    vertices, faces, edges, count = [], [], [], 0
    for first in range(0, cells, slab):
        end = min(first + slab, cells)
        block = np.full((end - first + 1, height + 2, width + 2), -SPREAD, np.float32)  # nothing round the samples
        begin, stop = max(first - 1, 0), min(end, depth)
        block[begin - first + 1 : stop - first + 1, 1:-1, 1:-1] = heights[begin:stop].numpy()
        if block.max() > 0 > block.min():
            points, triangles, _, _ = measure.marching_cubes(block, 0.0, gradient_direction="ascent")
            below = np.floor(points)
            x, y, z = (2 * below + (points != below)).astype(np.int64).T  # odd between samples, even on one
            edges.append(((x + 2 * first) * 2**20 + y) * 2**20 + z)
            vertices.append(points + np.array([first - 1, -1, -1], np.float32))
            faces.append(triangles + count)
            count += len(points)
        report(end / cells)
    _, firsts, copies = np.unique(np.concatenate(edges), return_index=True, return_inverse=True)
    kept = np.sort(firsts)
    own = np.searchsorted(kept, firsts)[copies]
    return torch.from_numpy(np.concatenate(vertices)[kept]), torch.from_numpy(own[np.concatenate(faces)])


def large_pieces(vertices: Tensor, faces: Tensor, keep: float) -> tuple[Tensor, Tensor]:
    """The mesh without pieces of less than `keep` of the largest one's volume, and those that face inwards: hollows."""
    links = torch.cat([faces[:, :2], faces[:, 1:]]).numpy()
    graph = coo_matrix((np.ones(len(links), np.int8), links.T), shape=(len(vertices), len(vertices)))
    count, piece = connected_components(graph, directed=False)
    corners = vertices.double()[faces]
    signed = (corners[:, 0] * torch.linalg.cross(corners[:, 1], corners[:, 2])).sum(1)
    of_face = torch.from_numpy(piece).long()[faces[:, 0]]
    volumes = torch.zeros(count, dtype=torch.float64).index_add_(0, of_face, signed)
    stays = volumes >= max(keep, 1e-9) * volumes.max()
    faces = faces[stays[of_face]]
    used, faces = faces.unique(return_inverse=True)
    return vertices[used], faces


def decimate(vertices: Tensor, faces: Tensor, budget: int) -> tuple[Tensor, Tensor]:
    """Vertices (P, 3) and faces (F, 3) -> those of a mesh with at most `budget` faces, still closed if it can be."""
    solid = trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False)
    closed = solid.is_watertight and solid.is_winding_consistent
    tried = [solid]
    for aggression, share in _ATTEMPTS:
        small = solid.simplify_quadric_decimation(face_count=max(4, int(budget * share)), aggression=aggression)
        small = trimesh.Trimesh(small.vertices, small.faces, process=False)
        sound = not closed or (small.is_watertight and small.is_winding_consistent and small.volume > 0)
        if len(small.faces) <= budget and sound:
            break
        tried += [small] if len(small.faces) else []
    else:
        small = next((one for one in tried if len(one.faces) <= budget), min(tried, key=lambda one: len(one.faces)))
        if len(small.faces) > budget:
            message = f"the mesh could not be brought to {budget} faces; it has {len(small.faces)}"
        else:
            message = f"with {len(small.faces)} faces the mesh is no longer closed everywhere; allow it more"
        warnings.warn(message, stacklevel=2)
    return torch.tensor(small.vertices, dtype=torch.float32), torch.tensor(small.faces, dtype=torch.int64)


def smooth_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """(P, 3) unit normals: the mean of the faces round each vertex, weighted by area; +Y where they cancel out."""
    corners = vertices[faces]
    across = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    across = across / across.norm(dim=-1).amax().clamp(min=1e-30)  # squares of tiny areas would vanish in float32
    normals = torch.zeros_like(vertices)
    normals.index_add_(0, faces.T.reshape(-1), across.repeat(3, 1))
    length = normals.norm(dim=-1, keepdim=True)
    return torch.where(length > 1e-12, normals / length.clamp(min=1e-12), normals.new_tensor([0.0, 1.0, 0.0]))


def sample_density(
    field: RadianceField, low: Tensor, spacing: float, shape: Sequence[int], chunk: Chunk, report: OnProgress
) -> Tensor:
    """(X, Y, Z) density on the CPU at low + spacing·(i, j, k), asked for in layers of x."""
    layers, at_once = [], max(1, AHEAD * chunk.size // math.prod(shape[1:]))
    for first in range(0, shape[0], at_once):
        wanted = torch.ones(min(at_once, shape[0] - first), *shape[1:], dtype=torch.bool)
        looked = partial(report, first / shape[0])
        layers.append(_densities(field, low, spacing, first, wanted, chunk, looked).view(wanted.shape))
    return torch.cat(layers)


def sample_heights(
    field: RadianceField, low: Tensor, high: Tensor, spacing: float, level: float, chunk: Chunk, report: OnProgress
) -> Tensor:
    """Heights, see `height_of`, at low + spacing·(i, j, k) up to `high` (3,): (X, Y, Z) float16 on the CPU."""
    # every n-th sample first: a cell that, with its neighbours, is far below or above the level gets no further ones
    shape = tuple((((high - low) / spacing).ceil().long() + 1).tolist())
    step = max(1, max(shape) // COARSE)
    begun = 0.2 if step > 1 else 0.0
    active, inside = torch.ones(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    if step > 1:
        coarse = [-(-size // step) + 1 for size in shape]
        corners = sample_density(field, low, spacing * step, coarse, chunk, lambda share: None)
        around = pad(corners[None], (1,) * 6, mode="replicate")
        most, least = max_pool3d(around, 4, stride=1)[0], -max_pool3d(-around, 4, stride=1)[0]
        active, inside = (most > level / 4) & (least < level * 4), least >= level * 4
    report(begun)
    heights = torch.empty(shape, dtype=torch.float16)
    first, count = 0, 0
    for index in range(shape[0]):
        count += int(active[index // step].sum()) * step**2
        if count < AHEAD * chunk.size and index + 1 < shape[0]:
            continue
        layers = range(first, index + 1)
        wanted = torch.stack([_finer(active[each // step], step, shape) for each in layers])
        block = torch.stack([_finer(inside[each // step], step, shape) for each in layers])
        block = torch.where(block, SPREAD, -SPREAD).float()
        looked = partial(report, begun + (1 - begun) * first / shape[0])
        block[wanted] = height_of(_densities(field, low, spacing, first, wanted, chunk, looked), level)
        heights[first : index + 1] = block
        first, count = index + 1, 0
    return heights


def height_of(density: Tensor, level: float) -> Tensor:
    """log(density / level), nearly straight across a surface, within ±SPREAD and never 0; above 0 is inside."""
    height = (density.clamp(min=1e-12) / level).log().clamp(-SPREAD, SPREAD)
    return torch.where(density > level, height.clamp(min=LEAST), height.clamp(max=-LEAST))


def large_parts(dense: np.ndarray, keep: float) -> np.ndarray:
    """(X, Y, Z) bool without the pieces that have less than `keep` of the largest one's volume."""
    labels, count = ndimage.label(dense)
    if not count:
        return dense
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray((sizes >= max(keep * sizes.max(), 1))[labels])


def clear(heights: Tensor, keep: float, pinhole: float) -> None:
    """Removes floaters from (X, Y, Z) heights, in place, and fills hollows, which a fit never sees, and pinholes.

    What a cube with a side of `pinhole` times the longest side cannot reach from outside is filled, but for pits of
    half that depth. Pieces with less than `keep` of the largest one's volume are floaters.
    """
    side = max(heights.shape)
    step = -(-side // CLEARED)
    # a cell is solid if any of its step³ samples is inside
    layers = [max_pool2d((part > 0).any(0)[None].float(), step, ceil_mode=True) for part in heights.split(step)]
    kept = large_parts(torch.cat(layers).numpy() > 0, keep)
    reach = max(1, round(pinhole / 2 * side / step))
    margin = reach + 1  # so that all that lies outside is one piece, which holds the first cell
    free, _ = ndimage.label(~_grown(np.pad(kept, margin), reach))
    outside = _grown(free == free[0, 0, 0], reach)[(slice(margin, -margin),) * 3]
    # a cube cannot enter the steps of a lattice in any concave place either: what is this near to outside stays
    outside = _grown(outside, reach)
    for index in range(heights.shape[0]):
        layer = heights[index].float()
        piece = _finer(torch.from_numpy(kept[index // step]), step, heights.shape)
        hidden = _finer(torch.from_numpy(~outside[index // step]), step, heights.shape)
        layer = torch.where((layer > 0) & ~piece, -SPREAD, layer)
        heights[index] = torch.where(hidden & (layer < 0), SPREAD, layer)


def _densities(
    field: RadianceField, low: Tensor, spacing: float, at: int, wanted: Tensor, chunk: Chunk, told: Callable[[], None]
) -> Tensor:
    """Density (N,) on the CPU at the `wanted` (X, Y, Z) samples from layer `at` on; FieldError where not finite."""
    corners = wanted.nonzero()
    if not len(corners):
        return torch.empty(0, dtype=torch.float32)
    corners[:, 0] += at
    corners = corners.to(low.device)  # with the answer's way back all that the host waits for a GPU
    found = []
    for density in chunk.map(lambda part: field.density(low + spacing * corners[part]), len(corners)):
        found.append(density)
        told()
    density = torch.cat(found).float().cpu()
    if not torch.isfinite(density).all():
        problem = "the field's density is not finite (NaN or infinite), so it has no surface; its fit has diverged"
        raise FieldError(f"{problem}: lower the learning rates, or go back to an earlier checkpoint")
    return density


def _finer(cells: Tensor, step: int, shape: tuple[int, ...]) -> Tensor:
    """(Y', Z') cells of step² samples -> (Y, Z) samples."""
    return cells.repeat_interleave(step, 0).repeat_interleave(step, 1)[: shape[1], : shape[2]]


def _grown(mask: np.ndarray, reach: int) -> np.ndarray:
    """(X, Y, Z) bool grown by a cube of 2·reach + 1 samples."""
    return np.asarray(ndimage.maximum_filter(mask.view(np.uint8), 2 * reach + 1, mode="constant")).view(bool)


def surface_level(volume: Tensor, spacing: float, share: float = SOLID_SHARE) -> float:
    """(X, Y, Z) density of an object's box -> the density at which its surface stands: the lower one of two bounds.

    Matter is solid if a `share` of the box's longest side of it stops half of the light. A fog may be thinner: half of
    the median density where rays along the axes have lost half of their light, or half of what the most opaque loses.
    """
    depths = volume * spacing
    total = max(float(depths.sum(axis).max()) for axis in range(3))
    if total < 0.01:
        advice = "fit it longer, or check that its photos show an object that stands out from the background"
        problem = "the field is empty: no ray loses more than 1 % of its light in it, so there is no surface"
        raise FieldError(f"{problem}; {advice}")
    half = min(math.log(2.0), total / 2)
    found = []
    for axis in range(3):
        for direction in (depths, depths.flip(axis)):
            passed = direction.cumsum(axis)
            first = (passed < half).sum(axis, keepdim=True)  # samples before the one in which half is lost
            stops = first < volume.shape[axis]
            value = direction.gather(axis, first.clamp(max=volume.shape[axis] - 1))
            found.append(value[stops])
    fog = float(torch.cat(found).median()) / spacing / 2
    return min(fog, math.log(2.0) / (share * spacing * max(volume.shape)))


def agreeing_level(field: RadianceField, low: Tensor, high: Tensor, first: float, chunk: Chunk) -> float:
    """The level whose silhouettes agree with the field's opacity; of equally good ones the nearest to `first`."""
    # a ray meets the surface of a level if the density anywhere along it is above: one look tells all silhouettes
    middle, radius = ((low + high) / 2).cpu(), float((high - low).norm()) / 2
    cameras = look_at(middle + 4 * radius * sphere_directions(CAMERAS), middle, focal=3.8)
    rays = camera_rays(cameras.to(low.device), PICTURE_SIZE, PICTURE_SIZE)
    rays = Rays(rays.origins.reshape(-1, 3), rays.directions.reshape(-1, 3))
    near, far, hit = intersect_box(rays, torch.stack([low, high]), near=0.0)
    chosen = hit.nonzero()[:, 0]
    rays, near, far = Rays(rays.origins[chosen], rays.directions[chosen]), near[chosen], far[chosen]

    def look(part: slice) -> Tensor:
        distances = stratified_distances(near[part], far[part], RAY_SAMPLES)
        points = rays.origins[part, None] + rays.directions[part, None] * distances[..., None]
        density = field.density(points)
        depth = density.sum(-1) * (far[part] - near[part]) / RAY_SAMPLES
        return torch.stack([-torch.expm1(-depth), density.amax(-1)])

    opacity, peak = torch.cat(list(chunk.map(look, len(near), each=RAY_SAMPLES)), dim=1)
    return best_level(opacity, peak, first)


def best_level(opacity: Tensor, peak: Tensor, first: float) -> float:
    """(R,) opacity and highest density of rays -> level whose silhouette has the best IoU with the opacities."""
    peak, order = peak.sort(descending=True)
    inside = opacity[order].cumsum(0)  # of the rays that meet the level of the k-th highest peak
    met = torch.arange(1, len(peak) + 1, device=peak.device)
    agreement = 2 * inside / (met + inside[-1])
    # levels just below the k-th peak are met by k rays; where the next peak is as high, by more
    agreement[:-1] = torch.where(peak[1:] == peak[:-1], torch.zeros_like(agreement[:-1]), agreement[:-1])
    good = agreement >= agreement.max() - TOLERANCE
    below = torch.cat([peak[1:], peak.new_zeros(1)])  # the k-th silhouette belongs to levels from here up to its peak
    nearest = torch.full_like(peak, first).clamp(min=below, max=peak * (1 - 1e-3))
    distance = (nearest.clamp(min=1e-9).log() - math.log(first)).abs()
    distance = distance.where(good & (peak > 0), peak.new_tensor(torch.inf))
    return float(nearest[distance.argmin()].clamp(min=1e-6))
