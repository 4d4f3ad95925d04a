"""Data sets: reading them whole, and where a mark is seen in their pictures."""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from upfusion_core.data.shards import PackState, encoded, index_content, pack_shards
from upfusion_core.data.views import MultiViewDataset, PosedViews
from upfusion_core.geometry import camera_rays, to_reference_frame
from upfusion_core.support.errors import UpFusionError
from upfusion_core.support.files import replacing, write_json
from upfusion_core.types import Cameras


def readable(dataset: MultiViewDataset) -> Iterator[PosedViews]:
    """Every object that can be read, once and in order, with all its views; the data set counts the others."""
    for index in range(len(dataset)):
        try:
            yield dataset[index]
        except UpFusionError:
            continue  # noted in `skipped`


def packed(folder: Path, dataset: MultiViewDataset, count: int, **options: object) -> Path:
    """A folder of shards of the first objects, two small ones each unless told."""
    state, told = options.pop("state", PackState()), {"on_shard": options.pop("on_shard", None)}
    told["shard_bytes"] = options.pop("shard_bytes", 25_000)
    encode = partial(map, partial(encoded, dataset, **options))
    pack_shards(encode, range(count), lambda name: replacing(folder / name), state, **told)
    write_json(folder / "index.json", index_content(state.shards, {"skipped": state.skipped}))
    return folder


def pixels(cameras: Cameras, point: Tensor, size: int) -> Tensor:
    """(N, 2): x and y in pixels from the top left corner of where a world point is seen."""
    local = torch.einsum("nij,ni->nj", cameras.camera_to_world[:, :3, :3], point - cameras.centers)
    ndc = local[:, :2] * torch.tensor([-1.0, 1.0]) / -local[:, 2:] * cameras.focal + cameras.principal
    return (1 - ndc) * size / 2


def centroid(weights: Tensor) -> Tensor:
    """(N, H, W) -> (N, 2): x and y of the weights' mean, in pixels from the top left corner."""
    axis = torch.arange(weights.shape[-1]) + 0.5
    sums = [(weights.sum(dim=dim) * axis).sum(-1) for dim in (1, 2)]
    return torch.stack(sums, dim=-1) / weights.sum(dim=(1, 2))[:, None]


def disc(height: int, width: int, x: float, y: float, radius: float) -> np.ndarray:
    """(H, W) in [0, 1]: how much of each pixel a disc covers; x, y in pixels from the top left corner."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    return np.clip(radius + 0.5 - np.hypot(columns - x, rows - y), 0, 1)


def axes_towards(center: np.ndarray, target: np.ndarray, roll: float = 0.0) -> np.ndarray:
    """(3, 3) with columns right, up, backward of a camera that looks at a target, +Z up, then rolled (radians)."""
    backward = (center - target) / np.linalg.norm(center - target)
    right = np.cross([0.0, 0.0, 1.0], backward)
    right /= np.linalg.norm(right)
    above = np.cross(backward, right)
    turned = np.cos(roll) * right + np.sin(roll) * above
    return np.stack([turned, np.cross(backward, turned), backward], axis=1)


def around(azimuth: float, elevation: float, distance: float) -> np.ndarray:
    """(3,) a camera's place about the origin of a world with +Z up; angles in radians."""
    flat = math.cos(elevation)
    return distance * np.array([flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(elevation)])


def assert_mark_is_where_cameras_say(views: PosedViews, point: np.ndarray, least: int) -> None:
    """The red mark on grey is seen, in at least so many views, within half a pixel of the point's projection."""
    weights = views.rgb[:, 0] - views.rgb[:, 1]
    weights = weights * (weights > 0.1)  # resizing rings a little about the mark
    seen = weights.sum(dim=(1, 2)) > 3
    assert int(seen.sum()) >= least
    place = views.placement.apply(torch.from_numpy(np.asarray(point, dtype=float))).float()
    expected = pixels(views.cameras, place, views.rgb.shape[-1])
    assert (centroid(weights) - expected)[seen].norm(dim=-1).max() < 0.5
    to_reference_frame(camera_rays(views.cameras, 2, 2), views.cameras[0])  # refuses one that looks elsewhere
    assert abs(float(views.cameras.centers[0].norm()) - 1) < 1e-5
