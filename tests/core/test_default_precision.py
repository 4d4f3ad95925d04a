"""A host's default precision of its own tensors leaves geometry and pictures in float32."""

from functools import partial

import pytest
import tiny_training
import torch

from upfusion_core import InputViews, RadianceField, estimate_photo_cameras, orbit_cameras, random_cameras
from upfusion_core.evaluation.metrics import haarpsi

SIZE = tiny_training.SIZE


@pytest.mark.parametrize("precision", [torch.float64, torch.bfloat16])
def test_the_chain_in_another_default_precision(precision: torch.dtype, request: pytest.FixtureRequest) -> None:
    request.addfinalizer(partial(torch.set_default_dtype, torch.float32))
    model, field = tiny_training.random_upfusion(seed=5), RadianceField(tiny_training.FIELD)
    photos = (1 - torch.eye(SIZE)).expand(2, 3, SIZE, SIZE)
    views = InputViews(photos, 1 - photos[:, :1], torch.full((2, 2), 4.5))

    def made() -> list[torch.Tensor]:
        scene, cameras = model.encode(views), orbit_cameras([0.0, 90.0])
        drawn = random_cameras(3, generator=torch.Generator().manual_seed(0))
        noise = model.predict_noise(torch.zeros(1, 4, 8, 8), 500, model.condition(scene, cameras[:1]))
        pictures = model.predict(scene, cameras, 8), model.sample(scene, cameras[:1], steps=1).rgb
        seen = field.render(cameras, 8).rgb, field.extract_mesh(16).vertices[:0], haarpsi(photos, 1 - photos)
        return [cameras.camera_to_world, drawn.camera_to_world, noise, *pictures, *seen]

    expected = made()
    torch.set_default_dtype(precision)
    for found, wanted in zip(made(), expected, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, wanted, atol=0.01, rtol=0)  # the noise schedule rounds otherwise
    assert estimate_photo_cameras(model, model.encode(views)).cameras.focal.dtype == torch.float32
