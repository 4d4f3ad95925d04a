"""Sockets full of photos and masks -> a list of photos, each with its mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..upfusion_core import InputError, check_type
from .convert import image_from_rgb, pictures_from_image, plane_from_mask

Photo = tuple[Tensor, Tensor | None]
"""(3 or 4, H, W) in [0, 1], and its mask (1, H, W) with 1 on the object, if it has one."""


def flattened(images: Mapping[str, Tensor], masks: Mapping[str, Tensor | None], invert: bool) -> list[Photo]:
    """The photos of all sockets, image0 first; a socket's mask is that with its number.

    A mask that counts everything as object tells nothing, like Load Image's for a picture without transparency: the
    photo then has none.

    Raises:
        InputError: a socket has not as many masks as photos, a mask has no image, or shows no object.
    """
    check_type("images", images, Mapping, "connect photos to the sockets of UpFusion Prepare Views")
    check_type("masks", masks, Mapping, "connect masks to the sockets of UpFusion Prepare Views")
    photos: list[Photo] = []
    numbers = {_number(name): value for name, value in masks.items() if value is not None}
    for name, image in sorted(images.items(), key=lambda item: _number(item[0])):
        if image is None:
            continue
        pictures = pictures_from_image(image, name).cpu()
        own = numbers.pop(_number(name), None)
        planes: list[Tensor | None] = [None] * len(pictures)
        if own is not None:
            planes = list(plane_from_mask(own).cpu())
            if len(planes) != len(pictures):
                raise InputError(
                    f"{name} holds {len(pictures)} photos, but its mask{_number(name)} holds {len(planes)} masks; "
                    "give one for each photo"
                )
        checked = [_checked_mask(plane, invert, f"mask{_number(name)}") for plane in planes]
        photos += zip(pictures, checked, strict=True)
    if numbers:
        left = min(numbers)
        raise InputError(f"mask{left} belongs to image{left}, but that is not connected; connect both with one number")
    return photos


def found_masks(photos: list[Photo], bg_removal_model: Any) -> list[Photo]:
    """The photos, those with neither mask nor transparency with the mask that ComfyUI's model finds."""
    return [_found(*photo, bg_removal_model) for photo in photos]


def _found(photo: Tensor, mask: Tensor | None, bg_removal_model: Any) -> Photo:
    transparent = len(photo) == 4 and bool((photo[3] < 1).any())
    if mask is not None or transparent:
        return photo, mask
    return photo, plane_from_mask(bg_removal_model.encode_image(image_from_rgb(photo[None, :3])))[0].cpu()


def _checked_mask(plane: Tensor | None, invert: bool, name: str) -> Tensor | None:
    if plane is None:
        return None
    plane = 1 - plane if invert else plane
    if not plane.any():
        raise InputError(
            f"{name} must be 1 on the object, got 0 everywhere; turn invert_mask {'off' if invert else 'on'} (masks of "
            "Load Image need it on), or connect another mask"
        )
    return None if torch.all(plane == 1) else plane


def _number(name: str) -> int:
    """The number at the end of a socket's name: "image3" -> 3."""
    digits = "".join(character for character in name if character.isdecimal())
    if not digits:
        raise InputError(f"a socket of photos or masks must be named such as image0 or mask0, got {name!r:.40}")
    return int(digits)
