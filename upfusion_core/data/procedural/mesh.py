"""The true surface of procedural objects: signed distances and meshes."""

from __future__ import annotations

import numpy as np
import torch
import trimesh
from skimage.measure import marching_cubes
from torch import Tensor

from ...checks import check_count, check_shape
from ...errors import InputError
from .render import albedo
from .shapes import Objects
from .tables import Tables
from .tracing import part_distance

HALF_BOX = 0.21
"""The cube ±HALF_BOX holds every object, whose radius is at most 0.2."""

_CHUNK_POINTS = 1 << 18


def signed_distance(objects: Objects, points: Tensor) -> Tensor:
    """(B, M) signed distances of world points (B, M, 3) to the objects, negative inside.

    The zero set and the sign are exact. Outside, the value is at most the true distance but for ellipsoids, whose
    value is of first order; inside of several parts it is the deepest part's.
    """
    check_shape("points", points, (len(objects), "M", 3), "M points an object")
    count, amount, _ = points.shape
    tables, parts = Tables.of(objects), objects.role.shape[1]
    flat = points.reshape(-1, 3).T
    owner = torch.arange(count, device=points.device).repeat_interleave(amount, output_size=count * amount)
    result = torch.full((count * amount,), torch.inf, device=points.device)
    for part in range(parts):
        result = torch.minimum(result, part_distance(tables, owner * parts + part, flat))
    return result.view(count, amount)


def true_mesh(objects: Objects, resolution: int = 128) -> trimesh.Trimesh:
    """The surface of one object as a closed triangle mesh in its world, with vertex colours without light.

    Marching cubes on `resolution` cells along each axis of the cube ±0.21: a cell is 0.42 / resolution, and features
    thinner than a cell may be lost. Walls inside of a union are not part of it.

    Raises:
        InputError: `objects` are not exactly one.
    """
    if len(objects) != 1:
        raise InputError(f"true_mesh takes one object, got {len(objects)}; index the batch, e.g. objects[0]")
    check_count("resolution", resolution, 8)
    axis = torch.linspace(-HALF_BOX, HALF_BOX, resolution + 1, device=objects.device)
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)
    values = torch.cat([signed_distance(objects, chunk[None])[0] for chunk in grid.split(_CHUNK_POINTS)])
    volume = values.view(len(axis), len(axis), len(axis)).cpu().numpy()
    cell = 2 * HALF_BOX / resolution
    vertices, faces, _, _ = marching_cubes(volume, 0.0, spacing=(cell, cell, cell))
    mesh = trimesh.Trimesh(vertices - HALF_BOX, faces, process=True)
    mesh.fix_normals()
    colors = albedo(objects, torch.tensor(np.asarray(mesh.vertices), dtype=torch.float32, device=objects.device))
    mesh.visual.vertex_colors = (colors.cpu().numpy() * 255).round().astype(np.uint8)
    return mesh
