"""The weights that training starts from: our own files, Stable Diffusion 1.5 in either layout, or nothing."""

from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..config import ModelConfig
from ..models import checkpoint
from ..models import stable_diffusion as sd
from ..models.controlnet import ControlNet
from ..models.dino import hub_names
from ..support.devices import derived_seed, generator_for
from ..support.errors import CheckpointError
from ..support.weights import find_weights, is_safetensors, read_metadata, read_weights

FIRST_LOG_VARIANCE = -8.0
# convolutions of an autoencoder outside its residual blocks, as diffusers names them
_PASSED_THROUGH = ("conv_in.", "conv_out.", "quant_conv.", "samplers.")
_FOLDER_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
# of the VAE's attention in files of older diffusers, and in newer ones
_OLDER_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def initial_networks(
    config: ModelConfig, sources: Sequence[str | Path] = (), *, seed: int = 0, required: Collection[str] = ()
) -> tuple[checkpoint.Networks, tuple[Tensor, Tensor]]:
    """Networks to train from, on the CPU in float32, and the (default, empty) prompt's embeddings, (77, W) each.

    Later sources replace parts of earlier ones; weights that none has are drawn by `seed`, but a ControlNet starts from
    a source's UNet. Without a text encoder and stored embeddings, two fixed random embeddings stand in the prompts'
    place. CheckpointError if a source cannot be read, holds part of a network only, or one of other sizes, or one of
    the `required` parts (of models.checkpoint.PARTS), which nothing trains, is in none.
    """
    weights: dict[str, Tensor] = {}
    for source in sources:
        weights |= read_initial_weights(source, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "weights"))
        networks = checkpoint.build_networks(config)
    found = {part for part, prefix in checkpoint.PARTS.items() if any(name.startswith(prefix) for name in weights)}
    lacking = [part for part in checkpoint.PARTS if part in required and part not in found]
    if lacking:
        wanted = f"this stage does not train {' and '.join(lacking)}, so weights to start from must hold them, got none"
        raise CheckpointError(f"{wanted}; give a file that does (--init), e.g. of the stage before")
    checkpoint.set_network_weights(config, networks, weights)
    if "VAE" not in found:
        # torch's own start shrinks a signal by 1/sqrt(3) a convolution: it would drown in noise for thousands of steps
        with torch.no_grad():
            for name, parameter in networks.vae.named_parameters():
                if name.endswith(".weight") and any(part in name for part in _PASSED_THROUGH):
                    parameter *= 3**0.5
            last, half = networks.vae.quant_conv, len(networks.vae.quant_conv.bias) // 2
            last.weight[half:] *= 0.1
            last.bias[half:] = FIRST_LOG_VARIANCE
    if "UNet" in found and "ControlNet" not in found:
        controlnet_from_unet(networks.controlnet, networks.unet)
    return networks, _embeddings(config, weights)


def read_initial_weights(source: str | Path, config: ModelConfig) -> dict[str, Tensor]:
    """Weights of a file or folder under their merged names (see models.checkpoint); CheckpointError if it is none.

    A folder with `unet` is read in diffusers' layout (SD 1.5), any other in the released one; a merged `.safetensors`
    and single files of UpSRT, DINOv2 (either layout) or SD 1.5 are told apart by the names of their weights.
    """
    path, found = Path(source), dict[str, Tensor]()
    for part in ("unet", "vae", "text_encoder") if (path / "unet").is_dir() else ():
        file = find_weights(path / part, *_FOLDER_STEMS)
        if file is None:
            if part == "text_encoder" or (part == "vae" and not (path / part).exists()):
                continue
            wanted = f"{path / part} must hold {_FOLDER_STEMS[0]}.safetensors"
            raise CheckpointError(f"{wanted}, got no such file; download it again")
        weights = read_weights(file)
        if part == "vae":
            for old, new in _OLDER_ATTENTION.items():
                weights = {name.replace(old, new): tensor for name, tensor in weights.items()}
            names = sd.vae_names(config.vae, weights)
        else:
            names = sd.unet_names(config.diffusion, weights) if part == "unet" else sd.text_names(weights)
        found |= {ldm: checkpoint.stored_shape(ldm, weights[name]) for name, ldm in names.items()}
    if found:
        return found
    is_merged = is_safetensors(path) and checkpoint.CONFIG_KEY in read_metadata(path)
    if path.is_dir() or is_merged:
        opened = checkpoint.open_checkpoint(path)
        sizes, sections = opened.config, ("upsrt", "dino", "diffusion", "vae", "image_size")
        differing = [name for name in sections if getattr(sizes, name) != getattr(config, name)]
        if differing:
            values = f"must be {getattr(config, differing[0])}, got {getattr(sizes, differing[0])}"
            problem = f"{path} was made with other sizes ({', '.join(differing)}): {differing[0]} {values}"
            raise CheckpointError(f"{problem}; change the section model of the training configuration")
        return opened.weights
    weights = read_weights(path)
    if "linear_scene.weight" in weights:
        return {checkpoint.UPSRT_PREFIX + name: tensor for name, tensor in weights.items()}
    if "cls_token" in weights or "embeddings.cls_token" in weights:
        return {checkpoint.DINO_PREFIX + name: tensor for name, tensor in hub_names(weights).items()}
    known = (sd.UNET_PREFIX, sd.VAE_PREFIX, sd.TEXT_PREFIX, sd.CONTROL_PREFIX)
    kept = {name: tensor for name, tensor in weights.items() if name.startswith(known)}
    if not kept:
        wanted = f"{path} must hold UpSRT, DINOv2 or Stable Diffusion 1.5 weights"
        raise CheckpointError(f"{wanted}, got names like {next(iter(weights))}; choose another file")
    return kept


@torch.no_grad()
def controlnet_from_unet(controlnet: ControlNet, unet: nn.Module) -> None:
    """Copies the UNet's input half and middle into the ControlNet, its attention to text becoming that to set latents.

    The six columns of every `proj_in` that read rays, the hint's convolution and those of the outputs start at zero, so
    that the UNet's output does not change at first. Both are of one configuration.
    """
    state = unet.state_dict()
    names = sd.unet_names(controlnet.config, state)
    copied = {ldm.removeprefix(sd.UNET_PREFIX): state[name] for name, ldm in names.items()}
    for name, parameter in controlnet.named_parameters():
        if name.startswith(("zero_convs.", "middle_block_out.", "input_hint_block.")):
            parameter.zero_()
            continue
        value = copied[name]
        if name.endswith(".proj_in.weight"):
            value = torch.cat([value, value.new_zeros(len(value), 6, 1, 1)], dim=1)
        parameter.copy_(value)


def _embeddings(config: ModelConfig, weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    if checkpoint.DEFAULT_EMBEDDING in weights and checkpoint.EMPTY_EMBEDDING in weights:
        return weights[checkpoint.DEFAULT_EMBEDDING].float(), weights[checkpoint.EMPTY_EMBEDDING].float()
    if not any(name.startswith(sd.TEXT_PREFIX) for name in weights):
        default, empty = torch.randn(2, 77, config.diffusion.context_dim, generator=generator_for("text embeddings"))
        return default, empty
    encoder = sd.build_text_encoder(config.text)
    state = encoder.state_dict()
    ldm_names = sd.text_names(state)
    wrong = [ldm for own, ldm in ldm_names.items() if ldm not in weights or weights[ldm].shape != state[own].shape]
    if wrong:
        why = f"lacks {wrong[0]} or has it in another size"
        raise CheckpointError(f"the text encoder to start from {why}; correct the section text of the configuration")
    encoder.load_state_dict({own: weights[ldm] for own, ldm in ldm_names.items()})
    default, empty = (sd.encode_tokens(encoder, sd.tokenize(prompt))[0] for prompt in (sd.DEFAULT_PROMPT, ""))
    return default, empty
