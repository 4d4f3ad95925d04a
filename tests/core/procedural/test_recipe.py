"""Objects from seeds: the same for ever, and so as varied as they were made; splits apart, parts held out."""

import hashlib
import itertools
import json
from pathlib import Path

import pytest
import torch
from refusals import refused
from torch import Tensor
from torch.nn.functional import normalize

from upfusion_core.geometry import orbit_cameras
from upfusion_core.procedural import SPLITS, VERSIONS, Objects, draw_objects, render_views, signed_distance
from upfusion_core.procedural.render import DOTS
from upfusion_core.procedural.shapes import HELD_OUT_PATTERN, HELD_OUT_ROLES, LEG, SPOUT, framed

GOLDEN = Path(__file__).parent / "procedural_golden.json"
GOLDEN_OBJECTS = 64


def tensors_of(value: object) -> list[Tensor]:
    """All tensors of nested dataclasses, in the order of their fields."""
    if value is None or isinstance(value, Tensor):
        return [] if value is None else [value]
    return [tensor for name in value.__dataclass_fields__ for tensor in tensors_of(getattr(value, name))]


def same(one: Objects, two: Objects, tolerance: float = 1e-6) -> bool:
    return all(
        torch.allclose(a.float(), b.float(), atol=tolerance)
        for a, b in zip(tensors_of(one), tensors_of(two), strict=True)
    )


def described(split: str, version: int) -> dict[str, object]:
    """What is frozen of a split: a hash of all whole numbers, sums of the others, small pictures of four objects.

    To renew it after raising a version, write {version: {name: described(name, version)}} as JSON.
    """
    objects, more = draw_objects(split, range(GOLDEN_OBJECTS), extra=4, version=version)
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


def test_objects_depend_on_their_index_alone() -> None:
    together, more = draw_objects("train", [7, 3, 900_000_000], extra=4)
    assert more.shape == (3, 4)
    for place, index in enumerate([7, 3, 900_000_000]):
        alone, extra = draw_objects("train", [index], extra=4)
        assert same(alone, together[place])
        assert torch.equal(extra[0], more[place])
    assert not same(together[0], together[1])
    longer, _ = draw_objects("train", [7], extra=10)
    assert same(longer, together[0])


def test_splits_are_disjoint_and_end() -> None:
    ranges = sorted((split.first_seed, split.first_seed + split.objects) for split in SPLITS.values())
    assert ranges[0][0] >= 0
    assert ranges[-1][1] <= 2**32  # beyond it seeds repeat
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(ranges))
    first = [draw_objects(name, [0])[0] for name in SPLITS]
    assert all(not same(a, b) for number, a in enumerate(first) for b in first[:number])
    refused("numbered 0 to 65535, got 65536", draw_objects, "test", [65536])
    refused("got -1", draw_objects, "train", [-1])


def have(objects: Objects, *roles: int) -> Tensor:
    """(B,) bool: objects with a part in any of `roles`."""
    return torch.stack([(objects.role == role).any(1) for role in roles]).any(0)


@pytest.mark.parametrize(("split", "version"), list(itertools.product(["train", "validation", "test"], VERSIONS)))
def test_what_is_held_out_is_never_drawn(split: str, version: int) -> None:
    objects, _ = draw_objects(split, range(2000), version=version)
    assert not (have(objects, SPOUT) & have(objects, LEG)).any()
    assert not (objects.coats.pattern == DOTS).any()


@pytest.mark.parametrize("version", VERSIONS)
def test_held_out_objects_have_it(version: int) -> None:
    objects, _ = draw_objects("held_out", range(100), version=version)
    both = have(objects, SPOUT) & have(objects, LEG)
    dotted = (objects.coats.pattern[:, :, 0] == DOTS) & objects.present
    assert both[0::2].all()
    assert dotted.any(1)[1::2].all()
    assert not both[1::2].any()
    assert not dotted[0::2].any()
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
