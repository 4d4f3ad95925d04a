"""Pictures of many objects at once, in pure torch on any device: colour, mask and depth; distances and meshes."""

import math
from dataclasses import replace

import numpy as np
import torch
import trimesh
from skimage.measure import marching_cubes
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize

from ..geometry import camera_rays
from ..types import Cameras
from .primitives import BLENDED, CARVED, Tables, convex_distance, convex_interval, dot, first_hit
from .shapes import ALONE, BLEND, COATS, CUT, INTERSECT, Objects

SUPERSAMPLING = 2  # samples a pixel along each axis

# rays traced at once: enough for long lists (about 100 MB of temporaries), on a GPU more (some 2 to 6 GB)
_CHUNK_RAYS = {"cpu": 1 << 19, "cuda": 1 << 23}

# rounds and steps a round towards a smooth union, each by a share of the distance: an ellipsoid's is of first order
BLEND_ROUNDS, BLEND_STEPS, _STEP_SHARE = 5, 8, 0.9
_NEAR_ENOUGH = 3e-4
_NUDGE = 2e-4  # half the base of the finite differences that give a smooth union's normals

HALF_BOX = 0.21  # the cube ±HALF_BOX holds every object, whose radius is at most 0.2

PLAIN, STRIPES, CHECKS, GRADIENT, NOISE, TWO_TONE, DOTS = range(7)  # patterns
EDGE = 5.0  # steepness of the edges in a pattern: a step takes about 1 / (pi·EDGE) of its period
DOT_RADIUS = 0.32  # in periods
LIGHT_STRENGTH = 1.12  # of a surface that faces the light; above 1 colours are clipped there

# directions of the sines whose sum is the noise, in periods
_WAVES = ((1.0, 0.31, -0.57), (-0.43, 0.93, 0.38), (0.29, -0.71, 1.13), (0.83, 0.67, 0.47))


def render_views(
    objects: Objects,
    camera_to_world: Tensor,
    focal: Tensor,
    size: int,
    *,
    supersampling: int = SUPERSAMPLING,
    principal: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures of B objects by V cameras each: rgb (B, V, 3, S, S) on white, opacity and depth (B, V, 1, S, S).

    Cameras are given by camera_to_world (B, V, 4, 4), focal and principal (B, V, 2; 0 unless given) as in `Cameras`,
    and stand outside of the objects. A pixel is the mean of supersampling² samples through its footprint; its depth,
    unlike a field's, is the surface's: the mean over the samples that hit, 0 where none did.
    """
    (count, views), device = camera_to_world.shape[:2], objects.device
    tables, samples = Tables(objects), size * supersampling
    owner = torch.arange(count, device=device).repeat_interleave(views, output_size=count * views)
    middles = torch.zeros_like(focal) if principal is None else principal
    matrices, focals, middles = camera_to_world.flatten(0, 1), focal.flatten(0, 1), middles.flatten(0, 1)
    per_chunk = max(1, _CHUNK_RAYS.get(device.type, _CHUNK_RAYS["cpu"]) // samples**2)
    parts = []
    for begin in range(0, count * views, per_chunk):
        chosen = slice(begin, begin + per_chunk)
        cameras = Cameras(matrices[chosen], focals[chosen], middles[chosen])
        directions = camera_rays(cameras, samples, samples).directions.flatten(1, 2)
        seen = trace_rays(tables, owner[chosen], cameras.centers, directions)
        parts.append(avg_pool2d(seen.unflatten(1, (len(cameras), samples, samples)), supersampling))
    seen = torch.cat(parts, dim=1).unflatten(1, (count, views))  # (5, B, V, S, S), colours times opacity
    opacity = seen[3]
    depth = torch.where(opacity > 0, seen[4] / opacity.clamp_min(1e-6), 0.0)
    return (seen[:3] + (1 - opacity)).permute(1, 2, 0, 3, 4), opacity[:, :, None], depth[:, :, None]


def trace_rays(tables: Tables, owner: Tensor, origins: Tensor, directions: Tensor) -> Tensor:
    """(5, Q·R): the nearest surface's colour under its light, 1, its distance; all 0 where nothing is hit.

    owner: (Q,) int64, which object each group of rays looks at. origins: (Q, 3), shared by a group, outside of the
    objects. directions: (Q, R, 3) of unit length.
    """
    rays, staging = directions.shape[1], tables.staging
    if staging is not None:  # the same straight rays in the objects' own frames, where lengths are others
        inward = staging.inward[owner]
        origins = (inward @ (origins - staging.origin[owner])[..., None])[..., 0]
        directions = directions @ inward.transpose(1, 2)
        lengths = directions.norm(dim=-1, keepdim=True)
        directions = directions / lengths
    offsets, radii = tables.ball_center[owner] - origins[:, None], tables.ball_radius[owner]  # (Q, P, 3), (Q, P)
    towards = directions @ offsets.transpose(1, 2)  # (Q, R, P) to the balls' middles along the rays
    least = (offsets.square().sum(-1) - radii.square() * 1.0001 - 1e-6).clamp_min(0).sqrt()
    least = torch.where(radii < 0, math.inf, least)[:, None]
    pairs = (towards >= least).flatten().nonzero().squeeze(1)  # of rays and parts whose ball is met
    ray = torch.div(pairs, tables.parts, rounding_mode="floor")
    group = torch.div(ray, rays, rounding_mode="floor")
    column = owner[group] * tables.parts + pairs - ray * tables.parts
    heading = directions.reshape(-1, 3).index_select(0, ray).T.contiguous()
    middle = towards.flatten()[pairs]
    nearby = origins.index_select(0, group).T + middle * heading  # close to the part: float32 keeps its digits
    along, solvers = torch.empty_like(middle), tables.solver[column]
    for solver in range(BLENDED + 1):
        chosen = (solvers == solver).nonzero().squeeze(1)
        if chosen.numel():
            close, straight = nearby.index_select(1, chosen), heading.index_select(1, chosen)
            along[chosen] = _solve(tables, solver, column[chosen], close, straight)
    along = along + middle
    every = torch.full_like(towards, math.inf).flatten()
    every[pairs] = torch.where(along > 0, along, math.inf)
    distance, part = every.view(-1, tables.parts).min(dim=1)

    hit = torch.isfinite(distance).nonzero().squeeze(1)
    group = torch.div(hit, rays, rounding_mode="floor")
    looking, far = owner[group], distance[hit]
    heading = directions.reshape(-1, 3).index_select(0, hit)
    points = (origins.index_select(0, group) + far[:, None] * heading).T.contiguous()
    colors, normals = _surface(tables, points, looking * tables.parts + part[hit])
    if staging is not None:
        far = far / lengths.flatten()[hit]
        inward = staging.inward.flatten(1).T.index_select(1, looking).unflatten(0, (3, 3))
        normals = normalize((inward * normals[:, None]).sum(0), dim=0)  # by the stretch's inverse transpose
    direction, ambient, tint = tables.light.index_select(1, looking).split([3, 1, 3])
    # a share of the light reaches every surface, the rest half of those turned away too
    facing = (0.5 + 0.5 * dot(normals, direction)).clamp(0, 1)
    lit = colors * tint * (ambient + (LIGHT_STRENGTH - ambient) * facing * facing.sqrt())
    for fill in () if staging is None else staging.fills.unbind(1):
        direction, tint = fill.T.index_select(1, looking).split(3)
        facing = (0.5 + 0.5 * dot(normals, direction)).clamp(0, 1)
        lit = lit + colors * tint * facing * facing.sqrt()
    seen = torch.zeros(5, distance.shape[0], device=directions.device)
    seen[:, hit] = torch.cat([lit.clamp(0, 1), torch.ones_like(far)[None], far[None]])
    return seen


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


def _surface(tables: Tables, points: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """(3, H) colours without light and (3, H) normals at surface points (3, H) of parts (H,)."""
    first = tables.first.taken(column)
    local = first.points_to_local(points)
    normals = first.normals(local)
    azimuth, width, middle, height = tables.label.index_select(1, column)
    turn = torch.atan2(local[0], local[2]) - azimuth
    turn = (turn - 2 * math.pi * torch.round(turn / (2 * math.pi))).abs()
    coat = ((turn < width) & ((local[1] - middle).abs() < height)).long()  # 1 within the part's label
    joined = (tables.joint.index_select(0, column) != ALONE).nonzero().squeeze(1)
    if joined.numel():
        on_second, normals[:, joined] = _joined_surface(tables, column[joined], points[:, joined], normals[:, joined])
        coat[joined] = torch.where(on_second, COATS - 1, coat[joined])
    coat = column * COATS + coat
    return coat_colors(tables.pattern.index_select(0, coat), tables.coats.index_select(1, coat), local), normals


def _joined_surface(tables: Tables, column: Tensor, points: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
    """Which points lie on their part's second primitive, and the parts' (3, N) normals there, by those of the first."""
    first, second = tables.first.taken(column), tables.second.taken(column)
    one, two = (some.distance(points) for some in (first, second))
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
            one, two = (some.distance(points + _NUDGE * step) for some in (first, second))
            gradient = gradient + step * smooth_minimum(one, two, softness)
        normals[:, smooth] = normalize(gradient, dim=0)
    return on_second, normals


def coat_colors(pattern: Tensor, coats: Tensor, points: Tensor) -> Tensor:
    """(3, N) colours in [0, 1] without light.

    pattern: (N,) pattern. coats: (15, N) two colours, directions u and v, frequency, phase, turns (see
    `Coats`). points: (3, N) in the frame of the part's first primitive.
    """
    first, second, u, v = coats[0:3], coats[3:6], coats[6:9], coats[9:12]
    frequency, phase, turns = coats[12], coats[13], coats[14]
    w = torch.linalg.cross(u, v, dim=0)
    around = turns > 0
    length_v = dot(v, points)
    across = torch.where(around, turns / (2 * math.pi) * torch.atan2(points[0], points[2]), frequency * dot(u, points))
    up = torch.where(around, frequency * points[1], frequency * length_v) + phase
    deep = torch.where(around, 0.25, frequency * dot(w, points) + 0.25)  # a quarter: no sign change
    checks = (2 * _square(across) - 1) * (2 * _square(up) - 1) * (2 * _square(deep) - 1)
    x, y = across - torch.floor(across) - 0.5, up - torch.floor(up) - 0.5  # from the middle of a dot
    dots = (0.5 + EDGE * 2 * (DOT_RADIUS - (x * x + y * y).sqrt())).clamp(0, 1)
    periods, bend, blotches = frequency * points + phase, torch.zeros_like(up), torch.zeros_like(up)
    for a, b, c in _WAVES:  # sines in four directions, each bending the next
        bend = torch.sin(2 * math.pi * (a * periods[0] + b * periods[1] + c * periods[2]) + 1.7 * bend + blotches)
        blotches = blotches + bend
    edge = 0.5 + 25 * frequency * (length_v - 0.05 * (phase - 0.5))
    shares = {STRIPES: _square(up), CHECKS: 0.5 + 0.5 * checks, DOTS: dots, TWO_TONE: edge.clamp(0, 1)}
    shares |= {GRADIENT: (0.5 + frequency * length_v / 2).clamp(0, 1), NOISE: (0.5 + 0.6 * blotches).clamp(0, 1)}
    share = torch.zeros_like(up)
    for which, value in shares.items():
        share = torch.where(pattern == which, value, share)
    return first + share * (second - first)


def _square(periods: Tensor) -> Tensor:
    """A square wave in [0, 1] with soft edges."""
    return (0.5 + EDGE / 2 * torch.sin(2 * math.pi * periods)).clamp(0, 1)


def smooth_minimum(a: Tensor, b: Tensor, softness: Tensor) -> Tensor:
    """min(a, b), rounded off over a length: at a = b it is softness / 4 below (polynomial, first order smooth)."""
    nearness = (1 - (a - b).abs() / softness.clamp_min(1e-9)).clamp_min(0)
    return torch.minimum(a, b) - softness / 4 * nearness * nearness


def signed_distance(objects: Objects, points: Tensor) -> Tensor:
    """(B, M) signed distances of world points (B, M, 3) to the objects, negative inside.

    The zero set and the sign are exact. Outside, the value is at most the true distance but for ellipsoids, whose
    value is of first order; inside of several parts it is the deepest part's.
    """
    if objects.staging is None:
        return _part_distances(Tables(objects), points).amin(0)
    inward = objects.staging.inward
    points = (points - objects.staging.origin[:, None]) @ inward.transpose(1, 2)
    most: Tensor = torch.linalg.matrix_norm(inward, 2)  # by which lengths grow on the way inward
    return _part_distances(Tables(objects), points).amin(0) / most[:, None]


def _part_distances(tables: Tables, points: Tensor) -> Tensor:
    """(P, B, M) signed distances of world points (B, M, 3) to the parts of B objects; inf for absent parts."""
    count, amount, _ = points.shape
    owner = torch.arange(count, device=points.device).repeat_interleave(amount, output_size=count * amount)
    distances = []
    for part in range(tables.parts):
        column = owner * tables.parts + part
        first, second, joint = tables.first.taken(column), tables.second.taken(column), tables.joint[column]
        one, two = (some.distance(points.reshape(-1, 3).T) for some in (first, second))
        value = torch.where(joint == CUT, torch.maximum(one, -two), one)
        value = torch.where(joint == INTERSECT, torch.maximum(one, two), value)
        value = torch.where(joint == BLEND, smooth_minimum(one, two, tables.blend[column]), value)
        distances.append(value.masked_fill(tables.solver[column] < 0, math.inf))
    return torch.stack(distances).view(tables.parts, count, amount)


def true_mesh(objects: Objects, resolution: int = 128) -> trimesh.Trimesh:
    """The surface of one object as a closed triangle mesh in its world, with vertex colours without light.

    Marching cubes on `resolution` cells along each axis of the cube ±0.21, before version 2 stretches it: a cell is
    0.42 / resolution, and features thinner than a cell may be lost. Walls inside of a union are not part of it.
    """
    staging, objects = objects.staging, replace(objects, staging=None)
    axis = torch.linspace(-HALF_BOX, HALF_BOX, resolution + 1, device=objects.device)
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)
    values = torch.cat([signed_distance(objects, chunk[None])[0] for chunk in grid.split(1 << 18)])
    volume = values.view(len(axis), len(axis), len(axis)).cpu().numpy()
    cell = 2 * HALF_BOX / resolution
    vertices, faces, _, _ = marching_cubes(volume, 0.0, spacing=(cell, cell, cell))
    mesh = trimesh.Trimesh(vertices - HALF_BOX, faces, process=True)
    mesh.fix_normals()
    tables, points = Tables(objects), torch.tensor(mesh.vertices, dtype=torch.float32, device=objects.device)
    colors, _ = _surface(tables, points.T, _part_distances(tables, points[None])[:, 0].abs().argmin(0))
    mesh.visual.vertex_colors = (colors.T.cpu().numpy() * 255).round().astype(np.uint8)
    if staging is not None:
        points = points @ torch.linalg.inv(staging.inward[0]).T + staging.origin
        mesh.vertices = points.cpu().numpy().astype(np.float64)
    return mesh
