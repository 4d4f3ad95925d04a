"""Lenses of photos: focal length, centre and distortion in pixels, as photogrammetry programs write them.

Distortion follows OpenCV's models in COLMAP's names; x points right and y down in the picture, in focal lengths.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from ..support.errors import InputError

MODELS = {
    "SIMPLE_PINHOLE": ("f", "cx", "cy"),
    "PINHOLE": ("fx", "fy", "cx", "cy"),
    "SIMPLE_RADIAL": ("f", "cx", "cy", "k1"),
    "RADIAL": ("f", "cx", "cy", "k1", "k2"),
    "OPENCV": ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2"),
    "FULL_OPENCV": ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"),
    "OPENCV_FISHEYE": ("fx", "fy", "cx", "cy", "k1", "k2", "k3", "k4"),
    "SIMPLE_RADIAL_FISHEYE": ("f", "cx", "cy", "k1"),
    "RADIAL_FISHEYE": ("f", "cx", "cy", "k1", "k2"),
}
"""COLMAP's names of the models that are read, with their parameters in the order of its files."""


@dataclass(frozen=True)
class Lens:
    """One photo's lens; the corner of the top left pixel is (0, 0), its middle (.5, .5).

    size: width and height in pixels. focal, center: in pixels, x and y.
    radial: factors of the 2nd, 4th, … power of the distorted radius, or of the angle for a fisheye.
    divided: the same below the fraction bar (k4 to k6 of FULL_OPENCV). tangential: p1, p2.
    """

    size: tuple[float, float]
    focal: tuple[float, float]
    center: tuple[float, float]
    radial: tuple[float, ...] = ()
    divided: tuple[float, ...] = ()
    tangential: tuple[float, float] = (0.0, 0.0)
    fisheye: bool = False

    @classmethod
    def of_model(cls, model: str, size: tuple[float, float], values: Mapping[str, float]) -> Lens:
        """A lens by its model's name and named parameters; distortion that is not named is 0."""
        if model not in MODELS:
            raise InputError(
                f"the lens must be of a model that is read ({', '.join(MODELS)}), got {model}; undistort the photos "
                "there and export them with their new cameras"
            )
        focal = values.get("fx", values.get("f", 0.0))
        k = [values.get(f"k{index}", 0.0) for index in range(1, 7)]
        rational = model == "FULL_OPENCV"
        return cls(
            size,
            (focal, values.get("fy", focal)),
            (values.get("cx", size[0] / 2), values.get("cy", size[1] / 2)),
            radial=tuple(k[:3] if rational else k[:4]),
            divided=tuple(k[3:]) if rational else (),
            tangential=(values.get("p1", 0.0), values.get("p2", 0.0)),
            fisheye="FISHEYE" in model,
        )

    @property
    def is_pinhole(self) -> bool:
        """Whether straight lines stay straight: no distortion at all."""
        return not self.fisheye and not any((*self.radial, *self.divided, *self.tangential))

    @property
    def ndc(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Focal length and principal point as in `Cameras`."""
        (width, height), (fx, fy), (cx, cy) = self.size, self.focal, self.center
        return (2 * fx / width, 2 * fy / height), (1 - 2 * cx / width, 1 - 2 * cy / height)

    def resized(self, size: tuple[float, float]) -> Lens:
        """The same lens for a photo that was made smaller or larger."""
        x, y = (new / old for new, old in zip(size, self.size, strict=True))
        focal, center = (self.focal[0] * x, self.focal[1] * y), (self.center[0] * x, self.center[1] * y)
        return replace(self, size=size, focal=focal, center=center)

    def turned(self) -> Lens:
        """The lens of the photo turned by 90° clockwise: what was right is then down."""
        (width, height), (cx, cy), (p1, p2) = self.size, self.center, self.tangential
        return replace(
            self, size=(height, width), focal=self.focal[::-1], center=(height - cy, cx), tangential=(p2, -p1)
        )

    def distorted(self, points: Tensor) -> Tensor:
        """(..., 2) points of the plane at depth 1 -> where the lens shows them, in focal lengths; NaN beyond its edge.

        A polynomial that turns back inwards has an edge: what lies behind it is not in the picture.
        """
        squared = (points**2).sum(dim=-1, keepdim=True)
        radius = squared.sqrt()
        along = radius.atan() if self.fisheye else radius
        bend = self._bend(along)
        if self.fisheye:
            moved = points * torch.where(radius > 1e-9, along * bend / radius.clamp_min(1e-9), 1.0)
        else:
            p1, p2 = self.tangential
            pull = points.new_tensor([p2, p1])
            moved = points * (bend + 2 * (points * pull).sum(dim=-1, keepdim=True)) + pull * squared
        steps = torch.linspace(0, float(along.max()) if along.numel() else 0.0, 513, dtype=points.dtype)
        reach = steps * self._bend(steps)
        falls = (reach.diff() <= 0).nonzero()
        edge = float(steps[falls[0, 0]]) if len(falls) else float("inf")
        return torch.where(along <= edge, moved, torch.nan)

    def _bend(self, along: Tensor) -> Tensor:
        squared = along**2
        above, below = torch.ones_like(along), torch.ones_like(along)
        for power, factor in enumerate(self.radial, 1):
            above = above + factor * squared**power
        for power, factor in enumerate(self.divided, 1):
            below = below + factor * squared**power
        return above / below

    def undistorted(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """(C, H, W) as the lens gave it -> as a pinhole with its focal length and centre, and where that is known.

        Returns:
            The picture (C, H, W), and (H, W) that is 1 where the photo reaches and 0 where it does not.
        """
        (width, height), (fx, fy), (cx, cy) = self.size, self.focal, self.center
        y, x = torch.meshgrid(
            (torch.arange(height, dtype=torch.float64) + 0.5 - cy) / fy,
            (torch.arange(width, dtype=torch.float64) + 0.5 - cx) / fx,
            indexing="ij",
        )
        seen = self.distorted(torch.stack([x, y], dim=-1)) * x.new_tensor([fx, fy]) + x.new_tensor([cx, cy])
        grid = 2 * seen / x.new_tensor([width, height]) - 1
        known = ((grid.abs() <= 1).all(dim=-1)).float()
        grid = grid.nan_to_num(nan=2.0).float()[None]
        found = grid_sample(picture[None].float(), grid, mode="bicubic", padding_mode="border", align_corners=False)[0]
        return found.clamp(0, 1), known
