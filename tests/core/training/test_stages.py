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


def terms_of(stage: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    return stage(**stage.inputs(TinySource().batch(1), BatchRandom(seed)))


def test_losses_by_hand() -> None:
    stage, networks, _ = made("encoder")
    last = networks.upsrt.ray_decoder.rgb_mlp[-1]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)  # sigmoid(0) = 0.5
    inputs = stage.inputs(TinySource().batch(1), BatchRandom(0))
    loss = stage(**inputs)
    torch.testing.assert_close(loss["rgb"], (inputs["colors"] - 0.5).square().mean())
    stage, networks, _ = made("diffusion", rgb_weight=0.0)
    nn.init.zeros_(networks.unet.conv_out.weight)
    nn.init.zeros_(networks.unet.conv_out.bias)
    inputs = stage.inputs(TinySource().batch(1), BatchRandom(0))
    assert inputs["noise"].shape == (4, 4, SIZE // 2, SIZE // 2)
    torch.testing.assert_close(stage(**inputs)["eps"], inputs["noise"].square().mean())
    stage, networks, _ = made("autoencoder", kl_weight=0.1)
    for layer in (networks.vae.quant_conv, networks.vae.decoder.conv_out):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
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
    text, images = kept_conditions(torch.rand(20000, generator=torch.Generator().manual_seed(0)), 0.05)
    shares = [float(share.float().mean()) for share in (~text & images, text & ~images, ~text & ~images)]
    assert shares == pytest.approx([0.05, 0.05, 0.05], abs=0.006)
    # by hand: r below p drops the text alone, from p to 2p both, from 2p to 3p the images alone
    text, images = kept_conditions(torch.tensor([0.0, 0.04, 0.05, 0.09, 0.10, 0.14, 0.15, 0.9]), 0.05)
    assert text.tolist() == [False] * 4 + [True] * 4
    assert images.tolist() == [True, True, False, False, False, False, True, True]
    # dropping the images zeroes all of them
    for shape in ((4, 3, 2, 2), (4, 6, 1, 1), (2, 5, 7)):  # of views, and of objects
        one, two = zeroed(torch.tensor([True, False]), torch.ones(shape)).chunk(2)
        assert one.eq(1).all()
        assert two.eq(0).all()


def got_gradients(networks: Networks) -> set[str]:
    named = [(part, *item) for part, network in vars(networks).items() for item in network.named_parameters()]
    return {f"{part}.{name}" for part, name, value in named if value.grad is not None and value.grad.abs().sum() > 0}


def all_names(networks: Networks, *parts: str) -> set[str]:
    return {f"{part}.{name}" for part in parts for name, _ in getattr(networks, part).named_parameters()}


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
        frozen = {name for name in all_names(networks, "upsrt") if "rgb_mlp" in name and "rgb_weight" in changes}
        assert got_gradients(networks) == all_names(networks, *parts) - frozen  # without a colour loss


@pytest.mark.parametrize("again", [False, True], ids=["kept", "checkpointed"])
def test_the_released_diffusion_trains_controlnet_and_output_half(again: bool) -> None:
    options = {"train_upsrt": False, "train_dino": False, "rgb_weight": 0.0, "train_unet": "output", "dropout": 0.0}
    stage, networks, _ = made("diffusion", gradient_checkpointing=again, **options)
    terms_of(stage)["eps"].backward()
    half = {f"unet.{name}" for name, _ in networks.unet.named_parameters() if name.startswith(OUTPUT_HALF)}
    found = got_gradients(networks)
    assert found == all_names(networks, "controlnet") | half
    trained = {id(value) for value in stage.parameters() if value.requires_grad}
    assert trained == {id(value) for value in stage.parameters() if value.grad is not None}


@pytest.mark.parametrize("stage_name", ["encoder", "autoencoder", "diffusion"])
def test_checkpointing_changes_no_gradient(stage_name: str) -> None:
    gradients = []
    for again in (False, True):
        stage, networks, _ = made(stage_name, gradient_checkpointing=again)
        sum(terms_of(stage).values()).backward()
        parameters = (value for network in vars(networks).values() for value in network.parameters())
        gradients.append({number: value.grad for number, value in enumerate(parameters) if value.grad is not None})
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_calibrated_latents_and_what_stages_refuse() -> None:
    _, networks, _ = made("autoencoder")
    vae = networks.vae.eval()
    pictures = TinySource(8).batch(0).targets.flatten(0, 1)
    with torch.no_grad():
        before = decode_latents(vae, encode_images(vae, pictures))
        calibrate_latents(vae, pictures)
        after = encode_images(vae, pictures)
        noise = torch.randn(len(pictures), 4, 8, 8, generator=torch.Generator().manual_seed(0))
        sampled = encode_images(vae, pictures, noise)
        torch.testing.assert_close(decode_latents(vae, after), before, rtol=0, atol=2e-5)
    torch.testing.assert_close(after.mean(dim=(0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(sampled.std(dim=(0, 2, 3)), torch.ones(4), rtol=0, atol=0.05)
    stage, networks, text = made("diffusion")
    refused("embeddings of two prompts", make_stage, stage.config, networks, (text[0][:, :5], text[1]))
    nn.init.zeros_(networks.vae.quant_conv.weight)
    networks.vae.quant_conv.bias.data[4:] = -30.0
    refused("must vary", calibrate_latents, networks.vae, torch.rand(2, 3, 16, 16))
