"""Fields: distilled through ComfyUI's own MODEL and VAE; renders and meshes of one whose shape is known by hand."""

import io
import math
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import trimesh
from small_models import COLOR, Loaded, Pack, Run, quarter_model, refused
from torch import Tensor, nn

pytestmark = pytest.mark.usefixtures("lines", "types", "folders")

DISTILL, RENDER, EXTRACT = "UpFusionDistill", "UpFusionRenderField", "UpFusionExtractMesh"
ORBIT = "UpFusionOrbitCameras"
Distilled = Callable[..., Any]


def weights(field: Any) -> Tensor:
    return torch.cat([value.flatten() for value in field.state_dict().values()])


def test_renders_show_the_ball_over_each_background(run_node: Run, ball: nn.Module) -> None:
    (cameras,) = run_node(ORBIT, count=2)
    for background, value in (("white", 1.0), ("grey", 0.5), ("black", 0.0)):
        images, masks, depth = run_node(RENDER, field=ball, cameras=cameras, size=16, background=background)
        assert images.shape == depth.shape == (2, 16, 16, 3)
        over = masks[..., None] * torch.tensor(COLOR) + (1 - masks[..., None]) * value
        torch.testing.assert_close(images, over, atol=1e-4, rtol=0)
    assert float(masks[0, 8, 8]) > 0.98
    # light stops before the middle of the ball, which is half way between nearest and furthest
    assert 0.5 < float(depth[0, 8, 8, 0]) < 0.5 + 0.3 / (2 * 0.3 * math.sqrt(3))
    assert not ball._forward_pre_hooks  # the cached field does not get what its working copy gets


def test_cancel_within_a_view(run_node: Run, ball: nn.Module, pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes between the rays, however a field is asked."""
    cancel = Mock(side_effect=[None, None, *[InterruptedError] * 4])
    monkeypatch.setattr(pack("nodes.field"), "check_interrupted", cancel)
    with pytest.raises(InterruptedError):
        run_node(RENDER, field=ball, cameras=run_node(ORBIT, count=1)[0], size=128)
    assert cancel.call_count == 3
    own = pack("nodes.field").working_copy(ball)
    for question in (own.density, own.color, own):
        with pytest.raises(InterruptedError):
            question(torch.zeros(1, 3))


def test_the_mesh_lies_in_comfyui_s_frame(run_node: Run, ball: nn.Module) -> None:
    mesh, file, _ = run_node(EXTRACT, field=ball, resolution=48, threshold=12.0)
    assert (mesh.vertices.dtype, mesh.faces.dtype, mesh.unlit, mesh.uvs) == (torch.float32, torch.int64, True, None)
    radii = mesh.vertices[0].norm(dim=-1)
    torch.testing.assert_close(radii, torch.full_like(radii, 0.5), atol=0.02, rtol=0)
    linear = torch.tensor([((value + 0.055) / 1.055) ** 2.4 for value in COLOR])
    torch.testing.assert_close(mesh.vertex_colors[0], linear.expand_as(mesh.vertex_colors[0]), atol=2e-3, rtol=0)
    corners = mesh.vertices[0][mesh.faces[0]]
    volume = (corners[:, 0] * torch.linalg.cross(corners[:, 1], corners[:, 2])).sum() / 6
    assert float(volume) == pytest.approx(4 / 3 * math.pi * 0.125, rel=0.03)  # positive: counter-clockwise outside
    assert file.format == "glb"
    source = file.get_source() if hasattr(file, "get_source") else file.source
    loaded = trimesh.load(io.BytesIO(source.read()), file_type="glb", force="mesh", process=False)
    torch.testing.assert_close(torch.tensor(loaded.vertices).float(), mesh.vertices[0], atol=1e-6, rtol=0)


def test_faces_of_a_textured_mesh(run_node: Run, ball: nn.Module, pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack("nodes.field"), "TEXTURED_FACES", 300)
    options = ({}, {"coloring": "texture"}, {"coloring": "texture", "faces": 600}, {"faces": 200})
    settings = {"field": ball, "resolution": 20, "threshold": 12.0, "texture_size": 64}
    meshes = [run_node(EXTRACT, **settings, **option)[0] for option in options]
    colored, textured, more, few = (mesh.faces.shape[1] for mesh in meshes)
    assert few <= 200 < textured <= 300 < more <= 600 < colored
    assert (meshes[1].texture.shape, meshes[1].uvs.shape) == ((1, 64, 64, 3), (1, meshes[1].vertices.shape[1], 2))


@pytest.fixture
def distilled(loaded: Loaded, run_node: Run, core: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Distilled:
    """The field that UpFusion Distill makes in a prompt, by presets of a few steps."""
    draft, fast = core.DistillConfig.named("draft"), core.DistillConfig.named("fast")
    fit = replace(draft.schedule.predicted_fit, iterations=4, points=2**11)
    first = {"predicted_cameras": 3, "predicted_size": 16, "predicted_fit": fit}
    rounds = {"cameras": 2, "predicted_size": 16, "predicted_iterations": 2, "levels": (1.0, 0.5), "steps": 2}
    schedules = {
        "draft": replace(draft.schedule, **first, sampled_cameras=2, sampled_fit=fit, steps=2),
        "fast": replace(fast.schedule, **rounds, fit=replace(fit, iterations=6)),
    }
    field = replace(draft.field, grid=replace(draft.field.grid, table_size=2**10, finest=64))

    def named(name: str, **changes: Any) -> Any:
        return replace(draft, preset=name, schedule=schedules[name], field=field, **changes)

    def run(**changes: Any) -> Any:
        with torch.inference_mode():
            return run_node(DISTILL, **(loaded.inputs() | {"preset": "draft"} | changes))[0]

    monkeypatch.setattr(core.DistillConfig, "named", named)
    return run


def patched(model: Any) -> Any:
    """A MODEL with one layer changed, as by a LoRA."""
    other = model.clone()
    with torch.inference_mode():
        weight = {key: value for key, value in other.model.state_dict().items() if key.endswith("out.2.weight")}
        other.add_patches({key: (torch.full_like(value, 0.3),) for key, value in weight.items()}, 1.0)
    return other


@pytest.mark.comfyui
def test_a_field_is_distilled_in_a_prompt(
    run_node: Run, loaded: Loaded, distilled: Distilled, core: ModuleType
) -> None:
    """A patch on MODEL changes the object; so do seeds, prompts, and views to fit first."""
    field = distilled()
    plain = weights(field)
    assert torch.isfinite(plain).all()
    assert not any(parameter.requires_grad for parameter in field.parameters())
    with torch.inference_mode():
        (cameras,) = run_node(ORBIT, count=1)
        assert run_node(RENDER, field=field, cameras=cameras, size=16)[0].shape == (1, 16, 16, 3)
    prompt = [[torch.ones(1, 77, quarter_model().diffusion.context_dim), {}]]
    for changes in ({"model": patched(loaded.model)}, {"seed": 2**64 - 1}, {"positive": prompt}):
        assert not torch.allclose(plain, weights(distilled(**changes)))
    views = {"images": torch.zeros(2, 64, 64, 3), "cameras": core.orbit_cameras([0.0, 180.0], 22.5)}
    assert plain.shape != weights(distilled(**views)).shape  # their pixels are smaller than the model's
    assert torch.equal(plain, weights(distilled()))  # whatever ran in between


@pytest.mark.comfyui
def test_a_cancelled_run(loaded: Loaded, distilled: Distilled, pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of the fit, then one batch of two: cancelled in it, it is made again; by another LoRA all."""
    whole, steps, folder = weights(distilled(preset="fast")), [], pack("nodes.unfinished").folder()
    stop: list[int] = []

    def on_step(step: int, total: int, preview: object) -> None:
        steps.append(step)
        if step in stop:
            stop.clear()
            raise InterruptedError

    monkeypatch.setattr(pack("nodes.field"), "progress_hook", lambda doing: on_step)
    assert list(folder.iterdir()) == []  # what is done is removed
    for changes, last in (({}, 3), ({"seed": 1}, 0), ({"model": patched(loaded.model)}, 0), ({"resume": False}, 0)):
        stop[:] = [4]
        with pytest.raises(InterruptedError):
            distilled(preset="fast")
        steps.clear()
        field = distilled(preset="fast", **changes)
        assert steps[0] == last
        assert torch.equal(whole, weights(field)) is (changes in ({}, {"resume": False}))
        assert len(list(folder.iterdir())) == bool(changes)
        for left in folder.iterdir():
            left.unlink()


def test_what_the_presets_mean(pack: Pack) -> None:
    for preset, asked, expected in (("fast", 0, 10), ("draft", 4, 4), ("reference", 0, 3000), ("reference", 77, 77)):
        config = pack("nodes.field").distill_config(preset, asked, guidance=5.0)
        assert (config.guidance, config.preset) == (5.0, preset)
        assert getattr(config.schedule, "iterations", config.schedule.steps) == expected
        assert preset != "reference" or config.schedule.steps == 30


def test_views_and_cameras_belong_together(pack: Pack, core: ModuleType) -> None:
    given_views, cameras = pack("nodes.field").given_views, core.orbit_cameras([0.0, 90.0])
    assert given_views(None, None) is None
    assert given_views(torch.full((2, 8, 8, 3), 0.25), cameras).rgb.shape == (2, 3, 8, 8)
    refused("got cameras only; connect images too", given_views, None, cameras)
    refused("got images only; connect cameras too", given_views, torch.zeros(2, 8, 8, 3), None)
    for shape, found in (((3, 8, 8, 3), "3 of 8 x 8"), ((2, 8, 9, 3), "2 of 9 x 8")):
        refused(f"each of the 2 cameras, got {found}", given_views, torch.zeros(shape), cameras)
