"""The native half in a real ComfyUI: the library's numbers from the same noise, and our control in stock samplers."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from rule_weights import write_folder
from small_models import GUIDANCE, Loaded, Pack, Run, conditioned, k_sample, prior_of, quarter_model, refused, relative
from torch import Tensor

pytestmark = [pytest.mark.comfyui, pytest.mark.usefixtures("as_in_a_prompt")]


def test_a_file_without_text_encoder_loads_with_its_own_ratio(loaded: Loaded) -> None:
    from comfy.latent_formats import SD15

    assert loaded.clip is None
    assert loaded.vae.spacial_compression_decode() == loaded.vae.spacial_compression_encode() == 4
    pictures = loaded.vae.decode(torch.zeros(2, 4, 8, 8))
    assert pictures.shape == (2, 32, 32, 3)
    assert loaded.vae.encode(pictures).shape == (2, 4, 8, 8)
    latent_format = loaded.model.get_model_object("latent_format")
    assert (latent_format.scale_factor, latent_format.spacial_downscale_ratio) == (0.18215, 4)
    assert latent_format.latent_rgb_factors != SD15().latent_rgb_factors


def test_previews_show_the_colours_of_a_linear_autoencoder(pack: Pack) -> None:
    mixing = torch.tensor([[1.0, 0, 2, 1], [0, 3, 1, 0], [2, 1, 0, 1]])

    def encode(pictures: Tensor) -> Tensor:
        cells = torch.nn.functional.avg_pool2d(pictures.movedim(-1, 1), 4)
        return (torch.einsum("nchw,cl->nlhw", cells, mixing) - 1) / 0.5

    linear = SimpleNamespace(spacial_compression_encode=lambda: 4, encode=encode)
    factors = pack("nodes.host").preview_factors(linear, 0.5)
    colors = torch.tensor([[0.2, 0.4, 0.9], [1.0, 0.0, 0.5]])
    shown = torch.cat([colors @ mixing - 1, torch.ones(2, 1)], dim=1) @ factors
    torch.testing.assert_close(shown, 2 * colors - 1, atol=1e-4, rtol=0)


def test_text_is_a_clip(run_node: Run, pack: Pack, core: ModuleType, models_folder: Path) -> None:
    folder = write_folder(models_folder / "sub" / "small", quarter_model())
    names = pack("nodes.files").model_names()
    assert names[0] == "mini"
    assert "sub/small" in names
    upfusion, model, clip, _ = run_node("UpFusionLoadModel", weights="sub/small", precision="float32")
    library = core.UpFusion.load(folder, device="cpu", dtype=torch.float32)
    prompt = "a high quality image with a white background"
    for text, expected in zip(upfusion.text, library.text_embeddings(), strict=True):
        torch.testing.assert_close(text, expected, atol=2e-5, rtol=0)
    (encoded,) = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
    torch.testing.assert_close(encoded[0][0], upfusion.text[0], atol=2e-5, rtol=0)
    assert model.model.model_config.unet_config["num_heads"] == 8


def test_half_precision_is_kept_and_computed_in_full_on_a_cpu(run_node: Run, loaded: Loaded) -> None:
    upfusion, model, _, _ = run_node("UpFusionLoadModel", weights="quarter.safetensors", precision="float16")
    kept = upfusion.controlnet.model.input_hint_block[0].weight.dtype, model.model.diffusion_model.dtype
    assert kept == (torch.float16, torch.float16)
    assert upfusion.dtype == torch.float32
    assert 0 < relative(upfusion.stages().encode(loaded.scene.views).tokens, loaded.scene.tokens) < 0.02


def test_scenes_and_photos_cameras_are_the_library_s(run_node: Run, loaded: Loaded, core: ModuleType) -> None:
    expected = loaded.library.encode(loaded.scene.views)
    torch.testing.assert_close(loaded.scene.tokens, expected.tokens, atol=1e-5, rtol=1e-5)
    assert loaded.scene.model_id == expected.model_id
    inputs = {"upfusion_model": loaded.upfusion, "scene": loaded.scene}
    (images,) = run_node("UpFusionPredictViews", size=16, cameras=loaded.cameras, **inputs)
    ghost = loaded.library.predict(expected, loaded.cameras, 16)
    torch.testing.assert_close(images.movedim(-1, 1), ghost, atol=1e-5, rtol=0)
    cameras, report, picture = run_node("UpFusionPhotoCameras", **inputs)
    assert (picture.shape[0], picture.shape[1] > 128 * len(cameras)) == (1, True)
    found = core.estimate_photo_cameras(loaded.library, expected)
    torch.testing.assert_close(cameras.camera_to_world, found.cameras.camera_to_world, atol=1e-2, rtol=0)
    assert torch.equal(cameras.photos.accepted, found.accepted)
    assert len(report.splitlines()) == len(found)


def test_predicted_noise_is_the_library_s(pack: Pack, loaded: Loaded) -> None:
    stages = loaded.upfusion.stages(prior_of(pack, loaded))
    cond = stages.condition(loaded.scene, loaded.cameras)
    latents = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    for timestep, guidance in product((981, 500, 1), (1.0, GUIDANCE)):
        eps = stages.predict_noise(latents, timestep, cond, guidance)
        assert relative(eps, loaded.library.predict_noise(latents, timestep, cond, guidance)) < 1e-4


def test_images_latents_and_views_are_the_library_s(pack: Pack, loaded: Loaded) -> None:
    prior, generator = prior_of(pack, loaded), torch.Generator().manual_seed(2)
    rgb, noise = torch.rand(2, 3, 32, 32, generator=generator), torch.randn(2, 4, 8, 8, generator=generator)
    for drawn in (None, noise):
        expected = loaded.library.prior.encode(rgb, drawn)
        torch.testing.assert_close(prior.encode(rgb, drawn), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(prior.decode(noise), loaded.library.prior.decode(noise), atol=1e-4, rtol=0)
    options = {"steps": 4, "guidance": GUIDANCE, "seeds": [7, 8, 9, 10]}
    native = loaded.upfusion.stages(prior_of(pack, loaded)).sample(loaded.scene, loaded.cameras, **options)
    expected = loaded.library.sample(loaded.scene, loaded.cameras, **options)
    torch.testing.assert_close(native.rgb, expected.rgb, atol=1e-3, rtol=0)


def test_ksampler_walks_the_library_s_ddim(run_node: Run, pack: Pack, loaded: Loaded) -> None:
    """All steps but the last, which goes to noise 0 in ComfyUI and to the table's first entry in the release."""
    from comfy.sample import prepare_noise
    from comfy.samplers import ddim_scheduler

    steps, schedule = 10, pack("upfusion_core.pipeline.sampling")
    positive, negative, latent = conditioned(run_node, loaded)
    sampling = loaded.model.get_model_object("model_sampling")
    sigmas = ddim_scheduler(sampling, steps)
    assert [int(time) for time in sampling.timestep(sigmas[:-1])] == schedule.ddim_timesteps(steps)[::-1]
    noise = prepare_noise(latent["samples"], 3, latent["batch_index"])
    walk, cond = schedule.make_scheduler("ddim", steps), loaded.library.condition(loaded.scene, loaded.cameras)
    x = noise * sigmas[0] / (1 + sigmas[0] ** 2).sqrt()  # ComfyUI starts from sigma times the noise
    for index, time in enumerate(walk.timesteps[:-1]):
        x = walk.step(loaded.library.predict_noise(x, time, cond, GUIDANCE), time, x).prev_sample
        if index in (0, steps // 2, steps - 2):
            options = {"last_step": index + 1, "force_full_denoise": False}
            latents = k_sample(loaded.model, positive, negative, latent, steps, **options)
            assert relative(latents / (1 + sigmas[index + 1] ** 2).sqrt(), x) < 1e-3, f"step {index + 1}"


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


def test_four_cameras_are_one_call(loaded: Loaded, four: tuple, sampled: Tensor, run_node: Run) -> None:
    """And alone the same."""
    model, batches = loaded.model.clone(), []

    def call(apply_model: Callable, arguments: dict[str, Any]) -> Tensor:
        batches.append(len(arguments["input"]))
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    model.set_model_unet_function_wrapper(call)
    assert four[2]["batch_index"] == [0, 1, 2, 3]
    torch.testing.assert_close(k_sample(model, *four, steps=4), sampled)
    assert batches == [8, 8, 8, 8]  # both halves of guidance, four cameras each
    for index in range(4):
        positive, negative, latent = conditioned(run_node, loaded, loaded.cameras[index])
        alone = k_sample(loaded.model, positive, negative, {**latent, "batch_index": [index]})
        assert relative(alone, sampled[index : index + 1]) < 1e-3
    assert relative(sampled[:1], sampled[1:2]) > 0.1


def test_one_box_paints_what_the_three_nodes_paint(run_node: Run, loaded: Loaded, sampled: Tensor) -> None:
    inputs = loaded.inputs() | {"cameras": loaded.cameras, "seed": 3, "steps": 4, "guidance": 4.0}
    expected = loaded.vae.decode(loaded.model.get_model_object("latent_format").process_out(sampled))
    for batch_size in (4, 3):
        images, _ = run_node("UpFusionSampleViews", batch_size=batch_size, **inputs)
        torch.testing.assert_close(images, expected, atol=1e-3, rtol=0)


def test_strength_and_range_of_steps_are_honoured(run_node: Run, loaded: Loaded, four: tuple, sampled: Tensor) -> None:
    plain = k_sample(loaded.model, *loaded.upfusion.prompts(), four[2])
    options = ({"strength": 0.0}, {"start": 1.0, "end": 1.0}, {"strength": 0.5}, {"end": 0.5})
    off, never, half, first = (k_sample(loaded.model, *conditioned(run_node, loaded, **option)) for option in options)
    for unchanged in (off, never):
        torch.testing.assert_close(unchanged, plain, atol=1e-6, rtol=1e-5)
    assert relative(sampled, plain) > relative(half, plain) > 1e-3
    assert min(relative(first, plain), relative(first, sampled)) > 1e-3


def test_a_stock_controlnet_adds_its_residuals(run_node: Run, loaded: Loaded, four: tuple, sampled: Tensor) -> None:
    import nodes

    apply = nodes.ControlNetApplyAdvanced().apply_controlnet
    picture = torch.zeros(1, 32, 32, 3)
    after = apply(*four[:2], added_residuals(0.3), picture, 1.0, 0.0, 1.0)
    before = apply(*loaded.upfusion.prompts(), added_residuals(0.3), picture, 1.0, 0.0, 1.0)
    chained = conditioned(run_node, loaded, positive=before[0], negative=before[1])
    one, other = k_sample(loaded.model, *after, four[2]), k_sample(loaded.model, *chained)
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert relative(one, sampled) > 1e-3
    assert after[0][0][1]["control"].previous_controlnet is four[0][0][1]["control"]


def test_misuse_gets_a_sentence(run_node: Run, loaded: Loaded, four: tuple) -> None:
    positive, negative, latent = four
    stripped = [[positive[0][0], {"control": positive[0][1]["control"]}]]
    three, large = {"samples": torch.zeros(3, 4, 8, 8)}, {"samples": torch.zeros(4, 4, 16, 16)}
    refused("for 4 cameras, got a batch of 3 latents", k_sample, loaded.model, positive, negative, three)
    refused("latents of 8 x 8 cells, got", k_sample, loaded.model, positive, negative, large)
    refused("control but not its conditions", k_sample, loaded.model, stripped, stripped, latent)
    refused("holds UpFusion's conditions already", conditioned, run_node, loaded, positive=positive)
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
