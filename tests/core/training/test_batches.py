from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from upfusion_core.data.shards import ShardedViews, index_content, pack_shards
from upfusion_core.data.views import PosedViews
from upfusion_core.geometry import orbit_cameras
from upfusion_core.procedural import ProceduralObjects
from upfusion_core.support.errors import InputError
from upfusion_core.support.files import replacing, write_json
from upfusion_core.training.batches import (
    BatchSource,
    DatasetBatches,
    ProceduralBatches,
    TrainingBatch,
    largest_parts,
    photo_count,
)


class Plain:
    """Objects whose pictures are of one value: (index + 1)/10 + view/1000."""

    def __init__(self, count: int = 5, views: int = 6, size: int = 8, broken: tuple[int, ...] = ()) -> None:
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


def source(dataset: Plain, batch_size: int = 2, **changes: object) -> DatasetBatches:
    return DatasetBatches(
        dataset, **{"batch_size": batch_size, "photos": (1, 3), "targets": 2, "image_size": 8} | changes
    )


def procedural(batch_size: int = 2) -> ProceduralBatches:
    return ProceduralBatches(ProceduralObjects("train"), batch_size=batch_size, photos=(1, 3), targets=2, image_size=8)


def pooled(batch_size: int = 2) -> ProceduralBatches:
    options = {"photos": (1, 3), "targets": 2, "image_size": 8, "pool": 8, "uses": 1}
    return ProceduralBatches(ProceduralObjects("train"), batch_size=batch_size, **options)


def same(one: TrainingBatch, two: TrainingBatch) -> bool:
    pairs = [(one.photos, two.photos), (one.targets, two.targets), (one.target_masks, two.target_masks)]
    pairs += [(a.camera_to_world, b.camera_to_world) for a, b in ((one.cameras, two.cameras),)]
    pairs += [(one.references.camera_to_world, two.references.camera_to_world)]
    return all(a.shape == b.shape and torch.allclose(a, b, atol=1e-6) for a, b in pairs)


def joined(parts: list[TrainingBatch]) -> TrainingBatch:
    def cat(name: str) -> torch.Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    cameras = [
        type(parts[0].cameras).concatenate([getattr(part, name) for part in parts])
        for name in ("references", "cameras")
    ]
    return TrainingBatch(cat("photos"), cameras[0], cat("targets"), cat("target_masks"), cameras[1])


@pytest.mark.parametrize(
    "make", [lambda size: source(Plain(), size), procedural, pooled], ids=["dataset", "procedural", "pool"]
)
def test_a_batch_is_a_pure_function_and_parts_make_the_whole(make: type) -> None:
    small: BatchSource = make(2)
    large: BatchSource = make(4)
    for step in (0, 3):
        parts = [small.batch(step, rank, 2) for rank in range(2)]
        assert same(joined(parts), large.batch(step))
        assert same(make(2).batch(step, 1, 2), parts[1])
    assert not torch.equal(small.batch(0).targets, small.batch(1).targets)


def test_a_pass_visits_every_object_once_in_a_new_order() -> None:
    batches = source(Plain(6), targets=1, photos=(1, 1))
    passes = []
    for number in range(2):
        seen = [float(value) for step in range(3) for value in batches.batch(3 * number + step).photos[:, 0, 0, 0, 0]]
        passes.append([int(value * 10 + 1e-3) for value in seen])
    assert [sorted(order) for order in passes] == [[1, 2, 3, 4, 5, 6]] * 2
    assert passes[0] != passes[1]


def test_views_are_different_ones_where_there_are_enough() -> None:
    batch = source(Plain(views=5), photos=(3, 3)).batch(0)
    assert batch.photos.shape == (2, 3, 3, 8, 8)
    values = torch.cat([batch.photos[0, :, 0, 0, 0], batch.targets[0, :, 0, 0, 0]])
    assert len(values.unique()) == 5
    few = source(Plain(views=2), photos=(3, 3)).batch(0)
    assert len(torch.cat([few.photos[0, :, 0, 0, 0], few.targets[0, :, 0, 0, 0]]).unique()) == 2


def test_pictures_take_the_model_s_size() -> None:
    batch = source(Plain(size=20)).batch(0)
    assert batch.targets.shape[-2:] == (8, 8)
    torch.testing.assert_close(batch.targets[..., 0, 0], batch.targets[..., 4, 4])


def test_broken_objects_are_replaced() -> None:
    dataset = Plain(4, broken=(1,))
    batches = source(dataset, 4, photos=(1, 1))
    values = [int(value * 10 + 1e-3) for value in batches.batch(0).photos[:, 0, 0, 0, 0]]
    assert len(values) == 4
    assert set(values) == {1, 3, 4}
    assert dataset.skipped[0] == ("1", "torn")


def test_photo_counts_fill_the_range() -> None:
    counts = [photo_count((2, 4), 0, step) for step in range(200)]
    assert set(counts) == {2, 3, 4}
    assert min(counts.count(number) for number in (2, 3, 4)) > 40


def test_procedural_batches_show_new_objects_from_their_reference() -> None:
    batch = procedural().batch(0)
    assert batch.references.centers.norm(dim=-1).tolist() == pytest.approx([1, 1])
    assert batch.photos.min() < 0.9  # something is seen
    other = ProceduralBatches(ProceduralObjects("train"), batch_size=2, photos=(1, 3), targets=2, image_size=8, seed=1)
    assert not torch.equal(other.batch(0).targets, batch.targets)


def test_a_pool_is_seen_before_the_next_one_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    batches, drawn = pooled(4), []
    original = ProceduralObjects.objects

    def objects(self: ProceduralObjects, indices: Sequence[int]) -> object:
        drawn.append(list(indices))
        return original(self, indices)

    monkeypatch.setattr(ProceduralObjects, "objects", objects)
    for step in range(5):  # 8 objects in batches of 4, each used once: two steps a pool
        batches.batch(step)
    assert [len(indices) for indices in drawn] == [8, 8, 8]
    assert len({index for indices in drawn for index in indices}) == 24
    with pytest.raises(InputError, match="uses"):
        ProceduralBatches(ProceduralObjects(), batch_size=1, photos=(1, 1), targets=1, image_size=8, uses=0)
    with pytest.raises(InputError, match="pool"):
        ProceduralBatches(ProceduralObjects(), batch_size=1, photos=(1, 1), targets=1, image_size=8, pool=-1)


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="must hold objects"):
        source(Plain(0))
    with pytest.raises(InputError, match="batch_size"):
        source(Plain(), 0)
    with pytest.raises(InputError, match="targets"):
        source(Plain(), targets=0)
    for name in ("batch_size", "targets", "workers"):
        sizes = {"batch_size": 1, "targets": 1, "workers": 1} | {name: 1.5}
        with pytest.raises(InputError, match=rf"{name} must be a whole number, got 1\.5"):
            DatasetBatches(Plain(), photos=(1, 1), image_size=8, **sizes)
    for name in ("batch_size", "targets", "pool", "uses"):
        sizes = {"batch_size": 1, "targets": 1} | {name: 1.5}
        with pytest.raises(InputError, match=rf"{name} must be a whole number, got 1\.5"):
            ProceduralBatches(ProceduralObjects(), photos=(1, 1), image_size=8, **sizes)
    with pytest.raises(InputError, match="none of 2 objects"):
        source(Plain(2, broken=(0, 1))).batch(0)
    with pytest.raises(InputError, match="batch_size"):
        procedural(0)
    batch = source(Plain()).batch(0)
    with pytest.raises(InputError, match=r"TrainingBatch\.targets"):
        TrainingBatch(batch.photos, batch.references, batch.targets[:1], batch.target_masks, batch.cameras)
    with pytest.raises(InputError, match=r"TrainingBatch\.cameras"):
        TrainingBatch(batch.photos, batch.references, batch.targets, batch.target_masks, batch.cameras[0])


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dozen procedural objects of 8 x 8 pixels, one or two a shard."""
    folder = tmp_path_factory.mktemp("shards")
    dataset = ProceduralObjects("train", size=8, views=4)
    state = pack_shards(dataset, range(12), lambda name: replacing(folder / name), shard_bytes=25_000)
    write_json(folder / "index.json", index_content(state.shards, {}))
    return folder


def test_shards_are_batches_like_any_other_data(shards: Path) -> None:
    small, large = (source(ShardedViews(shards), size) for size in (2, 4))
    threads = source(ShardedViews(shards), 4, workers=3)
    for step in (0, 3):
        parts = joined([small.batch(step, rank, 2) for rank in range(2)])
        assert same(parts, large.batch(step))
        assert same(parts, threads.batch(step))
        assert same(source(ShardedViews(shards), 2).batch(step, 1, 2), small.batch(step, 1, 2))
    names = [source(ShardedViews(shards), 1)._example(position, 1).name for position in range(24)]
    assert len(set(names[:12])) == len(set(names[12:])) == 12
    assert names[:12] != names[12:]


def test_a_curriculum_gives_parts_by_the_step() -> None:
    assert [largest_parts((2, 4), step) for step in range(6)] == [1, 1, 2, 2, None, None]
    assert largest_parts((0, 0), 0) is None
    options = {"photos": (1, 1), "targets": 1, "image_size": 8}
    for pool in (0, 4):
        learning, plain = (
            ProceduralBatches(ProceduralObjects("train"), batch_size=2, **options, pool=pool, curriculum=steps)
            for steps in ((2, 4), (0, 0))
        )
        counts = [learning._chosen(step, 0, 1).present.sum(1).max() for step in range(6)]
        assert counts[:2] == [1, 1]
        assert counts[2:4] == [2, 2]
        assert max(counts[4:]) > 2
        fresh = ProceduralBatches(ProceduralObjects("train"), batch_size=2, **options, pool=pool, curriculum=(2, 4))
        assert same(fresh.batch(3), learning.batch(3))
        assert same(learning.batch(4), plain.batch(4))
        assert not same(learning.batch(1), plain.batch(1))
        parts = ProceduralBatches(ProceduralObjects("train"), batch_size=1, **options, pool=pool, curriculum=(2, 4))
        assert same(joined([parts.batch(2, rank, 2) for rank in range(2)]), learning.batch(2))
