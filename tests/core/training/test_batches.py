from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from data_sets import packed
from refusals import refused
from tiny_training import TinySource, tiny_config
from torch import Tensor

from upfusion_core import Cameras, InputError
from upfusion_core.data.shards import ShardedViews
from upfusion_core.data.views import PosedViews
from upfusion_core.geometry import camera_rays, orbit_cameras, point_rays
from upfusion_core.procedural import ProceduralObjects
from upfusion_core.support.devices import derived_seed
from upfusion_core.training import batches as batching
from upfusion_core.training.batches import DatasetBatches, ProceduralBatches, TrainingBatch, look_up, query_rays


class Plain:
    """Objects whose pictures are of one value: (index + 1)/10 + view/1000."""

    def __init__(self, count: int = 5, views: int = 6, size: int = 16, broken: tuple[int, ...] = ()) -> None:
        self.count, self.views, self.size, self.broken = count, views, size, broken
        self.skipped: list[tuple[str, str]] = []

    def __len__(self) -> int:
        return self.count

    def view_count(self, index: int) -> int:
        return self.views

    def read(self, index: int, views: Sequence[int] | None = None) -> PosedViews:
        if index in self.broken:
            self.skipped.append((str(index), "torn"))
            raise InputError("torn")
        values = torch.tensor([(index + 1) / 10 + view / 1000 for view in views])
        rgb = values[:, None, None, None].expand(-1, 3, self.size, self.size)
        cameras = orbit_cameras([60.0 * view for view in range(len(views))])
        return PosedViews(rgb, torch.ones_like(rgb[:, :1]), cameras, f"object {index}")


def source(dataset: Plain | ShardedViews, batch_size: int = 2, workers: int = 1, **changes: object) -> DatasetBatches:
    return DatasetBatches(dataset, tiny_config(batch_size=batch_size, **changes), workers=workers)


def procedural(batch_size: int = 2, pool: int = 0, version: int = 1, **changes: object) -> ProceduralBatches:
    objects = ProceduralObjects("train", version=version)
    batches = ProceduralBatches(objects, tiny_config(batch_size=batch_size, **changes), pool=pool)
    batches.uses = 1
    return batches


def tensors(batch: TrainingBatch) -> list[Tensor]:
    poses = batch.cameras.camera_to_world, batch.references.camera_to_world
    return [batch.photos, batch.targets, batch.target_masks, *poses]


def assert_same(whole: TrainingBatch, *parts: TrainingBatch) -> None:
    """The parts together are the whole."""
    joined = [torch.cat(each) for each in zip(*map(tensors, parts), strict=True)]
    torch.testing.assert_close(joined, tensors(whole), atol=1e-6, rtol=1e-5)


POOLED = partial(procedural, pool=8, curriculum=(2, 4))


@pytest.mark.parametrize("make", [partial(source, Plain()), procedural, partial(procedural, version=2), POOLED])
def test_a_batch_is_a_pure_function_and_parts_make_the_whole(make: Callable[[int], batching.BatchSource]) -> None:
    small, large = make(2), make(4)
    for step in (0, 3):
        parts = [small.batch(step, rank, 2) for rank in range(2)]
        assert_same(large.batch(step), *parts)
        assert_same(make(2).batch(step, 1, 2), parts[1])


def test_passes_views_and_broken_objects() -> None:
    batches = source(Plain(6), targets=1, photos=(1, 1))
    seen = [int(value * 10 + 1e-3) for step in range(6) for value in batches.batch(step).photos[:, 0, 0, 0, 0]]
    assert sorted(seen[:6]) == sorted(seen[6:]) == [1, 2, 3, 4, 5, 6]
    assert seen[:6] != seen[6:]
    for views in (5, 2):
        batch = source(Plain(views=views), photos=(3, 3)).batch(0)
        assert batch.photos.shape == (2, 3, 3, 16, 16)
        assert len(torch.cat([batch.photos[0, :, 0, 0, 0], batch.targets[0, :, 0, 0, 0]]).unique()) == views
    dataset = Plain(4, size=40, broken=(1,))
    photos = source(dataset, 4, photos=(1, 1)).batch(0).photos
    assert photos.shape == (4, 1, 3, 16, 16)
    assert {int(value * 10 + 1e-3) for value in photos[:, 0, 0, 0, 0]} == {1, 3, 4}
    assert dataset.skipped[0] == ("1", "torn")
    refused("must hold objects", source, Plain(0))
    refused("none of 2 objects could be read, the last because [01]: torn", source(Plain(2, broken=(0, 1))).batch, 0)


def test_random_numbers_and_seeds() -> None:
    whole = batching.BatchRandom(7)
    parts = [batching.BatchRandom(7, part, 3) for part in range(3)]
    assert torch.equal(torch.cat([part.uniform(2, 5, 3) for part in parts]), whole.uniform(6, 5, 3))
    assert torch.equal(torch.cat([part.normal(2, 5, 3) for part in parts]), whole.normal(6, 5, 3))
    uniform, normal = whole.uniform(4000), whole.normal(4000)
    assert 0 <= uniform.min() < uniform.max() < 1
    assert (float(uniform.mean()), float(normal.std())) == (pytest.approx(0.5, abs=0.02), pytest.approx(1, abs=0.05))
    assert derived_seed(0, "losses", 1) == derived_seed(0, "losses", 1) != derived_seed(0, "views", 1)
    assert derived_seed(1, 23) != derived_seed(12, 3)
    assert {batching.photo_count((2, 4), 0, step) for step in range(50)} == {2, 3, 4}


def test_photos_of_version_2_are_people_s_and_its_targets_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = procedural(8, version=2).batch(0)
    look = ProceduralObjects.look
    monkeypatch.setattr(ProceduralObjects, "look", lambda self, *of, photos, **named: look(self, *of, **named))
    clean = procedural(8, version=2).batch(0)
    assert torch.equal(taken.targets, clean.targets)
    assert torch.equal(taken.references.camera_to_world, clean.references.camera_to_world)
    assert ((taken.photos - clean.photos).abs().mean((1, 2, 3, 4)) > 1e-3).all()


def test_procedural_batches_and_their_pools() -> None:
    batch = procedural().batch(0)
    assert batch.references.centers.norm(dim=-1).tolist() == pytest.approx([1, 1])
    assert not torch.equal(procedural(seed=1).batch(0).targets, batch.targets)
    held_out = ProceduralBatches(ProceduralObjects("train"), tiny_config(curriculum=(9, 9)), held_out=True)
    assert_same(held_out.batch(0), procedural(seed=1).batch(0))
    assert_same(DatasetBatches(Plain(), tiny_config(), held_out=True).batch(0), source(Plain(), seed=1).batch(0))
    batches = procedural(4, pool=8)
    with patch.object(ProceduralObjects, "objects", autospec=True, side_effect=ProceduralObjects.objects) as drawing:
        for step in range(5):  # 8 objects in batches of 4, each used once: two steps a pool
            batches.batch(step)
    drawn = [call.args[1] for call in drawing.call_args_list]
    assert [len(indices) for indices in drawn] == [8, 8, 8]
    assert len({index for indices in drawn for index in indices}) == 24


def test_shards_are_visited_once_a_pass_by_any_number_of_threads(tmp_path: Path) -> None:
    shards = packed(tmp_path, ProceduralObjects("train", size=8, views=4), 12)  # one or two a shard
    alone, threads = (source(ShardedViews(shards), 4, workers) for workers in (1, 3))
    for step in (0, 3):
        assert_same(alone.batch(step), threads.batch(step))
    names = [alone._example(position, 1).name for position in range(24)]
    assert len(set(names[:12])) == len(set(names[12:])) == 12
    assert names[:12] != names[12:]


@pytest.mark.parametrize("pool", [0, 4])
def test_a_curriculum_gives_parts_by_the_step(pool: int) -> None:
    learning, plain = procedural(2, pool, curriculum=(2, 4)), procedural(2, pool)
    counts = [learning._chosen(step, 0, 1).present.sum(1).max() for step in range(6)]
    assert counts[:4] == [1, 1, 2, 2]
    assert max(counts[4:]) > 2
    assert_same(learning.batch(4), plain.batch(4))


def test_colours_and_points_by_hand() -> None:
    # two pixels a row: centres at NDC x = +1/2 (left) and -1/2, borders at ±1
    picture = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]]).expand(3, 2, 2)[None]
    points = torch.tensor([[[0.5, 0.5], [-0.5, 0.5], [0.0, 0.0], [0.25, -0.5], [1.0, 1.0], [-1.0, -1.0]]])
    expected = torch.tensor([0.0, 1.0, 0.5, 0.25, 0.0, 1.0])
    torch.testing.assert_close(look_up(picture, points)[0, :, 0], expected)
    rows = look_up(picture.transpose(2, 3), torch.tensor([[[0.0, 0.5], [0.0, -0.25]]]))[0, :, 0]
    torch.testing.assert_close(rows, torch.tensor([0.0, 0.75]))


def test_places_in_and_off_the_silhouette() -> None:
    masks = torch.zeros(2, 1, 4, 4)
    masks[0, 0, 1, 3] = masks[0, 0, 3, 0] = 1  # row, column
    uniform = torch.rand(2, 400, 3, generator=torch.Generator().manual_seed(0))
    points = batching.sample_points(masks, uniform, 0.5)
    column, row = ((1 - points[0, :200]) * 2).floor().long().unbind(-1)
    assert set(zip(row.tolist(), column.tolist(), strict=True)) == {(1, 3), (3, 0)}
    assert 60 < int((row == 1).sum()) < 140
    everywhere = 1 - 2 * uniform[..., 1:]
    torch.testing.assert_close(points[0, 200:], everywhere[0, 200:])
    torch.testing.assert_close(points[1], everywhere[1])  # no silhouette
    torch.testing.assert_close(batching.sample_points(masks, uniform, 0.0), everywhere)
    masks = torch.zeros(1, 1, 3, 3)  # the last draw still hits
    masks[0, 0, 0, 1] = masks[0, 0, 1, 1] = 1
    points = batching.sample_points(masks, torch.tensor([[[0.0, 0.5, 0.5], [0.99999994, 0.5, 0.5]]]), 1.0)
    torch.testing.assert_close(points[0], torch.tensor([[0.0, 2 / 3], [0.0, 0.0]]))


def test_rays_through_points() -> None:
    poses = orbit_cameras([20.0, 200.0], [10.0, -30.0]).camera_to_world
    cameras = Cameras(poses, torch.tensor([[4.5, 4.0], [3.0, 3.0]]), torch.tensor([[0.1, 0.2], [0, 0]]))
    centres = torch.linspace(1 - 1 / 5, -1 + 1 / 5, 5)
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    rays = point_rays(cameras, torch.stack([x, y], dim=-1).expand(2, 5, 5, 2))
    expected = camera_rays(cameras, 5, 5)
    torch.testing.assert_close(rays.directions, expected.directions, atol=1e-6, rtol=0)
    torch.testing.assert_close(rays.origins, expected.origins)
    batch = TinySource(3).batch(0)
    uniform = torch.rand(6, 10, 3, generator=torch.Generator().manual_seed(0))
    rays, colors = query_rays(batch, uniform, 1.0)
    keep, views = slice(1, 2), slice(2, 4)
    mine = (getattr(batch, name)[keep] for name in ("photos", "references", "targets", "target_masks"))
    alone, _ = query_rays(TrainingBatch(*mine, batch.cameras[views]), uniform[views], 1.0)
    torch.testing.assert_close(alone[0], rays[1])
    inside = batch.targets[0, 0][:, batch.target_masks[0, 0, 0] > 0.5]
    assert float(colors[0].min()) >= float(inside.min()) - 1e-4
