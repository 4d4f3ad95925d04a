"""Networks in bfloat16 and a whole schedule of 3000 field iterations: everything stays finite (`pytest -m slow`)."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_training import FIELD

from upfusion_core import DistillConfig, NovelViews, RadianceField, UpFusion, example_views, orbit_cameras
from upfusion_core.config import DraftSchedule, FastSchedule, FitConfig, RaySampling, ReferenceSchedule


def configuration(preset: str) -> DistillConfig:
    """3000 iterations of the field, on few rays."""
    small = {"rays": 128, "sampling": RaySampling(16, 8), "occupancy_cells": 16}
    if preset == "reference":
        sampling = {"sampling": RaySampling(8, 4), "bootstrap": 300, "bootstrap_index": 2, "highest_index": 2}
        schedule = ReferenceSchedule(cameras=16, iterations=3000, steps=3, **sampling)
        return DistillConfig.reference(schedule=schedule, field=FIELD)
    if preset == "fast":
        fit = replace(FitConfig(iterations=3000, crisp_weight=0.1), **small)
        rounds = FastSchedule(cameras=8, predicted_size=16, predicted_iterations=1000, steps=4, fit=fit)
        return DistillConfig(schedule=rounds, field=FIELD)
    fit = replace(FitConfig(iterations=1500), **small)
    predicted = {"predicted_cameras": 8, "predicted_size": 16, "predicted_fit": fit}
    draft = DraftSchedule(sampled_cameras=4, sampled_fit=fit, steps=4, **predicted)
    return DistillConfig(schedule=draft, field=FIELD)


def assert_finite(model: UpFusion, config: DistillConfig) -> RadianceField:
    """Distils, and looks at every parameter and at a render."""
    scene = model.encode(example_views(0, 3).prepared(model.image_size))
    steps: list[int] = []
    generator = torch.Generator().manual_seed(0)
    field = model.distill(scene, config, generator, on_step=lambda step, total, preview: steps.append(step))
    assert steps[-1] >= 3000
    assert all(value.isfinite().all() for value in field.state_dict().values())
    seen = field.render(orbit_cameras([0.0, 120.0]), 32)
    assert all(value.isfinite().all() for value in (seen.rgb, seen.opacity, seen.depth))
    assert float(seen.rgb.std()) > 0
    return field


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["draft", "fast", "reference"])
def test_bfloat16_for_3000_iterations(preset: str, tiny: Path) -> None:
    model = UpFusion.load(tiny, device="cpu", dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    field = assert_finite(model, configuration(preset))
    assert {value.dtype for value in field.state_dict().values() if value.is_floating_point()} == {torch.float32}


@pytest.mark.slow
def test_the_bundled_model_in_bfloat16_paints_what_it_paints_in_float32() -> None:
    pictures: list[torch.Tensor] = []
    for dtype in (torch.float32, torch.bfloat16):
        model = UpFusion.load("mini", device="cpu", dtype=dtype)
        scene = model.encode(example_views(0, 3).prepared(model.image_size))
        novel: NovelViews = model.sample(scene, orbit_cameras([0.0, 120.0]), steps=10, guidance=2.0)
        assert novel.rgb.isfinite().all()
        pictures.append(model.predict(scene, orbit_cameras([0.0, 120.0]), 32))
    assert float((pictures[0] - pictures[1]).abs().max()) < 0.1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("preset", ["draft", "fast", "reference"])
def test_low_precision_on_a_gpu_for_3000_iterations(preset: str, dtype: torch.dtype) -> None:
    assert_finite(UpFusion.load("mini", device="cuda", dtype=dtype), configuration(preset))
