"""Bringing objects into the frame: middle at the origin, all within a ball."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from .shapes import BLEND, BOX, ELLIPSOID, FRUSTUM, TORUS, Objects, Primitives

LARGEST_RADIUS = 0.195
"""Of what is drawn; surfaces stay within 0.2 of the origin, where cameras of focal 4.5 at distance 1 see them whole."""


def framed(objects: Objects, radius: Tensor) -> Objects:
    """The objects moved so that their boxes' middles are at the origin, scaled into balls of radii (B,) about it.

    What a cut takes away counts as if it were there. Patterns keep their periods; labels grow with their parts.
    """
    points, pads = _outline(objects.first)
    others, more = _outline(objects.second)
    points, pads = torch.cat([points, others], dim=2), torch.cat([pads, more + objects.blend[..., None] / 4], dim=2)
    there = objects.present[..., None].expand_as(more)
    seen = torch.cat([there, there & (objects.joint == BLEND)[..., None]], dim=2)
    low = (points - pads[..., None]).masked_fill(~seen[..., None], math.inf).amin((1, 2))
    high = (points + pads[..., None]).masked_fill(~seen[..., None], -math.inf).amax((1, 2))
    center = (low + high) / 2
    reach = (points - center[:, None, None]).norm(dim=-1) + pads
    scale = radius / reach.masked_fill(~seen, 0).amax((1, 2))
    one = torch.ones_like(scale)
    return replace(
        objects,
        first=_placed(objects.first, center, scale),
        second=_placed(objects.second, center, scale),
        blend=objects.blend * scale[:, None],
        label=objects.label * torch.stack([one, one, scale, scale], dim=-1)[:, None],
    )


def _placed(primitives: Primitives, center: Tensor, scale: Tensor) -> Primitives:
    """Moved by -center, then scaled; the torus's angle is no length."""
    factors = torch.stack([scale, scale, scale, torch.ones_like(scale)], dim=-1)
    return Primitives(
        primitives.kind,
        primitives.rotation,
        (primitives.center - center[:, None]) * scale[:, None, None],
        primitives.size * factors[:, None],
    )


def _outline(primitives: Primitives) -> tuple[Tensor, Tensor]:
    """(B, P, K, 3) world points on the primitives' outlines and (B, P, K) how far the surface may be beyond them."""
    count = 48
    turn = torch.arange(count) * (math.pi * (3 - math.sqrt(5)))  # the golden angle spreads points on a sphere
    level = 1 - (2 * torch.arange(count) + 1) / count
    flat = (1 - level * level).sqrt()
    sphere = torch.stack([flat * turn.cos(), level, flat * turn.sin()], dim=-1)
    corners = torch.stack([torch.where((torch.arange(count) >> bit) % 2 == 0, 1.0, -1.0) for bit in range(3)], dim=-1)
    round_turn = 2 * math.pi * torch.arange(count // 2) / (count // 2)
    circle = torch.stack([round_turn.cos(), torch.zeros_like(round_turn), round_turn.sin()], dim=-1)
    a, b, c, angle = (value[..., None] for value in primitives.size.unbind(-1))
    size = primitives.size[..., None, :3]
    up = torch.tensor([0.0, 1.0, 0.0])
    rims = torch.cat([a[..., None] * circle - c[..., None] * up, b[..., None] * circle + c[..., None] * up], dim=-2)
    section = angle * torch.linspace(-1, 1, count)
    ring = torch.stack([a * section.cos(), a * section.sin(), torch.zeros_like(section)], dim=-1)
    kind = primitives.kind[..., None]
    local = torch.where(kind[..., None] == BOX, corners * size, sphere * size)
    local = torch.where(kind[..., None] == FRUSTUM, rims, local)
    local = torch.where(kind[..., None] == TORUS, ring, local)
    pads = torch.where(kind == ELLIPSOID, 0.03 * size.amax(-1), torch.zeros_like(section))
    pads = torch.where(kind == TORUS, b.expand_as(pads), pads)
    return local @ primitives.rotation.transpose(-1, -2) + primitives.center[..., None, :], pads
