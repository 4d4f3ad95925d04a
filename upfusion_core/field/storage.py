"""A field as a file: `.safetensors` with its configuration, cameras and the run's settings in the metadata."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..checks import check_type
from ..devices import existing_device
from ..errors import CheckpointError, FieldError, InputError, OutputError, UpFusionError
from ..files import check_path, check_weights_name, replacing
from ..json_text import parse_json, shown, to_json
from ..types import Cameras
from .hashgrid import GridConfig
from .radiance import FieldConfig, RadianceField

FORMAT = "upfusion_field"
"""Metadata key under which the JSON stands."""

_LONGEST_TEXT = 50_000_000
"""Letters of that JSON; safetensors takes headers of 100 MB, in which quotes and backslashes are doubled."""


@dataclass(frozen=True, eq=False)
class StoredField:
    """What a file of a field holds: the field, the cameras it was fitted to (or None) and the run's settings."""

    field: RadianceField
    cameras: Cameras | None
    settings: dict[str, Any]


def save_field(
    field: RadianceField,
    path: str | os.PathLike[str],
    *,
    cameras: Cameras | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Writes the field in float32, whole or not at all.

    Args:
        cameras: those it was fitted to.
        settings: anything that JSON can hold.

    Raises:
        FieldError: the field holds values that are not finite.
        OutputError: the file cannot be written.
    """
    tensors = {name: value.detach().float().cpu().contiguous() for name, value in field.state_dict().items()}
    _check_finite(tensors, FieldError, "the field was not saved: it")
    config = asdict(field.config)
    del config["backend"]  # of the machine that wrote it; every one can read it
    if settings is not None:
        check_type("settings", settings, Mapping, "names and values, as JSON has them")
    described = {"version": 1, "config": config, "cameras": None, "settings": dict(settings or {})}
    if cameras is not None:
        check_type("cameras", cameras, Cameras, "those that the field was fitted to")
        if not len(cameras):
            raise InputError("cameras must hold at least one camera, got none; leave them out")
        described["cameras"] = {
            name: getattr(cameras, name).cpu().tolist() for name in ("camera_to_world", "focal", "principal")
        }
    text = to_json(described, "the field's settings")
    if len(text) > _LONGEST_TEXT:
        raise InputError(
            f"the field's settings and cameras must take at most {_LONGEST_TEXT} letters as JSON, got {len(text)}; "
            "leave some out"
        )
    with replacing(path) as partial:
        try:
            save_file(tensors, partial, metadata={FORMAT: text})
        except SafetensorError as error:  # how the library reports what the disk says
            raise OutputError(
                f"{path} could not be written ({error}); free some space or choose another place"
            ) from error


def load_field(path: str | os.PathLike[str], *, device: torch.device | str = "cpu", ops: Any = nn) -> StoredField:  # noqa: ANN401
    """Reads what `save_field` wrote, strictly; the field is frozen, as `distill` gives it.

    Raises:
        CheckpointError: the file is missing, truncated or something else, its tensors do not fit its configuration, or
            hold values that are not finite.
        InputError: this machine has no such device.
    """
    check_path("path", path)
    path, device = Path(path), existing_device(device)
    check_weights_name(path)
    if not os.path.isfile(path):  # unlike pathlib's, also false for names that no file can have
        raise CheckpointError(f"{path} is not a file; give a field that a reconstruction wrote (.safetensors)")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{path} could not be read as .safetensors ({error}); it is damaged, truncated or another kind of file: "
            "copy it again or make the field anew"
        ) from error
    if FORMAT not in metadata:
        raise CheckpointError(f"{path} is not a field (no {FORMAT!r} in its metadata); weights are loaded elsewhere")
    config, cameras, settings = _described(path, metadata[FORMAT])
    _check_tensors(path, config, tensors)  # before a field of that size is made: a stranger's file may claim any
    _check_finite(tensors, CheckpointError, f"{path}")
    field = RadianceField(config, ops=ops)
    field.load_state_dict(tensors)
    field.requires_grad_(False).eval()
    return StoredField(field.to(device), None if cameras is None else cameras.to(device), settings)


def _described(path: Path, text: str) -> tuple[FieldConfig, Cameras | None, dict[str, Any]]:
    content = parse_json(text, f"{path}: {FORMAT} in its metadata", CheckpointError)
    try:
        values = dict(content["config"])
        config = FieldConfig(grid=GridConfig(**values.pop("grid")), **values)
        stored, settings = content["cameras"], content["settings"]
        if not isinstance(stored, dict | None) or not isinstance(settings, dict):
            raise InputError(f"cameras and settings must be JSON objects, got {shown(stored)} and {shown(settings)}")
        cameras = None
        if stored is not None:
            cameras = Cameras(**{name: torch.tensor(rows, dtype=torch.float32) for name, rows in stored.items()})
        return config, cameras, settings
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        reason = error if isinstance(error, UpFusionError) else f"{type(error).__name__}: {error}"
        raise CheckpointError(
            f"{path} holds a description of a field that this version cannot read ({reason!s:.300}); "
            "make the field anew"
        ) from error


def _check_tensors(path: Path, config: FieldConfig, tensors: dict[str, Tensor]) -> None:
    wanted = config.shapes
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    faults = [f"missing {name}" for name in sorted(wanted.keys() - found.keys())]
    faults += [f"unexpected {name:.100}" for name in sorted(found.keys() - wanted.keys())]
    faults += [
        f"{name} is {found[name]} instead of {wanted[name]}"
        for name in sorted(wanted.keys() & found.keys())
        if wanted[name] != found[name]
    ]
    faults += [
        f"{name} is {value.dtype} instead of {torch.float32}"
        for name, value in tensors.items()
        if name in wanted and value.dtype != torch.float32
    ]
    if faults:
        more = f" and {len(faults) - 10} more" if len(faults) > 10 else ""
        raise CheckpointError(
            f"{path} does not fit its own configuration: {'; '.join(faults[:10])}{more}; make the field anew"
        )


def _check_finite(tensors: dict[str, Tensor], error: type[UpFusionError], subject: str) -> None:
    broken = sorted(name for name, value in tensors.items() if not torch.isfinite(value).all())
    if broken:
        raise error(
            f"{subject} holds NaN or infinite values in {', '.join(broken)}; "
            "the fit has diverged: lower its learning rates and make the field anew"
        )
