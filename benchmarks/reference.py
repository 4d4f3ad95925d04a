"""One guided denoising step of the released code at full size, stored for comparison.

    python benchmarks/reference.py WEIGHTS PHOTO... --out FOLDER [--golden FILE]

WEIGHTS is a folder with upsrt.pt, upfusion2d.pt and dinov2_vitb14_pretrain.pth; the photos are square, on white. Three
environment variables name the checkouts: see released_code.py. Networks are loaded one at a time and memory-mapped.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel  # before the stand-ins: it looks for torchvision

sys.path.append(str(Path(__file__).resolve().parent))

import released_code

if TYPE_CHECKING:
    from pytorch3d.renderer.cameras import PerspectiveCameras
    from pytorch3d.transforms import Transform3d

PROMPT_IDS = (49406, 320, 1400, 3027, 2867, 593, 320, 1579, 5994)
END_ID, TEXT_LENGTH = 49407, 77
TEXT_PREFIX = "cond_stage_model.transformer.text_model."
REFERENCE_ELEVATION = 22.5
TIMESTEP, GUIDANCE, AZIMUTH, ELEVATION, DISTANCE, SEED = 481, 9.0, 30.0, 22.5, 1.0, 0


@dataclass(frozen=True)
class ReleasedCondition:
    """keys (1, V, P, 768), tokens (1, V·P, 768), hint (1, 774, 32, 32), as the release computes them."""

    keys: Tensor
    tokens: Tensor
    hint: Tensor


def read_weights(path: Path) -> dict[str, Tensor]:
    """A released file's tensors, memory-mapped."""
    stored = torch.load(path, mmap=True, weights_only=True)
    return stored.get("model_state_dict", stored)


def without_prefix(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def read_photos(paths: list[Path]) -> Tensor:
    """(1, V, 3, S, S) in [-1, 1], the range that the release feeds its networks."""
    photos = [np.asarray(Image.open(path).convert("RGB"), dtype=np.float32) / 255 for path in paths]
    return torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2)[None] * 2 - 1


def build_dino(weights: dict[str, Tensor]) -> nn.Module:
    """The released key extractor: all 12 blocks run, a hook keeps what block 8 computes."""
    released_code.make_importable()
    from dino.model.model import DINOv2KeyExtractor

    extractor = DINOv2KeyExtractor(SimpleNamespace(model_key="dinov2_vitb14", layer_name="blocks.8.attn.qkv"))
    extractor.model.load_state_dict(weights, assign=True)
    return extractor.eval()


def build_upsrt(weights: dict[str, Tensor]) -> nn.Module:
    """The released scene transformer in the configuration of its inference script."""
    released_code.make_importable()
    from upsrt.model.model import UpSRT

    config = SimpleNamespace(
        num_pixel_queries=7168,
        transformer_dim=768,
        ray=SimpleNamespace(num_freqs=15, start_freq=-6, parameterize="plucker", view_space=False),
        feature_extractor=SimpleNamespace(num_patches_x=16, num_patches_y=16, image_feature_dim=768),
        ray_decoder=SimpleNamespace(num_decoder_layers=4, transformer_dim=768),
        scene_encoder=SimpleNamespace(num_encoder_layers=8, transformer_dim=768),
    )
    with torch.device("meta"):
        network = UpSRT(config)
    network.load_state_dict(weights, assign=True)
    return network.eval()


def build_diffusion(weights: dict[str, Tensor]) -> SimpleNamespace:
    """The released ControlNet and UNet, held as its ControlLDM.apply_model expects to find them on `self`."""
    released_code.make_importable()
    from control_net.cldm.cldm_dfslt import ControlledUnetModel, ControlNetSLT

    common = {
        "image_size": 32,
        "in_channels": 4,
        "model_channels": 320,
        "attention_resolutions": [4, 2, 1],
        "num_res_blocks": 2,
        "channel_mult": [1, 2, 4, 4],
        "num_heads": 8,
        "use_spatial_transformer": True,
        "transformer_depth": 1,
        "context_dim": 768,
        "legacy": False,
    }
    with torch.device("meta"):
        control, unet = ControlNetSLT(hint_channels=774, **common), ControlledUnetModel(out_channels=4, **common)
    control.load_state_dict(without_prefix(weights, "control_model."), assign=True)
    unet.load_state_dict(without_prefix(weights, "model.diffusion_model."), assign=True)
    return SimpleNamespace(
        control_model=control.eval(),
        model=SimpleNamespace(diffusion_model=unet.eval()),
        control_scales=[1.0] * 13,
        only_mid_control=False,
    )


def embed_text(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """(1, 77, 768) embeddings of the default and of the empty prompt; the release uses transformers here too."""
    with torch.device("meta"):
        network = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=768,
                intermediate_size=3072,
                num_attention_heads=12,
                num_hidden_layers=12,
                hidden_act="quick_gelu",
            )
        )
    prefix = "text_model." if any(name.startswith("text_model.") for name in network.state_dict()) else ""
    text = {f"{prefix}{name}": tensor for name, tensor in without_prefix(weights, TEXT_PREFIX).items()}
    ids = text.pop(f"{prefix}embeddings.position_ids", torch.arange(TEXT_LENGTH)[None])
    network.load_state_dict(text, assign=True)
    (network.text_model if prefix else network).embeddings.position_ids = ids
    tokens = [
        [*PROMPT_IDS, *[END_ID] * (TEXT_LENGTH - len(PROMPT_IDS))],
        [PROMPT_IDS[0], *[END_ID] * (TEXT_LENGTH - 1)],
    ]
    embedded = network.eval()(torch.tensor(tokens)).last_hidden_state
    return {"text": embedded[:1].contiguous(), "unconditional_text": embedded[1:].contiguous()}


def photo_cameras(count: int) -> list[PerspectiveCameras]:
    """`count` cameras without rotation and translation: poses are unknown."""
    return [_camera(torch.eye(3)[None], torch.zeros(1, 3)) for _ in range(count)]


def query_camera(azimuth: float, elevation: float, distance: float) -> PerspectiveCameras:
    """A turntable camera in the frame of photo 1, whose own camera is (I, (0, 0, 1)).

    The order of float32 operations is the release's, because UpSRT's highest frequency multiplies rays by 800.
    """
    released_code.make_importable()
    from pytorch3d.renderer.cameras import look_at_view_transform

    def to_camera(azimuth: float, elevation: float, distance: float) -> Transform3d:
        rotation, translation = look_at_view_transform(dist=distance, elev=elevation, azim=azimuth, degrees=True)
        return _transform(rotation, translation)

    photo_one = _transform(torch.eye(3)[None], torch.tensor([[0.0, 0.0, 1.0]]))
    to_world = photo_one.compose(to_camera(0.0, REFERENCE_ELEVATION, 1.0).inverse())
    matrix = to_world.compose(to_camera(azimuth, elevation, distance)).get_matrix()
    return _camera(matrix[:, :3, :3], matrix[:, 3, :3])


def _transform(rotation: Tensor, translation: Tensor) -> Transform3d:
    from pytorch3d.transforms import Transform3d

    matrix = torch.eye(4)[None].clone()
    matrix[:, :3, :3], matrix[:, 3, :3] = rotation, translation
    return Transform3d(matrix=matrix)


def _camera(rotation: Tensor, translation: Tensor) -> PerspectiveCameras:
    released_code.make_importable()
    from pytorch3d.renderer.cameras import PerspectiveCameras

    return PerspectiveCameras(
        R=rotation,
        T=translation,
        focal_length=torch.tensor([[4.5, 4.5]]),
        principal_point=torch.zeros(1, 2),
        image_size=torch.tensor([[256, 256]]),
    )


def condition(dino: nn.Module, upsrt: nn.Module, photos: Tensor, camera: PerspectiveCameras) -> ReleasedCondition:
    """What the release prepares for one camera: it extracts, encodes and decodes from the start every time."""
    keys = dino(photos)
    features, rays, tokens = upsrt.get_query_features(
        dino_features=keys,
        input_cameras=[photo_cameras(photos.shape[1])],
        query_cameras=[camera],
        image_size=(32, 32),
        decoder_return_type="pre_rgb_mlp_features",
        return_grid_rays=True,
        return_slt=True,
    )
    hint = torch.cat([features, rays], dim=3).permute(0, 3, 1, 2).contiguous()
    return ReleasedCondition(keys, tokens, hint)


def halves(
    text: dict[str, Tensor], prepared: ReleasedCondition, camera: PerspectiveCameras
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The conditional and the unconditional dictionary that the released sampler is given."""
    conditional = {
        "c_crossattn": [text["text"]],
        "hint": prepared.hint,
        "slt": prepared.tokens,
        "query_cameras": [camera],
    }
    unconditional = {
        "c_crossattn": [text["unconditional_text"]],
        "hint": torch.zeros_like(prepared.hint),
        "slt": torch.zeros_like(prepared.tokens),
        "query_cameras": [None],
    }
    return conditional, unconditional


def noise(diffusion: SimpleNamespace, latents: Tensor, timesteps: Tensor, condition: dict[str, Any]) -> Tensor:
    """The released ControlLDM's noise prediction, without guidance."""
    from control_net.cldm.cldm_dfslt import ControlLDM

    return ControlLDM.apply_model(diffusion, latents, timesteps, condition)


def sampler_noise(
    diffusion: SimpleNamespace, latents: Tensor, timesteps: Tensor, both: tuple[dict[str, Any], dict[str, Any]]
) -> Tensor:
    """(2, 4, h, w): unconditional and conditional noise as predicted inside the released sampler's step.

    It puts both halves into one batch and asks only the first camera, None, for rays: both halves get zeros.
    """
    from control_net.ldm.models.diffusion.ddim import DDIMSampler

    seen = []

    def recording(latents: Tensor, timesteps: Tensor, condition: dict[str, Any]) -> Tensor:
        seen.append(noise(diffusion, latents, timesteps, condition))
        return seen[-1]

    table = torch.full((1,), 0.5)  # any schedule: only the noise is wanted
    sampler = SimpleNamespace(
        model=SimpleNamespace(apply_model=recording, parameterization="eps"),
        ddim_alphas=table,
        ddim_alphas_prev=table,
        ddim_sigmas=torch.zeros(1),
        ddim_sqrt_one_minus_alphas=table.sqrt(),
    )
    DDIMSampler.p_sample_ddim_v2(
        sampler,
        latents,
        both[0],
        timesteps,
        index=0,
        unconditional_guidance_scale=GUIDANCE,
        unconditional_conditioning=both[1],
    )
    return seen[0]


def guided(unconditional: Tensor, conditional: Tensor) -> Tensor:
    return unconditional + GUIDANCE * (conditional - unconditional)


@torch.inference_mode()
def measure(weights: Path, photo_paths: list[Path]) -> dict[str, dict[str, Tensor]]:
    """Every stage's tensors, by file: inputs, conditioning, steps."""
    photos, camera = read_photos(photo_paths), query_camera(AZIMUTH, ELEVATION, DISTANCE)
    latents = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(SEED))
    started = time.perf_counter()
    dino = build_dino(read_weights(weights / "dinov2_vitb14_pretrain.pth"))
    prepared = condition(dino, build_upsrt(read_weights(weights / "upsrt.pt")), photos, camera)
    print(f"conditioning {time.perf_counter() - started:.1f} s")
    stored = read_weights(weights / "upfusion2d.pt")
    text = embed_text(stored)
    diffusion, timesteps = build_diffusion(stored), torch.tensor([TIMESTEP])
    both = halves(text, prepared, camera)
    started = time.perf_counter()
    conditional, unconditional = (noise(diffusion, latents, timesteps, half) for half in both)
    print(f"two predictions {time.perf_counter() - started:.1f} s")
    zero_rays = sampler_noise(diffusion, latents, timesteps, both)
    return {
        "inputs": {"photos": photos[0], "latents": latents, "R": camera.R, "T": camera.T, **text},
        "conditioning": {"keys": prepared.keys[0], "tokens": prepared.tokens[0], "hint": prepared.hint},
        "steps": {
            "eps": conditional,
            "eps_unconditional": unconditional,
            "eps_guided": guided(unconditional, conditional),
            "eps_zero_rays": zero_rays[1:],
            "eps_unconditional_zero_rays": zero_rays[:1],
            "eps_guided_zero_rays": guided(zero_rays[:1], zero_rays[1:]),
        },
    }


def compact(measured: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """What fits into a repository: the noise predictions whole, of everything larger a sample of 512 numbers."""
    kept = {"latents": measured["inputs"]["latents"], **measured["steps"]}
    large = {name: measured["inputs"][name] for name in ("text", "unconditional_text")} | measured["conditioning"]
    for name, tensor in large.items():
        kept[f"{name}_sample"] = sample(tensor)
    return {name: tensor.contiguous() for name, tensor in kept.items()}


def sample(tensor: Tensor, count: int = 512) -> Tensor:
    """`count` numbers spread evenly over the flattened tensor, the first and last included."""
    flat = tensor.flatten()
    return flat[torch.linspace(0, len(flat) - 1, count, dtype=torch.float64).long()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True, help="folder for inputs, conditioning, steps .safetensors")
    parser.add_argument("--golden", type=Path, help="file for the compact tensors that a test stores")
    arguments = parser.parse_args()
    measured = measure(arguments.weights, arguments.photos)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, tensors in measured.items():
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, arguments.out / f"{name}.safetensors")
        for key, tensor in tensors.items():
            print(f"{name}.{key} {tuple(tensor.shape)}: std {tensor.std():.4g}, largest {tensor.abs().max():.4g}")
    if arguments.golden:
        save_file(compact(measured), arguments.golden)


if __name__ == "__main__":
    main()
