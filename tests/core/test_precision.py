"""Networks in bfloat16 and a whole schedule of 3000 field iterations: everything stays finite (`pytest -m slow`)."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from odd_values import assert_finite
from tiny_training import FIELD

from upfusion_core import DistillConfig, UpFusion, example_views, orbit_cameras
from upfusion_core.config import DraftSchedule, FastSchedule, FitConfig, RaySampling, ReferenceSchedule


def configuration(preset: str) -> DistillConfig:
    """3000 iterations of the field, on few rays."""
    fit = replace(FitConfig(iterations=3000), rays=128, sampling=RaySampling(16, 8), occupancy_cells=16)
    half = replace(fit, iterations=1500)
    rays = RaySampling(8, 4)
    schedules = {
        "draft": DraftSchedule(8, 16, half, sampled_cameras=4, sampled_fit=half, steps=4),
        "fast": FastSchedule(8, 16, 1000, steps=4, fit=replace(fit, crisp_weight=0.1)),
        "reference": ReferenceSchedule(16, 3000, 3, bootstrap=300, bootstrap_index=2, highest_index=2, sampling=rays),
    }
    return DistillConfig.named(preset, schedule=schedules[preset], field=FIELD)


GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]
PLACES = [pytest.param("cpu", torch.bfloat16, marks=pytest.mark.slow)]
PLACES += [pytest.param("cuda", dtype, marks=GPU) for dtype in (torch.float16, torch.bfloat16)]


@pytest.mark.parametrize("preset", ["draft", "fast", "reference"])
@pytest.mark.parametrize(("device", "dtype"), PLACES)
def test_low_precision_for_3000_iterations(preset: str, device: str, dtype: torch.dtype, tiny: Path) -> None:
    model, steps = UpFusion.load("mini" if device == "cuda" else tiny, device=device, dtype=dtype), list[int]()
    assert model.dtype == dtype
    scene, generator = model.encode(example_views(0, 3).prepared(model.image_size)), torch.Generator().manual_seed(0)
    field = model.distill(scene, configuration(preset), generator, on_step=lambda step, *_: steps.append(step))
    assert steps[-1] >= 3000
    seen = field.render(orbit_cameras([0.0, 120.0]), 32)
    assert_finite([field, seen])
    assert float(seen.rgb.std()) > 0
    assert {value.dtype for value in field.state_dict().values() if value.is_floating_point()} == {torch.float32}


@pytest.mark.slow
def test_the_bundled_model_in_bfloat16_paints_what_it_paints_in_float32() -> None:
    pictures: list[torch.Tensor] = []
    for dtype in (torch.float32, torch.bfloat16):
        model = UpFusion.load("mini", device="cpu", dtype=dtype)
        scene = model.encode(example_views(0, 3).prepared(model.image_size))
        assert_finite(model.sample(scene, orbit_cameras([0.0, 120.0]), steps=10, guidance=2.0).rgb)
        pictures.append(model.predict(scene, orbit_cameras([0.0, 120.0]), 32))
    assert float((pictures[0] - pictures[1]).abs().max()) < 0.1
