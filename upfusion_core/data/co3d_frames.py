"""One entry of Co3Dv2's frame annotations -> files and a camera in our axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..geometry import cameras_from_matrices
from ..types import Cameras

ABSURD_TRANSLATION = 1e5
"""|sum(T)| above which structure from motion has failed."""


@dataclass(frozen=True)
class FrameRecord:
    """number: frame_number, 0-based, not always the file's. image, mask: paths below the root. size: (H, W).

    is_absurd: whether `|sum(T)| > 1e5`, which condemns the whole sequence.
    """

    number: int
    image: str
    mask: str
    size: tuple[int, int]
    is_absurd: bool


def parse_frame(record: dict[str, Any]) -> tuple[FrameRecord, Cameras]:
    """An annotation -> its files, and the camera (one, in the sequence's world, of the whole picture).

    PyTorch3D's convention: x_cam = x_world R + T for row vectors, camera axes left, up, forward. Thus the columns of R
    are the camera's axes in the world, and its centre is -R T.

    Raises:
        InputError: it has no viewpoint or no mask, or lacks what a frame must have.
    """
    if record.get("viewpoint") is None:
        raise InputError("it has no viewpoint")
    if record.get("mask") is None:
        raise InputError("it has no mask")
    try:
        viewpoint, (height, width) = record["viewpoint"], record["image"]["size"]
        rotation = torch.tensor(viewpoint["R"], dtype=torch.float64).reshape(3, 3)
        translation = torch.tensor(viewpoint["T"], dtype=torch.float64).reshape(3)
        focal, principal = _intrinsics(viewpoint, int(height), int(width))
        total = float(translation.sum().abs())
        frame = FrameRecord(
            number=int(record["frame_number"]),
            image=str(record["image"]["path"]),
            mask=str(record["mask"]["path"]),
            size=(int(height), int(width)),
            is_absurd=not total <= ABSURD_TRANSLATION,  # NaN included
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"its annotation is incomplete ({type(error).__name__}: {error})") from error
    if frame.is_absurd:
        translation = torch.zeros(3, dtype=torch.float64)  # never used; NaN would be refused in a camera
    pose = torch.cat([rotation, -(rotation @ translation)[:, None]], dim=1)
    return frame, cameras_from_matrices(pose[None], focal=focal, principal=principal, axes="pytorch3d")


def _intrinsics(viewpoint: dict[str, Any], height: int, width: int) -> tuple[Tensor, Tensor]:
    """Focal length and principal point, (1, 2) each, in NDC that run from border to border in x and in y.

    "ndc_isotropic": PyTorch3D's, in which half the shorter side is 1. "ndc_norm_image_bounds", or no key: half of
    each side is 1, which is ours already.
    """
    focal = torch.tensor(viewpoint["focal_length"], dtype=torch.float64).reshape(1, 2)
    principal = torch.tensor(viewpoint["principal_point"], dtype=torch.float64).reshape(1, 2)
    kind = viewpoint.get("intrinsics_format") or "ndc_norm_image_bounds"
    if kind == "ndc_norm_image_bounds":
        return focal, principal
    if kind != "ndc_isotropic":
        raise InputError(f"its intrinsics_format must be ndc_isotropic or ndc_norm_image_bounds, got {kind!r}")
    scale = min(height, width) / torch.tensor([[width, height]], dtype=torch.float64)
    return focal * scale, principal * scale
