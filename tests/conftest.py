"""Fixtures that every test may ask for: folders of weights made by the rule of the golden tensors."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Appended, never inserted: with --import-mode=importlib the test folders are no packages, and a folder put first would
# let a test module shadow an installed one.
sys.path.append(str(Path(__file__).resolve().parent / "core"))

import rule_weights


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small folder in the released layout, 64 pixel images: read only, it is shared by the whole session."""
    return rule_weights.write_small_folder(tmp_path_factory.mktemp("small_weights"))


@pytest.fixture(scope="session")
def full_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The full-size folder (6.5 GB): that in UPFUSION_FULL_WEIGHTS, made there if missing, or a temporary one."""
    kept = os.environ.get("UPFUSION_FULL_WEIGHTS")
    folder = rule_weights.write_full_folder(Path(kept) if kept else tmp_path_factory.mktemp("full_weights"))
    yield folder
    if not kept:
        shutil.rmtree(folder)  # pytest keeps temporary folders of three runs
