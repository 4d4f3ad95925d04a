"""What tests of fields and meshes know by hand: a colour, a tetrahedron, and MESH where the host has a stub."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor

COLOR = (0.8, 0.4, 0.2)
"""sRGB of the field `ball` (conftest.py), the same everywhere."""


class PlainMesh:
    """ComfyUI's MESH as far as the nodes use it, for hosts that have a stub only."""

    def __init__(
        self,
        vertices: Tensor,
        faces: Tensor,
        uvs: Tensor | None = None,
        vertex_colors: Tensor | None = None,
        **others: object,
    ) -> None:
        self.vertices, self.faces, self.uvs, self.vertex_colors = vertices, faces, uvs, vertex_colors
        self.texture, self.unlit = others.get("texture"), others.get("unlit", False)
        self.vertex_counts, self.face_counts = others.get("vertex_counts"), others.get("face_counts")


def a_mesh(**changes: object) -> SimpleNamespace:
    """A MESH of a tetrahedron with a linear colour at each corner."""
    vertices = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]])
    faces = torch.tensor([[[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]])
    colors = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0, 0.2142, 0], [0, 0, 1]]])  # 0.2142 is 0.5 in sRGB
    values = {"vertices": vertices, "faces": faces, "uvs": None, "vertex_colors": colors, "texture": None}
    counts = {"vertex_counts": None, "face_counts": None, "unlit": False}
    return SimpleNamespace(**(values | counts | changes))
