"""UV atlas: the surface cut into charts that lie flat and side by side in one square (xatlas)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..types import OnProgress

PIECE = 1500  # faces that are cut into charts at a time: the time for a piece grows faster than its size
PADDING = 4  # texels between charts, in an atlas of PACKED or less
PACKED = 1024  # side of the largest square that charts are arranged in; larger textures use the same arrangement
PATIENCE = 0.1  # seconds between two looks at whether xatlas is to be waited for any longer


@dataclass(frozen=True, eq=False)
class Atlas:
    """source: (Q,) int64, the vertex that each new one is a copy of. faces: (F, 3) int64, in the mesh's order.

    uvs: (Q, 2) in [0, 1], v = 0 at the bottom. Charts do not overlap.
    """

    source: Tensor
    faces: Tensor
    uvs: Tensor


def unwrap(vertices: Tensor, faces: Tensor, size: int, report: OnProgress) -> Atlas:
    """Vertices (P, 3) and faces (F, 3) -> where each corner of each face lies in a texture of size² texels.

    Pieces of at most PIECE faces are cut into charts on their own; then all charts are arranged together, at the same
    scale. `report` is told while xatlas works too; where it raises, xatlas goes on by itself for some seconds.
    """
    import xatlas

    places, triangles = vertices.numpy().astype(np.float32), faces.numpy()
    centers = places[triangles].mean(1)
    large, pieces = [np.arange(len(centers))], []
    while large:  # numbers of faces, halved across their longest side until they are few
        piece = large.pop()
        if len(piece) <= PIECE:
            pieces.append(piece)
            continue
        axis = np.ptp(centers[piece], axis=0).argmax()
        order = piece[np.argsort(centers[piece, axis], kind="stable")]
        large += [order[: len(order) // 2], order[len(order) // 2 :]]
    charted = [
        _charts(places, triangles[piece], partial(report, 0.8 * number / len(pieces)))
        for number, piece in enumerate(pieces)
    ]
    atlas = xatlas.Atlas()
    for _, corners, uvs in charted:
        atlas.add_uv_mesh(uvs, corners.astype(np.uint32))
    _generate(atlas, partial(report, 0.8), resolution=min(size, PACKED), padding=PADDING)
    extent, border = np.array([atlas.width, atlas.height], dtype=np.float32), PADDING / 2
    coordinates, sources, arranged, count = [], [], np.empty_like(triangles), 0
    for number, (piece, (source, _, _)) in enumerate(zip(pieces, charted, strict=True)):
        again, corners, uvs = atlas.get_mesh(number)
        coordinates.append((uvs * extent + border) / (extent.max() + 2 * border))  # viewers repeat at the border
        sources.append(source[again])
        arranged[piece] = corners.astype(np.int64) + count
        count += len(again)
    report(1.0)
    joined = [torch.from_numpy(np.concatenate(values)) for values in (sources, coordinates)]
    return Atlas(joined[0], torch.from_numpy(arranged), joined[1])


def _charts(
    places: np.ndarray, triangles: np.ndarray, waiting: Callable[[], None]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Charts of one piece: source vertices (Q,), corners (F, 3) among them, and uvs (Q, 2) in the mesh's own unit."""
    import xatlas

    used, local = np.unique(triangles, return_inverse=True)
    local = local.reshape(-1, 3)
    a, b, c = (places[triangles[:, corner]].astype(np.float64) for corner in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2
    density = 256 / max(np.sqrt(area), 1e-20)
    atlas = xatlas.Atlas()
    atlas.add_mesh(places[used], local.astype(np.uint32))
    _generate(atlas, waiting, texels_per_unit=density, padding=1)
    source, corners, uvs = atlas.get_mesh(0)
    scale = np.array([atlas.width, atlas.height]) / density
    return used[source], corners.astype(np.int64), (uvs * scale).astype(np.float32)


def _generate(atlas: Any, waiting: Callable[[], None], **packing: float) -> None:  # noqa: ANN401
    """Charts and their arrangement, with these options of xatlas's packing."""
    import xatlas

    options = xatlas.PackOptions()
    for name, value in packing.items():
        setattr(options, name, value)
    options.bilinear = True
    _attended(lambda: atlas.generate(xatlas.ChartOptions(), options), waiting)


def _attended(work: Callable[[], None], waiting: Callable[[], None]) -> None:
    """Does `work`, which holds no lock of Python's, and calls `waiting` meanwhile, which may raise."""
    failed: list[BaseException] = []

    def worker() -> None:
        try:
            work()
        except BaseException as error:  # raised again where it was waited for
            failed.append(error)

    thread = threading.Thread(target=worker, daemon=True)
    thread.start()
    while thread.is_alive():
        waiting()
        thread.join(PATIENCE)
    if failed:
        raise failed[0]
