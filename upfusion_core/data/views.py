"""What every reader gives: posed views of one object in our world, one at a time, broken ones left out and counted."""

import io
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..geometry import cameras_from_matrices, reference_camera
from ..geometry.cameras import Similarity
from ..support.errors import InputError, UpFusionError
from ..support.files import reading
from ..types import Cameras

UP = torch.tensor([0.0, 1.0, 0.0])  # of our world
_PARALLEL = 1e-6  # mean squared sine of the angles between axes and their common direction, below which they never meet


def meeting_point(cameras: Cameras) -> Tensor:
    """(3,) float64, nearest to all optical axes in the least-squares sense; InputError if they are parallel."""
    matrices = cameras.camera_to_world.double()
    axes, centers = matrices[:, :3, 2], matrices[:, :3, 3]
    # Distance to an axis is |(I - a a^T)(p - c)|; setting the derivative of the sum of squares to 0 is linear in p.
    across = torch.eye(3, dtype=torch.float64) - axes[:, :, None] * axes[:, None, :]
    if torch.linalg.eigvalsh(across.mean(dim=0))[0] < _PARALLEL:
        wanted = f"the optical axes of {len(cameras)} cameras must meet near the object, but they are parallel"
        raise InputError(f"{wanted}; give the object's centre, or views from different directions")
    center: Tensor = torch.linalg.solve(across.sum(dim=0), (across @ centers[:, :, None]).sum(dim=0))[:, 0]
    return center


def normalise(
    cameras: Cameras, *, center: Tensor | None = None, up: Tensor | None = None
) -> tuple[Cameras, Similarity]:
    """Moves cameras rigidly, and scales their world, so that view 0 stands at distance 1 and looks at the origin.

    The origin is the point of view 0's axis nearest to `center`, so that every camera stays true to its picture; None
    stands for the `meeting_point` of all axes. A true `up`, of any length, becomes +Y, and view 0 stands at azimuth 0,
    at whatever elevation and roll it has; straight above or below the object, the top of its picture points to -Z or
    +Z. Without one (Co3D) view 0 becomes `geometry.reference_camera()`: azimuth 0, elevation 22.5 degrees, no roll.
    InputError if the axes are parallel, or the centre is not in front of view 0.
    """
    first = cameras.camera_to_world[0].double()
    center = meeting_point(cameras) if center is None else center.double()
    backward, stand = first[:3, 2], first[:3, 3]
    distance = float((stand - center) @ backward)
    if not distance > 1e-6:
        place = f"its centre is {-distance:.3g} ahead of that camera"
        raise InputError(f"the object must lie in front of view 0, but {place}; check the axes of the cameras")
    if up is None:
        reference = reference_camera().camera_to_world[0, :3, :3].double()
        left, _, right = torch.linalg.svd(reference @ first[:3, :3].T)  # the nearest rotation
        rotation = left @ right
    else:
        y, above = up.double() / up.double().norm(), first[:3, 1]  # of our axes; z: horizontal, towards view 0
        ahead = backward - (backward @ y) * y
        if ahead.norm() < 1e-4:  # straight above or below: the picture's own up decides
            ahead = above * (-1.0 if backward @ y > 0 else 1.0)
            ahead = ahead - (ahead @ y) * y
        z = ahead / ahead.norm()
        rotation = torch.stack([torch.linalg.cross(y, z), y, z])
    origin, scale, matrices = stand - distance * backward, 1 / distance, cameras.camera_to_world.double().clone()
    matrices[:, :3, 3] = scale * (matrices[:, :3, 3] - origin) @ rotation.T
    matrices[:, :3, :3] = rotation @ matrices[:, :3, :3]
    placement = Similarity(scale, rotation, -scale * rotation @ origin)  # in float64
    return cameras_from_matrices(matrices, focal=cameras.focal, principal=cameras.principal), placement


@dataclass(frozen=True, eq=False)
class PosedViews:
    """N views of one object with their cameras; view 0 is the reference.

    rgb: (N, 3, S, S) in [0, 1], sRGB, on white. mask: (N, 1, S, S) in [0, 1], 1 on the object.
    cameras: N, in our world: the object at the origin, view 0 at distance 1 and looking at it, +Y up (see `normalise`).
    name: the object's, unique in its data set.
    upright: whether +Y is the source's true up; if not, view 0 is only taken to stand at elevation 22.5 degrees.
    depth: (N, 1, S, S), distance from the camera along each pixel's ray in our units, 0 off the object; or None.
    placement: how the source's world moved into ours, e.g. for its meshes; or None.
    """

    rgb: Tensor
    mask: Tensor
    cameras: Cameras
    name: str
    upright: bool = True
    depth: Tensor | None = None
    placement: Similarity | None = None

    def __post_init__(self) -> None:
        first = self.cameras.camera_to_world[0]  # of shards a stranger may have said it
        if (first[:3, 3] - first[:3, 2]).norm() > 1e-3:
            got = f"got a centre at {first[:3, 3].tolist()}; pass the cameras through normalise"
            raise InputError(f"view 0 of PosedViews must look at the origin from distance 1, {got}")

    def __len__(self) -> int:
        return len(self.rgb)

    def chosen(self, views: Sequence[int]) -> "PosedViews":
        """Some of the views, in the given order; our world, and the unit of depths, move with the new reference."""
        picked = torch.tensor(checked_views(views, len(self), self.name))
        cameras, move = normalise(self.cameras[picked], center=torch.zeros(3), up=UP if self.upright else None)
        depth = None if self.depth is None else self.depth[picked] * move.scale
        placement = self.placement and move.after(self.placement)
        return PosedViews(self.rgb[picked], self.mask[picked], cameras, self.name, self.upright, depth, placement)


class MultiViewDataset(Protocol):
    """Objects that can be read one at a time; the same index gives the same object every time.

    Items that are broken at sight (a missing folder, a truncated list, an absurd camera) are left out of `len`; those
    that prove broken when their pixels are read make `read` raise. Both are in `skipped`, with the reason, each once.
    """

    skipped: list[tuple[str, str]]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> PosedViews:
        return self.read(index)

    def view_count(self, index: int) -> int:
        """How many views object `index` has, broken ones included that only reading finds."""

    def read(self, index: int, views: Sequence[int] | None = None) -> PosedViews:
        """Object `index` with the chosen views in the given order, the first as reference; None means all that can be
        read. UpFusionError if the object or a chosen view is broken (then noted in `skipped`), or there is none."""

    def draw(self, index: int, count: int, generator: torch.Generator) -> PosedViews:
        """Object `index` with `count` views chosen at random by the generator; fewer where it has fewer."""


def note(skipped: list[tuple[str, str]], item: str, reason: str) -> None:
    """Adds what was left out to a data set's list, unless it is there already."""
    if (item, reason) not in skipped:
        skipped.append((item, reason))


def checked_views(views: Sequence[int] | None, available: int, name: str) -> list[int]:
    """The views asked for, or all where that is None. Raises InputError if one does not exist, or none is wanted."""
    index = list(range(available)) if views is None else [int(view) for view in views]
    if not index or min(index) < 0 or max(index) >= available:
        raise InputError(f"views of {name} must be numbers from 0 to {available - 1}, at least one, got {index}")
    return index


@dataclass(frozen=True)
class StoredObject:
    """One object: `read` reads a view, `join` takes views' numbers and what `read` gave; both raise UpFusionErrors."""

    name: str
    views: int
    read: Callable[[int], Any]
    join: Callable[[list[int], list[Any]], PosedViews]


class StoredViews(MultiViewDataset):
    """Objects whose views are stored one by one: choosing views, and passing over broken ones."""

    def __init__(self) -> None:
        self.skipped = []

    @abstractmethod
    def _stored(self, index: int) -> StoredObject:
        """Object `index`; raises IndexError where there is none, an UpFusionError where it is broken."""

    def read(self, index: int, views: Sequence[int] | None = None) -> PosedViews:
        stored = self._stored(index)
        wanted = checked_views(views, stored.views, stored.name)
        return self._assembled(stored, wanted, len(wanted), whole=views is not None)

    def draw(self, index: int, count: int, generator: torch.Generator) -> PosedViews:
        """Drawn without replacement; others step in for broken views."""
        stored = self._stored(index)
        order = torch.randperm(stored.views, generator=generator).tolist()
        return self._assembled(stored, order, count, whole=False)

    def _assembled(self, stored: StoredObject, order: list[int], count: int, *, whole: bool) -> PosedViews:
        """The first `count` readable views of `order`; with `whole`, a broken one is an error."""
        chosen: list[int] = []
        found: list[Any] = []
        trouble = ""
        for view in order:
            if len(found) == count:
                break
            item = f"{stored.name} view {view}"
            try:
                found.append(stored.read(view))
                chosen.append(view)
            except UpFusionError as error:
                note(self.skipped, item, str(error))
                if whole:
                    raise
                trouble = trouble or f"{item}: {error}"
        try:
            if not found:
                none = f"got none of {len(order)}; {trouble}"
                raise InputError(f"{stored.name} must have a view that can be read, {none}")
            return stored.join(chosen, found)
        except UpFusionError as error:
            note(self.skipped, stored.name, str(error))
            raise


def decoded_array(content: bytes, shape: tuple[int, ...], label: str) -> np.ndarray:
    """The finite floating-point numbers that an NPY file, in words `label`, holds; else InputError. Never a pickle."""
    with reading(label, "write it again", what="an NPY file"):
        array: np.ndarray = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    wanted = " x ".join(map(str, shape))
    if array.shape != shape or not np.issubdtype(array.dtype, np.floating):
        kind = f"{array.dtype} {array.shape}"
        raise InputError(f"{label} must hold {wanted} floating-point numbers, got {kind}; write it again")
    if not np.isfinite(array).all():
        raise InputError(f"{label} must hold {wanted} finite numbers, got NaN or infinity; write it again")
    return array
