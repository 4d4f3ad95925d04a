"""UpFusion: from 1 to 6 unposed photos of an object to novel views and a mesh (arXiv 2312.06661).

Names are imported at first use, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import MAX_PHOTOS, DistillConfig, ModelConfig, PhotoSearch
    from .evaluation.metrics import MEASURES, Measure, measure_views
    from .field.radiance import RadianceField, load_field
    from .geometry import cameras_from_matrices, focal_from_fov, fov_from_focal, look_at, orbit_cameras, random_cameras
    from .models.checkpoint import Checkpoint, latent_diffusion_weights, load_conditioning_networks, open_checkpoint
    from .models.convert import convert
    from .models.stable_diffusion import DEFAULT_PROMPT, UNET_PREFIX, VAE_PREFIX
    from .pipeline.examples import ExampleViews, example_count, example_views
    from .pipeline.pose import PhotoCameras, estimate_photo_cameras
    from .pipeline.prepare import estimate_mask, prepare_views
    from .pipeline.stages import HostedUpFusion
    from .pipeline.upfusion import UpFusion
    from .support.checks import check_choice, check_count, check_finite, check_range, check_type
    from .support.errors import CheckpointError, InputError, UpFusionError
    from .support.files import BUNDLED_NAME, check_file_name
    from .surface.mesh import MeshAsset
    from .types import (
        REFERENCE_FOCAL,
        Cameras,
        InputViews,
        NovelViews,
        OnStep,
        RenderedViews,
        SceneEncoding,
        ViewConditioning,
    )

_HOMES = {
    "BUNDLED_NAME": "support.files",
    "Cameras": "types",
    "Checkpoint": "models.checkpoint",
    "CheckpointError": "support.errors",
    "DEFAULT_PROMPT": "models.stable_diffusion",
    "DistillConfig": "config",
    "ExampleViews": "pipeline.examples",
    "HostedUpFusion": "pipeline.stages",
    "InputError": "support.errors",
    "InputViews": "types",
    "MAX_PHOTOS": "config",
    "MEASURES": "evaluation.metrics",
    "Measure": "evaluation.metrics",
    "MeshAsset": "surface.mesh",
    "ModelConfig": "config",
    "NovelViews": "types",
    "OnStep": "types",
    "PhotoCameras": "pipeline.pose",
    "PhotoSearch": "config",
    "REFERENCE_FOCAL": "types",
    "RadianceField": "field.radiance",
    "RenderedViews": "types",
    "SceneEncoding": "types",
    "UNET_PREFIX": "models.stable_diffusion",
    "UpFusion": "pipeline.upfusion",
    "UpFusionError": "support.errors",
    "VAE_PREFIX": "models.stable_diffusion",
    "ViewConditioning": "types",
    "cameras_from_matrices": "geometry",
    "check_choice": "support.checks",
    "check_count": "support.checks",
    "check_file_name": "support.files",
    "check_finite": "support.checks",
    "check_range": "support.checks",
    "check_type": "support.checks",
    "convert": "models.convert",
    "estimate_mask": "pipeline.prepare",
    "estimate_photo_cameras": "pipeline.pose",
    "example_count": "pipeline.examples",
    "example_views": "pipeline.examples",
    "focal_from_fov": "geometry",
    "fov_from_focal": "geometry",
    "latent_diffusion_weights": "models.checkpoint",
    "load_conditioning_networks": "models.checkpoint",
    "load_field": "field.radiance",
    "look_at": "geometry",
    "measure_views": "evaluation.metrics",
    "open_checkpoint": "models.checkpoint",
    "orbit_cameras": "geometry",
    "prepare_views": "pipeline.prepare",
    "random_cameras": "geometry",
}

__all__ = [
    "BUNDLED_NAME",
    "DEFAULT_PROMPT",
    "MAX_PHOTOS",
    "MEASURES",
    "REFERENCE_FOCAL",
    "UNET_PREFIX",
    "VAE_PREFIX",
    "Cameras",
    "Checkpoint",
    "CheckpointError",
    "DistillConfig",
    "ExampleViews",
    "HostedUpFusion",
    "InputError",
    "InputViews",
    "Measure",
    "MeshAsset",
    "ModelConfig",
    "NovelViews",
    "OnStep",
    "PhotoCameras",
    "PhotoSearch",
    "RadianceField",
    "RenderedViews",
    "SceneEncoding",
    "UpFusion",
    "UpFusionError",
    "ViewConditioning",
    "cameras_from_matrices",
    "check_choice",
    "check_count",
    "check_file_name",
    "check_finite",
    "check_range",
    "check_type",
    "convert",
    "estimate_mask",
    "estimate_photo_cameras",
    "example_count",
    "example_views",
    "focal_from_fov",
    "fov_from_focal",
    "latent_diffusion_weights",
    "load_conditioning_networks",
    "load_field",
    "look_at",
    "measure_views",
    "open_checkpoint",
    "orbit_cameras",
    "prepare_views",
    "random_cameras",
]


__version__: str


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public name
    if name == "__version__":
        from .support.version import version

        return version()
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
