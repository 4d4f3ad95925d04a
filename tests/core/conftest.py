"""Fixtures of the tests of the library."""

import pytest
import tiny_training

from upfusion_core import UpFusion


@pytest.fixture(scope="session")
def tiny_upfusion() -> UpFusion:
    """A model of random weights and pictures of 16 pixels: read only, it is shared by the whole session."""
    return tiny_training.random_upfusion(3)
