"""The pack's own socket types. What flows through each is a data class, never a dict."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

if TYPE_CHECKING:
    from ..upfusion_core import Cameras, RadianceField, SceneEncoding
    from .hosted import HostedModel


@io.comfytype(io_type="UPFUSION_MODEL")
class ModelSocket(io.ComfyTypeIO):
    """DINO, UpSRT and ControlNet of one checkpoint, each in a ComfyUI model patcher (nodes/hosted.py)."""

    if TYPE_CHECKING:
        Type = HostedModel


@io.comfytype(io_type="UPFUSION_SCENE")
class SceneSocket(io.ComfyTypeIO):
    """The set latents of one object and its photos (upfusion_core.SceneEncoding)."""

    if TYPE_CHECKING:
        Type = SceneEncoding


@io.comfytype(io_type="UPFUSION_CAMERAS")
class CamerasSocket(io.ComfyTypeIO):
    """N cameras (upfusion_core.Cameras)."""

    if TYPE_CHECKING:
        Type = Cameras


@io.comfytype(io_type="UPFUSION_FIELD")
class FieldSocket(io.ComfyTypeIO):
    """A radiance field (upfusion_core.RadianceField)."""

    if TYPE_CHECKING:
        Type = RadianceField
