"""Fixtures of the tests of the commands."""

from pathlib import Path
from typing import Any

import pytest
import rule_weights
from PIL import Image

from upfusion_core import UpFusion


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    for index in (1, 2, 3):
        Image.fromarray(rule_weights.rule_photo(index, 64)).save(folder / f"{index}.png")
    return sorted(folder.iterdir())


@pytest.fixture
def loaded_once(small_weights: Path, model: UpFusion, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of a module share one model."""
    load = UpFusion.load

    def remembered(path: str, **options: Any) -> UpFusion:  # noqa: ANN401
        return model if path == str(small_weights) else load(path, **options)

    monkeypatch.setattr(UpFusion, "load", remembered)
