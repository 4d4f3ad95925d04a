"""The reference tensors in tests/core/golden, and where their configuration stands."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from upfusion_core import Cameras, orbit_cameras

GOLDEN = Path(__file__).resolve().parent / "golden"
META: dict[str, Any] = json.loads((GOLDEN / "meta.json").read_text())
QUERY_ROUNDING = 1e-6
"""What float32 leaves open in the release's Plücker queries: sixteen halves of its step at 1."""


def golden(name: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / f"{name}.safetensors")


def golden_cameras() -> Cameras:
    """The seven cameras that the golden files speak of by index."""
    meta = META["cameras"]
    return orbit_cameras(meta["azimuth_deg"], meta["elevation_deg"], meta["distance"])


def sizes(section: str, kind: type) -> dict[str, Any]:
    """The entries of a section of meta.json that are fields of the configuration class `kind`."""
    return {name: value for name, value in META[section].items() if name in kind.__dataclass_fields__}


def worst(ours: Tensor, theirs: Tensor) -> float:
    """Largest absolute difference; the shapes must be equal."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max())
