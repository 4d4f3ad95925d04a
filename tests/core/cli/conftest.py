"""Fixtures of the tests of the commands."""

from pathlib import Path
from typing import Any

import pytest
import rule_weights

from upfusion_core import UpFusion


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return rule_weights.write_photos(tmp_path_factory.mktemp("photos"), 3, 64)


@pytest.fixture
def loaded_once(small_weights: Path, model: UpFusion, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of a module share one model."""
    load = UpFusion.load

    def remembered(path: str, **options: Any) -> UpFusion:  # noqa: ANN401
        return model if path == str(small_weights) else load(path, **options)

    monkeypatch.setattr(UpFusion, "load", remembered)
