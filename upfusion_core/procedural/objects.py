"""Recipes of things: what holds something, stands, rolls, walks or works, from mugs and tables to houses.

Each draws one sketch of N objects in free units, +Y up, asymmetric where the things are, the parts that matter first.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .shapes import BLEND, BODY, BOX, CUT, ELLIPSOID, FRUSTUM, HANDLE, LEG, LID, SPOUT, TORUS
from .sketch import Draws, Number, Sketch, about, sizes, vector

Recipe = Callable[[Sketch, Draws], None]

THINGS: list[tuple[Recipe, float]] = []
"""Recipes with their weights, in the order in which seeds choose among them: that of this file."""

_UP = about("z", math.pi / 2)  # turns a torus's section from +x to +y
_CORNERS = ((1, 1), (-1, 1), (1, -1), (-1, -1))


def thing(weight: float) -> Callable[[Recipe], Recipe]:
    """Adds a recipe to THINGS."""

    def added(recipe: Recipe) -> Recipe:
        THINGS.append((recipe, weight))
        return recipe

    return added


@thing(1.2)
def mug(sketch: Sketch, draws: Draws) -> None:
    """A hollow cup with a handle, a foot, and now and then a saucer and a spoon."""
    height, top = draws.uniform(0.35, 0.6), draws.uniform(0.3, 0.48)
    bottom, wall = top * draws.uniform(0.65, 1.1), draws.uniform(0.045, 0.07)
    sketch.hollow(bottom, top, height, vector(0, 0, 0), wall)
    sketch.label(draws.uniform(2.2, 4.6), draws.uniform(0.4, 0.8), 0, height * 0.45, draws.chance(0.6))
    _side_handle(sketch, draws, (top + bottom) / 2 - wall / 2, height)
    sketch.add(FRUSTUM, vector(0, -height - 0.03, 0), sizes(bottom * 0.8, bottom * 0.9, 0.05), color=2)
    saucer, wide = draws.chance(0.35), draws.uniform(0.55, 0.75)
    sketch.add(FRUSTUM, vector(0, -height - 0.09, 0), sizes(wide * 0.6, wide, 0.04), color=1, present=saucer)
    lean = about("x", draws.uniform(-0.5, 0.5)) @ about("z", draws.uniform(0.25, 0.5))
    place, spoon = vector(-0.05, height * 0.6, 0), draws.chance(0.4)
    sketch.add(FRUSTUM, place, sizes(0.03, 0.03, height), rotation=lean, color=2, present=spoon)


@thing(1.2)
def teapot(sketch: Sketch, draws: Draws) -> None:
    """A round or conical body with a spout on one side, a handle on the other, a lid and its knob."""
    round_body, width, height = draws.chance(0.6), draws.uniform(0.42, 0.55), draws.uniform(0.32, 0.5)
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
    foot = draws.chance(0.6)
    sketch.add(FRUSTUM, vector(0, -height, 0), sizes(width * 0.6, width * 0.55, 0.06), color=1, present=foot)


@thing(1.0)
def bottle(sketch: Sketch, draws: Draws) -> None:
    """A bottle, jar or soap dispenser: belly, shoulder, neck, cap, a label on one side, sometimes a pump's spout."""
    width, height, square = draws.uniform(0.2, 0.38), draws.uniform(0.4, 0.75), draws.chance(0.25)
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
    size = sizes(neck * 1.3, neck * draws.uniform(0.8, 1.3), cap)
    sketch.add(FRUSTUM, vector(0, level + reach + cap * 0.6, 0), size, role=LID, color=1)
    pump = draws.chance(0.45)
    tip = level + reach + cap * 1.5
    start, end = vector(-0.05, tip, 0), vector(draws.uniform(0.25, 0.45), tip - draws.uniform(-0.02, 0.08), 0)
    sketch.rod(start.expand(len(draws), 3), end, 0.05, 0.035, role=SPOUT, color=2, present=pump)


@thing(0.8)
def watering_can(sketch: Sketch, draws: Draws) -> None:
    """A can with a long spout that ends in a rose, and an arch to carry it by."""
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
    sketch.rod(end - 0.02 * axis, end + 0.12 * axis, 0.05, wide, color=2)
    ring, angle = top * draws.uniform(0.85, 1.0), draws.uniform(1.5, 1.8)
    sketch.add(TORUS, vector(0, height, 0), sizes(ring, 0.045, 0, angle), rotation=_UP, role=HANDLE, color=1)
    size, back, present = sizes(height * 0.75, 0.045, 0, 1.6), about("y", math.pi), draws.chance(0.6)
    place = vector(-(bottom + top) * 0.47, 0, 0)
    sketch.add(TORUS, place, size, rotation=back, role=HANDLE, color=1, present=present)


@thing(0.7)
def bowl(sketch: Sketch, draws: Draws) -> None:
    """A bowl on a foot with some fruit of different sizes in it."""
    top, height = draws.uniform(0.55, 0.7), draws.uniform(0.18, 0.3)
    bottom = top * draws.uniform(0.4, 0.75)
    sketch.hollow(bottom, top, height, vector(0, 0, 0), draws.uniform(0.05, 0.08))
    sketch.add(FRUSTUM, vector(0, -height - 0.06, 0), sizes(bottom * 0.9, bottom * 0.7, 0.08), color=1)
    turn = draws.uniform(0, 2 * math.pi)
    for number in range(4):
        radius, away = draws.uniform(0.16, 0.28), draws.uniform(0.15, 0.3) * (number > 0)
        angle = turn + number * draws.uniform(1.8, 2.2)
        center = vector(away * angle.sin(), height * 0.55 + radius * 0.55 + 0.12 * (number == 0), away * angle.cos())
        size = sizes(radius, radius * 0.95, radius * draws.uniform(0.8, 1.5))
        rotation, color = about("y", draws.uniform(0, 3)), draws.choice([0.5, 1, 1, 1])
        present = None if number < 2 else draws.chance(0.6)
        sketch.add(ELLIPSOID, center, size, rotation=rotation, color=color, present=present)


@thing(0.9)
def plant(sketch: Sketch, draws: Draws) -> None:
    """A pot with a stem and leaves or a crown; the pot has a rim or a label."""
    top, height = draws.uniform(0.25, 0.36), draws.uniform(0.2, 0.3)
    bottom = top * draws.uniform(0.6, 0.95)
    sketch.hollow(bottom, top, height, vector(0, 0, 0), 0.05)
    sketch.label(draws.uniform(0, 6.28), draws.uniform(0.5, 0.9), 0, height * 0.5, draws.chance(0.5))
    stem, lean = draws.uniform(0.3, 0.55), draws.uniform(-0.15, 0.15)
    crown = vector(lean, height + stem, 0)
    sketch.rod(vector(0, -height * 0.5, 0).expand(len(draws), 3), crown, 0.05, 0.035, color=2)
    ball, turn = draws.chance(0.5), draws.uniform(0, 2 * math.pi)
    for number in range(4):
        angle = turn + number * draws.uniform(1.3, 1.9)
        out = vector(angle.sin(), 0, angle.cos())
        length, width = draws.uniform(0.2, 0.34), draws.uniform(0.07, 0.12)
        tilt, drop = about("y", angle) @ about("x", draws.uniform(0.3, 1.0)), draws.uniform(0.0, 0.35)
        size = torch.where(ball[:, None], sizes(length * 0.8, length * 0.7, length * 0.75), sizes(width, length, 0.03))
        away = torch.where(ball, length * 0.35, length * 0.8)
        center = crown + away[:, None] * out + vector(0, torch.where(ball, draws.uniform(-0.1, 0.12), -drop * stem), 0)
        sketch.add(ELLIPSOID, center, size, rotation=tilt, color=3, present=None if number < 2 else draws.chance(0.7))


@thing(0.8)
def basket(sketch: Sketch, draws: Draws) -> None:
    """A bag or basket: a box or tub with an arched handle, a flap or pocket on the front, something sticking out."""
    width, height, depth = draws.uniform(0.35, 0.55), draws.uniform(0.25, 0.45), draws.uniform(0.16, 0.3)
    sketch.add(BOX, vector(0, 0, 0), sizes(width, height, depth), role=BODY)
    wall = draws.uniform(0.03, 0.05)
    sketch.join(CUT, BOX, vector(0, wall * 2, 0), sizes(width - wall, height, depth - wall))
    ring = width * draws.uniform(0.6, 0.9)
    size = sizes(ring, draws.uniform(0.03, 0.05), 0, draws.uniform(1.5, 1.7))
    sketch.add(TORUS, vector(0, height * 0.95, 0), size, rotation=_UP, role=HANDLE, color=1)
    pocket = draws.uniform(0.35, 0.7)
    center = vector(width * draws.uniform(-0.2, 0.2), -height * 0.3, depth)
    sketch.add(BOX, center, sizes(width * pocket, height * 0.45, 0.04), color=draws.choice([0, 1, 1]))
    loaf, place = draws.uniform(0.08, 0.14), draws.uniform(-0.5, 0.5)
    lean = about("z", draws.uniform(-0.5, 0.5))
    present, center = draws.chance(0.6), vector(width * place, height * 0.8, 0)
    sketch.add(ELLIPSOID, center, sizes(loaf, height * 0.7, loaf), rotation=lean, color=3, present=present)
    buckle, center = draws.uniform(0.04, 0.08), vector(width * 0.6 * draws.side(), height * 0.45, depth)
    sketch.add(ELLIPSOID, center, sizes(buckle, buckle, 0.04), color=2)


@thing(0.9)
def table(sketch: Sketch, draws: Draws) -> None:
    """A round or rectangular top on three or four legs, with something left standing on it."""
    disc, width = draws.chance(0.45), draws.uniform(0.45, 0.65)
    depth = width * draws.uniform(0.55, 1.0)
    thick, drop = draws.uniform(0.035, 0.07), draws.uniform(0.35, 0.65)
    kind = torch.where(disc, FRUSTUM, BOX)
    size = torch.where(disc[:, None], sizes(width * 0.93, width, thick), sizes(width, thick, depth))
    sketch.add(kind, vector(0, 0, 0), size, role=BODY)
    _legs(sketch, draws, width * 0.72, torch.where(disc, width, depth) * 0.7, drop, color=draws.choice([0.3, 1]))
    place = width * draws.uniform(0.15, 0.4) * draws.side()
    tall, wide, kinds = draws.uniform(0.1, 0.25), draws.uniform(0.1, 0.18), draws.choice([1, 1, 1])
    center = vector(place, thick + tall * 0.95, depth * draws.uniform(-0.25, 0.25))
    size = torch.where((kinds == FRUSTUM)[:, None], sizes(wide, wide * 0.7, tall), sizes(wide, tall, wide))
    sketch.add(kinds, center, size, rotation=about("y", draws.uniform(0, 3)), color=2)
    ball = draws.uniform(0.07, 0.12)
    center = vector(-place * 0.8, thick + ball * 0.9, depth * draws.uniform(-0.3, 0.3))
    sketch.add(ELLIPSOID, center, sizes(ball, ball, ball), color=3, present=draws.chance(0.5))


@thing(0.9)
def chair(sketch: Sketch, draws: Draws) -> None:
    """A seat on four legs with a back, and an arm rest or a cushion."""
    width, depth = draws.uniform(0.32, 0.42), draws.uniform(0.3, 0.4)
    drop, rise, thick = draws.uniform(0.35, 0.5), draws.uniform(0.3, 0.5), draws.uniform(0.04, 0.07)
    sketch.add(BOX, vector(0, 0, 0), sizes(width, thick, depth), role=BODY)
    back_kind = torch.where(draws.chance(0.7), BOX, ELLIPSOID)
    tilt = about("x", -draws.uniform(0.0, 0.25))
    center, color = vector(0, rise, -depth * draws.uniform(0.9, 1.1)), draws.choice([1, 1])
    sketch.add(back_kind, center, sizes(width, rise, 0.05), rotation=tilt, role=BODY, color=color)
    _legs(sketch, draws, width * 0.82, depth * 0.82, drop, color=2, four=True)
    cushion, arm = draws.chance(0.5), vector(width * draws.side(), rise * 0.55, 0)
    size = torch.where(cushion[:, None], sizes(width * 0.8, 0.09, depth * 0.75), sizes(0.05, rise * 0.5, depth * 0.8))
    center = torch.where(cushion[:, None], vector(0, thick + 0.06, 0.04), arm)
    sketch.add(torch.where(cushion, ELLIPSOID, BOX), center, size, color=3)


@thing(0.9)
def lamp(sketch: Sketch, draws: Draws) -> None:
    """A foot, a leaning pole, a shade, a switch, and perhaps a second arm."""
    top, height = draws.uniform(0.16, 0.3), draws.uniform(0.16, 0.26)
    bottom = top * draws.uniform(1.1, 2.0)
    pole, lean = draws.uniform(0.7, 1.0), draws.uniform(-0.3, 0.3)
    head = vector(lean, pole, 0)
    sketch.add(FRUSTUM, head, sizes(bottom, top, height), rotation=about("z", lean * draws.uniform(0, 1.6)), role=BODY)
    foot = draws.uniform(0.22, 0.34)
    sketch.add(FRUSTUM, vector(0, 0, 0), sizes(foot, foot * draws.uniform(0.4, 0.95), 0.06), color=1)
    sketch.rod(vector(0, 0, 0).expand(len(draws), 3), head, 0.04, 0.035, color=2)
    knob, there = draws.uniform(0.1, 0.2), draws.chance(0.6)
    sketch.add(ELLIPSOID, vector(lean * 0.4, pole * 0.4, 0), sizes(knob, knob, knob), color=1, present=there)
    arm = vector(-draws.uniform(0.25, 0.4) * torch.where(lean > 0, 1.0, -1.0), pole * draws.uniform(0.7, 0.9), 0)
    second = draws.chance(0.45)
    sketch.rod(vector(lean * 0.5, pole * 0.5, 0), arm, 0.03, 0.03, color=2, present=second)
    bulb = draws.uniform(0.1, 0.15)
    sketch.add(FRUSTUM, arm, sizes(bulb * 1.3, bulb * 0.6, bulb), color=3, present=second)
    sketch.add(BOX, vector(foot * 0.45, 0.08, 0.08), sizes(0.05, 0.04, 0.07), color=3)


@thing(0.9)
def car(sketch: Sketch, draws: Draws) -> None:
    """A body with a cabin towards one end, four wheels, and a load, an exhaust or a roof box."""
    length, height, width = draws.uniform(0.6, 0.8), draws.uniform(0.12, 0.2), draws.uniform(0.28, 0.36)
    sketch.add(BOX, vector(0, 0, 0), sizes(length, height, width), role=BODY)
    cabin, rise, bend = length * draws.uniform(0.3, 0.5), draws.uniform(0.12, 0.24), draws.chance(0.5)
    place = -length * draws.uniform(0.1, 0.4)
    size = torch.where(bend[:, None], sizes(cabin * 1.2, rise * 1.3, width * 0.9), sizes(cabin, rise, width * 0.9))
    center = vector(place, height + rise * torch.where(bend, 0.3, 0.95), 0)
    sketch.add(torch.where(bend, ELLIPSOID, BOX), center, size, color=1, role=BODY)
    wheel = draws.uniform(0.14, 0.2)
    for x, z in _CORNERS:
        center, turn = vector(x * length * 0.62, -height, z * width), about("x", z * math.pi / 2)
        sketch.add(FRUSTUM, center, sizes(wheel, wheel * 0.95, 0.06), rotation=turn, color=2)
    load, disc = draws.uniform(0.08, 0.16), draws.chance(0.5)
    size = torch.where(disc[:, None], sizes(load * 0.7, load * 0.5, load), sizes(load * 1.2, load, width * 0.7))
    center = vector(length * draws.uniform(0.35, 0.6), height + load * 0.8, 0)
    sketch.add(torch.where(disc, FRUSTUM, BOX), center, size, color=3)


@thing(1.0)
def animal(sketch: Sketch, draws: Draws) -> None:
    """A body on four legs with a head that grows out of it and a snout or beak."""
    length, height = draws.uniform(0.4, 0.55), draws.uniform(0.22, 0.32)
    width = height * draws.uniform(0.8, 1.1)
    sketch.add(ELLIPSOID, vector(0, 0, 0), sizes(length, height, width), role=BODY)
    smooth, center = torch.where(draws.chance(0.6), BLEND, 0), vector(length * 0.8, height * 0.8, 0)
    size = sizes(height * 0.5, height * 0.8, height * 0.5)
    sketch.join(smooth, ELLIPSOID, center, size, rotation=about("z", -0.6), blend=0.2)
    head = draws.uniform(0.17, 0.25)
    place = vector(length + head * 0.3, height * 0.7 + head * draws.uniform(0.4, 1.1), 0)
    sketch.add(ELLIPSOID, place, sizes(head * 1.15, head, head), color=draws.choice([0.5, 1]))
    _legs(sketch, draws, length * 0.6, width * 0.55, height + draws.uniform(0.15, 0.4), color=1, four=True, thick=1.5)
    snout, turn = draws.uniform(0.12, 0.25), about("z", -math.pi / 2 - draws.uniform(-0.2, 0.5))
    size = sizes(head * 0.55, head * draws.uniform(0.1, 0.5), snout)
    sketch.add(FRUSTUM, place + vector(head * 0.8 + snout * 0.6, -head * 0.15, 0), size, rotation=turn, color=2)


@thing(0.9)
def radio(sketch: Sketch, draws: Draws) -> None:
    """A box with a round front, knobs, an aerial or a handle: radios, cameras, kettles for the table."""
    width, height, depth = draws.uniform(0.45, 0.6), draws.uniform(0.25, 0.42), draws.uniform(0.15, 0.26)
    sketch.add(BOX, vector(0, 0, 0), sizes(width, height, depth), role=BODY)
    dial, front, side = height * draws.uniform(0.5, 0.85), about("x", math.pi / 2), draws.side()
    place = vector(side * width * 0.45, 0, depth)
    sketch.add(FRUSTUM, place, sizes(dial, dial * draws.uniform(0.6, 1.0), 0.08), rotation=front, color=1)
    knob = draws.uniform(0.07, 0.12)
    for level, there in ((0.45, None), (-0.35, draws.chance(0.6))):
        center = vector(-side * width * 0.6, height * level, depth)
        sketch.add(FRUSTUM, center, sizes(knob, knob * 0.8, 0.09), rotation=front, color=2, present=there)
    ring = width * draws.uniform(0.5, 0.75)
    center, size, present = vector(0, height * 0.9, 0), sizes(ring, 0.045, 0, 1.6), draws.chance(0.6)
    sketch.add(TORUS, center, size, rotation=_UP, role=HANDLE, color=1, present=present)
    tip = vector(-side * width * draws.uniform(0.6, 1.2), height + draws.uniform(0.3, 0.6), -depth * 0.5)
    sketch.rod(vector(-side * width * 0.8, height * 0.9, -depth * 0.5), tip, 0.025, 0.02, color=3)
    sketch.add(BOX, vector(0, -height - 0.03, 0), sizes(width * 0.8, 0.04, depth * 0.7), color=2)


@thing(0.8)
def tool(sketch: Sketch, draws: Draws) -> None:
    """A hammer, brush, torch or pan, standing or leaning: a grip, a head across it, a tip, a guard, a loop."""
    lean = about("z", draws.uniform(-0.9, 0.9)) @ about("x", draws.uniform(-0.3, 0.3))
    grip, length = draws.uniform(0.07, 0.12), draws.uniform(0.5, 0.75)

    def at(x: Number, y: Number, z: Number) -> Tensor:
        return (lean @ vector(x, y, z).expand(len(draws), 3)[..., None])[..., 0]

    sketch.add(FRUSTUM, at(0, 0, 0), sizes(grip, grip * 0.75, length), rotation=lean, role=HANDLE, color=1)
    kind, across, thick = draws.choice([1, 1, 1]), draws.uniform(0.25, 0.42), draws.uniform(0.12, 0.2)
    sideways = lean @ about("z", math.pi / 2)
    size = torch.where((kind == FRUSTUM)[:, None], sizes(thick, thick * 0.8, across), sizes(thick, across, thick * 1.1))
    sketch.add(kind, at(draws.uniform(-0.1, 0.1), length, 0), size, rotation=sideways, role=BODY)
    tip = draws.uniform(0.1, 0.18)
    place, size = at(across + tip * 0.5, length, 0), sizes(thick * 0.9, thick * 0.2, tip)
    sketch.add(FRUSTUM, place, size, rotation=lean @ about("z", -math.pi / 2), color=2)
    sketch.add(FRUSTUM, at(0, length * 0.55, 0), sizes(grip * 1.4, grip * 1.3, 0.06), rotation=lean, color=2)
    place, size, loop = at(0, -length - 0.08, 0), sizes(0.12, 0.035, 0, math.pi), draws.chance(0.6)
    sketch.add(TORUS, place, size, rotation=lean, color=3, present=loop)


@thing(0.9)
def house(sketch: Sketch, draws: Draws) -> None:
    """A house or tower: walls, a roof, a chimney, a door, a window."""
    width, height, depth = draws.uniform(0.35, 0.5), draws.uniform(0.28, 0.5), draws.uniform(0.3, 0.45)
    tower = draws.chance(0.4)
    size = torch.where(tower[:, None], sizes(width * 0.9, width * 0.75, height), sizes(width, height, depth))
    sketch.add(torch.where(tower, FRUSTUM, BOX), vector(0, 0, 0), size, role=BODY)
    roof = draws.uniform(0.2, 0.35)
    # a gable is a box on its edge, cut off below by a larger box
    edge = depth * 0.78
    gable = torch.where(tower[:, None], sizes(width * 1.05, 0.02, roof), sizes(width * 1.1, edge, edge))
    level = torch.where(tower, height + roof * 0.95, height)
    rotation = torch.where(tower[:, None, None], torch.eye(3), about("x", math.pi / 4))
    sketch.add(torch.where(tower, FRUSTUM, BOX), vector(0, level, 0), gable, role=LID, color=1, rotation=rotation)
    sketch.join(torch.where(tower, 0, CUT), BOX, vector(0, height - 1.0, 0), sizes(2, 1, 2), rotation=about("y", 0.0))
    sketch.add(BOX, vector(width * 0.5 * draws.side(), height + 0.25, depth * 0.3), sizes(0.07, 0.2, 0.07), color=2)
    front = torch.where(tower, width * 0.82, depth)
    door = vector(width * draws.uniform(-0.5, 0.1), -height * 0.6, front)
    sketch.add(BOX, door, sizes(0.1, height * 0.4, 0.05), color=2)
    pane = draws.uniform(0.08, 0.13)
    sketch.add(BOX, vector(width * 0.45, height * 0.2, front), sizes(pane, pane, 0.04), color=3)
    size, shed = sizes(width * 0.5, height * 0.5, depth * 0.6), draws.chance(0.5)
    sketch.add(BOX, vector(width * 1.1, -height * 0.5, 0), size, present=shed)


def kettle_on_legs(sketch: Sketch, draws: Draws) -> None:
    """The held-out combination: a kettle with a spout, a lid, and three legs of its own."""
    width, height = draws.uniform(0.4, 0.55), draws.uniform(0.3, 0.42)
    sketch.add(ELLIPSOID, vector(0, 0, 0), sizes(width, height, width), role=BODY)
    _spout(sketch, draws, width, height, color=draws.choice([1, 1]))
    turn, reach, splay = draws.uniform(0, 2), draws.uniform(0.3, 0.45), draws.uniform(0.65, 0.9)
    for number in range(3):
        angle = turn + number * 2 * math.pi / 3
        down = vector(width * 0.55 * angle.sin(), -height * 0.5, width * 0.55 * angle.cos())
        floor = vector(width * splay * angle.sin(), -height - reach, width * splay * angle.cos())
        sketch.rod(floor, down, 0.05, 0.075, role=LEG, color=1)
    sketch.add(ELLIPSOID, vector(0, height * 0.9, 0), sizes(width * 0.5, height * 0.3, width * 0.5), role=LID, color=2)
    knob = draws.uniform(0.06, 0.1)
    sketch.add(ELLIPSOID, vector(0, height * 1.25, 0), sizes(knob, knob, knob), color=1)


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
