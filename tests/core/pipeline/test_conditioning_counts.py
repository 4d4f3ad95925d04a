"""The photos are read once: DINO and the scene encoder run a single time, however many cameras ask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import rule_weights
import torch
from torch import nn

from upfusion_core import UpFusion, orbit_cameras
from upfusion_core.types import InputViews

CAMERAS = 12


@pytest.fixture
def passes(model: UpFusion) -> Iterator[Counter[str]]:
    """How often DINO, the scene encoder and the ray decoder ran since the test began."""
    counts: Counter[str] = Counter()

    def counted(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        return module.register_forward_hook(lambda *_: counts.update([name]))

    parts = {"dino": model.dino, "encoder": model.upsrt.scene_encoder, "decoder": model.upsrt.ray_decoder}
    handles = [counted(name, module) for name, module in parts.items()]
    yield counts
    for handle in handles:
        handle.remove()


@pytest.fixture(scope="module")
def views() -> InputViews:
    photos = rule_weights.rule_photos(6, 64)
    return InputViews(photos, torch.ones_like(photos[:, :1]), torch.full((6, 2), 4.5))


def test_photos_are_encoded_once_for_many_cameras(model: UpFusion, views: InputViews, passes: Counter[str]) -> None:
    scene = model.encode(views)
    cameras = orbit_cameras(torch.arange(CAMERAS) * 30.0)
    together = model.condition(scene, cameras)
    assert (passes["dino"], passes["encoder"]) == (1, 1)
    assert passes["decoder"] >= 1

    singles = [model.condition(scene, cameras[index]) for index in range(CAMERAS)]
    model.predict(scene, cameras[:2], size=8)
    assert (passes["dino"], passes["encoder"]) == (1, 1)
    torch.testing.assert_close(torch.cat([single.hint for single in singles]), together.hint, rtol=0, atol=1e-4)


def test_distinct_cameras_get_distinct_hints(model: UpFusion, views: InputViews) -> None:
    cameras = orbit_cameras(torch.arange(CAMERAS) * 30.0)
    hint = model.condition(model.encode(views), cameras).hint
    apart = torch.cdist(hint.flatten(1), hint.flatten(1)) + 1e9 * torch.eye(CAMERAS)
    assert apart.min() > 0.1
