"""Photos: how many there may be, and how their cameras are searched for."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Le, MinLen

from .base import configuration

MAX_PHOTOS = 6
"""The released UpSRT was trained on 1 to 6 photos."""

Elevations = Annotated[tuple[Annotated[float, Ge(-89.0), Le(89.0)], ...], MinLen(1)]
Pixels = Annotated[int, Ge(4), Le(1024)]
Deviation = Annotated[float, Ge(1e-6)]
Weight = Annotated[float, Ge(0.0)]


@configuration
class PhotoSearch:
    """How the cameras of photos are searched for; the defaults are fixed on procedural validation objects."""

    azimuths: Annotated[int, Ge(4), Le(360)] = 24
    """Candidates' azimuths, spread evenly over the circle."""
    elevations_degrees: Elevations = (-3.0, 14.0, 30.0, 47.0)
    """Candidates' elevations."""
    ring_elevations_degrees: Elevations = (3.0, 22.5, 40.0)
    """Of the turntables by which two predictions of the object are compared."""
    coarse_size: Pixels = 12
    """Pixels along each side of the pictures that are compared in the search."""
    fine_size: Pixels = 16
    """The same in the refinement."""
    photo_weight: Weight = 30.0
    """Logarithm of the belief lost by a relative difference of 1 between the photo and a picture."""
    ring_weight: Weight = 30.0
    """The same between two turntables."""
    fine_weight: Weight = 50.0
    """The same as photo_weight, in the refinement."""
    steps: Annotated[int, Ge(0)] = 20
    """Of the refinement's Adam."""
    learning_rate: Weight = 0.02
    """Of the refinement's Adam, in radians."""
    turn_degrees: Deviation = 8.0
    """Standard deviation of the turn that the refinement may add to the search's answer."""
    roll_degrees: Deviation = 2.0
    """The same of the roll."""
    stretch: Deviation = 0.02
    """The same of the logarithm of the distance."""
    shift: Deviation = 0.02
    """The same of the shift, in halves of the picture."""
    accept: Annotated[float, Ge(0.0), Le(1.0)] = 0.3
    """Share of the belief near the answer, by each piece of evidence alone, from which on a photo is accepted."""
    largest_difference: Weight = 0.3
    """Relative difference, after the refinement, beyond which a photo does not show this object."""

    @property
    def azimuths_degrees(self) -> list[float]:
        """The candidates' azimuths, from 0 on."""
        return [360.0 * index / self.azimuths for index in range(self.azimuths)]
