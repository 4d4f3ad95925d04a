"""Checkpoints: a folder in the released layout or one merged file, checked whole and loaded strictly into networks.

Both become the same set of merged names: those of upfusion2d.pt unchanged, `upsrt.` and `dino.` (torch-hub names)
before the others, `text_embeddings.default` and `text_embeddings.empty`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ..config import MODEL_ID, ModelConfig, from_value
from ..config.field import Guidance
from ..support.errors import CheckpointError
from ..support.files import BUNDLED_NAME, bundled_path, check_path, parse_json, read_json
from ..support.weights import check_finite_weights, find_weights, is_safetensors, misfits, read_metadata, read_weights
from . import stable_diffusion as sd
from .controlnet import ControlNet, widen
from .dino import DinoKeys, hub_names
from .upsrt import UpSRT

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

# config has Networks too
__all__ = ["Checkpoint", "latent_diffusion_weights", "load_conditioning_networks", "open_checkpoint"]

UPSRT_PREFIX, DINO_PREFIX = "upsrt.", "dino."
PARTS = {  # networks, as they are called to users, by the prefix of their merged names
    "UpSRT": UPSRT_PREFIX,
    "DINOv2": DINO_PREFIX,
    "ControlNet": sd.CONTROL_PREFIX,
    "UNet": sd.UNET_PREFIX,
    "VAE": sd.VAE_PREFIX,
}
DEFAULT_EMBEDDING, EMPTY_EMBEDDING = "text_embeddings.default", "text_embeddings.empty"
CONFIG_KEY, FACTS_KEY = "upfusion_config", "upfusion_facts"
RELEASED_GUIDANCE = 9.0
DINO_FILES = ("dinov2_vitb14_pretrain.pth", "model.safetensors", "pytorch_model.bin")
_DINO_STEMS = [name.partition(".")[0] for name in DINO_FILES]
SCHEDULE_BUFFERS = {
    *("betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod"),
    *("log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "logvar"),
    *("posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2"),
}


@dataclass(frozen=True)
class PartInfo:
    """How many tensors, parameters and bytes in the file a part of a checkpoint has, and in which precisions."""

    tensors: int
    parameters: int
    bytes: int
    dtypes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The opened files."""

    path: Path
    layout: Literal["folder", "merged"]
    config: ModelConfig
    weights: dict[str, Tensor]  # by merged names, mapped from the files
    model_id: str  # fingerprint of sizes and weights, the same in all files that were converted from one another
    facts: dict[str, Any] = field(default_factory=dict)  # how a merged file says it was made

    @property
    def has_text_encoder(self) -> bool:
        """Whether prompts of the user's own can be encoded."""
        return any(name.startswith(sd.TEXT_PREFIX) for name in self.weights)

    @property
    def text_embeddings(self) -> tuple[Tensor, Tensor] | None:
        """Stored (default, empty) prompt embeddings, (77, W) each, or None."""
        if DEFAULT_EMBEDDING in self.weights and EMPTY_EMBEDDING in self.weights:
            return self.weights[DEFAULT_EMBEDDING].float(), self.weights[EMPTY_EMBEDDING].float()
        return None

    def parts(self) -> dict[str, PartInfo]:
        """What it holds of each network, by the name it has for users."""
        found = {}
        for title, prefix in {**PARTS, "text encoder": sd.TEXT_PREFIX}.items():
            if tensors := [tensor for name, tensor in self.weights.items() if name.startswith(prefix)]:
                sizes = sum(tensor.numel() for tensor in tensors), sum(tensor.nbytes for tensor in tensors)
                kinds = {str(tensor.dtype).removeprefix("torch.") for tensor in tensors}
                found[title] = PartInfo(len(tensors), *sizes, tuple(sorted(kinds)))
        return found

    def text(self) -> str:
        """Where its prompt comes from."""
        encoder = ["a text encoder"] if self.has_text_encoder else []
        stored = ["stored embeddings of the default and the empty prompt"] if self.text_embeddings else []
        return " and ".join(encoder + stored) or "none: the model works without a prompt"


def weights_path(weights: str | Path) -> Path:
    """The file or folder that `weights` names, the bundled model for "mini"; CheckpointError if there is nothing."""
    if weights == BUNDLED_NAME:
        path = bundled_path(f"{BUNDLED_NAME}.safetensors")
        if not path.is_file():
            raise CheckpointError("this version bundles no model yet; give a folder of weights or a merged file")
        return path
    check_path("the path of weights", weights)
    if not os.path.exists(weights):
        raise CheckpointError(f"{weights} does not exist; give a folder with upsrt.pt, or a merged .safetensors file")
    return Path(weights)


def recommended_guidance(weights: str | Path) -> float:
    """The guidance scale that a merged file recommends among its facts, else the release's 9."""
    path = bundled_path(f"{BUNDLED_NAME}.safetensors") if weights == BUNDLED_NAME else Path(weights)
    if not is_safetensors(path):
        return RELEASED_GUIDANCE
    value = _facts(path, read_metadata(path)).get("guidance", RELEASED_GUIDANCE)
    return float(from_value(Guidance, value, f"{path}: the guidance among its facts", CheckpointError))


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Opens a folder or a merged `.safetensors` without loading it; checks every name and shape.

    Raises CheckpointError: a file is missing, damaged or another kind, or names do not fit: all are in the one message.
    """
    path = weights_path(path)
    content, source, weights, facts = _read_folder(path) if path.is_dir() else _read_merged(path)
    config, stored_id = ModelConfig.from_dict(content, source), content.get(MODEL_ID)
    model_id = stored_id if isinstance(stored_id, str) else weights_id(config, weights)
    checkpoint = Checkpoint(path, "folder" if path.is_dir() else "merged", config, weights, model_id, facts)
    pairs = weight_names(config, build_networks(config, "meta"))
    if checkpoint.has_text_encoder:
        pairs.append(_text_encoder(config))
    expected: dict[str, torch.Size] = {}
    for module, names in pairs:
        state = module.state_dict()
        expected |= {name: state[own].shape for own, name in names.items()}
    if DEFAULT_EMBEDDING in weights or EMPTY_EMBEDDING in weights:
        expected |= dict.fromkeys((DEFAULT_EMBEDDING, EMPTY_EMBEDDING), torch.Size([77, config.diffusion.context_dim]))
    used = {name: value for name, value in weights.items() if name in expected or not _ignored(name, config)}
    if faults := misfits(used, expected, padded=True):
        problem = f"{path} does not fit its configuration"
        raise CheckpointError(f"{problem}: {faults}. Check config.json or get the weights again")
    return checkpoint


@dataclass(frozen=True, eq=False)
class Networks:
    """The networks of a model, by stage; the text encoder is made only when a prompt is written."""

    dino: DinoKeys
    upsrt: UpSRT
    controlnet: ControlNet
    unet: UNet2DConditionModel
    vae: AutoencoderKL


def build_networks(config: ModelConfig, device: torch.device | str = "cpu") -> Networks:
    """All networks but the text encoder, on `device` ("meta" for names and shapes only), with initial weights."""
    with torch.device(device):
        dino, upsrt = DinoKeys(config.dino), UpSRT(config.upsrt)
        controlnet, unet = widen(ControlNet(config.diffusion)), widen(sd.build_unet(config.diffusion))
        return Networks(dino, upsrt, controlnet, unet, sd.build_vae(config.vae))


def weight_names(config: ModelConfig, networks: Networks) -> list[tuple[nn.Module, dict[str, str]]]:
    """Each network with its own parameter names -> the checkpoint's."""
    prefixed = [(networks.upsrt, UPSRT_PREFIX), (networks.dino, DINO_PREFIX), (networks.controlnet, sd.CONTROL_PREFIX)]
    return [
        *((module, {name: prefix + name for name in module.state_dict()}) for module, prefix in prefixed),
        (networks.unet, sd.unet_names(config.diffusion, networks.unet.state_dict())),
        (networks.vae, sd.vae_names(config.vae, networks.vae.state_dict())),
    ]


def network_weights(config: ModelConfig, networks: Networks) -> dict[str, Tensor]:
    """All weights of `networks` under their merged names, shaped as in the files; not copied, outside of autograd."""
    weights: dict[str, Tensor] = {}
    for module, names in weight_names(config, networks):
        state = module.state_dict()
        weights |= {name: stored_shape(name, state[own]) for own, name in names.items()}
    return weights


def set_network_weights(config: ModelConfig, networks: Networks, weights: Mapping[str, Tensor]) -> None:
    """Copies those of `weights` that the networks know into them.

    CheckpointError for one of another shape, and where some of a network's are there, and others are not.
    """
    own = network_weights(config, networks)
    known = {name: value for name, value in weights.items() if name in own}
    begun = tuple(prefix for prefix in PARTS.values() if any(name.startswith(prefix) for name in weights))
    wanted = {name: value.shape for name, value in own.items() if name.startswith(begun)}
    if faults := misfits(known, wanted, padded=True):
        raise CheckpointError(f"weights must fit the configuration, got {faults}; use the one they were made with")
    for name, value in known.items():
        own[name].copy_(value.reshape(own[name].shape))


def stored_shape(name: str, value: Tensor) -> Tensor:
    """A weight as in the files, where the VAE's attention is of 1x1 convolutions, and of linear layers in diffusers."""
    is_attention = name.startswith(sd.VAE_PREFIX) and ".attn_1." in name and value.ndim == 2
    return value[:, :, None, None] if is_attention else value


def _assign_weights(
    module: nn.Module,
    names: dict[str, str],
    weights: dict[str, Tensor],
    device: torch.device | str,
    dtype: torch.dtype,
    like: nn.Module | None = None,
) -> None:
    """Gives `module` (own names -> merged ones) its weights, frozen, shaped as in `like`: a host's have no shapes."""
    shapes = {name: value.shape for name, value in (like or module).state_dict().items()}
    check_finite_weights({name: weights[name] for name in names.values()}, dtype)
    # reshaped as stored_shape says; those in `dtype` stay mapped
    state = {own: weights[name].reshape(shapes[own]).to(device=device, dtype=dtype) for own, name in names.items()}
    module.load_state_dict(state, strict=True, assign=True)
    module.requires_grad_(False).eval()


def load_networks(checkpoint: Checkpoint, device: torch.device | str, dtype: torch.dtype) -> Networks:
    """The networks with the checkpoint's weights, frozen, in evaluation mode; weights in `dtype` stay mapped."""
    networks = build_networks(checkpoint.config, "meta")
    for module, names in weight_names(checkpoint.config, networks):
        _assign_weights(module, names, checkpoint.weights, device, dtype)
    return networks


def weights_id(config: ModelConfig, weights: Mapping[str, Tensor]) -> str:
    """Fingerprint of sizes and weights (merged names): 16 numbers of every tensor that the networks use."""
    digest = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode())
    for name in sorted(weights):
        if name.startswith(tuple(PARTS.values())) and not _ignored(name, config):
            sample = weights[name].detach().reshape(-1)[:16].float().cpu()
            digest.update(name.encode() + sample.numpy().tobytes())
    return digest.hexdigest()[:16]


def load_text_encoder(checkpoint: Checkpoint, device: torch.device | str = "cpu") -> nn.Module:
    """The text encoder in float32, because it runs once; CheckpointError where the checkpoint has none."""
    if not checkpoint.has_text_encoder:
        raise CheckpointError(f"{checkpoint.path} holds no text encoder, so it takes no prompt; leave the prompt away")
    encoder, names = _text_encoder(checkpoint.config)
    _assign_weights(encoder, names, checkpoint.weights, device, torch.float32)
    for module in encoder.modules():  # the one buffer that is not in the file
        if hasattr(module, "position_ids"):
            ids = torch.arange(module.position_embedding.num_embeddings, device=device).expand(1, -1)
            module.register_buffer("position_ids", ids, persistent=False)
    return encoder


def _text_encoder(config: ModelConfig) -> tuple[CLIPTextModel, dict[str, str]]:
    """Without weights, and its own parameter names -> the checkpoint's."""
    with torch.device("meta"):
        encoder = sd.build_text_encoder(config.text)
    return encoder, sd.text_names(encoder.state_dict())


_Files = tuple[dict[str, Any], str, dict[str, Tensor], dict[str, Any]]  # sizes and where they stand, weights, facts


def _read_merged(path: Path) -> _Files:
    if not is_safetensors(path):
        wanted = f"{path} must be a folder of weights or a merged .safetensors"
        raise CheckpointError(f"{wanted}, got a {path.suffix or 'nameless'} file; give the folder that holds it")
    metadata = read_metadata(path)
    if CONFIG_KEY not in metadata:
        problem = f"{path} is not a merged UpFusion file (no {CONFIG_KEY} in its metadata)"
        raise CheckpointError(f"{problem}; make one with upfusion convert")
    content = parse_json(metadata[CONFIG_KEY], f"{path} metadata", CheckpointError)
    return content, f"{path} metadata", read_weights(path), _facts(path, metadata)


def _facts(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    source = f"{path}: {FACTS_KEY} in its metadata"
    facts = parse_json(metadata.get(FACTS_KEY, "{}"), source, CheckpointError)
    return dict(from_value(dict[str, Any], facts, source, CheckpointError))


def _read_folder(path: Path) -> _Files:
    files: list[Path] = []
    for stem in ("upsrt", "upfusion2d"):
        found = find_weights(path, stem)
        if found is None:
            wanted = f"{path} must hold upsrt.pt, upfusion2d.pt and a DINOv2 file, but {stem}.pt is missing"
            raise CheckpointError(f"{wanted}; see the README")
        files.append(found)
    named, kinds = find_weights(path, *_DINO_STEMS), (".pth", ".bin", ".safetensors", ".pt")
    others = [file for file in sorted(path.iterdir()) if file.suffix in kinds]
    others = [file for file in others if not file.name.startswith(("upsrt", "upfusion2d"))]
    if named is None and len(others) != 1:
        wanted = f"{path} must hold one DINOv2 file ({', '.join(DINO_FILES)})"
        raise CheckpointError(f"{wanted}, got {len(others)} candidates; put it beside upsrt.pt")
    sizes = path / "config.json"
    content = read_json(sizes, CheckpointError) if sizes.exists() else {}
    weights = {UPSRT_PREFIX + name: tensor for name, tensor in read_weights(files[0]).items()}
    dino = hub_names(read_weights(named or others[0]))
    weights |= {DINO_PREFIX + name: tensor for name, tensor in dino.items()}
    return content, str(sizes), weights | read_weights(files[1]), {}


def _ignored(name: str, config: ModelConfig) -> bool:
    """Tensors of the published files that nothing here computes with."""
    if name in SCHEDULE_BUFFERS or name == sd.TEXT_PREFIX + "embeddings.position_ids":
        return True
    if not name.startswith(DINO_PREFIX):
        return False
    parts = name.removeprefix(DINO_PREFIX).split(".")
    later = parts[0] == "blocks" and len(parts) > 2 and parts[1].isdecimal() and int(parts[1]) >= config.dino.layer
    return later or parts[0] in ("norm", "mask_token")


def load_conditioning_networks(
    checkpoint: Checkpoint, *, ops: ModuleType | type, dtype: torch.dtype
) -> tuple[DinoKeys, UpSRT, ControlNet]:
    """The networks that tell the diffusion model what to paint, on the CPU, frozen; weights in `dtype` stay mapped.

    Args:
        ops: a namespace with torch.nn's layers, e.g. one whose layers cast their weights to their input's precision.

    Raises CheckpointError: some weights are NaN, infinite or too large for `dtype`.
    """

    def loaded(kind: Any, sizes: object, prefix: str) -> Any:  # noqa: ANN401 - one of the three classes
        with torch.device("meta"):
            plain, network = kind(sizes), kind(sizes, ops=ops)
        names = {name: prefix + name for name in plain.state_dict()}
        _assign_weights(network, names, checkpoint.weights, "cpu", dtype, plain)
        return network

    dino = loaded(DinoKeys, checkpoint.config.dino, DINO_PREFIX)
    upsrt = loaded(UpSRT, checkpoint.config.upsrt, UPSRT_PREFIX)
    return dino, upsrt, loaded(ControlNet, checkpoint.config.diffusion, sd.CONTROL_PREFIX)


def latent_diffusion_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """UNet, VAE and text encoder as in Stable Diffusion 1.5's `ldm` files, mapped; CheckpointError unless finite."""
    prefixes = (sd.UNET_PREFIX, sd.VAE_PREFIX, sd.TEXT_PREFIX)
    weights = {name: value for name, value in checkpoint.weights.items() if name.startswith(prefixes)}
    check_finite_weights(weights, torch.float32)
    return weights
