"""Distillation through ComfyUI's own MODEL and VAE."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from small_models import quarter_model, write_merged

DISTILL = "UpFusionDistill"


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What UpFusion Load Model gives, and a scene."""

    upfusion: Any
    model: Any
    vae: Any
    scene: Any

    def inputs(self) -> dict[str, Any]:
        return {"upfusion_model": self.upfusion, "model": self.model, "vae": self.vae, "scene": self.scene}


@pytest.fixture(scope="module")
def loaded(node_classes: dict[str, type], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    """A small model of random weights, loaded and used in inference mode as in a prompt."""
    import folder_paths

    folder = tmp_path_factory.mktemp("models")
    folder_paths.add_model_folder_path("upfusion", str(folder))
    path = write_merged(folder / "distilled.safetensors", quarter_model())
    with torch.inference_mode():
        upfusion, model, _, vae = node_classes["UpFusionLoadModel"].execute(path.name, "float32").args
        photos = torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(5))
        (scene,) = node_classes["UpFusionEncodeViews"].execute(upfusion, photos, elevation=22.5).args
        yield Loaded(upfusion, model, vae, scene)


@pytest.fixture
def quick(pack: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    """Presets of a few steps."""
    core = pack("upfusion_core")
    draft, reference = core.DistillConfig.draft(), core.DistillConfig.reference()
    fit = dataclasses.replace(draft.schedule.predicted_fit, iterations=4, points=2**11)
    plan = dataclasses.replace(
        draft.schedule,
        predicted_cameras=3,
        predicted_size=16,
        predicted_fit=fit,
        sampled_cameras=2,
        sampled_fit=fit,
        steps=2,
    )
    loop = dataclasses.replace(reference.schedule, cameras=3, iterations=2, bootstrap=1)
    field = dataclasses.replace(draft.field, grid=dataclasses.replace(draft.field.grid, table_size=2**10, finest=64))
    quick_draft = dataclasses.replace(draft, schedule=plan, field=field)
    quick_reference = dataclasses.replace(reference, schedule=loop, field=field)
    fast = core.DistillConfig.fast()
    rounds = dataclasses.replace(fit, iterations=6)
    plan = dataclasses.replace(
        fast.schedule, cameras=2, predicted_size=16, predicted_iterations=2, levels=(1.0, 0.5), steps=2, fit=rounds
    )
    quick_fast = dataclasses.replace(fast, schedule=plan, field=field)
    monkeypatch.setattr(core.DistillConfig, "fast", lambda: quick_fast)
    monkeypatch.setattr(core.DistillConfig, "draft", lambda: quick_draft)
    monkeypatch.setattr(core.DistillConfig, "reference", lambda: quick_reference)


def weights(field: Any) -> torch.Tensor:
    return torch.cat([value.flatten() for value in field.state_dict().values()])


@pytest.mark.comfyui
@pytest.mark.parametrize("preset", ["draft", "fast", "reference"])
def test_a_field_is_distilled_in_a_prompt(loaded: Loaded, run_node: Callable, quick: None, preset: str) -> None:
    with torch.inference_mode():
        (field,) = run_node(DISTILL, **loaded.inputs(), preset=preset, seed=3)
        (again,) = run_node(DISTILL, **loaded.inputs(), preset=preset, seed=3)
        (other,) = run_node(DISTILL, **loaded.inputs(), preset=preset, seed=2**64 - 1)
        assert torch.isfinite(weights(field)).all()
        assert torch.equal(weights(field), weights(again))
        assert not torch.equal(weights(field), weights(other))
        assert not any(parameter.requires_grad for parameter in field.parameters())
        (cameras,) = run_node("UpFusionOrbitCameras", count=1)
        assert run_node("UpFusionRenderField", field=field, cameras=cameras, size=16)[0].shape == (1, 16, 16, 3)


@pytest.mark.comfyui
def test_it_distils_from_the_model_given_and_to_the_views_given(
    loaded: Loaded, run_node: Callable, quick: None
) -> None:
    """A patch on MODEL, as a LoRA makes, changes the object; so do views to fit first, and prompts."""
    with torch.inference_mode():
        plain = weights(run_node(DISTILL, **loaded.inputs(), preset="draft")[0])
        patched = loaded.model.clone()
        name = next(key for key in patched.model.state_dict() if key.endswith("out.2.weight"))
        patched.add_patches({name: (torch.full_like(patched.model.state_dict()[name], 0.3),)}, 1.0)
        restyled = weights(run_node(DISTILL, **(loaded.inputs() | {"model": patched}))[0])
        assert not torch.allclose(plain, restyled)
        (cameras,) = run_node("UpFusionOrbitCameras", count=2)
        views = {"images": torch.zeros(2, 64, 64, 3), "cameras": cameras}
        guided = weights(run_node(DISTILL, **loaded.inputs(), **views)[0])
        assert not torch.allclose(plain, guided)
        assert float(views["images"].abs().max()) == 0
        prompt = [[torch.ones(1, 77, quarter_model().diffusion.context_dim), {}]]
        assert not torch.allclose(
            plain, weights(run_node(DISTILL, **loaded.inputs(), preset="draft", positive=prompt)[0])
        )
        assert torch.equal(
            plain, weights(run_node(DISTILL, **loaded.inputs(), preset="draft")[0])
        )  # whatever ran in between


@pytest.mark.comfyui
def test_cancel_stops_it_and_it_runs_again(
    loaded: Loaded, run_node: Callable, quick: None, pack: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    from comfy import model_management

    steps: list[str] = []

    def line(text: str) -> None:
        steps.append(text)
        model_management.interrupt_current_processing(len(steps) == 1)

    monkeypatch.setattr(pack("nodes.host"), "send_line", line)
    with torch.inference_mode():
        with pytest.raises(model_management.InterruptProcessingException):
            run_node(DISTILL, **loaded.inputs(), preset="draft")
        assert steps == ["distilling: step 1/10"]
        (field,) = run_node(DISTILL, **loaded.inputs(), preset="draft")
        assert torch.isfinite(weights(field)).all()
        assert steps[-1] == "distilling: step 10/10"


@pytest.mark.parametrize(
    ("settings", "steps", "iterations"),
    [
        (("fast", 0), 10, None),
        (("draft", 0), 10, None),
        (("draft", 4), 4, None),
        (("reference", 0), 30, 3000),
        (("reference", 77), 30, 77),
    ],
)
def test_what_the_presets_mean(
    pack: Callable[[str], ModuleType], settings: tuple[str, int], steps: int, iterations: int | None
) -> None:
    config = pack("nodes.field").distill_config(*settings, guidance=5.0)
    assert config.guidance == 5.0
    assert config.schedule.steps == steps
    assert getattr(config.schedule, "iterations", None) == iterations
    assert config.preset == settings[0]


def test_views_and_cameras_belong_together(pack: Callable[[str], ModuleType]) -> None:
    given_views, cameras = pack("nodes.field").given_views, pack("upfusion_core").orbit_cameras([0.0, 90.0])
    assert given_views(None, None) is None
    views = given_views(torch.full((2, 8, 8, 3), 0.25), cameras)
    assert views.rgb.shape == (2, 3, 8, 8)
    for images, given, message in (
        (None, cameras, "got cameras only; connect images too"),
        (torch.zeros(2, 8, 8, 3), None, "got images only; connect cameras too"),
        (torch.zeros(3, 8, 8, 3), cameras, "one square picture for each of the 2 cameras, got 3 of 8 x 8"),
        (torch.zeros(2, 8, 9, 3), cameras, "got 2 of 9 x 8"),
    ):
        with pytest.raises(ValueError, match=message):
            given_views(images, given)
