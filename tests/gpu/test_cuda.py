"""The small model on a GPU: `pytest -m gpu`."""

from pathlib import Path

import pytest
import torch
from golden_files import worst
from rule_weights import write_photos

from upfusion_core import DistillConfig, UpFusion, orbit_cameras, prepare_views
from upfusion_core.config import DraftSchedule, FitConfig, RaySampling, ReferenceSchedule

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]


def test_float32_agrees_with_the_cpu(small_weights: Path, tmp_path: Path) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    views, cameras = prepare_views(write_photos(tmp_path, count=3)), orbit_cameras([0.0, 120.0])
    pictures = []
    for device in ("cpu", "cuda"):
        model = UpFusion.load(small_weights, device=device, dtype=torch.float32)
        scene = model.encode(views)
        pictures.append((model.predict(scene, cameras), model.sample(scene, cameras, steps=3).rgb))
    assert worst(pictures[0][0], pictures[1][0]) < 1e-3
    assert worst(pictures[0][1], pictures[1][1]) < 5e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_stays_finite_and_close(small_weights: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    views, cameras = prepare_views(write_photos(tmp_path, count=3)), orbit_cameras([0.0, 120.0])
    exact = UpFusion.load(small_weights, device="cpu")
    rounded = UpFusion.load(small_weights, device="cuda", dtype=dtype)
    ours = rounded.predict(rounded.encode(views), cameras)
    assert worst(ours, exact.predict(exact.encode(views), cameras)) < 0.1
    assert torch.isfinite(rounded.sample(rounded.encode(views), cameras, steps=3).rgb).all()


@pytest.mark.parametrize("preset", ["draft", "reference"])
def test_distillation_runs_on_the_gpu(small_weights: Path, tmp_path: Path, preset: str) -> None:
    model = UpFusion.load(small_weights, device="cuda")
    scene = model.encode(prepare_views(write_photos(tmp_path, count=2)))
    fit = FitConfig(iterations=20)
    if preset == "draft":
        config = DistillConfig(DraftSchedule(predicted_fit=fit, sampled_fit=fit, sampled_cameras=2, steps=2))
    else:
        schedule = ReferenceSchedule(iterations=3, cameras=2, bootstrap=1, sampling=RaySampling(16, 16))
        config = DistillConfig.reference(schedule=schedule)
    field = model.distill(scene, config)
    assert field.aabb.is_cuda
    assert torch.isfinite(field.render(orbit_cameras(30.0), 16).rgb).all()
