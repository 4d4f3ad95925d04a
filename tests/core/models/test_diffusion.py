"""ControlNet, UNet and VAE against the release."""

import math
from unittest.mock import Mock

import pytest
import torch
from golden_files import golden, golden_cameras, sizes, worst
from refusals import refused
from rule_weights import golden_shapes, rule_state_dict
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from upfusion_core.config import DiffusionConfig, VaeConfig
from upfusion_core.geometry import reference_camera, reference_plucker
from upfusion_core.models import stable_diffusion as sd
from upfusion_core.models.controlnet import ControlNet, grouped_attention, split_heads, widen
from upfusion_core.types import Cameras


@pytest.fixture(scope="module")
def config() -> DiffusionConfig:
    return DiffusionConfig(**sizes("diffusion", DiffusionConfig))


@pytest.fixture(scope="module")
def controlnet(config: DiffusionConfig) -> ControlNet:
    network = widen(ControlNet(config))
    network.load_state_dict(rule_state_dict(golden_shapes("diffusion"), "control_model."))
    return network.requires_grad_(False)


@pytest.fixture(scope="module")
def unet(config: DiffusionConfig) -> nn.Module:
    network = widen(sd.build_unet(config))
    weights = rule_state_dict(golden_shapes("diffusion"))
    names = sd.unet_names(config, network.state_dict())
    network.load_state_dict({own: weights[name] for own, name in names.items()})
    return network.requires_grad_(False)


@pytest.fixture(scope="module")
def ray_maps() -> tuple[Tensor, ...]:
    cameras = Cameras.concatenate([golden_cameras()[5], golden_cameras()[2]])
    return tuple(reference_plucker(cameras, reference_camera(), size).permute(0, 3, 1, 2) for size in (16, 8, 4, 2))


def run(controlnet: ControlNet, unet: nn.Module, hint: Tensor, ray_maps: tuple[Tensor, ...], tokens: Tensor) -> Tensor:
    stored = golden("diffusion")
    latents, timesteps, text = stored["latents"], stored["timesteps"], stored["text"]
    residuals = controlnet(latents, timesteps, controlnet.constants(hint, ray_maps, tokens))
    return sd.predict(unet, latents, timesteps, text, sd.prompt_keys_values(unet, text), residuals)


def test_residuals_and_noise_as_released(controlnet: ControlNet, ray_maps: tuple[Tensor, ...], unet: nn.Module) -> None:
    stored = golden("diffusion")
    constants = controlnet.constants(stored["hint"], ray_maps, stored["set_latents"])
    residuals = controlnet(stored["latents"], stored["timesteps"], constants)

    def terms(module: nn.Module) -> int:
        return sum(weight[0].numel() for weight in module.parameters() if weight.ndim > 1)

    blocks = [*controlnet.input_blocks, controlnet.middle_block]
    ends = [*controlnet.zero_convs, controlnet.middle_block_out]
    before = terms(controlnet.input_hint_block)
    for index, (ours, block, end) in enumerate(zip(residuals, blocks, ends, strict=True)):
        # every term of the sums on the way is rounded by up to half of float32's step, 2^-23 of the value, in an order
        # that is the processor's: like a random walk these come as far as the square root of their number
        before += terms(block)
        theirs = stored[f"control_{index:02d}"]
        assert worst(ours, theirs) < 2**-24 * float(theirs.abs().max()) * math.sqrt(before + terms(end))
    hint, tokens, text = stored["hint"], stored["set_latents"], stored["text"]
    assert worst(run(controlnet, unet, hint, ray_maps, tokens), stored["eps"]) < 1e-5
    zeros = tuple(torch.zeros_like(ray_map) for ray_map in ray_maps)
    assert worst(run(controlnet, unet, hint, zeros, tokens), stored["eps_zero_rays"]) < 1e-5
    assert worst(run(controlnet, unet, 0 * hint, zeros, 0 * tokens), stored["eps_unconditional"]) < 1e-5
    eps = sd.predict(unet, stored["latents"], stored["timesteps"], text, sd.prompt_keys_values(unet, text), None)
    assert worst(eps, stored["eps_without_control"]) < 1e-5


def test_shared_and_blank_tokens(controlnet: ControlNet, ray_maps: tuple[Tensor, ...]) -> None:
    stored = golden("diffusion")
    tokens, second = stored["set_latents"], stored["set_latents"][1:]
    half_blank = torch.cat([torch.zeros_like(second), second])
    for shared, blank, whole in ((tokens[:1], 0, tokens[:1].repeat(2, 1, 1)), (second, 1, half_blank)):
        short = controlnet.constants(stored["hint"], ray_maps, shared, blank=blank)
        assert short.keys_values[0][0].shape[0] == 1
        long = controlnet.constants(stored["hint"], ray_maps, whole)
        pairs = (controlnet(stored["latents"], stored["timesteps"], constants) for constants in (short, long))
        assert max(worst(a, b) for a, b in zip(*pairs, strict=True)) < 1e-5


def test_attention_and_embedding_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(4, 5, 6, generator=generator)
    key, value = (torch.randn(2, 7, 6, generator=generator) for _ in range(2))
    ours = grouped_attention(query, split_heads(key, 2), split_heads(value, 2))
    for sample in range(4):
        for head in range(2):
            part = slice(3 * head, 3 * head + 3)
            scores = query[sample, :, part] @ key[sample // 2, :, part].T / 3**0.5
            assert worst(ours[sample, :, part], scores.softmax(-1) @ value[sample // 2, :, part]) < 1e-6


def test_attention_trains_in_bfloat16_on_a_cpu() -> None:
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(2, count, 8, generator=generator).bfloat16().requires_grad_() for count in (5, 7, 7)]
    query, key, value = made
    ours = grouped_attention(query, split_heads(key, 2), split_heads(value, 2))
    heads = [split_heads(each.float(), 2) for each in made]
    plain = scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    pairs = zip(*(torch.autograd.grad(some.float().square().sum(), made) for some in (ours, plain)), strict=True)
    step = 2.0**-8  # of bfloat16, from 1; sums of seven
    assert worst(ours.detach(), plain.detach()) < 4 * step
    assert all(worst(mine, theirs) < 8 * step * theirs.abs().max() for mine, theirs in pairs)


def test_layers_come_from_the_host(config: DiffusionConfig) -> None:
    host = Mock(wraps=nn)
    network = ControlNet(config, ops=host)
    leaves = [type(module).__name__ for module in network.modules() if next(module.parameters(False), None) is not None]
    assert sorted(leaves) == sorted(name for name, *_ in host.method_calls)


def test_the_autoencoder() -> None:
    config = VaeConfig(**sizes("vae", VaeConfig))
    vae = sd.build_vae(config)
    weights, state = rule_state_dict(golden_shapes("vae")), vae.state_dict()
    names = sd.vae_names(config, state)
    vae.load_state_dict({own: weights[name].reshape(state[own].shape) for own, name in names.items()})
    vae.requires_grad_(False)
    stored = golden("vae")
    posterior = vae.encode(stored["image"]).latent_dist
    assert worst(posterior.mean, stored["moments_mean"]) < 1e-5
    assert worst(posterior.logvar, stored["moments_logvar"]) < 1e-5
    assert worst(vae.decode(stored["z"]).sample, stored["decoded"]) < 1e-5
    image, mean = (stored["image"] + 1) / 2, stored["moments_mean"]
    noise = torch.randn(stored["z"].shape, generator=torch.Generator().manual_seed(0))
    drawn = mean + (0.5 * stored["moments_logvar"]).exp() * noise
    assert worst(sd.encode_images(vae, image, noise), 0.18215 * drawn) < 1e-5
    assert worst(sd.encode_images(vae, image), 0.18215 * mean) < 1e-5
    decoded = ((stored["decoded"] + 1) / 2).clamp(0, 1)
    assert worst(sd.decode_latents(vae, 0.18215 * stored["z"]), decoded) < 1e-5


def test_bad_sizes_and_conditions_get_a_sentence(controlnet: ControlNet, ray_maps: tuple[Tensor, ...]) -> None:
    refused("diffusion needs", DiffusionConfig, model_channels=100)
    refused("diffusion needs", DiffusionConfig, num_heads=7)
    refused("vae needs", VaeConfig, ch=100)
    stored = golden("diffusion")
    refused("ControlNet hint", controlnet.constants, stored["hint"][:, :50], ray_maps, stored["set_latents"])
    refused("4 ray maps", controlnet.constants, stored["hint"], ray_maps[:2], stored["set_latents"])
