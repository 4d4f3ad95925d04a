"""The stages on their networks: photos -> set latents, set latents and cameras -> predictions and conditions."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from ..geometry import patch_rays, plucker, reference_plucker
from ..models.dino import DinoKeys
from ..models.upsrt import UpSRT
from ..support.checks import check_count, check_finite, check_shape, check_type
from ..support.errors import InputError
from ..support.images import resize_pictures
from ..support.memory import Chunk
from ..types import REFERENCE_FOCAL, Cameras, InputViews, SceneEncoding, ViewConditioning, check_lengths

FOCAL_TOLERANCE = 1.2
"""Ratio to the trained focal length beyond which a warning is due."""


def resize_views(views: InputViews, size: int) -> InputViews:
    """The photos at the model's size; unchanged where they have it."""
    if views.rgb.shape[-1] == size:
        return views
    return InputViews(resize_pictures(views.rgb, size), resize_pictures(views.mask, size), views.focal)


@torch.no_grad()
def encode_views(
    dino: DinoKeys,
    upsrt: UpSRT,
    views: InputViews,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """(V·P, C) set latents of the photos: DINO and the scene encoder run once.

    Args:
        device, dtype: where and in which precision to compute; None takes those of UpSRT's weights, which a host that
            streams weights keeps elsewhere.
    """
    weight = upsrt.linear_scene.weight
    device, dtype = device or weight.device, dtype or weight.dtype
    rows, columns = upsrt.config.patches
    photos = views.rgb.to(device)
    parts = Chunk(len(photos), "photo").map(lambda part: dino(photos[part], (rows, columns), dtype), len(photos))
    keys = torch.cat(list(parts))
    if keys.shape[-1] != upsrt.config.image_feature_dim:
        raise InputError(
            f"the DINO features must be {upsrt.config.image_feature_dim} wide for this UpSRT, got {keys.shape[-1]}; "
            "make dino.embed_dim and upsrt.image_feature_dim of the configuration agree"
        )
    tokens = upsrt.encode(keys[None], plucker(patch_rays(rows, columns, device)))[0]
    check_finite("the set latents (from these weights in this precision)", tokens)
    return tokens


@torch.no_grad()
def predict_views(
    upsrt: UpSRT, scene: SceneEncoding, cameras: Cameras, size: int, *, pixel_centers: bool = False
) -> Tensor:
    """(Q, 3, size, size) direct colours of UpSRT in [0, 1]: blurry, immediate.

    Args:
        pixel_centers: rays go through the pixels' centres, as in pictures and renders; else they are the release's,
            whose outermost lie on the picture's border, so that a picture is size / (size - 1) too large.
    """
    check_count("size", size, 2, 4096)
    _check_cameras(cameras)
    if pixel_centers:
        cameras = shrunk_grid(cameras, size)
    tokens = scene.tokens[None]
    views = []
    for camera in cameras:  # one at a time: the features of a large picture are larger than the picture
        rays = reference_plucker(camera.to(tokens.device), scene.reference, size).reshape(1, -1, 6)
        rgb = upsrt.colors(tokens, rays).float()
        views.append(rgb.reshape(size, size, 3).permute(2, 0, 1))
    result = torch.stack(views)
    check_finite("the predicted views (from these weights in this precision)", result)
    return result


@torch.no_grad()
def condition_views(
    upsrt: UpSRT,
    scene: SceneEncoding,
    cameras: Cameras,
    *,
    latent_size: int,
    levels: int,
    text: tuple[Tensor, Tensor],
    zero_attention_rays: bool = False,
) -> ViewConditioning:
    """The conditions of Q cameras: hint from the decoder's features and rays, a ray map a level of the networks.

    Args:
        text: (conditional, unconditional) embeddings.
        zero_attention_rays: reproduces the release, whose attention sees no rays (golden: eps_zero_rays).
    """
    _check_cameras(cameras)
    cameras = cameras.to(scene.tokens.device)
    rays = reference_plucker(cameras, scene.reference, latent_size)  # (Q, s, s, 6)
    features = upsrt.decode(scene.tokens[None], rays.reshape(1, -1, 6))
    features = features.float().reshape(*rays.shape[:3], -1)  # rays stay float32 until a network reads them
    hint = torch.cat([features, rays], dim=-1).permute(0, 3, 1, 2).contiguous()
    ray_maps = tuple(
        reference_plucker(cameras, scene.reference, latent_size // 2**level).permute(0, 3, 1, 2).contiguous()
        for level in range(levels)
    )
    if zero_attention_rays:
        ray_maps = tuple(torch.zeros_like(ray_map) for ray_map in ray_maps)
    return ViewConditioning(hint, ray_maps, scene.tokens, cameras, *text)


def check_text(text: tuple[Tensor, Tensor], width: int) -> tuple[Tensor, Tensor]:
    """(conditional, unconditional) embeddings of the networks' width, or InputError."""
    check_type("text_embeddings", text, Sequence, "(conditional, unconditional)")
    if len(text) != 2:
        raise InputError(f"text_embeddings must be (conditional, unconditional), got {len(text)} values; give both")
    for name, value in zip(("conditional", "unconditional"), text, strict=True):
        check_finite(f"text_embeddings, {name}", value)
        shape = ("L", width) if value.ndim == 2 else ("Q", "L", width)
        check_shape(f"text_embeddings, {name}", value, shape)
        if not value.numel():
            raise InputError(f"text_embeddings, {name} must hold numbers, got {tuple(value.shape)}; give 77 rows")
    check_lengths("text_embeddings", *text)
    return text


def shrunk_grid(cameras: Cameras, size: int) -> Cameras:
    """Cameras whose corner-aligned grids are the pixel centres of the given ones: NDC x (size - 1) / size."""
    share = (size - 1) / size
    return Cameras(cameras.camera_to_world, cameras.focal / share, cameras.principal / share)


def _check_cameras(cameras: Cameras) -> None:
    check_type("cameras", cameras, Cameras, "make some with orbit_cameras")
    if not len(cameras):
        raise InputError("expected at least one camera, got none; make some with orbit_cameras")
    ratio = cameras.focal / REFERENCE_FOCAL
    if (ratio.clamp(min=1e-6).log().abs() > torch.tensor(FOCAL_TOLERANCE).log()).any():
        worst = float(cameras.focal.flatten()[(ratio.log().abs()).argmax()])
        warnings.warn(
            f"the networks were trained at focal length {REFERENCE_FOCAL} (field of view 25 degrees), a camera has "
            f"{worst:.2f}; the view may be off: move the camera instead of zooming",
            stacklevel=3,
        )
