"""Recipes of things that stand, roll, walk or work, from tables and animals to houses, and of plain solids.

As in vessels.py: one sketch of N objects each, free units, +Y up, the parts that matter first.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .shapes import BLEND, BODY, BOX, CUT, DETAIL, ELLIPSOID, FRUSTUM, HANDLE, INTERSECT, LEG, LID, MAX_PARTS, TORUS
from .sketch import Draws, Number, Sketch, about, sizes, vector

_CORNERS = ((1, 1), (-1, 1), (1, -1), (-1, -1))
_JOINT_WEIGHTS = [0.7, 0.08, 0.1, 0.12]
"""Of ALONE, CUT, INTERSECT, BLEND among plain solids."""


def table(draws: Draws) -> Sketch:
    """A round or rectangular top on three or four legs, with something left standing on it."""
    sketch = Sketch(len(draws))
    disc, width = draws.chance(0.45), draws.uniform(0.45, 0.65)
    depth = width * draws.uniform(0.55, 1.0)
    thick, drop = draws.uniform(0.035, 0.07), draws.uniform(0.35, 0.65)
    kind = torch.where(disc, FRUSTUM, BOX)
    size = torch.where(disc[:, None], sizes(width * 0.93, width, thick), sizes(width, thick, depth))
    sketch.add(kind, vector(0, 0, 0), size, role=BODY)
    _legs(sketch, draws, width * 0.72, torch.where(disc, width, depth) * 0.7, drop, color=draws.choice([0.3, 1]))
    place = width * draws.uniform(0.15, 0.4) * draws.side()
    tall, wide = draws.uniform(0.1, 0.25), draws.uniform(0.1, 0.18)
    kinds = draws.choice([1, 1, 1])
    sketch.add(
        kinds, vector(place, thick + tall * 0.95, depth * draws.uniform(-0.25, 0.25)),
        torch.where((kinds == FRUSTUM)[:, None], sizes(wide, wide * 0.7, tall), sizes(wide, tall, wide)),
        rotation=about("y", draws.uniform(0, 3)), color=2,
    )  # fmt: skip
    second = draws.uniform(0.07, 0.12)
    sketch.add(
        ELLIPSOID, vector(-place * 0.8, thick + second * 0.9, depth * draws.uniform(-0.3, 0.3)),
        sizes(second, second, second), color=3, present=draws.chance(0.5),
    )  # fmt: skip
    return sketch


def chair(draws: Draws) -> Sketch:
    """A seat on four legs with a back, and an arm rest or a cushion."""
    sketch = Sketch(len(draws))
    width, depth = draws.uniform(0.32, 0.42), draws.uniform(0.3, 0.4)
    drop, rise, thick = draws.uniform(0.35, 0.5), draws.uniform(0.3, 0.5), draws.uniform(0.04, 0.07)
    sketch.block(width, thick, depth, vector(0, 0, 0), role=BODY, color=0)
    back_kind = torch.where(draws.chance(0.7), BOX, ELLIPSOID)
    tilt = about("x", -draws.uniform(0.0, 0.25))
    sketch.add(
        back_kind, vector(0, rise, -depth * draws.uniform(0.9, 1.1)), sizes(width, rise, 0.05), rotation=tilt,
        role=BODY, color=draws.choice([1, 1]),
    )  # fmt: skip
    _legs(sketch, draws, width * 0.82, depth * 0.82, drop, color=2, four=True)
    cushion = draws.chance(0.5)
    arm = vector(width * draws.side(), rise * 0.55, 0)
    size = torch.where(cushion[:, None], sizes(width * 0.8, 0.09, depth * 0.75), sizes(0.05, rise * 0.5, depth * 0.8))
    center = torch.where(cushion[:, None], vector(0, thick + 0.06, 0.04), arm)
    sketch.add(torch.where(cushion, ELLIPSOID, BOX), center, size, color=3)
    return sketch


def lamp(draws: Draws) -> Sketch:
    """A foot, a leaning pole, a shade, a switch, and perhaps a second arm."""
    sketch = Sketch(len(draws))
    top, height = draws.uniform(0.16, 0.3), draws.uniform(0.16, 0.26)
    bottom = top * draws.uniform(1.1, 2.0)
    pole, lean = draws.uniform(0.7, 1.0), draws.uniform(-0.3, 0.3)
    head = vector(lean, pole, 0)
    sketch.add(FRUSTUM, head, sizes(bottom, top, height), rotation=about("z", lean * draws.uniform(0, 1.6)), role=BODY)
    foot = draws.uniform(0.22, 0.34)
    sketch.add(FRUSTUM, vector(0, 0, 0), sizes(foot, foot * draws.uniform(0.4, 0.95), 0.06), color=1)
    sketch.rod(vector(0, 0, 0).expand(len(draws), 3), head, 0.04, 0.035, role=DETAIL, color=2)
    knob = draws.uniform(0.1, 0.2)
    sketch.add(
        ELLIPSOID, vector(lean * 0.4, pole * 0.4, 0), sizes(knob, knob, knob), color=1, present=draws.chance(0.6)
    )
    arm = vector(-draws.uniform(0.25, 0.4) * torch.where(lean > 0, 1.0, -1.0), pole * draws.uniform(0.7, 0.9), 0)
    second = draws.chance(0.45)
    sketch.rod(vector(lean * 0.5, pole * 0.5, 0), arm, 0.03, 0.03, role=DETAIL, color=2, present=second)
    bulb = draws.uniform(0.1, 0.15)
    sketch.add(FRUSTUM, arm, sizes(bulb * 1.3, bulb * 0.6, bulb), color=3, present=second)
    sketch.block(0.05, 0.04, 0.07, vector(foot * 0.45, 0.08, 0.08), role=DETAIL, color=3)
    return sketch


def car(draws: Draws) -> Sketch:
    """A body with a cabin towards one end, four wheels, and a load, an exhaust or a roof box."""
    sketch = Sketch(len(draws))
    length, height, width = draws.uniform(0.6, 0.8), draws.uniform(0.12, 0.2), draws.uniform(0.28, 0.36)
    sketch.block(length, height, width, vector(0, 0, 0), role=BODY, color=0)
    cabin, rise = length * draws.uniform(0.3, 0.5), draws.uniform(0.12, 0.24)
    bend = draws.chance(0.5)
    place = -length * draws.uniform(0.1, 0.4)
    size = torch.where(bend[:, None], sizes(cabin * 1.2, rise * 1.3, width * 0.9), sizes(cabin, rise, width * 0.9))
    center = vector(place, height + rise * torch.where(bend, 0.3, 0.95), 0)
    sketch.add(torch.where(bend, ELLIPSOID, BOX), center, size, color=1, role=BODY)
    wheel = draws.uniform(0.14, 0.2)
    for x, z in _CORNERS:
        sketch.add(
            FRUSTUM, vector(x * length * 0.62, -height, z * width), sizes(wheel, wheel * 0.95, 0.06),
            rotation=about("x", z * math.pi / 2), color=2,
        )  # fmt: skip
    load = draws.uniform(0.08, 0.16)
    round_load = draws.chance(0.5)
    sketch.add(
        torch.where(round_load, FRUSTUM, BOX), vector(length * draws.uniform(0.35, 0.6), height + load * 0.8, 0),
        torch.where(round_load[:, None], sizes(load * 0.7, load * 0.5, load), sizes(load * 1.2, load, width * 0.7)),
        color=3,
    )  # fmt: skip
    return sketch


def animal(draws: Draws) -> Sketch:
    """A body on four legs with a head that grows out of it and a snout or beak."""
    sketch = Sketch(len(draws))
    length, height = draws.uniform(0.4, 0.55), draws.uniform(0.22, 0.32)
    width = height * draws.uniform(0.8, 1.1)
    sketch.add(ELLIPSOID, vector(0, 0, 0), sizes(length, height, width), role=BODY)
    sketch.join(
        torch.where(draws.chance(0.6), BLEND, 0), ELLIPSOID, vector(length * 0.8, height * 0.8, 0),
        sizes(height * 0.5, height * 0.8, height * 0.5), rotation=about("z", -0.6), blend=0.2,
    )  # fmt: skip
    head = draws.uniform(0.17, 0.25)
    place = vector(length + head * 0.3, height * 0.7 + head * draws.uniform(0.4, 1.1), 0)
    sketch.add(ELLIPSOID, place, sizes(head * 1.15, head, head), color=draws.choice([0.5, 1]))
    _legs(sketch, draws, length * 0.6, width * 0.55, height + draws.uniform(0.15, 0.4), color=1, four=True, thick=1.5)
    snout = draws.uniform(0.12, 0.25)
    turn = about("z", -math.pi / 2 - draws.uniform(-0.2, 0.5))
    size = sizes(head * 0.55, head * draws.uniform(0.1, 0.5), snout)
    sketch.add(FRUSTUM, place + vector(head * 0.8 + snout * 0.6, -head * 0.15, 0), size, rotation=turn, color=2)
    return sketch


def radio(draws: Draws) -> Sketch:
    """A box with a round front, knobs, an aerial or a handle: radios, cameras, kettles for the table."""
    sketch = Sketch(len(draws))
    width, height, depth = draws.uniform(0.45, 0.6), draws.uniform(0.25, 0.42), draws.uniform(0.15, 0.26)
    sketch.block(width, height, depth, vector(0, 0, 0), role=BODY, color=0)
    dial, front = height * draws.uniform(0.5, 0.85), about("x", math.pi / 2)
    side = draws.side()
    place = vector(side * width * 0.45, 0, depth)
    sketch.add(FRUSTUM, place, sizes(dial, dial * draws.uniform(0.6, 1.0), 0.08), rotation=front, color=1)
    knob = draws.uniform(0.07, 0.12)
    for level, there in ((0.45, None), (-0.35, draws.chance(0.6))):
        center = vector(-side * width * 0.6, height * level, depth)
        sketch.add(FRUSTUM, center, sizes(knob, knob * 0.8, 0.09), rotation=front, color=2, present=there)
    ring = width * draws.uniform(0.5, 0.75)
    arch, handle = about("z", math.pi / 2), draws.chance(0.6)
    sketch.add(
        TORUS, vector(0, height * 0.9, 0), sizes(ring, 0.045, 0, 1.6), rotation=arch, role=HANDLE, color=1,
        present=handle,
    )  # fmt: skip
    tip = vector(-side * width * draws.uniform(0.6, 1.2), height + draws.uniform(0.3, 0.6), -depth * 0.5)
    sketch.rod(vector(-side * width * 0.8, height * 0.9, -depth * 0.5), tip, 0.025, 0.02, role=DETAIL, color=3)
    foot = vector(0, -height - 0.03, 0)
    sketch.block(width * 0.8, 0.04, depth * 0.7, foot, role=DETAIL, color=2)
    return sketch


def tool(draws: Draws) -> Sketch:
    """A hammer, brush, torch or pan, standing or leaning: a grip, a head across it, a tip, a guard, a loop."""
    sketch = Sketch(len(draws))
    lean = about("z", draws.uniform(-0.9, 0.9)) @ about("x", draws.uniform(-0.3, 0.3))
    grip, length = draws.uniform(0.07, 0.12), draws.uniform(0.5, 0.75)

    def at(x: Number, y: Number, z: Number) -> Tensor:
        return (lean @ vector(x, y, z).expand(len(draws), 3)[..., None])[..., 0]

    sketch.add(FRUSTUM, at(0, 0, 0), sizes(grip, grip * 0.75, length), rotation=lean, role=HANDLE, color=1)
    kind, across = draws.choice([1, 1, 1]), draws.uniform(0.25, 0.42)
    thick = draws.uniform(0.12, 0.2)
    sideways = lean @ about("z", math.pi / 2)
    size = torch.where((kind == FRUSTUM)[:, None], sizes(thick, thick * 0.8, across), sizes(thick, across, thick * 1.1))
    sketch.add(kind, at(draws.uniform(-0.1, 0.1), length, 0), size, rotation=sideways, role=BODY, color=0)
    tip = draws.uniform(0.1, 0.18)
    sketch.add(
        FRUSTUM, at(across + tip * 0.5, length, 0), sizes(thick * 0.9, thick * 0.2, tip),
        rotation=lean @ about("z", -math.pi / 2), color=2,
    )  # fmt: skip
    sketch.add(FRUSTUM, at(0, length * 0.55, 0), sizes(grip * 1.4, grip * 1.3, 0.06), rotation=lean, color=2)
    sketch.add(
        TORUS, at(0, -length - 0.08, 0), sizes(0.12, 0.035, 0, math.pi), rotation=lean, color=3,
        present=draws.chance(0.6),
    )  # fmt: skip
    return sketch


def house(draws: Draws) -> Sketch:
    """A house or tower: walls, a roof, a chimney, a door, a window."""
    sketch = Sketch(len(draws))
    width, height, depth = draws.uniform(0.35, 0.5), draws.uniform(0.28, 0.5), draws.uniform(0.3, 0.45)
    tower = draws.chance(0.4)
    size = torch.where(tower[:, None], sizes(width * 0.9, width * 0.75, height), sizes(width, height, depth))
    sketch.add(torch.where(tower, FRUSTUM, BOX), vector(0, 0, 0), size, role=BODY)
    roof = draws.uniform(0.2, 0.35)
    ridge = about("x", math.pi / 4)
    # a gable is a box on its edge, cut off below by a larger box
    edge = depth * 0.78
    gable = torch.where(tower[:, None], sizes(width * 1.05, 0.02, roof), sizes(width * 1.1, edge, edge))
    level = torch.where(tower, height + roof * 0.95, height)
    sketch.add(
        torch.where(tower, FRUSTUM, BOX), vector(0, level, 0), gable, role=LID, color=1,
        rotation=torch.where(tower[:, None, None], torch.eye(3), ridge),
    )  # fmt: skip
    sketch.join(torch.where(tower, 0, CUT), BOX, vector(0, height - 1.0, 0), sizes(2, 1, 2), rotation=about("y", 0.0))
    sketch.block(0.07, 0.2, 0.07, vector(width * 0.5 * draws.side(), height + 0.25, depth * 0.3), role=DETAIL, color=2)
    front = torch.where(tower, width * 0.82, depth)
    sketch.block(
        0.1, height * 0.4, 0.05, vector(width * draws.uniform(-0.5, 0.1), -height * 0.6, front), role=DETAIL, color=2
    )
    pane = draws.uniform(0.08, 0.13)
    sketch.block(pane, pane, 0.04, vector(width * 0.45, height * 0.2, front), role=DETAIL, color=3)
    shed = draws.chance(0.5)
    sketch.add(
        BOX, vector(width * 1.1, -height * 0.5, 0), sizes(width * 0.5, height * 0.5, depth * 0.6), color=0, present=shed
    )
    return sketch


def solids(draws: Draws, least: int = 1) -> Sketch:
    """`least` to seven rotated primitives that touch, alone or cut, intersected, blended with another."""
    sketch = Sketch(len(draws))
    count = least + (draws.unit() * (MAX_PARTS + 1 - least)).long()
    center = torch.zeros(len(draws), 3)
    for number in range(MAX_PARTS):
        kind, scale = draws.choice([1, 1, 1, 0.5]), draws.uniform(0.3, 0.5) * (1.0 if number < 1 else 0.75)
        size = _solid_size(draws, kind, scale)
        sketch.add(
            kind, center, size, rotation=draws.rotation(), role=BODY, present=number < count,
            color=number if number < 2 else draws.choice([1, 1, 1, 1]),
        )  # fmt: skip
        other = draws.choice([1, 1, 1])
        joint = torch.where(kind == TORUS, 0, draws.choice(_JOINT_WEIGHTS))
        near = vector(draws.uniform(-0.5, 0.5), draws.uniform(-0.5, 0.5), draws.uniform(-0.5, 0.5)) * scale[:, None]
        reach = torch.where(joint == INTERSECT, scale * 1.3, scale * 0.7)
        near = torch.where((joint == CUT)[:, None], near * 2, near)
        sketch.join(
            joint, other, center + near, _solid_size(draws, other, reach), rotation=draws.rotation(), blend=scale * 0.5
        )
        step = vector(draws.uniform(-1, 1), draws.uniform(-0.6, 1), draws.uniform(-1, 1))
        center = (center + step / step.norm(dim=-1, keepdim=True) * scale[:, None] * 0.9) * 0.9
    return sketch


def _solid_size(draws: Draws, kind: Tensor, scale: Tensor) -> Tensor:
    a, b, c = (draws.uniform(0.4, 1.0) * scale for _ in range(3))
    ring = sizes(scale * 0.8, scale * draws.uniform(0.15, 0.35), 0, draws.uniform(1.5, math.pi))
    return torch.where((kind == TORUS)[:, None], ring, sizes(a, b, c))


def _legs(
    sketch: Sketch,
    draws: Draws,
    width: Tensor,
    depth: Tensor,
    drop: Tensor,
    *,
    color: int | Tensor,
    four: bool = False,
    thick: float = 1.0,
) -> None:
    """Four legs at the corners ±width, ±depth, or three of them, down to y = -drop, a little splayed."""
    three = torch.zeros(len(draws), dtype=torch.bool) if four else draws.chance(0.3)
    radius, splay = draws.uniform(0.03, 0.055) * thick, draws.uniform(0.95, 1.2)
    for number, (x, z) in enumerate(_CORNERS):
        across = torch.where(three & (number == 2), 0.0, float(x)) * width
        start = vector(across, 0, z * depth)
        end = vector(across * splay, -drop, z * depth * splay)
        present = ~three if number == 3 else None
        sketch.rod(end, start, radius, radius * 1.25, role=LEG, color=color, present=present)
