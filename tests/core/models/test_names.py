"""Names of the checkpoint, of diffusers and of transformers."""

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from golden_files import sizes
from rule_weights import golden_shapes, text_shapes

from upfusion_core.config import DiffusionConfig, VaeConfig
from upfusion_core.models import stable_diffusion as sd
from upfusion_core.models.controlnet import ControlNet

Shapes = dict[str, tuple[int, ...]]


def part(shapes: Shapes, prefix: str) -> Shapes:
    return {name: tuple(shape) for name, shape in shapes.items() if name.startswith(prefix)}


@pytest.fixture(params=["small", "full"])
def manifest(request: pytest.FixtureRequest) -> tuple[DiffusionConfig, VaeConfig, Shapes]:
    if request.param == "full":
        return DiffusionConfig(), VaeConfig(), golden_shapes("upfusion2d_full")
    small = {**golden_shapes("diffusion"), **golden_shapes("vae")}
    return DiffusionConfig(**sizes("diffusion", DiffusionConfig)), VaeConfig(**sizes("vae", VaeConfig)), small


def test_names_and_shapes_and_the_conversion_of_diffusers(manifest: tuple[DiffusionConfig, VaeConfig, Shapes]) -> None:
    config, vae_config, shapes = manifest
    with torch.device("meta"):
        networks = sd.build_unet(config), ControlNet(config), sd.build_vae(vae_config)
    unet, control, vae = (network.state_dict() for network in networks)
    marked = {name: torch.full(tuple(shape), 1.0, device="meta") for name, shape in shapes.items()}
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
