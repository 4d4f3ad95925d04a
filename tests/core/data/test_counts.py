"""Sizes and numbers of things are whole: half a pixel is refused at once, everywhere in the same words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from upfusion_core.data.meshes import MeshRendering
from upfusion_core.data.renders import ObjaverseRenders
from upfusion_core.data.shards import ShardedViews, pack_shards
from upfusion_core.geometry import orbit_cameras
from upfusion_core.procedural import ProceduralObjects, draw_objects, render_views, true_mesh
from upfusion_core.support.errors import InputError
from upfusion_core.surface.rasterise import rasterise

CAMERAS = orbit_cameras(0.0)
SEEN = (CAMERAS.camera_to_world[None], CAMERAS.focal[None])
CALLS: dict[str, Callable[[Path], object]] = {
    "size": lambda root: ObjaverseRenders(root, size=64.5),
    "views": lambda root: ObjaverseRenders(root, views=2.5),
    "size of meshes": lambda root: MeshRendering(size=64.5),
    "views of meshes": lambda root: MeshRendering(views=2.5),
    "supersampling of meshes": lambda root: MeshRendering(supersampling=1.5),
    "size of a picture": lambda root: rasterise(None, CAMERAS, 64.5),
    "supersampling of a picture": lambda root: rasterise(None, CAMERAS, 64, supersampling=1.5),
    "size of shards": lambda root: ShardedViews(root, size=64.5),
    "shard_bytes": lambda root: pack_shards(ProceduralObjects(), [0], None, shard_bytes=1e6),
    "size of solids": lambda root: ProceduralObjects(size=64.5),
    "views of solids": lambda root: ProceduralObjects(views=2.5),
    "objects": lambda root: ProceduralObjects(objects=2.5),
    "max_parts": lambda root: ProceduralObjects(max_parts=2.5),
    "views of a batch": lambda root: ProceduralObjects().batch([0], views=2.5),
    "views of a look": lambda root: ProceduralObjects().look(
        draw_objects("train", [0])[0], views=2.5, generator=torch.Generator()
    ),
    "size of views": lambda root: render_views(draw_objects("train", [0])[0], *SEEN, 64.5),
    "supersampling of views": lambda root: render_views(draw_objects("train", [0])[0], *SEEN, 64, supersampling=1.5),
    "resolution": lambda root: true_mesh(draw_objects("train", [0])[0], 64.5),
}


@pytest.mark.parametrize("name", CALLS)
def test_fractions_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "valid_paths.json").write_text("[]", encoding="utf-8")
    with pytest.raises(InputError, match=rf"{name.split()[0]} must be a whole number, got \d"):
        CALLS[name](tmp_path)
