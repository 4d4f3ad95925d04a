"""Recipes of things: what holds something, stands, rolls, walks or works, from mugs and tables to houses.

Each draws one sketch of N objects in free units, +Y up, asymmetric where the things are, the parts that matter first.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .shapes import BLEND, BODY, BOX, CUT, ELLIPSOID, FRUSTUM, HANDLE, INTERSECT, LEG, LID, MAX_PARTS, SPOUT, TORUS
from .sketch import Draws, Number, Point, Sketch, about, ball, box, either, ellipsoid, frustum, moved, ring, rod, vector

Recipe = Callable[[Sketch, Draws], None]

THINGS: list[tuple[Recipe, float]] = []  # recipes with their weights, in the order in which seeds choose among them

_UP = about("z", math.pi / 2)  # turns a torus's section from +x to +y
_CORNERS = ((1, 1), (-1, 1), (1, -1), (-1, -1))


def thing(weight: float, things: list[tuple[Recipe, float]] = THINGS) -> Callable[[Recipe], Recipe]:
    def added(recipe: Recipe) -> Recipe:
        things.append((recipe, weight))
        return recipe

    return added


@thing(1.2)
def mug(sketch: Sketch, draws: Draws) -> None:
    """A hollow cup with a handle, a foot, and now and then a saucer and a spoon."""
    height, top = draws.uniform(0.35, 0.6), draws.uniform(0.3, 0.48)
    bottom, wall = top * draws.uniform(0.65, 1.1), draws.uniform(0.045, 0.07)
    sketch.hollow(bottom, top, height, wall)
    sketch.label(draws.uniform(2.2, 4.6), draws.uniform(0.4, 0.8), 0, height * 0.45, draws.chance(0.6))
    _side_handle(sketch, draws, (top + bottom) / 2 - wall / 2, height)
    sketch.add(frustum(bottom * 0.8, bottom * 0.9, 0.05), (0, -height - 0.03, 0), color=2)
    saucer, wide = draws.chance(0.35), draws.uniform(0.55, 0.75)
    sketch.add(frustum(wide * 0.6, wide, 0.04), (0, -height - 0.09, 0), color=1, present=saucer)
    lean, spoon = about("x", draws.uniform(-0.5, 0.5)) @ about("z", draws.uniform(0.25, 0.5)), draws.chance(0.4)
    sketch.add(frustum(0.03, 0.03, height), (-0.05, height * 0.6, 0), lean, color=2, present=spoon)


@thing(1.2)
def teapot(sketch: Sketch, draws: Draws) -> None:
    """A round or conical body with a spout on one side, a handle on the other, a lid and its knob."""
    round_body, width, height = draws.chance(0.6), draws.uniform(0.42, 0.55), draws.uniform(0.32, 0.5)
    top = width * draws.uniform(0.5, 0.9)
    sketch.add(either(round_body, ellipsoid(width, height, width), frustum(width, top, height)), role=BODY)
    sketch.label(draws.uniform(-0.6, 0.6), draws.uniform(0.4, 0.8), 0, height * 0.5, draws.chance(0.4))
    _spout(sketch, draws, width, height, color=draws.choice([2, 1]))
    _side_handle(sketch, draws, -width * 0.85, height, side=-1)
    radius = torch.where(round_body, width * 0.5, top * 0.85)
    sketch.add(ellipsoid(radius, height * 0.3, radius), (0, height * 0.9, 0), role=LID, color=1)
    knob = draws.uniform(0.06, 0.1)
    sketch.add(ball(knob), (0, height * 1.2 + knob * 0.6, 0), color=2)
    sketch.add(frustum(width * 0.6, width * 0.55, 0.06), (0, -height, 0), color=1, present=draws.chance(0.6))


@thing(1.0)
def bottle(sketch: Sketch, draws: Draws) -> None:
    """A bottle, jar or soap dispenser: belly, shoulder, neck, cap, a label on one side, sometimes a pump's spout."""
    width, height, square = draws.uniform(0.2, 0.38), draws.uniform(0.4, 0.75), draws.chance(0.25)
    depth = width * draws.uniform(0.55, 1.0)
    sketch.add(either(square, box(width, height, depth), frustum(width, width, height)), role=BODY)
    turn = draws.uniform(0, 2 * math.pi)
    sketch.label(turn, draws.uniform(0.6, 1.2), height * draws.uniform(-0.3, 0.2), height * 0.4, draws.chance(0.9))
    neck = width * draws.uniform(0.25, 0.5)
    shoulder, reach = draws.uniform(0.08, 0.22), draws.uniform(0.06, 0.15)
    base = torch.where(square, depth, width) * 0.98
    sketch.add(frustum(base, neck, shoulder), (0, height + shoulder, 0), role=BODY)
    level = height + 2 * shoulder + reach
    sketch.add(frustum(neck, neck, reach), (0, level, 0), color=draws.choice([1, 1, 1]))
    cap = draws.uniform(0.06, 0.14)
    shape = frustum(neck * 1.3, neck * draws.uniform(0.8, 1.3), cap)
    sketch.add(shape, (0, level + reach + cap * 0.6, 0), role=LID, color=1)
    pump, tip = draws.chance(0.45), level + reach + cap * 1.5
    end = (draws.uniform(0.25, 0.45), tip - draws.uniform(-0.02, 0.08), 0)
    sketch.add(*rod((-0.05, tip, 0), end, 0.05, 0.035), role=SPOUT, color=2, present=pump)


@thing(0.8)
def watering_can(sketch: Sketch, draws: Draws) -> None:
    """A can with a long spout that ends in a rose, and an arch to carry it by."""
    bottom, height = draws.uniform(0.32, 0.45), draws.uniform(0.28, 0.4)
    top = bottom * draws.uniform(0.65, 1.0)
    sketch.hollow(bottom, top, height, draws.uniform(0.04, 0.06))
    sketch.label(math.pi + draws.uniform(0.4, 1.4), 0.5, 0, height * 0.5, draws.chance(0.5))
    foot, end = vector(bottom * 0.7, -height * 0.5, 0), vector(draws.uniform(0.75, 1.0), draws.uniform(0.3, 0.6), 0)
    sketch.add(*rod(foot, end, 0.1, 0.045), role=SPOUT, color=draws.choice([1, 1]))
    axis = (end - foot) / (end - foot).norm(dim=-1, keepdim=True)
    sketch.add(*rod(end - 0.02 * axis, end + 0.12 * axis, 0.05, draws.uniform(0.1, 0.16)), color=2)
    arch = ring(top * draws.uniform(0.85, 1.0), 0.045, draws.uniform(1.5, 1.8))
    sketch.add(arch, (0, height, 0), _UP, role=HANDLE, color=1)
    back, place, there = about("y", math.pi), (-(bottom + top) * 0.47, 0, 0), draws.chance(0.6)
    sketch.add(ring(height * 0.75, 0.045, 1.6), place, back, role=HANDLE, color=1, present=there)


@thing(0.7)
def bowl(sketch: Sketch, draws: Draws) -> None:
    """A bowl on a foot with some fruit of different sizes in it."""
    top, height = draws.uniform(0.55, 0.7), draws.uniform(0.18, 0.3)
    bottom = top * draws.uniform(0.4, 0.75)
    sketch.hollow(bottom, top, height, draws.uniform(0.05, 0.08))
    sketch.add(frustum(bottom * 0.9, bottom * 0.7, 0.08), (0, -height - 0.06, 0), color=1)
    turn = draws.uniform(0, 2 * math.pi)
    for number in range(4):
        radius, away = draws.uniform(0.16, 0.28), draws.uniform(0.15, 0.3) * (number > 0)
        angle = turn + number * draws.uniform(1.8, 2.2)
        place = (away * angle.sin(), height * 0.55 + radius * 0.55 + 0.12 * (number == 0), away * angle.cos())
        fruit = ellipsoid(radius, radius * 0.95, radius * draws.uniform(0.8, 1.5))
        rolled, color = about("y", draws.uniform(0, 3)), draws.choice([0.5, 1, 1, 1])
        sketch.add(fruit, place, rolled, color=color, present=None if number < 2 else draws.chance(0.6))


@thing(0.9)
def plant(sketch: Sketch, draws: Draws) -> None:
    """A pot with a stem and leaves or a crown; the pot has a rim or a label."""
    top, height = draws.uniform(0.25, 0.36), draws.uniform(0.2, 0.3)
    bottom = top * draws.uniform(0.6, 0.95)
    sketch.hollow(bottom, top, height, 0.05)
    sketch.label(draws.uniform(0, 6.28), draws.uniform(0.5, 0.9), 0, height * 0.5, draws.chance(0.5))
    stem, lean = draws.uniform(0.3, 0.55), draws.uniform(-0.15, 0.15)
    crown = vector(lean, height + stem, 0)
    sketch.add(*rod((0, -height * 0.5, 0), crown, 0.05, 0.035), color=2)
    bushy, turn = draws.chance(0.5), draws.uniform(0, 2 * math.pi)
    for number in range(4):
        angle = turn + number * draws.uniform(1.3, 1.9)
        length, width = draws.uniform(0.2, 0.34), draws.uniform(0.07, 0.12)
        tilt, drop = about("y", angle) @ about("x", draws.uniform(0.3, 1.0)), draws.uniform(0.0, 0.35)
        leaf = either(bushy, ellipsoid(length * 0.8, length * 0.7, length * 0.75), ellipsoid(width, length, 0.03))
        away = torch.where(bushy, length * 0.35, length * 0.8)
        up = torch.where(bushy, draws.uniform(-0.1, 0.12), -drop * stem)
        place = crown + away[:, None] * vector(angle.sin(), 0, angle.cos()) + vector(0, up, 0)
        sketch.add(leaf, place, tilt, color=3, present=None if number < 2 else draws.chance(0.7))


@thing(0.8)
def basket(sketch: Sketch, draws: Draws) -> None:
    """A bag or basket: a box or tub with an arched handle, a flap or pocket on the front, something sticking out."""
    width, height, depth = draws.uniform(0.35, 0.55), draws.uniform(0.25, 0.45), draws.uniform(0.16, 0.3)
    sketch.add(box(width, height, depth), role=BODY)
    wall = draws.uniform(0.03, 0.05)
    sketch.join(CUT, box(width - wall, height, depth - wall), (0, wall * 2, 0))
    arch = ring(width * draws.uniform(0.6, 0.9), draws.uniform(0.03, 0.05), draws.uniform(1.5, 1.7))
    sketch.add(arch, (0, height * 0.95, 0), _UP, role=HANDLE, color=1)
    pocket = box(width * draws.uniform(0.35, 0.7), height * 0.45, 0.04)
    sketch.add(pocket, (width * draws.uniform(-0.2, 0.2), -height * 0.3, depth), color=draws.choice([0, 1, 1]))
    loaf, place = draws.uniform(0.08, 0.14), (width * draws.uniform(-0.5, 0.5), height * 0.8, 0)
    lean, there = about("z", draws.uniform(-0.5, 0.5)), draws.chance(0.6)
    sketch.add(ellipsoid(loaf, height * 0.7, loaf), place, lean, color=3, present=there)
    buckle = draws.uniform(0.04, 0.08)
    sketch.add(ellipsoid(buckle, buckle, 0.04), (width * 0.6 * draws.side(), height * 0.45, depth), color=2)


@thing(0.9)
def table(sketch: Sketch, draws: Draws) -> None:
    """A round or rectangular top on three or four legs, with something left standing on it."""
    disc, width = draws.chance(0.45), draws.uniform(0.45, 0.65)
    depth = width * draws.uniform(0.55, 1.0)
    thick, drop = draws.uniform(0.035, 0.07), draws.uniform(0.35, 0.65)
    sketch.add(either(disc, frustum(width * 0.93, width, thick), box(width, thick, depth)), role=BODY)
    reach = (width * 0.72, drop, torch.where(disc, width, depth) * 0.7)
    _legs(sketch, draws, reach, draws.choice([0.3, 1]), four=False)
    place = width * draws.uniform(0.15, 0.4) * draws.side()
    tall, wide, kind = draws.uniform(0.1, 0.25), draws.uniform(0.1, 0.18), draws.choice([1, 1, 1])
    left = either(kind == FRUSTUM, frustum(wide, wide * 0.7, tall), (kind, vector(wide, tall, wide, 0)))
    center = (place, thick + tall * 0.95, depth * draws.uniform(-0.25, 0.25))
    sketch.add(left, center, about("y", draws.uniform(0, 3)), color=2)
    radius = draws.uniform(0.07, 0.12)
    center = (-place * 0.8, thick + radius * 0.9, depth * draws.uniform(-0.3, 0.3))
    sketch.add(ball(radius), center, color=3, present=draws.chance(0.5))


@thing(0.9)
def chair(sketch: Sketch, draws: Draws) -> None:
    """A seat on four legs with a back, and an arm rest or a cushion."""
    width, depth = draws.uniform(0.32, 0.42), draws.uniform(0.3, 0.4)
    drop, rise, thick = draws.uniform(0.35, 0.5), draws.uniform(0.3, 0.5), draws.uniform(0.04, 0.07)
    sketch.add(box(width, thick, depth), role=BODY)
    back, tilt = torch.where(draws.chance(0.7), BOX, ELLIPSOID), about("x", -draws.uniform(0.0, 0.25))
    place, color = (0, rise, -depth * draws.uniform(0.9, 1.1)), draws.choice([1, 1])
    sketch.add((back, vector(width, rise, 0.05, 0)), place, tilt, role=BODY, color=color)
    _legs(sketch, draws, (width * 0.82, drop, depth * 0.82), color=2)
    soft, side = draws.chance(0.5), draws.side()
    rest = either(soft, ellipsoid(width * 0.8, 0.09, depth * 0.75), box(0.05, rise * 0.5, depth * 0.8))
    center = torch.where(soft[:, None], vector(0, thick + 0.06, 0.04), vector(width * side, rise * 0.55, 0))
    sketch.add(rest, center, color=3)


@thing(0.9)
def lamp(sketch: Sketch, draws: Draws) -> None:
    """A foot, a leaning pole, a shade, a switch, and perhaps a second arm."""
    top, height = draws.uniform(0.16, 0.3), draws.uniform(0.16, 0.26)
    bottom = top * draws.uniform(1.1, 2.0)
    pole, lean = draws.uniform(0.7, 1.0), draws.uniform(-0.3, 0.3)
    head = (lean, pole, 0)
    sketch.add(frustum(bottom, top, height), head, about("z", lean * draws.uniform(0, 1.6)), role=BODY)
    foot = draws.uniform(0.22, 0.34)
    sketch.add(frustum(foot, foot * draws.uniform(0.4, 0.95), 0.06), color=1)
    sketch.add(*rod((0, 0, 0), head, 0.04, 0.035), color=2)
    sketch.add(ball(draws.uniform(0.1, 0.2)), (lean * 0.4, pole * 0.4, 0), color=1, present=draws.chance(0.6))
    arm = (-draws.uniform(0.25, 0.4) * torch.where(lean > 0, 1.0, -1.0), pole * draws.uniform(0.7, 0.9), 0)
    second, bulb = draws.chance(0.45), draws.uniform(0.1, 0.15)
    sketch.add(*rod((lean * 0.5, pole * 0.5, 0), arm, 0.03, 0.03), color=2, present=second)
    sketch.add(frustum(bulb * 1.3, bulb * 0.6, bulb), arm, color=3, present=second)
    sketch.add(box(0.05, 0.04, 0.07), (foot * 0.45, 0.08, 0.08), color=3)


@thing(0.9)
def car(sketch: Sketch, draws: Draws) -> None:
    """A body with a cabin towards one end, four wheels, and a load, an exhaust or a roof box."""
    length, height, width = draws.uniform(0.6, 0.8), draws.uniform(0.12, 0.2), draws.uniform(0.28, 0.36)
    sketch.add(box(length, height, width), role=BODY)
    cabin, rise, bend = length * draws.uniform(0.3, 0.5), draws.uniform(0.12, 0.24), draws.chance(0.5)
    place = (-length * draws.uniform(0.1, 0.4), height + rise * torch.where(bend, 0.3, 0.95), 0)
    shape = either(bend, ellipsoid(cabin * 1.2, rise * 1.3, width * 0.9), box(cabin, rise, width * 0.9))
    sketch.add(shape, place, color=1, role=BODY)
    wheel = draws.uniform(0.14, 0.2)
    for x, z in _CORNERS:
        hub, axle = (x * length * 0.62, -height, z * width), about("x", z * math.pi / 2)
        sketch.add(frustum(wheel, wheel * 0.95, 0.06), hub, axle, color=2)
    load, disc = draws.uniform(0.08, 0.16), draws.chance(0.5)
    shape = either(disc, frustum(load * 0.7, load * 0.5, load), box(load * 1.2, load, width * 0.7))
    sketch.add(shape, (length * draws.uniform(0.35, 0.6), height + load * 0.8, 0), color=3)


@thing(1.0)
def animal(sketch: Sketch, draws: Draws) -> None:
    """A body on four legs with a head that grows out of it and a snout or beak."""
    length, height = draws.uniform(0.4, 0.55), draws.uniform(0.22, 0.32)
    width = height * draws.uniform(0.8, 1.1)
    sketch.add(ellipsoid(length, height, width), role=BODY)
    smooth, neck = torch.where(draws.chance(0.6), BLEND, 0), ellipsoid(height * 0.5, height * 0.8, height * 0.5)
    sketch.join(smooth, neck, (length * 0.8, height * 0.8, 0), about("z", -0.6), blend=0.2)
    head = draws.uniform(0.17, 0.25)
    place = vector(length + head * 0.3, height * 0.7 + head * draws.uniform(0.4, 1.1), 0)
    sketch.add(ellipsoid(head * 1.15, head, head), place, color=draws.choice([0.5, 1]))
    _legs(sketch, draws, (length * 0.6, height + draws.uniform(0.15, 0.4), width * 0.55), color=1, thick=1.5)
    snout, ahead = draws.uniform(0.12, 0.25), about("z", -math.pi / 2 - draws.uniform(-0.2, 0.5))
    place = place + vector(head * 0.8 + snout * 0.6, -head * 0.15, 0)
    sketch.add(frustum(head * 0.55, head * draws.uniform(0.1, 0.5), snout), place, ahead, color=2)


@thing(0.9)
def radio(sketch: Sketch, draws: Draws) -> None:
    """A box with a round front, knobs, an aerial or a handle: radios, cameras, kettles for the table."""
    width, height, depth = draws.uniform(0.45, 0.6), draws.uniform(0.25, 0.42), draws.uniform(0.15, 0.26)
    sketch.add(box(width, height, depth), role=BODY)
    dial, front, side = height * draws.uniform(0.5, 0.85), about("x", math.pi / 2), draws.side()
    shape = frustum(dial, dial * draws.uniform(0.6, 1.0), 0.08)
    sketch.add(shape, (side * width * 0.45, 0, depth), front, color=1)
    knob = draws.uniform(0.07, 0.12)
    for level, there in ((0.45, None), (-0.35, draws.chance(0.6))):
        place = (-side * width * 0.6, height * level, depth)
        sketch.add(frustum(knob, knob * 0.8, 0.09), place, front, color=2, present=there)
    grip, there = ring(width * draws.uniform(0.5, 0.75), 0.045, 1.6), draws.chance(0.6)
    sketch.add(grip, (0, height * 0.9, 0), _UP, role=HANDLE, color=1, present=there)
    tip = (-side * width * draws.uniform(0.6, 1.2), height + draws.uniform(0.3, 0.6), -depth * 0.5)
    sketch.add(*rod((-side * width * 0.8, height * 0.9, -depth * 0.5), tip, 0.025, 0.02), color=3)
    sketch.add(box(width * 0.8, 0.04, depth * 0.7), (0, -height - 0.03, 0), color=2)


@thing(0.8)
def tool(sketch: Sketch, draws: Draws) -> None:
    """A hammer, brush, torch or pan, standing or leaning: a grip, a head across it, a tip, a guard, a loop."""
    lean = about("z", draws.uniform(-0.9, 0.9)) @ about("x", draws.uniform(-0.3, 0.3))
    grip, length = draws.uniform(0.07, 0.12), draws.uniform(0.5, 0.75)
    sketch.add(frustum(grip, grip * 0.75, length), turn=lean, role=HANDLE, color=1)
    kind, across, thick = draws.choice([1, 1, 1]), draws.uniform(0.25, 0.42), draws.uniform(0.12, 0.2)
    block = (kind, vector(thick, across, thick * 1.1, 0))
    head = either(kind == FRUSTUM, frustum(thick, thick * 0.8, across), block)
    sketch.add(head, moved(lean, draws.uniform(-0.1, 0.1), length), lean @ about("z", math.pi / 2), role=BODY)
    tip, ahead = draws.uniform(0.1, 0.18), lean @ about("z", -math.pi / 2)
    sketch.add(frustum(thick * 0.9, thick * 0.2, tip), moved(lean, across + tip * 0.5, length), ahead, color=2)
    sketch.add(frustum(grip * 1.4, grip * 1.3, 0.06), moved(lean, 0, length * 0.55), lean, color=2)
    sketch.add(ring(0.12, 0.035, math.pi), moved(lean, 0, -length - 0.08), lean, color=3, present=draws.chance(0.6))


@thing(0.9)
def house(sketch: Sketch, draws: Draws) -> None:
    """A house or tower: walls, a roof, a chimney, a door, a window."""
    width, height, depth = draws.uniform(0.35, 0.5), draws.uniform(0.28, 0.5), draws.uniform(0.3, 0.45)
    tower = draws.chance(0.4)
    sketch.add(either(tower, frustum(width * 0.9, width * 0.75, height), box(width, height, depth)), role=BODY)
    roof, edge = draws.uniform(0.2, 0.35), depth * 0.78
    # a gable is a box on its edge, cut off below by a larger box
    shape = either(tower, frustum(width * 1.05, 0.02, roof), box(width * 1.1, edge, edge))
    level = torch.where(tower, height + roof * 0.95, height)
    on_edge = torch.where(tower[:, None, None], torch.eye(3), about("x", math.pi / 4))
    sketch.add(shape, (0, level, 0), on_edge, role=LID, color=1)
    sketch.join(torch.where(tower, 0, CUT), box(2, 1, 2), (0, height - 1.0, 0), torch.eye(3))
    sketch.add(box(0.07, 0.2, 0.07), (width * 0.5 * draws.side(), height + 0.25, depth * 0.3), color=2)
    front = torch.where(tower, width * 0.82, depth)
    sketch.add(box(0.1, height * 0.4, 0.05), (width * draws.uniform(-0.5, 0.1), -height * 0.6, front), color=2)
    pane = draws.uniform(0.08, 0.13)
    sketch.add(box(pane, pane, 0.04), (width * 0.45, height * 0.2, front), color=3)
    shed = box(width * 0.5, height * 0.5, depth * 0.6)
    sketch.add(shed, (width * 1.1, -height * 0.5, 0), present=draws.chance(0.5))


def solids(sketch: Sketch, draws: Draws, least: int = 1) -> None:
    """`least` to seven rotated primitives that touch, alone or cut, intersected, blended with another."""

    def size_of(kind: Tensor, scale: Tensor) -> Tensor:
        a, b, c = (draws.uniform(0.4, 1.0) * scale for _ in range(3))
        whole = vector(scale * 0.8, scale * draws.uniform(0.15, 0.35), 0, draws.uniform(1.5, math.pi))
        return torch.where((kind == TORUS)[:, None], whole, vector(a, b, c, 0))

    count = least + (draws.unit() * (MAX_PARTS + 1 - least)).long()
    center = torch.zeros(len(draws), 3)
    for number in range(MAX_PARTS):
        kind, scale = draws.choice([1, 1, 1, 0.5]), draws.uniform(0.3, 0.5) * (1.0 if number < 1 else 0.75)
        shape, turn = (kind, size_of(kind, scale)), draws.rotation()
        color = number if number < 2 else draws.choice([1, 1, 1, 1])
        sketch.add(shape, center, turn, role=BODY, present=number < count, color=color)
        other = draws.choice([1, 1, 1])
        joint = torch.where(kind == TORUS, 0, draws.choice([0.7, 0.08, 0.1, 0.12]))  # ALONE, CUT, INTERSECT, BLEND
        near = vector(*(draws.uniform(-0.5, 0.5) for _ in range(3))) * scale[:, None]
        near = torch.where((joint == CUT)[:, None], near * 2, near)
        reach = torch.where(joint == INTERSECT, scale * 1.3, scale * 0.7)
        shape, turn = (other, size_of(other, reach)), draws.rotation()
        sketch.join(joint, shape, center + near, turn, blend=scale * 0.5)
        step = vector(draws.uniform(-1, 1), draws.uniform(-0.6, 1), draws.uniform(-1, 1))
        center = (center + step / step.norm(dim=-1, keepdim=True) * scale[:, None] * 0.9) * 0.9


def kettle_on_legs(sketch: Sketch, draws: Draws) -> None:
    """The held-out combination: a kettle with a spout, a lid, and three legs of its own."""
    width, height = draws.uniform(0.4, 0.55), draws.uniform(0.3, 0.42)
    sketch.add(ellipsoid(width, height, width), role=BODY)
    _spout(sketch, draws, width, height, color=draws.choice([1, 1]))
    turn, reach, splay = draws.uniform(0, 2), draws.uniform(0.3, 0.45), draws.uniform(0.65, 0.9)
    for number in range(3):
        angle = turn + number * 2 * math.pi / 3
        down = (width * 0.55 * angle.sin(), -height * 0.5, width * 0.55 * angle.cos())
        floor = (width * splay * angle.sin(), -height - reach, width * splay * angle.cos())
        sketch.add(*rod(floor, down, 0.05, 0.075), role=LEG, color=1)
    sketch.add(ellipsoid(width * 0.5, height * 0.3, width * 0.5), (0, height * 0.9, 0), role=LID, color=2)
    sketch.add(ball(draws.uniform(0.06, 0.1)), (0, height * 1.25, 0), color=1)


def _side_handle(sketch: Sketch, draws: Draws, away: Number, height: Tensor, side: int = 1) -> None:
    """A ring section whose ends lie at x = away, open towards the body; `side` -1 for the -x side."""
    radius, tube = height * draws.uniform(0.5, 0.75), draws.uniform(0.045, 0.075)
    shape, turn = ring(radius, tube, draws.uniform(1.5, 1.65)), about("y", 0.0 if side > 0 else math.pi)
    sketch.add(shape, (away, height * draws.uniform(-0.1, 0.15), 0), turn, role=HANDLE, color=1)


def _spout(sketch: Sketch, draws: Draws, width: Tensor, height: Tensor, color: Tensor) -> None:
    """A tapering tube that rises on the +x side; half of them grow smoothly out of a thicker root."""
    start = vector(width * 0.6, -height * draws.uniform(0.0, 0.3), 0)
    end = (width * draws.uniform(1.35, 1.7), height * draws.uniform(0.6, 1.0), 0)
    root = draws.uniform(0.1, 0.16)
    sketch.add(*rod(start, end, root, root * draws.uniform(0.4, 0.65)), role=SPOUT, color=color)
    smooth, bulge = torch.where(draws.chance(0.4), BLEND, 0), root * 1.3
    sketch.join(smooth, ellipsoid(bulge * 1.2, bulge, bulge), start + vector(root, 0, 0), blend=0.12)


def _legs(sketch: Sketch, draws: Draws, reach: Point, color: Number, four: bool = True, thick: float = 1) -> None:
    """Four legs at the corners ±x, ±z of `reach`, or three of them, down to -y, a little splayed."""
    x, down, z = reach
    three = torch.zeros(len(draws), dtype=torch.bool) if four else draws.chance(0.3)
    radius, splay = draws.uniform(0.03, 0.055) * thick, draws.uniform(0.95, 1.2)
    for number, (right, front) in enumerate(_CORNERS):
        across = torch.where(three & (number == 2), 0.0, float(right)) * x
        leg = rod((across * splay, -down, front * z * splay), (across, 0, front * z), radius, radius * 1.25)
        sketch.add(*leg, role=LEG, color=color, present=~three if number == 3 else None)
