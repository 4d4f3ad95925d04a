"""Objects that are hardly any: each gives a field and a mesh, or the reason why not."""

from dataclasses import replace

import pytest
import tiny_training
import torch
from odd_values import assert_finite, refused_or_finite
from torch import Tensor

from upfusion_core import DistillConfig, MeshAsset, RadianceField, UpFusion, orbit_cameras, prepare_views
from upfusion_core.config import RaySampling
from upfusion_core.field.fitting import FieldFitter

pytestmark = pytest.mark.usefixtures("rough")

FIELD = replace(tiny_training.FIELD, blob_sigma=0.2)
FIT = replace(tiny_training.FIT, iterations=20, rays=128, sampling=RaySampling(24, 0))


def picture(kind: str) -> Tensor:
    """(3, 32, 32) on white: a disc, nothing, a line one pixel wide, or an object without any white round it."""
    row, column = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    disc = (row - 15.5) ** 2 + (column - 15.5) ** 2 < 90
    inside = {"disc": disc, "white": row < 0, "wire": column == 16, "full": row >= 0}[kind]
    return torch.where(inside, torch.tensor([0.8, 0.3, 0.1])[:, None, None], torch.ones(3, 1, 1))


@pytest.mark.parametrize(("kind", "count"), [("disc", 6), ("wire", 1), ("full", 1)])
def test_from_photos_to_a_field(model: UpFusion, kind: str, count: int) -> None:
    scene = model.encode(prepare_views([picture(kind)] * count, size=tiny_training.SIZE))
    assert_finite(model.predict(scene, orbit_cameras([0, 180]), 8))
    field = model.distill(scene, DistillConfig(schedule=tiny_training.DRAFT, field=FIELD))
    assert_finite(field)
    assert_finite(field.render(orbit_cameras([0, 90]), 8).rgb)


@pytest.mark.parametrize("kind", ["disc", "white", "wire", "full"])
def test_a_fit_to_such_pictures_is_a_mesh_or_a_reason(kind: str) -> None:
    """The same picture from all round: a ball, nothing, a pole, and matter from wall to wall of the box."""
    cameras, rgb = orbit_cameras([0.0, 90.0, 180.0, 270.0], 10.0), picture(kind).expand(4, -1, -1, -1)
    mask = (rgb.amin(1, keepdim=True) < 0.99).float()
    field = RadianceField(FIELD, generator=torch.Generator().manual_seed(2))
    fitter = FieldFitter(field, cameras, rgb, mask=mask, config=FIT, generator=torch.Generator().manual_seed(3))
    while not fitter.done:
        assert_finite(dict(fitter.step()))
    assert_finite(field)
    seen = field.render(cameras[:1], 32)
    assert_finite(seen)
    assert isinstance(refused_or_finite(field.extract_mesh, 16), MeshAsset) or kind != "disc"
    assert float(seen.opacity.detach().mean()) > 0.5 or kind != "full"
