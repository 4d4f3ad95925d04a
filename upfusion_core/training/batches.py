"""Batches of training examples, and where they come from: a pure function of (seed, step, rank).

The position in the data is therefore the number of the step: a resumed run goes on exactly where it was, and nothing
of the data has to be saved.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..checks import check_count, check_shape
from ..data.examples import MultiViewDataset, PosedViews
from ..data.procedural import Objects, ProceduralObjects
from ..data.shards import ShardedViews
from ..errors import InputError, UpFusionError
from ..pictures import resize_pictures
from ..types import MAX_PHOTOS, Cameras
from .draws import derived_seed


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """B objects: V photos each, whose poses the networks are not told, and T target views with their cameras.

    photos: (B, V, 3, S, S) in [0, 1] on white, the reference first.
    references: Cameras(B) of the first photos.
    targets: (B, T, 3, S, S) in [0, 1] on white. target_masks: (B, T, 1, S, S) in [0, 1], 1 on the object.
    cameras: Cameras(B·T) of the targets, object-major.
    """

    photos: Tensor
    references: Cameras
    targets: Tensor
    target_masks: Tensor
    cameras: Cameras

    def __post_init__(self) -> None:
        check_shape("TrainingBatch.photos", self.photos, ("B", "V", 3, "S", "S"))
        count, size = len(self.photos), self.photos.shape[-1]
        check_shape("TrainingBatch.targets", self.targets, (count, "T", 3, size, size), "as large as the photos")
        views = self.targets.shape[1]
        check_shape("TrainingBatch.target_masks", self.target_masks, (count, views, 1, size, size))
        check_shape("TrainingBatch.references", self.references.camera_to_world, (count, 4, 4), "one an object")
        check_shape("TrainingBatch.cameras", self.cameras.camera_to_world, (count * views, 4, 4), "one a target")

    def __len__(self) -> int:
        return len(self.photos)

    @property
    def views(self) -> int:
        """T, target views an object."""
        return self.targets.shape[1]

    def to(self, device: torch.device | str) -> TrainingBatch:
        """The same batch on another device."""
        return TrainingBatch(
            self.photos.to(device),
            self.references.to(device),
            self.targets.to(device),
            self.target_masks.to(device),
            self.cameras.to(device),
        )


class BatchSource(Protocol):
    """What training asks of its data."""

    def batch(self, step: int, rank: int = 0, world: int = 1) -> TrainingBatch:
        """Part `rank` of the `world` equal parts of step `step`; the same arguments give the same batch every time.

        The parts together are the same examples however many there are, if their sizes add up to the same; all have
        the same number of photos.
        """
        ...


class DatasetBatches:
    """Batches from any data set of posed views: every pass visits all objects in a new order.

    Of shards it reads one after another, each process its own objects of them (see ShardedViews.order). An object that
    cannot be read is replaced by the next one of the pass. An object with fewer views than are asked for shows some of
    them twice.

    Args:
        dataset: see data.examples.
        batch_size: B, objects in each part of a step.
        photos: least and most photos a step, drawn anew for each.
        targets: T, target views an object; they are other views than the photos where there are enough.
        image_size: S; views of another size are resized.
        seed: of the order of objects and views.
        workers: threads that read objects of a batch at the same time; they change nothing but the time.
    """

    def __init__(
        self,
        dataset: MultiViewDataset,
        *,
        batch_size: int,
        photos: tuple[int, int],
        targets: int,
        image_size: int,
        seed: int = 0,
        workers: int = 1,
    ) -> None:
        check_count("batch_size", batch_size, 1)
        check_count("targets", targets, 1)
        check_count("workers", workers, 1)
        if not len(dataset):
            raise InputError(
                f"the data set must hold objects, got none ({len(dataset.skipped)} skipped); check its folder"
            )
        self.dataset, self.batch_size, self.targets = dataset, batch_size, targets
        self.photos, self.image_size, self.seed = check_photos(photos), image_size, seed
        self._pass: tuple[int, Tensor] = (-1, torch.empty(0))
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="reading") if workers > 1 else None

    def batch(self, step: int, rank: int = 0, world: int = 1) -> TrainingBatch:
        """See BatchSource.

        Raises:
            InputError: no object of the data set can be read.
        """
        first = (step * world + rank) * self.batch_size
        photos = photo_count(self.photos, self.seed, step)
        positions = range(first, first + self.batch_size)
        each = map if self._pool is None else self._pool.map
        examples = list(each(lambda position: self._example(position, photos), positions))
        return stacked(examples, photos, self.image_size)

    def _example(self, position: int, photos: int) -> PosedViews:
        for skip in range(len(self.dataset)):
            index = self._object(position, skip)
            try:
                available = self.dataset.view_count(index)
                order = torch.randperm(available, generator=_generator(self.seed, "views", position)).tolist()
                return self.dataset.read(index, [order[k % available] for k in range(photos + self.targets)])
            except UpFusionError:
                continue  # the data set has noted it in `skipped`
        item, reason = self.dataset.skipped[-1] if self.dataset.skipped else ("all", "unknown")
        raise InputError(f"none of {len(self.dataset)} objects could be read, the last because {item}: {reason}")

    def _object(self, position: int, skip: int) -> int:
        number, place = divmod(position, len(self.dataset))
        with self._lock:
            if self._pass[0] != number:
                self._pass = (number, self._order(_generator(self.seed, "pass", number)))
            return int(self._pass[1][(place + skip) % len(self.dataset)])

    def _order(self, generator: torch.Generator) -> Tensor:
        """(N,) every object's number once."""
        if isinstance(self.dataset, ShardedViews):
            return self.dataset.order(generator)
        return torch.randperm(len(self.dataset), generator=generator)


class ProceduralBatches:
    """Batches of procedural objects, rendered where they are used; without a pool no two steps share an object.

    Args:
        objects: a split of them (its own sizes are not used). device: where they are rendered.
        pool: so many objects are drawn at once and kept on the device, for steps to choose from at random, because
            drawing them happens on the CPU, one by one; 0 draws each step's own.
        uses: how often an object of the pool is seen, on average, before a new pool replaces it.
        curriculum: steps at which objects get their second part, and all of their parts; before, they have one.
        batch_size, photos, targets, image_size, seed: see DatasetBatches.
    """

    def __init__(
        self,
        objects: ProceduralObjects,
        *,
        batch_size: int,
        photos: tuple[int, int],
        targets: int,
        image_size: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
        pool: int = 0,
        uses: int = 16,
        curriculum: tuple[int, int] = (0, 0),
    ) -> None:
        check_count("batch_size", batch_size, 1)
        check_count("targets", targets, 1)
        check_count("pool", pool, 0)
        check_count("uses", uses, 1)
        self.objects, self.batch_size, self.targets = objects, batch_size, targets
        self.photos, self.image_size, self.seed, self.device = check_photos(photos), image_size, seed, device
        self.pool, self.uses, self.curriculum = pool, uses, check_curriculum(curriculum)
        self._pool: tuple[tuple[int, int | None], Objects | None] = ((-1, None), None)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> TrainingBatch:
        """See BatchSource; a new seed begins elsewhere among the objects and draws other cameras."""
        count, photos = self.batch_size, photo_count(self.photos, self.seed, step)
        views = photos + self.targets
        generator = _generator(self.seed, "cameras", step)
        torch.rand(rank * count, views, 2, generator=generator)  # of the parts before this one
        chosen = self._chosen(step, rank, world)
        made = self.objects.look(chosen, views=views, size=self.image_size, generator=generator)
        matrices, focal = made.camera_to_world, made.focal
        target_matrices, target_focal = (value[:, photos:].flatten(0, 1) for value in (matrices, focal))
        return TrainingBatch(
            photos=made.rgb[:, :photos],
            references=Cameras(matrices[:, 0], focal[:, 0], torch.zeros_like(focal[:, 0])),
            targets=made.rgb[:, photos:],
            target_masks=made.mask[:, photos:],
            cameras=Cameras(target_matrices, target_focal, torch.zeros_like(target_focal)),
        )

    def _chosen(self, step: int, rank: int, world: int) -> Objects:
        count, parts = self.batch_size, largest_parts(self.curriculum, step)
        if not self.pool:
            return self._drawn((step * world + rank) * count, count, parts)
        steps = max(1, self.pool * self.uses // (count * world))
        number = step // steps
        made_for, pool = self._pool
        if pool is None or made_for != (number, parts):
            pool = self._drawn(number * self.pool, self.pool, parts)
            self._pool = ((number, parts), pool)
        places = torch.randint(self.pool, (world, count), generator=_generator(self.seed, "pool", step))[rank]
        return pool[places.to(self.device)]

    def _drawn(self, position: int, count: int, parts: int | None) -> Objects:
        first = derived_seed(self.seed, "objects") + position
        indices = [(first + index) % len(self.objects) for index in range(count)]
        source = self.objects if parts is None else ProceduralObjects(self.objects.split, max_parts=parts)
        return source.objects(indices).to(self.device)


def check_curriculum(curriculum: tuple[int, int]) -> tuple[int, int]:
    """The two steps if they are in order, or InputError."""
    second, all_parts = curriculum
    if not 0 <= second <= all_parts:
        raise InputError(
            f"curriculum must be the steps at which the second part and all parts come, in this order and at least 0, "
            f"got ({second}, {all_parts}); correct them"
        )
    return second, all_parts


def largest_parts(curriculum: tuple[int, int], step: int) -> int | None:
    """How many parts an object keeps in a step: 1, then 2, then all (None).

    Example: with (100, 300), 1 up to step 99, 2 up to step 299.
    """
    second, all_parts = curriculum
    if step < second:
        return 1
    return 2 if step < all_parts else None


def check_photos(photos: tuple[int, int]) -> tuple[int, int]:
    """The range if it is one within 1 to MAX_PHOTOS, or InputError."""
    least, most = photos
    if not 1 <= least <= most <= MAX_PHOTOS:
        raise InputError(
            f"photos must be (least, most) within 1 to {MAX_PHOTOS}, got ({least}, {most}); correct the range"
        )
    return least, most


def photo_count(photos: tuple[int, int], seed: int, step: int) -> int:
    """How many photos the examples of a step have: uniform in the range, ends included."""
    least, most = photos
    return int(torch.randint(least, most + 1, (), generator=_generator(seed, "photos", step)))


def stacked(examples: list[PosedViews], photos: int, size: int) -> TrainingBatch:
    """A batch of examples, the first `photos` views of each being its photos and the rest, T >= 1, its targets."""
    rgb = torch.stack([resize_pictures(example.rgb, size) for example in examples])
    masks = torch.stack([resize_pictures(example.mask, size) for example in examples])
    return TrainingBatch(
        photos=rgb[:, :photos],
        references=Cameras.concatenate([example.cameras[0] for example in examples]),
        targets=rgb[:, photos:],
        target_masks=masks[:, photos:],
        cameras=Cameras.concatenate([example.cameras[photos:] for example in examples]),
    )


def _generator(*parts: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(derived_seed(*parts))
