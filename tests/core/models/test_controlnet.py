import math
from copy import deepcopy
from unittest.mock import Mock

import pytest
import torch
from golden_files import golden, golden_cameras, sizes, worst
from rule_weights import golden_shapes, rule_state_dict
from torch import Tensor, nn
from torch.nn import Conv2d
from torch.nn import functional as F

from upfusion_core.config import DiffusionConfig
from upfusion_core.geometry import reference_camera, reference_plucker
from upfusion_core.models import stable_diffusion as sd
from upfusion_core.models.controlnet import ControlNet, WideConv2d, grouped_attention, split_heads, widen
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
def ray_maps() -> tuple[Tensor, ...]:
    cameras = Cameras.concatenate([golden_cameras()[5], golden_cameras()[2]])
    return tuple(reference_plucker(cameras, reference_camera(), size).permute(0, 3, 1, 2) for size in (16, 8, 4, 2))


def terms(module: nn.Module) -> int:
    return sum(weight[0].numel() for weight in module.parameters() if weight.ndim > 1)


def test_residuals_as_released(controlnet: ControlNet, ray_maps: tuple[Tensor, ...]) -> None:
    stored = golden("diffusion")
    constants = controlnet.constants(stored["hint"], ray_maps, stored["set_latents"])
    residuals = controlnet(stored["latents"], stored["timesteps"], constants)
    blocks = [*controlnet.input_blocks, controlnet.middle_block]
    ends = [*controlnet.zero_convs, controlnet.middle_block_out]
    before = terms(controlnet.input_hint_block)
    for index, (ours, block, end) in enumerate(zip(residuals, blocks, ends, strict=True)):
        # every term of the sums on the way is rounded by up to half of float32's step, 2^-23 of the value, in an order
        # that is the processor's: like a random walk these come as far as the square root of their number
        before += terms(block)
        theirs = stored[f"control_{index:02d}"]
        assert worst(ours, theirs) < 2**-24 * float(theirs.abs().max()) * math.sqrt(before + terms(end))


def test_noise_as_released(config: DiffusionConfig, controlnet: ControlNet, ray_maps: tuple[Tensor, ...]) -> None:
    stored = golden("diffusion")
    hint, tokens, latents, timesteps = (stored[name] for name in ("hint", "set_latents", "latents", "timesteps"))
    unet, weights = widen(sd.build_unet(config)).requires_grad_(False), rule_state_dict(golden_shapes("diffusion"))
    unet.load_state_dict({own: weights[name] for own, name in sd.unet_names(config, unet.state_dict()).items()})
    pairs = sd.prompt_keys_values(unet, stored["text"])

    def noise(*conditions: object) -> Tensor:
        residuals = controlnet(latents, timesteps, controlnet.constants(*conditions)) if conditions else None
        return sd.predict(unet, latents, timesteps, stored["text"], pairs, residuals)

    assert worst(noise(hint, ray_maps, tokens), stored["eps"]) < 1e-5
    zeros = tuple(torch.zeros_like(ray_map) for ray_map in ray_maps)
    assert worst(noise(hint, zeros, tokens), stored["eps_zero_rays"]) < 1e-5
    assert worst(noise(0 * hint, zeros, 0 * tokens), stored["eps_unconditional"]) < 1e-5
    assert worst(noise(), stored["eps_without_control"]) < 1e-5


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
    query, key, value = (torch.randn(*size, 6, generator=generator) for size in ((4, 5), (2, 7), (2, 7)))
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
    plain = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    pairs = zip(*(torch.autograd.grad(some.float().square().sum(), made) for some in (ours, plain)), strict=True)
    step = 2.0**-8  # of bfloat16, from 1; sums of seven
    assert worst(ours.detach(), plain.detach()) < 4 * step
    assert all(worst(mine, theirs) < 8 * step * theirs.abs().max() for mine, theirs in pairs)


def test_layers_come_from_the_host(config: DiffusionConfig) -> None:
    host = Mock(wraps=nn)
    network = ControlNet(config, ops=host)
    leaves = [type(module).__name__ for module in network.modules() if next(module.parameters(False), None) is not None]
    assert sorted(leaves) == sorted(name for name, *_ in host.method_calls)


@pytest.fixture
def unfold(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Called by every convolution that runs as a product."""
    counted = Mock(wraps=F.unfold)
    monkeypatch.setattr(F, "unfold", counted)
    return counted


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_products_are_the_convolution(stride: int, bias: bool, unfold: Mock) -> None:
    torch.manual_seed(0)
    plain = Conv2d(8, 96, 3, stride=stride, padding=1, bias=bias)
    wide = widen(deepcopy(plain))
    assert type(wide) is WideConv2d
    x = torch.randn(2, 8, 3, 4, requires_grad=True)
    ours, wanted = wide(x), plain(x)
    assert (unfold.call_count, ours.is_contiguous()) == (1, True)
    torch.testing.assert_close(ours, wanted, atol=1e-6, rtol=1e-5)
    upstream = torch.randn_like(wanted)
    slopes = torch.autograd.grad(ours, (x, wide.weight), upstream)
    expected = torch.autograd.grad(wanted, (x, plain.weight), upstream)
    torch.testing.assert_close(slopes, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("size", "dtype"), [(6, torch.float32), (3, torch.bfloat16)])
def test_large_maps_and_other_precisions_stay_with_torch(size: int, dtype: torch.dtype, unfold: Mock) -> None:
    wide = WideConv2d(4, 96, 3, padding=1).to(dtype)
    assert wide(torch.randn(1, 4, size, size, dtype=dtype)).shape == (1, 96, size, size)
    assert not unfold.called
