"""Any cameras -> our world, by hand; choosing among posed views; which kind of data set a folder is."""

from pathlib import Path

import pytest
import torch
from refusals import refused

from upfusion_core.data import DATA_FORMATS, open_dataset
from upfusion_core.data.meshes import MeshViews
from upfusion_core.data.recorded import Co3D, ObjaverseRenders, ShapeNetSRN
from upfusion_core.data.views import PosedViews, meeting_point, normalise
from upfusion_core.geometry import camera_rays, look_at, orbit_cameras, project, reference_camera, to_reference_frame
from upfusion_core.geometry.cameras import Similarity
from upfusion_core.types import Cameras

TARGET = torch.tensor([5.0, -2.0, 1.0])


def somewhere(miss: float = 0.0) -> Cameras:
    """Five cameras about TARGET, 3 to 4 units off, with axes that miss it by up to `miss`."""
    generator = torch.Generator().manual_seed(1)
    away = torch.nn.functional.normalize(torch.randn(5, 3, generator=generator), dim=-1)
    offsets = miss * torch.randn(5, 3, generator=generator)
    centers = TARGET + away * torch.linspace(3, 4, 5)[:, None]
    return look_at(centers, TARGET + offsets, (0.1, 0.2, 1.0), focal=2.0)


def test_axes_meet_where_they_come_nearest() -> None:
    for centers, targets, point in (
        ([[4.0, 2, 0], [1.0, 2, 7]], [[1.0, 2, 0]] * 2, [1.0, 2, 0]),  # they cross there
        ([[4.0, 0, 0], [0.0, 1, 4]], [[0.0, 0, 0], [0.0, 1, 0]], [0, 0.5, 0]),  # along x at height 0, along z at 1
    ):
        found = meeting_point(look_at(torch.tensor(centers), torch.tensor(targets)))
        assert torch.allclose(found, torch.tensor(point, dtype=torch.float64), atol=1e-6)


def test_with_up_only_the_azimuth_is_turned() -> None:
    cameras = orbit_cameras([70.0, 100.0, 10.0], [40.0, -5.0, 10.0], [2.0, 3.0, 2.0])
    moved, _ = normalise(cameras, up=torch.tensor([0.0, 5.0, 0.0]))
    expected = orbit_cameras([0.0, 30.0, -60.0], [40.0, -5.0, 10.0], [1.0, 1.5, 1.0])
    assert torch.allclose(moved.camera_to_world, expected.camera_to_world, atol=1e-5)
    # and z up becomes y up
    cameras = look_at(torch.tensor([[0.0, -2, 0], [2.0, 0, 0]]), up=(0.0, 0.0, 1.0))
    moved, similarity = normalise(cameras, up=torch.tensor([0.0, 0, 1]))
    assert torch.allclose(moved.camera_to_world, orbit_cameras([0.0, 90.0], 0.0).camera_to_world, atol=1e-6)
    assert torch.allclose(similarity.apply(torch.tensor([0.0, 0, 1])), torch.tensor([0.0, 0.5, 0]), atol=1e-6)


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_straight_above_or_below_the_picture_decides(side: float) -> None:
    cameras = look_at(torch.tensor([[0.0, 2 * side, 0]]), up=(1.0, 0.0, 0.0))
    moved, _ = normalise(cameras, center=torch.zeros(3), up=torch.tensor([0.0, 1, 0]))
    axes = torch.tensor([[1.0, 0, 0], [0, 0, -side], [0, side, 0]])  # right, up, backward
    assert torch.allclose(moved.camera_to_world[0, :3, :3].T, axes, atol=1e-6)


@pytest.mark.parametrize("up", [None, torch.tensor([0.0, 0.0, 1.0])])
def test_pictures_stay_and_the_reference_looks_at_the_origin_though_axes_miss(up: torch.Tensor | None) -> None:
    cameras = somewhere(miss=0.3)
    moved, similarity = normalise(cameras, up=up)
    points = TARGET + torch.tensor([[0.1, 0.2, 0.3], [-0.3, 0.1, 0.0], [0.0, -0.2, 0.2]])
    for before, after in zip(cameras, moved, strict=True):
        assert torch.allclose(project(points, before)[0], project(similarity.apply(points), after)[0], atol=1e-5)
    assert float(moved.centers[0].norm()) == pytest.approx(1, abs=1e-6)
    to_reference_frame(camera_rays(moved, 2, 2), moved[0])  # refuses a reference that looks elsewhere
    missed = similarity.apply(meeting_point(cameras)).float()
    # the origin is the foot of the perpendicular
    assert float(missed @ moved.camera_to_world[0, :3, 2]) == pytest.approx(0, abs=1e-5)


def test_similarities_chain_and_what_is_refused() -> None:
    cameras = somewhere()
    moved, first = normalise(cameras)  # without `up` view 0 becomes the reference camera
    assert torch.allclose(moved.camera_to_world[0], reference_camera().camera_to_world[0], atol=1e-5)
    assert torch.allclose(first.apply(TARGET).float(), torch.zeros(3), atol=1e-5)
    assert first.scale == pytest.approx(1 / 3, rel=1e-5)
    again, second = normalise(moved[torch.tensor([2, 0, 1])], center=torch.zeros(3))
    both = second.after(first)
    assert torch.allclose(both.apply(cameras.centers[2]), again.centers[0], atol=1e-5)
    turned = both.rotation.float() @ cameras.camera_to_world[2, :3, :3]
    assert torch.allclose(turned, again.camera_to_world[0, :3, :3], atol=1e-5)
    parallel = look_at(torch.tensor([[0.0, 0, 3], [1.0, 0, 3]]), torch.tensor([[0.0, 0, 0], [1.0, 0, 0]]))
    refused("parallel", normalise, parallel)
    refused("in front of view 0", normalise, parallel, center=torch.tensor([0.0, 0, 4]))


def views(upright: bool = True) -> PosedViews:
    cameras = orbit_cameras([0.0, 40.0, 90.0], [22.5, 10.0, 5.0], [1.0, 2.0, 0.5])
    rgb = torch.arange(3.0)[:, None, None, None].expand(3, 3, 4, 4) / 10
    ones = torch.ones(3, 1, 4, 4)
    placement = Similarity(3.0, torch.eye(3).double(), torch.zeros(3).double())
    return PosedViews(rgb, ones, cameras, "cup", upright, depth=ones, placement=placement)


def test_chosen_views_and_refusals(tmp_path: Path) -> None:
    good = views()
    chosen = good.chosen([1, 0])
    assert len(chosen) == 2
    assert torch.allclose(chosen.rgb[:, 0, 0, 0], torch.tensor([0.1, 0.0]))
    expected = orbit_cameras([0.0, -40.0], [10.0, 22.5], [1.0, 0.5])
    assert torch.allclose(chosen.cameras.camera_to_world, expected.camera_to_world, atol=1e-5)
    assert torch.allclose(chosen.depth, torch.full((2, 1, 4, 4), 0.5))
    assert chosen.placement.scale == pytest.approx(1.5)
    chosen = views(upright=False).chosen([2])  # without a true up they start at the assumed elevation
    assert torch.allclose(chosen.cameras.camera_to_world, orbit_cameras(0.0).camera_to_world, atol=1e-5)
    for wrong in ([3], []):
        refused("numbers from 0 to 2", good.chosen, wrong)
    refused("normalise", PosedViews, good.rgb, good.mask, orbit_cameras([0.0, 1, 2], distance=2.0), "cup")
    refused("is none", open_dataset, tmp_path / "nowhere", size=64)
    refused("got none of them", open_dataset, write(tmp_path, ["notes/readme.txt"]), size=64)
    refused("kind must be one of", open_dataset, tmp_path, size=64, kind="nerf")


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
        (root / name).write_text("[]")
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
