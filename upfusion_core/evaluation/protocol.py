"""How one object is evaluated: each stage's pictures of it, and their measures."""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import trimesh
from torch import Tensor
from torch.nn.functional import normalize

from ..config import EvaluationConfig, EvaluationStage
from ..data.meshes import MeshViews
from ..data.views import MultiViewDataset, PosedViews
from ..field.radiance import RadianceField
from ..geometry.cameras import REFERENCE_ELEVATION_DEGREES
from ..models.perceptual import PerceptualDistance
from ..pipeline.upfusion import UpFusion
from ..procedural import ProceduralObjects, true_mesh
from ..procedural.shapes import HELD_OUT_PATTERN, HELD_OUT_ROLES, PATTERNS, ROLES
from ..support.checks import check_count
from ..support.errors import FieldError, InputError
from ..types import Cameras, InputViews, OnStep, RenderedViews, SceneEncoding
from .alignment import Render, align_views
from .metrics import reprojection_consistency
from .surfaces import BakedField, as_trimesh, compare_meshes


@dataclass(frozen=True, eq=False)
class Group:
    """Objects with results of their own.

    name: of the group in reports and of its objects' files. title: what is special about them, for readers.
    dataset, indices: the objects, some of those evaluated anyway or, of another data set, counted nowhere else.
    """

    name: str
    title: str
    dataset: MultiViewDataset
    indices: Sequence[int]


def held_out_groups(dataset: ProceduralObjects, count: int) -> list[Group]:
    """The first `count` objects of the split "held_out", parted by what training has never shown of them.

    Half of them have the combination of parts, half the pattern that no object of another split has.
    """
    check_count("count", count, 0, len(dataset))
    first, second = (ROLES[role] for role in HELD_OUT_ROLES)
    titles = {
        "held_out_combination": f"parts that were never trained on together: {first} and {second}",
        "held_out_pattern": f"a pattern that was never trained on: {PATTERNS[HELD_OUT_PATTERN]}",
    }
    groups = [Group(name, title, dataset, range(start, count, 2)) for start, (name, title) in enumerate(titles.items())]
    return [group for group in groups if group.indices]


@dataclass(frozen=True, eq=False)
class EvaluatedObject:
    """One object to be evaluated.

    views: photo 1, the targets, the other photos. photos, targets: their places in it.
    mesh: gives the true surface in the views' world, if the data set has one.
    """

    index: int
    views: PosedViews
    photos: tuple[int, ...]
    targets: tuple[int, ...]
    mesh: Callable[[], trimesh.Trimesh] | None

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
        """The targets' cameras."""
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
    """Object `index` of a data set with its photos and targets.

    Raises:
        InputError: it cannot be read, or has too few views.
    """
    most, wanted = max(config.photos), max(config.photos) + config.views
    generator = torch.Generator().manual_seed(object_seed(config.seed, "views", index))
    mesh: Callable[[], trimesh.Trimesh] | None = None
    if isinstance(dataset, ProceduralObjects):
        batch = dataset.batch([index], views=wanted, generator=generator)
        views, mesh = batch.example(0), functools.cache(functools.partial(true_mesh, batch.objects))
    else:
        views = dataset.draw(index, wanted, generator)
        if isinstance(dataset, MeshViews):
            mesh = functools.cache(lambda: as_trimesh(dataset.surface(index, views)))
    if len(views) < wanted:
        raise InputError(
            f"{views.name} must have {wanted} views ({most} photos and {config.views} targets), got {len(views)}; "
            "ask for fewer photos or views"
        )
    targets = tuple(range(1, 1 + config.views))
    return EvaluatedObject(index, views, (0, *range(1 + config.views, wanted)), targets, mesh)


def object_seed(seed: int, purpose: str, index: int) -> int:
    """A number below 2^31 that no other purpose or object shares, as good as surely."""
    return zlib.crc32(f"{seed} {purpose} {index}".encode()) >> 1


Values = dict[str, dict[str, dict[str, list[float]]]]
"""values[stage][photos][measure]: one number a view, or one alone for measures of the whole object."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a stage made of an object.

    rgb: (N, 3, S, S). mask: (N, 1, S, S) where it is known. render: shows it from any camera, where that is possible.
    views, field: of the stage "field" alone.
    """

    rgb: Tensor
    mask: Tensor | None = None
    render: Render | None = None
    views: RenderedViews | None = None
    field: RadianceField | None = None


@dataclass(frozen=True, eq=False)
class ObjectResult:
    """values: see Values. notes: what could not be measured. shown: rgb of each stage but white, of the most photos."""

    values: Values
    notes: list[str]
    shown: dict[str, Tensor]


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

    Args:
        on_step: called with (done, total, preview) after each stage of each number of photos, and, with the same
            numbers, at each step of sampling and distillation.
        lpips: gives the measure "lpips" too.
        state: the file for each number of photos in which the field is kept while it is distilled, so that another
            call goes on with it; the caller removes it.

    Raises:
        InputError, FieldError: the object cannot be evaluated.
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
            hook = None if on_step is None else relay
            seen[stage] = _predicted(stage, model, item, count, scene, config, hook, state)
            known = values[stage].get(str(min(config.photos))) if stage == "white" else None
            values[stage][str(count)] = known or _measure(seen[stage], item, config, f"{stage}, {count}", notes, lpips)
            done += 1
            relay(0, 0, None)
        views = seen["field"].views if "field" in seen else None
        for stage in ("sample", "field"):  # by the field's depth
            if views is not None and stage in seen and len(item.targets) > 1:
                found = reprojection_consistency(seen[stage].rgb, views, item.cameras, neighbors(item.cameras))
                if math.isfinite(found.mean):  # else no pixel is seen twice
                    values[stage][str(count)]["consistency"] = [found.mean]
    return ObjectResult(values, notes, {stage: found.rgb for stage, found in seen.items() if stage != "white"})


def _predicted(
    stage: EvaluationStage,
    model: UpFusion,
    item: EvaluatedObject,
    count: int,
    scene: SceneEncoding | None,
    config: EvaluationConfig,
    on_step: OnStep | None,
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
        novel = model.sample(
            scene,
            cameras,
            steps=config.steps,
            guidance=config.guidance,
            scheduler=config.scheduler,
            seeds=[first + view for view in range(len(cameras))],
            batch_size=config.batch_size,
            on_step=on_step,
        )
        return Prediction(_picture(novel.rgb))
    generator = torch.Generator().manual_seed(object_seed(config.seed, "field", item.index))
    kept = None if state is None else state(count)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
    field = model.distill(scene, config.distill, generator=generator, on_step=on_step, checkpoint=kept)
    return _rendered(field, cameras, size)


def _rendered(field: RadianceField, cameras: Cameras, size: int) -> Prediction:
    """A field's views. Small ones, by which its frame is searched for, come from a grid; what is measured does not."""
    baked = functools.cache(lambda: BakedField(field))

    def rendered(where: Cameras, pixels: int) -> Tensor:
        if pixels < size:
            return _picture(baked().render(where, pixels))
        seen = field.render(where, pixels)
        return _picture(torch.cat([seen.rgb, seen.opacity], dim=1))

    views = field.render(cameras, size)
    views = RenderedViews(_picture(views.rgb), _picture(views.opacity), views.depth.float().cpu())
    return Prediction(views.rgb, views.opacity, rendered, views, field)


def _measure(
    seen: Prediction,
    item: EvaluatedObject,
    config: EvaluationConfig,
    label: str,
    notes: list[str],
    lpips: PerceptualDistance | None,
) -> dict[str, list[float]]:
    render = seen.render if config.alignment == "object" else None
    alignments = align_views(seen.rgb, item.truth, item.cameras, mask=seen.mask, render=render)
    measures = alignments.measures(item.truth, item.mask, lpips)
    values = {name: [float(number) for number in numbers] for name, numbers in measures.items()}
    if seen.field is None or item.mesh is None:
        return values
    try:
        mesh, truth = as_trimesh(seen.field.extract_mesh(config.mesh_resolution)), item.mesh()
    except FieldError as error:
        notes.append(f"{label} photos: no mesh was measured, because {error}")
        return values
    scores = compare_meshes(
        mesh, truth, start=alignments.object_similarity, samples=config.mesh_samples, seed=config.seed
    )
    return values | {name: [score] for name, score in scores.items()}


def _picture(rgb: Tensor) -> Tensor:
    return rgb.detach().float().cpu().clamp(0, 1)
