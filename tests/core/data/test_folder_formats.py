"""Each format is known by its files and opened with its reader."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from refusals import refused

from upfusion_core.data.co3d import Co3D
from upfusion_core.data.formats import open_dataset, recognised_format
from upfusion_core.data.meshes import MeshViews
from upfusion_core.data.renders import ObjaverseRenders, ShapeNetSRN

MARKERS = {
    "co3d": ["cup/frame_annotations.jgz"],
    "objaverse": ["valid_paths.json"],
    "shapenet_srn": ["car1/intrinsics.txt", "car1/pose/000000.txt", "car1/rgb/000000.png"],
    "gso": ["Mug/meshes/model.obj", "Mug/materials/textures/texture.png"],
    "meshes": ["deep/down/cup.GLB"],
}


def write(root: Path, files: list[str]) -> Path:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps([]), encoding="utf-8")
    return root


@pytest.mark.parametrize("kind", MARKERS)
def test_formats_are_recognised_and_opened(tmp_path: Path, kind: str) -> None:
    write(tmp_path, MARKERS[kind])
    assert recognised_format(tmp_path) == kind
    expected = {"co3d": Co3D, "objaverse": ObjaverseRenders, "shapenet_srn": ShapeNetSRN}.get(kind, MeshViews)
    dataset = open_dataset(tmp_path, size=48)
    assert isinstance(dataset, expected)
    size = dataset.rendering.size if isinstance(dataset, MeshViews) else dataset.size
    assert size == 48
    if kind == "gso":
        assert [(source.name, source.up) for source in dataset.sources] == [("Mug", "z")]
        assert open_dataset(tmp_path, size=48, kind="meshes").sources[0].up == "y"


def test_the_flat_distribution_of_gso_is_recognised(tmp_path: Path) -> None:
    assert recognised_format(write(tmp_path, ["Mug/model.obj", "Mug/texture.png"])) == "gso"


def test_refusals(tmp_path: Path) -> None:
    refused("is none", open_dataset, tmp_path / "nowhere", size=64)
    refused("got none of them", open_dataset, write(tmp_path, ["notes/readme.txt"]), size=64)
    refused("kind must be one of", open_dataset, tmp_path, size=64, kind="nerf")
