"""Fields and meshes: points that are none, cameras inside and behind, options out of range."""

import tempfile
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st
from odd_values import numbers, odd_tensors, or_junk, refused_or_finite
from torch import Tensor

from upfusion_core import MeshAsset, RadianceField, load_field, look_at, orbit_cameras
from upfusion_core.config import FieldConfig, GridConfig, RaySampling

TINY = FieldConfig(grid=GridConfig(levels=2, coarsest=4, finest=8, table_size=256), hidden=8, half_extent=0.4)
FIELD = RadianceField(TINY, generator=torch.Generator().manual_seed(3)).requires_grad_(False)
FEW = RaySampling(uniform=4, importance=4)
PAIR, FAR, WIDE = orbit_cameras([0, 90], 10), orbit_cameras(0, 0, 1e6), orbit_cameras(0, 0, 1, focal=1e-3)
AWAY, INSIDE = look_at(torch.tensor([[0.0, 0, 1]]), (0, 0, 5)), look_at(torch.tensor([[0.0, 0, 1e-5]]))
CORNERS = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
FACES = torch.tensor([[0, 1, 2], [0, 0, 0], [1, 2, 4], [-1, 0, 1]])  # of no area, of no vertices


@given(
    or_junk(PAIR, PAIR[:0], FAR, WIDE, AWAY, INSIDE), or_junk(4, (3, 5)),
    or_junk(1.0, (1.0, 0.5, 0.0), numbers(), odd_tensors((3,), (4,))), or_junk(4096, 1, 2.5, numbers()),
)  # fmt: skip
def test_render(cameras: object, size: object, background: object, chunk: object) -> None:
    refused_or_finite(FIELD.render, cameras, size, background=background, sampling=FEW, chunk=chunk)


@given(or_junk(8), or_junk(None, 1e-3, 1e3, 1e38, numbers()), or_junk(None, 16, numbers()), or_junk(0.05, numbers()))
def test_extract_mesh(resolution: object, threshold: object, faces: object, keep: object) -> None:
    mesh = refused_or_finite(FIELD.extract_mesh, resolution, threshold, faces=faces, keep=keep)
    assert mesh is None or int(mesh.faces.max()) < len(mesh.vertices)


@given(
    or_junk(CORNERS, odd_tensors((4, 3), low=-1)), or_junk(*FACES[:, None], FACES[:0], odd_tensors((2, 3))),
    or_junk(torch.ones(4, 3), odd_tensors((4, 3))), or_junk(None, odd_tensors((4, 2))),
    or_junk(None, torch.ones(3, 4, 4), odd_tensors((3, 4, 4), (3, 0, 4))), or_junk(None, odd_tensors((4, 3), low=-1)),
    st.sampled_from(("a.glb", "a.obj", "a.ply", "a.stl", "a", "a.exe", ".glb", "\u8336.glb")),
)  # fmt: skip
def test_meshes(
    vertices: object, faces: object, colors: object, uvs: object, texture: object, normals: object, name: str
) -> None:
    mesh = refused_or_finite(MeshAsset, vertices, faces, colors, uvs, texture, normals)
    with tempfile.TemporaryDirectory() as folder:
        if mesh is not None:
            refused_or_finite(mesh.save, Path(folder) / name)
        assert all(not path.name.startswith(".") or path.name == name for path in Path(folder).iterdir())


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes of a file, some of them changed, left out or put in."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(changed) - 1, 0)))
        kind = draw(st.sampled_from(("flip", "cut", "insert", "digit")))
        if kind == "flip" and changed:
            changed[place] ^= draw(st.integers(1, 255))
        elif kind == "cut":
            del changed[place : place + draw(st.integers(1, 50))]
        elif kind == "insert":
            changed[place:place] = draw(st.binary(max_size=20))
        elif changed and chr(changed[place]).isdigit():
            changed[place] = ord(draw(st.sampled_from("0123456789-")))
    return bytes(changed)


with tempfile.TemporaryDirectory() as written:
    FIELD.save(Path(written) / "field.safetensors", cameras=orbit_cameras([0, 30]), settings={"seed": 4})
    STORED = (Path(written) / "field.safetensors").read_bytes()
HEADER = STORED[: 8 + int.from_bytes(STORED[:8], "little")]


@given(st.one_of(damaged(STORED), damaged(HEADER).map(lambda header: header + STORED[len(HEADER) :])))
def test_damaged_files_of_fields(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "field.safetensors"
        path.write_bytes(data)
        stored = refused_or_finite(load_field, path)
        assert stored is None or isinstance(stored.field.density(torch.zeros(1, 3)), Tensor)
