"""Our control in stock samplers: one batched call, cameras on their own, strength, ranges, chains, LoRAs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_models import Loaded, Pack, Run, conditioned, k_sample, prior_of, relative
from torch import Tensor

pytestmark = [pytest.mark.comfyui, pytest.mark.usefixtures("as_in_a_prompt")]


class CountedCalls:
    """Counts the UNet's calls and notes each one's batch."""

    def __init__(self, model: Any) -> None:
        self.batches: list[int] = []
        self.model = model.clone()
        self.model.set_model_unet_function_wrapper(self._call)

    def _call(self, apply_model: Callable, arguments: dict[str, Any]) -> Tensor:
        self.batches.append(len(arguments["input"]))
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])


def added_residuals(value: float) -> Any:
    """A ControlNet as ComfyUI's own are that adds `value` to all of the UNet's skip connections and its middle."""
    from comfy.controlnet import ControlBase

    class Constant(ControlBase):
        def get_control(self, x_noisy: Tensor, t: Tensor, cond: dict, batched: int, options: dict) -> Any:
            before = None
            if self.previous_controlnet is not None:
                before = self.previous_controlnet.get_control(x_noisy, t, cond, batched, options)
            levels = [(32, 0)] * 3 + [(32, 1)] * 3 + [(32, 2)] + [(64, 2)] * 2 + [(64, 3)] * 4
            batch, _, height, width = x_noisy.shape
            made = [torch.full((batch, many, height >> level, width >> level), value) for many, level in levels]
            return self.control_merge({"input": [], "middle": made[-1:], "output": made[:-1]}, before, None)

        def copy(self) -> Any:
            other = Constant()
            self.copy_to(other)
            return other

    return Constant()


@pytest.fixture(scope="module")
def four(run_node: Run, loaded: Loaded) -> tuple[Any, Any, dict]:
    return conditioned(run_node, loaded)


@pytest.fixture(scope="module")
def sampled(loaded: Loaded, four: tuple) -> Tensor:
    return k_sample(loaded.model, *four)


def test_four_cameras_are_one_call_a_step(loaded: Loaded, four: tuple, sampled: Tensor) -> None:
    assert four[2]["samples"].shape == (4, 4, 8, 8)
    assert four[2]["batch_index"] == [0, 1, 2, 3]
    counted = CountedCalls(loaded.model)
    result = k_sample(counted.model, *four, steps=4)
    assert counted.batches == [8, 8, 8, 8]  # both halves of guidance, four cameras each
    torch.testing.assert_close(result, sampled)


def test_a_camera_alone_is_the_same_view(run_node: Run, loaded: Loaded, sampled: Tensor) -> None:
    for index in range(4):
        positive, negative, latent = conditioned(run_node, loaded, loaded.cameras[index])
        alone = k_sample(loaded.model, positive, negative, {**latent, "batch_index": [index]})
        assert relative(alone, sampled[index : index + 1]) < 1e-3
    assert relative(sampled[:1], sampled[1:2]) > 0.1


def test_one_box_paints_what_the_three_nodes_paint(run_node: Run, loaded: Loaded, sampled: Tensor) -> None:
    inputs = loaded.inputs() | {"cameras": loaded.cameras, "seed": 3, "steps": 4, "guidance": 4.0}
    expected = loaded.vae.decode(loaded.model.get_model_object("latent_format").process_out(sampled))
    for batch_size in (4, 3):
        (images,) = run_node("UpFusionSampleViews", batch_size=batch_size, **inputs)
        torch.testing.assert_close(images, expected, atol=1e-3, rtol=0)


def test_strength_and_range_of_steps_are_honoured(run_node: Run, loaded: Loaded, four: tuple, sampled: Tensor) -> None:
    plain = k_sample(loaded.model, *loaded.upfusion.prompts(), four[2])
    options = ({"strength": 0.0}, {"start": 1.0, "end": 1.0}, {"strength": 0.5}, {"end": 0.5})
    off, never, half, first = (k_sample(loaded.model, *conditioned(run_node, loaded, **option)) for option in options)
    torch.testing.assert_close(off, plain, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(never, plain, atol=1e-6, rtol=1e-5)
    assert relative(sampled, plain) > relative(half, plain) > 1e-3
    assert relative(first, plain) > 1e-3
    assert relative(first, sampled) > 1e-3


def test_a_stock_controlnet_before_or_after_adds_its_residuals(
    run_node: Run, loaded: Loaded, four: tuple, sampled: Tensor
) -> None:
    import nodes

    apply = nodes.ControlNetApplyAdvanced().apply_controlnet
    picture = torch.zeros(1, 32, 32, 3)
    after = apply(*four[:2], added_residuals(0.3), picture, 1.0, 0.0, 1.0)
    before = apply(*loaded.upfusion.prompts(), added_residuals(0.3), picture, 1.0, 0.0, 1.0)
    chained = conditioned(run_node, loaded, positive=before[0], negative=before[1])
    counted = CountedCalls(loaded.model)
    one = k_sample(counted.model, *after, four[2])
    other = k_sample(loaded.model, *chained)
    assert counted.batches == [8] * 4
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert relative(one, sampled) > 1e-3
    control = after[0][0][1]["control"]
    assert control.previous_controlnet is four[0][0][1]["control"]


def test_residuals_add_up(run_node: Run, loaded: Loaded, four: tuple) -> None:
    ours = four[0][0][1]["control"].copy()
    stock = added_residuals(0.3)
    model = loaded.model.model
    values = four[0][0][1]["model_conds"]
    cond = {name: value.process_cond(batch_size=4).cond for name, value in values.items()}
    x, t = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.full((4,), 2.0)
    chained = ours.copy().set_previous_controlnet(stock)
    for control in (ours, chained):
        control.pre_run(model, model.model_sampling.percent_to_sigma)
    alone, both = ours.get_control(x, t, cond, 1, {}), chained.get_control(x, t, cond, 1, {})
    for key in ("output", "middle"):
        for a, b in zip(alone[key], both[key], strict=True):
            torch.testing.assert_close(b, a + 0.3)
    assert [len(both[key]) for key in ("input", "middle", "output")] == [0, 1, 12]


def test_a_lora_on_the_model_changes_views(run_node: Run, pack: Pack, loaded: Loaded, sampled: Tensor) -> None:
    import comfy.sd

    name = "diffusion_model.output_blocks.3.1.transformer_blocks.0.attn2.to_v"
    weight = loaded.model.model.diffusion_model.output_blocks[3][1].transformer_blocks[0].attn2.to_v.weight
    generator = torch.Generator().manual_seed(4)
    lora = {
        f"{name}.lora_up.weight": torch.randn(weight.shape[0], 4, generator=generator),
        f"{name}.lora_down.weight": torch.randn(4, weight.shape[1], generator=generator),
    }
    patched, _ = comfy.sd.load_lora_for_models(loaded.model, None, lora, 1.0, 0.0)
    changed = k_sample(patched, *conditioned(run_node, loaded))
    assert relative(changed, sampled) > 1e-3
    stages = loaded.upfusion.stages(prior_of(pack, loaded, patched))
    cond = stages.condition(loaded.scene, loaded.cameras)
    latents = torch.randn(4, 4, 8, 8, generator=generator)
    plain = loaded.library.predict_noise(latents, 500, cond)
    assert relative(stages.predict_noise(latents, 500, cond), plain) > 1e-3  # distillation asks the same prior
    torch.testing.assert_close(k_sample(loaded.model, *conditioned(run_node, loaded)), sampled)


def test_misuse_gets_a_sentence(run_node: Run, loaded: Loaded, four: tuple) -> None:
    positive, negative, latent = four
    stripped = [[positive[0][0], {"control": positive[0][1]["control"]}]]
    for *conditions, samples, message in (
        (positive, negative, torch.zeros(3, 4, 8, 8), "for 4 cameras, got a batch of 3 latents"),
        (positive, negative, torch.zeros(4, 4, 16, 16), "latents of 8 x 8 cells, got"),
        (stripped, stripped, latent["samples"], "control but not its conditions"),
    ):
        with pytest.raises(ValueError, match=message):
            k_sample(loaded.model, *conditions, {"samples": samples})
    with pytest.raises(ValueError, match="holds UpFusion's conditions already"):
        conditioned(run_node, loaded, positive=positive)
    again = {"samples": torch.zeros(8, 4, 8, 8)}  # every camera twice, as Repeat Latent Batch gives them
    assert k_sample(loaded.model, positive, negative, again, steps=1).shape == (8, 4, 8, 8)


def test_inputs_are_not_changed_and_constants_do_not_stay(run_node: Run, loaded: Loaded, four: tuple) -> None:
    prompts = loaded.upfusion.prompts()
    conditioned(run_node, loaded, positive=prompts[0], negative=prompts[1])
    assert prompts[0][0][1] == {}
    k_sample(loaded.model, *four, steps=1)
    control = four[0][0][1]["control"]
    assert control is four[1][0][1]["control"]
    assert control._constants is control.model_sampling is None
