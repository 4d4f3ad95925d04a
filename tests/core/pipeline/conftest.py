"""A scene of three photos for the tests of a module."""

from __future__ import annotations

import pytest
from rule_weights import write_photos

from upfusion_core import SceneEncoding, UpFusion, prepare_views


@pytest.fixture(scope="module")
def scene(model: UpFusion, tmp_path_factory: pytest.TempPathFactory) -> SceneEncoding:
    return model.encode(prepare_views(write_photos(tmp_path_factory.mktemp("photos"), count=3)))
