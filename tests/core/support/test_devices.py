"""Devices by name; out of memory the chunk halves, one line says so, and the result is the same."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from analytic_fields import AnalyticField, ball
from refusals import raised, refused

from upfusion_core import UpFusion, orbit_cameras
from upfusion_core.config import RaySampling
from upfusion_core.field.rendering import render_views
from upfusion_core.support.devices import Chunk, existing_device, is_out_of_memory
from upfusion_core.support.errors import OutOfMemoryError, UpFusionError
from upfusion_core.surface.extract import extract_mesh
from upfusion_core.types import InputViews, RenderedViews, SceneEncoding

CPU_SAYS = "[enforce fail at alloc_cpu.cpp:127] data. DefaultCPUAllocator: can't allocate memory: you tried to allocate"


class Small:
    """Stands for a device with memory for so many rows at a time."""

    def __init__(self, most: int, error: Exception | None = None) -> None:
        self.most, self.refused, self.error = most, 0, error or torch.OutOfMemoryError("CUDA out of memory")

    def check(self, rows: int) -> None:
        if rows > self.most:
            self.refused += 1
            raise self.error

    def take(self, part: slice) -> int:
        self.check(part.stop - part.start)
        return part.stop - part.start


@contextmanager
def warned(*lines: str) -> Iterator[None]:
    """Inside, exactly these warnings are given, each known by how it begins."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    found = [str(warning.message) for warning in caught if "out of memory" in str(warning.message)]
    assert [line[: len(wanted)] for line, wanted in zip(found, lines, strict=True)] == list(lines)


def test_what_allocators_say() -> None:
    for error in (
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError(f"{CPU_SAYS} 4 bytes. Error code 12 (Cannot allocate memory)"),
        RuntimeError("MPS backend out of memory (MPS allocated: 18.00 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    ):
        assert is_out_of_memory(error)
        with warned("out of memory with 4 things at a time; going on with 2"):
            assert list(Chunk(4, "thing").map(Small(2, error).take, 5)) == [2, 2, 1]


def test_not_even_one_fits() -> None:
    with warned("out of memory with 3 views at a time; going on with 1"):
        words = "suffice for one view at a time, but does not"
        raised(OutOfMemoryError, words, list, Chunk(3, "view").map(Small(0).take, 5))
    assert {UpFusionError, MemoryError} <= set(OutOfMemoryError.__mro__)
    with warned("out of memory with 2 things"):  # said by torch itself
        sums = Chunk(2, "thing").map(lambda part: torch.empty(2**60 if part.stop - part.start > 1 else 1).zero_(), 3)
        assert [float(value) for value in sums] == [0, 0, 0]


def test_a_halved_chunk_stays_so_and_counts_what_items_stand_for() -> None:
    chunk, small = Chunk(96, "point"), Small(3)
    with warned("out of memory with 96 points at a time; going on with 48"):
        assert list(chunk.map(small.take, 7, each=16)) == [3, 3, 1]
        assert list(chunk.map(small.take, 4, each=16)) == [3, 1]
    assert (chunk.size, small.refused) == (48, 1)


class SmallField(AnalyticField):
    """A ball on a device with memory for so many points."""

    def __init__(self, most: int) -> None:
        super().__init__(ball())
        self.small, density, color = Small(most), self._density, self._color
        self._density = lambda points: self.small.check(points[..., 0].numel()) or density(points)
        self._color = lambda points: self.small.check(points[..., 0].numel()) or color(points)


def test_rendering_and_meshes() -> None:
    def seen(field: AnalyticField) -> RenderedViews:
        few = RaySampling(uniform=16, importance=8)
        return render_views(field, field.aabb, orbit_cameras([0.0, 90.0]), 32, sampling=few, chunk=512)

    expected, field = seen(AnalyticField(ball())), SmallField(16 * 200)
    with warned("out of memory with 512 rays at a time; going on with 256", "out of memory with 256 rays"):
        found = seen(field)
    assert field.small.refused == 2
    for name in ("rgb", "opacity", "depth"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-3, rtol=0)
    assert float(found.opacity.max()) > 0.9
    # The lattice, the looks for the level, the vertices' colours and the texture are all asked for in fewer points
    expected = extract_mesh(AnalyticField(ball()), 24, texture_size=64)
    with warned(*[f"out of memory with {size} points at a time" for size in (16384, 8192, 4096, 2048)]):
        found = extract_mesh(SmallField(1500), 24, texture_size=64)
    assert torch.equal(found.faces, expected.faces)
    for name in ("vertices", "vertex_colors", "texture"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-3, rtol=0)


@pytest.fixture
def scene(model: UpFusion) -> SceneEncoding:
    rgb = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return model.encode(InputViews(rgb, torch.ones(3, 1, 16, 16), torch.full((3, 2), 4.5)))


def test_predictions_and_photos(model: UpFusion, scene: SceneEncoding, monkeypatch: pytest.MonkeyPatch) -> None:
    cameras = orbit_cameras([0.0, 120.0])
    scene = replace(scene, model_id=None)  # a layer is exchanged
    picture = model.predict(scene, cameras, 16)
    small, layer = Small(70), model.upsrt.linear_query_pixel_rays.forward
    limited = lambda rays: small.check(rays.shape[1]) or layer(rays)  # noqa: E731
    monkeypatch.setattr(model.upsrt.linear_query_pixel_rays, "forward", limited)
    with warned(*[f"out of memory with {size} rays at a time" for size in (256, 128) * 2]):
        found = model.predict(scene, cameras, 16)
    torch.testing.assert_close(found, picture, atol=1e-3, rtol=0)
    small, dino = Small(1), model.dino.forward
    monkeypatch.setattr(model.dino, "forward", lambda rgb, *rest: small.check(len(rgb)) or dino(rgb, *rest))
    with warned("out of memory with 3 photos at a time; going on with 1"):
        tokens = model.set_latents(scene.views)
    torch.testing.assert_close(tokens, scene.tokens, atol=1e-3, rtol=0)


def test_sampled_views(model: UpFusion, scene: SceneEncoding, monkeypatch: pytest.MonkeyPatch) -> None:
    cameras = orbit_cameras([0.0, 90.0, 180.0, 270.0, 300.0])
    options = {"steps": 3, "guidance": 2.0, "batch_size": 4, "text_embeddings": (torch.zeros(77, 32),) * 2}
    expected = model.sample(scene, cameras, **options).rgb
    small, decode = Small(2), model.prior.decode
    steps: list[tuple[int, int]] = []
    monkeypatch.setattr(model.prior, "decode", lambda latents: small.check(len(latents)) or decode(latents))
    on_step = lambda step, total, preview: steps.append((step, total))  # noqa: E731
    with warned("out of memory with 4 views at a time; going on with 2"):
        found = model.sample(scene, cameras, on_step=on_step, **options)
    torch.testing.assert_close(found.rgb, expected, atol=1e-3, rtol=0)
    assert steps[:3] == [(1, 6), (2, 6), (3, 6)]  # two batches were planned; the first one comes again as two
    assert steps[3:] == [(step, 12) for step in range(4, 13)]


def test_devices_by_name() -> None:
    for device in ("cpu:1", "cuda:99", "xla"):
        refused(f"no {device} device", existing_device, device)
    for device in ("nowhere", 3.5):
        refused("one of torch's", existing_device, device)
    refused("must hold values", existing_device, "meta")
    assert existing_device("cpu") == torch.device("cpu")
    assert existing_device("auto") == existing_device(None)
    assert existing_device(None).type == "cuda" or not torch.cuda.is_available()
