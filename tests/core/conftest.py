"""Fixtures of the tests of the library."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import rule_weights
import tiny_training
import torch

from upfusion_core import UpFusion
from upfusion_core.cli import spread
from upfusion_core.evaluation import alignment
from upfusion_core.field import rendering
from upfusion_core.surface import extract
from upfusion_core.training import report


@pytest.fixture(scope="session")
def model() -> UpFusion:
    """Random weights, and pictures of 16 pixels: read only, it is shared by the whole session."""
    return tiny_training.random_upfusion(3)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Six of 64 pixels."""
    return rule_weights.write_photos(tmp_path_factory.mktemp("photos"), size=64)


@pytest.fixture(scope="module")
def forked() -> Iterator[None]:
    """Workers are forks, which have what is patched here, and one thread: others do not live on in them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spread, "START", "fork")
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def rough() -> Iterator[None]:
    """A rough look at surfaces, levels, empty space and alignments is enough; training draws no curves."""
    looks = {
        extract: {"SEARCH_RESOLUTION": 24, "LEVEL_RESOLUTION": 16, "CAMERAS": 2, "PICTURE_SIZE": 16, "RAY_SAMPLES": 16},
        rendering: {"RENDERED_CELLS": 16},
        alignment: {"SEARCH": tiny_training.QUICK_SEARCH, "COARSE_STEPS": 2},
        report: {"importlib": SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: None))},
    }
    with pytest.MonkeyPatch.context() as patch:
        for module, values in looks.items():
            for name, value in values.items():
                patch.setattr(module, name, value)
        yield
