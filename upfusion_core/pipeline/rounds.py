"""Rounds of a distillation: pictures are made, and the field is fitted to them by random rays.

`draft` and `fast` are such rounds; what every schedule shares stands here as well: cameras, streams, the saved state.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import DistillConfig, DraftSchedule, FastSchedule, FitConfig, ReferenceSchedule
from ..field.fitting import FieldFitter
from ..field.radiance import RadianceField
from ..field.rendering import render_views
from ..geometry import orbit_cameras, random_cameras
from ..geometry.cameras import BAND_ELEVATION_DEGREES
from ..support.errors import FieldError, InputError
from ..support.files import save_tensors
from ..support.images import resize_pictures
from ..support.weights import read_saved
from ..types import REFERENCE_FOCAL, Cameras, NovelViews, OnStep, SceneEncoding, ViewConditioning
from .novel_views import ViewSynthesizer
from .pose import PhotoCameras, estimate_photo_cameras
from .prepare import estimate_coverage
from .sampling import repaint_steps, sample_views

START_STREAM, CAMERA_STREAM, FIT_STREAM, ORDER_STREAM, GIVEN_STREAM, NOISE_STREAM = range(6)
"""What a distillation draws for, each from a generator of its own: the field's start, cameras, rays of the fit, the
order of things, rays of the fit to the caller's views, and noise of the first round; later rounds count on from it."""

_ELEVATIONS_DEGREES = (22.5, 0.0, 45.0, 10.0)


def stream_generator(seed: int, stream: int) -> torch.Generator:
    """A CPU generator for one purpose of a distillation (see START_STREAM)."""
    return torch.Generator().manual_seed((seed + 0x9E3779B9 * stream) % 2**63)


def spread_cameras(first: Cameras, count: int) -> Cameras:
    """Photo 1's camera, then others spread evenly over the band that the release distils from.

    A Fibonacci lattice: azimuths advance by the golden ratio of a turn while the sine of the elevation rises evenly, so
    that each camera has the same share of the band.
    """
    low, high = (math.sin(math.radians(degrees)) for degrees in BAND_ELEVATION_DEGREES)
    others = max(count - 1, 1)
    place = torch.arange(others, dtype=torch.float64)
    heights = low + (high - low) * (place + 0.5) / others
    azimuths = 360 * (place * (math.sqrt(5) - 1) / 2 % 1)
    lattice = orbit_cameras(azimuths.float(), torch.rad2deg(heights.asin()).float())
    return Cameras.concatenate([first.to("cpu"), lattice[slice(0, count - 1)]])


def distill_cameras(scene: SceneEncoding, config: DistillConfig, seed: int) -> Cameras:
    """The cameras that `distill` fits the field to, e.g. to be saved with it: photo 1's first."""
    schedule = config.schedule
    if isinstance(schedule, FastSchedule):
        return spread_cameras(scene.reference, schedule.cameras)
    # photo 1's, then random ones in the band that the release distils from
    count = schedule.cameras if isinstance(schedule, ReferenceSchedule) else schedule.predicted_cameras
    others = random_cameras(max(count - 1, 1), generator=stream_generator(seed, CAMERA_STREAM))
    band = Cameras.concatenate([scene.reference.to("cpu"), others[slice(0, count - 1)]])
    if isinstance(schedule, ReferenceSchedule):
        return band
    count = schedule.sampled_cameras  # a ring at elevations that take turns
    elevations = [_ELEVATIONS_DEGREES[index % 4] for index in range(count)]
    return Cameras.concatenate([band, orbit_cameras([360.0 * index / count for index in range(count)], elevations)])


@dataclass(frozen=True, eq=False)
class Distillation:
    """What one call of `distill` is about, and its saved state.

    text: (conditional, unconditional) embeddings. path: of the saved state, or None. views: square pictures that the
    caller has already, of the model's size, to be fitted too; or None. photo_cameras: the photos', where known.
    """

    model: ViewSynthesizer
    scene: SceneEncoding
    config: DistillConfig
    text: tuple[Tensor, Tensor]
    seed: int
    on_step: OnStep | None = None
    path: Path | None = None
    views: NovelViews | None = None
    photo_cameras: PhotoCameras | None = None

    def new_field(self) -> RadianceField:
        """The field before any fitting, on the model's device.

        Its cells are no smaller than a pixel of the model's pictures at the object, or half of one in the reference,
        which leaves the release's field as it is at the release's 256 pixels.
        """
        pixel = 2 / REFERENCE_FOCAL / self.model.image_size
        halved = isinstance(self.config.schedule, ReferenceSchedule)
        config = self.config.field.no_finer_than(pixel / 2 if halved else pixel)
        return RadianceField(config, generator=stream_generator(self.seed, START_STREAM)).to(self.model.device)

    @cached_property
    def fingerprint(self) -> str:
        """Tells whether a saved state belongs to this scene, configuration, prompt, seed, given views and cameras."""
        settings = {name: value for name, value in self.config.to_dict().items() if name != "checkpoint_every"}
        # what computes the grid may change between attempts, and the result stays the same
        settings["field"] = {name: value for name, value in settings["field"].items() if name != "backend"}
        digest = hashlib.sha256(json.dumps({"state": 2, "seed": self.seed, **settings}, sort_keys=True).encode())
        tensors = [self.scene.tokens, self.scene.reference.camera_to_world, *self.text]
        if self.views is not None:
            tensors += [self.views.rgb, self.views.cameras.camera_to_world, self.views.cameras.focal]
        if self.photo_cameras is not None:
            cameras = self.photo_cameras.cameras
            tensors += [cameras.camera_to_world, cameras.focal, self.photo_cameras.accepted]
        for tensor in tensors:
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def load(self) -> dict[str, Any] | None:
        """The saved state of an earlier, interrupted call, or None.

        Raises:
            CheckpointError: the file is damaged, was changed, or is something else.
            InputError: it belongs to another distillation.
        """
        if self.path is None or not self.path.exists():
            return None
        content = read_saved(self.path, "the saved state of a distillation")
        if content.get("fingerprint") != self.fingerprint:
            raise InputError(
                f"{self.path} belongs to a run with other photos, weights, settings or seed; "
                "repeat those, or delete the file to start again"
            )
        state: dict[str, Any] = content["state"]
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Saves tensors, numbers and containers of them, if a path was given."""
        if self.path is not None:
            save_tensors({"fingerprint": self.fingerprint, "state": state}, self.path)

    def report(
        self, step: int, total: int, preview: Callable[[], Tensor] | None, state: Callable[[], dict[str, Any]]
    ) -> None:
        """Calls the hook; where that cancels, the state is saved before the cancellation goes on."""
        if self.on_step is None:
            return
        try:
            self.on_step(step, total, preview)
        except BaseException:  # whatever the host cancels with; it is raised again
            self.save(state())
            raise

    def fit(
        self,
        fitter: Any,  # noqa: ANN401 - a FieldFitter, or what steps as it does
        state: Callable[[], dict[str, Any]],
        *,
        end: int,
        first: int,
        total: int,
    ) -> None:
        """Steps until the fit's iteration is `end`; saves what `state` gives now and then, at the end, and on failure.

        Args:
            first: steps of the whole that the fit's own do not count. total: of the whole.
        """
        while fitter.iteration < end:
            try:
                fitter.step()
            except FieldError:
                self.save(state())
                raise
            # the hook comes first: killed between the two, it is called for the step again, and its preview is the last
            self.report(first + fitter.iteration, total, fitter.preview, state)
            if fitter.iteration % self.config.checkpoint_every == 0 or fitter.done:
                self.save(state())


@dataclass(frozen=True, eq=False)
class Targets:
    """Pictures to be fitted: N cameras, rgb (N, 3, S, S) on white, mask and weights (N, 1, S, S)."""

    cameras: Cameras
    rgb: Tensor
    mask: Tensor
    weights: Tensor

    @classmethod
    def on_white(cls, cameras: Cameras, rgb: Tensor, weights: Tensor | float = 1.0) -> Targets:
        """Pictures whose silhouettes are what is not white; `weights` are theirs or one for all."""
        mask = torch.stack([estimate_coverage(picture) for picture in rgb])
        return cls(cameras, rgb, mask, torch.as_tensor(weights).expand_as(mask))

    @classmethod
    def joined(cls, parts: list[Targets]) -> Targets:
        """All of them; their pictures have one size."""
        tensors = zip(*((part.rgb, part.mask, part.weights) for part in parts), strict=True)
        return cls(Cameras.concatenate([part.cameras for part in parts]), *(torch.cat(each) for each in tensors))


def agreement(made: Tensor, seen: Tensor, scale: float) -> Tensor:
    """(N, 1, H, W) weights in (0, 1] of the pixels of pictures (N, 3, H, W) by their difference from the field's.

    Geman and McClure's: a root mean square difference over the channels of `scale` halves a pixel's weight, so that
    what one view alone shows does not blur the others.
    """
    error = (made - seen).square().mean(dim=1, keepdim=True)
    return scale**2 / (scale**2 + error)


@dataclass(frozen=True, eq=False)
class Round:
    """One round: pictures of `cameras` are made, and the field is fitted to them until the fit's iteration is `end`.

    size: pixels along each side of UpSRT's predictions; 0 has the diffusion model make the pictures, see sample_views.
    level: of its noise on the field's renders, whose fit goes on; None begins from noise, and a new fit as `fit` says.
    seeds: one a view.
    """

    cameras: Cameras
    fit: FitConfig
    end: int
    size: int = 0
    level: float | None = None
    seeds: tuple[int, ...] = ()


def rounds_of(job: Distillation, plan: DraftSchedule | FastSchedule) -> list[Round]:
    """A draft fits predictions, then sampled views; `fast` predictions, then ever better repaints of the renders."""
    cameras = distill_cameras(job.scene, job.config, job.seed)
    if isinstance(plan, DraftSchedule):
        count, first, second = plan.predicted_cameras, plan.predicted_fit, plan.sampled_fit
        seeds = tuple((job.seed + index) % 2**64 for index in range(plan.sampled_cameras))
        return [
            Round(cameras[slice(0, count)], first, first.iterations, plan.predicted_size),
            Round(cameras[slice(count, None)], second, second.iterations, seeds=seeds),
        ]
    rounds = [Round(cameras, plan.fit, plan.ends[0], plan.predicted_size)]
    for number, level in enumerate(plan.levels):
        first_seed = stream_generator(job.seed, NOISE_STREAM + number).initial_seed()
        seeds = tuple(first_seed if plan.shared_noise else first_seed + view for view in range(len(cameras)))
        rounds.append(Round(cameras, plan.fit, plan.ends[number + 1], level=level, seeds=seeds))
    return rounds


class FitRounds:
    """Goes through the rounds of a draft or `fast`; it can be left after any step and resumed.

    number: of the round that is fitted. pictures: those that the diffusion model made for it, and their weights.
    """

    def __init__(self, job: Distillation, plan: DraftSchedule | FastSchedule) -> None:
        self.job, self.plan, self.rounds = job, plan, rounds_of(job, plan)
        self.photo_weight = plan.photo_weight if isinstance(plan, FastSchedule) else 0.0
        self.field = job.new_field()
        self.total = self._steps_before(len(self.rounds) - 1) + self.rounds[-1].end
        self._cond: ViewConditioning | None = None
        saved = job.load() or {"round": 0, "pictures": None, "fit": None}
        self.number: int = saved["round"]
        self.pictures: dict[str, Tensor] | None = saved["pictures"]
        done = saved["fit"]["iteration"] if saved["fit"] else 0
        self.photos = self._photo_cameras(self._steps_before(self.number) + done)
        self.fitter = self._new_fitter()
        if saved["fit"]:
            self.fitter.load_state_dict(saved["fit"])

    def finish(self) -> RadianceField:
        """Takes the steps that are left."""
        while True:
            end, first = self.rounds[self.number].end, self._steps_before(self.number)
            self.job.fit(self.fitter, self.state, end=end, first=first, total=self.total)
            if self.number + 1 == len(self.rounds):
                return self.field
            self.pictures = self._sampled(self.rounds[self.number + 1])
            self.number += 1
            if self.rounds[self.number].level is None:
                self.fitter = self._new_fitter()
            else:
                self.fitter.set_views(**vars(self._targets()))
            self.job.save(self.state())

    def state(self) -> dict[str, Any]:
        """What a later call goes on from."""
        return {"round": self.number, "pictures": self.pictures, "fit": self.fitter.state_dict()}

    def _steps_before(self, number: int) -> int:
        """Steps of the whole until a round's pictures are made, but for those of the fit that it goes on with."""
        rounds, batch = self.rounds[: number + 1], self.job.config.batch_size
        ended = sum(before.end for before, after in pairwise(rounds) if after.level is None)
        return ended + sum(
            -(-len(made.cameras) // batch) * repaint_steps(made.level or 1.0, self.plan.steps)
            for made in rounds
            if not made.size
        )

    def _new_fitter(self) -> FieldFitter:
        fit, generator = self.rounds[self.number].fit, stream_generator(self.job.seed, FIT_STREAM)
        return FieldFitter(self.field, **vars(self._targets()), config=fit, generator=generator)

    @torch.no_grad()
    def _sampled(self, made: Round) -> dict[str, Tensor]:
        """The diffusion model's pictures of a round and their weights, from noise or from the field's renders."""
        job, model, seen = self.job, self.job.model, None
        if made.level is not None:
            seen = render_views(
                self.field,
                self.field.aabb,
                made.cameras,
                model.image_size,
                sampling=made.fit.sampling,
                visible=self.fitter.occupancy,
            ).rgb.cpu()
        if self._cond is None:
            self._cond = model.condition(job.scene, made.cameras, text_embeddings=job.text)
        before = self._steps_before(self.number) + self.fitter.iteration

        def on_step(step: int, _: int, preview: Callable[[], Tensor] | None) -> None:
            job.report(min(before + step, self.total), self.total, preview, self.state)

        plan = self.plan
        rgb = sample_views(
            model.prior,
            self._cond,
            pictures=seen,
            level=made.level or 1.0,
            seeds=made.seeds,
            steps=plan.steps,
            guidance=job.config.guidance,
            guidance_window=plan.guided if isinstance(plan, FastSchedule) else (0.0, 1.0),
            scheduler=plan.scheduler,
            batch_size=job.config.batch_size,
            on_step=on_step,
        )
        weights = torch.ones_like(rgb[:, :1])
        if isinstance(plan, FastSchedule) and plan.agreement and seen is not None:
            weights = agreement(rgb, seen, plan.agreement)
        return {"rgb": rgb, "weights": weights}

    def _targets(self) -> Targets:
        """What a round is fitted to: its pictures, the photos whose cameras are known, and the caller's views.

        The caller's count as much as all others together if those are more.
        """
        job, made, given = self.job, self.rounds[self.number], self.job.views
        if self.pictures is None:
            rgb = job.model.predict(job.scene, made.cameras, made.size, pixel_centers=True)
            rgb = rgb if given is None else resize_pictures(rgb, job.model.image_size)
            parts = [Targets.on_white(made.cameras, rgb)]
        else:
            parts = [Targets.on_white(made.cameras, **self.pictures), *self._photos()]
        if given is not None:
            weight = max(1.0, sum(len(part.cameras) for part in parts) / len(given.cameras))
            parts.append(Targets.on_white(given.cameras, given.rgb, weight))
        return Targets.joined(parts)

    def _photo_cameras(self, step: int) -> PhotoCameras | None:
        """Where the photos were taken from, if more of them than the first are to be targets; reported as `step`."""
        job, views = self.job, self.job.scene.views
        wanted = isinstance(self.plan, FastSchedule) and self.plan.photo_weight and self.plan.all_photos
        if views is None or len(views) == 1 or not wanted:
            return None
        if job.photo_cameras is not None:
            return job.photo_cameras

        def on_step(*_: object) -> None:
            if job.on_step is not None:
                job.on_step(step, self.total, None)

        return estimate_photo_cameras(job.model, job.scene, on_step=on_step)

    def _photos(self) -> list[Targets]:
        """The photos with known cameras, or none of them where they have no weight."""
        views = self.job.scene.views
        if views is None or not self.photo_weight:
            return []
        chosen, cameras = torch.tensor([0]), self.job.scene.reference.to("cpu")
        if self.photos is not None:
            chosen = self.photos.accepted.nonzero()[:, 0]
            cameras = self.photos.cameras[chosen]
        size = self.job.model.image_size
        rgb, mask = (resize_pictures(each[chosen].cpu(), size) for each in (views.rgb, views.mask))
        return [Targets(cameras, rgb, mask, torch.full_like(mask, self.photo_weight))]
