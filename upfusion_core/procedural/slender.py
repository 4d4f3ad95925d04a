"""Recipes of version 2 of the generator: packets and fruit, and things that are long, flat, bent, hollow or thin.

Lying things lie along x. Proportions are moderate, as version 2 stretches all things, see staging.py.
"""

import math

import torch

from .objects import Recipe, thing
from .shapes import BLEND, BODY, BOX, CUT, HANDLE, LID
from .sketch import Draws, Sketch, about, ball, box, either, ellipsoid, frustum, moved, ring, rod, vector

SLENDER: list[tuple[Recipe, float]] = []  # beside objects.THINGS

_FLAT, _ALONG = about("x", math.pi / 2), about("z", -math.pi / 2)  # lays a ring down; turns +y to +x


@thing(7.0, SLENDER)
def packet(sketch: Sketch, draws: Draws) -> None:
    """A carton, a can or a tub with a lid, a label and a picture on its front."""
    square, width, height = draws.chance(0.6), draws.uniform(0.4, 0.7), draws.uniform(0.35, 0.7)
    depth = torch.where(square, width * draws.uniform(0.3, 1.0), width)
    sketch.add(either(square, box(width, height, depth), frustum(width * 0.9, width, height)), role=BODY)
    sketch.label(draws.uniform(0, 6.28), draws.uniform(0.4, 1.0), height * draws.uniform(-0.4, 0.4), height * 0.4,
                 draws.chance(0.7))  # fmt: skip
    lid = either(square, box(width, 0.05, depth), frustum(width * 1.05, width * 1.05, 0.08))
    sketch.add(lid, (0, height, 0), role=LID, color=1, present=draws.chance(0.6))
    for color in (2, 3):
        place = (width * draws.uniform(-0.4, 0.4), height * draws.uniform(-0.5, 0.5), depth * draws.side())
        picture = box(width * draws.uniform(0.15, 0.5), height * draws.uniform(0.1, 0.4), 0.012)
        sketch.add(picture, place, color=color, present=square & draws.chance(0.7))


@thing(2.5, SLENDER)
def fruit(sketch: Sketch, draws: Draws) -> None:
    """A round or pear-shaped fruit with a stem and perhaps a leaf."""
    width, height, lean = draws.uniform(0.4, 0.5), draws.uniform(0.35, 0.5), draws.uniform(-0.3, 0.3)
    sketch.add(ellipsoid(width, height, width * draws.uniform(0.85, 1.0)), role=BODY)
    top, joint = ball(draws.uniform(0.2, 0.35)), torch.where(draws.chance(0.6), BLEND, 0)
    sketch.join(joint, top, (lean, height * draws.uniform(0.6, 1.1), 0), blend=0.3)
    level, stem = height * draws.uniform(0.85, 0.95), draws.uniform(0.2, 0.5)
    sketch.add(*rod((lean * 0.5, level, 0), (lean * 1.2, level + stem, 0), 0.045, 0.03), color=2)
    leaf, there = ellipsoid(draws.uniform(0.1, 0.2), 0.02, 0.07), draws.chance(0.5)
    sketch.add(leaf, (lean + 0.12, level + stem * 0.8, 0), about("z", 0.5), color=1, present=there)


@thing(1.8, SLENDER)
def crescent(sketch: Sketch, draws: Draws) -> None:
    """A banana, horn, horseshoe or hook, lying or standing: a bent body whose ends taper or go on straight."""
    half, tube, lying = draws.uniform(0.5, 1.8), draws.uniform(0.06, 0.2), draws.chance(0.6)[:, None, None]
    turn = torch.where(lying, _FLAT, about("z", math.pi / 2 * draws.side()))
    sketch.add(ring(0.6, tube, half), turn=turn, role=BODY)
    for color, side in ((1, 1.0), (2, -1.0)):
        end = vector(0.6 * half.cos(), side * 0.6 * half.sin(), 0)
        ahead = vector(-half.sin(), side * half.cos(), 0) * draws.uniform(0.1, 0.5)[:, None]
        start, end = ((turn @ some[..., None])[..., 0] for some in (end, end + ahead))
        sketch.add(*rod(start, end, tube * 0.98, tube * draws.uniform(0.2, 1.0)), color=color)


@thing(1.2, SLENDER)
def hoop(sketch: Sketch, draws: Draws) -> None:
    """A ring, a tyre, a roll of tape or a watch: a hollow round body, standing or lying, with something on it."""
    turn = torch.where(draws.chance(0.5)[:, None, None], _FLAT, about("y", 2 * math.pi * draws.unit()))
    whole, width, wall = draws.chance(0.4), draws.uniform(0.05, 0.4), draws.uniform(0.06, 0.25)
    band = frustum(0.6, 0.6, torch.where(whole, 0.1, width))
    lie = turn @ torch.where(whole[:, None, None], torch.eye(3), _FLAT)  # a ring is drawn about z, a frustum about y
    sketch.add(either(whole, ring(0.6, wall * 0.7, math.pi), band), turn=lie, role=BODY)
    sketch.join(torch.where(whole, 0, CUT), frustum(0.6 - wall, 0.6 - wall, 0.5), (0, 0, 0), lie)
    place, stone, there, size = moved(turn, 0, 0.6), draws.choice([1, 1, 1]), draws.chance(0.6), draws.uniform(0.1, 0.2)
    sketch.add((stone, vector(size, 0.1, size, 0)), place, turn, color=1, present=there)
    sketch.add(ball(size * 0.6), place, color=2, present=there)


@thing(1.5, SLENDER)
def tray(sketch: Sketch, draws: Draws) -> None:
    """An open box, a tray, a shelf on its side or a frame, with something in it and a handle."""
    width, height, depth = draws.uniform(0.5, 0.7), draws.uniform(0.1, 0.4), draws.uniform(0.3, 0.6)
    wall, through = draws.uniform(0.04, 0.1), draws.chance(0.3)
    turn = torch.where((draws.chance(0.3))[:, None, None], _FLAT, torch.eye(3))  # on its side: a shelf, a frame
    sketch.add(box(width, height, depth), turn=turn, role=BODY)
    up = torch.where(through, 0.0, wall)
    sketch.join(CUT, box(width - wall, height + wall, depth - wall), moved(turn, 0, up * 3), turn)
    for color in (1, 2):
        size = draws.uniform(0.1, 0.22)
        place = moved(turn, width * draws.uniform(-0.6, 0.6), 0, depth * draws.uniform(-0.5, 0.5))
        inside = (draws.choice([1, 1, 1]), vector(size, height * 0.8, size * 0.9, 0))
        sketch.add(inside, place, turn, color=color, present=~through & draws.chance(0.6))
    grip, there = ring(height * 0.7, 0.04, 1.6), draws.chance(0.5)
    sketch.add(grip, moved(turn, width, 0), turn, role=HANDLE, color=3, present=there)


@thing(2.0, SLENDER)
def slab(sketch: Sketch, draws: Draws) -> None:
    """A remote control, telephone, book or stapler: a flat block with a screen, buttons and a second layer."""
    width, height, depth = draws.uniform(0.6, 0.8), draws.uniform(0.06, 0.16), draws.uniform(0.16, 0.5)
    soft = draws.chance(0.25)
    sketch.add(either(soft, ellipsoid(width, height * 1.3, depth), box(width, height, depth)), role=BODY)
    upper, tilt = draws.uniform(0.5, 1.05), draws.uniform(0.0, 0.15)
    layer = box(width * upper, height * 0.5, depth * draws.uniform(0.8, 1.05))
    sketch.add(layer, (0, height * 1.4 + width * tilt * 0.7, 0), about("z", tilt), color=1, present=draws.chance(0.4))
    screen = box(width * draws.uniform(0.2, 0.35), 0.02, depth * draws.uniform(0.5, 0.8))
    sketch.add(screen, (-width * 0.5, height * 1.02, 0), color=2)
    disc, size = draws.chance(0.5), depth * draws.uniform(0.15, 0.28)
    for x in (0.1, 0.4, 0.7):
        button = either(disc, frustum(size, size * 0.9, 0.03), box(size, 0.03, depth * 0.5))
        sketch.add(button, (width * x, height * 1.05, 0), color=3, present=draws.chance(0.8))


@thing(1.5, SLENDER)
def scissors(sketch: Sketch, draws: Draws) -> None:
    """Scissors, pliers or tongs lying open: two crossed blades, a ring or a grip at the end of each, a pivot."""
    opening, rings, thin = draws.uniform(0.05, 0.35), draws.chance(0.7), draws.uniform(0.025, 0.06)
    for side in (1.0, -1.0):
        turn = about("y", side * opening)
        blade = either(rings, box(0.5, thin, 0.07), frustum(0.1, 0.03, 0.5))
        way = turn @ torch.where(rings[:, None, None], torch.eye(3), _ALONG)
        sketch.add(blade, moved(turn, 0.35, 0), way, role=BODY)
        sketch.add(frustum(0.06, 0.06, 0.15), moved(turn, -0.25, 0), turn @ _ALONG, role=HANDLE, color=1)
        hold = either(rings, ring(draws.uniform(0.13, 0.2), 0.05, math.pi), ellipsoid(0.35, 0.07, 0.07))
        place = moved(turn, -0.55, 0) + vector(0, 0, side * torch.where(rings, 0.1, 0.0))
        way = turn @ torch.where(rings[:, None, None], _FLAT, torch.eye(3))
        sketch.add(hold, place, way, role=HANDLE, color=1)
    sketch.add(frustum(0.05, 0.05, thin + 0.04), color=2)


@thing(1.8, SLENDER)
def cutlery(sketch: Sketch, draws: Draws) -> None:
    """A spoon, knife, spatula or brush lying down: a grip, a neck, a hollow, flat or thick end."""
    grip, reach, bend = draws.uniform(0.05, 0.1), draws.uniform(0.15, 0.4), draws.uniform(-0.25, 0.25)
    sketch.add(frustum(grip, grip * draws.uniform(0.6, 1.1), 0.45), (-0.5, 0, 0), _ALONG, role=HANDLE, color=1)
    tip = vector(reach, bend * 0.5, 0)
    sketch.add(*rod((-0.1, 0, 0), tip, 0.04, 0.03), color=2)
    kind, wide = draws.choice([1, 1, 1]), draws.uniform(0.12, 0.28)
    long, thick = wide * draws.uniform(1.0, 2.2), draws.uniform(0.03, 0.09)
    head = (torch.where(kind == 1, BOX, 0), vector(long, thick, wide, 0))
    place, tilt = tip + vector(long * 0.9, 0, 0), about("z", bend)
    sketch.add(head, place, tilt, role=BODY)
    scoop = torch.where(kind == 0, CUT, 0)
    sketch.join(scoop, ellipsoid(long * 0.9, thick, wide * 0.9), place + vector(0, thick * 0.6, 0), tilt)
    bristles = box(long * 0.9, 0.12, wide * 0.8)
    sketch.add(bristles, place + vector(0, 0.13, 0), tilt, color=3, present=kind == 1)
    sketch.add(ball(grip * 1.1), (-0.95, 0, 0), color=2, present=draws.chance(0.5))


@thing(1.8, SLENDER)
def pen(sketch: Sketch, draws: Draws) -> None:
    """A pen, torch, tube or screwdriver lying or standing: a barrel, a point, a cap, a clip, a ring round it."""
    turn = torch.where(draws.chance(0.75)[:, None, None], _ALONG, torch.eye(3))
    barrel, taper, flat = draws.uniform(0.1, 0.2), draws.uniform(0.6, 1.1), draws.chance(0.3)
    sketch.add(frustum(barrel, barrel * taper, 0.6), turn=turn, role=BODY)
    turning, there = draws.uniform(0, 6.28), draws.chance(0.7)
    sketch.label(turning, draws.uniform(0.6, 1.5), draws.uniform(-0.2, 0.2), draws.uniform(0.1, 0.35), there)
    end = draws.uniform(0.06, 0.2)
    shape = either(flat, box(barrel, end, 0.03), frustum(barrel * taper, barrel * draws.uniform(0.1, 0.6), end))
    sketch.add(shape, moved(turn, 0, 0.6 + end * 0.95), turn, color=2)
    cap = barrel * draws.uniform(1.02, 1.4)
    sketch.add(frustum(cap, cap, draws.uniform(0.08, 0.2)), moved(turn, 0, -0.55), turn, role=LID, color=1)
    sketch.add(box(0.02, 0.2, 0.03), moved(turn, cap * 1.05, -0.4), turn, color=3, present=draws.chance(0.5))
    sketch.add(frustum(barrel * 1.1, barrel * 1.1, 0.03), moved(turn, 0, draws.uniform(0.1, 0.4)), turn, color=3)
