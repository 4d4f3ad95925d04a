"""What a GPU computes against the CPU, the definitions and plain steps: `pytest -m gpu`."""

from pathlib import Path

import pytest
import torch
from golden_files import worst
from rule_weights import write_photos
from torch import Tensor

from upfusion_core import InputViews, UpFusion, orbit_cameras, prepare_views
from upfusion_core.config import GridConfig
from upfusion_core.field.backends import choose_backend, grid_encoder
from upfusion_core.procedural import ProceduralObjects
from upfusion_core.support.errors import InputError, MissingPackageError

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]

GPU = torch.device("cuda", 0)


@pytest.fixture
def views(tmp_path: Path) -> InputViews:
    return prepare_views(write_photos(tmp_path, count=3))


def test_float32_agrees_with_the_cpu(small_weights: Path, views: InputViews) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    cameras = orbit_cameras([0.0, 120.0])
    pictures = []
    for device in ("cpu", "cuda"):
        model = UpFusion.load(small_weights, device=device, dtype=torch.float32)
        scene = model.encode(views)
        pictures.append((model.predict(scene, cameras), model.sample(scene, cameras, steps=3).rgb))
    assert worst(pictures[0][0], pictures[1][0]) < 1e-3
    assert worst(pictures[0][1], pictures[1][1]) < 5e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_stays_finite_and_close(small_weights: Path, views: InputViews, dtype: torch.dtype) -> None:
    cameras = orbit_cameras([0.0, 120.0])
    exact = UpFusion.load(small_weights, device="cpu")
    rounded = UpFusion.load(small_weights, device="cuda", dtype=dtype)
    ours = rounded.predict(rounded.encode(views), cameras)
    assert worst(ours, exact.predict(exact.encode(views), cameras)) < 0.1
    assert torch.isfinite(rounded.sample(rounded.encode(views), cameras, steps=3).rgb).all()


@pytest.mark.parametrize("guidance", [1.0, 9.0])
def test_recorded_steps_are_the_steps(small_weights: Path, views: InputViews, guidance: float) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    plain, recorded = (UpFusion.load(small_weights, device="cuda", dtype=torch.float32) for _ in range(2))
    recorded.prior.capture_graphs()
    scene = plain.encode(views)
    generator = torch.Generator().manual_seed(0)
    for azimuth in (0.0, 120.0, 240.0):  # the same recording with other constants
        cond = plain.condition(scene, orbit_cameras([azimuth, azimuth + 30]))
        prepared = recorded.prepare(cond, guidance)
        for timestep in (981, 481, 1):
            latents = torch.randn(2, *plain.prior.latent_shape, generator=generator)
            wanted = plain.predict_noise(latents, timestep, cond, guidance)
            assert worst(recorded.predict_noise(latents, timestep, prepared, guidance), wanted) < 1e-4


def test_views_by_recorded_steps(small_weights: Path, views: InputViews) -> None:
    model = UpFusion.load(small_weights, device="cuda", dtype=torch.float16)
    scene, cameras = model.encode(views), orbit_cameras([0.0, 90.0, 180.0])
    wanted = model.sample(scene, cameras, steps=4, batch_size=2).rgb
    model.prior.capture_graphs()
    assert worst(model.sample(scene, cameras, steps=4, batch_size=2).rgb, wanted) < 2e-2


def _results(name: str, config: GridConfig, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Values and gradients of points and table at 10,007 points, some of them outside the box."""
    generator = torch.Generator().manual_seed(0)
    points = (torch.rand(10_007, 3, generator=generator) * 1.1 - 0.05).to(GPU).requires_grad_()
    table = torch.randn(sum(config.rows), config.features, generator=generator).to(GPU, dtype).requires_grad_()
    upstream = torch.randn(len(points), config.width, generator=generator).to(GPU)
    encoded = grid_encoder(name)(points, table, config)
    return [encoded.detach(), *torch.autograd.grad(encoded, (points, table), upstream.to(encoded.dtype))]


def _require(name: str) -> None:
    try:
        choose_backend(name, GPU)
    except (InputError, MissingPackageError) as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("features", [1, 2, 3, 4])
@pytest.mark.parametrize("indexing", ["tiled", "hashed"])
def test_triton_agrees_with_the_definition(indexing: str, features: int) -> None:
    _require("triton")
    assert choose_backend("auto", GPU).name == "triton"
    config = GridConfig(features=features, indexing=indexing)
    found, wanted = (_results(name, config) for name in ("triton", "torch"))
    # a position of 2048 cells is rounded by 1e-4 of a cell before its weight is taken, fused or not
    torch.testing.assert_close(found[0], wanted[0], atol=1e-3, rtol=0)
    torch.testing.assert_close(found[2], wanted[2], atol=2e-3, rtol=1e-4)
    off = (found[1] - wanted[1]).abs() > 1e-3 * wanted[1].abs().max()
    assert off.any(-1).float().mean() < 1e-3  # points on a face between cells, where the slope jumps


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_triton_with_tables_in_half_precision(dtype: torch.dtype) -> None:
    _require("triton")
    found, wanted = (_results(name, GridConfig(), dtype) for name in ("triton", "torch"))
    none, table = torch.zeros(0, 3, device=GPU), torch.zeros(sum(GridConfig().rows), 2, device=GPU)
    assert grid_encoder("triton")(none, table, GridConfig()).shape == (0, 32)
    assert [value.dtype for value in found] == [value.dtype for value in wanted]
    torch.testing.assert_close(found[0], wanted[0], atol=1e-3, rtol=0)


def test_tinycudann_agrees_with_the_definition_on_hashed_grids() -> None:
    _require("tinycudann")
    config = GridConfig(indexing="hashed")
    found, wanted = (_results(name, config) for name in ("tinycudann", "torch"))
    torch.testing.assert_close(found[0], wanted[0], atol=2e-3, rtol=0)
    torch.testing.assert_close(found[2], wanted[2], atol=5e-3, rtol=1e-3)


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
    eight = data.objects(range(32)).to(GPU)[torch.arange(8, device=GPU)]
    batch = data.look(eight, views=3, size=16, generator=torch.Generator("cuda").manual_seed(0))
    assert batch.camera_to_world.is_cuda
    assert torch.isfinite(batch.rgb).all()
    assert batch.mask[..., 7:9, 7:9].mean() > 0.3  # most objects have something in the middle
