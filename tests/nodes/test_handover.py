"""Fields handed over to ComfyUI's other 3D nodes: named sides, places of others' meshes, splats, voxels."""

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from small_models import Pack, Run, refused
from torch import Tensor, nn

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
            colors = torch.tensor([color for *_, color in parts]).logit()
            return density, colors[inside.argmax(0)]

    return Head(core.DistillConfig.draft().field).requires_grad_(False).eval()


def side_of(image: Tensor, color: tuple[float, ...]) -> float:
    """Where a colour's pixels are from left, 0, to right, 1; nan where there are none."""
    places = ((image[0, ..., :3] - torch.tensor(color)).abs().amax(-1) < 0.1).nonzero()[:, 1].float()
    return float(places.mean()) / image.shape[2]


@pytest.fixture(autouse=True)
def _roughly(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack("nodes.field"), "OUTLINED", 40)


def test_left_is_the_object_s_own_in_files_of_that_name(run_node: Run, head: nn.Module, folders: Path) -> None:
    *views, masks, cameras = run_node("UpFusionCanonicalViews", field=head, size=48)
    names = ("front", "left", "back", "right")
    for name, view in zip(names, views, strict=True):
        assert view.shape == (1, 48, 48, 3)
        Image.fromarray((255 * view[0]).byte().numpy()).save(folders / f"output/{name}.png")
    front, left, back, right = views
    assert abs(side_of(front, NOSE) - 0.43) < 0.05  # the ear makes the box wider on that side
    assert side_of(front, EAR) > 0.8
    assert side_of(left, NOSE) < 0.2  # seen from +X the front lies to the left
    assert abs(side_of(left, EAR) - 0.55) < 0.1
    assert side_of(back, EAR) < 0.2
    assert side_of(right, NOSE) > 0.8
    assert torch.tensor([side_of(back, NOSE), side_of(right, EAR)]).isnan().all()
    assert len(cameras) == 4
    for mask in masks:
        rows, columns = (mask > 0.5).any(1).nonzero()[:, 0], (mask > 0.5).any(0).nonzero()[:, 0]
        longer = max(len(rows), len(columns))
        assert abs(longer - 0.85 * 48) <= 2
        assert abs(int(rows[0] + rows[-1]) - 47) <= 2  # in the middle
    assert front[0, 0, 0].tolist() == [1, 1, 1]
    black = run_node("UpFusionCanonicalViews", field=head, size=16, receiver="Pixal3D")[1]
    assert float(black[0, 0, 0].max()) < 1e-3
    assert side_of(black, NOSE) < 0.35


def test_a_mesh_of_other_nodes_is_laid_into_the_field_s_box(
    run_node: Run, head: nn.Module, core: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh, _, placement = run_node("UpFusionExtractMesh", field=head, resolution=48)
    mesh.vertices = mesh.vertices * 1.9 + torch.tensor([0.3, 0.0, -0.1])  # of another size and place
    painted: list[Any] = []
    monkeypatch.setattr(core, "project_photos", lambda mesh, *_, **__: painted.append(mesh) or mesh)
    monkeypatch.setattr(core, "given_photos", lambda *_: SimpleNamespace(rgb=[], cameras=None, masks=None))
    views = core.InputViews(torch.ones(1, 3, 8, 8), torch.ones(1, 1, 8, 8), torch.ones(1, 2))
    given = {"mesh": mesh, "views": views, "cameras": core.orbit_cameras(0.0)}
    out, _ = run_node("UpFusionProjectPhotos", **given, field=head)
    low, high = painted[0].vertices.aminmax(dim=0)
    torch.testing.assert_close(low, torch.tensor([-0.09, -0.10, -0.12]), atol=0.012, rtol=0)
    torch.testing.assert_close(high, torch.tensor([0.19, 0.14, 0.16]), atol=0.012, rtol=0)
    torch.testing.assert_close(out.vertices, mesh.vertices, atol=1e-5, rtol=0)  # where it was
    refused("got both", run_node, "UpFusionProjectPhotos", **given, field=head, placement=placement)
