import hashlib
import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from refusals import refused
from torch import Tensor
from torch.nn.functional import normalize

from upfusion_core.geometry import orbit_cameras, reference_camera
from upfusion_core.procedural import Objects, ProceduralObjects, draw_objects, render_views, signed_distance
from upfusion_core.procedural.render import DOTS
from upfusion_core.procedural.shapes import HELD_OUT_PATTERN, HELD_OUT_ROLES, LEG, SPLITS, SPOUT, VERSIONS, framed

GOLDEN = Path(__file__).parent / "procedural_golden.json"


def tensors_of(value: object) -> list[Tensor]:
    """All tensors of nested dataclasses, in the order of their fields."""
    if value is None or isinstance(value, Tensor):
        return [] if value is None else [value]
    return [tensor for name in value.__dataclass_fields__ for tensor in tensors_of(getattr(value, name))]


def described(split: str, version: int) -> dict[str, object]:
    """What is frozen of a split: a hash of all whole numbers, sums of the others, small pictures of four objects.

    To renew it after raising a version, write {version: {name: described(name, version)}} as JSON.
    """
    objects, more = draw_objects(split, range(64), extra=4, version=version)
    whole = [tensor for tensor in tensors_of(objects) if not tensor.is_floating_point()]
    digest = hashlib.sha256(b"".join(tensor.contiguous().numpy().tobytes() for tensor in whole)).hexdigest()
    summed = (objects.first.center.abs(), objects.first.size, objects.coats.colors, objects.label.abs())
    sums = [float(tensor[objects.present].double().sum()) for tensor in summed]
    matrices, focal = orbit_cameras(30.0, 20.0).camera_to_world, orbit_cameras(30.0).focal
    if objects.staging is not None:
        sums += [float(tensor.abs().double().sum()) for tensor in tensors_of(objects.staging)]
    pictures, _, _ = render_views(objects[:4], matrices.expand(4, 1, 4, 4), focal.expand(4, 1, 2), 8)
    sums.append(float(more.double().sum()))  # whence the fixed cameras come
    return {"whole_numbers": digest, "sums": sums, "pictures": (pictures * 255).round().int().flatten().tolist()}


@pytest.mark.parametrize(("split", "version"), list(itertools.product(sorted(SPLITS), VERSIONS)))
def test_the_generator_is_what_it_was(split: str, version: int) -> None:
    """If this fails, results with older models no longer compare: it must become another version."""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert list(golden) == [str(number) for number in VERSIONS]
    wanted, found = golden[str(version)][split], described(split, version)
    assert found["whole_numbers"] == wanted["whole_numbers"]
    assert found["sums"] == pytest.approx(wanted["sums"], rel=1e-4)
    off = (torch.tensor(found["pictures"]) - torch.tensor(wanted["pictures"])).abs()
    assert off.float().mean() < 0.5
    assert (off > 3).float().mean() < 0.01  # a sample on an edge may fall to its other side


def test_splits_are_disjoint_and_end() -> None:
    ranges = sorted((split.first_seed, split.first_seed + split.objects) for split in SPLITS.values())
    assert ranges[0][0] >= 0
    assert ranges[-1][1] <= 2**32  # beyond it seeds repeat
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(ranges))
    refused("numbered 0 to 65535, got 65536", draw_objects, "test", [65536])
    refused("got -1", draw_objects, "train", [-1])


def spouted_on_legs(objects: Objects) -> Tensor:
    return (objects.role == SPOUT).any(1) & (objects.role == LEG).any(1)


@pytest.mark.parametrize(("split", "version"), list(itertools.product(["train", "validation", "test"], VERSIONS)))
def test_what_is_held_out_is_never_drawn(split: str, version: int) -> None:
    objects, _ = draw_objects(split, range(2000), version=version)
    assert not spouted_on_legs(objects).any()
    assert not (objects.coats.pattern == DOTS).any()


@pytest.mark.parametrize("version", VERSIONS)
def test_held_out_objects_have_it(version: int) -> None:
    objects, _ = draw_objects("held_out", range(100), version=version)
    assert spouted_on_legs(objects).tolist() == [True, False] * 50
    dotted = (objects.coats.pattern[:, :, 0] == DOTS) & objects.present
    assert dotted.any(1).tolist() == [False, True] * 50
    assert (HELD_OUT_ROLES, HELD_OUT_PATTERN) == (("spout", "leg"), "dots")


def test_fewer_parts_keep_the_first_and_fill_the_frame() -> None:
    objects, _ = draw_objects("test", range(32))
    fewer = framed(objects.first_parts(2), torch.full((32,), 0.19))
    assert (fewer.present.sum(1) == 2).all()
    assert torch.equal(fewer.first.kind, objects.first.kind)
    points = 0.3 * normalize(torch.randn(32, 500, 3, generator=torch.Generator().manual_seed(1)), dim=-1)
    assert (signed_distance(fewer, points) > 0).all()
    scale = fewer.first.size[:, 0, 0] / objects.first.size[:, 0, 0]
    assert (scale > 0.9).all()
    assert scale.max() > 1.2


def test_batches_have_their_shapes_and_the_reference_in_front() -> None:
    batch = ProceduralObjects("train").batch([5, 6, 7], views=4, size=16)
    assert (batch.rgb.shape, batch.camera_to_world.shape) == ((3, 4, 3, 16, 16), (3, 4, 4, 4))
    assert batch.mask.shape == batch.depth.shape == (3, 4, 1, 16, 16)
    assert ((batch.rgb >= 0) & (batch.rgb <= 1)).all()
    reference = reference_camera().camera_to_world.expand(3, 4, 4)
    assert torch.allclose(batch.camera_to_world[:, 0], reference, atol=1e-5)
    assert (batch.camera_to_world[..., :3, 3].norm(dim=-1) - 1).abs().max() < 1e-5
    assert (batch.mask.mean((2, 3, 4)) > 0.03).all()
    assert batch.names[0].endswith("train-5")


def test_the_object_is_turned_with_its_reference() -> None:
    """View 0 of the object as drawn, seen from the drawn azimuth, is view 0 of the example."""
    batch = ProceduralObjects("train").batch([2], views=1, size=24)
    objects, draws = draw_objects("train", [2], extra=2)
    camera = orbit_cameras(360 * float(draws[0, 0]), 22.5)
    rgb, _, _ = render_views(objects, camera.camera_to_world[None], camera.focal[None], 24)
    assert (rgb - batch.rgb).abs().mean() < 1e-3


def test_cameras_and_objects_are_fixed_or_drawn() -> None:
    data = ProceduralObjects("test")
    few, many = data.batch([1, 9], views=2, size=8), data.batch([9], views=5, size=8)
    assert torch.allclose(few.rgb[1], many.rgb[0, :2], atol=1e-5)
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 0, 1, 0)]
    first, again, other = (data.batch([4, 1], views=3, size=8, generator=each) for each in generators[:3])
    assert torch.equal(first.camera_to_world, again.camera_to_world)
    assert not torch.allclose(first.camera_to_world, other.camera_to_world)
    seen = data.look(data.objects(range(6))[torch.tensor([4, 1])], views=3, size=8, generator=generators[3])
    assert torch.allclose(seen.rgb, first.rgb, atol=1e-5)
    assert (seen.names, first.names) == ((), data.names([4, 1]))
    assert seen.example(1).name.startswith("procedural")


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
    elevation = elevation[:, 1:]
    assert -7.6 < elevation.min() < -5
    assert 50 < elevation.max() < 52.6
    azimuth = torch.atan2(batch.camera_to_world[:, 1:, 0, 3], batch.camera_to_world[:, 1:, 2, 3])
    assert torch.histc(azimuth, 8, -math.pi, math.pi).min() > 100


def test_examples_are_those_of_the_readers() -> None:
    data = ProceduralObjects("validation", size=12, views=4)
    example = data[2]
    assert (example.rgb.shape, example.depth.shape) == ((4, 3, 12, 12), (4, 1, 12, 12))
    assert data.view_count(2) == 4
    assert torch.equal(data.read(2).rgb, example.rgb)
    assert torch.equal(data.batch([2], views=4, photos=[0]).rgb[0], example.rgb)  # version 1 takes no photos
    assert torch.equal(data.read(2, [3, 1]).rgb, example.rgb[[3, 1]])
    assert len(data.draw(2, 3, torch.Generator()).rgb) == 3


def test_what_is_refused() -> None:
    refused("split must be one of", ProceduralObjects, "all")
    refused("views must be", ProceduralObjects, "test", views=0)
    refused("views must be", ProceduralObjects("test").batch, [0], views=65)
