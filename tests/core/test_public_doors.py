"""Whatever the public functions are given, they refuse it in a sentence or give numbers that are fit for use."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from odd_values import numbers, odd_tensors, or_junk, refused_or_finite
from torch import Tensor

from upfusion_core import Cameras, InputViews, MeshAsset, RadianceField, measure_views, prepare_views
from upfusion_core.config import FieldConfig, GridConfig, RaySampling
from upfusion_core.geometry import camera_rays, reference_plucker
from upfusion_core.geometry.cameras import cameras_from_matrices, look_at, orbit_cameras, reference_camera

pytestmark = pytest.mark.usefixtures("rough")

TINY = FieldConfig(grid=GridConfig(levels=2, coarsest=4, finest=8, table_size=256), hidden=8, half_extent=0.4)
FIELD = RadianceField(TINY, generator=torch.Generator().manual_seed(3)).requires_grad_(False)
FEW = RaySampling(4, 4)
PAIR, FAR, WIDE = orbit_cameras([0, 90], 10), orbit_cameras(0, 0, 1e6), orbit_cameras(0, 0, 1, focal=1e-3)
AWAY, INSIDE = look_at(torch.tensor([[0.0, 0, 1]]), (0, 0, 5)), look_at(torch.tensor([[0.0, 0, 1e-5]]))
CORNERS = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
FACES = torch.tensor([[0, 1, 2], [0, 0, 0], [1, 2, 4], [-1, 0, 1]])  # of no area, of no vertices
TRUTH, MASK = torch.full((2, 3, 16, 18), 0.5), torch.ones(2, 1, 16, 18)


@st.composite
def matrices(draw: st.DrawFn) -> Tensor:
    """(N, 4, 4) poses, good ones and such as are mirrored, scaled, sheared, far away or full of NaN."""
    pose = orbit_cameras([0.0, 120.0], 20.0, 1.5).camera_to_world
    pose[:, :3, :3] *= draw(st.sampled_from((1.0, 1.0, 1.0005, -1.0, 2.0, 0.0, 1e-20, 1e20)))
    parts = (pose[:0], pose[:, :, 0], pose[:, :3, 3], pose[:, 0, 1], pose[:, 3], pose[:, :3, ::2])
    draw(st.sampled_from(parts)).mul_(draw(st.sampled_from((-1.0, 0.0, 1.5, 1e6, 3e38, torch.nan))))
    return pose


@st.composite
def photos(draw: st.DrawFn) -> object:
    """What a photo may be given as: a tensor, an array of floats, or one of bytes."""
    tensor = draw(odd_tensors((3, 12, 20), (4, 12, 20), (1, 12, 20), (3, 12, 2000), (3, 1, 1), (2, 3, 12, 20)))
    if draw(st.booleans()):
        return tensor
    array = tensor.detach().float().numpy()
    if draw(st.booleans()):
        return array
    return (np.nan_to_num(np.moveaxis(array, 0, -1), posinf=0, neginf=0) * 255).clip(0, 255).astype(np.uint8)


def written(name: str, *parts: Any) -> MeshAsset:  # noqa: ANN401 - what meshes are made of, and what not
    mesh = MeshAsset(*parts)
    with tempfile.TemporaryDirectory() as folder:
        refused_or_finite(mesh.save, Path(folder) / name)
        assert all(not path.name.startswith(".") or path.name == name for path in Path(folder).iterdir())
    return mesh


DOORS: dict[str, tuple[Any, ...]] = {
    "Cameras": (
        Cameras, or_junk(matrices(), odd_tensors((2, 4, 4), (1, 4, 4), low=-1)),
        or_junk(torch.full((2, 2), 4.5), odd_tensors((2, 2), low=-1, high=5)),
        or_junk(torch.zeros(2, 2), odd_tensors((2, 2), low=-1)),
    ),
    "orbit_cameras": (
        lambda azimuth, elevation, distance, focal: orbit_cameras(azimuth, elevation, distance, focal=focal),
        or_junk(30.0, [0, 90, 180], odd_tensors((3,), low=-720, high=720), numbers()),
        or_junk(22.5, [-89.9999, 0, 89.9999], [90], odd_tensors((3,), low=-90, high=90), numbers()),
        or_junk(1.0, 1e-30, 1e30, [1, 2, 3], odd_tensors((3,), high=3), numbers()), or_junk(4.5, numbers()),
    ),
    "cameras_from_matrices": (
        lambda pose, focal, principal, axes: cameras_from_matrices(pose, focal=focal, principal=principal, axes=axes),
        or_junk(matrices(), odd_tensors((2, 4, 4), (2, 3, 4), low=-1)),
        or_junk(4.5, [4.5, 2.0], odd_tensors((2,), (2, 2), high=5), numbers()),
        or_junk(None, torch.zeros(2, 2), odd_tensors((2, 2), low=-1)), or_junk("gltf", "opencv", "pytorch3d"),
    ),
    "render": (
        lambda cameras, size, back, chunk: FIELD.render(cameras, size, background=back, sampling=FEW, chunk=chunk),
        or_junk(PAIR, PAIR[:0], FAR, WIDE, AWAY, INSIDE), or_junk(4, (3, 5)),
        or_junk(1.0, (1.0, 0.5, 0.0), numbers(), odd_tensors((3,), (4,))), or_junk(4096, 1, 2.5, numbers()),
    ),
    "extract_mesh": (
        lambda resolution, level, faces, keep: FIELD.extract_mesh(resolution, level, faces=faces, keep=keep),
        or_junk(8), or_junk(None, 1e-3, 1e3, 1e38, numbers()), or_junk(None, 16, numbers()), or_junk(0.05, numbers()),
    ),
    "MeshAsset": (
        written, st.sampled_from(("a.glb", "a.obj", "a.ply", "a.stl", "a", "a.exe", ".glb", "\u8336.glb")),
        or_junk(CORNERS, odd_tensors((4, 3), low=-1)), or_junk(*FACES[:, None], FACES[:0], odd_tensors((2, 3))),
        or_junk(torch.ones(4, 3), odd_tensors((4, 3))), or_junk(None, odd_tensors((4, 2))),
        or_junk(None, torch.ones(3, 4, 4), odd_tensors((3, 4, 4), (3, 0, 4))),
        or_junk(None, odd_tensors((4, 3), low=-1)),
    ),
    "prepare_views": (
        lambda images, masks, size, margin: prepare_views(images, masks, size=size, margin=margin),
        or_junk(photos(), st.lists(photos(), max_size=7)),
        or_junk(None, photos(), odd_tensors((12, 20), (1, 12, 20), (2, 1, 12, 20)), st.lists(photos(), max_size=3)),
        or_junk(16, numbers()), or_junk(1.15, numbers()),
    ),
    "measure_views": (
        lambda prediction, truth, mask, mine: measure_views(prediction, truth, mask, prediction_mask=mine),
        or_junk(TRUTH, odd_tensors((2, 3, 16, 18), (2, 3, 4, 4), low=-0.1, high=1.1)),
        or_junk(TRUTH, odd_tensors((2, 3, 16, 18), (2, 3, 4, 4))), or_junk(MASK, 0 * MASK, odd_tensors((2, 1, 16, 18))),
        or_junk(None, odd_tensors((2, 1, 16, 18))),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DOORS)
@given(data=st.data())
def test_odd_values_are_refused_or_fit_for_use(name: str, data: st.DataObject) -> None:
    door, *parts = DOORS[name]
    made = refused_or_finite(door, *map(data.draw, parts))
    if isinstance(made, Cameras) and len(made):
        rays = camera_rays(made, 3, 2)
        assert torch.allclose(rays.directions.norm(dim=-1), torch.ones(len(made), 3, 2), atol=1e-4)
        refused_or_finite(reference_plucker, made, reference_camera(), 4)
        refused_or_finite(reference_plucker, reference_camera(), made[0], 4)
    if isinstance(made, MeshAsset):
        assert int(made.faces.max()) < len(made.vertices)
    if isinstance(made, InputViews):
        assert 0 <= float(made.rgb.min()) <= float(made.rgb.max()) <= 1
        assert float(made.mask.max()) >= 0.05
