"""Fixtures of the tests in a real ComfyUI."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# helpers beside the tests, see tests/conftest.py
sys.path.append(str(Path(__file__).resolve().parent))
sys.path.append(str(Path(__file__).resolve().parents[1] / "nodes"))

from comfyui_server import Server, start_server
from small_models import quarter_model, round_field, write_merged

import upfusion_core


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """ComfyUI with the pack, a small model `quarter.safetensors` of random weights and a field `round.safetensors`."""
    base = tmp_path_factory.mktemp("comfyui")
    (base / "models" / "upfusion").mkdir(parents=True)
    write_merged(base / "models" / "upfusion" / "quarter.safetensors", quarter_model())
    (base / "input").mkdir()
    round_field(upfusion_core, (0.5, 0.5, 0.5)).save(base / "input" / "round.safetensors")
    with start_server(base) as running:
        yield running
