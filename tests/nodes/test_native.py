"""The native half in a real ComfyUI, against the library: the same numbers from the same noise."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from small_models import GUIDANCE, Loaded, Pack, Run, conditioned, k_sample, prior_of, relative

pytestmark = [pytest.mark.comfyui, pytest.mark.usefixtures("as_in_a_prompt")]


def test_a_file_without_text_encoder_loads_with_its_own_ratio(loaded: Loaded) -> None:
    from comfy.latent_formats import SD15

    assert loaded.clip is None
    assert loaded.vae.spacial_compression_decode() == loaded.vae.spacial_compression_encode() == 4
    pictures = loaded.vae.decode(torch.zeros(2, 4, 8, 8))
    assert pictures.shape == (2, 32, 32, 3)
    assert loaded.vae.encode(pictures).shape == (2, 4, 8, 8)
    assert [patcher.model_size() > 0 for patcher in loaded.upfusion.get_models()] == [True] * 3
    latent_format = loaded.model.get_model_object("latent_format")
    assert (latent_format.scale_factor, latent_format.spacial_downscale_ratio) == (0.18215, 4)
    assert torch.tensor(latent_format.latent_rgb_factors).shape == (4, 3)
    assert latent_format.latent_rgb_factors != SD15().latent_rgb_factors


def test_previews_show_the_colours_of_a_linear_autoencoder(pack: Pack) -> None:
    mixing = torch.tensor([[1.0, 0, 2, 1], [0, 3, 1, 0], [2, 1, 0, 1]])

    class Linear:
        def spacial_compression_encode(self) -> int:
            return 4

        def encode(self, pictures: torch.Tensor) -> torch.Tensor:
            cells = torch.nn.functional.avg_pool2d(pictures.movedim(-1, 1), 4)
            return (torch.einsum("nchw,cl->nlhw", cells, mixing) - 1) / 0.5

    factors = pack("nodes.host").preview_factors(Linear(), 0.5)
    colors = torch.tensor([[0.2, 0.4, 0.9], [1.0, 0.0, 0.5]])
    shown = torch.cat([colors @ mixing - 1, torch.ones(2, 1)], dim=1) @ factors
    torch.testing.assert_close(shown, 2 * colors - 1, atol=1e-4, rtol=0)


def test_a_folder_with_text_encoder_gives_a_clip(
    run_node: Run, pack: Pack, core: ModuleType, models_folder: Path, small_weights: Path
) -> None:
    (models_folder / "sub").mkdir()
    (models_folder / "sub" / "small").symlink_to(small_weights)
    names = pack("nodes.files").model_names()
    assert names[0] == "mini"
    assert "sub/small" in names
    assert not any("upsrt" in name for name in names)
    upfusion, model, clip, vae = run_node("UpFusionLoadModel", weights="sub/small", precision="float32")
    library = core.UpFusion.load(small_weights, device="cpu", dtype=torch.float32)
    prompt = "a high quality image with a white background"
    for text, expected in zip(upfusion.text, library.text_embeddings(), strict=True):
        torch.testing.assert_close(text, expected, atol=2e-5, rtol=0)
    (encoded,) = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
    torch.testing.assert_close(encoded[0][0], upfusion.text[0], atol=2e-5, rtol=0)
    assert model.model.model_config.unet_config["num_heads"] == 8
    assert vae.spacial_compression_decode() == 8


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_is_kept_and_computed_in_full_on_a_cpu(run_node: Run, loaded: Loaded, precision: str) -> None:
    upfusion, model, _, _ = run_node("UpFusionLoadModel", weights="quarter.safetensors", precision=precision)
    dtype = getattr(torch, precision)
    assert upfusion.controlnet.model.input_hint_block[0].weight.dtype == dtype
    assert model.model.diffusion_model.dtype == dtype
    assert upfusion.dtype == torch.float32
    tokens = upfusion.stages().encode(loaded.scene.views).tokens
    assert 0 < relative(tokens, loaded.scene.tokens) < 0.02


def test_the_first_stage_is_the_library_s(run_node: Run, loaded: Loaded) -> None:
    expected = loaded.library.encode(loaded.scene.views)
    torch.testing.assert_close(loaded.scene.tokens, expected.tokens, atol=1e-5, rtol=1e-5)
    assert loaded.scene.model_id == expected.model_id
    inputs = {"upfusion_model": loaded.upfusion, "scene": loaded.scene, "cameras": loaded.cameras}
    (images,) = run_node("UpFusionPredictViews", size=16, **inputs)
    ghost = loaded.library.predict(expected, loaded.cameras, 16)
    torch.testing.assert_close(images.movedim(-1, 1), ghost, atol=1e-5, rtol=0)


def test_the_photos_cameras_are_the_library_s(core: ModuleType, run_node: Run, loaded: Loaded) -> None:
    cameras, report = run_node("UpFusionPhotoCameras", upfusion_model=loaded.upfusion, scene=loaded.scene)
    expected = core.estimate_photo_cameras(loaded.library, loaded.library.encode(loaded.scene.views))
    torch.testing.assert_close(cameras.camera_to_world, expected.cameras.camera_to_world, atol=1e-2, rtol=0)
    lines = report.splitlines()
    assert len(lines) == len(expected)
    assert lines[0] == "photo 1: azimuth 0.0, elevation 22.5 degrees, the reference"
    assert all(line.startswith(f"photo {number}: azimuth ") for number, line in enumerate(lines, start=1))


@pytest.mark.parametrize("guidance", [1.0, GUIDANCE])
def test_predicted_noise_is_the_library_s(pack: Pack, loaded: Loaded, guidance: float) -> None:
    stages = loaded.upfusion.stages(prior_of(pack, loaded))
    cond = stages.condition(loaded.scene, loaded.cameras)
    latents = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    for timestep in (981, 500, 1):
        eps = stages.predict_noise(latents, timestep, cond, guidance)
        assert relative(eps, loaded.library.predict_noise(latents, timestep, cond, guidance)) < 1e-4


def test_images_and_latents_are_the_library_s(pack: Pack, loaded: Loaded) -> None:
    prior, generator = prior_of(pack, loaded), torch.Generator().manual_seed(2)
    rgb, noise = torch.rand(2, 3, 32, 32, generator=generator), torch.randn(2, 4, 8, 8, generator=generator)
    for drawn in (None, noise):
        expected = loaded.library.prior.encode(rgb, drawn)
        torch.testing.assert_close(prior.encode(rgb, drawn), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(prior.decode(noise), loaded.library.prior.decode(noise), atol=1e-4, rtol=0)


def test_the_library_s_loop_gives_the_same_views_on_both_priors(pack: Pack, loaded: Loaded) -> None:
    options = {"steps": 4, "guidance": GUIDANCE, "seeds": [7, 8, 9, 10]}
    native = loaded.upfusion.stages(prior_of(pack, loaded)).sample(loaded.scene, loaded.cameras, **options)
    expected = loaded.library.sample(loaded.scene, loaded.cameras, **options)
    torch.testing.assert_close(native.rgb, expected.rgb, atol=1e-3, rtol=0)


def test_ksampler_walks_the_library_s_ddim(run_node: Run, pack: Pack, loaded: Loaded) -> None:
    """All steps but the last, which goes to noise 0 in ComfyUI and to the table's first entry in the release."""
    from comfy.sample import prepare_noise
    from comfy.samplers import ddim_scheduler

    steps = 10
    positive, negative, latent = conditioned(run_node, loaded)
    sampling = loaded.model.get_model_object("model_sampling")
    sigmas = ddim_scheduler(sampling, steps)
    schedule = pack("upfusion_core.pipeline.sampling")
    times = schedule.ddim_timesteps(steps)[::-1]
    assert [int(time) for time in sampling.timestep(sigmas[:-1])] == times
    noise = prepare_noise(latent["samples"], 3, latent["batch_index"])
    walk, cond = schedule.make_scheduler("ddim", steps), loaded.library.condition(loaded.scene, loaded.cameras)
    x = noise * sigmas[0] / (1 + sigmas[0] ** 2).sqrt()  # ComfyUI starts from sigma times the noise
    for index, time in enumerate(walk.timesteps[:-1]):
        x = walk.step(loaded.library.predict_noise(x, time, cond, GUIDANCE), time, x).prev_sample
        if index in (0, steps // 2, steps - 2):
            options = {"last_step": index + 1, "force_full_denoise": False}
            latents = k_sample(loaded.model, positive, negative, latent, steps, **options)
            sigma = sigmas[index + 1]
            scaled = latents / (1 + sigma**2).sqrt()
            assert relative(scaled, x) < 1e-3, f"step {index + 1}"
