"""A field's surface as flat Gaussians, as splat viewers and ComfyUI's splat nodes take them, and their .ply file."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..field.radiance import RadianceField
from ..field.rendering import weights_from_density
from ..support.errors import OutputError
from ..support.files import check_path, replacing
from ..types import OnStep
from .extract import extract_mesh

HARMONIC = 0.28209479177387814  # the first spherical harmonic: 1 / (2 √π)
WIDE, THIN = 0.6, 0.06  # least standard deviations along the surface and across it, in distances of samples
REACH, LOOKS = 0.1, 49  # of the longest side, outwards and inwards, in which light is followed, and at how many places
_FRAME = torch.tensor([1.0, -1.0, -1.0])  # our axes in the frame of splat files, and back


@dataclass(frozen=True, eq=False)
class SplatAsset:
    """N flat Gaussians in the frame of splat files: (x, -y, -z) of our world, in scene units."""

    positions: Tensor  # (N, 3)
    scales: Tensor  # (N, 3) standard deviations along their own axes, the third across the surface
    rotations: Tensor  # (N, 4) unit quaternions w, x, y, z
    opacities: Tensor  # (N,) in [0, 1]
    colors: Tensor  # (N, 3) sRGB in [0, 1], the same from all sides

    @property
    def harmonics(self) -> Tensor:
        """(N, 1, 3) coefficients of the colours."""
        return ((self.colors - 0.5) / HARMONIC)[:, None]

    @property
    def places(self) -> Tensor:
        """(N, 3) positions in our world."""
        return self.positions * _FRAME

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a `.ply` as Gaussian trainers do: logarithms of scales, logits of opacities."""
        check_path("path", path)
        path = Path(path)
        if path.suffix.lower() != ".ply":
            raise OutputError(f"splats are written as .ply, got {path.name!r}; change the suffix")
        logits = self.opacities.clamp(1e-6, 1 - 1e-6).logit()[:, None]
        columns = [self.positions, 0 * self.positions, self.harmonics[:, 0], logits, self.scales.log(), self.rotations]
        names = [*"xyz", *("n" + axis for axis in "xyz"), *(f"f_dc_{index}" for index in range(3)), "opacity"]
        names += [*(f"scale_{index}" for index in range(3)), *(f"rot_{index}" for index in range(4))]
        rows = torch.cat(columns, dim=1).numpy(force=True).astype("<f4")
        lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}"]
        lines += [*(f"property float {name}" for name in names), "end_header", ""]
        record = np.ascontiguousarray(rows).view([(name, "<f4") for name in names])
        with replacing(path) as target:
            target.write_bytes("\n".join(lines).encode("ascii") + record.tobytes())


@torch.no_grad()
def field_splats(field: RadianceField, resolution: int = 256, *, on_step: OnStep | None = None) -> SplatAsset:
    """Gaussians on the surface of a field, as `extract_mesh` finds it at `resolution`, one a vertex.

    Each lies along the surface, where along its normal the field stops light and, in fog, as widely; those that cover
    each other stop as much as the field does.
    """
    mesh = extract_mesh(field, resolution, on_step=on_step)
    assert mesh.normals is not None, "extract_mesh makes them"
    corners, longest = mesh.vertices[mesh.faces], float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).max())
    across = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    depths, step = torch.linspace(-REACH, REACH, LOOKS) * longest, 2 * REACH * longest / (LOOKS - 1)
    found = []
    for points, normals in zip(mesh.vertices.split(2**12), mesh.normals.split(2**12), strict=True):
        column = points[:, None] - normals[:, None] * depths[:, None]
        density = field.density(column.to(field.aabb.device)).cpu()
        outside = density[:, : LOOKS // 2 + 1].flip(1)  # as far as it grows thinner: what is denser is another part
        density[:, : LOOKS // 2 + 1] *= (outside <= outside.cummin(1).values).cumprod(1).flip(1)
        weights = weights_from_density(density, torch.full_like(density, step))
        stopped = weights.sum(1).clamp(min=1e-9)
        middle = (weights * depths).sum(1) / stopped
        spread = ((weights * (depths - middle[:, None]) ** 2).sum(1) / stopped).sqrt()
        found.append(torch.stack([stopped, middle, spread], dim=1))
    stopped, middle, spread = torch.cat(found).unbind(1)
    spacing = longest / (resolution - 1)
    wide, thin = spread.clamp(min=WIDE * spacing), spread.clamp(min=THIN * spacing)
    # so many lie over each other, and together they are to stop what the field does
    overlap = 2 * math.pi * wide**2 * len(wide) / (across.norm(dim=1).sum() / 2)
    opacities = 1 - (1 - stopped.clamp(max=0.999)) ** (1 / overlap.clamp(min=1))
    x, y, z = (mesh.normals * _FRAME).unbind(-1)
    rotations = torch.stack([1 + z, -y, x, torch.zeros_like(x)], dim=-1)  # takes (0, 0, 1) to the normal
    rotations[z < -1 + 1e-6] = torch.tensor([0.0, 1, 0, 0])
    scales = torch.stack([wide, wide, thin], dim=-1)
    places = (mesh.vertices - mesh.normals * middle[:, None]) * _FRAME
    return SplatAsset(places, scales, normalize(rotations, dim=-1), opacities, mesh.vertex_colors)
