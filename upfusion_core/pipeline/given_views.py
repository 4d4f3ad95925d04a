"""Pictures with known cameras -> a field of their own resolution, without any network."""

import copy
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d, grid_sample, interpolate, max_pool2d, normalize

from ..config import FieldConfig, FitConfig
from ..field.fitting import FieldFitter
from ..field.radiance import RadianceField
from ..geometry.lenses import source_cameras
from ..geometry.rays import project
from ..support.checks import check_type
from ..support.errors import InputError
from ..support.images import shrunk, unit_range
from ..types import Cameras, GivenViews, InputViews, NovelViews, OnStep, PhotoCameras
from .photos import estimate_coverage, photo_silhouette

LARGEST = 2048  # pixels along a picture's longer side that a field is fitted to
OUTLINE = 192  # pixels along a silhouette's longer side in which distances from its outline are measured
UNLIKELY = 0.5  # see visual_hull
COARSE_CELLS, CELLS = 64, 96  # of the space that silhouettes leave, along an axis: to find its box, and in it


@dataclass(frozen=True, eq=False)
class FittedPictures:
    """What a field is fitted to: cameras and, one each, rgb (3, H, W) on white, mask and weights (1, H, W)."""

    cameras: Cameras
    rgb: list[Tensor]
    mask: list[Tensor]
    weights: list[Tensor]

    @property
    def pixel(self) -> float:
        """Width of the finest picture's pixels where the object is, in scene units."""
        size = torch.tensor([max(picture.shape[1:]) for picture in self.rgb])
        return float((2 * self.cameras.centers.norm(dim=-1) / self.cameras.focal.amax(-1) / size).min())


def fitted_pictures(views: GivenViews | NovelViews) -> FittedPictures:
    """The pictures on white, of LARGEST pixels at most, with their silhouettes, apart from the caller's tensors."""
    if not isinstance(views, GivenViews):
        check_type("views", views, NovelViews, "or GivenViews, such as GivenViews(photos, cameras)")
        if not len(views.cameras):
            raise InputError("views must hold one picture or more, got 0; leave them out to begin from predictions")
        views = GivenViews(list(views.rgb), views.cameras)
    made: list[tuple[Tensor, Tensor, Tensor]] = []
    for index, picture in enumerate(views.rgb):
        rgb = shrunk(picture.detach().cpu(), LARGEST)
        if views.masks is None:
            mask = estimate_coverage(unit_range(rgb))
        else:
            mask = shrunk(views.masks[index][None].detach().cpu(), LARGEST)
            rgb = rgb.where(unit_range(mask) >= 0.5, 255 if rgb.dtype == torch.uint8 else 1)
        weight = 1.0 if views.weights is None else float(views.weights[index])
        made.append((rgb, mask, torch.tensor(weight).expand_as(mask)))
    return FittedPictures(views.cameras.detach().to("cpu"), *(list(values) for values in zip(*made, strict=True)))


def given_photos(views: InputViews, cameras: PhotoCameras) -> GivenViews:
    """The photos' own pixels, of those whose cameras are accepted, with masks; InputError where there are none."""
    if views.sources is None:
        raise InputError("the photos' own pixels are needed, but these views have none; make them with prepare_views")
    chosen = cameras.accepted.nonzero()[:, 0]
    if not len(chosen):
        raise InputError("a photo whose camera is accepted is needed, got none; give their cameras, or other photos")
    photos = [views.sources[index] for index in chosen.tolist()]
    masks = [unit_range(photo_silhouette(photo)) for photo in photos]
    return GivenViews([photo.rgb for photo in photos], source_cameras(cameras.cameras[chosen], photos), masks)


def visual_hull(pictures: FittedPictures, extent: float, cells: int) -> Tensor:
    """(cells, cells, cells) of [-extent, extent]³, axes x, y, z: 0 where a silhouette leaves nothing; 1 or UNLIKELY.

    A hull of few silhouettes has points and edges that objects have not. Where a ball's surface looks towards n, its
    distance from the middle of a picture from the side v is, squared and in radii, 1 - (n·v)²; outside it is more. Of
    other silhouettes a place's distance from the outline beside the largest there tells the same, with the hull's own
    n and in the mean over the pictures. What is unlikely may yet be needed.
    """
    axis = ((torch.arange(cells) + 0.5) / cells * 2 - 1) * extent
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)
    kept, aside = torch.ones(len(points), dtype=torch.bool), torch.zeros(len(points))
    for camera, mask in zip(pictures.cameras, pictures.mask, strict=True):
        place, distance = project(points, camera)
        nearest = max(float(distance.min()), 0.05)
        across = float(camera.focal.max()) * 3.5 * extent / cells / nearest  # a cell's diagonal, in NDC
        side = max(1, min(int(8 / across), max(mask.shape[1:])))
        # half a cell's diagonal is 2 of these pixels or less: a cell that touches the silhouette anywhere stays
        rough = max_pool2d(adaptive_max_pool2d(unit_range(mask)[None], side), 5, 1, 2)
        # beyond the picture's border the object goes on where its silhouette touches that, and nowhere else
        look = partial(grid_sample, grid=-place[None, None], padding_mode="border", align_corners=False)
        kept &= (look(rough, mode="nearest")[0, 0, 0] > 0.5) & (distance > 0)
        # how far each place is from its part's middle: 0 there, 1 on the outline
        size = [max(1, round(length * min(1, OUTLINE / max(mask.shape)))) for length in mask.shape[1:]]
        solid = np.pad(interpolate(unit_range(mask)[None], size, mode="area")[0, 0].numpy() > 0.5, 1)
        inside = ndimage.distance_transform_edt(solid)
        widest = np.ones_like(inside)
        for radius in np.geomspace(1, max(inside.max(), 1), 16):  # of discs in it, the largest that reaches the place
            widest = np.maximum(widest, radius * (ndimage.distance_transform_edt(inside < radius) < radius))
        away = torch.from_numpy(1 - np.minimum(inside / widest, 1))[1:-1, 1:-1].float()
        aside += look(away[None, None])[0, 0, 0] ** 2 / len(pictures.mask)
    if not bool(kept.any()):
        problem = "the silhouettes must meet in one object, but leave nothing that all cameras see"
        raise InputError(f"{problem}; are pictures, masks and cameras in one order, and cameras in one frame?")
    hull, towards = kept.reshape(cells, cells, cells).float(), normalize(pictures.cameras.centers, dim=-1)
    slopes = [ndimage.gaussian_filter(hull.numpy(), cells / 16, order=order) for order in np.eye(3, dtype=int).tolist()]
    normal = normalize(torch.from_numpy(np.stack(slopes, axis=-1)).reshape(-1, 3), dim=-1)
    sides = towards.T @ towards / len(towards)
    least = torch.linalg.eigvalsh(sides)[0]  # deep inside, where no normal tells, the most that a ball has counts
    expected = 1 - least - ((normal @ (sides - least * torch.eye(3))) * normal).sum(-1)
    likely = aside <= min(0.75 + 0.075 * max(len(towards) - 3, 0), 1.0) * expected
    return hull * torch.where(likely, 1.0, UNLIKELY).reshape(hull.shape)


def fit_views(
    views: GivenViews | NovelViews,
    *,
    field: RadianceField | None = None,
    config: FitConfig | None = None,
    generator: torch.Generator | None = None,
    on_step: OnStep | None = None,
) -> RadianceField:
    """A field of pictures from known cameras at their own resolution, frozen, on the CPU or the device of `field`.

    Args:
        views: GivenViews, or NovelViews; the object about the origin, seen whole where a picture shows it.
        field: one to go on from, which stays as it is; None begins anew, as fine as the finest picture, as large as
            the silhouettes leave room for.
        config: FitConfig.views() unless given. on_step: called after each step; raising from it stops the fit.

    Raises InputError: the silhouettes leave nothing that all cameras can see. FieldError: the loss is not finite.
    """
    pictures, generator = fitted_pictures(views), generator or torch.Generator().manual_seed(0)
    if field is not None:
        check_type("field", field, RadianceField, "such as one of load_field")
    with torch.inference_mode(False), torch.enable_grad():  # hosts may call from inference mode
        if field is None:  # its box holds all that the silhouettes leave, its cells are as fine as the finest pixels
            cameras = pictures.cameras
            reach = (cameras.centers.norm(dim=-1) * ((1 + cameras.principal.abs()) / cameras.focal).amax(-1)).max()
            reach = float(reach.clamp(0.01, 100.0))
            hull = visual_hull(pictures, reach, COARSE_CELLS)
            farthest = ((hull.nonzero() + 0.5) / COARSE_CELLS * 2 - 1).abs().amax() * reach
            extent = min(float(farthest) + 2 * reach / COARSE_CELLS, reach)
            small = replace(FieldConfig.small(), half_extent=extent, blob_sigma=extent / 3)
            field = RadianceField(small.as_fine_as(pictures.pixel), generator=generator)
        else:
            field = copy.deepcopy(field)
        hull = visual_hull(pictures, field.config.half_extent, CELLS)
        fitter = FieldFitter(
            field, pictures.cameras, pictures.rgb, mask=pictures.mask, weights=pictures.weights,
            hull=hull, config=config or FitConfig.views(), generator=generator,
        )  # fmt: skip
        while not fitter.done:
            fitter.step()
            if on_step is not None:
                on_step(fitter.iteration, fitter.config.iterations, fitter.preview)
    return field.requires_grad_(False).eval()
