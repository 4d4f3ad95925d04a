"""Fields handed over to ComfyUI's other 3D nodes: named sides, places of others' meshes, splats, voxels."""

import math
from types import ModuleType, SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from small_models import Pack, Run, close, refused
from torch import Tensor, nn
from torch.nn.functional import normalize

pytestmark = pytest.mark.usefixtures("lines", "types", "folders")

NOSE, EAR = (0.9, 0.1, 0.1), (0.1, 0.1, 0.9)  # at the front; on its own left, which is the viewer's right


@pytest.fixture(scope="module")
def head(core: ModuleType) -> nn.Module:
    """A grey ball of radius 0.12 about (0.03, 0.02, 0) with a red nose at +Z and one blue ear at +X."""
    parts = (((0.03, 0.02, 0.0), 0.12, (0.6,) * 3), ((0.03, 0.02, 0.12), 0.04, NOSE), ((0.15, 0.02, 0.0), 0.04, EAR))

    class Head(core.RadianceField):
        def _evaluate(self, points: Tensor) -> tuple[Tensor, Tensor]:
            inside = torch.stack([radius - (points - torch.tensor(at)).norm(dim=-1) for at, radius, _ in parts])
            density = 400 * torch.sigmoid(inside.amax(0) / 0.003)
            return density, torch.tensor([color for *_, color in parts]).logit()[inside.argmax(0)]

    return Head(core.DistillConfig.draft().field).requires_grad_(False).eval()


def test_canonical_cameras_name_and_frame_sides_as_the_receiver_does(pack: Pack) -> None:
    canonical, project = pack("nodes.handover").canonical_cameras, pack("upfusion_core").project
    corners = torch.tensor([[x, y, z] for x in (0.1, 0.3) for y in (-0.1, 0.3) for z in (-0.05, 0.05)])  # 0.4 high
    middle = torch.tensor([0.2, 0.1, 0.0])
    ways = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 0, -1], [-1, 0, 0]])  # front, the object's own left, back, right
    focal = 1 / math.tan(math.radians(10))
    pixal = canonical(corners, "Pixal3D")
    close(pixal.centers, middle + ways * 0.4 * 1.1 * 0.5 * focal, 1e-5)  # its rig: 1.1 · 0.5 / tan(10 degrees)
    close(pixal.focal, [[focal, focal]] * 4, 1e-5)
    close(pixal.principal, [[0, 0]] * 4, 0)
    close(canonical(corners, "viewer").centers[1], pixal.centers[3])
    hunyuan = canonical(corners, "Hunyuan3D-2mv", elevation_degrees=20.0)
    for camera, way in zip(hunyuan, ways, strict=True):
        low, high = project(corners, camera)[0].aminmax(dim=0)
        close(low + high, [0, 0], 1e-5)  # in the middle
        assert float((high - low).max()) == pytest.approx(2 * 0.85, abs=1e-5)
        raised = way * math.cos(math.radians(20)) + torch.tensor([0, math.sin(math.radians(20)), 0])
        close(normalize(camera.centers[0] - middle, dim=0), raised, 1e-5)


def side_of(image: Tensor, color: tuple[float, ...]) -> float:
    """Where a colour's pixels are from left, 0, to right, 1; nan where there are none."""
    places = ((image[0, ..., :3] - torch.tensor(color)).abs().amax(-1) < 0.1).nonzero()[:, 1].float()
    return float(places.mean()) / image.shape[2]


def test_left_is_the_object_s_own(run_node: Run, head: nn.Module) -> None:
    front, left, back, right, masks, cameras = run_node("UpFusionCanonicalViews", field=head, size=48)
    assert abs(side_of(front, NOSE) - 0.43) < 0.05  # the ear makes the box wider on that side
    assert side_of(left, NOSE) < 0.2  # seen from +X the front lies to the left
    assert side_of(back, EAR) < 0.2
    assert side_of(right, NOSE) > 0.8
    assert torch.tensor([side_of(back, NOSE), side_of(right, EAR)]).isnan().all()
    assert masks.shape == (len(cameras), 48, 48)
    assert front[0, 0, 0].tolist() == [1, 1, 1]
    black = run_node("UpFusionCanonicalViews", field=head, size=16, receiver="Pixal3D")[1]
    assert float(black[0, 0, 0].max()) < 1e-3


def test_others_meshes(run_node: Run, head: nn.Module, core: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of other nodes: they are laid into the field's box."""
    mesh, _, placement = run_node("UpFusionExtractMesh", field=head, resolution=32)
    mesh.vertices = mesh.vertices * 1.9 + torch.tensor([0.3, 0.0, -0.1])  # of another size and place
    monkeypatch.setattr(core, "project_photos", Mock(side_effect=lambda mesh, *_, **__: mesh))
    monkeypatch.setattr(core, "given_photos", Mock())
    views = core.InputViews(torch.ones(1, 3, 8, 8), torch.ones(1, 1, 8, 8), torch.ones(1, 2))
    given = {"mesh": mesh, "views": views, "cameras": core.orbit_cameras(0.0)}
    out, _ = run_node("UpFusionProjectPhotos", **given, field=head)
    low, high = core.project_photos.call_args.args[0].vertices.aminmax(dim=0)
    close(low, [-0.09, -0.10, -0.12], 0.012)
    close(high, [0.19, 0.14, 0.16], 0.012)
    close(out.vertices, mesh.vertices, 1e-5)  # where it was
    refused("got both", run_node, "UpFusionProjectPhotos", **given, field=head, placement=placement)


def test_splats_voxels_and_points(run_node: Run, head: nn.Module, pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {"SPLAT": lambda *parts: parts, "VOXEL": lambda *parts: parts, "File3D": lambda file, kind: (file, kind)}
    monkeypatch.setattr(pack("nodes.handover"), "Types", SimpleNamespace(**kinds))
    splat, voxel, (file, kind) = run_node("UpFusionFieldToSplats", field=head, resolution=40)
    positions, _, rotations, opacities, harmonics = (part[0] for part in splat)
    count = len(positions)
    assert [part.shape[1:] for part in splat] == [(count, 3), (count, 3), (count, 4), (count, 1), (count, 1, 3)]
    # along the surface of the ball, where it is neither ear nor nose, and opaque together
    ball = positions[:, 0] < -0.03
    outward = positions[ball] - torch.tensor([0.03, -0.02, 0.0])
    torch.testing.assert_close(outward.norm(dim=1), torch.full((int(ball.sum()),), 0.12), atol=0.01, rtol=0)
    w, x, y, z = rotations[ball].T
    thin = torch.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], dim=1)
    assert float((thin * normalize(outward)).sum(1).mean()) > 0.95
    assert float(opacities.median()) > 0.4
    cells, colors, resolution = voxel
    assert (resolution, int(cells.min()), int(cells.max())) == (40, 0, 39)
    # the ear, the only blue, is at +X and so at the last cells along x
    blue = (colors - torch.tensor(EAR)).abs().amax(1) < 0.2
    assert float(cells[blue, 0].float().min()) > 25
    assert float(positions[harmonics[:, 0, 2] > 1][:, 0].min()) > 0.1
    assert kind == "ply"
    head_of, _, body = file.getvalue().partition(b"end_header\n")
    assert f"element vertex {count}".encode() in head_of
    assert len(body) == 15 * count
