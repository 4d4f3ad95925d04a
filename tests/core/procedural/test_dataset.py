"""Procedural objects as a data set: fixed and drawn cameras, the reference view, the readers' form."""

import math

import pytest
import torch
from refusals import refused

from upfusion_core.data.views import PosedViews
from upfusion_core.geometry import orbit_cameras
from upfusion_core.procedural import ProceduralObjects, draw_objects, render_views


def test_batches_have_their_shapes_and_the_reference_in_front() -> None:
    batch = ProceduralObjects("train").batch([5, 6, 7], views=4, size=16)
    assert batch.rgb.shape == (3, 4, 3, 16, 16)
    assert batch.mask.shape == batch.depth.shape == (3, 4, 1, 16, 16)
    assert batch.camera_to_world.shape == (3, 4, 4, 4)
    assert ((batch.rgb >= 0) & (batch.rgb <= 1)).all()
    # view 0 stands on +Z's side at elevation 22.5 degrees
    rise = math.radians(22.5)
    centers = batch.camera_to_world[:, 0, :3, 3]
    assert torch.allclose(centers, torch.tensor([0.0, math.sin(rise), math.cos(rise)]).expand(3, 3), atol=1e-5)
    assert (batch.camera_to_world[..., :3, 3].norm(dim=-1) - 1).abs().max() < 1e-5
    assert (batch.mask.mean((2, 3, 4)) > 0.03).all()
    assert batch.names[0].endswith("train-5")


def test_the_object_is_turned_with_its_reference() -> None:
    """View 0 of the object as drawn, seen from the drawn azimuth, is view 0 of the example."""
    batch = ProceduralObjects("train").batch([2], views=1, size=24)
    objects, draws = draw_objects("train", [2], extra=2)
    azimuth = math.radians(360 * float(draws[0, 0]))
    assert float(batch.elevation_degrees[0, 0]) == 22.5
    camera = orbit_cameras(math.degrees(azimuth), 22.5)
    rgb, _, _ = render_views(objects, camera.camera_to_world[None], camera.focal[None], 24)
    assert (rgb - batch.rgb).abs().mean() < 1e-3


def test_cameras_and_objects_are_fixed_or_drawn() -> None:
    data = ProceduralObjects("test")
    few, many = data.batch([1, 9], views=2, size=8), data.batch([9], views=5, size=8)
    assert torch.allclose(few.rgb[1], many.rgb[0, :2], atol=1e-5)
    drawn = [
        data.batch([9], views=3, size=8, generator=torch.Generator().manual_seed(seed)).camera_to_world
        for seed in (0, 0, 1)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.allclose(drawn[0], drawn[2])
    data = ProceduralObjects("test", size=8)
    pool = data.objects(range(6))
    seen = data.look(pool[torch.tensor([4, 1])], views=3, size=8, generator=torch.Generator().manual_seed(2))
    same = data.batch([4, 1], views=3, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(seen.rgb, same.rgb, atol=1e-5)
    assert seen.names == ()
    assert seen.example(1).name.startswith("procedural")
    assert data.names([4, 1]) == same.names


@pytest.mark.parametrize("version", [1, 2])
def test_tensors_are_made_where_the_objects_are(version: int) -> None:
    """With another default device, any tensor made without saying where would not mix with the objects'."""
    data = ProceduralObjects("train", size=12, version=version)
    expected = data.batch(range(64), views=2)
    with torch.device("meta"):
        turned = expected.objects.turned(expected.rgb.new_zeros(64))
        rgb, _, _ = render_views(turned, expected.camera_to_world, expected.focal, 12)
    assert torch.allclose(rgb, expected.rgb, atol=1e-5)


def test_cameras_cover_the_band() -> None:
    data = ProceduralObjects("train")
    batch = data.batch(range(40), views=30, size=1, generator=torch.Generator().manual_seed(0), supersampling=1)
    elevation = torch.rad2deg(batch.camera_to_world[..., 1, 3].asin())
    assert torch.allclose(elevation, batch.elevation_degrees, atol=1e-2)
    assert torch.allclose(elevation[:, 0], torch.tensor(22.5), atol=1e-3)
    elevation = elevation[:, 1:]
    assert -7.6 < elevation.min() < -5
    assert 50 < elevation.max() < 52.6
    assert float(elevation.mean()) == pytest.approx(22.5, abs=2)
    assert float(elevation.std()) > 10
    azimuth = torch.atan2(batch.camera_to_world[:, 1:, 0, 3], batch.camera_to_world[:, 1:, 2, 3])
    assert torch.histc(azimuth, 8, -math.pi, math.pi).min() > 100
    assert azimuth.shape == (40, 29)


def test_examples_are_those_of_the_readers() -> None:
    data = ProceduralObjects("validation", size=12, views=4)
    assert len(data) == 65536
    example = data[2]
    assert isinstance(example, PosedViews)
    assert example.rgb.shape == (4, 3, 12, 12)
    assert example.depth is not None
    assert data.view_count(2) == 4
    assert torch.equal(data.read(2).rgb, example.rgb)
    assert torch.equal(data.batch([2], views=4, photos=[0]).rgb[0], example.rgb)  # version 1 takes no photos
    swapped = data.read(2, [3, 1])
    assert torch.equal(swapped.rgb[1], example.rgb[1])
    first = data.draw(2, 3, torch.Generator().manual_seed(4))
    assert len(first) == 3
    assert torch.equal(first.rgb, data.draw(2, 3, torch.Generator().manual_seed(4)).rgb)
    with pytest.raises(IndexError):
        data[65536]


def test_a_curriculum_and_what_is_refused() -> None:
    data = ProceduralObjects("train")
    objects = data.objects(range(16), max_parts=1)
    assert (objects.present.sum(1) == 1).all()
    seen = data.look(objects, views=1, size=16, generator=torch.Generator().manual_seed(0))
    assert (seen.mask.mean((1, 2, 3, 4)) > 0.05).all()
    refused("split must be one of", ProceduralObjects, "all")
    refused("views must be", ProceduralObjects, "test", views=0)
    refused("version must be", ProceduralObjects, "test", version=3)
    refused("views must be", ProceduralObjects("test").batch, [0], views=65)
