"""Batches of training examples: pure functions of (seed, step, rank), so that a resumed run needs no saved position."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from ..config import TrainConfig
from ..data.shards import ShardedViews
from ..data.views import MultiViewDataset, PosedViews
from ..geometry import plucker, point_rays, to_reference_frame
from ..procedural import Objects, ProceduralObjects
from ..support.devices import derived_seed, generator_for
from ..support.errors import InputError, UpFusionError
from ..support.images import resize_pictures
from ..types import Cameras, Rays


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """B objects: V photos each, whose poses the networks are not told, and T target views with their cameras.

    photos: (B, V, 3, S, S) in [0, 1] on white, the reference first. references: Cameras(B) of the first photos.
    targets: (B, T, 3, S, S) in [0, 1] on white. target_masks: (B, T, 1, S, S) in [0, 1], 1 on the object.
    cameras: Cameras(B·T) of the targets, object-major.
    """

    photos: Tensor
    references: Cameras
    targets: Tensor
    target_masks: Tensor
    cameras: Cameras

    def __len__(self) -> int:
        return len(self.photos)

    @property
    def views(self) -> int:
        """T, target views an object."""
        return self.targets.shape[1]

    def to(self, device: torch.device | str) -> "TrainingBatch":
        return TrainingBatch(**{name: value.to(device) for name, value in vars(self).items()})


def query_rays(batch: TrainingBatch, uniform: Tensor, inside_share: float) -> tuple[Tensor, Tensor]:
    """Rays of target views -> Plücker forms (B, T·R, 6) in the frames of their references, and colours (B, T·R, 3).

    Their places follow from (B·T, R, 3) `uniform` numbers in [0, 1). The share `inside_share` of a view's R rays goes
    through pixels of the silhouette (mask above 0.5), if it has one, the rest anywhere.
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
    covered = (masks.flatten(1) > 0.5).float().cumsum(1)  # (N, S·S)
    total = covered[:, -1:]
    # the pixel whose turn it is among the covered ones: the first whose running count exceeds u·total
    wanted = (uniform[:, :inside, 0] * total).floor() + 1
    pixel = torch.searchsorted(covered, wanted).clamp(max=size * size - 1)
    row, column = torch.div(pixel, size, rounding_mode="floor"), pixel % size
    within = 1 - 2 * (torch.stack([column, row], dim=-1) + uniform[:, :inside, 1:]) / size
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
    """The random numbers of part `part` of the `parts` equal ones of a batch: made for the whole batch, and cut."""

    def __init__(self, seed: int, part: int = 0, parts: int = 1, device: torch.device | str = "cpu") -> None:
        self.generator = torch.Generator(device).manual_seed(seed)
        self.part, self.parts = part, parts

    def uniform(self, count: int, *shape: int) -> Tensor:
        """`(count, *shape)` float32, uniform in [0, 1); `count` examples of this part."""
        whole = torch.rand(count * self.parts, *shape, generator=self.generator, device=self.generator.device)
        return whole.chunk(self.parts)[self.part]

    def normal(self, count: int, *shape: int) -> Tensor:
        """`(count, *shape)` float32, standard normal."""
        whole = torch.randn(count * self.parts, *shape, generator=self.generator, device=self.generator.device)
        return whole.chunk(self.parts)[self.part]


class BatchSource(Protocol):
    """What training asks of its data."""

    def batch(self, step: int, rank: int = 0, world: int = 1) -> TrainingBatch:
        """Part `rank` of the `world` equal parts of step `step`, which together are the same however many there are."""


class DatasetBatches:
    """Batches from any data set of posed views: every pass visits all objects in a new order, of shards one by one.

    An object that cannot be read is replaced by the next one of the pass. An object with fewer views than are asked for
    shows some of them twice; targets are other views than the photos where there are enough. held_out: whether order
    and views are drawn by another seed. workers: threads that read objects of a batch; they change the time only.
    """

    def __init__(
        self, dataset: MultiViewDataset, config: TrainConfig, *, held_out: bool = False, workers: int = 1
    ) -> None:
        if not len(dataset):
            skipped = len(dataset.skipped)
            raise InputError(f"the data set must hold objects, got none ({skipped} skipped); check its folder")
        self.dataset, self.config, self.seed = dataset, config, config.seed + held_out
        self._order = lru_cache(maxsize=2)(self._new_order)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="reading") if workers > 1 else None

    def batch(self, step: int, rank: int = 0, world: int = 1) -> TrainingBatch:
        count, size = self.config.batch_size, self.config.model.image_size
        photos = photo_count(self.config.photos, self.seed, step)
        first = (step * world + rank) * count
        self._order(first // len(self.dataset))  # once, before the threads ask for it
        each = map if self._pool is None else self._pool.map
        examples = list(each(lambda position: self._example(position, photos), range(first, first + count)))
        rgb = torch.stack([resize_pictures(example.rgb, size) for example in examples])
        masks = torch.stack([resize_pictures(example.mask, size) for example in examples])
        references = Cameras.concatenate([example.cameras[0] for example in examples])
        cameras = Cameras.concatenate([example.cameras[photos:] for example in examples])
        return TrainingBatch(rgb[:, :photos], references, rgb[:, photos:], masks[:, photos:], cameras)

    def _example(self, position: int, photos: int) -> PosedViews:
        """The object at a position of all passes, or the next one that can be read: so many photos, then targets."""
        number, place = divmod(position, len(self.dataset))
        order = self._order(number)
        for skip in range(len(order)):
            index = int(order[(place + skip) % len(order)])
            try:
                available = self.dataset.view_count(index)
                views = torch.randperm(available, generator=generator_for(self.seed, "views", position)).tolist()
                return self.dataset.read(index, [views[k % available] for k in range(photos + self.config.targets)])
            except UpFusionError:
                continue  # the data set has noted it in `skipped`
        item, reason = self.dataset.skipped[-1] if self.dataset.skipped else ("all", "unknown")
        raise InputError(f"none of {len(self.dataset)} objects could be read, the last because {item}: {reason}")

    def _new_order(self, number: int) -> Tensor:
        generator = generator_for(self.seed, "pass", number)
        if isinstance(self.dataset, ShardedViews):
            return self.dataset.order(generator)
        return torch.randperm(len(self.dataset), generator=generator)


class ProceduralBatches:
    """Batches of procedural objects, rendered where they are used; without a pool no two steps share an object.

    objects: a split of them (its own sizes are not used). held_out: whether all is drawn by another seed, and objects
    have all their parts from the beginning. pool: so many are drawn at once, as that happens on the CPU one by one, and
    kept on the device for steps to choose from.
    """

    uses = 16  # how often an object of the pool is seen, on average, before a new pool replaces it

    def __init__(
        self,
        objects: ProceduralObjects,
        config: TrainConfig,
        *,
        held_out: bool = False,
        device: str = "cpu",
        pool: int = 0,
    ) -> None:
        self.objects, self.config, self.seed = objects, config, config.seed + held_out
        self.curriculum = (0, 0) if held_out else config.curriculum
        self.device, self.pool = device, pool
        self._pooled = lru_cache(maxsize=1)(self._drawn)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> TrainingBatch:
        count, photos = self.config.batch_size, photo_count(self.config.photos, self.seed, step)
        views = photos + self.config.targets
        generator = generator_for(self.seed, "cameras", step)
        before = rank * count  # examples of the parts before this one
        torch.rand(before, views, self.objects.numbers_a_view, generator=generator)
        chosen = self._chosen(step, rank, world)
        size = self.config.model.image_size
        made = self.objects.look(chosen, views=views, size=size, generator=generator, photos=range(photos))
        known = (made.camera_to_world, made.focal, torch.zeros_like(made.focal))
        references = Cameras(*(values[:, 0] for values in known))
        cameras = Cameras(*(values[:, photos:].flatten(0, 1) for values in known))
        return TrainingBatch(made.rgb[:, :photos], references, made.rgb[:, photos:], made.mask[:, photos:], cameras)

    def _chosen(self, step: int, rank: int, world: int) -> Objects:
        count, (second, all_parts) = self.config.batch_size, self.curriculum
        parts = 1 if step < second else 2 if step < all_parts else None
        if not self.pool:
            return self._drawn((step * world + rank) * count, count, parts)
        number = step // max(1, self.pool * self.uses // (count * world))
        pool = self._pooled(number * self.pool, self.pool, parts)
        places = torch.randint(self.pool, (world, count), generator=generator_for(self.seed, "pool", step))[rank]
        return pool[places.to(self.device)]

    def _drawn(self, position: int, count: int, parts: int | None) -> Objects:
        first = derived_seed(self.seed, "objects") + position
        indices = [(first + index) % len(self.objects) for index in range(count)]
        return self.objects.objects(indices, parts).to(self.device)


def photo_count(photos: tuple[int, int], seed: int, step: int) -> int:
    """How many photos the examples of a step have: uniform in the range, ends included."""
    least, most = photos
    return int(torch.randint(least, most + 1, (), generator=generator_for(seed, "photos", step)))
