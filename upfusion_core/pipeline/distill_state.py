"""The saved state of a distillation: whole or not at all, and only for the run it came from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import InputError
from ..models.saved_state import read_saved, write_saved
from ..types import NovelViews, SceneEncoding
from .distill_config import DistillConfig
from .photo_cameras import PhotoCameras


def run_fingerprint(
    scene: SceneEncoding,
    config: DistillConfig,
    seed: int,
    text: tuple[Tensor, Tensor],
    views: NovelViews | None = None,
    photo_cameras: PhotoCameras | None = None,
) -> str:
    """Tells whether a saved state belongs to this scene, configuration, prompt, seed, given views and cameras."""
    settings = {name: value for name, value in config.to_dict().items() if name != "checkpoint_every"}
    # what computes the grid may change between attempts, and the run stays the same
    settings["field"] = {name: value for name, value in settings["field"].items() if name != "backend"}
    digest = hashlib.sha256(json.dumps({"seed": seed, **settings}, sort_keys=True).encode())
    given: tuple[Tensor, ...] = () if views is None else (views.rgb, views.cameras.camera_to_world, views.cameras.focal)
    if photo_cameras is not None:
        given = (*given, photo_cameras.cameras.camera_to_world, photo_cameras.cameras.focal, photo_cameras.accepted)
    for tensor in (scene.tokens, scene.reference.camera_to_world, *text, *given):
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_state(path: Path | None, fingerprint: str, state: dict[str, Any]) -> None:
    """Writes tensors, numbers and containers of them; a full disk leaves the last state as it was."""
    if path is not None:
        write_saved(path, {"fingerprint": fingerprint, "state": state})


def load_state(path: Path | None, fingerprint: str) -> dict[str, Any] | None:
    """The saved state, or None where there is none yet.

    Raises:
        CheckpointError: the file is damaged, was changed, or is something else.
        InputError: it belongs to another run.
    """
    if path is None or not path.exists():
        return None
    content = read_saved(path, "the saved state of a distillation")
    if content.get("fingerprint") != fingerprint:
        raise InputError(
            f"{path} belongs to a run with other photos, weights, settings or seed; "
            "repeat those, or delete the file to start again"
        )
    state: dict[str, Any] = content["state"]
    return state
