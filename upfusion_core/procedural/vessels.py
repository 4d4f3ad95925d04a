"""Recipes of things that hold something: mugs, teapots, bottles, cans, bowls, pots, baskets, kettles on legs.

Each draws one sketch of N objects in free units, +Y up, asymmetric where the things are, the parts that matter first.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .shapes import BLEND, BODY, BOX, CUT, DETAIL, ELLIPSOID, FRUSTUM, HANDLE, LEG, LID, SPOUT, TORUS
from .sketch import Draws, Number, Sketch, about, sizes, vector

_UP = about("z", math.pi / 2)
"""Turns a torus's section from +x to +y."""


def mug(draws: Draws) -> Sketch:
    """A hollow cup with a handle, a foot, and now and then a saucer and a spoon."""
    sketch = Sketch(len(draws))
    height, top = draws.uniform(0.35, 0.6), draws.uniform(0.3, 0.48)
    bottom = top * draws.uniform(0.65, 1.1)
    wall = draws.uniform(0.045, 0.07)
    sketch.hollow(bottom, top, height, vector(0, 0, 0), wall)
    sketch.label(draws.uniform(2.2, 4.6), draws.uniform(0.4, 0.8), 0, height * 0.45, draws.chance(0.6))
    _side_handle(sketch, draws, (top + bottom) / 2 - wall / 2, height)
    sketch.add(FRUSTUM, vector(0, -height - 0.03, 0), sizes(bottom * 0.8, bottom * 0.9, 0.05), color=2)
    saucer = draws.chance(0.35)
    wide = draws.uniform(0.55, 0.75)
    sketch.add(FRUSTUM, vector(0, -height - 0.09, 0), sizes(wide * 0.6, wide, 0.04), color=1, present=saucer)
    lean = about("x", draws.uniform(-0.5, 0.5)) @ about("z", draws.uniform(0.25, 0.5))
    sketch.add(
        FRUSTUM, vector(-0.05, height * 0.6, 0), sizes(0.03, 0.03, height), rotation=lean, color=2,
        present=draws.chance(0.4),
    )  # fmt: skip
    return sketch


def teapot(draws: Draws) -> Sketch:
    """A round or conical body with a spout on one side, a handle on the other, a lid and its knob."""
    sketch = Sketch(len(draws))
    round_body, width = draws.chance(0.6), draws.uniform(0.42, 0.55)
    height = draws.uniform(0.32, 0.5)
    top = width * draws.uniform(0.5, 0.9)
    kind = torch.where(round_body, ELLIPSOID, FRUSTUM)
    size = torch.where(round_body[:, None], sizes(width, height, width), sizes(width, top, height))
    sketch.add(kind, vector(0, 0, 0), size, role=BODY)
    sketch.label(draws.uniform(-0.6, 0.6), draws.uniform(0.4, 0.8), 0, height * 0.5, draws.chance(0.4))
    _spout(sketch, draws, width, height, color=draws.choice([2, 1]))
    _side_handle(sketch, draws, -width * 0.85, height, side=-1)
    radius = torch.where(round_body, width * 0.5, top * 0.85)
    sketch.add(ELLIPSOID, vector(0, height * 0.9, 0), sizes(radius, height * 0.3, radius), role=LID, color=1)
    knob = draws.uniform(0.06, 0.1)
    sketch.add(ELLIPSOID, vector(0, height * 1.2 + knob * 0.6, 0), sizes(knob, knob, knob), color=2)
    sketch.add(
        FRUSTUM, vector(0, -height, 0), sizes(width * 0.6, width * 0.55, 0.06), color=1, present=draws.chance(0.6)
    )
    return sketch


def bottle(draws: Draws) -> Sketch:
    """A bottle, jar or soap dispenser: belly, shoulder, neck, cap, a label on one side, sometimes a pump's spout."""
    sketch = Sketch(len(draws))
    width, height = draws.uniform(0.2, 0.38), draws.uniform(0.4, 0.75)
    square = draws.chance(0.25)
    kind = torch.where(square, BOX, FRUSTUM)
    depth = width * draws.uniform(0.55, 1.0)
    size = torch.where(square[:, None], sizes(width, height, depth), sizes(width, width, height))
    sketch.add(kind, vector(0, 0, 0), size, role=BODY)
    turn = draws.uniform(0, 2 * math.pi)
    sketch.label(turn, draws.uniform(0.6, 1.2), height * draws.uniform(-0.3, 0.2), height * 0.4, draws.chance(0.9))
    neck = width * draws.uniform(0.25, 0.5)
    shoulder, reach = draws.uniform(0.08, 0.22), draws.uniform(0.06, 0.15)
    base = torch.where(square, depth, width) * 0.98
    sketch.add(FRUSTUM, vector(0, height + shoulder, 0), sizes(base, neck, shoulder), role=BODY)
    level = height + 2 * shoulder + reach
    sketch.add(FRUSTUM, vector(0, level, 0), sizes(neck, neck, reach), color=draws.choice([1, 1, 1]))
    cap = draws.uniform(0.06, 0.14)
    sketch.add(
        FRUSTUM, vector(0, level + reach + cap * 0.6, 0), sizes(neck * 1.3, neck * draws.uniform(0.8, 1.3), cap),
        role=LID, color=1,
    )  # fmt: skip
    pump = draws.chance(0.45)
    tip = level + reach + cap * 1.5
    start, end = vector(-0.05, tip, 0), vector(draws.uniform(0.25, 0.45), tip - draws.uniform(-0.02, 0.08), 0)
    sketch.rod(start.expand(len(draws), 3), end, 0.05, 0.035, role=SPOUT, color=2, present=pump)
    return sketch


def watering_can(draws: Draws) -> Sketch:
    """A can with a long spout that ends in a rose, and an arch to carry it by."""
    sketch = Sketch(len(draws))
    bottom, height = draws.uniform(0.32, 0.45), draws.uniform(0.28, 0.4)
    top = bottom * draws.uniform(0.65, 1.0)
    sketch.hollow(bottom, top, height, vector(0, 0, 0), draws.uniform(0.04, 0.06))
    sketch.label(math.pi + draws.uniform(0.4, 1.4), 0.5, 0, height * 0.5, draws.chance(0.5))
    out, rise = draws.uniform(0.75, 1.0), draws.uniform(0.3, 0.6)
    foot = vector(bottom * 0.7, -height * 0.5, 0)
    end = vector(out, rise, 0)
    sketch.rod(foot, end, 0.1, 0.045, role=SPOUT, color=draws.choice([1, 1]))
    axis = (end - foot) / (end - foot).norm(dim=-1, keepdim=True)
    wide = draws.uniform(0.1, 0.16)
    sketch.rod(end - 0.02 * axis, end + 0.12 * axis, 0.05, wide, role=DETAIL, color=2)
    ring = top * draws.uniform(0.85, 1.0)
    angle = draws.uniform(1.5, 1.8)
    sketch.add(TORUS, vector(0, height, 0), sizes(ring, 0.045, 0, angle), rotation=_UP, role=HANDLE, color=1)
    present = draws.chance(0.6)
    sketch.add(
        TORUS, vector(-(bottom + top) * 0.47, 0, 0), sizes(height * 0.75, 0.045, 0, 1.6), rotation=about("y", math.pi),
        role=HANDLE, color=1, present=present,
    )  # fmt: skip
    return sketch


def bowl(draws: Draws) -> Sketch:
    """A bowl on a foot with some fruit of different sizes in it."""
    sketch = Sketch(len(draws))
    top, height = draws.uniform(0.55, 0.7), draws.uniform(0.18, 0.3)
    bottom = top * draws.uniform(0.4, 0.75)
    sketch.hollow(bottom, top, height, vector(0, 0, 0), draws.uniform(0.05, 0.08))
    sketch.add(FRUSTUM, vector(0, -height - 0.06, 0), sizes(bottom * 0.9, bottom * 0.7, 0.08), color=1)
    turn = draws.uniform(0, 2 * math.pi)
    for number in range(4):
        radius = draws.uniform(0.16, 0.28)
        away = draws.uniform(0.15, 0.3) * (number > 0)
        angle = turn + number * draws.uniform(1.8, 2.2)
        center = vector(away * angle.sin(), height * 0.55 + radius * 0.55 + 0.12 * (number == 0), away * angle.cos())
        stretch = draws.uniform(0.8, 1.5)
        sketch.add(
            ELLIPSOID, center, sizes(radius, radius * 0.95, radius * stretch), rotation=about("y", draws.uniform(0, 3)),
            color=draws.choice([0.5, 1, 1, 1]), present=None if number < 2 else draws.chance(0.6),
        )  # fmt: skip
    return sketch


def plant(draws: Draws) -> Sketch:
    """A pot with a stem and leaves or a crown; the pot has a rim or a label."""
    sketch = Sketch(len(draws))
    top, height = draws.uniform(0.25, 0.36), draws.uniform(0.2, 0.3)
    bottom = top * draws.uniform(0.6, 0.95)
    sketch.hollow(bottom, top, height, vector(0, 0, 0), 0.05)
    sketch.label(draws.uniform(0, 6.28), draws.uniform(0.5, 0.9), 0, height * 0.5, draws.chance(0.5))
    stem = draws.uniform(0.3, 0.55)
    lean = draws.uniform(-0.15, 0.15)
    crown = vector(lean, height + stem, 0)
    sketch.rod(vector(0, -height * 0.5, 0).expand(len(draws), 3), crown, 0.05, 0.035, role=DETAIL, color=2)
    ball = draws.chance(0.5)
    turn = draws.uniform(0, 2 * math.pi)
    for number in range(4):
        angle = turn + number * draws.uniform(1.3, 1.9)
        out = vector(angle.sin(), 0, angle.cos())
        length, width = draws.uniform(0.2, 0.34), draws.uniform(0.07, 0.12)
        tilt = about("y", angle) @ about("x", draws.uniform(0.3, 1.0))
        drop = draws.uniform(0.0, 0.35)
        size = torch.where(ball[:, None], sizes(length * 0.8, length * 0.7, length * 0.75), sizes(width, length, 0.03))
        away = torch.where(ball, length * 0.35, length * 0.8)
        center = crown + away[:, None] * out + vector(0, torch.where(ball, draws.uniform(-0.1, 0.12), -drop * stem), 0)
        sketch.add(ELLIPSOID, center, size, rotation=tilt, color=3, present=None if number < 2 else draws.chance(0.7))
    return sketch


def basket(draws: Draws) -> Sketch:
    """A bag or basket: a box or tub with an arched handle, a flap or pocket on the front, something sticking out."""
    sketch = Sketch(len(draws))
    width, height, depth = draws.uniform(0.35, 0.55), draws.uniform(0.25, 0.45), draws.uniform(0.16, 0.3)
    sketch.add(BOX, vector(0, 0, 0), sizes(width, height, depth), role=BODY)
    wall = draws.uniform(0.03, 0.05)
    sketch.join(CUT, BOX, vector(0, wall * 2, 0), sizes(width - wall, height, depth - wall))
    ring = width * draws.uniform(0.6, 0.9)
    sketch.add(
        TORUS, vector(0, height * 0.95, 0), sizes(ring, draws.uniform(0.03, 0.05), 0, draws.uniform(1.5, 1.7)),
        rotation=_UP, role=HANDLE, color=1,
    )  # fmt: skip
    pocket = draws.uniform(0.35, 0.7)
    sketch.block(
        width * pocket, height * 0.45, 0.04, vector(width * draws.uniform(-0.2, 0.2), -height * 0.3, depth),
        role=DETAIL, color=draws.choice([0, 1, 1]),
    )  # fmt: skip
    loaf, place = draws.uniform(0.08, 0.14), draws.uniform(-0.5, 0.5)
    lean = about("z", draws.uniform(-0.5, 0.5))
    present = draws.chance(0.6)
    sketch.add(
        ELLIPSOID, vector(width * place, height * 0.8, 0), sizes(loaf, height * 0.7, loaf), rotation=lean, color=3,
        present=present,
    )  # fmt: skip
    buckle = draws.uniform(0.04, 0.08)
    sketch.add(
        ELLIPSOID, vector(width * 0.6 * draws.side(), height * 0.45, depth), sizes(buckle, buckle, 0.04), color=2
    )
    return sketch


def kettle_on_legs(draws: Draws) -> Sketch:
    """The held-out combination: a kettle with a spout, a lid, and three legs of its own."""
    sketch = Sketch(len(draws))
    width, height = draws.uniform(0.4, 0.55), draws.uniform(0.3, 0.42)
    sketch.add(ELLIPSOID, vector(0, 0, 0), sizes(width, height, width), role=BODY)
    _spout(sketch, draws, width, height, color=draws.choice([1, 1]))
    turn, reach = draws.uniform(0, 2), draws.uniform(0.3, 0.45)
    splay = draws.uniform(0.65, 0.9)
    for number in range(3):
        angle = turn + number * 2 * math.pi / 3
        down = vector(width * 0.55 * angle.sin(), -height * 0.5, width * 0.55 * angle.cos())
        floor = vector(width * splay * angle.sin(), -height - reach, width * splay * angle.cos())
        sketch.rod(floor, down, 0.05, 0.075, role=LEG, color=1)
    sketch.add(ELLIPSOID, vector(0, height * 0.9, 0), sizes(width * 0.5, height * 0.3, width * 0.5), role=LID, color=2)
    knob = draws.uniform(0.06, 0.1)
    sketch.add(ELLIPSOID, vector(0, height * 1.25, 0), sizes(knob, knob, knob), color=1)
    return sketch


def _side_handle(sketch: Sketch, draws: Draws, away: Number, height: Tensor, side: int = 1) -> None:
    """A ring section whose ends lie at x = away, open towards the body; `side` -1 for the -x side."""
    ring, tube = height * draws.uniform(0.5, 0.75), draws.uniform(0.045, 0.075)
    turn = about("y", 0.0 if side > 0 else math.pi)
    size = sizes(ring, tube, 0, draws.uniform(1.5, 1.65))
    sketch.add(TORUS, vector(away, height * draws.uniform(-0.1, 0.15), 0), size, rotation=turn, role=HANDLE, color=1)


def _spout(sketch: Sketch, draws: Draws, width: Tensor, height: Tensor, color: Tensor) -> None:
    """A tapering tube that rises on the +x side; half of them grow smoothly out of a thicker root."""
    start = vector(width * 0.6, -height * draws.uniform(0.0, 0.3), 0)
    end = vector(width * draws.uniform(1.35, 1.7), height * draws.uniform(0.6, 1.0), 0)
    root = draws.uniform(0.1, 0.16)
    sketch.rod(start, end, root, root * draws.uniform(0.4, 0.65), role=SPOUT, color=color)
    smooth = torch.where(draws.chance(0.4), BLEND, 0)
    bulge = root * 1.3
    sketch.join(smooth, ELLIPSOID, start + vector(root, 0, 0), sizes(bulge * 1.2, bulge, bulge), blend=0.12)
