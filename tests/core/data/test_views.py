"""Posed views: what they refuse, choosing among them, passing over broken ones."""

import json
from pathlib import Path

import pytest
import torch
from refusals import refused

from upfusion_core import InputError, orbit_cameras
from upfusion_core.data import DATA_FORMATS, open_dataset
from upfusion_core.data.meshes import MeshViews
from upfusion_core.data.recorded import Co3D, ObjaverseRenders, ShapeNetSRN
from upfusion_core.data.views import PosedViews, StoredObject, StoredViews
from upfusion_core.geometry.cameras import Similarity


def views(count: int = 3, upright: bool = True) -> PosedViews:
    cameras = orbit_cameras([0.0, 40.0, 90.0][:count], [22.5, 10.0, 5.0][:count], [1.0, 2.0, 0.5][:count])
    rgb = torch.arange(count).float()[:, None, None, None].expand(count, 3, 4, 4) / 10
    ones = torch.ones(count, 1, 4, 4)
    placement = Similarity(3.0, torch.eye(3).double(), torch.zeros(3).double())
    return PosedViews(rgb, ones, cameras, "cup", upright, depth=ones, placement=placement)


def test_chosen_views_and_refusals(tmp_path: Path) -> None:
    chosen = views().chosen([1, 0])
    assert len(chosen) == 2
    assert torch.allclose(chosen.rgb[:, 0, 0, 0], torch.tensor([0.1, 0.0]))
    expected = orbit_cameras([0.0, -40.0], [10.0, 22.5], [1.0, 0.5])
    assert torch.allclose(chosen.cameras.camera_to_world, expected.camera_to_world, atol=1e-5)
    assert torch.allclose(chosen.depth, torch.full((2, 1, 4, 4), 0.5))
    assert chosen.placement.scale == pytest.approx(1.5)
    chosen = views(upright=False).chosen([2])  # without a true up they start at the assumed elevation
    assert torch.allclose(chosen.cameras.camera_to_world, orbit_cameras(0.0).camera_to_world, atol=1e-5)
    good = views()
    turned = orbit_cameras([0.0, 1, 2], distance=2.0)
    refused("numbers from 0 to 2", good.chosen, [3])
    refused("numbers from 0 to 2", good.chosen, [])
    refused("normalise", PosedViews, good.rgb, good.mask, turned, "cup")
    refused("is none", open_dataset, tmp_path / "nowhere", size=64)
    refused("got none of them", open_dataset, write(tmp_path, ["notes/readme.txt"]), size=64)
    refused("kind must be one of", open_dataset, tmp_path, size=64, kind="nerf")


class Numbers(StoredViews):
    """One object whose views are white pictures, the third broken."""

    def __len__(self) -> int:
        return 1

    def _stored(self, index: int) -> StoredObject:
        def read(view: int) -> int:
            if view == 2:
                raise InputError("torn")
            return view

        def join(chosen: list[int], found: list[int]) -> PosedViews:
            assert chosen == found
            return views().chosen(chosen) if 1 in chosen else self.refuse()

        return StoredObject("cup", 3, read, join)

    def refuse(self) -> PosedViews:
        raise InputError("no second view")


def test_broken_views_are_passed_over_or_end_the_reading() -> None:
    dataset = Numbers()
    assert len(dataset[0]) == 2
    assert dataset.skipped == [("cup view 2", "torn")]
    refused("torn", dataset.read, 0, [1, 2])
    assert dataset.skipped == [("cup view 2", "torn")]
    refused("no second view", dataset.read, 0, [0])
    assert dataset.skipped[-1] == ("cup", "no second view")
    assert len(dataset.draw(0, 3, torch.Generator().manual_seed(7))) == 2  # others step in where there are any


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
