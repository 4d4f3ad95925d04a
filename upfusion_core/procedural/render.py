"""Pictures of many objects at once, in pure torch on any device: colour, mask and depth of cameras or of any rays."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize

from ..geometry import camera_rays
from ..support.checks import check_count, check_shape
from ..support.errors import InputError
from ..types import Cameras
from .paint import coat_colors, lit
from .primitives import BLENDED, CARVED, SOLVERS, Tables, convex_distance, convex_interval, dot, first_hit
from .shapes import ALONE, BLEND, COATS, CUT, INTERSECT, Objects

SUPERSAMPLING = 2  # samples a pixel along each axis

# rays traced at once: enough for long lists (about 100 MB of temporaries), on a GPU more (some 2 to 6 GB)
_CHUNK_RAYS = {"cpu": 1 << 19, "cuda": 1 << 23}

# rounds and steps a round towards a smooth union, each by a share of the distance: an ellipsoid's is of first order
BLEND_ROUNDS, BLEND_STEPS, _STEP_SHARE = 5, 8, 0.9
_NEAR_ENOUGH = 3e-4
_NUDGE = 2e-4  # half the base of the finite differences that give a smooth union's normals


def nearest_hits(tables: Tables, owner: Tensor, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """First surfaces along rays: (Q·R,) distances, inf where nothing is hit, and (Q·R,) columns of the tables' parts.

    owner: (Q,) int64, which object each group of rays looks at. origins: (Q, 1, 3) shared by a group, or (Q, R, 3);
    outside of the objects. directions: (Q, R, 3) of unit length.
    """
    groups, rays, _ = directions.shape
    centers, radii = tables.ball_center[owner], tables.ball_radius[owner]  # (Q, P, 3), (Q, P)
    if origins.shape[1] == 1:
        offsets = centers - origins  # (Q, P, 3)
        towards = directions @ offsets.transpose(1, 2)  # (Q, R, P) to the balls' middles along the rays
        square = offsets.square().sum(-1)[:, None]
    else:
        towards = directions @ centers.transpose(1, 2) - (directions * origins).sum(-1, keepdim=True)
        square = (centers[:, None] - origins[:, :, None]).square().sum(-1)
    least = (square - radii.square()[:, None] * 1.0001 - 1e-6).clamp_min(0).sqrt()
    least = torch.where(radii[:, None] < 0, math.inf, least)
    pairs = (towards >= least).flatten().nonzero().squeeze(1)  # of rays and parts whose ball is met
    ray = torch.div(pairs, tables.parts, rounding_mode="floor")
    group = torch.div(ray, rays, rounding_mode="floor")
    column = owner[group] * tables.parts + pairs - ray * tables.parts
    heading = directions.reshape(-1, 3).index_select(0, ray).T.contiguous()
    start = origins.reshape(-1, 3).index_select(0, group if origins.shape[1] == 1 else ray).T
    middle = towards.flatten()[pairs]
    nearby = start + middle * heading  # close to the part: float32 keeps its digits
    along, solvers = torch.empty_like(middle), tables.solver[column]
    for solver in range(len(SOLVERS)):
        chosen = (solvers == solver).nonzero().squeeze(1)
        if chosen.numel():
            close, straight = nearby.index_select(1, chosen), heading.index_select(1, chosen)
            along[chosen] = _solve(tables, solver, column[chosen], close, straight)
    along = along + middle
    along = torch.where(along > 0, along, math.inf)
    every = torch.full((groups * rays * tables.parts,), math.inf, device=directions.device)
    every[pairs] = along
    distance, part = every.view(-1, tables.parts).min(dim=1)
    return distance, owner.repeat_interleave(rays, output_size=groups * rays) * tables.parts + part


def _solve(tables: Tables, solver: int, column: Tensor, nearby: Tensor, heading: Tensor) -> Tensor:
    """(N,) t of the first hit of lines nearby + t·heading on parts that one solver hits, inf for a miss."""
    if solver == BLENDED:
        return _blended_hit(tables, column, nearby, heading)
    first = tables.first.taken(column)
    start, step = first.points_to_local(nearby), first.directions_to_local(heading)
    if solver != CARVED:
        return first_hit(solver, start, step, first.size)
    second = tables.second.taken(column)
    other_start, other_step = second.points_to_local(nearby), second.directions_to_local(heading)
    near, far = convex_interval(first.kind, start, step, first.size)
    inner_near, inner_far = convex_interval(second.kind, other_start, other_step, second.size)
    # cut: the first t inside the first primitive and outside the second; else inside both
    buried = (near >= inner_near) & (near <= inner_far)
    left = torch.where(buried, inner_far, near)
    left = left.masked_fill(left > far, math.inf)
    both = torch.maximum(near, inner_near)
    both = both.masked_fill(both > torch.minimum(far, inner_far), math.inf)
    return torch.where(tables.joint[column] == CUT, left, both)


def _blended_hit(tables: Tables, column: Tensor, nearby: Tensor, heading: Tensor) -> Tensor:
    """(N,) t where lines first meet smooth unions; those that arrived or left are dropped between the rounds."""
    owner, part = torch.div(column, tables.parts, rounding_mode="floor"), column % tables.parts
    offset = nearby - tables.ball_center[owner, part].T
    middle = dot(offset, heading)
    reach = (tables.ball_radius[owner, part] ** 2 - dot(offset, offset) + middle * middle).clamp_min(0).sqrt()
    t, end = -middle - reach, reach - middle
    missing = torch.full_like(t, math.inf)
    on_way = torch.arange(t.shape[0], device=t.device)
    for _ in range(BLEND_ROUNDS):
        columns, points, steps = column[on_way], nearby.index_select(1, on_way), heading.index_select(1, on_way)
        pair, softness = (tables.first.taken(columns), tables.second.taken(columns)), tables.blend[columns]
        lines = [(some, some.points_to_local(points), some.directions_to_local(steps)) for some in pair]
        now = t[on_way]
        for _ in range(BLEND_STEPS):
            one, two = (convex_distance(some.kind, place + now * move, some.size) for some, place, move in lines)
            distance = smooth_minimum(one, two, softness)
            now = now + _STEP_SHARE * distance
        t[on_way] = now
        arrived = distance.abs() < _NEAR_ENOUGH
        missing[on_way[arrived]] = 0.0
        on_way = on_way[~arrived & (now < end[on_way])]
    return torch.where(t > end + 1e-3, math.inf, t + missing)


def part_distance(tables: Tables, column: Tensor | int, points: Tensor) -> Tensor:
    """(N,) signed distances of world points (3, N) to parts (N,), or to one part; inf for absent parts."""
    column = torch.as_tensor(column, device=points.device).expand(points.shape[1])
    first, second, joint = tables.first.taken(column), tables.second.taken(column), tables.joint[column]
    one, two = first.distance(points), second.distance(points)
    value = torch.where(joint == CUT, torch.maximum(one, -two), one)
    value = torch.where(joint == INTERSECT, torch.maximum(one, two), value)
    value = torch.where(joint == BLEND, smooth_minimum(one, two, tables.blend[column]), value)
    return value.masked_fill(tables.solver[column] < 0, math.inf)


def smooth_minimum(a: Tensor, b: Tensor, softness: Tensor) -> Tensor:
    """min(a, b), rounded off over a length: at a = b it is softness / 4 below (polynomial, first order smooth)."""
    nearness = (1 - (a - b).abs() / softness.clamp_min(1e-9)).clamp_min(0)
    return torch.minimum(a, b) - softness / 4 * nearness * nearness


@dataclass(frozen=True, eq=False)
class ObjectViews:
    """Pictures of B objects by V cameras each: rgb (B, V, 3, S, S) on white, opacity and depth (B, V, 1, S, S).

    Unlike a field's, the depth is that of the surface: the mean over the samples of a pixel that hit, 0 where none did.
    """

    rgb: Tensor
    opacity: Tensor
    depth: Tensor


def render_views(
    objects: Objects, camera_to_world: Tensor, focal: Tensor, size: int, *, supersampling: int = SUPERSAMPLING
) -> ObjectViews:
    """Pictures, `size` pixels a side, of B objects by V cameras each.

    Cameras are given by camera_to_world (B, V, 4, 4) and focal (B, V, 2) as in `Cameras`, and stand outside of the
    objects. Each pixel is the mean of supersampling² samples through its footprint.
    """
    check_count("size", size, 1)
    check_count("supersampling", supersampling, 1)
    count = len(objects)
    check_shape("camera_to_world", camera_to_world, (count, "V", 4, 4), "V cameras an object")
    views = camera_to_world.shape[1]
    check_shape("focal", focal, (count, views, 2))
    tables, samples = Tables.of(objects), size * supersampling
    owner = torch.arange(count, device=objects.device).repeat_interleave(views, output_size=count * views)
    matrices, focals = camera_to_world.flatten(0, 1), focal.flatten(0, 1)
    per_chunk = max(1, _chunk_rays(objects.device) // samples**2)
    parts = []
    for begin in range(0, count * views, per_chunk):
        chosen = slice(begin, begin + per_chunk)
        cameras = Cameras(matrices[chosen], focals[chosen], torch.zeros_like(focals[chosen]))
        directions = camera_rays(cameras, samples, samples).directions.flatten(1, 2)
        seen = _look(tables, owner[chosen], cameras.centers[:, None], directions)
        seen = seen.unflatten(1, (len(cameras), samples, samples))
        parts.append(_finished(avg_pool2d(seen, supersampling) if supersampling > 1 else seen))
    pictures = torch.cat(parts, dim=1).unflatten(1, (count, views))  # (5, B, V, S, S)
    return ObjectViews(pictures[:3].permute(1, 2, 0, 3, 4), pictures[3, :, :, None], pictures[4, :, :, None])


def render_rays(objects: Objects, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Colours of any rays: rgb (B, R, 3) over white, opacity (B, R, 1), depth (B, R, 1), 0 where nothing was hit.

    origins: (B, R, 3), outside of the objects, or (B, 1, 3), shared by an object's rays. directions: (B, R, 3), unit.
    """
    count = len(objects)
    check_shape("directions", directions, (count, "R", 3), "R rays an object")
    rays = directions.shape[1]
    if origins.shape not in ((count, rays, 3), (count, 1, 3)):
        raise InputError(
            f"origins must be ({count}, {rays}, 3) or ({count}, 1, 3), got {tuple(origins.shape)}; one a ray or shared"
        )
    tables, owner = Tables.of(objects), torch.arange(count, device=objects.device)
    per_chunk = max(1, _chunk_rays(objects.device) // count)
    parts = []
    for begin in range(0, rays, per_chunk):
        chosen = directions[:, begin : begin + per_chunk]
        starts = origins if origins.shape[1] == 1 else origins[:, begin : begin + per_chunk]
        parts.append(_finished(_look(tables, owner, starts, chosen).unflatten(1, (count, -1))))
    seen = torch.cat(parts, dim=2).permute(1, 2, 0)
    return seen[..., :3], seen[..., 3:4], seen[..., 4:5]


def _chunk_rays(device: torch.device) -> int:
    return _CHUNK_RAYS.get(device.type, _CHUNK_RAYS["cpu"])


def _look(tables: Tables, owner: Tensor, origins: Tensor, directions: Tensor) -> Tensor:
    """(5, Q·R): colour, 1 where something is hit, distance; all 0 elsewhere. Arguments as for `nearest_hits`."""
    rays = directions.shape[1]
    distance, column = nearest_hits(tables, owner, origins, directions)
    hit = torch.isfinite(distance).nonzero().squeeze(1)
    group = torch.div(hit, rays, rounding_mode="floor")
    start = origins.reshape(-1, 3).index_select(0, group if origins.shape[1] == 1 else hit)
    heading = directions.reshape(-1, 3).index_select(0, hit)
    far = distance.index_select(0, hit)
    points = (start + far[:, None] * heading).T.contiguous()
    colors = _surface_colors(tables, points, column.index_select(0, hit), owner.index_select(0, group))
    seen = torch.zeros(5, distance.shape[0], device=directions.device)
    seen[:, hit] = torch.cat([colors, torch.ones_like(far)[None], far[None]])
    return seen


def _surface_colors(tables: Tables, points: Tensor, column: Tensor, owner: Tensor, *, light: bool = True) -> Tensor:
    """(3, H) colours of surface points (3, H) on parts (H,) of objects (H,), under their light or without."""
    first = tables.first.taken(column)
    local = first.points_to_local(points)
    normals = first.normals(local)
    azimuth, width, middle, height = tables.label.index_select(1, column)
    turn = torch.atan2(local[0], local[2]) - azimuth
    turn = (turn - 2 * math.pi * torch.round(turn / (2 * math.pi))).abs()
    coat = ((turn < width) & ((local[1] - middle).abs() < height)).long()  # 1 within the part's label
    joined = (tables.joint.index_select(0, column) != ALONE).nonzero().squeeze(1)
    if joined.numel():
        on_second, joined_normals = _joined_surface(tables, column[joined], points[:, joined], normals[:, joined])
        normals[:, joined] = joined_normals
        coat[joined] = torch.where(on_second, COATS - 1, coat[joined])
    coat = column * COATS + coat
    colors = coat_colors(tables.pattern.index_select(0, coat), tables.coats.index_select(1, coat), local)
    return lit(colors, normals, tables.light.index_select(1, owner)) if light else colors


def albedo(objects: Objects, points: Tensor) -> Tensor:
    """(M, 3) colours without light of one object at world points (M, 3) on or near its surface."""
    check_shape("points", points, ("M", 3))
    if len(objects) != 1:
        raise InputError(f"albedo takes one object, got {len(objects)}; index the batch, e.g. objects[0]")
    tables = Tables.of(objects)
    distances = torch.stack([part_distance(tables, part, points.T) for part in range(tables.parts)])
    column = distances.abs().argmin(0)
    return _surface_colors(tables, points.T, column, torch.zeros_like(column), light=False).T


def _joined_surface(tables: Tables, column: Tensor, points: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
    """Which points lie on their part's second primitive, and the parts' (3, N) normals there.

    `normals` are those of the first primitives.
    """
    first, second = tables.first.taken(column), tables.second.taken(column)
    one, two = (some.convex_distance(points) for some in (first, second))
    joint = tables.joint.index_select(0, column)
    blended = joint == BLEND
    on_second = torch.where(blended, two < one, two.abs() < one.abs())
    inner = second.normals(second.points_to_local(points)) * torch.where(joint == CUT, -1.0, 1.0)
    normals = torch.where(on_second, inner, normals)
    smooth = blended.nonzero().squeeze(1)
    if smooth.numel():  # by tetrahedral differences: the sum of e·f(x + h·e) over four corners e of a cube
        points, softness = points.index_select(1, smooth), tables.blend[column[smooth]]
        first, second = first.taken(smooth), second.taken(smooth)
        gradient = torch.zeros_like(points)
        for corner in ((1.0, -1.0, -1.0), (-1.0, -1.0, 1.0), (-1.0, 1.0, -1.0), (1.0, 1.0, 1.0)):
            step = torch.tensor(corner, device=points.device)[:, None]
            one, two = (some.convex_distance(points + _NUDGE * step) for some in (first, second))
            gradient = gradient + step * smooth_minimum(one, two, softness)
        normals[:, smooth] = normalize(gradient, dim=0)
    return on_second, normals


def _finished(seen: Tensor) -> Tensor:
    """Premultiplied (5, ...) colour, opacity, depth -> colour over white, opacity, depth of what is there."""
    opacity = seen[3:4]
    depth = torch.where(opacity > 0, seen[4:5] / opacity.clamp_min(1e-6), 0.0)
    return torch.cat([seen[:3] + (1 - opacity), opacity, depth])
