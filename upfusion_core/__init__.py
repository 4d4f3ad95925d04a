"""UpFusion: from unposed photos of an object to novel views and a mesh (arXiv 2312.06661).

Names are imported at first use, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
import re
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers, to whom a star brings all of a module
    from .config import *
    from .data.scene_export import *
    from .evaluation.metrics import *
    from .field.radiance import *
    from .geometry.cameras import *
    from .geometry.lenses import *
    from .geometry.rays import *
    from .models.checkpoint import *
    from .models.convert import *
    from .models.stable_diffusion import *
    from .pipeline.examples import *
    from .pipeline.frames import *
    from .pipeline.given_views import *
    from .pipeline.masks import *
    from .pipeline.photo_cameras import *
    from .pipeline.photos import *
    from .pipeline.pose import *
    from .pipeline.upfusion import *
    from .support.checks import *
    from .support.decoding import *
    from .support.errors import *
    from .support.files import *
    from .surface.extract import *
    from .surface.mesh import *
    from .surface.projection import *
    from .surface.registration import *
    from .types import *

_NAMES = {
    "config": ("MAX_PHOTOS", "DistillConfig", "ModelConfig", "PhotoSearch"),
    "data.scene_export": ("SCENE_FORMATS", "PosedPicture", "export_scene"),
    "evaluation.metrics": ("MEASURES", "Measure", "measure_views"),
    "field.radiance": ("RadianceField", "load_field"),
    "geometry.cameras": (
        *("cameras_from_matrices", "focal_from_fov", "fov_from_focal", "look_at", "orbit_cameras", "random_cameras"),
    ),
    "geometry.lenses": ("KnownCameras", "Lens", "source_cameras"),
    "geometry.rays": ("project",),
    "models.checkpoint": ("Checkpoint", "latent_diffusion_weights", "load_conditioning_networks", "open_checkpoint"),
    "models.convert": ("convert",),
    "models.stable_diffusion": ("DEFAULT_PROMPT", "UNET_PREFIX", "VAE_PREFIX"),
    "pipeline.examples": ("ExampleViews", "example_count", "example_views"),
    "pipeline.frames": (
        *("Looked", "appearance", "choose_pictures", "choose_views", "film_frames", "photo_files", "photo_sharpness"),
        "spread_choice",
    ),
    "pipeline.given_views": ("fit_views", "given_photos"),
    "pipeline.masks": ("estimate_mask",),
    "pipeline.photo_cameras": ("cameras_round_object", "load_photo_cameras"),
    "pipeline.photos": ("prepare_views", "read_photo"),
    "pipeline.pose": ("estimate_elevation", "estimate_photo_cameras", "photo_sheet"),
    "pipeline.upfusion": ("HostedUpFusion", "UpFusion"),
    "support.checks": ("check_choice", "check_count", "check_finite", "check_range", "check_type"),
    "support.decoding": ("field_of_view",),
    "support.errors": ("CheckpointError", "InputError", "UpFusionError"),
    "support.files": ("BUNDLED_NAME", "check_file_name"),
    "surface.extract": ("extract_mesh",),
    "surface.mesh": ("MeshAsset", "Splats"),
    "surface.projection": ("project_photos",),
    "surface.registration": ("RegisteredMesh", "register_mesh"),
    "types": (
        *("REFERENCE_FOCAL", "Cameras", "GivenViews", "InputViews", "NovelViews", "OnStep", "PhotoCameras"),
        *("RenderedViews", "SceneEncoding", "SourcePhoto", "Step", "ViewConditioning"),
    ),
}
"""Every public name once, by the module it lives in."""

_HOMES = {name: home for home, names in _NAMES.items() for name in names}
__all__ = sorted(_HOMES)
__version__: str

_PROJECT_FILE = Path(__file__).resolve().parents[1] / "pyproject.toml"


@lru_cache(maxsize=1)
def _version() -> str:
    """That of pyproject.toml in a checkout, beside which another version may be installed; else the installed one's."""
    text = _PROJECT_FILE.read_text(encoding="utf-8") if _PROJECT_FILE.is_file() else ""
    found = re.search(r'^\[project\]\nname = "upfusion"\nversion = "([^"]+)"$', text, re.MULTILINE)
    return found[1] if found else metadata.version("upfusion")


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public name
        if name == "__version__":
            return _version()
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
