"""Drawing objects from their seeds: which recipe, its shapes, its coats, its light, scaled into the frame.

Every object is a row of uniform numbers from a CPU generator with its seed; a batch of rows becomes objects without a
loop over them, and a row's object does not depend on the rows beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from .objects import THINGS, Recipe, kettle_on_legs
from .paint import draw_coats, draw_light, draw_palette
from .shapes import ABSENT, BODY, CUT, INTERSECT, MAX_PARTS, SPLITS, TORUS, Objects, Primitives
from .sketch import LARGEST_RADIUS, Draws, Sketch, framed, sizes, vector

# uniform numbers that an object has for its shape, its coats, and recipe, palette, light and size
SHAPE_COLUMNS, COAT_COLUMNS, OTHER_COLUMNS = 224, 256, 32
COLUMNS = SHAPE_COLUMNS + COAT_COLUMNS + OTHER_COLUMNS


def _solids(sketch: Sketch, draws: Draws, least: int = 1) -> None:
    """`least` to seven rotated primitives that touch, alone or cut, intersected, blended with another."""
    count = least + (draws.unit() * (MAX_PARTS + 1 - least)).long()
    center = torch.zeros(len(draws), 3)
    for number in range(MAX_PARTS):
        kind, scale = draws.choice([1, 1, 1, 0.5]), draws.uniform(0.3, 0.5) * (1.0 if number < 1 else 0.75)
        size = _solid_size(draws, kind, scale)
        rotation, color = draws.rotation(), number if number < 2 else draws.choice([1, 1, 1, 1])
        sketch.add(kind, center, size, rotation=rotation, role=BODY, present=number < count, color=color)
        other = draws.choice([1, 1, 1])
        joint = torch.where(kind == TORUS, 0, draws.choice([0.7, 0.08, 0.1, 0.12]))  # ALONE, CUT, INTERSECT, BLEND
        near = vector(draws.uniform(-0.5, 0.5), draws.uniform(-0.5, 0.5), draws.uniform(-0.5, 0.5)) * scale[:, None]
        reach = torch.where(joint == INTERSECT, scale * 1.3, scale * 0.7)
        near = torch.where((joint == CUT)[:, None], near * 2, near)
        sketch.join(
            joint, other, center + near, _solid_size(draws, other, reach), rotation=draws.rotation(), blend=scale * 0.5
        )
        step = vector(draws.uniform(-1, 1), draws.uniform(-0.6, 1), draws.uniform(-1, 1))
        center = (center + step / step.norm(dim=-1, keepdim=True) * scale[:, None] * 0.9) * 0.9


def _solid_size(draws: Draws, kind: Tensor, scale: Tensor) -> Tensor:
    a, b, c = (draws.uniform(0.4, 1.0) * scale for _ in range(3))
    ring = sizes(scale * 0.8, scale * draws.uniform(0.15, 0.35), 0, draws.uniform(1.5, math.pi))
    return torch.where((kind == TORUS)[:, None], ring, sizes(a, b, c))


def draw_objects(split: str, indices: Sequence[int] | Tensor, *, extra: int = 0) -> tuple[Objects, Tensor]:
    """Objects of a split on the CPU, and `extra` more uniform numbers of each, (B, extra).

    Object i is a pure function of the generator's version, the split and i; InputError where there is none.
    """
    seeds = SPLITS[split].seeds(indices)
    generator, columns = torch.Generator(), COLUMNS + extra
    rows = [torch.rand(columns, generator=generator.manual_seed(seed)) for seed in seeds]
    uniforms = torch.stack(rows) if rows else torch.empty(0, columns)
    shape, coat, other, more = uniforms.split([SHAPE_COLUMNS, COAT_COLUMNS, OTHER_COLUMNS, extra], dim=1)
    held_out = torch.tensor([split == "held_out" and int(index) % 2 == 0 for index in indices])
    dotted = torch.tensor([split == "held_out" and int(index) % 2 == 1 for index in indices])
    draws = Draws(other)
    # solids for tests have three parts or more
    solids = (_solids, 3.0) if split in ("train", "validation") else (partial(_solids, least=3), 2.0)
    recipes, weights = zip(*THINGS, solids, strict=True)
    which = torch.where(held_out, len(recipes), draws.choice(list(weights)))
    parts = _drawn_parts([*recipes, kettle_on_legs], which, shape)
    radius = draws.uniform(LARGEST_RADIUS - 0.017, LARGEST_RADIUS)
    palette, light = draw_palette(draws), draw_light(draws)
    objects = Objects(
        first=Primitives(*(parts[name] for name in ("kind", "rotation", "center", "size"))),
        second=Primitives(*(parts[f"second_{name}"] for name in ("kind", "rotation", "center", "size"))),
        joint=parts["joint"],
        blend=parts["blend"],
        role=parts["role"],
        coats=draw_coats(Draws(coat), palette, parts["color"], dotted),
        label=parts["label"],
        light=light,
    )
    carved = objects.present & ((objects.joint == CUT) | (objects.joint == INTERSECT))
    rings = (objects.first.kind == TORUS) | (objects.second.kind == TORUS)
    assert not (carved & rings).any(), "a torus, which has no single interval along a ray, takes no cut or intersection"
    return framed(objects, radius), more


def _drawn_parts(recipes: list[Recipe], which: Tensor, shape: Tensor) -> dict[str, Tensor]:
    """The parts' tensors (B, P, ...), recipe `which` (B,) of each: a recipe draws all of its objects at once.

    Absent parts have harmless values: small upright ellipsoids.
    """
    result: dict[str, Tensor] = {}
    for number, recipe in enumerate(recipes):
        rows = (which == number).nonzero().squeeze(1)
        if not len(rows):
            continue
        sketch = Sketch(len(rows))
        recipe(sketch, Draws(shape[rows]))
        for slot, part in enumerate(sketch.parts):
            for name, value in part.items():
                if name not in result:
                    filling = ABSENT if name == "role" else 0.01 if name.endswith("size") else 0
                    result[name] = torch.full((len(which), MAX_PARTS, *value.shape[1:]), filling, dtype=value.dtype)
                    if name.endswith("rotation"):
                        result[name] += torch.eye(3)
                result[name][rows, slot] = value
    return result
