"""Procedural objects of few plain parts, whose pictures and meshes follow by hand."""

from typing import NamedTuple

import torch
from torch import Tensor

from upfusion_core.procedural import Objects, render_views
from upfusion_core.procedural.render import LIGHT_STRENGTH
from upfusion_core.procedural.shapes import ALONE, BODY, ELLIPSOID, Coats, Light, Primitives
from upfusion_core.types import Cameras, RenderedViews

Shape = tuple[int, tuple[float, float, float], tuple[float, float, float, float]]  # kind, centre, size
BALL: Shape = (ELLIPSOID, (0.0, 0.0, 0.0), (0.2, 0.2, 0.2, 0.0))
COLOR = torch.tensor([0.5, 0.25, 0.75])


class Part(NamedTuple):
    first: Shape
    second: Shape = BALL
    joint: int = ALONE
    color: Tensor = COLOR


def thing(*parts: Part) -> Objects:
    """One object under light that is the same from everywhere, so that its colours are what is seen."""

    def primitives(*shapes: Shape) -> Primitives:
        kinds, centers, sizes = (torch.tensor([values]) for values in zip(*shapes, strict=True))
        return Primitives(kinds, torch.eye(3).repeat(1, len(parts), 1, 1), centers, sizes)

    count = len(parts)
    first, second, joints, colors = zip(*parts, strict=True)
    none, axes = torch.zeros(1, count, 3), torch.eye(3)[:2].expand(1, count, 3, 2, 3)
    pairs = torch.stack(colors)[None, :, None, None].repeat(1, 1, 3, 2, 1)
    coats = Coats(none.long(), pairs, axes, none + 1, none, none)
    light = Light(torch.eye(3)[2:], torch.tensor([LIGHT_STRENGTH]), torch.ones(1, 3) / LIGHT_STRENGTH)
    blends, roles, labels = torch.zeros(1, count), torch.full((1, count), BODY), torch.zeros(1, count, 4)
    return Objects(primitives(*first), primitives(*second), torch.tensor([joints]), blends, roles, coats, labels, light)


def ellipsoid(center: tuple[float, ...], half_axes: tuple[float, ...], color: Tensor = COLOR) -> Part:
    return Part((ELLIPSOID, center, (*half_axes, 0.0)), color=color)


def pictures(objects: Objects, cameras: Cameras, size: int, supersampling: int = 1) -> RenderedViews:
    """Those of one object, each pixel the mean of supersampling² rays."""
    place = cameras.camera_to_world[None], cameras.focal[None]
    return RenderedViews(*(part[0] for part in render_views(objects, *place, size, supersampling=supersampling)))
