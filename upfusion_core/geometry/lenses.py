"""Lenses of photos: focal length, centre and distortion in pixels, as photogrammetry programs write them.

Distortion follows OpenCV's models in COLMAP's names; x points right and y down in the picture, in focal lengths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from ..config.base import STRICT
from ..support.errors import InputError
from ..types import Cameras, PhotoCameras, SourcePhoto

_AT_ONCE = 2**20  # pixels that are undistorted at a time
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
    __pydantic_config__ = STRICT  # where a file holds one

    @classmethod
    def of_model(cls, model: str, size: tuple[float, float], values: Mapping[str, float]) -> Lens:
        """A lens by its model's name and named parameters; distortion that is not named is 0."""
        if model not in MODELS:
            wanted = f"the lens must be of a model that is read ({', '.join(MODELS)}), got {model}"
            raise InputError(f"{wanted}; undistort the photos there and export them with their new cameras")
        focal = values.get("fx", values.get("f", 0.0))
        center = (values.get("cx", size[0] / 2), values.get("cy", size[1] / 2))
        k = tuple(values.get(f"k{index}", 0.0) for index in range(1, 7))
        radial, divided = (k[:3], k[3:]) if model == "FULL_OPENCV" else (k[:4], ())
        tangential = (values.get("p1", 0.0), values.get("p2", 0.0))
        return cls(size, (focal, values.get("fy", focal)), center, radial, divided, tangential, "FISHEYE" in model)

    @classmethod
    def of_camera(cls, camera: Cameras, size: tuple[float, float]) -> Lens:
        """The pinhole of one camera, for its pictures of this many pixels."""
        (fx, fy), (x, y) = camera.focal[0].double().tolist(), camera.principal[0].double().tolist()
        width, height = size
        return cls(size, (fx * width / 2, fy * height / 2), ((1 - x) * width / 2, (1 - y) * height / 2))

    @property
    def is_pinhole(self) -> bool:
        """Whether straight lines stay straight: no distortion at all."""
        return not self.fisheye and not any((*self.radial, *self.divided, *self.tangential))

    @property
    def distortion(self) -> dict[str, Any]:
        """What makes it no pinhole, for JSON; nothing of a pinhole."""
        names = ("radial", "divided", "tangential", "fisheye")
        return {} if self.is_pinhole else {name: getattr(self, name) for name in names}

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

    def cut(self, left: float, top: float, right: float, bottom: float) -> Lens:
        """The lens of a part of the photo, which may reach beyond it."""
        size, center = (right - left, bottom - top), (self.center[0] - left, self.center[1] - top)
        return replace(self, size=size, center=center)

    def turned(self) -> Lens:
        """The lens of the photo turned by 90° clockwise: what was right is then down."""
        (width, height), (cx, cy), (p1, p2) = self.size, self.center, self.tangential
        size, focal, center = (height, width), self.focal[::-1], (height - cy, cx)
        return replace(self, size=size, focal=focal, center=center, tangential=(p2, -p1))

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
        def series(factors: Sequence[float]) -> Tensor:
            terms = (factor * squared**power for power, factor in enumerate(factors, 1))
            return sum(terms, torch.ones_like(along))

        squared = along**2
        return series(self.radial) / series(self.divided)

    def undistorted(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """(C, H, W), uint8 or in [0, 1], as the lens gave it -> as a pinhole with its focal length and centre.

        Returns:
            The picture in the same manner, and (H, W) bool: where the photo reaches.
        """
        (width, height), (fx, fy), (cx, cy) = picture.shape[:0:-1], self.focal, self.center
        rows, most = max(1, _AT_ONCE // width), 1 if picture.is_floating_point() else 255
        result, known = torch.empty_like(picture), torch.zeros(height, width, dtype=torch.bool)
        x = (torch.arange(width, dtype=torch.float64) + 0.5 - cx) / fx
        for first in range(0, height, rows):
            band = slice(first, min(first + rows, height))
            y = (torch.arange(band.start, band.stop, dtype=torch.float64) + 0.5 - cy) / fy
            flat = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)
            seen = self.distorted(flat) * x.new_tensor([fx, fy]) + x.new_tensor([cx, cy])
            known[band] = ((seen >= 0) & (seen <= x.new_tensor([width, height]))).all(dim=-1)
            reached = seen[..., 1].nan_to_num(nan=0.0).clamp(0, height)
            top, bottom = max(0, int(reached.min()) - 3), min(height, int(reached.max()) + 4)  # for bicubic
            part = picture[:, top:bottom].float()
            grid = 2 * (seen - x.new_tensor([0, top])) / x.new_tensor([width, bottom - top]) - 1
            grid = grid.nan_to_num(nan=2.0).float()[None]
            found = grid_sample(part[None], grid, mode="bicubic", padding_mode="border", align_corners=False)[0]
            found = found.clamp(0, most)
            result[:, band] = found if most == 1 else found.round()
        return result, known


@dataclass(frozen=True, eq=False)
class KnownCameras:
    """Cameras of V photos, known beforehand.

    cameras: V, of the whole upright photos, in photo 1's frame: the object's centre is the origin, photo 1's distance
    is 1 and its azimuth 0.
    lenses: one a photo, in its own pixels; photos whose lens is no pinhole are to be undistorted (`Lens.undistorted`).
    notes: what was forgiven or chosen, a sentence each.
    refused: numbers of photos, from 0, whose cameras are not known, or an earlier run was not sure of.
    given: whether people know them, but for those of `sought`; not, where an earlier run found all itself.
    """

    cameras: Cameras
    lenses: tuple[Lens, ...]
    notes: tuple[str, ...] = ()
    refused: tuple[int, ...] = ()
    given: bool = True
    sought: tuple[int, ...] = ()

    @classmethod
    def of_photos(cls, cameras: Cameras, sizes: Sequence[tuple[float, float]]) -> KnownCameras:
        """Pinholes of whole photos of these sizes in pixels, which must be as many as the cameras."""
        if len(cameras) != len(sizes):
            raise InputError(f"there must be a camera for each of {len(sizes)} photos, got {len(cameras)}")
        return cls(cameras, tuple(Lens.of_camera(camera, size) for camera, size in zip(cameras, sizes, strict=True)))

    def of_squares(self, sources: Sequence[SourcePhoto]) -> PhotoCameras:
        """The cameras of the squares that were cut out of the photos."""
        pairs = zip(self.lenses, sources, strict=True)
        ndc = [lens.resized(source.size).cut(*source.box).ndc for lens, source in pairs]
        focal, principal = torch.tensor(ndc, dtype=torch.float32).unbind(1)
        accepted = torch.tensor([index not in self.refused for index in range(len(sources))])
        cameras = Cameras(self.cameras.camera_to_world, focal, principal)
        return PhotoCameras(cameras, accepted, accepted.float(), given=self.given, sought=self.sought)


def source_cameras(squares: Cameras, sources: Sequence[SourcePhoto]) -> Cameras:
    """Cameras of the squares -> cameras of the photos' own pixels, `SourcePhoto.rgb`."""
    ndc = []
    for camera, source in zip(squares, sources, strict=True):
        (left, top, right, bottom), (x, y), (height, width) = source.box, source.corner, source.rgb.shape[1:]
        lens = Lens.of_camera(camera, (right - left, bottom - top)).cut(-left, -top, -left, -top)
        ndc.append(lens.cut(x, y, x + width, y + height).ndc)
    focal, principal = torch.tensor(ndc, dtype=torch.float32).unbind(1)
    return Cameras(squares.camera_to_world, focal, principal)
