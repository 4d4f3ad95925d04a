"""Nearest hits of many rays on many objects at once.

A ray is tried only against the parts whose ball it meets; those (ray, part) pairs form one flat list. Ellipsoids,
boxes, frustums and their cuts and intersections are hit in closed form; tori and smooth unions by stepping along signed
distances. There is no loop over objects or rays; the only waits for the device are for the lengths of the lists.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .primitives import (
    Interval,
    box_interval,
    convex_distance,
    convex_interval,
    dot,
    ellipsoid_interval,
    frustum_interval,
    torus_hit,
)
from .shapes import BLEND, BOX, CUT, ELLIPSOID, FRUSTUM, INTERSECT
from .tables import BLENDED, CARVED, SOLVERS, Tables

BLEND_ROUNDS, BLEND_STEPS = 5, 8
"""Rounds and steps a round towards a smooth union, each step 0.9 of the distance: an ellipsoid's is of first order."""

_STEP_SHARE = 0.9
_NEAR_ENOUGH = 3e-4


def nearest_hits(tables: Tables, owner: Tensor, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """First surfaces along rays.

    Args:
        tables: the objects.
        owner: (Q,) int64, which object each group of rays looks at.
        origins: (Q, 1, 3) shared by a group, or (Q, R, 3); outside of the objects.
        directions: (Q, R, 3) of unit length.

    Returns:
        (Q·R,) distances, inf where nothing is hit, and (Q·R,) columns of the parts in the tables (any where missed).
    """
    groups, rays, _ = directions.shape
    towards, pairs = _candidates(tables, owner, origins, directions)
    ray = torch.div(pairs, tables.parts, rounding_mode="floor")
    group = torch.div(ray, rays, rounding_mode="floor")
    column = owner[group] * tables.parts + pairs - ray * tables.parts
    heading = directions.reshape(-1, 3).index_select(0, ray).T.contiguous()
    start = origins.reshape(-1, 3).index_select(0, group if origins.shape[1] == 1 else ray).T
    middle = towards.flatten()[pairs]
    nearby = start + middle * heading  # close to the part: float32 keeps its digits
    along = _part_hits(tables, column, nearby, heading) + middle
    along = torch.where(along > 0, along, torch.full_like(along, math.inf))
    every = torch.full((groups * rays * tables.parts,), math.inf, device=directions.device)
    every[pairs] = along
    distance, part = every.view(-1, tables.parts).min(dim=1)
    return distance, owner.repeat_interleave(rays, output_size=groups * rays) * tables.parts + part


def _candidates(tables: Tables, owner: Tensor, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """(Q, R, P) distances to the parts' balls' middles along the rays; flat indices of the pairs whose ball is met."""
    centers, radii = tables.ball_center[owner], tables.ball_radius[owner]  # (Q, P, 3), (Q, P)
    if origins.shape[1] == 1:
        offsets = centers - origins  # (Q, P, 3)
        towards = directions @ offsets.transpose(1, 2)
        square = offsets.square().sum(-1)[:, None]
    else:
        towards = directions @ centers.transpose(1, 2) - (directions * origins).sum(-1, keepdim=True)
        square = (centers[:, None] - origins[:, :, None]).square().sum(-1)
    least = (square - radii.square()[:, None] * 1.0001 - 1e-6).clamp_min(0).sqrt()
    least = torch.where(radii[:, None] < 0, torch.full_like(least, math.inf), least)
    return towards, (towards >= least).flatten().nonzero().squeeze(1)


def _part_hits(tables: Tables, column: Tensor, nearby: Tensor, heading: Tensor) -> Tensor:
    """(N,) t of the first hit of line nearby + t·heading on its part, inf for a miss."""
    result = torch.empty_like(nearby[0])
    which = tables.solver[column]
    for solver in range(len(SOLVERS)):
        chosen = (which == solver).nonzero().squeeze(1)
        if chosen.numel():
            result[chosen] = _solve(
                tables, solver, column[chosen], nearby.index_select(1, chosen), heading.index_select(1, chosen)
            )
    return result


def _solve(tables: Tables, solver: int, column: Tensor, nearby: Tensor, heading: Tensor) -> Tensor:
    first = tables.first.taken(column)
    start, step = first.points_to_local(nearby), first.directions_to_local(heading)
    if solver == ELLIPSOID:
        return ellipsoid_interval(start, step, first.size)[0]
    if solver == BOX:
        return box_interval(start, step, first.size)[0]
    if solver == FRUSTUM:
        return frustum_interval(start, step, first.size)[0]
    if solver < CARVED:
        return torus_hit(start, step, first.size)
    if solver == BLENDED:
        return _blended_hit(tables, column, nearby, heading)
    second = tables.second.taken(column)
    other_start, other_step = second.points_to_local(nearby), second.directions_to_local(heading)
    outer = convex_interval(first.kind, start, step, first.size)
    inner = convex_interval(second.kind, other_start, other_step, second.size)
    return _carved(tables.joint[column] == CUT, outer, inner)


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
        first, second, softness = tables.first.taken(columns), tables.second.taken(columns), tables.blend[columns]
        places = (first.points_to_local(points), second.points_to_local(points))
        moves = (first.directions_to_local(steps), second.directions_to_local(steps))
        now = t[on_way]
        for _ in range(BLEND_STEPS):
            one = convex_distance(first.kind, places[0] + now * moves[0], first.size)
            two = convex_distance(second.kind, places[1] + now * moves[1], second.size)
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


def _carved(cut: Tensor, outer: Interval, inner: Interval) -> Tensor:
    """First t inside `outer` and, where `cut`, outside `inner`, else inside both."""
    (near, far), (inner_near, inner_far) = outer, inner
    buried = (near >= inner_near) & (near <= inner_far)
    left = torch.where(buried, inner_far, near)
    left = left.masked_fill(left > far, math.inf)
    both = torch.maximum(near, inner_near)
    both = both.masked_fill(both > torch.minimum(far, inner_far), math.inf)
    return torch.where(cut, left, both)
