"""What the schedules of distillation share: one run with its model, scene, seed, hook and saved state."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import FieldError
from ..field.fitting import FieldFitter
from ..field.radiance import RadianceField
from ..geometry import orbit_cameras, random_cameras
from ..geometry.cameras import BAND_ELEVATION_DEGREES
from ..types import REFERENCE_FOCAL, Cameras, NovelViews, OnStep, SceneEncoding
from .distill_config import DistillConfig
from .distill_state import load_state, save_state
from .photo_cameras import PhotoCameras

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
        config = self.config.field.no_finer_than(pixel if self.config.preset != "reference" else pixel / 2)
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
