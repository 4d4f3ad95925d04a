"""Fixtures of the tests of the commands."""

from pathlib import Path

import pytest
import rule_weights
from tiny_training import write_tiny_mini


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return rule_weights.write_photos(tmp_path_factory.mktemp("photos"), 3, 64)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A merged file of random weights, for pictures of 16 pixels: read only, it is shared by the whole session."""
    return write_tiny_mini(tmp_path_factory.mktemp("weights") / "tiny.safetensors")
