"""What node tests load and know: a small model, the stock KSampler on it, a field of one colour, a tetrahedron."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from refusals import raised
from rule_weights import rule_tensor
from safetensors.torch import save_file
from torch import Tensor

from upfusion_core.config import DiffusionConfig, DinoConfig, ModelConfig, TextConfig, UpSRTConfig, VaeConfig
from upfusion_core.models.checkpoint import CONFIG_KEY, DEFAULT_EMBEDDING, EMPTY_EMBEDDING, build_networks
from upfusion_core.models.checkpoint import network_weights as weights_of

Pack = Callable[[str], ModuleType]
Run = Callable[..., tuple[Any, ...]]
refused = partial(raised, ValueError)  # the pack's own error classes are not those of an installed library
WIDTH = 48
GUIDANCE = 4.0
COLOR = (0.8, 0.4, 0.2)
"""sRGB of the field `ball` (conftest.py), the same everywhere."""


def quarter_model() -> ModelConfig:
    """32 pixel images, an autoencoder of three levels (4 pixels a latent cell), as the bundled model has."""
    upsrt = {"transformer_dim": WIDTH, "image_feature_dim": WIDTH, "num_heads": 4, "ff_dim": 96, "patches": (4, 4)}
    upsrt |= {"encoder_layers": 1, "decoder_layers": 1, "num_freqs": 8, "start_freq": -2}
    diffusion = {"model_channels": 32, "channel_mult": (1, 1, 2, 2), "context_dim": WIDTH, "hint_channels": WIDTH + 6}
    return ModelConfig(
        image_size=32,
        dino=DinoConfig(img_size=32, patch_size=8, embed_dim=WIDTH, depth=2, num_heads=4, layer=1),
        upsrt=UpSRTConfig(**upsrt),
        diffusion=DiffusionConfig(**diffusion),
        vae=VaeConfig(ch=32, ch_mult=(1, 2, 2), num_res_blocks=1),
        text=TextConfig(hidden_size=WIDTH, num_attention_heads=4, num_hidden_layers=2, intermediate_size=192),
    )


def write_merged(path: Path, config: ModelConfig) -> Path:
    """A merged file without text encoder, but with stored embeddings; every tensor follows from its name and shape."""
    shapes = {name: value.shape for name, value in weights_of(config, build_networks(config, "meta")).items()}
    shapes |= dict.fromkeys((DEFAULT_EMBEDDING, EMPTY_EMBEDDING), (77, config.diffusion.context_dim))
    tensors = {name: rule_tensor(name, tuple(shape)) for name, shape in shapes.items()}
    save_file(tensors, path, metadata={CONFIG_KEY: json.dumps(config.to_dict())})
    return path


def round_field(core: ModuleType, color: tuple[float, float, float]) -> Any:
    """A field of a ball of one colour, of a module with upfusion_core's names; see `ball` in conftest.py."""
    field = core.RadianceField(core.DistillConfig.draft().field)
    with torch.no_grad():
        field.mlp[-1].weight.zero_()
        field.mlp[-1].bias.copy_(torch.tensor([0.0, *(math.log(value / (1 - value)) for value in color)]))
    return field.requires_grad_(False).eval()


@dataclass(frozen=True)
class Loaded:
    """A file's outputs of UpFusionLoadModel, the library's model of the same file, and a scene of both."""

    upfusion: Any
    model: Any
    clip: Any
    vae: Any
    library: Any
    scene: Any
    cameras: Any

    def inputs(self) -> dict[str, Any]:
        """What nodes that use the diffusion model need."""
        return {"upfusion_model": self.upfusion, "model": self.model, "vae": self.vae, "scene": self.scene}


def relative(value: Tensor, expected: Tensor) -> float:
    return float((value - expected).norm() / expected.norm())


def close(found: Tensor, expected: Tensor | list[Any], atol: float = 1e-6) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), atol=atol, rtol=0)


def k_sample(model: Any, positive: Any, negative: Any, latent: dict, steps: int = 4, **options: Any) -> Tensor:
    """Latents from the stock KSampler, as scaled latents of the library."""
    import nodes

    chosen = {"seed": 3, "cfg": GUIDANCE, "sampler_name": "ddim", "scheduler": "ddim_uniform"} | options
    (result,) = nodes.common_ksampler(model, steps=steps, positive=positive, negative=negative, latent=latent, **chosen)
    return model.get_model_object("latent_format").process_in(result["samples"])


def conditioned(run_node: Run, loaded: Loaded, cameras: Any = None, **options: Any) -> tuple[Any, ...]:
    given = {"upfusion_model": loaded.upfusion, "scene": loaded.scene, "cameras": cameras or loaded.cameras}
    return run_node("UpFusionConditioning", **given, **options)


def prior_of(pack: Pack, loaded: Loaded, model: Any = None) -> Any:
    prompts = loaded.upfusion.prompts()
    return pack("nodes.control").NativePrior(loaded.upfusion, model or loaded.model, loaded.vae, prompts)


class PlainMesh(SimpleNamespace):
    """ComfyUI's MESH as far as the nodes use it, for hosts that have a stub only; also whatever a test makes of it."""

    def __init__(self, **parts: Any) -> None:
        names = ("vertices", "faces", "uvs", "vertex_colors", "texture", "vertex_counts", "face_counts")
        super().__init__(**(dict.fromkeys(names) | {"unlit": False} | parts))


def a_mesh(**changes: Any) -> PlainMesh:
    """A MESH of a tetrahedron with a linear colour at each corner."""
    vertices = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]])
    faces = torch.tensor([[[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]])
    colors = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0, 0.2142, 0], [0, 0, 1]]])  # 0.2142 is 0.5 in sRGB
    return PlainMesh(**({"vertices": vertices, "faces": faces, "vertex_colors": colors} | changes))
