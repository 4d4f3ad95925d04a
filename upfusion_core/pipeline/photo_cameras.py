"""Where the photos were taken from: photo 1 is known, the cameras of the others are found by matching.

Photo k is compared with the object as the other photos give it, so that its own pixels do not testify for it; and the
object in photo 1's frame with the object in photo k's frame, both seen on a turntable. No diffusion is involved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..checks import check_shape, check_type
from ..errors import InputError
from ..field.radiance import RadianceField
from ..field.rendering import RaySampling, render_views
from ..geometry import orbit_cameras, reference_plucker
from ..types import Cameras, InputViews, OnStep, SceneEncoding
from .novel_views import encode_views, shrunk_grid
from .photo_matching import PhotoRender, PhotoSearch, match_photo, ring_differences

if TYPE_CHECKING:
    from .stages import Stages

__all__ = ["PhotoCameras", "PhotoSearch", "estimate_photo_cameras"]

_SAMPLING = RaySampling(uniform=48, importance=0)
_AT_ONCE = 1 << 15
"""Rays that are asked of UpSRT at a time."""


@dataclass(frozen=True, eq=False)
class PhotoCameras:
    """The cameras of V photos in photo 1's frame.

    cameras: V; the first is the scene's reference, the others are estimates with the same focal length.
    accepted: (V,) bool, whether the match is good enough for the photo to be a target there; the first always is.
    score: (V,) in [0, 1], least share of the belief near the camera by any piece of evidence; 1 for the first.
    """

    cameras: Cameras
    accepted: Tensor
    score: Tensor

    def __post_init__(self) -> None:
        check_type("PhotoCameras.cameras", self.cameras, Cameras, "one a photo")
        check_shape("PhotoCameras.accepted", self.accepted, (len(self.cameras),), "one a photo")
        check_shape("PhotoCameras.score", self.score, (len(self.cameras),), "one a photo")

    def __len__(self) -> int:
        return len(self.cameras)

    def angles_degrees(self) -> Tensor:
        """(V, 2) azimuth in [0, 360) and elevation in [-90, 90] of each camera's centre."""
        x, y, z = self.cameras.centers.double().unbind(-1)
        azimuth = torch.rad2deg(torch.atan2(x, z)) % 360
        return torch.stack([azimuth, torch.rad2deg(torch.atan2(y, torch.hypot(x, z)))], dim=-1)

    def to_list(self) -> list[dict[str, Any]]:
        """For JSON: camera_to_world and focal, as files of cameras have them, with accepted and score beside."""
        return [
            {
                "camera_to_world": camera.camera_to_world[0].tolist(),
                "focal": float(camera.focal[0, 0]),
                "accepted": bool(accepted),
                "score": round(float(score), 4),
            }
            for camera, accepted, score in zip(self.cameras, self.accepted, self.score, strict=True)
        ]


def estimate_photo_cameras(
    model: Stages,
    scene: SceneEncoding,
    field: RadianceField | None = None,
    *,
    search: PhotoSearch | None = None,
    on_step: OnStep | None = None,
) -> PhotoCameras:
    """The cameras that the scene's photos were taken by, as far as they can be found; nothing is drawn at random.

    Args:
        model: whose scene it is; its UpSRT predicts the object. The diffusion model is not asked.
        scene: with its photos.
        field: a coarse field of the object, against whose renders the cameras are refined; UpSRT's predictions
            unless given.
        search: how to search.
        on_step: called with (photos done, total, None) after each prediction; raise from it to stop.

    Raises:
        InputError: the scene holds no photos, or something is of another type.
    """
    check_type("scene", scene, SceneEncoding, "make it with encode")
    for name, value, kind in (("field", field, RadianceField), ("search", search, PhotoSearch)):
        if value is not None:
            check_type(name, value, kind)
    if scene.views is None:
        raise InputError("the scene must hold its photos, got one made by hand; encode the photos with this model")
    with torch.inference_mode(False):  # hosts may call from inference mode
        return _estimated(model, replace(scene, tokens=scene.tokens.clone()), field, search or PhotoSearch(), on_step)


def _estimated(
    model: Stages, scene: SceneEncoding, field: RadianceField | None, search: PhotoSearch, on_step: OnStep | None
) -> PhotoCameras:
    views, reference = _photos(scene), scene.reference.to("cpu")
    focal = float(reference.focal[0, 0])

    def tell() -> None:
        if on_step is not None:
            on_step(len(found) - 1, len(views) - 1, None)

    objects = _Predictions(model, scene, tell)
    against = None if field is None else _rendered(field)
    found, scores, accepted = [reference], [1.0], [True]
    for index in range(1, len(views)):
        without = objects.predicted([other for other in range(len(views)) if other != index])
        match = match_photo(
            without, views.rgb[index], search, focal=focal, rings=objects.rings(index, search, focal), against=against
        )
        found.append(match.camera)
        scores.append(match.score)
        accepted.append(match.accepted)
        tell()
    return PhotoCameras(Cameras.concatenate(found), torch.tensor(accepted), torch.tensor(scores, dtype=torch.float32))


def _photos(scene: SceneEncoding) -> InputViews:
    assert scene.views is not None, "asked only of scenes that keep their photos"
    return scene.views


class _Predictions:
    """What UpSRT makes of the photos of one scene, in other orders and without some of them.

    after: called after each set of pictures, and may raise.
    """

    def __init__(self, model: Stages, scene: SceneEncoding, after: Callable[[], None]) -> None:
        self.model, self.scene, self.after = model, model.own_scene(scene), after
        self._ring: Tensor | None = None

    def predicted(self, order: Sequence[int]) -> PhotoRender:
        """Pictures of the object from the photos with these numbers, the first of which is the reference."""
        views = _photos(self.scene)
        chosen = list(order)
        views = InputViews(views.rgb[chosen], views.mask[chosen], views.focal[chosen])
        model = self.model
        tokens = encode_views(model.dino, model.upsrt, views, model.device, model.dtype)
        return self._render(replace(self.scene, tokens=tokens, views=views))

    def rings(self, index: int, search: PhotoSearch, focal: float) -> Tensor:
        """(E, A) see ring_differences: the object with photo `index` as its reference, against the scene as it is."""
        cameras = search.rings(search.ring_elevations_degrees, focal)
        shape = (len(search.ring_elevations_degrees), search.azimuths)
        with torch.no_grad():
            if self._ring is None:
                self._ring = self._render(self.scene)(cameras, search.coarse_size).unflatten(0, shape)
            order = [index, *(other for other in range(len(_photos(self.scene))) if other != index)]
            render = self.predicted(order)
            others = [
                render(cameras, search.coarse_size, orbit_cameras(0.0, elevation)).unflatten(0, shape)
                for elevation in search.elevations_degrees
            ]
        return ring_differences(self._ring, torch.stack(others))

    def _render(self, scene: SceneEncoding) -> PhotoRender:
        """UpSRT's colours, differentiable with respect to the cameras."""
        tokens, upsrt = scene.tokens[None], self.model.upsrt

        def render(cameras: Cameras, size: int, reference: Cameras | None = None) -> Tensor:
            grid = shrunk_grid(cameras, size)
            rays = reference_plucker(grid, reference or scene.reference, size).reshape(1, -1, 6).to(tokens.device)
            rgb = torch.cat([upsrt.read_rgb(upsrt.decode(tokens, part)) for part in rays.split(_AT_ONCE, 1)], 1)
            self.after()
            return rgb.float().reshape(len(cameras), size, size, 3).permute(0, 3, 1, 2)

        return render


def _rendered(field: RadianceField) -> PhotoRender:
    return lambda cameras, size: render_views(field, field.aabb, cameras, size, sampling=_SAMPLING).rgb
