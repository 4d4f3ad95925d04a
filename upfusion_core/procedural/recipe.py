"""Drawing objects from their seeds: which recipe, its shapes, its coats, its light, scaled into the frame.

Every object is a row of uniform numbers from a CPU generator with its seed; a batch of rows becomes objects without a
loop over them, and a row's object does not depend on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from . import furnishings, vessels
from .paint import draw_coats, draw_light, draw_palette
from .shapes import ABSENT, MAX_PARTS, Objects, Primitives, check_objects
from .sketch import LARGEST_RADIUS, Draws, Sketch, framed
from .splits import SPLITS

SHAPE_COLUMNS, COAT_COLUMNS, OTHER_COLUMNS = 224, 256, 32
"""Uniform numbers an object has for its shape, its coats, and recipe, palette, light and size."""
COLUMNS = SHAPE_COLUMNS + COAT_COLUMNS + OTHER_COLUMNS

Recipe = Callable[[Draws], Sketch]


def _many_solids(draws: Draws) -> Sketch:
    return furnishings.solids(draws, least=3)


_THINGS: tuple[tuple[Recipe, float], ...] = (
    (vessels.mug, 1.2),
    (vessels.teapot, 1.2),
    (vessels.bottle, 1.0),
    (vessels.watering_can, 0.8),
    (vessels.bowl, 0.7),
    (vessels.plant, 0.9),
    (vessels.basket, 0.8),
    (furnishings.table, 0.9),
    (furnishings.chair, 0.9),
    (furnishings.lamp, 0.9),
    (furnishings.car, 0.9),
    (furnishings.animal, 1.0),
    (furnishings.radio, 0.9),
    (furnishings.tool, 0.8),
    (furnishings.house, 0.9),
)
RECIPES: dict[str, tuple[tuple[Recipe, float], ...]] = {
    "train": (*_THINGS, (furnishings.solids, 3.0)),
    "validation": (*_THINGS, (furnishings.solids, 3.0)),
    "test": (*_THINGS, (_many_solids, 2.0)),
    "held_out": (*_THINGS, (_many_solids, 2.0)),
}
"""Recipes of each split with their weights; test objects have at least three parts by construction."""


def draw_objects(split: str, indices: Sequence[int] | Tensor, *, extra: int = 0) -> tuple[Objects, Tensor]:
    """Objects of a split on the CPU, and `extra` more uniform numbers of each, (B, extra).

    Object i is a pure function of the generator's version, the split and i.

    Raises:
        InputError: an index is outside of the split.
    """
    seeds = SPLITS[split].seeds(indices)
    generator, columns = torch.Generator(), COLUMNS + extra
    rows = [torch.rand(columns, generator=generator.manual_seed(seed)) for seed in seeds]
    uniforms = torch.stack(rows) if rows else torch.empty(0, columns)
    shape, coat, other, more = uniforms.split([SHAPE_COLUMNS, COAT_COLUMNS, OTHER_COLUMNS, extra], dim=1)
    held_out = torch.tensor([split == "held_out" and int(index) % 2 == 0 for index in indices])
    dotted = torch.tensor([split == "held_out" and int(index) % 2 == 1 for index in indices])
    draws = Draws(other)
    parts = _drawn_parts(RECIPES[split], draws, shape, held_out)
    radius = draws.uniform(LARGEST_RADIUS - 0.017, LARGEST_RADIUS)
    palette, light = draw_palette(draws), draw_light(draws)
    objects = Objects(
        first=_primitives(parts, ""),
        second=_primitives(parts, "second_"),
        joint=parts["joint"],
        blend=parts["blend"],
        role=parts["role"],
        coats=draw_coats(Draws(coat), palette, parts["color"], dotted),
        label=parts["label"],
        light=light,
    )
    check_objects(objects)
    return framed(objects, radius), more


def _drawn_parts(
    recipes: tuple[tuple[Recipe, float], ...], draws: Draws, shape: Tensor, held_out: Tensor
) -> dict[str, Tensor]:
    """The parts' tensors (B, P, ...): each recipe draws all of its objects at once."""
    which = draws.choice([weight for _, weight in recipes])
    which = torch.where(held_out, len(recipes), which)
    functions = [*(recipe for recipe, _ in recipes), vessels.kettle_on_legs]
    result: dict[str, Tensor] = {}
    for number, recipe in enumerate(functions):
        rows = (which == number).nonzero().squeeze(1)
        if not len(rows):
            continue
        sketch = recipe(Draws(shape[rows]))
        for slot, part in enumerate(sketch.parts):
            for name, value in part.items():
                if name not in result:
                    result[name] = _padding(name, value, len(which))
                result[name][rows, slot] = value
    return result


def _padding(name: str, value: Tensor, count: int) -> Tensor:
    """(B, P, ...) of harmless values: absent parts are small upright ellipsoids."""
    shape = (count, MAX_PARTS, *value.shape[1:])
    if name == "role":
        return torch.full(shape, ABSENT, dtype=torch.int64)
    if name.endswith("rotation"):
        return torch.eye(3).expand(shape).clone()
    return torch.full(shape, 0.01) if name.endswith("size") else torch.zeros(shape, dtype=value.dtype)


def _primitives(parts: dict[str, Tensor], prefix: str) -> Primitives:
    return Primitives(*(parts[prefix + name] for name in ("kind", "rotation", "center", "size")))
