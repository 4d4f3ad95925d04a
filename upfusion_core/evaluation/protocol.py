"""How one object is evaluated: each stage's pictures of it, and their measures."""

import functools
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import trimesh
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, normalize

from ..config import EvaluationConfig, EvaluationStage, RaySampling
from ..data.meshes import MeshViews
from ..data.views import MultiViewDataset, PosedViews
from ..field.radiance import RadianceField
from ..field.rendering import render_views
from ..geometry.cameras import REFERENCE_ELEVATION_DEGREES
from ..models.perceptual import PerceptualDistance
from ..pipeline.upfusion import UpFusion
from ..procedural import ProceduralObjects, true_mesh
from ..procedural.shapes import HELD_OUT_PATTERN, HELD_OUT_ROLES
from ..support.checks import check_count
from ..support.errors import FieldError, InputError
from ..surface.registration import Render
from ..types import Cameras, InputViews, OnStep, RenderedViews, SceneEncoding
from .alignment import align_views
from .metrics import as_trimesh, compare_meshes, measure_views, reprojection_consistency

_COARSE, _FINE = 40, 64  # cells along each side of the field's box, where the object is looked for, and of its own box
_OPAQUE = 1.0  # optical depth of a solid cell; more would make surfaces swell between the grid's points
_EMPTY = 0.02  # optical depth of a coarse cell below which nothing is there
_CHUNK = 1 << 16


class Group(NamedTuple):
    """Objects with results of their own."""

    name: str
    title: str  # what is special about them, for readers
    indices: Sequence[int]


def held_out_groups(dataset: ProceduralObjects, count: int) -> list[Group]:
    """The first `count` objects of the split "held_out": half have parts, half a pattern never trained on."""
    check_count("count", count, 0, len(dataset))
    first, second = HELD_OUT_ROLES
    titles = {
        "held_out_combination": f"parts that were never trained on together: {first} and {second}",
        "held_out_pattern": f"a pattern that was never trained on: {HELD_OUT_PATTERN}",
    }
    groups = [Group(name, title, range(start, count, 2)) for start, (name, title) in enumerate(titles.items())]
    return [group for group in groups if group.indices]


@dataclass(frozen=True, eq=False)
class EvaluatedObject:
    """One object to be evaluated. photos, targets: their places in its views."""

    index: int
    views: PosedViews
    photos: tuple[int, ...]
    targets: tuple[int, ...]
    mesh: Callable[[], trimesh.Trimesh] | None  # gives the true surface in the views' world, if the data set has one

    @property
    def truth(self) -> Tensor:
        """(N, 3, S, S) true pictures of the targets."""
        return self.views.rgb[list(self.targets)]

    @property
    def mask(self) -> Tensor:
        """(N, 1, S, S) true silhouettes of the targets."""
        return self.views.mask[list(self.targets)]

    @property
    def cameras(self) -> Cameras:
        return self.views.cameras[torch.tensor(self.targets)]

    def given(self, count: int) -> InputViews:
        """The first `count` photos as the model gets them."""
        chosen = list(self.photos[:count])
        return InputViews(self.views.rgb[chosen], self.views.mask[chosen], self.views.cameras.focal[chosen])

    @property
    def elevation_degrees(self) -> float:
        """Photo 1's elevation, as far as it is known."""
        if not self.views.upright:
            return REFERENCE_ELEVATION_DEGREES
        center = self.views.cameras.centers[0].double()
        return math.degrees(math.asin(float((center[1] / center.norm()).clamp(-1, 1))))


def draw_object(dataset: MultiViewDataset, index: int, config: EvaluationConfig) -> EvaluatedObject:
    """Object `index` of a data set with its photos and targets; InputError if it has too few views."""
    most, wanted = max(config.photos), max(config.photos) + config.views
    generator = torch.Generator().manual_seed(object_seed(config.seed, "views", index))
    mesh: Callable[[], trimesh.Trimesh] | None = None
    targets = tuple(range(1, 1 + config.views))
    photos = (0, *range(1 + config.views, wanted))
    if isinstance(dataset, ProceduralObjects):
        batch = dataset.batch([index], views=wanted, generator=generator, photos=photos)
        views, mesh = batch.example(0), functools.cache(functools.partial(true_mesh, batch.objects))
    else:
        views = dataset.draw(index, wanted, generator)
        if isinstance(dataset, MeshViews):
            mesh = functools.cache(lambda: as_trimesh(dataset.surface(index, views)))
    if len(views) < wanted:
        needed = f"{views.name} must have {wanted} views ({most} photos and {config.views} targets)"
        raise InputError(f"{needed}, got {len(views)}; ask for fewer photos or views")
    return EvaluatedObject(index, views, photos, targets, mesh)


def object_seed(seed: int, purpose: str, index: int) -> int:
    return zlib.crc32(f"{seed} {purpose} {index}".encode()) >> 1


# values[stage][photos][measure]: one number a view, or one alone for measures of the whole object
Values = dict[str, dict[str, dict[str, list[float]]]]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a stage made of an object: (N, 3, S, S) pictures, and what else is known of it."""

    rgb: Tensor
    mask: Tensor | None = None
    render: Render | None = None
    views: RenderedViews | None = None  # of the stage "field" alone
    field: RadianceField | None = None


@dataclass(frozen=True, eq=False)
class ObjectResult:
    """The measures of one object, and what could not be measured."""

    values: Values
    notes: list[str]
    shown: dict[str, Tensor]  # rgb of each stage but white, of the most photos


def neighbors(cameras: Cameras) -> list[tuple[int, int]]:
    """Pairs of each camera with the one nearest to it in angle, every pair once."""
    directions = normalize(cameras.centers, dim=-1)
    closeness = (directions @ directions.T).fill_diagonal_(-torch.inf)
    nearest = enumerate(closeness.argmax(dim=1).tolist())
    return sorted({(min(pair), max(pair)) for pair in nearest})


def evaluate_object(
    model: UpFusion,
    item: EvaluatedObject,
    config: EvaluationConfig,
    on_step: OnStep | None = None,
    *,
    lpips: PerceptualDistance | None = None,
    state: Callable[[int], Path] | None = None,
) -> ObjectResult:
    """All measures of all stages and numbers of photos on one object; everything follows from the seed.

    `lpips` gives the measure "lpips" too; `state` the file for each number of photos where a field goes on from.
    """
    values: Values = {stage: {} for stage in config.stages}
    notes: list[str] = []
    seen: dict[str, Prediction] = {}
    done, total = 0, len(config.photos) * len(config.stages)

    def relay(step: int, steps: int, preview: Callable[[], Tensor] | None) -> None:
        if on_step is not None:
            on_step(done, total, preview)

    for count in sorted(config.photos):
        scene, seen = None, {}
        if set(config.stages) - {"white", "nearest"}:
            scene = model.encode(item.given(count), reference_elevation_degrees=item.elevation_degrees)
        for stage in config.stages:
            seen[stage] = _predicted(stage, model, item, count, scene, config, relay, state)
            known = values[stage].get(str(min(config.photos))) if stage == "white" else None
            values[stage][str(count)] = known or _measure(seen[stage], item, config, f"{stage}, {count}", notes, lpips)
            done += 1
            relay(0, 0, None)
        views = seen["field"].views if "field" in seen else None
        for stage in ("sample", "field"):  # by the field's depth
            if views is not None and stage in seen and len(item.targets) > 1:
                pairs = neighbors(item.cameras)
                apart, pixels = reprojection_consistency(seen[stage].rgb, views, item.cameras, pairs)
                if pixels.any():  # are seen twice
                    mean = float((apart.nan_to_num(0.0) * pixels).sum() / pixels.sum())
                    values[stage][str(count)]["consistency"] = [mean]
    return ObjectResult(values, notes, {stage: found.rgb for stage, found in seen.items() if stage != "white"})


def _predicted(
    stage: EvaluationStage,
    model: UpFusion,
    item: EvaluatedObject,
    count: int,
    scene: SceneEncoding | None,
    config: EvaluationConfig,
    on_step: OnStep,
    state: Callable[[int], Path] | None,
) -> Prediction:
    cameras, size = item.cameras, item.truth.shape[-1]
    if stage == "white":
        return Prediction(torch.ones_like(item.truth))
    if stage == "nearest":
        directions = normalize(item.views.cameras.centers, dim=-1)
        photos, targets = torch.tensor(item.photos[:count]), torch.tensor(item.targets)
        chosen = photos[(directions[targets] @ directions[photos].T).argmax(dim=1)]
        return Prediction(item.views.rgb[chosen], item.views.mask[chosen])
    assert scene is not None, "models need the photos encoded"
    if stage == "predict":

        def predicted(where: Cameras, pixels: int) -> Tensor:
            return _picture(model.predict(scene, where, size=pixels, pixel_centers=True))

        return Prediction(predicted(cameras, size), render=predicted)
    if stage == "sample":
        first = object_seed(config.seed, "sample", item.index)
        seeds = [first + view for view in range(len(cameras))]
        novel = model.sample(
            scene, cameras, steps=config.steps, guidance=config.guidance, scheduler=config.scheduler,
            seeds=seeds, batch_size=config.batch_size, on_step=on_step,
        )  # fmt: skip
        return Prediction(_picture(novel.rgb))
    generator = torch.Generator().manual_seed(object_seed(config.seed, "field", item.index))
    kept = None if state is None else state(count)
    field = model.distill(scene, config.distill, generator=generator, on_step=on_step, checkpoint=kept)
    baked = functools.cache(lambda: BakedField(field))

    def rendered(where: Cameras, pixels: int) -> Tensor:
        if pixels < size:  # by which its frame is searched for; what is measured is no grid's
            return _picture(baked().render(where, pixels))
        seen = field.render(where, pixels)
        return _picture(torch.cat([seen.rgb, seen.opacity], dim=1))

    views = field.render(cameras, size)
    views = RenderedViews(_picture(views.rgb), _picture(views.opacity), views.depth.float().cpu())
    return Prediction(views.rgb, views.opacity, rendered, views, field)


class BakedField:
    """Density and colour between the points of a grid over the object's box; nothing outside of it."""

    @torch.no_grad()
    def __init__(self, field: RadianceField) -> None:
        low, high = field.aabb.unbind(0)
        density, _ = _grid_values(field, low, high, _COARSE)
        cell = (high - low) / _COARSE
        there = (density * cell.max() > _EMPTY).nonzero()
        if len(there):  # a cell more on each side, because only its middle was looked at
            first, last = there.amin(0), there.amax(0) + 1
            low, high = torch.maximum(low + (first - 1) * cell, low), torch.minimum(low + (last + 1) * cell, high)
        self.aabb = torch.stack([low, high])
        density, rgb = _grid_values(field, low, high, _FINE)
        density = density.clamp(max=float(_OPAQUE * _FINE / (high - low).max()))
        # (1, 4, z, y, x), as grid_sample wants it; colours count as much as there is of them
        volume = torch.cat([density[..., None], density[..., None] * rgb], dim=-1)
        self.volume = volume.permute(3, 2, 1, 0)[None].contiguous()

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """(..., 3) world points -> density (...,) and rgb (..., 3); trilinear."""
        low, high = self.aabb
        place = ((points.reshape(1, -1, 1, 1, 3) - low) / (high - low)) * 2 - 1
        found = grid_sample(self.volume, place, mode="bilinear", padding_mode="zeros", align_corners=False)
        found = found.reshape(4, -1).T.reshape(*points.shape[:-1], 4)
        return found[..., 0], found[..., 1:] / found[..., :1].clamp(min=1e-6)

    def render(self, cameras: Cameras, size: int) -> Tensor:
        """(Q, 4, size, size) colours on white, and opacity; each pixel the mean of 2 x 2 rays."""
        sampling = RaySampling(uniform=48, importance=0)
        seen = render_views(self, self.aabb, cameras, 2 * size, sampling=sampling, chunk=_CHUNK)
        return avg_pool2d(torch.cat([seen.rgb, seen.opacity], dim=1), 2)


def _grid_values(field: RadianceField, low: Tensor, high: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Density (x, y, z) and rgb (x, y, z, 3) in the middles of count³ cells."""
    place = (torch.arange(count, device=low.device) + 0.5) / count
    grid = torch.stack(torch.meshgrid(place, place, place, indexing="ij"), dim=-1).reshape(-1, 3)
    parts = [field(low + (high - low) * some) for some in grid.split(_CHUNK)]
    density, rgb = (torch.cat([part.float() for part in values]) for values in zip(*parts, strict=True))
    return density.reshape(count, count, count), rgb.reshape(count, count, count, 3)


def _measure(
    seen: Prediction,
    item: EvaluatedObject,
    config: EvaluationConfig,
    label: str,
    notes: list[str],
    lpips: PerceptualDistance | None,
) -> dict[str, list[float]]:
    render = seen.render if config.alignment == "object" else None
    aligned, similarity = align_views(seen.rgb, item.truth, item.cameras, mask=seen.mask, render=render)
    values: dict[str, list[float]] = {}
    for ending, pictures in aligned.items():
        mask = pictures[:, 3:] if pictures.shape[1] == 4 else None
        found = measure_views(pictures[:, :3], item.truth, item.mask, prediction_mask=mask, lpips=lpips)
        values |= {f"{name}{ending}": numbers.tolist() for name, numbers in found.items()}
    if seen.field is None or item.mesh is None:
        return values
    try:
        mesh, truth = as_trimesh(seen.field.extract_mesh(config.mesh_resolution)), item.mesh()
    except FieldError as error:
        notes.append(f"{label} photos: no mesh was measured, because {error}")
        return values
    scores = compare_meshes(mesh, truth, start=similarity, samples=config.mesh_samples, seed=config.seed)
    return values | {name: [score] for name, score in scores.items()}


def _picture(rgb: Tensor) -> Tensor:
    return rgb.detach().float().cpu().clamp(0, 1)
