"""The files that the tests in a real ComfyUI find there."""

from __future__ import annotations

from pathlib import Path

from small_models import quarter_model, write_merged, write_round_field


def equipped(base: Path) -> Path:
    """A folder for ComfyUI with a small random model `quarter.safetensors` and a field `round.safetensors`."""
    (base / "models" / "upfusion").mkdir(parents=True)
    write_merged(base / "models" / "upfusion" / "quarter.safetensors", quarter_model())
    (base / "input").mkdir()
    write_round_field(base / "input" / "round.safetensors")
    return base
