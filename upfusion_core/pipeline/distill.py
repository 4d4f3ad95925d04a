"""Distillation: from a diffusion model that paints any view to one radiance field (paper section 3.3)."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..config import DistillConfig, DraftSchedule, FastSchedule, FitConfig, ReferenceSchedule
from ..field.fitting import FieldFitter, finite_gradient, not_finite
from ..field.radiance import RadianceField
from ..field.rendering import render_views
from ..geometry import orbit_cameras, random_cameras
from ..geometry.cameras import BAND_ELEVATION_DEGREES
from ..models.perceptual import PerceptualDistance, dino_distance, load_lpips
from ..models.weights import read_saved, write_saved
from ..support.checks import check_shape, check_type
from ..support.errors import FieldError, InputError
from ..support.images import resize_pictures
from ..types import REFERENCE_FOCAL, Cameras, NovelViews, OnStep, RenderedViews, SceneEncoding, ViewConditioning
from .novel_views import check_text
from .pose import PhotoCameras, estimate_photo_cameras
from .prepare import estimate_coverage
from .sampling import alphas_cumprod, ddim_timesteps, make_scheduler, repaint_steps, repaint_views

if TYPE_CHECKING:
    from .stages import Stages


START_STREAM, CAMERA_STREAM, FIT_STREAM, ORDER_STREAM, GIVEN_STREAM, PAINT_STREAM = range(6)
"""What a run draws for, each from a generator of its own: the field's start, cameras, rays of the fit, the order of
things, rays of the fit to the caller's views, and noise of the first painting round; later rounds count on from it."""


def stream_generator(seed: int, stream: int) -> torch.Generator:
    """A CPU generator for one purpose of a run (see START_STREAM)."""
    return torch.Generator().manual_seed((seed + 0x9E3779B9 * stream) % 2**63)


def band_cameras(first: Cameras, count: int, seed: int) -> Cameras:
    """`count` cameras: photo 1's, then random ones in the band that the release distils from."""
    others = random_cameras(max(count - 1, 1), generator=stream_generator(seed, CAMERA_STREAM))
    return Cameras.concatenate([first.to("cpu"), others[slice(0, count - 1)]])


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


@dataclass(frozen=True, eq=False)
class Run:
    """One distillation.

    text: (conditional, unconditional) embeddings. path: of the saved state, or None. views: square pictures that the
    caller has already, of the model's size, to be fitted first; or None. photo_cameras: the photos', where known.
    """

    model: Stages
    scene: SceneEncoding
    config: DistillConfig
    text: tuple[Tensor, Tensor]
    seed: int
    on_step: OnStep | None
    path: Path | None
    fingerprint: str
    views: NovelViews | None = None
    photo_cameras: PhotoCameras | None = None

    def generator(self, stream: int) -> torch.Generator:
        """A generator of this run (see stream_generator)."""
        return stream_generator(self.seed, stream)

    def new_field(self) -> RadianceField:
        """The field before any fitting, on the model's device.

        Its cells are no smaller than a pixel of the model's pictures at the object, or half of one in the reference,
        which leaves the release's field as it is at the release's 256 pixels.
        """
        pixel = 2 / REFERENCE_FOCAL / self.model.image_size
        halved = isinstance(self.config.schedule, ReferenceSchedule)
        config = self.config.field.no_finer_than(pixel / 2 if halved else pixel)
        return RadianceField(config, generator=self.generator(START_STREAM)).to(self.model.device)

    def load(self) -> dict[str, Any] | None:
        """The saved state of an earlier, interrupted call, or None."""
        return load_state(self.path, self.fingerprint)

    def save(self, state: dict[str, Any]) -> None:
        """Saves the state, if a path was given."""
        save_state(self.path, self.fingerprint, state)

    def fit(
        self, fitter: FieldFitter, state: Callable[[], dict[str, Any]], *, end: int, first: int, total: int
    ) -> None:
        """Steps until the fit's iteration is `end`; saves what `state` gives now and then, at the end, and on failure.

        Args:
            first: steps of the run that the fit's own do not count. total: of the run.
        """
        while fitter.iteration < end:
            try:
                fitter.step()
            except FieldError:
                self.save(state())
                raise
            # the hook comes first: killed between the two, a run tells of the step again, and its preview is the last
            self.report(first + fitter.iteration, total, fitter.preview, state)
            if fitter.iteration % self.config.checkpoint_every == 0 or fitter.done:
                self.save(state())

    def report(
        self, step: int, total: int, preview: Callable[[], Tensor] | None, state: Callable[[], dict[str, Any]]
    ) -> None:
        """Calls the hook; where that cancels the run, the state is saved before the cancellation goes on."""
        if self.on_step is None:
            return
        try:
            self.on_step(step, total, preview)
        except BaseException:  # whatever the host cancels with; it is raised again
            self.save(state())
            raise


def run_fingerprint(
    scene: SceneEncoding,
    config: DistillConfig,
    seed: int,
    text: tuple[Tensor, Tensor],
    views: NovelViews | None = None,
    photo_cameras: PhotoCameras | None = None,
) -> str:
    """Tells whether a saved state belongs to this scene, configuration, prompt, seed, given views and cameras."""
    settings = {name: value for name, value in config.to_dict().items() if name != "checkpoint_every"}
    # what computes the grid may change between attempts, and the run stays the same
    settings["field"] = {name: value for name, value in settings["field"].items() if name != "backend"}
    digest = hashlib.sha256(json.dumps({"seed": seed, **settings}, sort_keys=True).encode())
    given: tuple[Tensor, ...] = () if views is None else (views.rgb, views.cameras.camera_to_world, views.cameras.focal)
    if photo_cameras is not None:
        given = (*given, photo_cameras.cameras.camera_to_world, photo_cameras.cameras.focal, photo_cameras.accepted)
    for tensor in (scene.tokens, scene.reference.camera_to_world, *text, *given):
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_state(path: Path | None, fingerprint: str, state: dict[str, Any]) -> None:
    """Writes tensors, numbers and containers of them; a full disk leaves the last state as it was."""
    if path is not None:
        write_saved(path, {"fingerprint": fingerprint, "state": state})


def load_state(path: Path | None, fingerprint: str) -> dict[str, Any] | None:
    """The saved state, or None where there is none yet.

    Raises:
        CheckpointError: the file is damaged, was changed, or is something else.
        InputError: it belongs to another run.
    """
    if path is None or not path.exists():
        return None
    content = read_saved(path, "the saved state of a distillation")
    if content.get("fingerprint") != fingerprint:
        raise InputError(
            f"{path} belongs to a run with other photos, weights, settings or seed; "
            "repeat those, or delete the file to start again"
        )
    state: dict[str, Any] = content["state"]
    return state


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


def made_targets(run: Run, cameras: Cameras, rgb: Tensor) -> Targets:
    """Pictures on white that the model made, of any size, and the caller's."""
    if run.views is not None:
        rgb = resize_pictures(rgb, run.model.image_size)
    return with_given(run, Targets.on_white(cameras, rgb))


def with_given(run: Run, targets: Targets) -> Targets:
    """Targets of the model's size and the caller's, which count as much as all others together if those are more."""
    given = run.views
    if given is None:
        return targets
    weight = max(1.0, len(targets.cameras) / len(given.cameras))
    return Targets.joined([targets, Targets.on_white(given.cameras, given.rgb, weight)])


_ELEVATIONS_DEGREES = (22.5, 0.0, 45.0, 10.0)


def distill_draft(run: Run) -> RadianceField:
    """Runs or resumes the schedule; the state names the stage it was saved in."""
    plan = run.config.schedule
    assert isinstance(plan, DraftSchedule)
    field = run.new_field()
    state = run.load() or {"stage": "predicted", "fit": None, "sampled": None}
    per_batch = -(-plan.sampled_cameras // run.config.batch_size)
    total = plan.predicted_fit.iterations + per_batch * plan.steps + plan.sampled_fit.iterations
    if state["stage"] == "predicted":
        cameras = band_cameras(run.scene.reference, plan.predicted_cameras, run.seed)
        rgb = run.model.predict(run.scene, cameras, plan.predicted_size, pixel_centers=True)
        _fit(run, field, cameras, rgb, plan.predicted_fit, state, first=0, total=total)
    cameras = ring_cameras(plan.sampled_cameras)
    if state["stage"] == "sampling":
        field.load_state_dict(state["field"])
    if state["sampled"] is None:
        state |= {"stage": "sampling", "fit": None, "field": field.state_dict()}
        run.save(state)
        state["sampled"] = _sample(run, cameras, state, plan, total)
        state |= {"stage": "sampled", "start": state.pop("field")}
        run.save(state)
    field.load_state_dict(state["start"])
    first = total - plan.sampled_fit.iterations
    _fit(run, field, cameras, state["sampled"], plan.sampled_fit, state, first=first, total=total)
    return field


def ring_cameras(count: int) -> Cameras:
    """Cameras all round, the first at azimuth 0, at elevations that take turns."""
    azimuths = [360.0 * index / count for index in range(count)]
    return orbit_cameras(azimuths, [_ELEVATIONS_DEGREES[index % 4] for index in range(count)])


def _fit(
    run: Run,
    field: RadianceField,
    cameras: Cameras,
    rgb: Tensor,
    config: FitConfig,
    state: dict[str, Any],
    *,
    first: int,
    total: int,
) -> None:
    """Fits the field to views on white, and to those that the caller gave."""
    targets = made_targets(run, cameras, rgb)
    fitter = FieldFitter(field, **vars(targets), config=config, generator=run.generator(FIT_STREAM))
    if state["fit"] is not None:
        fitter.load_state_dict(state["fit"])

    def snapshot() -> dict[str, Any]:
        return state | {"fit": fitter.state_dict()}

    run.fit(fitter, snapshot, end=config.iterations, first=first, total=total)


def _sample(run: Run, cameras: Cameras, state: dict[str, Any], plan: DraftSchedule, total: int) -> Tensor:
    first = plan.predicted_fit.iterations

    def on_step(step: int, _: int, preview: Callable[[], Tensor] | None) -> None:
        run.report(min(first + step, total), total, preview, lambda: state)

    return run.model.sample(
        run.scene,
        cameras,
        steps=plan.steps,
        guidance=run.config.guidance,
        scheduler=plan.scheduler,
        seeds=[run.seed + index for index in range(len(cameras))],
        text_embeddings=run.text,
        batch_size=run.config.batch_size,
        on_step=on_step,
    ).rgb


def agreement(painted: Tensor, seen: Tensor, scale: float) -> Tensor:
    """(N, 1, H, W) weights in (0, 1] of painted pixels (N, 3, H, W) by their difference from what the field showed.

    Geman and McClure's: a root mean square difference over the channels of `scale` halves a pixel's weight, so that
    what one view alone shows does not blur the others.
    """
    error = (painted - seen).square().mean(dim=1, keepdim=True)
    return scale**2 / (scale**2 + error)


class FastDistillation:
    """One run of the schedule, which can be left after any step and resumed.

    field: as it is. round: how many rounds were painted. painted: their last pictures and weights.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        assert isinstance(run.config.schedule, FastSchedule)
        self.plan = run.config.schedule
        self.cameras = spread_cameras(run.scene.reference, self.plan.cameras)
        self.field = run.new_field()
        self._cond: ViewConditioning | None = None
        saved = run.load()
        self.round: int = 0 if saved is None else saved["round"]
        self.painted: dict[str, Tensor] | None = None if saved is None else saved["painted"]
        done = 0 if saved is None else self._painting_steps(self.round) + saved["fit"]["iteration"]
        self.photos = self._photo_cameras(done)
        targets = self._targets() if self.round else self._predicted()
        self.fitter = FieldFitter(
            self.field, **vars(targets), config=self.plan.fit, generator=run.generator(FIT_STREAM)
        )
        if saved is not None:
            self.fitter.load_state_dict(saved["fit"])

    def finish(self) -> RadianceField:
        """Takes the steps that are left."""
        self._fit()
        while self.round < len(self.plan.levels):
            self.painted = self._paint(self.plan.levels[self.round])
            self.round += 1
            self.fitter.set_views(**vars(self._targets()))
            self.run.save(self.state())
            self._fit()
        return self.field

    def state(self) -> dict[str, Any]:
        """What a later call goes on from."""
        return {"round": self.round, "painted": self.painted, "fit": self.fitter.state_dict()}

    def _fit(self) -> None:
        """Fits until the next round begins, or to the end."""
        end, first = self.plan.ends[self.round], self._painting_steps(self.round)
        self.run.fit(self.fitter, self.state, end=end, first=first, total=self._total)

    @torch.no_grad()
    def _paint(self, level: float) -> dict[str, Tensor]:
        """Renders every camera, noises the renders to `level` and denoises them: the next round's pictures."""
        run, plan, size = self.run, self.plan, self.run.model.image_size
        sampling, visible = plan.fit.sampling, self.fitter.occupancy
        seen = render_views(
            self.field, self.field.aabb, self.cameras, size, sampling=sampling, visible=visible
        ).rgb.cpu()
        if self._cond is None:
            self._cond = run.model.condition(run.scene, self.cameras, text_embeddings=run.text)
        first = run.generator(PAINT_STREAM + self.round).initial_seed()
        before = self._painting_steps(self.round) + self.fitter.iteration

        def on_step(step: int, _: int, preview: Callable[[], Tensor] | None) -> None:
            run.report(before + step, self._total, preview, self.state)

        rgb = repaint_views(
            run.model.prior,
            self._cond,
            seen,
            level=level,
            seeds=[first if plan.shared_noise else first + view for view in range(len(self.cameras))],
            steps=plan.steps,
            guidance=run.config.guidance,
            guided=plan.guided,
            scheduler=plan.scheduler,
            batch_size=run.config.batch_size,
            on_step=on_step,
        )
        weights = agreement(rgb, seen, plan.agreement) if plan.agreement else torch.ones_like(rgb[:, :1])
        return {"rgb": rgb, "weights": weights}

    def _predicted(self) -> Targets:
        """What the field is fitted to first: UpSRT's predictions of the cameras, and the caller's views."""
        run = self.run
        rgb = run.model.predict(run.scene, self.cameras, self.plan.predicted_size, pixel_centers=True)
        return made_targets(run, self.cameras, rgb)

    def _targets(self) -> Targets:
        """What it is fitted to after a round: the painted views, the photos whose cameras are known, the caller's."""
        assert self.painted is not None, "a round was painted"
        painted = Targets.on_white(self.cameras, self.painted["rgb"], self.painted["weights"])
        return with_given(self.run, Targets.joined([painted, *self._photos()]))

    def _photo_cameras(self, step: int) -> PhotoCameras | None:
        """Where the photos were taken from, if more of them than the first are to be targets; reported as `step`."""
        run, views = self.run, self.run.scene.views
        if views is None or len(views) == 1 or not (self.plan.photo_weight and self.plan.all_photos):
            return None
        if run.photo_cameras is not None:
            return run.photo_cameras

        def on_step(*_: object) -> None:
            if run.on_step is not None:
                run.on_step(step, self._total, None)

        return estimate_photo_cameras(run.model, run.scene, on_step=on_step)

    def _photos(self) -> list[Targets]:
        run = self.run
        views = run.scene.views
        if views is None or not self.plan.photo_weight:
            return []
        cameras, size = run.scene.reference.to("cpu"), run.model.image_size
        chosen = torch.tensor([0])
        if self.photos is not None:
            chosen = self.photos.accepted.nonzero()[:, 0]
            cameras = self.photos.cameras[chosen]
        rgb, mask = (resize_pictures(each[chosen].cpu(), size) for each in (views.rgb, views.mask))
        return [Targets(cameras, rgb, mask, torch.full_like(mask, self.plan.photo_weight))]

    def _painting_steps(self, rounds: int) -> int:
        """Denoising steps of all batches in the first rounds."""
        batches = -(-len(self.cameras) // self.run.config.batch_size)
        return sum(batches * repaint_steps(level, self.plan.steps) for level in self.plan.levels[:rounds])

    @property
    def _total(self) -> int:
        return self._painting_steps(len(self.plan.levels)) + self.plan.fit.iterations


def distill_fast(run: Run) -> RadianceField:
    """Runs or resumes the schedule."""
    return FastDistillation(run).finish()


@dataclass(frozen=True, eq=False)
class Plan:
    """All that is drawn before the first iteration. order, indices: (iterations,) camera and noise index of each."""

    cameras: Cameras
    order: Tensor
    indices: Tensor


def color_term(rgb: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of the render against its denoised version."""
    return F.mse_loss(rgb, target)


def silhouette_term(opacity: Tensor) -> Tensor:
    """mean sqrt(opacity² + 0.01): prefers empty space."""
    return (opacity.square() + 0.01).sqrt().mean()


def loss_terms(
    rgb: Tensor, opacity: Tensor, target: Tensor, perceptual: PerceptualDistance | None
) -> dict[str, Tensor]:
    """The unweighted terms by name; without a perceptual distance there are two."""
    terms = {"color": color_term(rgb, target), "silhouette": silhouette_term(opacity)}
    if perceptual is not None:
        terms["perceptual"] = perceptual(rgb, target)
    return terms


def term_weights(schedule: ReferenceSchedule, iteration: int, index: int) -> dict[str, float]:
    """Weights of the terms: the colour's is 1 in the bootstrap, then 1 - a_t of the noise index."""
    alpha = float(alphas_cumprod()[ddim_timesteps(schedule.steps)[index]])
    return {
        "color": 1.0 if iteration < schedule.bootstrap else 1 - alpha,
        "perceptual": schedule.perceptual_weight,
        "silhouette": schedule.silhouette_weight,
    }


def make_plan(run: Run) -> Plan:
    """Cameras, the order they come in (shuffled anew when all were seen), and the noise indices."""
    schedule = _schedule(run)
    cameras, generator = band_cameras(run.scene.reference, schedule.cameras, run.seed), run.generator(ORDER_STREAM)
    rounds = -(-schedule.iterations // len(cameras))
    order = torch.cat([torch.randperm(len(cameras), generator=generator) for _ in range(rounds)])
    low = torch.full((schedule.iterations,), schedule.lowest_index)
    low[: schedule.bootstrap] = schedule.bootstrap_index
    draws = torch.rand(schedule.iterations, generator=generator)
    indices = low + (draws * (schedule.highest_index - low + 1)).long()
    return Plan(cameras, order[: schedule.iterations], indices)


def _schedule(run: Run) -> ReferenceSchedule:
    assert isinstance(run.config.schedule, ReferenceSchedule)
    return run.config.schedule


def make_perceptual(run: Run) -> PerceptualDistance | None:
    """The perceptual distance that the configuration asks for."""
    config: DistillConfig = run.config
    if config.perceptual == "lpips":
        assert config.perceptual_weights is not None, "DistillConfig asks for them"
        return load_lpips(config.perceptual_weights, run.model.device)
    if config.perceptual == "dino":
        return dino_distance(run.model.dino, run.model.config.upsrt.patches)
    return None


def distill_reference(run: Run) -> RadianceField:
    """Runs or resumes the schedule."""
    schedule = _schedule(run)
    plan, perceptual = make_plan(run), make_perceptual(run)
    cond = run.model.condition(run.scene, plan.cameras, text_embeddings=run.text)
    field, generator, start = run.new_field(), run.generator(FIT_STREAM), 0
    optimizer = torch.optim.Adam(
        [
            {"params": list(field.grid.parameters()), "lr": schedule.grid_lr},
            {"params": list(field.mlp.parameters()), "lr": schedule.mlp_lr},
        ]
    )
    given = None if run.views is None else FitConfig.draft()
    first = 0 if given is None else given.iterations
    total = first + schedule.iterations
    saved = run.load()
    if saved is not None:
        field.load_state_dict(saved["field"])
        optimizer.load_state_dict(saved["optimizer"])
        generator.set_state(saved["generator"])
        start = saved["iteration"]
    elif given is not None:
        _fit_given(run, field, given, total)

    def snapshot() -> dict[str, Any]:
        return {
            "field": field.state_dict(),
            "optimizer": optimizer.state_dict(),
            "generator": generator.get_state(),
            "iteration": iteration + 1,
        }

    for iteration in range(start, schedule.iterations):
        view = int(plan.order[iteration])
        index = int(plan.indices[iteration])
        rendered = _render(run, field, plan.cameras[view], generator)
        target = run.model.denoise_from(
            rendered.rgb.detach(),
            cond[slice(view, view + 1)],
            index,
            generator=generator,
            guidance=run.config.guidance,
            steps=schedule.steps,
        )
        terms = loss_terms(rendered.rgb, rendered.opacity, target, perceptual)
        try:
            _optimize(optimizer, terms, term_weights(schedule, iteration, index), iteration)
        except FieldError:
            run.save(snapshot() | {"iteration": iteration})
            raise
        run.report(first + iteration + 1, total, lambda: _preview(run, field), snapshot)
        if (iteration + 1) % run.config.checkpoint_every == 0 or iteration + 1 == schedule.iterations:
            run.save(snapshot())
    return field


def _fit_given(run: Run, field: RadianceField, config: FitConfig, total: int) -> None:
    """Starts the field from the caller's views; cancelled, it begins again."""
    views = run.views
    assert views is not None, "called only where there are some"
    targets = Targets.on_white(views.cameras, views.rgb)
    fitter = FieldFitter(field, **vars(targets), config=config, generator=run.generator(GIVEN_STREAM))
    while not fitter.done:
        fitter.step()
        if run.on_step is not None:
            run.on_step(fitter.iteration, total, fitter.preview)


def _render(run: Run, field: RadianceField, camera: Cameras, generator: torch.Generator) -> RenderedViews:
    """The view at half the image size, then doubled: upstream renders 128 x 128 for images of 256."""
    size = run.model.image_size // 2
    sampling = _schedule(run).sampling
    small = render_views(field, field.aabb, camera, size, sampling=sampling, generator=generator, chunk=size * size)
    rgb, opacity, depth = (
        F.interpolate(value, scale_factor=2, mode="bilinear", align_corners=False)
        for value in (small.rgb, small.opacity, small.depth)
    )
    return RenderedViews(rgb, opacity, depth)


def _optimize(
    optimizer: torch.optim.Optimizer, terms: dict[str, Tensor], weights: dict[str, float], iteration: int
) -> None:
    total: Any = sum(weights[name] * value for name, value in terms.items())
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    if not finite_gradient(total, optimizer.param_groups[-1]["params"]):
        raise FieldError(not_finite(f"iteration {iteration + 1}", terms))
    optimizer.step()


@torch.no_grad()
def _preview(run: Run, field: RadianceField) -> Tensor:
    """The field from photo 1."""
    return field.render(run.scene.reference, min(64, run.model.image_size)).rgb[0].cpu()


if TYPE_CHECKING:
    from .stages import Stages

__all__ = ["distill", "distill_cameras"]


def distill(
    model: Stages,
    scene: SceneEncoding,
    config: DistillConfig | None = None,
    *,
    generator: torch.Generator | None = None,
    on_step: OnStep | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    prompt: str | None = None,
    text_embeddings: tuple[Tensor, Tensor] | None = None,
    views: NovelViews | None = None,
    photo_cameras: PhotoCameras | None = None,
) -> RadianceField:
    """A radiance field of the scene's object, in evaluation mode, on the model's device.

    Args:
        config: DistillConfig.fast() unless given.
        generator: only its initial seed counts, so that a resumed run draws what an uninterrupted one draws.
        on_step: called after each step; the preview is the field as it is, seen from where photo 1 stands.
            Raising from it cancels; the state is saved first.
        checkpoint: file of the saved state, written every `config.checkpoint_every` steps and read if it exists:
            the run goes on from there and, on a CPU, ends in the same field to the bit.
        prompt, text_embeddings: as in UpFusion.condition.
        views: square pictures of the object on white that exist already, e.g. sampled ones. A draft and `fast`
            fit them beside their own views, the reference before its first iteration.
        photo_cameras: where the photos were taken from; `fast` takes the accepted photos for targets, and estimates
            their cameras unless they are given.

    Raises:
        InputError: the checkpoint belongs to another run. FieldError: the loss is no longer finite.
    """
    config = DistillConfig.fast() if config is None else config
    check_type("scene", scene, SceneEncoding, "make it with encode")
    check_type("config", config, DistillConfig, "such as DistillConfig.fast()")
    if not isinstance(config.schedule, ReferenceSchedule):
        make_scheduler(config.schedule.scheduler, config.schedule.steps)  # a wrong one is said before any fit
    if generator is not None:
        check_type("generator", generator, torch.Generator, "such as torch.Generator().manual_seed(0)")
    if views is not None:
        check_type("views", views, NovelViews, "such as those that sample gives")
    if photo_cameras is not None:
        _check_photo_cameras(photo_cameras, scene)
    if checkpoint is not None and not isinstance(checkpoint, str | os.PathLike):
        raise InputError(f"checkpoint must be a path, got {checkpoint!r:.40}; give the name of a file")
    if prompt is not None and text_embeddings is not None:
        raise InputError("give a prompt or text_embeddings, not both")
    text = text_embeddings if text_embeddings is not None else model.text_embeddings(prompt)
    text = check_text(text, model.config.diffusion.context_dim)
    seed = generator.initial_seed() if generator is not None else 0
    with torch.inference_mode(False), torch.enable_grad():  # hosts may call from inference mode
        views = None if views is None else _checked(views, model.image_size)
        run = Run(
            model=model,
            scene=replace(scene, tokens=scene.tokens.detach().clone(), reference=_detached(scene.reference)),
            config=config,
            text=(text[0].detach().clone(), text[1].detach().clone()),
            seed=seed,
            on_step=on_step,
            path=None if checkpoint is None else Path(checkpoint),
            fingerprint=run_fingerprint(scene, config, seed, text, views, photo_cameras),
            views=views,
            photo_cameras=(
                None if photo_cameras is None else replace(photo_cameras, cameras=_detached(photo_cameras.cameras))
            ),
        )
        runs = {DraftSchedule: distill_draft, FastSchedule: distill_fast, ReferenceSchedule: distill_reference}
        field = runs[type(config.schedule)](run)
    return field.requires_grad_(False).eval()


def distill_cameras(scene: SceneEncoding, config: DistillConfig, seed: int) -> Cameras:
    """The cameras that `distill` fits the field to, e.g. to be saved with it: photo 1's first."""
    schedule = config.schedule
    if isinstance(schedule, DraftSchedule):
        band = band_cameras(scene.reference, schedule.predicted_cameras, seed)
        return Cameras.concatenate([band, ring_cameras(schedule.sampled_cameras)])
    if isinstance(schedule, FastSchedule):
        return spread_cameras(scene.reference, schedule.cameras)
    return band_cameras(scene.reference, schedule.cameras, seed)


def _check_photo_cameras(photo_cameras: PhotoCameras, scene: SceneEncoding) -> None:
    check_type("photo_cameras", photo_cameras, PhotoCameras, "such as those of estimate_photo_cameras")
    photos = 0 if scene.views is None else len(scene.views)
    if len(photo_cameras) != photos:
        raise InputError(
            f"photo_cameras must hold one camera for each of the scene's {photos} photos, got {len(photo_cameras)}; "
            "estimate them for this scene, or leave them out"
        )


def _checked(views: NovelViews, size: int) -> NovelViews:
    """The pictures at the model's size, apart from the caller's tensors."""
    check_shape("views.rgb", views.rgb, (len(views.cameras), 3, "S", "S"), "one square picture a camera")
    if not len(views.cameras):
        raise InputError("views must hold one picture or more, got 0; leave them out to begin from predictions")
    rgb = views.rgb.detach().float().cpu().clone()
    return NovelViews(resize_pictures(rgb, size), _detached(views.cameras).to("cpu"))


def _detached(cameras: Cameras) -> Cameras:
    """The cameras outside of autograd, whose graph of them would be walked only once."""
    return Cameras(cameras.camera_to_world.detach(), cameras.focal.detach(), cameras.principal.detach())
