"""A scene of three of the photos for the tests of a module."""

from pathlib import Path

import pytest

from upfusion_core import SceneEncoding, UpFusion, prepare_views


@pytest.fixture(scope="module")
def scene(model: UpFusion, photos: list[Path]) -> SceneEncoding:
    return model.encode(prepare_views(photos[:3], size=64))
