"""Steps recorded as CUDA graphs against the same steps launched one kernel at a time."""

from pathlib import Path

import pytest
import torch
from golden_files import worst
from rule_weights import write_photos

from upfusion_core import UpFusion, orbit_cameras, prepare_views

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]


@pytest.mark.parametrize("guidance", [1.0, 9.0])
def test_recorded_steps_are_the_steps(small_weights: Path, tmp_path: Path, guidance: float) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    plain, recorded = (UpFusion.load(small_weights, device="cuda", dtype=torch.float32) for _ in range(2))
    recorded.prior.capture_graphs()
    scene = plain.encode(prepare_views(write_photos(tmp_path, count=2)))
    generator = torch.Generator().manual_seed(0)
    for azimuth in (0.0, 120.0, 240.0):  # the same recording with other constants
        cond = plain.condition(scene, orbit_cameras([azimuth, azimuth + 30]))
        prepared = recorded.prepare(cond, guidance)
        for timestep in (981, 481, 1):
            latents = torch.randn(2, *plain.prior.latent_shape, generator=generator)
            wanted = plain.predict_noise(latents, timestep, cond, guidance)
            assert worst(recorded.predict_noise(latents, timestep, prepared, guidance), wanted) < 1e-4


def test_views_by_recorded_steps(small_weights: Path, tmp_path: Path) -> None:
    model = UpFusion.load(small_weights, device="cuda", dtype=torch.float16)
    scene, cameras = model.encode(prepare_views(write_photos(tmp_path, count=2))), orbit_cameras([0.0, 90.0, 180.0])
    wanted = model.sample(scene, cameras, steps=4, batch_size=2).rgb
    model.prior.capture_graphs()
    assert worst(model.sample(scene, cameras, steps=4, batch_size=2).rgb, wanted) < 2e-2
