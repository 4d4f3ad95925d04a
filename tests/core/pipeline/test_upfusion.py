"""The whole chain through the public names, on the golden sizes and on a small folder of weights."""

import dataclasses
import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from golden_files import QUERY_ROUNDING, golden, golden_cameras, sizes, worst
from refusals import refused, unfit
from rule_weights import golden_shapes, rule_state_dict
from torch import Tensor

from upfusion_core import SceneEncoding, UpFusion, convert, orbit_cameras, prepare_views
from upfusion_core.config import DiffusionConfig, DinoConfig, TextConfig, UpSRTConfig, VaeConfig
from upfusion_core.geometry import reference_camera
from upfusion_core.models.checkpoint import open_checkpoint
from upfusion_core.models.stable_diffusion import unet_names


@pytest.fixture(scope="module")
def model(small_weights: Path) -> UpFusion:
    """With a text encoder of its own."""
    return UpFusion.load(small_weights, device="cpu")


@pytest.fixture(scope="module")
def golden_model() -> UpFusion:
    kinds = {"upsrt": UpSRTConfig, "dino": DinoConfig, "diffusion": DiffusionConfig, "vae": VaeConfig}
    sections = {name: sizes(name, kind) for name, kind in kinds.items()}
    model = UpFusion({**sections, "image_size": 128})
    model.upsrt.load_state_dict(rule_state_dict(golden_shapes("upsrt")))
    weights = rule_state_dict(golden_shapes("diffusion"))
    names = unet_names(model.config.diffusion, model.unet.state_dict())
    model.controlnet.load_state_dict(rule_state_dict(golden_shapes("diffusion"), "control_model."))
    model.unet.load_state_dict({own: weights[name] for own, name in names.items()})
    return model


def test_the_chain_of_the_release(golden_model: UpFusion) -> None:
    stored = golden("guided")
    scene = SceneEncoding(stored["set_latents"][0], reference_camera())
    text = (stored["text_conditional"][0], stored["text_unconditional"][0])
    cond = golden_model.condition(scene, golden_cameras()[5], text_embeddings=text)
    # the release's own rays: features of up to 9, where float32's step is 9.5e-7, behind a dozen layers
    rays = stored["hint"][:, -6:].permute(0, 2, 3, 1).reshape(1, -1, 6)
    features = golden_model.upsrt.decode(stored["set_latents"], rays).reshape(1, 16, 16, -1).permute(0, 3, 1, 2)
    assert worst(features, stored["hint"][:, :-6]) < 2e-5
    # our rays: the highest harmonic, pi 2^8, turns their rounding into angles
    assert worst(cond.hint, stored["hint"]) < math.pi * 2**8 * QUERY_ROUNDING

    def noise(guidance: float) -> Tensor:
        return golden_model.predict_noise(stored["latents"], 481, cond, guidance=guidance)

    # numbers of up to 2, where the step is 2.4e-7, behind some fifty layers
    assert worst(noise(1.0), stored["eps_conditional"]) < 2e-5
    assert worst(noise(0.0), stored["eps_unconditional"]) < 2e-5
    assert worst(noise(9.0), stored["eps_guided_9"]) < (9 + 8) * 2e-5  # 9 times the one less 8 times the other
    latents, prepared = stored["latents"], golden_model.prepare(cond, guidance=9.0)
    assert worst(golden_model.predict_noise(latents, 481, prepared, guidance=4.0), noise(4.0)) == 0
    refused("must be prepared for guidance 1", golden_model.predict_noise, latents, 481, prepared, guidance=1.0)


def test_one_timestep_a_view_and_rays_of_zeros(model: UpFusion, scene: SceneEncoding) -> None:
    cond = model.condition(scene, orbit_cameras([0.0, 90.0]))
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    mixed = model.predict_noise(latents, torch.tensor([981, 21]), cond, guidance=3.0)
    assert worst(mixed[:1], model.predict_noise(latents[:1], 981, cond[slice(0, 1)], guidance=3.0)) < 1e-5
    assert worst(mixed[1:], model.predict_noise(latents[1:], 21, cond[slice(1, 2)], guidance=3.0)) < 1e-5
    plain, released = (model.condition(scene, orbit_cameras(30.0), zero_attention_rays=zero) for zero in (False, True))
    assert worst(plain.hint, released.hint) == 0
    assert all(float(ray_map.abs().max()) == 0 for ray_map in released.ray_maps)


def test_photos_two_to_six_are_a_set_and_photo_one_is_not(model: UpFusion, photos: list[Path]) -> None:
    camera = orbit_cameras(70.0, 10.0)

    def paint(order: list[int]) -> tuple[Tensor, Tensor]:
        scene = model.encode(prepare_views([photos[index] for index in order], size=64))
        return model.predict(scene, camera), model.sample(scene, camera, steps=2).rgb

    first, shuffled, exchanged = paint([0, 1, 2, 3, 4, 5]), paint([0, 4, 5, 1, 3, 2]), paint([1, 0, 2, 3, 4, 5])
    assert max(worst(a, b) for a, b in zip(first, shuffled, strict=True)) < 1e-4
    assert min(worst(a, b) for a, b in zip(first, exchanged, strict=True)) > 1e-3


def test_samples_follow_seed_and_object(model: UpFusion, scene: SceneEncoding, photos: list[Path]) -> None:
    cameras = orbit_cameras([0.0, 120.0])

    def sample(scene: SceneEncoding, seed: int, **options: object) -> Tensor:
        return model.sample(scene, cameras, 2, generator=torch.Generator().manual_seed(seed), **options).rgb

    first, other = sample(scene, 5), model.encode(prepare_views(photos[3:5], size=64))
    assert worst(sample(scene, 0, seeds=[5, 6]), first) == 0
    assert worst(sample(scene, 6), first) > 1e-3
    assert worst(sample(other, 5), first) > 1e-3


def test_constants_are_computed_once(model: UpFusion, scene: SceneEncoding) -> None:
    parts = {
        "hint": model.controlnet.input_hint_block[0],
        "set_latents": model.controlnet.middle_block[1].transformer_blocks[0].attn2.to_k,
        "text": next(module for name, module in model.unet.named_modules() if name.endswith("attn2")).to_v,
    }
    counts: Counter[str] = Counter()
    for name, module in parts.items():
        module.register_forward_hook(lambda *_, name=name: counts.update([name]))
    model.sample(scene, orbit_cameras([0.0, 90.0]), steps=3)
    assert counts == {"hint": 1, "set_latents": 1, "text": 1}


def test_each_camera_gets_a_hint_of_its_own(model: UpFusion, scene: SceneEncoding) -> None:
    cameras = orbit_cameras(torch.arange(6) * 60.0)
    hint = model.condition(scene, cameras).hint
    singles = torch.cat([model.condition(scene, camera).hint for camera in cameras])
    torch.testing.assert_close(singles, hint, rtol=0, atol=1e-4)
    assert torch.pdist(hint.flatten(1)).min() > 0.1


def test_prompts(model: UpFusion, scene: SceneEncoding) -> None:
    default = model.text_embeddings()
    assert worst(default[0], model.text_embeddings("a high quality image with a white background")[0]) == 0
    assert worst(default[0], default[1]) > 1e-3
    cond = model.condition(scene, orbit_cameras(0.0), text_embeddings=(default[1], default[0]))
    assert worst(cond.text, default[1]) == 0


def test_conversions_keep_the_model_s_id(model: UpFusion, small_weights: Path, tmp_path: Path) -> None:
    """And the text encoder of a merged file stays unloaded."""
    convert(small_weights, tmp_path / "model.safetensors")
    merged = UpFusion.load(tmp_path / "model.safetensors", device="cpu", dtype=torch.bfloat16)
    convert(tmp_path / "model.safetensors", tmp_path / "folder", dtype=torch.float16)
    assert merged.model_id == open_checkpoint(tmp_path / "folder").model_id == model.model_id
    assert worst(merged.text_embeddings()[0], model.text_embeddings()[0]) < 1e-6
    assert merged._text_encoder is None


def test_models_without_weights_or_text(model: UpFusion) -> None:
    silent = UpFusion(dataclasses.replace(model.config, text=TextConfig()))  # its text encoder would not fit the UNet
    assert silent.text is None
    with pytest.warns(UserWarning, match="zeros stand in the prompt's place"):
        conditional, _ = silent.text_embeddings()
    assert float(conditional.abs().max()) == 0
    unfit("take no prompt", silent.text_embeddings, "a red mug")
    empty = UpFusion(model.config)
    assert empty.text_embeddings()[0].shape == (77, 32)
    before = empty.model_id
    with torch.no_grad():
        empty.vae.quant_conv.bias += 1
    assert empty.model_id != before


def test_predictions_at_pixel_centres(model: UpFusion, scene: SceneEncoding) -> None:
    """The centres of n pixels are every second ray of the release's grid of 2n + 1, whose ends are on the border."""
    cameras = orbit_cameras([10.0, 50.0])
    centred = model.predict(scene, cameras, size=8, pixel_centers=True)
    assert worst(centred, model.predict(scene, cameras, size=17)[..., 1::2, 1::2]) < 1e-3
    assert worst(model.predict(scene, cameras, size=8), centred) > 0.01


def test_weights_that_are_not_finite_are_reported(small_weights: Path, photos: list[Path]) -> None:
    model = UpFusion.load(small_weights, device="cpu")
    views = prepare_views(photos[:1], size=64)
    scene = model.encode(views)
    refused(r"dtype must be torch\.float32", UpFusion.load, small_weights, dtype="float32")
    model.upsrt.ray_decoder.rgb_mlp[4].bias = torch.nn.Parameter(torch.full((3,), float("nan")))
    refused("predicted views", model.predict, scene, orbit_cameras(0.0))
    model.upsrt.linear_scene.bias = torch.nn.Parameter(torch.full((32,), float("nan")))
    refused("set latents", model.encode, views)


def test_scenes_and_cameras_of_others(model: UpFusion, golden_model: UpFusion, scene: SceneEncoding) -> None:
    refused("encoded by another model", golden_model.predict, scene, orbit_cameras(0.0))
    unknown = dataclasses.replace(scene, model_id=None)
    assert worst(model.predict(unknown, orbit_cameras(0.0)), model.predict(scene, orbit_cameras(0.0))) == 0
    with pytest.warns(UserWarning, match="trained at focal length 4.5"):
        model.predict(scene, orbit_cameras(0.0, focal=2.0), size=8)
