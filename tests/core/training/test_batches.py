from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from data_sets import packed
from refusals import refused
from tiny_training import TinySource, tiny_config

from upfusion_core import Cameras, InputError
from upfusion_core.config import TrainConfig
from upfusion_core.data.shards import ShardedViews
from upfusion_core.data.views import PosedViews
from upfusion_core.geometry import camera_rays, orbit_cameras, point_rays
from upfusion_core.procedural import ProceduralObjects
from upfusion_core.support.devices import derived_seed
from upfusion_core.training.batches import (
    BatchRandom,
    BatchSource,
    DatasetBatches,
    ProceduralBatches,
    TrainingBatch,
    look_up,
    photo_count,
    query_rays,
    sample_points,
)


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


def config(batch_size: int = 2, **changes: object) -> TrainConfig:
    return tiny_config(batch_size=batch_size, **changes)


def source(dataset: Plain, batch_size: int = 2, workers: int = 1, **changes: object) -> DatasetBatches:
    return DatasetBatches(dataset, config(batch_size, **changes), workers=workers)


def procedural(batch_size: int = 2, pool: int = 0, version: int = 1, **changes: object) -> ProceduralBatches:
    objects = ProceduralObjects("train", version=version)
    batches = ProceduralBatches(objects, config(batch_size, **changes), pool=pool)
    batches.uses = 1
    return batches


def pooled(batch_size: int = 2) -> ProceduralBatches:
    return procedural(batch_size, 8)


def same(one: TrainingBatch, two: TrainingBatch) -> bool:
    ours, theirs = (
        [*vars(batch).values(), batch.cameras.camera_to_world, batch.references.camera_to_world] for batch in (one, two)
    )
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if isinstance(a, torch.Tensor)]
    return all(a.shape == b.shape and torch.allclose(a, b, atol=1e-6) for a, b in pairs)


def joined(parts: list[TrainingBatch]) -> TrainingBatch:
    def join(name: str) -> object:
        values = [getattr(part, name) for part in parts]
        return Cameras.concatenate(values) if isinstance(values[0], Cameras) else torch.cat(values)

    return TrainingBatch(**{name: join(name) for name in vars(parts[0])})


@pytest.mark.parametrize(
    "make",
    [lambda size: source(Plain(), size), procedural, pooled, lambda size: procedural(size, version=2)],
    ids=["dataset", "procedural", "pool", "version 2"],
)
def test_a_batch_is_a_pure_function_and_parts_make_the_whole(make: type) -> None:
    small: BatchSource = make(2)
    large: BatchSource = make(4)
    for step in (0, 3):
        parts = [small.batch(step, rank, 2) for rank in range(2)]
        assert same(joined(parts), large.batch(step))
        assert same(make(2).batch(step, 1, 2), parts[1])


def test_passes_views_and_broken_objects() -> None:
    batches = source(Plain(6), targets=1, photos=(1, 1))
    passes = []
    for number in range(2):
        seen = [float(value) for step in range(3) for value in batches.batch(3 * number + step).photos[:, 0, 0, 0, 0]]
        passes.append([int(value * 10 + 1e-3) for value in seen])
    assert [sorted(order) for order in passes] == [[1, 2, 3, 4, 5, 6]] * 2
    assert passes[0] != passes[1]
    batch = source(Plain(views=5), photos=(3, 3)).batch(0)
    assert batch.photos.shape == (2, 3, 3, 16, 16)
    values = torch.cat([batch.photos[0, :, 0, 0, 0], batch.targets[0, :, 0, 0, 0]])
    assert len(values.unique()) == 5
    few = source(Plain(views=2), photos=(3, 3)).batch(0)
    assert len(torch.cat([few.photos[0, :, 0, 0, 0], few.targets[0, :, 0, 0, 0]]).unique()) == 2
    dataset = Plain(4, size=40, broken=(1,))
    photos = source(dataset, 4, photos=(1, 1)).batch(0).photos
    assert photos.shape == (4, 1, 3, 16, 16)
    assert {int(value * 10 + 1e-3) for value in photos[:, 0, 0, 0, 0]} == {1, 3, 4}
    assert dataset.skipped[0] == ("1", "torn")
    refused("must hold objects", source, Plain(0))
    refused("none of 2 objects could be read, the last because [01]: torn", source(Plain(2, broken=(0, 1))).batch, 0)


def test_random_numbers_and_seeds() -> None:
    whole = BatchRandom(7)
    parts = [BatchRandom(7, part, 3) for part in range(3)]
    for draw in ("uniform", "normal"):
        together = torch.cat([getattr(part, draw)(2, 5, 3) for part in parts])
        assert torch.equal(together, getattr(whole, draw)(6, 5, 3))
    uniform, normal = whole.uniform(4000), whole.normal(4000)
    assert 0 <= uniform.min() < uniform.max() < 1
    assert (float(uniform.mean()), float(normal.std())) == (pytest.approx(0.5, abs=0.02), pytest.approx(1, abs=0.05))
    found = {derived_seed(seed, "losses", step) for seed in range(3) for step in range(50)}
    assert len(found) == 150
    assert derived_seed(0, "losses", 1) == derived_seed(0, "losses", 1) != derived_seed(0, "views", 1)
    assert derived_seed(1, 23) != derived_seed(12, 3)
    counts = [photo_count((2, 4), 0, step) for step in range(200)]
    assert set(counts) == {2, 3, 4}
    assert min(counts.count(number) for number in (2, 3, 4)) > 40


def test_photos_of_version_2_are_people_s_and_its_targets_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = procedural(8, version=2).batch(0)
    look = ProceduralObjects.look
    monkeypatch.setattr(ProceduralObjects, "look", lambda self, *of, photos, **named: look(self, *of, **named))
    clean = procedural(8, version=2).batch(0)
    assert torch.equal(taken.targets, clean.targets)
    assert torch.equal(taken.references.camera_to_world, clean.references.camera_to_world)
    assert ((taken.photos - clean.photos).abs().mean((1, 2, 3, 4)) > 1e-3).all()


def test_procedural_batches_and_their_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = procedural().batch(0)
    assert batch.references.centers.norm(dim=-1).tolist() == pytest.approx([1, 1])
    assert not torch.equal(procedural(seed=1).batch(0).targets, batch.targets)
    held_out = ProceduralBatches(ProceduralObjects("train"), config(curriculum=(9, 9)), held_out=True)
    assert same(held_out.batch(0), procedural(seed=1).batch(0))
    assert same(DatasetBatches(Plain(), config(), held_out=True).batch(0), source(Plain(), seed=1).batch(0))
    batches, drawn = pooled(4), []
    original = ProceduralObjects.objects

    def objects(self: ProceduralObjects, indices: Sequence[int], max_parts: int | None) -> object:
        drawn.append(list(indices))
        return original(self, indices, max_parts)

    monkeypatch.setattr(ProceduralObjects, "objects", objects)
    for step in range(5):  # 8 objects in batches of 4, each used once: two steps a pool
        batches.batch(step)
    assert [len(indices) for indices in drawn] == [8, 8, 8]
    assert len({index for indices in drawn for index in indices}) == 24


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dozen procedural objects of 8 x 8 pixels, one or two a shard."""
    return packed(tmp_path_factory.mktemp("shards"), ProceduralObjects("train", size=8, views=4), 12)


def test_shards_are_batches_like_any_other_data(shards: Path) -> None:
    small, large = (source(ShardedViews(shards), size) for size in (2, 4))
    threads = source(ShardedViews(shards), 4, workers=3)
    for step in (0, 3):
        parts = joined([small.batch(step, rank, 2) for rank in range(2)])
        assert same(parts, large.batch(step))
        assert same(parts, threads.batch(step))
    names = [source(ShardedViews(shards), 1)._example(position, 1).name for position in range(24)]
    assert len(set(names[:12])) == len(set(names[12:])) == 12
    assert names[:12] != names[12:]


@pytest.mark.parametrize("pool", [0, 4])
def test_a_curriculum_gives_parts_by_the_step(pool: int) -> None:
    learning, plain = procedural(2, pool, curriculum=(2, 4)), procedural(2, pool)
    counts = [learning._chosen(step, 0, 1).present.sum(1).max() for step in range(6)]
    assert counts[:4] == [1, 1, 2, 2]
    assert max(counts[4:]) > 2
    assert same(procedural(2, pool, curriculum=(2, 4)).batch(3), learning.batch(3))
    assert same(learning.batch(4), plain.batch(4))
    parts = procedural(1, pool, curriculum=(2, 4))
    assert same(joined([parts.batch(2, rank, 2) for rank in range(2)]), learning.batch(2))


def test_colours_and_points_by_hand() -> None:
    # two pixels a row: centres at NDC x = +1/2 (left) and -1/2, borders at ±1
    picture = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]]).expand(3, 2, 2)[None]
    points = torch.tensor([[[0.5, 0.5], [-0.5, 0.5], [0.0, 0.0], [0.25, -0.5], [1.0, 1.0], [-1.0, -1.0]]])
    expected = torch.tensor([0.0, 1.0, 0.5, 0.25, 0.0, 1.0])
    torch.testing.assert_close(look_up(picture, points)[0, :, 0], expected)
    rows = look_up(picture.transpose(2, 3), torch.tensor([[[0.0, 0.5], [0.0, -0.25]]]))[0, :, 0]
    torch.testing.assert_close(rows, torch.tensor([0.0, 0.75]))
    masks = torch.zeros(2, 1, 4, 4)
    masks[0, 0, 1, 3] = masks[0, 0, 3, 0] = 1  # row, column
    uniform = torch.rand(2, 400, 3, generator=torch.Generator().manual_seed(0))
    points = sample_points(masks, uniform, 0.5)
    column, row = ((1 - points[0, :200]) * 2).floor().long().unbind(-1)
    cells = {(r, c) for r, c in zip(row.tolist(), column.tolist(), strict=True)}
    assert cells == {(1, 3), (3, 0)}
    assert 60 < int((row == 1).sum()) < 140
    everywhere = 1 - 2 * uniform[..., 1:]
    torch.testing.assert_close(points[0, 200:], everywhere[0, 200:])
    torch.testing.assert_close(points[1], everywhere[1])  # no silhouette
    torch.testing.assert_close(sample_points(masks, uniform, 0.0), everywhere)
    masks = torch.zeros(1, 1, 3, 3)  # the last draw still hits
    masks[0, 0, 0, 1] = masks[0, 0, 1, 1] = 1
    points = sample_points(masks, torch.tensor([[[0.0, 0.5, 0.5], [0.99999994, 0.5, 0.5]]]), 1.0)
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
