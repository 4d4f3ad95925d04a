"""The fast schedule: predictions first, then rounds in which renders of all cameras are painted anew and fitted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..field.fitting import FieldFitter
from ..field.radiance import RadianceField
from ..field.rendering import render_views
from ..pictures import resize_pictures
from ..types import ViewConditioning
from .distill_config import FastSchedule
from .distill_run import FIT_STREAM, PAINT_STREAM, Run, spread_cameras
from .distill_targets import Targets, made_targets, with_given
from .photo_cameras import PhotoCameras, estimate_photo_cameras
from .sampling import repaint_steps, repaint_views


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
