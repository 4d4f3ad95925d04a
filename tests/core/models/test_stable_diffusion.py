import gzip
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from golden_files import golden, sizes, worst
from refusals import refused
from rule_weights import Shapes, golden_shapes, rule_state_dict, text_shapes

from upfusion_core.config import DiffusionConfig, VaeConfig
from upfusion_core.models import stable_diffusion as sd
from upfusion_core.models.controlnet import ControlNet
from upfusion_core.support.errors import MissingPackageError

SMALL = sizes("diffusion", DiffusionConfig), sizes("vae", VaeConfig), ("diffusion", "vae")
FULL = {}, {}, ("upfusion2d_full",)


def part(shapes: Shapes, prefix: str) -> Shapes:
    return {name: shape for name, shape in shapes.items() if name.startswith(prefix)}


@pytest.mark.parametrize(("diffusion", "autoencoder", "files"), [SMALL, FULL])
def test_names_and_shapes_and_the_conversion_of_diffusers(diffusion: dict, autoencoder: dict, files: tuple) -> None:
    config, vae_config = DiffusionConfig(**diffusion), VaeConfig(**autoencoder)
    shapes = {name: shape for file in files for name, shape in golden_shapes(file).items()}
    with torch.device("meta"):
        networks = sd.build_unet(config), ControlNet(config), sd.build_vae(vae_config)
    unet, control, vae = (network.state_dict() for network in networks)
    marked = {name: torch.ones(shape, device="meta") for name, shape in shapes.items()}
    names, theirs = sd.unet_names(config, unet), convert_ldm_unet_checkpoint(dict(marked), dict(networks[0].config))
    assert {own: id(value) for own, value in theirs.items()} == {own: id(marked[name]) for own, name in names.items()}
    assert {names[own]: tuple(value.shape) for own, value in unet.items()} == part(shapes, sd.UNET_PREFIX)
    control_names = {sd.CONTROL_PREFIX + own: tuple(value.shape) for own, value in control.items()}
    assert control_names == part(shapes, sd.CONTROL_PREFIX)
    assert (len(names), len(control)) == (686, 326)
    names, wanted = sd.vae_names(vae_config, vae), part(shapes, sd.VAE_PREFIX)
    converted = convert_ldm_vae_checkpoint(dict(marked), dict(networks[2].config))
    assert (set(names.values()), names.keys()) == (set(wanted), converted.keys())
    for own, name in names.items():  # attention is a 1x1 convolution there and a linear layer here
        assert tuple(vae[own].shape) == wanted[name][: vae[own].ndim]
        assert converted[own] is marked[name] or converted[own].ndim < len(wanted[name])


def test_text_names_are_those_of_the_checkpoint() -> None:
    shapes = text_shapes()
    assert len(shapes) == 196
    assert shapes[f"{sd.TEXT_PREFIX}embeddings.token_embedding.weight"] == (49408, 768)
    assert shapes[f"{sd.TEXT_PREFIX}encoder.layers.11.mlp.fc1.weight"] == (3072, 768)
    older = "text_model.final_layer_norm.bias"
    assert sd.text_names([older]) == {older: f"cond_stage_model.transformer.{older}"}


def test_the_two_prompts_that_need_no_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    default = sd.tokenize(sd.DEFAULT_PROMPT)[0].tolist()
    assert default == [49406, 320, 1400, 3027, 2867, 593, 320, 1579, 5994] + [49407] * 68
    assert sd.tokenize("")[0].tolist() == [49406] + [49407] * 76
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="pip install open_clip_torch"):
        sd.tokenize("a red mug")


def test_merges_are_read_from_the_package_that_ships_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in vocabulary: one merge, so "mug" is m + ug</w> and every token id follows by counting."""
    letters = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 256))]  # as GPT-2 spells bytes
    letters += [chr(256 + offset) for offset in range(256 - len(letters))]
    pairs = [f"{first} {second}" for first in letters for second in letters]
    lines = ["#version", "u g</w>", *pairs[:48893]]
    (tmp_path / "bpe_simple_vocab_16e6.txt.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    assert sd.tokenize("Mug")[0, :3].tolist() == [49406, ord("m") - ord("!"), 512]
    refused("at most 75 tokens, got 100", sd.tokenize, "m " * 100)


@pytest.mark.skipif(importlib.util.find_spec("open_clip") is None, reason="the extra `prompts` is not installed")
def test_the_default_prompt_through_the_real_vocabulary() -> None:
    assert sd._tokenizer_ids(sd.DEFAULT_PROMPT) == [320, 1400, 3027, 2867, 593, 320, 1579, 5994]


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
