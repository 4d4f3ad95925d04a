"""Procedural objects on a GPU: the same pictures as on the CPU."""

import pytest
import torch

from upfusion_core.procedural import ProceduralObjects

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]


@pytest.mark.parametrize("version", [1, 2])
def test_pictures_agree_with_the_cpu(version: int) -> None:
    data = ProceduralObjects("test", size=32, version=version)
    there, here = (data.batch(range(64), views=2, device=device, photos=[0]) for device in ("cuda", "cpu"))
    assert there.rgb.is_cuda
    for name in ("rgb", "mask", "depth"):
        off = (getattr(there, name).cpu() - getattr(here, name)).abs()
        assert (off > 0.01).float().mean() < 2e-3  # samples on an edge


def test_a_pool_on_the_gpu_is_looked_at_with_its_generator() -> None:
    data = ProceduralObjects("train", size=16)
    gpu = torch.device("cuda")
    pool = data.objects(range(32)).to(gpu)
    batch = data.look(
        pool[torch.arange(8, device=gpu)], views=3, size=16, generator=torch.Generator("cuda").manual_seed(0)
    )
    assert batch.camera_to_world.is_cuda
    assert torch.isfinite(batch.rgb).all()
    assert batch.mask[..., 7:9, 7:9].mean() > 0.3  # most objects have something in the middle
