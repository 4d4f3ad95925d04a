from dataclasses import replace
from pathlib import Path

import pytest
import torch
from refusals import unfit
from safetensors.torch import load_file, save_file
from tiny_training import tiny_model
from torch import Tensor, nn

from upfusion_core.models import stable_diffusion as sd
from upfusion_core.models.checkpoint import Networks, build_networks, network_weights
from upfusion_core.models.convert import write_networks
from upfusion_core.training.initial import controlnet_from_unet, initial_networks

CONFIG = tiny_model()


@pytest.fixture(scope="module")
def networks() -> Networks:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return build_networks(CONFIG)


def saved(path: Path, weights: dict[str, Tensor]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in weights.items()}, path)
    return path


def same_weights(one: nn.Module, two: nn.Module) -> bool:
    theirs = two.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


def test_an_untrained_autoencoder_begins_with_more_signal_than_noise() -> None:
    started, _ = initial_networks(CONFIG)
    pictures = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        posterior = started.vae.encode(2 * pictures - 1).latent_dist
    assert float(posterior.std.max()) < 0.05  # exp(-8 / 2) = 0.018, were the weights 0
    assert float(posterior.mean.std()) > 4 * float(posterior.std.mean())


def test_the_controlnet_begins_as_the_unet_s_input_half(networks: Networks) -> None:
    """With the text in the set latents' place its features are the UNet's own, whatever the rays are."""
    controlnet = build_networks(CONFIG).controlnet
    controlnet_from_unet(controlnet, networks.unet)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    text = torch.randn(1, 7, CONFIG.diffusion.context_dim, generator=generator)
    rays = tuple(torch.randn(2, 6, size, size, generator=generator) for size in (8, 4))
    hint = torch.randn(2, CONFIG.diffusion.hint_channels, 8, 8, generator=generator)
    times = torch.tensor([10, 700])
    unet, seen = networks.unet, list[Tensor]()
    hooks = [unet.conv_in.register_forward_hook(lambda _, args, output: seen.append(output))]
    hooks += [part.register_forward_hook(lambda _, args, output: seen.extend(output[1])) for part in unet.down_blocks]
    hooks += [unet.mid_block.register_forward_hook(lambda _, args, output: seen.append(output))]
    constants = controlnet.constants(hint, rays, text)
    with torch.no_grad():
        residuals = controlnet(latents, times, constants)
        keys_values = sd.prompt_keys_values(unet, text)
        plain = sd.predict(unet, latents, times, text, keys_values, None)
        for hook in hooks:
            hook.remove()
        assert all(residual.eq(0).all() for residual in residuals)
        assert torch.equal(plain, sd.predict(unet, latents, times, text, keys_values, residuals))
        for block in [*controlnet.zero_convs, controlnet.middle_block_out]:
            block[0].weight.copy_(torch.eye(len(block[0].weight))[:, :, None, None])
        features = controlnet(latents, times, constants)
    torch.testing.assert_close([*features], seen, rtol=1e-4, atol=1e-5)


def test_nothing_to_start_from_is_a_seeded_start() -> None:
    state = torch.random.get_rng_state()
    (one, text), (two, same_text), (other, _) = (initial_networks(CONFIG, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.random.get_rng_state())
    assert same_weights(one.upsrt, two.upsrt)
    assert not same_weights(one.upsrt, other.upsrt)
    assert torch.equal(text[0], same_text[0])
    assert not torch.equal(*text)


def test_merged_files_and_single_networks(networks: Networks, tmp_path: Path) -> None:
    text = tuple(torch.rand(2, 77, CONFIG.diffusion.context_dim))
    write_networks(tmp_path / "m.safetensors", CONFIG, network_weights(CONFIG, networks), text)
    found, found_text = initial_networks(CONFIG, [tmp_path / "m.safetensors"])
    for part, network in vars(networks).items():
        assert same_weights(network, getattr(found, part)), part
    assert all(map(torch.equal, found_text, text))
    torch.save({"model_state_dict": networks.upsrt.state_dict()}, tmp_path / "upsrt.pt")
    torch.save(networks.dino.state_dict(), tmp_path / "dino.pth")
    found, text = initial_networks(CONFIG, [tmp_path / "upsrt.pt", tmp_path / "dino.pth"])
    assert same_weights(networks.upsrt, found.upsrt)
    assert same_weights(networks.dino, found.dino)
    assert not same_weights(networks.unet, found.unet)
    assert torch.equal(text[0], initial_networks(CONFIG)[1][0])


def diffusers_folder(networks: Networks, folder: Path, *, older: bool = False) -> Path:
    vae = networks.vae.state_dict()
    if older:
        names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
        for new, old in names.items():
            vae = {name.replace(new, old) if "attentions" in name else name: value for name, value in vae.items()}
    saved(folder / "unet" / "diffusion_pytorch_model.safetensors", networks.unet.state_dict())
    saved(folder / "vae" / "diffusion_pytorch_model.safetensors", vae)
    state = {f"text_model.{name}": value for name, value in text_weights().items()}
    saved(folder / "text_encoder" / "model.safetensors", state)
    return folder


def text_encoder() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return sd.build_text_encoder(CONFIG.text)


def text_weights() -> dict[str, Tensor]:
    return {name.removeprefix("text_model."): value for name, value in text_encoder().state_dict().items()}


@pytest.mark.parametrize("older", [False, True])
def test_stable_diffusion_in_diffusers_layout(networks: Networks, tmp_path: Path, older: bool) -> None:
    found, text = initial_networks(CONFIG, [diffusers_folder(networks, tmp_path, older=older)])
    assert same_weights(networks.unet, found.unet)
    assert same_weights(networks.vae, found.vae)
    assert found.controlnet.zero_convs[0][0].weight.eq(0).all()
    torch.testing.assert_close(found.controlnet.time_embed[0].weight, networks.unet.time_embedding.linear_1.weight)
    torch.testing.assert_close(text[0], sd.encode_tokens(text_encoder(), sd.tokenize(sd.DEFAULT_PROMPT))[0])


def test_half_precision(networks: Networks, tmp_path: Path) -> None:
    path = diffusers_folder(networks, tmp_path) / "vae" / "diffusion_pytorch_model.safetensors"
    saved(path.with_suffix(".fp16.safetensors"), {name: value.half() for name, value in load_file(path).items()})
    path.unlink()
    with pytest.warns(UserWarning, match=r"holds the weights as float16 only, in diffusion_pytorch_model\.fp16"):
        found, _ = initial_networks(CONFIG, [tmp_path])
    assert same_weights(networks.unet, found.unet)
    assert torch.equal(found.vae.quant_conv.weight, networks.vae.quant_conv.weight.half().float())


def test_stable_diffusion_in_one_file(networks: Networks, tmp_path: Path) -> None:
    every = network_weights(CONFIG, networks)
    weights = {name: value.clone() for name, value in every.items() if name.startswith((sd.UNET_PREFIX, sd.VAE_PREFIX))}
    weights |= {sd.TEXT_PREFIX + name: value for name, value in text_weights().items()}
    weights |= {"model_ema.decay": torch.ones(1), "betas": torch.ones(3)}
    found, _ = initial_networks(CONFIG, [saved(tmp_path / "sd15.safetensors", weights)])
    assert same_weights(networks.unet, found.unet)
    assert same_weights(networks.vae, found.vae)


def test_what_is_refused(networks: Networks, tmp_path: Path) -> None:
    def refuses(words: str, name: str, weights: dict[str, Tensor]) -> None:
        unfit(words, initial_networks, CONFIG, [saved(tmp_path / f"{name}.safetensors", weights)])

    refuses("must hold UpSRT", "other", {"lora.weight": torch.ones(1)})
    state = dict(networks.upsrt.state_dict())
    del state["linear_scene.bias"]
    refuses(r"1 missing: upsrt\.linear_scene\.bias", "part", state)
    refuses("must fit the configuration", "wrong", state | {"linear_scene.bias": torch.ones(5)})
    half = {sd.TEXT_PREFIX + "final_layer_norm.weight": torch.ones(32)}
    refuses("the text encoder to start from lacks", "text", half)
    (tmp_path / "sd" / "unet").mkdir(parents=True)
    unfit("got no such file", initial_networks, CONFIG, [tmp_path / "sd"])
    write_networks(tmp_path / "m.safetensors", CONFIG, network_weights(CONFIG, networks), initial_networks(CONFIG)[1])
    unfit(r"other sizes \(image_size\)", initial_networks, replace(CONFIG, image_size=32), [tmp_path / "m.safetensors"])
