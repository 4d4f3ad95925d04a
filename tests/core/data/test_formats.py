"""Each format is known by its files and opened with its reader."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from refusals import refused

from upfusion_core.data.formats import DATA_FORMATS, open_dataset
from upfusion_core.data.meshes import MeshViews
from upfusion_core.data.readers import Co3D, ObjaverseRenders, ShapeNetSRN

MARKERS = [
    ("co3d", Co3D, ["cup/frame_annotations.jgz"]),
    ("objaverse", ObjaverseRenders, ["valid_paths.json"]),
    ("shapenet_srn", ShapeNetSRN, ["car1/intrinsics.txt", "car1/pose/000000.txt", "car1/rgb/000000.png"]),
    ("gso", MeshViews, ["Mug/meshes/model.obj", "Mug/materials/textures/texture.png"]),
    ("gso", MeshViews, ["Mug/model.obj", "Mug/texture.png"]),
    ("meshes", MeshViews, ["deep/down/cup.GLB"]),
]


def write(root: Path, files: list[str]) -> Path:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps([]), encoding="utf-8")
    return root


@pytest.mark.parametrize(("kind", "reader", "files"), MARKERS)
def test_formats_are_recognised_and_opened(tmp_path: Path, kind: str, reader: type, files: list[str]) -> None:
    write(tmp_path, files)
    assert next(name for name, known in DATA_FORMATS.items() if known.fits(tmp_path)) == kind
    dataset = open_dataset(tmp_path, size=48)
    assert isinstance(dataset, reader)
    assert dataset.size == 48
    if kind == "gso":
        assert [(source.name, source.z_up) for source in dataset.sources] == [("Mug", True)]
        assert not open_dataset(tmp_path, size=48, kind="meshes").sources[0].z_up


def test_refusals(tmp_path: Path) -> None:
    refused("is none", open_dataset, tmp_path / "nowhere", size=64)
    refused("got none of them", open_dataset, write(tmp_path, ["notes/readme.txt"]), size=64)
    refused("kind must be one of", open_dataset, tmp_path, size=64, kind="nerf")
