"""Distillation: from a diffusion model that makes any view to one radiance field (paper section 3.3).

`draft` and `fast` make pictures and fit the field to them, in rounds; the release's optimisation is in reference.py.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..config import DistillConfig, DraftSchedule, FastSchedule, FitConfig, ReferenceSchedule
from ..field.fitting import FieldFitter
from ..field.radiance import RadianceField
from ..field.rendering import render_views
from ..geometry import orbit_cameras, random_cameras
from ..geometry.cameras import BAND_ELEVATION_DEGREES, networks_reference, reference_distance
from ..geometry.rays import project
from ..support.checks import check_type
from ..support.errors import InputError
from ..support.files import check_path, save_tensors
from ..support.images import resize_pictures
from ..support.weights import read_saved
from ..types import REFERENCE_FOCAL, Cameras, GivenViews, NovelViews, OnStep, PhotoCameras, SceneEncoding, Step
from .given_views import CELLS, FittedPictures, fitted_pictures, given_photos, visual_hull
from .novel_views import ViewSynthesizer
from .photos import estimate_coverage
from .pose import estimate_photo_cameras
from .reference import ReferenceFitter, reference_order
from .sampling import make_scheduler, repaint_steps, sample_views

START_STREAM, CAMERA_STREAM, FIT_STREAM, ORDER_STREAM, GIVEN_STREAM, NOISE_STREAM = range(6)
# what is drawn for, each from a generator of its own: the field's start, cameras, rays of the fit, the order
# of things, rays of the fit to the caller's views, and noise of the first round; later rounds count on from it

PAINTING, FITTING, DENOISING, SEARCHING = "painting", "fitting", "denoising", "searching"  # kinds of steps

State = Callable[[], dict[str, Any]]  # gives tensors, numbers and containers of them, to go on from later


def stream_generator(seed: int, stream: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed + 0x9E3779B9 * stream) % 2**63)


def distill_cameras(scene: SceneEncoding, config: DistillConfig, seed: int) -> Cameras:
    """The cameras that `distill` fits the field to, e.g. to be saved with it: photo 1's first."""
    schedule, first = config.schedule, scene.reference.to("cpu")
    unit = reference_distance(first)
    if isinstance(schedule, FastSchedule):
        # a Fibonacci lattice over the band that the release distils from: azimuths advance by the golden ratio of a
        # turn while the sine of the elevation rises evenly
        low, high = (math.sin(math.radians(degrees)) for degrees in BAND_ELEVATION_DEGREES)
        others = max(schedule.cameras - 1, 1)
        place = torch.arange(others, dtype=torch.float64)
        heights = low + (high - low) * (place + 0.5) / others
        azimuths = 360 * (place * (math.sqrt(5) - 1) / 2 % 1)
        lattice = orbit_cameras(azimuths.float(), torch.rad2deg(heights.asin()).float(), unit)
        return Cameras.concatenate([first, lattice[: schedule.cameras - 1]])
    # random ones in that band
    count = schedule.cameras if isinstance(schedule, ReferenceSchedule) else schedule.predicted_cameras
    drawn = random_cameras(max(count - 1, 1), generator=stream_generator(seed, CAMERA_STREAM), distance=(unit, unit))
    parts = [first, drawn[: count - 1]]
    if isinstance(schedule, DraftSchedule):  # then those that are sampled: a ring at elevations that take turns
        count = schedule.sampled_cameras
        elevations = [(22.5, 0.0, 45.0, 10.0)[index % 4] for index in range(count)]
        parts.append(orbit_cameras([360.0 * index / count for index in range(count)], elevations, unit))
    return Cameras.concatenate(parts)


@dataclass(frozen=True, eq=False)
class Distillation:
    """What one call of `distill` is about; `views` are the caller's, and the saved state is at `path`."""

    model: ViewSynthesizer
    scene: SceneEncoding
    config: DistillConfig
    text: tuple[Tensor, Tensor]
    seed: int
    on_step: OnStep
    path: Path | None
    views: FittedPictures | None
    silhouettes: bool  # whether those of the views may be trusted
    photo_cameras: PhotoCameras | None

    @property
    def extent(self) -> float:
        """Half the side of the field's box, in scene units."""
        return self.config.field.half_extent * reference_distance(self.scene.reference)

    def new_field(self, pixels: float = 1.0) -> RadianceField:
        """The field before any fitting, its cells no smaller than `pixels` of the model's pictures at the object,
        or than those of the finest picture that was given."""
        config, unit = self.config.field, reference_distance(self.scene.reference)
        config = replace(config, half_extent=self.extent, blob_sigma=config.blob_sigma * unit)
        cell = unit * pixels * 2 / REFERENCE_FOCAL / self.model.image_size
        config = config.no_finer_than(cell)
        if self.views is not None and self.views.pixel < cell:
            config = config.as_fine_as(self.views.pixel)
        return RadianceField(config, generator=stream_generator(self.seed, START_STREAM)).to(self.model.device)

    @cached_property
    def fingerprint(self) -> str:
        """Tells whether a saved state belongs to this scene, configuration, prompt, seed, given views and cameras."""
        settings = self.config.to_dict()
        # when states are saved and what computes the grid may change between attempts; the result stays the same
        del settings["checkpoint_every"], settings["field"]["backend"]
        digest = hashlib.sha256(json.dumps({"state": 2, "seed": self.seed, **settings}, sort_keys=True).encode())
        tensors = [self.scene.tokens, self.scene.reference.camera_to_world, *self.text]
        if self.views is not None:
            views = self.views
            tensors += [*views.rgb, *views.mask, *views.weights, views.cameras.camera_to_world, views.cameras.focal]
        if self.photo_cameras is not None:
            cameras = self.photo_cameras.cameras
            tensors += [cameras.camera_to_world, cameras.focal, self.photo_cameras.accepted]
        for tensor in tensors:
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def load(self) -> dict[str, Any] | None:
        """The saved state of an earlier, interrupted call, or None; InputError if it belongs to another one."""
        if self.path is None or not self.path.exists():
            return None
        content = read_saved(self.path, "the saved state of a distillation")
        if content.get("fingerprint") != self.fingerprint:
            wrong = f"{self.path} belongs to a run with other photos, weights, settings or seed"
            raise InputError(f"{wrong}; repeat those, or delete the file to start again")
        return dict(content["state"])

    def save(self, state: dict[str, Any]) -> None:
        if self.path is not None:
            save_tensors({"fingerprint": self.fingerprint, "state": state}, self.path)

    @cached_property
    def hull(self) -> Tensor | None:
        """What the silhouettes of the caller's photos leave of the field's box; None where anything may be."""
        if self.views is None or not self.silhouettes:
            return None
        return visual_hull(self.views, self.extent, CELLS)

    @torch.no_grad()
    def photos_alone(self) -> bool:
        """Whether the photos' hull tells more of the shape than the networks (measures: docs/true_pixels.md)."""
        if self.views is None or self.hull is None:
            return False
        cameras = distill_cameras(self.scene, self.config, self.seed)
        rgb = self.model.predict(self.scene, cameras, 32, pixel_centers=True).cpu()
        made = torch.stack([estimate_coverage(picture) > 0.5 for picture in rgb])
        points = ((self.hull == 1).nonzero() + 0.5) * (2 * self.extent / CELLS) - self.extent
        left = torch.zeros_like(made)
        for camera, picture in zip(cameras, left, strict=True):
            column, row = ((1 - project(points, camera)[0]) * 16).long().clamp(0, 31).unbind(-1)
            picture[0, row, column] = True
        towards = normalize(self.views.cameras.centers, dim=-1)
        sides = 1 + (len(towards) - 1) * (1 - float(towards.mean(0).square().sum()))
        return float((made & left).sum() / (made | left).sum()) < 1 - 1.8 / sides**2

    def fit(self, fitter: FieldFitter | ReferenceFitter, end: int, state: State, tell: Callable[[], None]) -> None:
        """Steps until iteration `end`, each told; the state is saved now and then, and where a step is broken off."""
        while fitter.iteration < end:
            try:
                fitter.step()
                tell()  # first: killed before the state is saved, the step is told again, and its preview is the last
            except BaseException:  # whatever the host cancels with; it is raised again
                self.save(state())
                raise
            if fitter.iteration % self.config.checkpoint_every == 0 or fitter.iteration == end:
                self.save(state())


def targets_on_white(cameras: Cameras, rgb: Tensor, weights: Tensor | float = 1.0) -> FittedPictures:
    """Pictures (N, 3, S, S) whose silhouettes are what is not white; `weights` are theirs or one for all."""
    mask = torch.stack([estimate_coverage(picture) for picture in rgb])
    return FittedPictures(cameras, list(rgb), list(mask), list(torch.as_tensor(weights).expand_as(mask)))


def agreement(made: Tensor, seen: Tensor, scale: float) -> Tensor:
    """(N, 1, H, W) weights in (0, 1] of the pixels of pictures (N, 3, H, W) by their difference from the field's.

    Geman and McClure's: a root mean square difference over the channels of `scale` halves a pixel's weight.
    """
    error = (made - seen).square().mean(dim=1, keepdim=True)
    return scale**2 / (scale**2 + error)


class Round(NamedTuple):
    """Pictures of `cameras`, the first round's by UpSRT, later ones by diffusion, and a fit until its iteration `end`.

    level: of noise on the field's renders, whose fit goes on; None begins from noise and anew, as `fit` says.
    seeds: one a view.
    """

    cameras: Cameras
    fit: FitConfig
    end: int
    level: float | None = None
    seeds: tuple[int, ...] = ()


class FitRounds:
    """The rounds of a draft or `fast`: the `number` of the one that is fitted, its sampled `pictures`, if any, and as
    many batches of the next round's as are `painted`. One round of the caller's photos `alone` where they tell more."""

    def __init__(self, job: Distillation, plan: DraftSchedule | FastSchedule) -> None:
        make_scheduler(plan.scheduler, plan.steps)  # a wrong one is said before any fit
        self.job, self.plan, self.field = job, plan, job.new_field()
        cameras = distill_cameras(job.scene, job.config, job.seed)
        self.alone, self.fast = job.photos_alone(), FastSchedule(agreement=0.0, photo_weight=0.0)
        if self.alone:
            self.rounds = [Round(cameras[:0], FitConfig.views(), FitConfig.views().iterations)]
        elif isinstance(plan, DraftSchedule):  # fits predictions, then sampled views
            count, first, second = plan.predicted_cameras, plan.predicted_fit, plan.sampled_fit
            seeds = tuple((job.seed + index) % 2**64 for index in range(plan.sampled_cameras))
            self.rounds = [Round(cameras[:count], first, first.iterations)]
            self.rounds.append(Round(cameras[count:], second, second.iterations, seeds=seeds))
        else:  # predictions, then ever better repaints of the renders
            self.fast = plan
            self.rounds = [Round(cameras, plan.fit, plan.ends[0])]
            for number, level in enumerate(plan.levels):
                noise = stream_generator(job.seed, NOISE_STREAM + number).initial_seed()
                seeds = tuple(noise if plan.shared_noise else noise + view for view in range(len(cameras)))
                self.rounds.append(Round(cameras, plan.fit, plan.ends[number + 1], level, seeds))
        batches = [-(-len(made.cameras) // job.config.batch_size) for made in self.rounds]
        walks = [repaint_steps(made.level or 1.0, plan.steps) for made in self.rounds]
        self.walks = [0, *(count * steps for count, steps in zip(batches[1:], walks[1:], strict=True))]  # by round
        self.total = self._steps_before(len(self.rounds) - 1) + self.rounds[-1].end
        self._cond: Any = None  # of all cameras, once a round asks for it
        saved = job.load() or {"round": 0, "pictures": None, "fit": None}
        self.number: int = saved["round"]
        self.pictures: dict[str, Tensor] | None = saved["pictures"]
        self.painted: list[Tensor] = saved.get("painted", [])
        self.photos: PhotoCameras | None = None  # where more than the first photo are to be targets
        if len(job.scene.views or ()) > 1 and self.fast.photo_weight and self.fast.all_photos:
            if found := saved.get("photos"):
                self.photos = PhotoCameras(Cameras(**found.pop("cameras")), **found)
            else:
                step = Step(self._steps_before(self.number), "estimating cameras", SEARCHING, {})
                self.photos = job.photo_cameras or estimate_photo_cameras(
                    job.model, job.scene, on_step=lambda *_: job.on_step(step, self.total, None)
                )
        self.fitter = self._new_fitter()
        if saved["fit"]:
            self.fitter.load_state_dict(saved["fit"])

    def finish(self) -> RadianceField:
        def tell() -> None:
            done, to_paint = self._steps_before(self.number) + self.fitter.iteration, sum(self.walks[self.number + 1 :])
            self._tell(done, to_paint, FITTING, self.fitter.preview)

        while True:
            self.job.fit(self.fitter, self.rounds[self.number].end, self.state, tell)
            if self.number + 1 == len(self.rounds):
                return self.field
            self.pictures = self._sampled(self.rounds[self.number + 1])
            self.number += 1
            self.painted = []
            if self.rounds[self.number].level is None:
                self.fitter = self._new_fitter()
            else:
                self.fitter.set_views(**vars(self._targets()))
            self.job.save(self.state())

    def state(self) -> dict[str, Any]:
        state = {"round": self.number, "pictures": self.pictures, "fit": self.fitter.state_dict()}
        photos = self.photos and {**vars(self.photos), "cameras": vars(self.photos.cameras)}
        return state | {"painted": self.painted, "photos": photos}

    def _tell(self, done: int, to_paint: int, kind: str, preview: Callable[[], Tensor] | None) -> None:
        """Calls the hook after a step of the kind; so many that paint are still to come."""
        number, left = self.number + (kind == PAINTING), {PAINTING: to_paint, FITTING: self.total - done - to_paint}
        first = "the photos alone" if self.alone else "predictions"
        phase = f"round {number} of {len(self.rounds) - 1}, {kind}" if number else first
        self.job.on_step(Step(done, phase, kind, left), self.total, preview)

    def _steps_before(self, number: int) -> int:
        """Steps of the whole until a round's pictures are made, but for those of the fit that it goes on with."""
        ended = sum(before.end for before, after in pairwise(self.rounds[: number + 1]) if after.level is None)
        return ended + sum(self.walks[: number + 1])

    def _new_fitter(self) -> FieldFitter:
        fit, generator = self.rounds[self.number].fit, stream_generator(self.job.seed, FIT_STREAM)
        return FieldFitter(self.field, **vars(self._targets()), hull=self.job.hull, config=fit, generator=generator)

    @torch.no_grad()
    def _sampled(self, made: Round) -> dict[str, Tensor]:
        """The diffusion model's pictures of a round and their weights, from noise or from the field's renders."""
        job, model, field, seen = self.job, self.job.model, self.field, None
        if made.level is not None:
            options: dict[str, Any] = {"sampling": made.fit.sampling, "visible": self.fitter.occupancy}
            seen = render_views(field, field.aabb, made.cameras, model.image_size, **options).rgb.cpu()
        if self._cond is None:
            self._cond = model.condition(job.scene, made.cameras, text_embeddings=job.text)
        before, later = self._steps_before(self.number) + self.fitter.iteration, sum(self.walks[self.number + 2 :])
        batch, most = job.config.batch_size, self.walks[self.number + 1]

        def on_step(number: int, _: int, preview: Callable[[], Tensor] | None) -> None:
            number = min(number + len(self.painted) * repaint_steps(made.level or 1.0, self.plan.steps), most)
            self._tell(before + number, most - number + later, PAINTING, preview)

        walk: dict[str, Any] = {"steps": self.plan.steps, "scheduler": self.plan.scheduler, "level": made.level or 1.0}
        walk |= {"guidance": job.config.guidance, "guidance_window": self.fast.guided, "batch_size": batch}
        for start in range(len(self.painted) * batch, len(self._cond), batch):
            part = slice(start, start + batch)
            more: dict[str, Any] = {"pictures": None if seen is None else seen[part], "seeds": made.seeds[part]}
            self.painted.append(sample_views(model.prior, self._cond[part], on_step=on_step, **walk, **more))
            job.save(self.state())
        rgb = torch.cat(self.painted)
        weights = torch.ones_like(rgb[:, :1])
        if seen is not None and self.fast.agreement:
            weights = agreement(rgb, seen, self.fast.agreement)
        return {"rgb": rgb, "weights": weights}

    def _targets(self) -> FittedPictures:
        """What a round is fitted to: its pictures, the photos whose cameras are known, and the caller's views at their
        own size, which count as much as all others together if those are more."""
        job, made, given = self.job, self.rounds[self.number], self.job.views
        photos, size, weight = job.scene.views, job.model.image_size, self.fast.photo_weight
        if self.alone and given is not None:
            return given
        if self.pictures is None:
            rgb = job.model.predict(job.scene, made.cameras, self.plan.predicted_size, pixel_centers=True)
            parts = [targets_on_white(made.cameras, rgb)]
        else:
            parts = [targets_on_white(made.cameras, **self.pictures)]
            if photos is not None and weight:
                chosen, cameras = torch.tensor([0]), job.scene.reference.to("cpu")
                if self.photos is not None:
                    chosen = self.photos.accepted.nonzero()[:, 0]
                    cameras = self.photos.cameras[chosen]
                rgb, mask = (resize_pictures(each[chosen].cpu(), size) for each in (photos.rgb, photos.mask))
                parts.append(FittedPictures(cameras, list(rgb), list(mask), list(torch.full_like(mask, weight))))
        if given is not None:
            share = max(1.0, sum(len(part.cameras) for part in parts) / len(given.cameras))
            parts.append(replace(given, weights=[share * weights for weights in given.weights]))
        cameras = Cameras.concatenate(part.cameras for part in parts)
        pictures = [[value for part in parts for value in vars(part)[name]] for name in ("rgb", "mask", "weights")]
        return FittedPictures(cameras, *pictures)


def _as_released(job: Distillation, plan: ReferenceSchedule) -> RadianceField:
    """The release's schedule, after a fit to the caller's views if there are any."""
    cond = job.model.condition(job.scene, distill_cameras(job.scene, job.config, job.seed), text_embeddings=job.text)
    order = reference_order(plan, stream_generator(job.seed, ORDER_STREAM))
    field, generator = job.new_field(0.5), stream_generator(job.seed, FIT_STREAM)  # at 256 pixels the release's field
    fitter = ReferenceFitter(field, job.model, cond, job.config, order=order, generator=generator)
    saved, views, given = job.load(), job.views, FitConfig()
    first = 0 if views is None else given.iterations
    total = first + plan.iterations
    if saved is not None:
        fitter.load_state_dict(saved)
    elif views is not None:  # cancelled, it begins again
        before = FieldFitter(field, **vars(views), config=given, generator=stream_generator(job.seed, GIVEN_STREAM))
        while not before.done:
            before.step()
            left = {FITTING: given.iterations - before.iteration, DENOISING: plan.iterations}
            job.on_step(Step(before.iteration, "the given views", FITTING, left), total, before.preview)

    def tell() -> None:
        done = first + fitter.iteration
        job.on_step(Step(done, "denoising", FITTING, {FITTING: total - done, PAINTING: 0}), total, fitter.preview)

    job.fit(fitter, plan.iterations, fitter.state_dict, tell)
    return field


def distill(
    model: ViewSynthesizer,
    scene: SceneEncoding,
    config: DistillConfig | None = None,
    generator: torch.Generator | None = None,
    on_step: OnStep | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    *,
    prompt: str | None = None,
    text_embeddings: tuple[Tensor, Tensor] | None = None,
    views: NovelViews | GivenViews | None = None,
    photo_cameras: PhotoCameras | None = None,
) -> RadianceField:
    """A radiance field of the scene's object, in evaluation mode, on the model's device.

    Args:
        config: DistillConfig.fast() unless given. prompt, text_embeddings: as in UpFusion.condition.
        generator: only its initial seed counts, so that a resumed run draws what an uninterrupted one draws.
        on_step: called after each step, with a `Step`, which knows its phase and what is left; the preview is the field
            as it is, from where photo 1 stands. Raising from it cancels; the state is saved first.
        checkpoint: file of the saved state, written every `config.checkpoint_every` steps and read if it exists: the
            run goes on from there and, on a CPU, ends in the same field to the bit.
        views: pictures of the object that exist already, e.g. sampled ones or photos from known cameras. A draft and
            `fast` fit them at their own size beside their own views, or alone where photos from all round tell more of
            the shape than the networks; the reference before its first iteration.
        photo_cameras: where the photos were taken from; `fast` fits the accepted ones. Unless given, those that the
            scene's photos were prepared with, else estimates.

    Raises InputError, CheckpointError: the checkpoint is another run's, or damaged. FieldError: the loss is not finite.
    """
    config, generator = config or DistillConfig.fast(), generator or torch.Generator().manual_seed(0)
    check_type("scene", scene, SceneEncoding, "make it with encode")
    check_type("config", config, DistillConfig, "such as DistillConfig.fast()")
    check_type("generator", generator, torch.Generator, "such as torch.Generator().manual_seed(0)")
    if checkpoint is not None:
        check_path("checkpoint", checkpoint)
    scene, views, photo_cameras = _posed(scene, views, photo_cameras)
    text = model.chosen_text(prompt, text_embeddings)
    with torch.inference_mode(False), torch.enable_grad():  # hosts may call from inference mode
        job = Distillation(
            model=model,
            scene=replace(scene, tokens=scene.tokens.detach().clone(), reference=scene.reference.detach()),
            config=config,
            text=(text[0].detach().clone(), text[1].detach().clone()),
            seed=generator.initial_seed(),
            on_step=on_step or (lambda *_: None),
            path=None if checkpoint is None else Path(checkpoint),
            views=None if views is None else fitted_pictures(views),
            silhouettes=isinstance(views, GivenViews),
            photo_cameras=photo_cameras and replace(photo_cameras, cameras=photo_cameras.cameras.detach()),
        )
        plan = config.schedule
        field = _as_released(job, plan) if isinstance(plan, ReferenceSchedule) else FitRounds(job, plan).finish()
    return field.requires_grad_(False).eval()


def _posed(
    scene: SceneEncoding, views: NovelViews | GivenViews | None, cameras: PhotoCameras | None
) -> tuple[SceneEncoding, NovelViews | GivenViews | None, PhotoCameras | None]:
    """Where cameras are given, the reference is photo 1's, and the photos are views at their own size."""
    if cameras is None:
        cameras = None if scene.views is None else scene.views.cameras
    else:
        check_type("photo_cameras", cameras, PhotoCameras, "such as those of estimate_photo_cameras")
        if len(cameras) != (photos := len(scene.views or ())):
            wanted = f"one camera for each of the scene's {photos} photos"
            raise InputError(f"photo_cameras must hold {wanted}, got {len(cameras)}; estimate them again")
    if cameras is not None and cameras.given and scene.views is not None:
        scene = replace(scene, reference=networks_reference(cameras.cameras[0]))
        if views is None and scene.views is not None and scene.views.sources is not None:
            views, scene = given_photos(scene.views, cameras), replace(scene, views=None)
    return scene, views, cameras
