"""Fixtures of the tests in a real ComfyUI."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# helpers beside the tests, see tests/conftest.py
sys.path.append(str(Path(__file__).resolve().parent))
sys.path.append(str(Path(__file__).resolve().parents[1] / "nodes"))

from comfyui_server import Server, start_server
from equipped import equipped


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """ComfyUI with the pack and the files of `equipped`."""
    running = start_server(equipped(tmp_path_factory.mktemp("comfyui")))
    yield running
    running.stop()
