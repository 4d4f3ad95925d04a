"""UV atlas: the surface cut into charts that lie flat and side by side in one square (xatlas)."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..support.errors import MissingPackageError
from ..types import OnProgress

PIECE = 1500
"""Faces that are cut into charts at a time: the time for a piece grows faster than its size."""

PADDING = 4
"""Texels between charts, in an atlas of PACKED or less."""

PACKED = 1024
"""Side of the largest square that charts are arranged in; larger textures use the same arrangement."""

PATIENCE = 0.1
"""Seconds between two looks at whether xatlas is to be waited for any longer."""


@dataclass(frozen=True, eq=False)
class Atlas:
    """source: (Q,) int64, the vertex that each new one is a copy of. faces: (F, 3) int64, in the mesh's order.

    uvs: (Q, 2) in [0, 1], v = 0 at the bottom. Charts do not overlap.
    """

    source: Tensor
    faces: Tensor
    uvs: Tensor


def require_xatlas() -> None:
    """Raises MissingPackageError unless xatlas is installed."""
    if importlib.util.find_spec("xatlas") is None:
        raise MissingPackageError(
            "a texture needs the package xatlas, which is not installed; "
            "install it by pip install xatlas, or leave the texture out to colour the vertices"
        )


def unwrap(vertices: Tensor, faces: Tensor, size: int, *, report: OnProgress = lambda share: None) -> Atlas:
    """Vertices (P, 3) and faces (F, 3) -> where each corner of each face lies in a texture of size² texels.

    The mesh is first split into pieces of at most PIECE faces, each of which is cut into charts on its own; then all
    charts are arranged together, all at the same scale.

    Args:
        report: told after each piece, and while xatlas works; raising from it cancels. What xatlas is at then goes on
            by itself until its call ends, a matter of seconds.
    """
    require_xatlas()
    places, triangles = vertices.numpy().astype(np.float32), faces.numpy()
    pieces = _pieces(places[triangles].mean(1))
    charted = []
    for number, piece in enumerate(pieces):
        share = 0.8 * number / len(pieces)
        charted.append(_charts(places, triangles[piece], partial(report, share)))
    uvs, sources, corners = _arranged(charted, min(size, PACKED), partial(report, 0.8))
    ordered = np.empty_like(triangles)
    ordered[np.concatenate(pieces)] = corners
    report(1.0)
    return Atlas(torch.from_numpy(sources), torch.from_numpy(ordered), torch.from_numpy(uvs))


def _pieces(centers: np.ndarray) -> list[np.ndarray]:
    """(F, 3) middles of faces -> numbers of the faces of each piece: halved across its longest side until small."""
    waiting, done = [np.arange(len(centers))], []
    while waiting:
        piece = waiting.pop()
        if len(piece) <= PIECE:
            done.append(piece)
            continue
        axis = np.ptp(centers[piece], axis=0).argmax()
        order = piece[np.argsort(centers[piece, axis], kind="stable")]
        waiting += [order[: len(order) // 2], order[len(order) // 2 :]]
    return done


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
    options = _packing(xatlas, texels_per_unit=density)
    _attended(lambda: atlas.generate(xatlas.ChartOptions(), options), waiting)
    source, corners, uvs = atlas.get_mesh(0)
    scale = np.array([atlas.width, atlas.height]) / density
    return used[source], corners.astype(np.int64), (uvs * scale).astype(np.float32)


def _arranged(
    charted: list[tuple[np.ndarray, np.ndarray, np.ndarray]], size: int, waiting: Callable[[], None]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All charts in one square: uvs (Q, 2), source vertices (Q,), corners (F, 3) of all pieces' faces in turn."""
    import xatlas

    atlas = xatlas.Atlas()
    for _, corners, uvs in charted:
        atlas.add_uv_mesh(uvs, corners.astype(np.uint32))
    options = _packing(xatlas, resolution=size)
    _attended(lambda: atlas.generate(xatlas.ChartOptions(), options), waiting)
    extent, border = np.array([atlas.width, atlas.height], dtype=np.float32), PADDING / 2
    places, sources, faces, count = [], [], [], 0
    for number, (source, _, _) in enumerate(charted):
        again, indices, uvs = atlas.get_mesh(number)
        places.append((uvs * extent + border) / (extent.max() + 2 * border))  # viewers repeat textures at the border
        sources.append(source[again])
        faces.append(indices.astype(np.int64) + count)
        count += len(again)
    return np.concatenate(places), np.concatenate(sources), np.concatenate(faces)


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


def _packing(xatlas: Any, *, resolution: int = 0, texels_per_unit: float = 0.0) -> Any:  # noqa: ANN401
    options = xatlas.PackOptions()
    options.resolution, options.texels_per_unit = resolution, texels_per_unit
    options.padding = PADDING if resolution else 1
    options.bilinear = True
    return options
