"""Every writer where the system writes no further: one sentence, the last good file as it was, nothing left behind."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from refusals import denied
from tiny_training import tiny_model
from torch import Tensor

from upfusion_core import MeshAsset, RadianceField
from upfusion_core.cli.views import save_video
from upfusion_core.config import FieldConfig, GridConfig
from upfusion_core.models.checkpoint import network_weights
from upfusion_core.models.convert import write_networks
from upfusion_core.support.files import replacing, save_tensors, write_json
from upfusion_core.training.initial import initial_networks

LIMIT = 20_000  # bytes that fit


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def field(path: Path) -> None:
    grid = GridConfig(levels=2, coarsest=4, finest=64, table_size=2**14)
    RadianceField(FieldConfig(grid=grid, hidden=4)).save(path)


def mesh(path: Path) -> None:
    MeshAsset(noise(3000, 3), torch.arange(3000).reshape(-1, 3), noise(3000, 3)).save(path)


def film(path: Path) -> None:
    with replacing(path) as partial:
        save_video(partial, noise(8, 3, 64, 64))


def weights(path: Path) -> None:
    networks, text = initial_networks(tiny_model(), seed=0)
    write_networks(path, tiny_model(), network_weights(tiny_model(), networks), text)


WRITERS: dict[str, Callable[[Path], object]] = {
    "field.safetensors": field, "mesh.glb": mesh, "mesh.obj": mesh, "mesh.ply": mesh, "mesh.stl": mesh,
    "turntable.gif": film, "model.safetensors": weights,
    "run.json": lambda path: write_json(path, {"files": ["views/000.png"] * 3000}),
    "training.pt": lambda path: save_tensors({"state": {"field": noise(10_000)}}, path),
}  # fmt: skip


@contextmanager
def limited() -> Iterator[None]:
    """No file of this process may grow beyond LIMIT: the system refuses the write, as it does on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_may_not_grow(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"the last good file")
    with limited():
        denied("could not be written", WRITERS[name], path)
    assert path.read_bytes() == b"the last good file"
    assert [file.name for file in tmp_path.iterdir()] == [name]
    WRITERS[name](path)  # once there is room
    assert path.stat().st_size > LIMIT
