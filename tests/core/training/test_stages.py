from typing import Any

import pytest
import torch
from refusals import refused
from tiny_training import SIZE, TinySource, tiny_config
from torch import Tensor, nn

from upfusion_core import HostedUpFusion, InputViews, SceneEncoding
from upfusion_core.models.checkpoint import Networks
from upfusion_core.models.stable_diffusion import decode_latents, encode_images
from upfusion_core.pipeline.prior import DiffusersPrior
from upfusion_core.pipeline.sampling import alphas_cumprod
from upfusion_core.training.batches import BatchRandom
from upfusion_core.training.initial import initial_networks
from upfusion_core.training.stages import OUTPUT_HALF, calibrate_latents, kept_conditions, make_stage, zeroed


def made(stage: str, **changes: Any) -> tuple[nn.Module, Networks, tuple[Tensor, Tensor]]:  # noqa: ANN401
    config = tiny_config(stage, **changes)
    networks, text = initial_networks(config.model)
    return make_stage(config, networks, text), networks, text


def silence(*layers: nn.Module) -> None:
    for layer in layers:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def terms_of(stage: nn.Module) -> dict[str, Tensor]:
    return stage(**stage.inputs(TinySource().batch(1), BatchRandom(0)))


def test_losses_by_hand() -> None:
    stage, networks, _ = made("encoder")
    silence(networks.upsrt.ray_decoder.rgb_mlp[-1])  # sigmoid(0) = 0.5
    inputs = stage.inputs(TinySource().batch(1), BatchRandom(0))
    torch.testing.assert_close(stage(**inputs)["rgb"], (inputs["colors"] - 0.5).square().mean())
    stage, networks, _ = made("diffusion", rgb_weight=0.0)
    silence(networks.unet.conv_out)
    inputs = stage.inputs(TinySource().batch(1), BatchRandom(0))
    assert inputs["noise"].shape == (4, 4, SIZE // 2, SIZE // 2)
    torch.testing.assert_close(stage(**inputs)["eps"], inputs["noise"].square().mean())
    stage, networks, _ = made("autoencoder", kl_weight=0.1)
    silence(networks.vae.quant_conv, networks.vae.decoder.conv_out)
    networks.vae.quant_conv.bias.data[:4] = 2.0  # mean 2, logvar 0: (4 + 1 - 1 - 0) / 2 = 2 nats
    inputs = stage.inputs(TinySource().batch(1), BatchRandom(0))
    loss = stage(**inputs)
    torch.testing.assert_close(loss["kl"], torch.tensor(0.2))
    error = inputs["pictures"] - 0.5  # it paints 0, i.e. grey
    torch.testing.assert_close(loss["l1"], error.abs().mean())
    torch.testing.assert_close(loss["mse"], 4 * error.square().mean())


def test_diffusion_trains_what_inference_computes() -> None:
    """The loss is that of the library's own prediction on the same latents, conditions included."""
    stage, networks, text = made("diffusion", dropout=0.0)
    batch = TinySource(1).batch(2)
    inputs = stage.inputs(batch, BatchRandom(0))
    views = InputViews(batch.photos[0], torch.ones_like(batch.photos[0, :, :1]), torch.full((3, 2), 4.5))
    prior = DiffusersPrior(networks, 8)
    parts = {"dino": networks.dino, "upsrt": networks.upsrt, "prior": prior, "text": text, "model_id": ""}
    model = HostedUpFusion(stage.config.model, **parts, device=torch.device("cpu"), dtype=torch.float32)
    cond = model.condition(SceneEncoding(model.set_latents(views), batch.references), batch.cameras)
    with torch.no_grad():
        latents = encode_images(networks.vae, batch.targets[0], inputs["posterior_noise"])
        alpha = alphas_cumprod()[inputs["timesteps"]][:, None, None, None]
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * inputs["noise"]
        losses = []
        for kept, conditions in ((True, cond), (False, cond.unconditional())):
            eps = prior.predict_noise(noisy, inputs["timesteps"], prior.prepare(conditions, guided=False), 1.0)
            losses.append(stage(**inputs | dict.fromkeys(("text_kept", "images_kept"), torch.tensor([kept])))["eps"])
            torch.testing.assert_close(losses[-1], (eps - inputs["noise"]).square().mean(), rtol=1e-4, atol=0)
    assert abs(float(losses[0] - losses[1])) > 1e-5


def test_conditions_are_dropped_as_often_as_the_paper_says() -> None:
    # r below p drops the text alone, from p to 2p both, from 2p to 3p the images alone
    text, images = kept_conditions(torch.tensor([0.0, 0.04, 0.05, 0.09, 0.10, 0.14, 0.15, 0.9]), 0.05)
    assert text.tolist() == [False] * 4 + [True] * 4
    assert images.tolist() == [True, True, False, False, False, False, True, True]
    for shape in ((4, 3, 2, 2), (4, 6, 1, 1), (2, 5, 7)):  # all images of a view, and of an object
        one, two = zeroed(torch.tensor([True, False]), torch.ones(shape)).chunk(2)
        assert one.eq(1).all()
        assert two.eq(0).all()


def named(networks: Networks, *parts: str) -> dict[str, nn.Parameter]:
    pairs = [(part, *item) for part in parts for item in getattr(networks, part).named_parameters()]
    return {f"{part}.{name}": value for part, name, value in pairs}


def got_gradients(networks: Networks) -> set[str]:
    gradients = {name: value.grad for name, value in named(networks, *vars(networks)).items()}
    return {name for name, value in gradients.items() if value is not None and value.abs().sum() > 0}


def test_what_each_stage_trains() -> None:
    for stage_name, changes, parts in (
        ("encoder", {}, ("dino", "upsrt")),
        ("encoder", {"train_dino": False}, ("upsrt",)),
        ("autoencoder", {}, ("vae",)),
        ("diffusion", {"dropout": 0.0}, ("dino", "upsrt", "controlnet", "unet")),
        ("diffusion", {"dropout": 0.0, "rgb_weight": 0.0}, ("dino", "upsrt", "controlnet", "unet")),
    ):
        stage, networks, _ = made(stage_name, **changes)
        sum(terms_of(stage).values()).backward()
        wanted = {name for name in named(networks, *parts) if not ("rgb_weight" in changes and "rgb_mlp" in name)}
        assert got_gradients(networks) == wanted  # without a colour loss, all but its network


@pytest.mark.parametrize("again", [False, True], ids=["kept", "checkpointed"])
def test_the_released_diffusion_trains_controlnet_and_output_half(again: bool) -> None:
    options = {"train_upsrt": False, "train_dino": False, "rgb_weight": 0.0, "train_unet": "output", "dropout": 0.0}
    stage, networks, _ = made("diffusion", gradient_checkpointing=again, **options)
    terms_of(stage)["eps"].backward()
    half = {f"unet.{name}" for name, _ in networks.unet.named_parameters() if name.startswith(OUTPUT_HALF)}
    assert got_gradients(networks) == named(networks, "controlnet").keys() | half
    assert all(value.requires_grad == (value.grad is not None) for value in stage.parameters())


@pytest.mark.parametrize("stage_name", ["encoder", "autoencoder", "diffusion"])
def test_checkpointing_changes_no_gradient(stage_name: str) -> None:
    gradients = []
    for again in (False, True):
        stage, networks, _ = made(stage_name, gradient_checkpointing=again)
        sum(terms_of(stage).values()).backward()
        parameters = named(networks, *vars(networks)).items()
        gradients.append({name: value.grad for name, value in parameters if value.grad is not None})
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_calibrated_latents_and_what_stages_refuse() -> None:
    _, networks, _ = made("autoencoder")
    vae = networks.vae.eval()
    pictures = TinySource(8).batch(0).targets.flatten(0, 1)
    noise = torch.randn(len(pictures), 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = decode_latents(vae, encode_images(vae, pictures))
        calibrate_latents(vae, pictures)
        after, sampled = encode_images(vae, pictures), encode_images(vae, pictures, noise)
        torch.testing.assert_close(decode_latents(vae, after), before, rtol=0, atol=2e-5)
    torch.testing.assert_close(after.mean(dim=(0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(sampled.std(dim=(0, 2, 3)), torch.ones(4), rtol=0, atol=0.05)
    stage, networks, text = made("diffusion")
    refused("embeddings of two prompts", make_stage, stage.config, networks, (text[0][:, :5], text[1]))
    nn.init.zeros_(networks.vae.quant_conv.weight)
    networks.vae.quant_conv.bias.data[4:] = -30.0
    refused("must vary", calibrate_latents, networks.vae, torch.rand(2, 3, 16, 16))
