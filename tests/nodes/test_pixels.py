"""Photos whose cameras are known: cameras in, the photos' own pixels on a mesh and in a field, data sets out."""

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import COLOR, Pack, Run, a_mesh, refused
from torch import Tensor, nn

pytestmark = pytest.mark.usefixtures("types", "shown", "lines")
SIZE = 96


@pytest.fixture(scope="module")
def cameras(core: ModuleType) -> Any:
    return core.orbit_cameras([0.0, 90.0, 200.0], [22.5, 10.0, 30.0])


@pytest.fixture(scope="module")
def photos(ball: nn.Module, cameras: Any, core: ModuleType) -> tuple[Tensor, Tensor]:
    """IMAGE and MASK of a round field from three sides."""
    seen = ball.render(cameras, SIZE, sampling=core.config.RaySampling(24, 8))  # its haze reaches the border
    return seen.rgb.movedim(1, -1).contiguous(), (seen.opacity[:, 0] > 0.9).float()


@pytest.fixture
def views(run_node: Run, photos: tuple[Tensor, Tensor]) -> Any:
    images, masks = photos
    return run_node("UpFusionPrepareViews", images={"image0": images}, masks={"mask0": masks}, margin=1.5)[2]


def test_photos_whose_cameras_are_not_sure_are_left_out(pack: Pack, views: Any, cameras: Any, core: ModuleType) -> None:
    sure = torch.tensor([True, False, True])
    found = pack("nodes.sockets").FoundCameras.of(core.PhotoCameras(cameras, sure, sure.float()))
    assert pack("nodes.pixels").photo_cameras(views, found).accepted.tolist() == sure.tolist()
    assert pack("nodes.field").trusted_cameras(cameras).accepted.tolist() == [True] * 3
    assert len(core.Cameras.concatenate([found[1], cameras])) == 4


def test_cameras_of_a_file_become_those_of_the_squares(run_node: Run, views: Any, cameras: Any, folders: Path) -> None:
    frames = []
    turned = torch.tensor([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])  # +Y up -> +Z up
    for index, matrix in enumerate(cameras.camera_to_world):
        Image.new("RGB", (SIZE, SIZE)).save(folders / f"input/{index}.png")
        frames.append({"file_path": f"images/{index}.jpg", "transform_matrix": (turned @ matrix).tolist()})
    lens = {"fl_x": 4.5 * SIZE / 2, "w": SIZE, "h": SIZE}
    (folders / "input/transforms.json").write_text(json.dumps({**lens, "frames": frames}))
    found, posed, report = run_node("UpFusionLoadCameras", views=views, photos="0.png\n1.png\n2.png")
    assert "extension aside" in report
    torch.testing.assert_close(found.camera_to_world, cameras.camera_to_world, atol=0.02, rtol=0)
    left, _, right, _ = views.sources[0].box
    assert float(found.focal[0, 0]) == pytest.approx(4.5 * SIZE / (right - left))
    assert posed.cameras.given
    assert posed.sources is views.sources
    for names, words in (("0.png", "must name a file for each of 3"), ("0.png\n1.png\n../2.png", "must stay inside")):
        refused(words, run_node, "UpFusionLoadCameras", views=views, photos=names)


def test_cameras_of_depth_anything(run_node: Run, cameras: Any, photos: tuple[Tensor, Tensor]) -> None:
    """In another world, four times as large; pixels of another size than the pictures'."""
    moved = torch.diag(torch.tensor([4.0, 4, 4, 1])) @ cameras.camera_to_world
    moved[:, :3, :3] /= 4
    moved[:, :3, 3] += torch.tensor([1.0, 2, 3])
    extrinsics = torch.linalg.inv(moved @ torch.diag(torch.tensor([1.0, -1, -1, 1])))[None, :, :3]
    intrinsics = torch.tensor([[4.5 * 63, 0, 63], [0, 4.5 * 63, 63], [0, 0, 1]]).expand(1, 3, 3, 3)
    geometry = {"extrinsics": extrinsics, "intrinsics": intrinsics}
    (found,) = run_node("UpFusionCamerasFromGeometry", geometry=geometry, masks=photos[1], elevation=22.5)
    torch.testing.assert_close(found.camera_to_world, cameras.camera_to_world, atol=0.02, rtol=0)
    torch.testing.assert_close(found.focal, cameras.focal)
    refused("mode multiview", run_node, "UpFusionCamerasFromGeometry", geometry={"mode": "mono"})


def test_photos_on_a_mesh(run_node: Run, ball: nn.Module, views: Any, cameras: Any, core: ModuleType) -> None:
    mesh, _, placement = run_node("UpFusionExtractMesh", field=ball, resolution=32)
    squares = core.KnownCameras.of_photos(cameras, [(SIZE, SIZE)] * 3).of_squares(views.sources).cameras
    placed = {"placement": placement, "views": views, "cameras": squares}
    painted, _ = run_node("UpFusionProjectPhotos", mesh=mesh, texture_size=64, **placed)
    assert painted.texture.shape == (1, 64, 64, 3)
    low, high = painted.vertices[0].aminmax(dim=0)
    torch.testing.assert_close((high - low).max(), torch.tensor(1.0))  # where it was
    color = painted.texture[0].reshape(-1, 3).median(0).values
    torch.testing.assert_close(color, torch.tensor(COLOR), atol=0.05, rtol=0)
    refused("the photos' cameras are needed", run_node, "UpFusionProjectPhotos", mesh=mesh, views=views)


def test_a_mesh_of_another_program_is_laid_where_the_photos_show_it(
    run_node: Run, views: Any, cameras: Any, core: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def register(asset: Any, photos: Any, known: Any) -> Any:
        laid = replace(asset, vertices=asset.vertices + 1)
        return SimpleNamespace(mesh=laid, report=lambda: str(known and known.accepted.tolist()))

    monkeypatch.setattr(core, "register_mesh", register)
    mesh, node = a_mesh(), "UpFusionRegisterMesh"
    assert torch.equal(run_node(node, mesh=mesh, views=views)[0].vertices, mesh.vertices + 1)
    for known, report in ((None, "None"), (cameras, "[True, True, True]")):
        assert run_node(node, mesh=mesh, views=views, cameras=known)[1] == report
    refused("one for each of 3 photos", run_node, node, mesh=mesh, views=views, cameras=cameras[:2])


@pytest.fixture
def given(photos: tuple[Tensor, Tensor], cameras: Any) -> dict[str, Any]:
    return {"images": photos[0], "cameras": cameras, "masks": photos[1]}


def test_a_field_of_views(run_node: Run, given: dict, core: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "fit_views", Mock(return_value="a field"))
    assert run_node("UpFusionFitViews", **given, seed=3) == ("a field",)
    ((views,), options) = core.fit_views.call_args
    assert (len(views.rgb), options["generator"].initial_seed()) == (3, 3)


@pytest.mark.usefixtures("folders")
def test_a_data_set(run_node: Run, ball: nn.Module, given: dict, cameras: Any) -> None:
    mesh, _, placement = run_node("UpFusionExtractMesh", field=ball, resolution=32, threshold=12.0)
    (folder,) = run_node("UpFusionSaveDataset", **given, format="colmap", mesh=mesh, placement=placement)
    assert len(list(Path(folder, "images").glob("view_00?.png"))) == 3
    points = np.loadtxt(Path(folder, "sparse/0/points3D.txt"), usecols=(1, 2, 3))
    assert 0.05 < np.linalg.norm(points, axis=1).mean() < 0.3  # in the world, not one unit large
    refused("one for each of 2 cameras", run_node, "UpFusionSaveDataset", **given | {"cameras": cameras[:2]})


def test_the_viewer_sees_the_mesh_as_the_camera_sees_the_field(run_node: Run, ball: nn.Module, cameras: Any) -> None:
    mesh, _, placement = run_node("UpFusionExtractMesh", field=ball, resolution=32)
    (info,) = run_node("UpFusionCameraToLoad3D", cameras=cameras, index=1, placement=placement)
    position, point = torch.tensor([info["position"][axis] for axis in "xyz"]), mesh.vertices[0, 0]
    to_camera = cameras.camera_to_world[1, :3, :3].T
    local = to_camera @ (placement.to_world(point) - cameras.camera_to_world[1, :3, 3])
    seen = to_camera @ (point - position)
    torch.testing.assert_close(seen / seen[2], local / local[2], atol=1e-4, rtol=0)
