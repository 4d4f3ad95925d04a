"""Six photos, a model of 16 pixels, and a scene of three of them for the tests of a module."""

from pathlib import Path

import pytest
from rule_weights import write_photos

from upfusion_core import SceneEncoding, UpFusion, prepare_views


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_photos(tmp_path_factory.mktemp("photos"), size=64)


@pytest.fixture(scope="session")
def model(tiny_upfusion: UpFusion) -> UpFusion:
    return tiny_upfusion


@pytest.fixture(scope="module")
def scene(model: UpFusion, photos: list[Path]) -> SceneEncoding:
    return model.encode(prepare_views(photos[:3], size=64))
