"""Batches of training examples, and where they come from: a pure function of (seed, step, rank).

The position in the data is therefore the number of the step: a resumed run goes on exactly where it was, and nothing
of the data has to be saved.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from ..data.shards import ShardedViews
from ..data.views import MultiViewDataset, PosedViews
from ..geometry import plucker, point_rays, to_reference_frame
from ..procedural import Objects, ProceduralObjects
from ..support.checks import check_count, check_shape
from ..support.devices import derived_seed, generator_for
from ..support.errors import InputError, UpFusionError
from ..support.images import resize_pictures
from ..types import Cameras, Rays


def query_rays(batch: TrainingBatch, uniform: Tensor, inside_share: float) -> tuple[Tensor, Tensor]:
    """Rays through random places of the target views, and the colours seen there.

    Args:
        uniform: (B·T, R, 3) uniform numbers in [0, 1), from which the places follow.
        inside_share: in [0, 1]; that share of a view's R rays goes through pixels of the silhouette (mask above 0.5),
            the rest anywhere. A view without silhouette gets all of them anywhere.

    Returns:
        (B, T·R, 6) Plücker forms in the frame of each object's reference, and (B, T·R, 3) colours.
    """
    points = sample_points(batch.target_masks.flatten(0, 1), uniform, inside_share)
    colors = look_up(batch.targets.flatten(0, 1), points)
    forms = reference_frame_plucker(point_rays(batch.cameras, points), batch.references)
    return forms.reshape(len(batch), -1, 6), colors.reshape(len(batch), -1, 3)


def sample_points(masks: Tensor, uniform: Tensor, inside_share: float) -> Tensor:
    """(N, 1, S, S) masks and (N, R, 3) uniform numbers -> (N, R, 2) places (x, y) in NDC, silhouette first."""
    size, rays = masks.shape[-1], uniform.shape[1]
    anywhere = 1 - 2 * uniform[..., 1:]
    inside = round(inside_share * rays)
    if not inside:
        return anywhere
    covered = (masks.flatten(1) > 0.5).float().cumsum(1)  # (N, S·S)
    total = covered[:, -1:]
    # the pixel whose turn it is among the covered ones: the first whose running count exceeds u·total
    wanted = (uniform[:, :inside, 0] * total).floor() + 1
    pixel = torch.searchsorted(covered, wanted).clamp(max=size * size - 1)
    row, column = torch.div(pixel, size, rounding_mode="floor"), pixel % size
    jitter = uniform[:, :inside, 1:]
    within = 1 - 2 * (torch.stack([column, row], dim=-1) + jitter) / size
    chosen = torch.where((total > 0)[..., None], within, anywhere[:, :inside])
    return torch.cat([chosen, anywhere[:, inside:]], dim=1)


def look_up(pictures: Tensor, points: Tensor) -> Tensor:
    """(N, 3, S, S) pictures at (N, R, 2) places in NDC -> (N, R, 3), bilinear; the border of a picture is NDC ±1."""
    # grid_sample's x and y run from -1 at the left and top edge to +1, so opposite to NDC
    found = grid_sample(pictures, -points[:, None], mode="bilinear", padding_mode="border", align_corners=False)
    return found[:, :, 0].transpose(1, 2)


def reference_frame_plucker(rays: Rays, references: Cameras) -> Tensor:
    """Plücker forms (B·T, ..., 6) of object-major rays (B·T, ..., 3) in the frames of their objects' references."""
    count = len(rays.origins) // len(references)
    index = torch.arange(len(references), device=references.device).repeat_interleave(count)
    return plucker(to_reference_frame(rays, references[index]))


class BatchRandom:
    """The random numbers of one part of a batch.

    They are made for the whole batch and cut: `parts` small batches, on one process after another or on several at
    once, get together exactly the numbers of the large one.

    Args:
        seed: of the whole batch (see `derived_seed`).
        part, parts: which part of the batch this is. All parts hold equally many examples.
        device: where the numbers are made; each device has its own.
    """

    def __init__(self, seed: int, part: int = 0, parts: int = 1, device: torch.device | str = "cpu") -> None:
        self.generator = torch.Generator(device).manual_seed(seed)
        self.part, self.parts = part, parts

    def uniform(self, count: int, *shape: int) -> Tensor:
        """`(count, *shape)` float32, uniform in [0, 1); `count` examples of this part."""
        return self._part(torch.rand, count, shape)

    def normal(self, count: int, *shape: int) -> Tensor:
        """`(count, *shape)` float32, standard normal."""
        return self._part(torch.randn, count, shape)

    def _part(self, draw: Callable[..., Tensor], count: int, shape: tuple[int, ...]) -> Tensor:
        whole = draw(count * self.parts, *shape, generator=self.generator, device=self.generator.device)
        return whole[self.part * count : (self.part + 1) * count]


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
        return TrainingBatch(**{name: value.to(device) for name, value in vars(self).items()})


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
        dataset: see data.views.
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
        self.photos, self.image_size, self.seed = photos, image_size, seed
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
        rgb = torch.stack([resize_pictures(example.rgb, self.image_size) for example in examples])
        masks = torch.stack([resize_pictures(example.mask, self.image_size) for example in examples])
        return TrainingBatch(
            photos=rgb[:, :photos],
            references=Cameras.concatenate([example.cameras[0] for example in examples]),
            targets=rgb[:, photos:],
            target_masks=masks[:, photos:],
            cameras=Cameras.concatenate([example.cameras[photos:] for example in examples]),
        )

    def _example(self, position: int, photos: int) -> PosedViews:
        for skip in range(len(self.dataset)):
            index = self._object(position, skip)
            try:
                available = self.dataset.view_count(index)
                order = torch.randperm(available, generator=generator_for(self.seed, "views", position)).tolist()
                return self.dataset.read(index, [order[k % available] for k in range(photos + self.targets)])
            except UpFusionError:
                continue  # the data set has noted it in `skipped`
        item, reason = self.dataset.skipped[-1] if self.dataset.skipped else ("all", "unknown")
        raise InputError(f"none of {len(self.dataset)} objects could be read, the last because {item}: {reason}")

    def _object(self, position: int, skip: int) -> int:
        number, place = divmod(position, len(self.dataset))
        with self._lock:
            if self._pass[0] != number:
                generator = generator_for(self.seed, "pass", number)
                if isinstance(self.dataset, ShardedViews):
                    order = self.dataset.order(generator)
                else:
                    order = torch.randperm(len(self.dataset), generator=generator)
                self._pass = (number, order)
            return int(self._pass[1][(place + skip) % len(self.dataset)])


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
        self.photos, self.image_size, self.seed, self.device = photos, image_size, seed, device
        self.pool, self.uses, self.curriculum = pool, uses, curriculum
        self._pool: tuple[tuple[int, int | None], Objects | None] = ((-1, None), None)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> TrainingBatch:
        """See BatchSource; a new seed begins elsewhere among the objects and draws other cameras."""
        count, photos = self.batch_size, photo_count(self.photos, self.seed, step)
        views = photos + self.targets
        generator = generator_for(self.seed, "cameras", step)
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
        places = torch.randint(self.pool, (world, count), generator=generator_for(self.seed, "pool", step))[rank]
        return pool[places.to(self.device)]

    def _drawn(self, position: int, count: int, parts: int | None) -> Objects:
        first = derived_seed(self.seed, "objects") + position
        indices = [(first + index) % len(self.objects) for index in range(count)]
        source = self.objects if parts is None else ProceduralObjects(self.objects.split, max_parts=parts)
        return source.objects(indices).to(self.device)


def largest_parts(curriculum: tuple[int, int], step: int) -> int | None:
    """How many parts an object keeps in a step: 1, then 2, then all (None).

    Example: with (100, 300), 1 up to step 99, 2 up to step 299.
    """
    second, all_parts = curriculum
    if step < second:
        return 1
    return 2 if step < all_parts else None


def photo_count(photos: tuple[int, int], seed: int, step: int) -> int:
    """How many photos the examples of a step have: uniform in the range, ends included."""
    least, most = photos
    return int(torch.randint(least, most + 1, (), generator=generator_for(seed, "photos", step)))
